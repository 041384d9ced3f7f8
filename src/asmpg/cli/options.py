"""What may be typed: one class a command, one field an option, whose type says what is allowed."""

import dataclasses
import functools
import inspect
import operator
import types as types_module
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from ..core.checks import field_types, meaning
from ..learners.settings import Preset
from ..training.config import TrainConfig
from ..training.methods import MODELS


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the type of an option says about it beyond its values.

    Attributes:
        text: what it means.
        default: what holds where it is not given, in words.
        metavar: what stands for its value; a positional argument is named so.
        positional: whether it is given without `--`.
        common: whether the short help has it too.
        flag: what is typed, where it is not the name of the field.
        kind: the type that checks its value, where it is not the field's.
        names: what the shell may complete it to: "task", "model", "figure", "suite" or "path".
    """

    text: str
    default: str = ""
    metavar: str = ""
    positional: bool = False
    common: bool = True
    flag: str = ""
    kind: Any = None
    names: str = ""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: of the field.
        flag: what is typed, such as `--model-batch-size`, or what stands for a positional argument, such as `TASK`.
        kind: the type of its value; `bool` alone for what takes none.
        metavar: what stands for its value in the help; empty for what takes none.
        required: whether it has to be given.
        shown: the rest.
        setting: whether it replaces a setting of the preset.
    """

    name: str
    flag: str
    kind: Any
    metavar: str
    required: bool
    shown: Shown
    setting: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return not self.metavar

    @property
    def choices(self) -> list[str]:
        """The values that are allowed, where they can be listed."""
        kinds = [*typing.get_args(self.kind), self.kind]
        listed = [str(value) for kind in kinds if _is_literal(kind) for value in typing.get_args(kind)]
        return listed or (["true", "false"] if self.kind is bool and self.metavar else [])


def _is_literal(kind: object) -> bool:
    return typing.get_origin(kind) is Literal


def _without(kind: object) -> Any:
    """A type without None and without what describes it."""
    if typing.get_origin(kind) is Annotated:
        return _without(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types_module.UnionType):
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return functools.reduce(operator.or_, map(_without, kinds))
    return kind


_METAVARS = {int: "INTEGER", float: "NUMBER", str: "NAME"}


def _metavar(kind: object) -> str:
    """The choices, or what kind of value it is."""
    kind = _without(kind)
    if _is_literal(kind):
        return "|".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types_module.UnionType):
        return "|".join(map(_metavar, typing.get_args(kind)))
    return "true|false" if kind is bool else _METAVARS[kind]


@functools.cache
def options_of(command: type) -> tuple[Option, ...]:
    """The options of a command in the order of its class, settings last."""
    return tuple(_options(command))


def _options(command: type) -> Iterator[Option]:
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        shown = next((part for part in typing.get_args(hint) if isinstance(part, Shown)), None)
        if shown is None:  # the settings, a group of their own
            yield from (dataclasses.replace(one, setting=True) for one in options_of(hint))
            continue
        kind = _without(hint) if shown.kind is None else shown.kind
        switch = field.default is False
        metavar = "" if switch else shown.metavar or _metavar(kind)
        flag = metavar if shown.positional else f"--{shown.flag or field.name.replace('_', '-')}"
        required = shown.positional and field.default is dataclasses.MISSING
        yield Option(field.name, flag, kind, "" if switch else metavar, required, shown)


def _of_config(name: str, default: str, *, common: bool = True, names: str = "", metavar: str = "") -> Shown:
    """An option that is a field of `TrainConfig`, which says what it means and what is allowed."""
    kind = field_types(TrainConfig)[name]
    plain = str if names else kind
    return Shown(meaning(kind), default, metavar, common=common, kind=plain, names=names)


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
            Annotated[_without(kind) | None, Shown(meaning(kind), "the preset's", common=False, kind=kind)],
            dataclasses.field(default=None),
        )
        for name, kind in kinds.items()
    ]


SettingOptions = dataclasses.make_dataclass("SettingOptions", _settings(), frozen=True)
SettingOptions.__doc__ = "Each replaces what the preset says. A method has only some of them."

_JSON = Shown("print one JSON object, and nothing else, on standard output")
_HORIZON = Shown("number of actions in an episode", "100")
_RUN = Shown("the run folder", metavar="RUN", positional=True, names="path")
_TASK = Shown(
    "a built-in task (see asmpg list) or FILE.py:NAME", metavar="TASK", positional=True, names="task"
)
_OWN_TASK = Shown("the task again, where it is one of your own", metavar="FILE.py:NAME", names="path")
_OWN_MODEL = Shown("the model again, where it is one of your own", metavar="FILE.py:NAME", names="path")
_OWN_OPTIMIZER = Shown(
    "the optimiser again, where it is one of your own", metavar="FILE.py:NAME", names="path"
)
_WORKERS = "one a GPU, or one a core"
_SCALE = Shown(
    "smoke (seconds), cpu (reduced, minutes to hours) or paper (the paper's own numbers, for an accelerator)",
    "cpu",
)
Scale = Literal["smoke", "cpu", "paper"]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy and leave a run folder."""

    task: Annotated[
        str | None,
        Shown(
            "a built-in task (see asmpg list), gymnasium:ID, FILE.py:NAME or package.module:NAME",
            metavar="TASK",
            positional=True,
            names="task",
        ),
    ] = None
    horizon: Annotated[int | None, _of_config("horizon", "100, or the task's own")] = None
    model: Annotated[str | None, _of_config("model", "transformer", names="model", metavar="MODEL")] = None
    steps: Annotated[int | None, _of_config("steps", "20000")] = None
    seeds: Annotated[int | None, _of_config("num_seeds", "1")] = None
    seed: Annotated[int | None, _of_config("seed", "0")] = None
    preset: Annotated[Preset | None, Shown("settings of the method: ours, or the paper's", "default")] = None
    out: Annotated[
        str | None,
        Shown("the run folder", "runs/TASK-HORIZON-MODEL-SEEDS", metavar="FOLDER", names="path"),
    ] = None
    resume: Annotated[
        str | None,
        Shown(
            "go on with this run; only --steps may be given too (how many in all), TASK and --model where they are of "
            "your own, and --data where it began with some",
            metavar="RUN",
            names="path",
        ),
    ] = None
    data: Annotated[
        str | None,
        Shown(
            "recorded episodes, .npz, .parquet or the name of a Minari data set, which come before the task's own; "
            "without TASK, the policy is trained on them alone",
            metavar="FILE",
            names="path",
        ),
    ] = None
    loop: Annotated[Literal["open", "closed"] | None, _of_config("loop", "open")] = None
    learned_reward: Annotated[bool, _of_config("learned_reward", "")] = False
    stop_score: Annotated[float | None, _of_config("stop_score", "never")] = None
    dry_run: Annotated[
        bool, Shown("only say how much time and memory the run will take; train for a moment, write nothing")
    ] = False
    json: Annotated[bool, _JSON] = False
    help_all: Annotated[bool, Shown("print every option and setting, with the values of both presets")] = (
        False
    )
    optimum: Annotated[bool, _of_config("optimum", "", common=False)] = False
    record_cosine: Annotated[bool, _of_config("record_cosine", "", common=False)] = False
    chunk_steps: Annotated[int | None, _of_config("chunk_steps", "500", common=False)] = None
    scan_chunk: Annotated[
        int | None,
        _of_config("scan_chunk", "all of up to 512 steps, else the root of their number", common=False),
    ] = None
    precision: Annotated[
        Literal["float32", "float64", "bfloat16-matmul"] | None,
        Shown("of all numbers, or of the factors of matrix products alone", "float32", common=False),
    ] = None
    optimizer: Annotated[
        str | None,
        _of_config(
            "optimizer", "Adam, as the settings say", common=False, names="path", metavar="FILE.py:NAME"
        ),
    ] = None
    task_file: Annotated[
        str | None,
        Shown("the same as TASK", metavar="TASK", flag="task", common=False, names="task"),
    ] = None
    settings: SettingOptions = dataclasses.field(default_factory=SettingOptions)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score the policies of a run folder."""

    run: Annotated[str, _RUN]
    task: Annotated[
        str | None,
        Shown(
            "the task again, where it is one of your own; of a run on recorded episodes alone, any of their sizes",
            metavar="TASK",
            names="task",
        ),
    ] = None
    model: Annotated[str | None, _OWN_MODEL] = None
    optimizer: Annotated[str | None, _OWN_OPTIMIZER] = None
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Optimal:
    """Solve a task itself: its optimum, the best constant action and the mean of random actions."""

    task: Annotated[str, _TASK]
    horizon: Annotated[int | None, _HORIZON] = None
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Measure one of the paper's figures, or its theory, and say which of its claims hold.

    Figures of trained policies (4, 6, 7, 8 and 10 to 14) go on from what their sweep has finished; figures that share a
    table are made together.
    """

    figure: Annotated[
        str,
        Shown(
            "which (see asmpg list --figures); or an experiment of your own, FILE.py:NAME or package.module:NAME",
            metavar="FIGURE",
            positional=True,
            names="figure",
        ),
    ]
    scale: Annotated[Scale, _SCALE] = "cpu"
    preset: Annotated[
        Preset | None, Shown("of trained policies: train under this preset alone", "those of the scale")
    ] = None
    out: Annotated[
        str | None,
        Shown("the folder for tables, figures and verdicts", "figures/FIGURE-SCALE", "FOLDER", names="path"),
    ] = None
    sweep: Annotated[
        str | None,
        Shown(
            "of trained policies: the folder or URL of the sweep, the --out of asmpg sweep",
            "sweeps/SUITE-SCALE",
            "FOLDER",
            names="path",
        ),
    ] = None
    workers: Annotated[
        int | None,
        Shown("of trained policies: items at once; 0 trains in this process, one after another", _WORKERS),
    ] = None
    only_finished: Annotated[bool, Shown("of trained policies: train nothing and take what is finished")] = (
        False
    )
    mix_versions: Annotated[
        bool, Shown("of trained policies: take results of another version of the code too")
    ] = False
    redraw: Annotated[
        bool, Shown("measure nothing; make verdicts and figures again from the tables in --out")
    ] = False
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Measure what a model does to gradients on a task: how far they reach, how they grow, where they point."""

    task: Annotated[str | None, _TASK] = None
    model: Annotated[
        str | None,
        Shown(
            "a dynamics model (see asmpg list), or FILE.py:NAME or package.module:NAME of a backbone, a dynamics "
            "model, a method, or a function that makes one",
            "transformer, or the run's",
            "MODEL",
            names="model",
        ),
    ] = None
    horizons: Annotated[
        str | None,
        Shown(
            "one or more, separated by commas",
            "20,50,100, or a fifth, a half and the whole of the run's",
            "H,H,...",
        ),
    ] = None
    run: Annotated[
        str | None,
        Shown(
            "a run folder, whose trained model is looked at instead of a fresh one; TASK need not be given then",
            "",
            "RUN",
            names="path",
        ),
    ] = None
    data: Annotated[
        str | None,
        Shown("with --run, the recorded episodes again that the run is on alone", "", "FILE", names="path"),
    ] = None
    optimizer: Annotated[str | None, _OWN_OPTIMIZER] = None
    seed: Annotated[
        int | None,
        Shown(
            "of the fresh model and of the random actions; with --run, which of its seeds",
            "0, or the run's first",
        ),
    ] = None
    out: Annotated[
        str | None,
        Shown(
            "the folder for diagnose.json and the figure",
            "figures/diagnose-TASK-MODEL",
            "FOLDER",
            names="path",
        ),
    ] = None
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train every item of a suite, once, on one machine or many; run it again to go on where it stopped."""

    suite: Annotated[
        str,
        Shown(
            "myriad, odt, one_step, learned_reward or pendulum; or a file of your own, FILE.toml or FILE.py",
            metavar="SUITE",
            positional=True,
            names="suite",
        ),
    ]
    scale: Annotated[Scale, _SCALE] = "cpu"
    out: Annotated[
        str | None,
        Shown(
            "the folder or URL of the results; suites and processes may share one",
            "sweeps/SUITE-SCALE",
            "FOLDER",
            names="path",
        ),
    ] = None
    engine: Annotated[
        Literal["local", "ray"], Shown("processes on this machine, or a Ray cluster", "local")
    ] = "local"
    workers: Annotated[
        int | None,
        Shown("local: items at once; 0 trains in this process, one after another", _WORKERS),
    ] = None
    address: Annotated[
        str | None, Shown("ray: the address of the cluster", "$RAY_ADDRESS, or this machine alone", "ADDRESS")
    ] = None
    gpus_per_job: Annotated[float, Shown("ray: the share of a GPU that an item asks for", "0")] = 0.0
    status: Annotated[bool, Shown("only say what is done, running, failed and left")] = False
    dry_run: Annotated[
        bool,
        Shown("only predict how long it will take, from short trials where nothing is finished yet"),
    ] = False
    retry_failed: Annotated[bool, Shown("try again what has failed")] = False
    mix_versions: Annotated[bool, Shown("keep results of another version of the code beside new ones")] = (
        False
    )
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Show:
    """Show a run, finished or not: settings, curve, scores with intervals; or all runs of a folder or a sweep."""

    run: Annotated[
        str,
        Shown(
            "a run folder, a sweep's folder, or one with several",
            metavar="RUN",
            positional=True,
            names="path",
        ),
    ]
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained page about all runs, sweeps and reproduced figures in or below a folder."""

    results: Annotated[str, Shown("the folder", metavar="RESULTS", positional=True, names="path")]
    out: Annotated[str, Shown("the file of the page", "report.html", "FILE", names="path")] = "report.html"
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the policy of a run as one file that runs without asmpg."""

    run: Annotated[str, _RUN]
    format: Annotated[
        Literal["npz", "stablehlo"],
        Shown("arrays for NumPy alone, or a compiled program (jax.export)", "npz"),
    ] = "npz"
    seed: Annotated[
        int | None, Shown("whose policy, one of the run's seeds", "the one with the highest return")
    ] = None
    out: Annotated[str | None, Shown("the file", "RUN/policy.FORMAT", "FILE", names="path")] = None
    task: Annotated[str | None, _OWN_TASK] = None
    model: Annotated[str | None, _OWN_MODEL] = None
    optimizer: Annotated[str | None, _OWN_OPTIMIZER] = None
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fit a dynamics model on recorded episodes: held-out error, reach of its gradient, where there is no data."""

    file: Annotated[
        str,
        Shown(
            ".npz, .parquet, or the name of a Minari data set", metavar="FILE", positional=True, names="path"
        ),
    ]
    model: Annotated[str, Shown("which dynamics model (see asmpg list)", "lstm", "MODEL", names="model")] = (
        "lstm"
    )
    steps: Annotated[int, Shown("number of updates", "2000")] = 2_000
    seed: Annotated[int, Shown("of the fit and of which episodes are held out", "0")] = 0
    horizon: Annotated[int | None, Shown("cuts longer episodes", "that of the longest")] = None
    out: Annotated[
        str | None,
        Shown("a folder for the model, which asmpg diagnose --run takes", "none", "FOLDER", names="path"),
    ] = None
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class List:
    """List the tasks, the backbones, the models and what can be reproduced."""

    tasks: Annotated[bool, Shown("only the names of the tasks")] = False
    backbones: Annotated[bool, Shown("only the names of the backbones")] = False
    models: Annotated[
        bool,
        Shown("only the backbones, with sizes and how far their untrained gradient reaches; takes a minute"),
    ] = False
    figures: Annotated[bool, Shown("only what can be reproduced")] = False
    json: Annotated[bool, _JSON] = False


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script that makes a shell complete commands, options and values: eval "$(asmpg completion bash)"."""

    shell: Annotated[
        Literal["bash", "zsh", "fish"],
        Shown(
            "bash, zsh (eval in the same way) or fish (asmpg completion fish | source)",
            metavar="SHELL",
            positional=True,
        ),
    ]


COMMANDS: dict[str, type] = {
    "list": List,
    "train": Train,
    "show": Show,
    "evaluate": Evaluate,
    "diagnose": Diagnose,
    "sweep": Sweep,
    "report": Report,
    "reproduce": Reproduce,
    "optimal": Optimal,
    "fit": Fit,
    "export": Export,
    "completion": Completion,
}


def description(command: type) -> str:
    """What a command does."""
    return inspect.getdoc(command) or ""
