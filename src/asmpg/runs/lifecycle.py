"""Training from a configuration, and the runs it leaves: `train`, `resume`, `load`."""

import dataclasses
import json
import pathlib
import platform
import warnings
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from typing import Any

import jax

from ..checks import check_integer
from ..config import TrainConfig
from ..environment import AbstractEnvironment
from ..precision import using
from ..stored_config import check_stored, from_json, to_json
from ..training import Trainer
from ..types import UsageError
from . import folder as files
from . import plots
from .checkpoint import Checkpoint, DamagedError
from .folder import RunFolder, RunWarning
from .progress import Progress, ProgressCallback, reporting
from .results import Result
from .session import MakeTrainer, Session


def train(config: TrainConfig, progress: bool | ProgressCallback = False) -> Result:
    """Trains a policy.

    Nothing is written unless `config.out` is given. If that folder holds a run of the same configuration, the run is
    taken up where it stopped, and if it is finished its result is returned.

    Args:
        config: the run.
        progress: True shows a bar, or lines in a pipe, on standard error; a function is told instead.

    Raises:
        UsageError: a value in the configuration is not allowed, or `out` cannot be used. Nothing was written.
        StorageError: the disk refused in the middle of the run.
    """
    config = config.checked()
    with reporting(progress) as report:
        return start(config, report)


def resume(
    path: str | pathlib.Path,
    *,
    steps: int | None = None,
    task: str | AbstractEnvironment | None = None,
    model: str | None = None,
    progress: bool | ProgressCallback = False,
) -> Result:
    """Takes up a run where it stopped, bit for bit as if it never had.

    Args:
        path: the run folder.
        steps: environment steps in all, to extend a run.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: `FILE.py:NAME` again, where the model's backbone is the user's own.
        progress: as for `train`.

    Raises:
        UsageError: this is not a run, or nothing in it can be used.
        StorageError: the disk refused in the middle of the run.
    """
    with reporting(progress) as report:
        return take_up(path, report, steps=steps, task=task, model=model)


def load(
    path: str | pathlib.Path, *, task: str | AbstractEnvironment | None = None, model: str | None = None
) -> Result:
    """Reads a run folder, as of its last whole checkpoint. Executes nothing that is stored in it.

    Args:
        path: the run folder.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: `FILE.py:NAME` again, where the model's backbone is the user's own.

    Raises:
        UsageError: this is not a run, it has no whole checkpoint, or its task or model is missing or another one.
    """
    folder = RunFolder(path)
    stored = _read(folder)
    if not stored.checkpoints:
        raise UsageError(f"run: {path} has no checkpoint yet")
    config = _again(stored.content, folder, task, model)
    # A run that is being written has more lines than its checkpoint.
    if not folder.read(files.METRICS).startswith(_lines(stored.checkpoints[0])):
        _warn(folder, f"{files.METRICS} was cut off or edited; the checkpoint's copy of it is taken")
    with using(config.precision):
        session = Session(config, lambda progress: None, folder)
        _restore(session, stored.checkpoints[0])
        return session.result()


def start(
    config: TrainConfig,
    report: ProgressCallback,
    stop: Callable[[], bool] = lambda: False,
    make_trainer: MakeTrainer = Trainer,
) -> Result:
    """`train` for a checked configuration, with a way to stop: `stop()` is asked after every record."""
    with using(config.precision):
        if config.out is not None:
            return _start_in(RunFolder(config.out), config, report, stop, make_trainer)
        session = Session(config, report, make_trainer=make_trainer)
        session.drive(stop)
        return _report_done(session.result(), session, report)


def _start_in(
    folder: RunFolder,
    config: TrainConfig,
    report: ProgressCallback,
    stop: Callable[[], bool],
    make_trainer: MakeTrainer,
) -> Result:
    """Begins a run in a folder, or goes on with the one that is there."""
    if not folder.is_run():
        folder.check_usable()
        folder.make()
    with folder.writing():
        if not folder.is_run():
            # A run goes on as it began, on whatever device.
            config = dataclasses.replace(config, imagine=config.imagine_here())
            content = to_json(config)
            folder.write_config(content, versions())
            return _drive(Session(config, report, folder, content, make_trainer), folder, report, stop)
        stored = _read(folder)
        if config.imagine == "auto":
            config = dataclasses.replace(config, imagine=stored.content.get("imagine", "auto"))
        content = to_json(config)
        name = _difference(stored.content, content)
        if name is not None:
            was, now = ({**old, **old["settings"]}.get(name) for old in (stored.content, content))
            raise UsageError(
                f"out: {folder.path} is a run with another configuration ({name} is {was!r}, not {now!r}); "
                "give another --out, or go on with that run by --resume"
            )
        return _continue(config, folder, stored, report, stop, make_trainer)


def take_up(
    path: str | pathlib.Path,
    report: ProgressCallback,
    *,
    steps: int | None = None,
    task: str | AbstractEnvironment | None = None,
    model: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """`resume` with a way to stop."""
    folder = RunFolder(path)
    if not folder.is_run():
        raise UsageError(f"resume: {folder.refusal()}")
    with folder.writing():
        stored = _read(folder)
        if steps is not None:
            check_integer("steps", steps, 1)
            stored = dataclasses.replace(stored, content=stored.content | {"steps": steps})
        config = _again(stored.content, folder, task, model)
        with using(config.precision):
            return _continue(config, folder, stored, report, stop)


@dataclasses.dataclass(frozen=True)
class _Stored:
    """What a run folder holds.

    Attributes:
        content: the configuration, from `config.json` or else from the newest checkpoint.
        checkpoints: those that are whole and belong to it, the newest first.
    """

    content: dict[str, Any]
    checkpoints: list[Checkpoint]


def _read(folder: RunFolder) -> _Stored:
    """The configuration and the checkpoints of a run, with a warning about everything that is damaged."""
    if not folder.is_run():
        raise UsageError(f"run: {folder.refusal()}")
    whole, problems = folder.read_checkpoints()
    try:
        content = folder.read_config()
    except DamagedError as error:
        problem = f"{files.CONFIG} {error}"
        if not whole:
            raise UsageError(
                f"run: {folder.path}: {problem}; there is no whole checkpoint to take it from"
            ) from error
        content = whole[0].meta["config"]
        _warn(folder, f"{problem}; it is taken from the checkpoint at step {whole[0].meta['steps']}")
    usable = []
    for saved in whole:
        name = _difference(saved.meta["config"], content, but={"out", "steps", "stop_score", "overrides"})
        if name is None:
            usable.append(saved)
        else:
            problems.append(f"checkpoint {saved.path.name} is of a run with another {name}")
    if problems and not usable:
        raise UsageError(f"run: {folder.path} has no whole checkpoint left: {'; '.join(problems)}")
    for problem in problems:
        _warn(folder, f"{problem}; falling back to the one at step {usable[0].meta['steps']}")
    return _Stored(content, usable)


def _difference(
    one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ("out", "overrides")
) -> str | None:
    """The first entry in which two configurations differ. Settings are compared as resolved, not as overridden."""
    one, other = ({**content, **content.get("settings", {})} for content in (one, other))
    names = [name for name in {**one, **other} if name not in but and name != "settings"]
    return next((name for name in names if one.get(name) != other.get(name)), None)


def _again(
    content: Mapping[str, Any],
    folder: RunFolder,
    task: str | AbstractEnvironment | None,
    model: str | None,
) -> TrainConfig:
    """The configuration of a stored run, checked like any other."""
    try:
        check_stored(content)
    except UsageError as error:
        raise UsageError(f"run: {folder.path}: {error}") from error
    return dataclasses.replace(from_json(content, task, model), out=str(folder.path)).checked()


def _continue(
    config: TrainConfig,
    folder: RunFolder,
    stored: _Stored,
    report: ProgressCallback,
    stop: Callable[[], bool],
    make_trainer: MakeTrainer = Trainer,
) -> Result:
    """Goes on with a run from the checkpoint that fits."""
    _refuse_without_checkpoint(folder, stored)
    session = Session(config, report, folder, stored.content, make_trainer)
    saved = _choose(session, stored.checkpoints, folder)
    if saved is not None:
        _restore(session, saved)
        report(Progress("starting", f"{folder.path} goes on from step {session.steps}"))
    try:
        current = folder.read_config()
    except DamagedError:
        current = None
    if current != stored.content:
        folder.write_config(stored.content, versions())
    folder.go_back(saved, _lines(saved))
    return _drive(session, folder, report, stop)


def _refuse_without_checkpoint(folder: RunFolder, stored: _Stored) -> None:
    """Only a run that was killed before its first checkpoint may begin again: nothing is lost there."""
    num_records = len(files.from_lines(folder.read(files.METRICS)))
    finished = (folder.path / files.SUMMARY).exists()
    if not stored.checkpoints and (num_records > 1 or finished):
        raise UsageError(
            f"run: {folder.path} has {num_records} records but no checkpoint to go on from; "
            "give another --out, or remove the folder"
        )


def _choose(session: Session, checkpoints: list[Checkpoint], folder: RunFolder) -> Checkpoint | None:
    """The newest checkpoint from which the run goes on exactly like one that was meant to be this long all along.

    That is not always the newest: a shorter run ends with a shorter chunk, which a longer one would not have cut off
    there; and a run that was shorter than its warm-up has to begin again.
    """
    if not checkpoints:
        return None
    schedule, newest = session.trainer.schedule, checkpoints[0]
    if newest.meta["episodes"] > schedule.num_episodes:
        raise UsageError(
            f"steps: {folder.path} has done {newest.meta['steps']} already, got {session.config.steps}"
        )
    if newest.meta["warmup_episodes"] != schedule.warmup_episodes:
        _warn(folder, "it was shorter than its warm-up and begins again")
        return None

    def fits(saved: Checkpoint) -> bool:
        since_warmup = saved.meta["episodes"] - schedule.warmup_episodes
        return since_warmup % schedule.chunk_episodes == 0 or saved.meta["episodes"] == schedule.num_episodes

    return next(filter(fits, checkpoints), newest)


def _restore(session: Session, saved: Checkpoint) -> None:
    try:
        session.restore(saved)
    except DamagedError as error:
        raise UsageError(f"run: checkpoint {saved.path} {error}") from error


def _lines(saved: Checkpoint | None) -> bytes:
    """The records up to a checkpoint, of which it has a copy."""
    return b"" if saved is None else saved.arrays[files.METRICS].tobytes()


def _drive(session: Session, folder: RunFolder, report: ProgressCallback, stop: Callable[[], bool]) -> Result:
    """Trains, then writes what a finished run has."""
    anew = not session.finished
    session.drive(stop)
    result = session.result()
    if anew or not (folder.path / files.SUMMARY).exists():
        if result.finished:
            _write_curve(folder, result)
        folder.write(files.SUMMARY, (json.dumps(result.summary(), indent=1, allow_nan=False) + "\n").encode())
    return _report_done(result, session, report, "" if anew else f"{folder.path} was finished already")


def _report_done(result: Result, session: Session, report: ProgressCallback, message: str = "") -> Result:
    score = None if result.scores is None else float(result.scores.mean())
    total, mean = session.total_steps, float(result.returns.mean())
    report(Progress("done", message, result.steps, total, result.seconds, score=score, episode_return=mean))
    return result


def _write_curve(folder: RunFolder, result: Result) -> None:
    """The learning curve, or a line that says why there is none."""
    config, known = result.config, result.reference
    title = f"{result.env.name}, H = {result.env.horizon}, {config.model_name}"
    references = {} if known is None else {"random": known.random_return, "optimum": known.optimal_return}
    try:
        picture = plots.learning_curve(title, result.metrics, references)
    except ImportError:
        _warn(folder, f"no {files.CURVE}, which needs matplotlib: pip install 'asmpg[plot]'")
        return
    folder.write(files.CURVE, picture)


def versions() -> dict[str, str]:
    """Of what a run was made with."""
    try:
        own = metadata.version("asmpg")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return {"asmpg": own, "jax": jax.__version__, "python": platform.python_version()}


def _warn(folder: RunFolder, message: str) -> None:
    warnings.warn(f"{folder.path}: {message}", RunWarning, stacklevel=2)
