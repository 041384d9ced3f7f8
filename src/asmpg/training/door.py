"""`asmpg.train` for a notebook: a task and a few words, or objects of the user's own."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

from ..core.checks import did_you_mean
from ..core.types import UsageError
from ..learners.base import AbstractLearner
from ..learners.settings import AbstractSettings
from ..tasks.data import Episodes
from ..tasks.world import World
from .callbacks import Callback
from .choice import AUTO, ONE_STEP
from .config import TrainConfig
from .methods import find_method, Method, own_learner
from .offline import train_offline
from .own import label_of
from .runs.lifecycle import train as train_config


if TYPE_CHECKING:
    from .runs.progress import ProgressCallback
    from .runs.results import Result


def train(
    task: TrainConfig | str | World | None = None,
    progress: "bool | ProgressCallback" = False,
    *,
    data: Episodes | None = None,
    settings: AbstractSettings | None = None,
    learner: Any = None,
    callbacks: Sequence[Callback] = (),
    **fields: Any,
) -> "Result":
    """Trains a policy.

    Nothing is written unless `out` is given. If that folder holds a run of the same configuration, the run is taken up
    where it stopped, and if it is finished its result is returned.

    Args:
        task: a built-in task, `FILE.py:NAME`, an environment or a simulator, or a whole `TrainConfig`.
        progress: True shows a bar, or lines in a pipe, on standard error; a function is told instead.
        data: in place of a task, recorded episodes to train on alone: see `train_offline`, which takes the fields.
        settings: instead of a preset's, such as `asmpg.Settings.default(50).replace(entropy=0.01)`.
        learner: a method of your own in place of `model`: an instance, a class, or a function of (env, settings).
        callbacks: are told of every record, and may stop the run.
        **fields: of `TrainConfig`, such as `horizon=50, model="lstm", steps=5_000, out="runs/mine"`.

    Raises:
        UsageError: a value is not allowed, or `out` cannot be used. Nothing was written.
        StorageError: the disk refused in the middle of the run.
    """
    if data is not None:
        return _on_data(task, data, (settings, learner, callbacks), fields)
    if task is None:
        raise UsageError("train: give a task, or data=asmpg.load_episodes(FILE)")
    config = _configuration(task, fields)
    if learner is not None:
        if config.model != TrainConfig.model:
            raise UsageError("learner: give a learner or a model, not both")
        method = own_learner(learner, label_of(learner)) if not isinstance(learner, Method) else learner
        config = dataclasses.replace(config, model=method)
    if settings is not None:
        config = _with_settings(config, settings)
    check_callbacks(callbacks)
    return train_config(config, progress, callbacks=callbacks)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raises a UsageError unless they are instances: a class in their place is an easy mistake."""
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise UsageError(f"callbacks: must be instances of asmpg.Callback, got {label_of(callback)}")


def _on_data(task: Any, data: Episodes, others: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """Offline training, which has no world and no folder yet."""
    if task is not None or any(others):
        raise UsageError(
            "data: episodes recorded before are trained on alone: without a task, settings, learner or callbacks"
        )
    known = [name for name in inspect.signature(train_offline).parameters if name != "data"]
    for name in fields:
        if name not in known:
            raise UsageError(f"train: with data alone there is no {name!r}{did_you_mean(name, known)}")
    return train_offline(data, **fields)


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
    horizon = config.horizon if isinstance(config.task, str) else config.task.horizon
    preset = method.preset(config.preset, horizon)
    overrides = {
        name: value for name, value in dataclasses.asdict(settings).items() if value != getattr(preset, name)
    }
    return dataclasses.replace(config, overrides=overrides)
