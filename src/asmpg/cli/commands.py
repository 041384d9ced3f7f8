"""What the commands do."""

import dataclasses
import gc
import hashlib
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core import user_code as user_files
from ..core.files import DamagedError
from ..core.types import UsageError
from ..tasks import files as task_files
from ..tasks import make, TASKS
from ..tasks.data_files import load_episodes
from ..tasks.environment import AbstractEnvironment
from ..tasks.files import find_task
from ..tasks.optimum import best_constant_return, optimal, random_return, score
from ..tasks.validation import validate
from ..training.config import TrainConfig
from ..training.runs.folder import RunFolder
from ..training.runs.forecast import forecast
from ..training.runs.lifecycle import load, settle_model, start, take_up
from ..training.runs.progress import duration, Progress, ProgressCallback, terminal
from ..training.runs.results import Result
from ..training.runs.scores import finite, scores_as_json
from .help import everything
from .machine import INTERRUPTED, Interrupts, keep_compiled, use_cores
from .options import Evaluate, Optimal, Train
from .output import print_json, print_next


# Of a default run folder, in bytes. File systems allow 255.
_LONGEST_NAME = 150


def run_train(options: Train) -> int:
    """`asmpg train`."""
    if options.help_all:
        _print(everything(options.horizon or TrainConfig.horizon).rstrip())
        return 0
    task = _only_one(options.task, options.task_file)
    if options.resume is not None:
        _refuse_with_resume(options)
        folder = RunFolder(options.resume)
        stored = _stored(folder)
        seeds = stored.get("num_seeds")
        _prepare(seeds if isinstance(seeds, int) else 1)
        own = task if task is not None and task_files.is_task_file(task) else None
        if own is None and task not in (None, stored.get("task", task)):
            raise UsageError(
                f"task: the run is of {stored['task']}; with --resume none need be given but FILE.py:NAME"
            )

        def go(report: ProgressCallback, stop: Callable[[], bool]) -> Result:
            given: dict[str, Any] = {"task": own, "model": options.model, "optimizer": options.optimizer}
            given["data"] = options.data
            return take_up(folder.path, report, steps=options.steps, **given, stop=stop)

    else:
        if task is None and options.data is None:
            raise UsageError(
                f"task: is missing; it must be one of {', '.join(TASKS)}, or FILE.py:NAME; recorded episodes alone "
                "are given by --data"
            )
        _prepare(options.seeds or 1)
        config = train_config(task, options)
        if options.dry_run:
            return _print_forecast(config, options.json)
        folder = RunFolder(config.out or "")

        def go(report: ProgressCallback, stop: Callable[[], bool]) -> Result:
            return start(config, report, stop)

    how = how_to_resume(folder.path, task, options.model, options.optimizer, options.data)
    result = run_interruptibly(go, how)
    if options.json:
        print_json(result.summary())
    if not result.finished:
        sys.stderr.write(f"asmpg: stopped at step {result.steps}; {how}\n")
        return INTERRUPTED
    if not options.json:
        _print(_report(result))
        print_next(["show", str(folder.path)], _diagnosis(result, task, options.model, str(folder.path)))
    for problem in result.problems():
        sys.stderr.write(f"asmpg: {problem}\n")
    return 1 if result.learned_nothing else 0


def _diagnosis(result: Result, task: str | None, model: str | None, path: str) -> list[str]:
    """What looks at the gradients of a trained model, or a page where there is none or no derivative of the task."""
    if result.model is None or not isinstance(result.env, AbstractEnvironment):
        return ["report", path]
    again = ["--model", model] if model is not None and user_files.is_file(model) else []
    return ["diagnose", task or result.env.name, *again, "--run", path]


def _print_forecast(config: TrainConfig, as_json: bool) -> int:
    """`asmpg train --dry-run`."""
    with terminal() as shown:
        shown(Progress("starting", f"compiling {config.model_name} and training for a moment"))
        expected = forecast(config)
    if as_json:
        print_json({"task": config.world().name, "model": config.model_name, **expected.as_json()})
        return 0
    seeds = "1 seed" if config.num_seeds == 1 else f"{config.num_seeds} seeds"
    memory = "not known" if expected.memory_bytes is None else f"{expected.memory_bytes / 2**20:,.0f} MiB"
    _print(
        f"{expected.num_chunks:,} chunks of {expected.chunk_steps:,} steps for {seeds}: "
        f"{duration(expected.chunk_seconds)} a chunk, {duration(expected.compile_seconds)} to compile, "
        f"about {duration(expected.seconds)} in all\n"
        f"memory: {memory} for the arrays and the scratch space of the loop"
    )
    return 0


def _only_one(positional: str | None, named: str | None) -> str | None:
    if positional is not None and named is not None:
        raise UsageError("task: give TASK or --task, not both")
    return named if positional is None else positional


def _refuse_with_resume(options: Train) -> None:
    """A run that goes on keeps its configuration; only code of the user's own has to be given again."""
    allowed = ["task", "task_file", "resume", "steps", "json", "settings", "data"]
    allowed += ["optimizer"]
    allowed += ["model"] * (options.model is not None and user_files.is_file(options.model))
    for part, names in (
        (options, dataclasses.fields(options)),
        (options.settings, dataclasses.fields(options.settings)),
    ):
        for field in names:
            if field.name not in allowed and getattr(part, field.name) not in (None, False):
                raise UsageError(
                    f"{field.name}: cannot be given with --resume, which goes on with the run as it is"
                )


def _stored(folder: RunFolder) -> dict[str, Any]:
    """The configuration of a run, as far as it can be read."""
    try:
        return folder.read_config()
    except DamagedError:
        return {}


def _prepare(num_seeds: int) -> None:
    use_cores(max(1, num_seeds))
    keep_compiled()


def train_config(task: str | None, options: Train) -> TrainConfig:
    """The configuration that was typed, checked, with a run folder."""
    names = ("horizon", "model", "steps", "seed", "preset", "out", "loop", "chunk_steps", "stop_score")
    names = (*names, "observation_context", "scan_chunk", "precision", "optimizer")
    values: dict[str, Any] = {name: getattr(options, name) for name in names} | {"num_seeds": options.seeds}
    values = {name: value for name, value in values.items() if value is not None}
    overrides = {name: value for name, value in vars(options.settings).items() if value is not None}
    if task is not None and (task_files.is_task_file(task) or task_files.is_gymnasium(task)):
        values["horizon"] = task_files.load_world(task, options.horizon).horizon
    flags = {name: getattr(options, name) for name in ("learned_reward", "record_cosine", "optimum")}
    if options.data is not None:
        values["data"] = load_episodes(options.data, horizon=options.horizon)
    config = TrainConfig(task, overrides=overrides, **flags, **values)
    config = settle_model(config, lambda told: _tell(told.message)).checked()
    return config if config.out is not None else dataclasses.replace(config, out=str(default_folder(config)))


def _tell(message: str) -> None:
    sys.stderr.write(f"asmpg: {message}\n")


def default_folder(config: TrainConfig) -> pathlib.Path:
    """A readable name from what distinguishes a run; not from its number of steps, so that it can be extended."""
    name = re.sub(r"[^\w.-]+", "_", config.world().name)
    last = config.seed + config.num_seeds - 1
    seeds = f"seed{config.seed}" if config.num_seeds == 1 else f"seeds{config.seed}-{last}"
    model = re.sub(r"[^\w.-]+", "_", config.model_name)
    parts = [name, f"H{config.horizon}", model, seeds]
    parts += [config.preset] * (config.preset != "default") + [config.loop] * (config.loop != "open")
    parts += ["learned-reward"] * config.learned_reward
    parts += [] if config.optimizer is None else [str(config.optimizer).rpartition(":")[2]]
    data = config.resolve().data
    if data is not None and config.task is not None:
        parts += [re.sub(r"[^\w.-]+", "_", f"data={data.name}")]
    settings = [f"{setting}={value}" for setting, value in sorted(config.overrides.items())]
    if len("-".join(parts + settings).encode()) > _LONGEST_NAME:
        settings = [hashlib.sha256("-".join(settings).encode()).hexdigest()[:12]]
    return pathlib.Path("runs") / "-".join(parts + settings)


def how_to_resume(
    path: pathlib.Path,
    task: str | None = None,
    model: str | None = None,
    optimizer: str | None = None,
    data: str | None = None,
) -> str:
    """The line that goes on with a run; task, model, optimiser and data as typed."""
    words = ["asmpg", "train"]
    if task is not None and user_files.is_file(task):
        words += [task]
    if model is not None and user_files.is_file(model):
        words += ["--model", model]
    if optimizer is not None:
        words += ["--optimizer", optimizer]
    if data is not None:
        words += ["--data", data]
    return f"go on with: {shlex.join([*words, '--resume', str(path)])}"


def run_interruptibly(
    go: Callable[[ProgressCallback, Callable[[], bool]], Result],
    how_to_go_on: str,
    label: str = "",
) -> Result:
    """Trains with a bar, or lines, on standard error, and stops after a chunk when a signal asks for it.

    Args:
        go: trains; it is given the function to report to and the one that says whether to stop.
        how_to_go_on: the line that says so, for one who ends it at once.
        label: before the bar.
    """
    with terminal(label=label) as shown, Interrupts(lambda: how_to_go_on) as interrupts:

        def report(progress: Progress) -> None:
            interrupts.patient = progress.stage == "training"
            if interrupts.patient and not gc.isenabled():
                gc.enable()  # the programs are compiled, see `asmpg.__main__`
            shown(progress)

        return go(report, lambda: interrupts.requested)


def run_evaluate(options: Evaluate) -> int:
    """`asmpg evaluate`."""
    keep_compiled()
    alone = _stored(RunFolder(options.run)).get("task_source", {}).get("kind") == "recording"
    task = None if alone else options.task
    run = load(options.run, task=task, model=options.model, optimizer=options.optimizer)
    elsewhere = find_task(options.task, run.env.horizon) if alone and options.task is not None else None
    returns = run.evaluate(elsewhere)
    scores = None if run.reference is None else run.reference.score(returns)
    if isinstance(elsewhere, AbstractEnvironment) and elsewhere.identity() is not None:
        scores = np.array([score(elsewhere, float(value)) for value in returns])
    run = dataclasses.replace(run, returns=returns, scores=scores, env=elsewhere or run.env)
    if options.json:
        print_json(run.summary() | scores_as_json(scores, returns))
    else:
        _print(_report(run))
        print_next(["export", options.run])
    return 0


def run_optimal(options: Optimal) -> int:
    """`asmpg optimal`."""
    keep_compiled()
    env = _task(options.task, options.horizon)
    begin = time.monotonic()
    solution = optimal(env)
    content = {
        "task": env.name,
        "horizon": env.horizon,
        "episode_return": finite(solution.episode_return),
        "random_return": finite(random_return(env)),
        "best_constant_return": finite(best_constant_return(env)),
        "residual": finite(solution.residual),
        "starts_agree": solution.starts_agree,
        "replay_error": finite(solution.replay_error),
        "message": solution.message,
        "seconds": round(time.monotonic() - begin, 3),
    }
    if options.json:
        print_json(content)
        return 0
    _print(f"{env.name}, H = {env.horizon}")
    for label, name in {
        "optimum": "episode_return",
        "best constant": "best_constant_return",
        "random": "random_return",
    }.items():
        _print(f"  {label:14} {content[name]:.8g}")
    _print(f"  {'residual':14} {solution.residual:.2g}\n  {solution.message}")
    print_next(["train", options.task, "--horizon", str(env.horizon), "--model", "lstm"])
    return 0


def _task(task: str, horizon: int | None) -> AbstractEnvironment:
    if not task_files.is_task_file(task):
        return make(task, 100 if horizon is None else horizon)
    env = task_files.load_task(task, horizon)
    validate(env)
    return env


def _report(result: Result) -> str:
    """A few lines about a run."""
    seeds = "1 seed" if result.config.num_seeds == 1 else f"{result.config.num_seeds} seeds"
    head = f"{result.env.name}, H = {result.env.horizon}, {result.config.model_name}, {seeds}"
    lines = [f"{head}: {result.steps} steps each in {duration(result.seconds)}"]
    if result.finding is not None:
        lines.append(f"  {result.finding}")
    if result.scores is not None and result.reference is not None:
        values = " ".join(f"{score:.4f}" for score in result.scores)
        lines.append(f"  score   {values}  (mean {result.scores.mean():.4f})")
    values = " ".join(f"{value:.6g}" for value in result.returns)
    lines.append(f"  return  {values}  (mean {result.returns.mean():.6g})")
    if result.reference is not None:
        lines[-1] += (
            f", optimum {result.reference.optimal_return:.6g}, random {result.reference.random_return:.6g}"
        )
    return "\n".join([*lines, f"  folder  {result.path}"])


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
