"""What a run folder holds: its configuration and those of its checkpoints that are whole."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from ...core.files import DamagedError
from ...core.types import UsageError
from ...tasks.data import Episodes
from ...tasks.world import World
from ..config import TrainConfig
from ..methods import ModelLike
from ..own import Optimizer
from ..stored_config import check_stored, from_json
from . import folder as files
from .checkpoint import Checkpoint
from .folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a run folder holds.

    Attributes:
        content: the configuration, from `config.json` or else from the newest checkpoint.
        checkpoints: those that are whole and belong to it, the newest first.
    """

    content: dict[str, Any]
    checkpoints: list[Checkpoint]


def read(folder: RunFolder) -> Stored:
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
        folder.warn(f"{problem}; it is taken from the checkpoint at step {whole[0].meta['steps']}")
    usable = []
    for saved in whole:
        name = difference(saved.meta["config"], content, but={"out", "steps", "stop_score", "overrides"})
        if name is None:
            usable.append(saved)
        else:
            problems[saved.path.name] = f"is of a run with another {name}"
    if problems and not usable:
        listed = "; ".join(f"checkpoint {name} {problem}" for name, problem in problems.items())
        raise UsageError(f"run: {folder.path} has no whole checkpoint left: {listed}")
    for name, problem in problems.items():
        newest = usable[0].meta["steps"]
        rest = "falling back to" if int(name) > newest else "it is not needed, the newest is"
        folder.warn(f"checkpoint {name} {problem}; {rest} the one at step {newest}")
    return Stored(content, usable)


def difference(
    one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str] = ("out", "overrides")
) -> str | None:
    """The first entry in which two configurations differ. Settings are compared as resolved, not as overridden."""
    one, other = ({**content, **content.get("settings", {})} for content in (one, other))
    names = [name for name in {**one, **other} if name not in but and name != "settings"]
    return next((name for name in names if one.get(name) != other.get(name)), None)


def configuration(
    content: Mapping[str, Any],
    folder: RunFolder,
    task: str | World | None,
    model: ModelLike | None,
    optimizer: str | Optimizer | None,
    data: Episodes | str | pathlib.Path | None = None,
) -> TrainConfig:
    """The configuration of a stored run, checked like any other."""
    try:
        check_stored(content)
    except UsageError as error:
        raise UsageError(f"run: {folder.path}: {error}") from error
    config = dataclasses.replace(from_json(content, task, model, optimizer, data), out=str(folder.path))
    try:
        return config.checked()
    except UsageError as error:
        # What is not allowed was read, not typed.
        raise UsageError(f"run: {folder.path}: config: {error}") from error
