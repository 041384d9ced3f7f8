"""What may be typed: one class a command, one field an option."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from ..settings import Settings


def _option(default: Any, name: str | None = None) -> Any:
    """How an option is shown that is None unless it was given."""
    return tyro.conf.arg(name=name, help_behavior_hint=f"(default: {default})")


# One option for every setting of a preset; None leaves the preset's value.
SettingOptions = dataclasses.make_dataclass(
    "SettingOptions",
    [
        (
            field.name,
            # A truth value is typed out, since leaving it to the preset is a third possibility.
            Annotated[field.type | None, _option("the preset's"), tyro.conf.FlagConversionOff],
            dataclasses.field(default=None),
        )
        for field in dataclasses.fields(Settings)
    ],
    frozen=True,
)
SettingOptions.__doc__ = (Settings.__doc__ or "").replace(
    "What a preset fixes.", "Each replaces what the preset says."
)


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a policy and leave a run folder.

    Attributes:
        task: a built-in task (see asmpg list) or FILE.py:NAME.
        horizon: number of actions in an episode.
        model: which dynamics model; a backbone's name, or FILE.py:NAME for one of your own, means an action-sequence
            model (see asmpg list).
        steps: environment steps per seed, rounded up to whole episodes; with --resume, how many in all.
        seeds: number of independent runs, with seeds SEED, SEED + 1, ...
        seed: the first seed.
        preset: default (ours) or paper.
        out: the run folder.
        resume: go on with this run; only --steps may be given too, and TASK and --model where they are FILE.py:NAME.
        loop: which policy gradient: states as constants (open) or differentiated too (closed).
        record_cosine: record the cosine between the model's policy gradient and the true one.
        chunk_steps: environment steps between two records and checkpoints.
        stop_score: stop once every seed held this score for three records in a row.
        optimum: solve a task of your own for its optimum too, so that scores are known.
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
    record_cosine: bool = False
    chunk_steps: Annotated[int | None, _option("500")] = None
    stop_score: Annotated[float | None, _option("never")] = None
    optimum: bool = False
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
class List:
    """List the tasks, the backbones and the models.

    Attributes:
        tasks: only the names of the tasks.
        backbones: only the names of the backbones.
        models: only the models, with the size of each backbone and how far its untrained gradient reaches.
        json: print one JSON object, and nothing else, on standard output.
    """

    tasks: bool = False
    backbones: bool = False
    models: bool = False
    json: bool = False


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Optimal, tyro.conf.subcommand("optimal")]
)


def parse(arguments: list[str]) -> Train | Evaluate | Optimal | List:
    """What was typed.

    Raises:
        SystemExit: with code 2 for a mistake, which the parser has described, or 0 after the help.
    """
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    return tyro.cli(Command, prog="asmpg", args=arguments, config=config)
