"""A fitted dynamics model in a folder: its arrays, and what it was fitted on and how. Nothing in it is ever run."""

import dataclasses
import json
import pathlib

import equinox as eqx
import jax
import msgspec
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...core import files
from ...core.checks import check_choice
from ...core.files import DamagedError
from ...core.types import one_line, UsageError
from ...models import AbstractDynamicsModel
from ...tasks.recording import Recording
from ..fit import first_model, Fit, MadeBy, model_learner
from ..methods import MODELS
from . import checkpoint


FACTS, ARRAYS = "fit.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted model as it was read back.

    Attributes:
        made_by: model, preset, overrides and seed.
        recording: what is known of all episodes, those held out among them.
        model: as it was at the end.
        before: as it was at the beginning, but for its statistics.
    """

    made_by: MadeBy
    recording: Recording
    model: AbstractDynamicsModel
    before: AbstractDynamicsModel


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What `fit.json` has to have; there is more in it, for a reader."""

    made_by: MadeBy
    recording: Recording


def is_fit(folder: str | pathlib.Path) -> bool:
    """Whether a folder holds a fitted model."""
    return (pathlib.Path(folder) / FACTS).is_file()


def save_fit(folder: str | pathlib.Path, fit: Fit) -> None:
    """Writes a fitted model into a folder, which is made if need be.

    Raises:
        UsageError: the folder cannot be made.
        StorageError: the disk refused.
    """
    path = pathlib.Path(folder)
    files.make_folder("out", path)
    facts = {"made_by": dataclasses.asdict(fit.made_by), "recording": dataclasses.asdict(fit.recording)}
    files.write(path / ARRAYS, save(checkpoint.flatten(eqx.filter(fit.model, eqx.is_array))))
    text = json.dumps(facts | fit.summary(), indent=1, allow_nan=False)
    files.write(path / FACTS, f"{text}\n".encode())


def load_fit(folder: str | pathlib.Path) -> Fitted:
    """Reads what `save_fit` wrote.

    Raises:
        UsageError: it is missing, damaged, or of another version.
    """
    path = pathlib.Path(folder)
    try:
        facts = msgspec.json.decode(files.read(path / FACTS), type=_Facts)
        check_choice("model", facts.made_by.model, MODELS)  # a file of the user's own would be run
        learner = model_learner(facts.recording, facts.made_by)
        before = first_model(learner, facts.made_by)
        arrays, static = eqx.partition(before, eqx.is_array)
        shapes = jax.eval_shape(lambda: arrays)
        model = eqx.combine(checkpoint.unflatten(shapes, load(files.read(path / ARRAYS))), static)
    except (OSError, msgspec.MsgspecError, SafetensorError, DamagedError) as error:
        raise UsageError(f"run: {path} holds no whole fitted model: {one_line(error)}") from error
    return Fitted(facts.made_by, facts.recording, model, before)
