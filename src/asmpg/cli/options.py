"""What may be typed: one class a command, one field an option."""

import contextlib
import dataclasses
import functools
import io
import operator
import re
import types as types_module
import typing
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from ..core.checks import did_you_mean, field_types, meaning
from ..core.types import UsageError
from ..training.methods import MODELS


def _option(default: Any, help: str | None = None) -> Any:
    """How an option is shown that is None unless it was given."""
    return tyro.conf.arg(help=help, help_behavior_hint=f"(default: {default})")


def _settings() -> list[tuple[str, Any, Any]]:
    """One option for every setting of any method; None leaves the preset's value.

    Where two methods have a setting of the same name, it is of the same type and means the same.
    """
    kinds = {
        name: kind
        for method in reversed(MODELS.values())
        for name, kind in field_types(method.settings).items()
    }
    return [
        (
            name,
            # A truth value is typed out, since leaving it to the preset is a third possibility.
            Annotated[
                _plain(kind) | None, _option("the preset's", meaning(kind)), tyro.conf.FlagConversionOff
            ],
            dataclasses.field(default=None),
        )
        for name, kind in kinds.items()
    ]


def _plain(kind: Any) -> Any:
    """A type without what describes it."""
    if typing.get_origin(kind) is Annotated:
        return _plain(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types_module.UnionType):
        return functools.reduce(operator.or_, map(_plain, typing.get_args(kind)))
    return kind


SettingOptions = dataclasses.make_dataclass("SettingOptions", _settings(), frozen=True)
SettingOptions.__doc__ = "Each replaces what the preset says. A method has only some of them."


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy and leave a run folder.

    Attributes:
        task: a built-in task (see asmpg list) or FILE.py:NAME.
        horizon: number of actions in an episode.
        model: which method (see asmpg list); a backbone's name means an action-sequence model; FILE.py:NAME is a
            backbone of your own, behind history- and actions- too.
        steps: environment steps per seed, rounded up to whole episodes; with --resume, how many in all.
        seeds: number of independent runs, with seeds SEED, SEED + 1, ...
        seed: the first seed.
        preset: default (ours) or paper.
        out: the run folder.
        resume: go on with this run; only --steps may be given too, and TASK and --model where they are FILE.py:NAME.
        loop: which policy gradient: states as constants (open) or differentiated too (closed).
        learned_reward: learn the reward too instead of knowing it.
        record_cosine: record the cosine between the model's policy gradient and the true one.
        chunk_steps: environment steps between two records and checkpoints.
        stop_score: stop once every seed held this score for three records in a row.
        optimum: solve a task of your own for its optimum too, so that scores are known.
        imagine: how imagined states are found: step by step (sequential), as a fixed point of whole sequences
            (parallel), or sequential on a CPU and, for a backbone that can, parallel on an accelerator (auto).
        scan_chunk: steps between two carries that a derivative taken step by step keeps; fewer take less memory.
        precision: of all numbers, or of the factors of matrix products alone.
        dry_run: only say how much time and memory the run will take; train for a moment, write nothing.
        json: print one JSON object, and nothing else, on standard output.
        task_file: the same as TASK, for a task of your own.
    """

    task: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK", help_behavior_hint="")
    ] = None
    horizon: Annotated[int | None, _option("100")] = None
    model: Annotated[str | None, _option("transformer")] = None
    steps: Annotated[int | None, _option("20000")] = None
    seeds: Annotated[int | None, _option("1")] = None
    seed: Annotated[int | None, _option("0")] = None
    preset: Annotated[str | None, _option("default")] = None
    out: Annotated[str | None, _option("runs/TASK-HORIZON-MODEL-SEEDS")] = None
    resume: Annotated[str | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    loop: Annotated[Literal["open", "closed"] | None, _option("open")] = None
    learned_reward: bool = False
    record_cosine: bool = False
    chunk_steps: Annotated[int | None, _option("500")] = None
    stop_score: Annotated[float | None, _option("never")] = None
    optimum: bool = False
    imagine: Annotated[Literal["auto", "sequential", "parallel"] | None, _option("auto")] = None
    scan_chunk: Annotated[int | None, _option("all of up to 512 steps, else the root of their number")] = None
    precision: Annotated[Literal["float32", "float64", "bfloat16-matmul"] | None, _option("float32")] = None
    dry_run: bool = False
    json: bool = False
    task_file: Annotated[
        str | None, tyro.conf.arg(name="task", metavar="FILE.py:NAME", help_behavior_hint="")
    ] = None
    settings: SettingOptions = dataclasses.field(default_factory=SettingOptions)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score the policies of a run folder.

    Attributes:
        run: the run folder.
        task: the task again, where it is one of your own.
        model: the backbone again, where it is one of your own.
        json: print one JSON object, and nothing else, on standard output.
    """

    run: Annotated[str, tyro.conf.Positional]
    task: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    model: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Optimal:
    """Solve a task itself: its optimum, the best constant action and the mean of random actions.

    Attributes:
        task: a built-in task (see asmpg list) or FILE.py:NAME.
        horizon: number of actions in an episode.
        json: print one JSON object, and nothing else, on standard output.
    """

    task: Annotated[str, tyro.conf.Positional]
    horizon: Annotated[int | None, _option("100")] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Measure one of the paper's figures, or its theory, and say which of its claims hold.

    Figures of trained policies (4, 6, 7, 8 and 10 to 14) go on from what their sweep has finished; figures that share a
    table are made together.

    Attributes:
        figure: which (see asmpg list --figures); or an experiment of your own, FILE.py:NAME or package.module:NAME.
        scale: smoke (seconds), cpu (reduced, minutes to hours) or paper (the paper's own numbers, for an accelerator).
        preset: of trained policies, train under this preset alone: default or paper.
        out: the folder for tables, figures and verdicts.
        sweep: of trained policies, the folder or URL of the sweep; the --out of asmpg sweep.
        workers: of trained policies, items at once; 0 runs them in this process, one after another.
        only_finished: of trained policies, train nothing and take what is finished.
        mix_versions: of trained policies, take results of another version of the code too.
        redraw: measure nothing; make verdicts and figures again from the tables in --out.
        json: print one JSON object, and nothing else, on standard output.
    """

    figure: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FIGURE")]
    scale: str = "cpu"
    preset: Annotated[str | None, _option("those of the scale")] = None
    out: Annotated[str | None, _option("figures/FIGURE-SCALE")] = None
    sweep: Annotated[str | None, _option("sweeps/SUITE-SCALE")] = None
    workers: Annotated[int | None, _option("one a GPU, or one a core")] = None
    only_finished: bool = False
    mix_versions: bool = False
    redraw: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Measure what a model does to gradients on a task: how far they reach, how they grow, where they point.

    Attributes:
        task: a built-in task (see asmpg list) or FILE.py:NAME.
        model: which dynamics model (see asmpg list), or FILE.py:NAME of a backbone or of what makes a model.
        horizons: one or more, separated by commas.
        run: a run folder, whose trained model is looked at instead of a fresh one.
        seed: of the fresh model and of the random actions; with --run, which of its seeds.
        out: the folder for diagnose.json and the figure.
        json: print one JSON object, and nothing else, on standard output.
    """

    task: Annotated[str, tyro.conf.Positional]
    model: Annotated[str | None, _option("transformer, or the run's")] = None
    horizons: Annotated[str | None, _option("20,50,100, or a fifth, a half and the whole of the run's")] = (
        None
    )
    run: Annotated[str | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    seed: Annotated[int | None, _option("0, or the run's first")] = None
    out: Annotated[str | None, _option("figures/diagnose-TASK-MODEL")] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train every item of a suite, once, on one machine or many; run it again to go on where it stopped.

    Attributes:
        suite: myriad, odt, one_step, learned_reward or pendulum; or a file of your own, FILE.toml or FILE.py.
        scale: smoke (seconds), cpu (reduced, hours) or paper (the paper's own numbers, for accelerators).
        out: the folder or URL of the results; suites and processes may share one.
        engine: local (processes on this machine) or ray (a Ray cluster).
        workers: with the engine local, items at once; 0 runs them in this process, one after another.
        address: with the engine ray, the address of the cluster.
        gpus_per_job: with the engine ray, the share of a GPU that an item asks for.
        status: only say what is done, running, failed and left.
        dry_run: only predict how long it will take, from short trials where nothing is finished yet.
        retry_failed: try again what has failed.
        mix_versions: keep results of another version of the code beside new ones.
        json: print one JSON object, and nothing else, on standard output.
    """

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    scale: str = "cpu"
    out: Annotated[str | None, _option("sweeps/SUITE-SCALE")] = None
    engine: str = "local"
    workers: Annotated[int | None, _option("one a GPU, or one a core")] = None
    address: Annotated[str | None, _option("$RAY_ADDRESS, or this machine alone")] = None
    gpus_per_job: float = 0.0
    status: bool = False
    dry_run: bool = False
    retry_failed: bool = False
    mix_versions: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained page about everything that asmpg reproduce left in or below a folder.

    Attributes:
        results: the folder.
        out: the file of the page.
        json: print one JSON object, and nothing else, on standard output.
    """

    results: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])] = "report.html"
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the policy of a run as one file that runs without asmpg.

    Attributes:
        run: the run folder.
        format: npz (arrays for NumPy alone) or stablehlo (a compiled program, jax.export).
        seed: whose policy, one of the run's seeds.
        out: the file.
        task: the task again, where it is one of your own.
        model: the backbone again, where it is one of your own.
        json: print one JSON object, and nothing else, on standard output.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    format: str = "npz"
    seed: Annotated[int | None, _option("the one with the highest return")] = None
    out: Annotated[str | None, _option("RUN/policy.FORMAT")] = None
    task: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    model: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fit a dynamics model on recorded episodes: held-out error, reach of its gradient, where there is no data.

    Attributes:
        file: .npz, .parquet, or the name of a Minari data set.
        model: which dynamics model (see asmpg list).
        steps: number of updates.
        seed: of the fit and of which episodes are held out.
        horizon: cuts longer episodes.
        json: print one JSON object, and nothing else, on standard output.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    model: str = "lstm"
    steps: int = 2_000
    seed: int = 0
    horizon: Annotated[int | None, _option("that of the longest")] = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class List:
    """List the tasks, the backbones, the models and what can be reproduced.

    Attributes:
        tasks: only the names of the tasks.
        backbones: only the names of the backbones.
        models: only the models, with the size of each backbone and how far its untrained gradient reaches.
        figures: only what can be reproduced.
        json: print one JSON object, and nothing else, on standard output.
    """

    tasks: bool = False
    backbones: bool = False
    models: bool = False
    figures: bool = False
    json: bool = False


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Optimal, tyro.conf.subcommand("optimal")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
)


_RULES = ConstructorRegistry()


@_RULES.primitive_rule
def _without_none(info: PrimitiveTypeInfo) -> Any:
    """An option that is None unless it was given is read as if it had no None, which would be listed as a choice."""
    kinds = typing.get_args(info.type)
    if info.type_origin not in (typing.Union, types_module.UnionType) or type(None) not in kinds:
        return None
    kind = functools.reduce(operator.or_, (kind for kind in kinds if kind is not type(None)))
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return spec
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
    )


def parse(arguments: list[str]) -> Command:
    """What was typed.

    Raises:
        UsageError: what it is that cannot be read, on one line.
        SystemExit: with code 0, after the help.
    """
    _refuse_odd_digits(arguments)
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    said = io.StringIO()
    try:
        with _RULES, contextlib.redirect_stderr(said):
            return tyro.cli(Command, prog="asmpg", args=arguments, config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(said.getvalue(), arguments)) from None


# How the parser says what is wrong, and how we do: what, and what is allowed.
_SAID = (
    (
        r"Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)",
        r"\1: must be an integer, got \2",
    ),
    (r"Error parsing (--\S+): could not convert string to float: (.*)", r"\1: must be a number, got \2"),
    (r"Error parsing (\S+): (.*)", r"\1: \2"),
    (r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)\.", r"\2: \1 is not one of \3"),
    (r"Missing value for argument '(\S+?)'.*", r"\1: needs a value"),
    (r"Unrecognized options: (-[^,]*)(,.*)?", r"\1: there is no such option"),
)


def _one_line(said: str, arguments: list[str]) -> str:
    """The parser's box as one line, with the nearest thing that could have been meant."""
    lines = [line.strip("│ \t") for line in said.splitlines() if line.startswith("│")]
    rules = [index for index, line in enumerate(lines) if line and set(line) == {"─"}]
    message = " ".join(lines[: rules[0] if rules else None]) or " ".join(said.split())
    if message.startswith("Unrecognized options") and arguments[0] not in _COMMAND_NAMES:
        known = ", ".join(_COMMAND_NAMES)
        question = did_you_mean(arguments[0], _COMMAND_NAMES)
        return f"{arguments[0]}: there is no such command, it must be one of {known}{question}"
    for pattern, ours in _SAID:
        if re.fullmatch(pattern, message):
            message = re.sub(pattern, ours, message)
            break
    option = next((line.split()[0] for line in lines if line.startswith("--")), None)
    return message + (f"; did you mean {option}?" if "no such option" in message and option else "")


_COMMAND_NAMES: list[str] = [typing.get_args(part)[1].name for part in typing.get_args(Command)]
# Options whose value may look like a number without being one.
_PATHS = ("", "--out", "--resume", "--run", "--sweep", "--task", "--address", "-o", "report", "evaluate")


def _refuse_odd_digits(arguments: list[str]) -> None:
    """Python reads digits of any script, and underscores between them; a typed number is of plain digits."""
    for option, text in zip(["", *arguments], [*arguments, ""], strict=True):
        name, equals, value = text.partition("=") if text.startswith("--") else (option, "=", text)
        number = re.fullmatch(r"[-+]?[\d_]*\d[\d_.eE+-]*", value)
        if equals and number and ("_" in value or not value.isascii()) and name not in _PATHS:
            raise UsageError(f"{name}: must be a number in plain digits, got {value!r}")
