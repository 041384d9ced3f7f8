"""What may be typed: one class a command, one field an option, whose type says what is allowed."""

import dataclasses
import inspect
from typing import Any, Literal

from ..core.checks import field_types, meaning
from ..learners.settings import Preset
from ..training.config import TrainConfig
from ..training.methods import MODELS
from .declare import argument, option, plain


def of_config(name: str, default: str | None = None, **shown: Any) -> Any:
    """An option that is a field of `TrainConfig`, which says what it means, what is allowed and its default."""
    kind = field_types(TrainConfig)[name]
    words = str(getattr(TrainConfig, name)) if default is None else default
    return option(meaning(kind), words, kind=str if shown.get("names") else kind, **shown)


def switch_of_config(name: str, *, common: bool = True) -> Any:
    """A switch that is a field of `TrainConfig`."""
    return switch(meaning(field_types(TrainConfig)[name]), common=common)


def switch(text: str, *, common: bool = True) -> Any:
    """An option that takes no value."""
    return option(text, value=False, common=common)


def folder(text: str, default: str = "", *, metavar: str = "FOLDER") -> Any:
    """An option that names a folder or a file."""
    return option(text, default, metavar=metavar, names="path")


def again(what: str) -> Any:
    """A task, a model or an optimiser of one's own, which no run folder holds."""
    return folder(f"the {what} again, where it is one of your own", metavar="FILE.py:NAME")


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
        (name, plain(kind) | None, option(meaning(kind), "the preset's", common=False, kind=kind))
        for name, kind in kinds.items()
    ]


SettingOptions = dataclasses.make_dataclass("SettingOptions", _settings(), frozen=True)
SettingOptions.__doc__ = "Each replaces what the preset says. A method has only some of them."

Scale = Literal["smoke", "cpu", "paper"]
_WORKERS = "one a GPU, or one a core"


def _json() -> Any:
    return switch("print one JSON object, and nothing else, on standard output")


def _run() -> Any:
    return argument("RUN", "the run folder", names="path")


def _task(**value: Any) -> Any:
    return argument("TASK", "a built-in task (see asmpg list) or FILE.py:NAME", names="task", **value)


def _scale() -> Any:
    text = "smoke (seconds), cpu (reduced, minutes to hours) or paper (the paper's own numbers, for an accelerator)"
    return option(text, "cpu", value="cpu")


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy and leave a run folder."""

    task: str | None = argument(
        "TASK",
        "a built-in task (see asmpg list), gymnasium:ID, FILE.py:NAME or package.module:NAME",
        names="task",
        value=None,
    )
    horizon: int | None = of_config("horizon", "100, or the task's own")
    model: str | None = of_config("model", names="model", metavar="MODEL")
    steps: int | None = of_config("steps")
    seeds: int | None = of_config("num_seeds")
    seed: int | None = of_config("seed")
    preset: Preset | None = option("settings of the method: ours, or the paper's", "default")
    out: str | None = folder("the run folder", "runs/TASK-HORIZON-MODEL-SEEDS")
    resume: str | None = folder(
        "go on with this run; only --steps may be given too (how many in all), TASK and --model where they are of "
        "your own, and --data where it began with some",
        metavar="RUN",
    )
    data: str | None = folder(
        "recorded episodes, .npz, .parquet or the name of a Minari data set, which come before the task's own; "
        "without TASK, the policy is trained on them alone",
        metavar="FILE",
    )
    loop: Literal["open", "closed"] | None = of_config("loop")
    learned_reward: bool = switch_of_config("learned_reward")
    stop_score: float | None = of_config("stop_score", "never")
    dry_run: bool = switch(
        "only say how much time and memory the run will take; train for a moment, write nothing"
    )
    json: bool = _json()
    help_all: bool = switch("print every option and setting, with the values of both presets")
    observation_context: int | None = of_config("observation_context", common=False)
    optimum: bool = switch_of_config("optimum", common=False)
    record_cosine: bool = switch_of_config("record_cosine", common=False)
    chunk_steps: int | None = of_config("chunk_steps", common=False)
    scan_chunk: int | None = of_config(
        "scan_chunk", "all of up to 512 steps, else the root of their number", common=False
    )
    precision: Literal["float32", "float64", "bfloat16-matmul"] | None = option(
        "of all numbers, or of the factors of matrix products alone", "float32", common=False
    )
    optimizer: str | None = of_config(
        "optimizer", "Adam, as the settings say", common=False, names="path", metavar="FILE.py:NAME"
    )
    task_file: str | None = option(
        "the same as TASK", metavar="TASK", flag="task", common=False, names="task"
    )
    settings: SettingOptions = dataclasses.field(default_factory=SettingOptions)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score the policies of a run folder."""

    run: str = _run()
    task: str | None = option(
        "the task again, where it is one of your own; of a run on recorded episodes alone, any of their sizes",
        metavar="TASK",
        names="task",
    )
    model: str | None = again("model")
    optimizer: str | None = again("optimiser")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Optimal:
    """Solve a task itself: its optimum, the best constant action and the mean of random actions."""

    task: str = _task()
    horizon: int | None = option("number of actions in an episode", "100")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Measure one of the paper's figures, or its theory, and say which of its claims hold.

    Figures of trained policies (4, 6, 7, 8 and 10 to 14) go on from what their sweep has finished; figures that share a
    table are made together.
    """

    figure: str = argument(
        "FIGURE",
        "which (see asmpg list --figures); or an experiment of your own, FILE.py:NAME or package.module:NAME",
        names="figure",
    )
    scale: Scale = _scale()
    preset: Preset | None = option("of trained policies: train under this preset alone", "those of the scale")
    out: str | None = folder("the folder for tables, figures and verdicts", "figures/FIGURE-SCALE")
    sweep: str | None = folder(
        "of trained policies: the folder or URL of the sweep, the --out of asmpg sweep", "sweeps/SUITE-SCALE"
    )
    workers: int | None = option(
        "of trained policies: items at once; 0 trains in this process, one after another", _WORKERS
    )
    earlier: str | None = folder(
        "of trained policies: a folder of earlier results of this figure at this scale, such as another machine's; "
        "what is finished there is not trained again"
    )
    only_finished: bool = switch("of trained policies: train nothing and take what is finished")
    mix_versions: bool = switch("of trained policies: take results of another version of the code too")
    redraw: bool = switch("measure nothing; make verdicts and figures again from the tables in --out")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Measure what a model does to gradients on a task: how far they reach, how they grow, where they point."""

    task: str | None = _task(value=None)
    model: str | None = option(
        "a dynamics model (see asmpg list), or FILE.py:NAME or package.module:NAME of a backbone, a dynamics "
        "model, a method, or a function that makes one",
        "lstm, or the run's",
        metavar="MODEL",
        names="model",
    )
    horizons: str | None = option(
        "one or more, separated by commas",
        "20,50,100, or a fifth, a half and the whole of the run's",
        metavar="H,H,...",
    )
    run: str | None = folder(
        "a run folder, whose trained model is looked at instead of a fresh one; TASK need not be given then",
        metavar="RUN",
    )
    data: str | None = folder(
        "with --run, the recorded episodes again that the run is on alone", metavar="FILE"
    )
    optimizer: str | None = again("optimiser")
    seed: int | None = option(
        "of the fresh model and of the random actions; with --run, which of its seeds",
        "0, or the run's first",
    )
    out: str | None = folder("the folder for diagnose.json and the figure", "figures/diagnose-TASK-MODEL")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train every item of a suite, once, on one machine or many; run it again to go on where it stopped."""

    suite: str = argument(
        "SUITE",
        "myriad, odt, one_step, learned_reward or pendulum; or a file of your own, FILE.toml or FILE.py",
        names="suite",
    )
    scale: Scale = _scale()
    out: str | None = folder(
        "the folder or URL of the results; suites and processes may share one", "sweeps/SUITE-SCALE"
    )
    engine: Literal["local", "ray"] = option(
        "processes on this machine, or a Ray cluster", "local", value="local"
    )
    workers: int | None = option(
        "local: items at once; 0 trains in this process, one after another", _WORKERS
    )
    address: str | None = option(
        "ray: the address of the cluster", "$RAY_ADDRESS, or this machine alone", metavar="ADDRESS"
    )
    gpus_per_job: float = option("ray: the share of a GPU that an item asks for", "0", value=0.0)
    status: bool = switch("only say what is done, running, failed and left")
    dry_run: bool = switch(
        "only predict how long it will take, from short trials where nothing is finished yet"
    )
    retry_failed: bool = switch("try again what has failed")
    mix_versions: bool = switch("keep results of another version of the code beside new ones")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Show:
    """Show a run, finished or not: settings, curve, scores with intervals; or all runs of a folder or a sweep."""

    run: str = argument("RUN", "a run folder, a sweep's folder, or one with several", names="path")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained page about all runs, sweeps and reproduced figures in or below a folder."""

    results: str = argument("RESULTS", "the folder", names="path")
    out: str = option(
        "the file of the page", "report.html", value="report.html", metavar="FILE", names="path"
    )
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the policy of a run as one file that runs without asmpg."""

    run: str = _run()
    format: Literal["npz", "stablehlo"] = option(
        "arrays for NumPy alone, or a compiled program (jax.export)", "npz", value="npz"
    )
    seed: int | None = option("whose policy, one of the run's seeds", "the one with the highest return")
    out: str | None = folder("the file", "RUN/policy.FORMAT", metavar="FILE")
    task: str | None = again("task")
    model: str | None = again("model")
    optimizer: str | None = again("optimiser")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Fit:
    """Fit a dynamics model on recorded episodes: held-out error, reach of its gradient, where there is no data."""

    file: str = argument("FILE", ".npz, .parquet, or the name of a Minari data set", names="path")
    model: str = option(
        "which dynamics model (see asmpg list)", "lstm", value="lstm", metavar="MODEL", names="model"
    )
    steps: int = option("number of updates", "2000", value=2_000)
    seed: int = option("of the fit and of which episodes are held out", "0", value=0)
    horizon: int | None = option("cuts longer episodes", "that of the longest")
    out: str | None = folder("a folder for the model, which asmpg diagnose --run takes", "none")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class List:
    """List the tasks, the backbones, the models and what can be reproduced."""

    tasks: bool = switch("only the names of the tasks")
    backbones: bool = switch("only the names of the backbones")
    models: bool = switch(
        "only the backbones, with sizes and how far their untrained gradient reaches; takes a minute"
    )
    figures: bool = switch("only what can be reproduced")
    json: bool = _json()


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script that makes a shell complete commands, options and values: eval "$(asmpg completion bash)"."""

    shell: Literal["bash", "zsh", "fish"] = argument(
        "SHELL", "bash, zsh (eval in the same way) or fish (asmpg completion fish | source)"
    )


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
