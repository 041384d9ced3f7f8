"""`asmpg.train` for a notebook: a task and a few words, or objects of the user's own."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING, TypedDict, Unpack

from ..core.checks import did_you_mean
from ..core.names import ModelName, TaskName
from ..core.precision import Precision
from ..core.types import UsageError
from ..gradients.imagination import Loop
from ..learners.base import AbstractLearner
from ..learners.settings import AbstractSettings, Preset
from ..tasks.data import Episodes
from ..tasks.world import World
from .callbacks import Callback
from .choice import AUTO, ONE_STEP
from .config import TrainConfig
from .methods import find_method, Method, ModelLike, own_learner
from .own import label_of, Optimizer
from .runs.lifecycle import train as train_config


if TYPE_CHECKING:
    from .runs.progress import ProgressCallback
    from .runs.results import Result


class Fields(TypedDict, total=False):
    """The fields of `TrainConfig` as keywords, which an editor completes: all but the task and the data."""

    horizon: int
    model: ModelName | ModelLike
    steps: int
    seed: int
    num_seeds: int
    preset: Preset
    out: str | pathlib.Path | None
    loop: Loop
    record_cosine: bool
    learned_reward: bool
    observation_context: int
    chunk_steps: int
    stop_score: float | None
    optimum: bool
    scan_chunk: int | None
    precision: Precision
    optimizer: str | Optimizer | None
    overrides: dict[str, Any]


def train(
    task: "TrainConfig | TaskName | str | World | None" = None,
    progress: "bool | ProgressCallback" = False,
    *,
    data: Episodes | str | pathlib.Path | None = None,
    settings: AbstractSettings | None = None,
    learner: object = None,
    callbacks: Sequence[Callback] = (),
    **fields: Unpack[Fields],
) -> "Result[Any, Any]":
    """Trains a policy.

    Nothing is written unless `out` is given. If that folder holds a run of the same configuration, the run is taken up
    where it stopped, and if it is finished its result is returned.

    Args:
        task: a built-in task, `FILE.py:NAME`, an environment or a simulator, or a whole `TrainConfig`.
        progress: True shows a bar, or lines in a pipe, on standard error; a function is told instead.
        data: recorded episodes, or the file of them. With a task, they come before its own in the replay and in the
            statistics; without one, the policy is trained on them alone and kept near them, and what it is worth is
            estimated by a model and a reward that are fitted to episodes held out.
        settings: instead of a preset's, such as `asmpg.Settings.default(50).replace(entropy=0.01)`.
        learner: a method of your own in place of `model`: an instance, a class, or a function of (env, settings).
        callbacks: are told of every record, and may stop the run.
        **fields: of `TrainConfig`, such as `horizon=50, model="lstm", steps=5_000, out="runs/mine"`.

    Raises:
        UsageError: a value is not allowed, or `out` cannot be used. Nothing was written.
        StorageError: the disk refused in the middle of the run.
    """
    config = _configuration(task, {**fields, **({} if data is None else {"data": data})})
    if learner is not None:
        if "model" in fields or config.model != TrainConfig.model:
            raise UsageError("learner: give a learner or a model, not both")
        method = own_learner(learner, label_of(learner)) if not isinstance(learner, Method) else learner
        config = dataclasses.replace(config, model=method)
    if settings is not None:
        config = _with_settings(config, settings)
    check_callbacks(callbacks)
    return train_config(config, progress, callbacks=callbacks)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises a UsageError unless they are instances: a class in their place is an easy mistake."""
    listed = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    for callback in listed:
        if not isinstance(callback, Callback):
            raise UsageError(f"callbacks: must be instances of asmpg.Callback, got {label_of(callback)}")


def _configuration(task: Any, fields: dict[str, Any]) -> TrainConfig:
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in fields:
        if name not in known:
            raise UsageError(f"train: there is no {name!r}{did_you_mean(name, known)}")
    if isinstance(task, TrainConfig):
        return dataclasses.replace(task, **fields) if fields else task
    if isinstance(task, AbstractLearner | Method):
        raise UsageError(f"train: the task comes first, got {label_of(task)}")
    return TrainConfig(task, **fields)


def _with_settings(config: TrainConfig, settings: AbstractSettings) -> TrainConfig:
    """The settings as what they change in the preset."""
    method = find_method(ONE_STEP if config.model == AUTO else config.model)
    if type(settings) is not method.settings:
        wanted, got = method.settings.__name__, type(settings).__name__
        raise UsageError(f"settings: of {method.name} must be {wanted}, got {got}")
    if config.overrides:
        raise UsageError("settings: give settings or overrides, not both")
    horizon = config.horizon if isinstance(config.task, str) else config.world().horizon
    preset = method.preset(config.preset, horizon)
    overrides = {
        name: value for name, value in dataclasses.asdict(settings).items() if value != getattr(preset, name)
    }
    return dataclasses.replace(config, overrides=overrides)
