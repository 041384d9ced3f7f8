"""What a run is: `TrainConfig`, and what its names stand for once it is checked, `Resolved`."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from ..core.checks import (
    about,
    check,
    Count,
    did_you_mean,
    field_types,
    MAX_COUNT,
    MAX_SEED,
    MAX_SEEDS,
    Number,
)
from ..core.names import ModelName, TaskName
from ..core.precision import Precision, resolve_precision
from ..core.types import Given, UsageError
from ..gradients.imagination import Loop
from ..learners.base import AbstractLearner
from ..learners.optimisation import OwnOptimiser
from ..learners.settings import AbstractSettings, Preset, Settings
from ..models import files as model_files
from ..tasks.context import MAX_CONTEXT, recorded_with_context, with_context
from ..tasks.data import Episodes
from ..tasks.environment import AbstractEnvironment
from ..tasks.files import find_task
from ..tasks.optimum import warn_of_gradient, warn_of_reward
from ..tasks.recording import Recording
from ..tasks.validation import check_horizon, validate
from ..tasks.world import inside, scored_task, World
from .methods import find_method, Method, ModelLike, MODELS, Options, window_of
from .own import label_of, load_optimizer, Optimizer, own_optimiser
from .recorded import as_seen, check_fits_task, find_data, recording_of, settle_alone
from .worlds import settle


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A complete description of a run, except for the code of a task or a backbone of the user's own."""

    task: Annotated[
        TaskName | str | World | None,
        about(
            "a built-in task (see asmpg list), gymnasium:ID, FILE.py:NAME, or an environment; none where there are "
            "recorded episodes alone"
        ),
    ] = None
    horizon: Annotated[int, about("number of actions in an episode; an environment has its own")] = 100
    model: Annotated[
        ModelName | ModelLike,
        about(
            "which method (see asmpg list); a backbone's name means an action-sequence model; FILE.py:NAME or "
            "package.module:NAME is a backbone of your own, behind history- and actions- too, a dynamics model or a "
            "learner; auto fits a one-step and an action-sequence model on the warm-up and takes the better one"
        ),
    ] = "lstm"
    steps: Annotated[
        Count, about("environment steps per seed, the warm-up included, rounded up to whole episodes")
    ] = 20_000
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED), about("the first seed")] = 0
    num_seeds: Annotated[
        int, Meta(ge=1, le=MAX_SEEDS), about("number of independent runs, with seeds SEED, SEED + 1, ...")
    ] = 1
    preset: Annotated[Given[Preset], about("default (ours) or paper; what it says depends on the method")] = (
        "default"
    )
    out: Annotated[str | pathlib.Path | None, about("the run folder; nothing is written without one")] = None
    loop: Annotated[
        Loop, about("which policy gradient: states as constants (open) or differentiated too (closed)")
    ] = "open"
    record_cosine: Annotated[
        bool, about("record the cosine between the model's policy gradient and the true one")
    ] = False
    learned_reward: Annotated[bool, about("learn the reward too instead of knowing it (Appendix C)")] = False
    observation_context: Annotated[
        int,
        Meta(ge=0, le=MAX_CONTEXT),
        about(
            "last observations and actions, so many of each, that networks see besides the newest observation: what is "
            "hidden can be inferred from them"
        ),
    ] = 0
    chunk_steps: Annotated[Count, about("environment steps between two records and checkpoints")] = 500
    stop_score: Annotated[
        Number | None, about("stop once every seed held this score for three records in a row")
    ] = None
    optimum: Annotated[
        bool,
        about(
            "solve a task of your own for its optimum too, so that scores are known; a built-in one always is solved"
        ),
    ] = False
    scan_chunk: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_COUNT)] | None,
        about(
            "steps between two carries that a derivative taken step by step keeps, fewer take less memory; by default "
            "all of up to 512 steps, else about the square root of the horizon"
        ),
    ] = None
    precision: Annotated[
        Precision,
        about(
            "of all numbers, or with bfloat16-matmul of the factors of matrix products alone, which a CPU does not "
            "have; auto is float64 where JAX has it enabled, else float32"
        ),
    ] = "auto"
    optimizer: Annotated[
        str | Optimizer | None,
        about(
            "in place of Adam, clipping and decay, for all networks: an Optax transformation, or a function of "
            "(settings) or (settings, part) that makes one, part being model, reward, value, policy or critic; an "
            "object, FILE.py:NAME or package.module:NAME"
        ),
    ] = None
    overrides: Annotated[dict[str, Any], about("settings that replace the preset's, by name")] = (
        dataclasses.field(default_factory=dict)
    )
    data: Annotated[
        Episodes | Recording | str | pathlib.Path | None,
        about(
            "recorded episodes, or the file of them: with a task, they come before its own in the replay and in the "
            "statistics; without one, they are all there is"
        ),
    ] = None

    @property
    def model_name(self) -> str:
        """The model without a folder of the user's."""
        if isinstance(self.model, str):
            return model_files.short_name(self.model)
        return self.model.name if isinstance(self.model, Method) else label_of(self.model)

    def resolve(self) -> "Resolved":
        """What the names stand for, once everything about the configuration has been checked.

        Raises:
            UsageError: one line that names the first field with a value that is not allowed.
        """
        return vars(self).get(_RESOLVED) or _resolve(self)

    def __getstate__(self) -> dict[str, Any]:
        """What another process is sent: not what was resolved, which it finds again and which has local functions."""
        return {name: value for name, value in vars(self).items() if name != _RESOLVED}

    def checked(self) -> "TrainConfig":
        """The same with the task's own horizon and the precision filled in; it is resolved already.

        Raises:
            UsageError: as for `resolve`.
        """
        return self.resolve().config

    def environment(self) -> AbstractEnvironment:
        """The task, where it has to be one that is written in JAX; see `resolve`."""
        return inside(self.world())

    def world(self) -> World | Recording:
        """The task or the simulator, or what is known of recorded episodes alone; see `resolve`."""
        return self.resolve().env

    def settings(self) -> AbstractSettings:
        """The method's preset at this horizon with the overrides applied; see `resolve`."""
        return self.resolve().settings

    def learner(self) -> AbstractLearner:
        """The method, ready to train; see `resolve`."""
        return self.resolve().learner


# Where a checked configuration keeps what it stands for.
_RESOLVED = "_resolved"
# The fields whose type says all that is allowed. The others name things, and are checked where those are looked up.
CHECKED: Mapping[str, Any] = {
    name: kind
    for name, kind in field_types(TrainConfig).items()
    if name not in ("task", "horizon", "model", "preset", "out", "optimizer", "overrides", "data")
}
# What only means something to a method that differentiates through a model.
_OF_MODELS = tuple(field.name for field in dataclasses.fields(Options) if field.name != "own_optimiser")


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a configuration stands for: nothing in here is a name that has to be looked up.

    Attributes:
        config: checked, with the task's horizon and the precision filled in.
        task: what was given; of recorded episodes alone, what is known of them.
        env: the same with its context, if there is one.
        method: what `config.model` stands for.
        settings: its preset at this horizon, with the overrides applied.
        data: recorded episodes as networks see them; of a run that is only read back, what is known of them.
        own_optimiser: what `config.optimizer` stands for.
    """

    config: TrainConfig
    task: World | Recording
    env: World | Recording
    method: Method
    settings: AbstractSettings
    data: Episodes | Recording | None
    own_optimiser: OwnOptimiser | None = None

    @functools.cached_property
    def learner(self) -> AbstractLearner:
        """The method, ready to train. One that has to know the optimum solves the task here."""
        of_models = {name: getattr(self.config, name) for name in _OF_MODELS}
        options = Options(**of_models, own_optimiser=self.own_optimiser)
        return self.method.learner(self.env, self.settings, options)


def _resolve(config: TrainConfig) -> Resolved:
    _check_names(config)
    data = find_data(config.data)
    task = _task(config, data)
    env = _with_context(config, task)
    values = {name: check(name, getattr(config, name), kind) for name, kind in CHECKED.items()}
    values["precision"] = resolve_precision(values["precision"])
    method = find_method(config.model)
    settings = with_overrides(method, config.preset, env.horizon, config.overrides)
    settings = _in_windows(config, env, method, settings)
    if isinstance(env, Recording):
        settings = settle_alone(config, env, method, settings)
    if data is not None and not isinstance(env, Recording):
        check_fits_task(data, env, settings)
    method.check(env, settings)
    overrides = {name: getattr(settings, name) for name in config.overrides}
    values |= {"horizon": check_horizon(env.horizon), "out": None if config.out is None else str(config.out)}
    values["data"] = data
    config = dataclasses.replace(config, overrides=overrides, **values)
    _check_together(config, env, method, settings)
    if isinstance(env, Recording):
        config = dataclasses.replace(config, learned_reward=True)
    elif not isinstance(env, AbstractEnvironment):
        config = settle(config, env, method, settings)
    elif env.identity() is None:
        _validate(config, env, method)
    elif config.optimum:
        config = dataclasses.replace(config, optimum=False)
    seen = None if data is None else as_seen(data, env)
    resolved = Resolved(config, task, env, method, settings, seen, _own_optimiser(config, method, settings))
    vars(config)[_RESOLVED] = resolved
    return resolved


def _validate(config: TrainConfig, env: AbstractEnvironment, method: Method) -> None:
    """Tries a task of the user's own, and the derivatives that the method will take of it."""
    tried = validate(env)
    if tried is None:
        return
    known = method.imagines and not config.learned_reward
    if config.record_cosine or (known and method.name == "simulator"):
        warn_of_gradient(env)
    elif known:
        warn_of_reward(env, *tried)


def _own_optimiser(config: TrainConfig, method: Method, settings: AbstractSettings) -> OwnOptimiser | None:
    if config.optimizer is None:
        return None
    if method.source is not None and not method.imagines:
        raise UsageError(
            f"optimizer: {method.name} is a learner of your own, which brings its optimisers itself"
        )
    return own_optimiser(config.optimizer, settings)


def _check_names(config: TrainConfig) -> None:
    """The types of the fields that name something."""
    if isinstance(config.task, type):
        name = config.task.__name__
        raise UsageError(f"task: {name} is a class, give an instance: {name}()")
    if config.task is None and config.data is None:
        raise UsageError("task: give one, or data: recorded episodes, or both")
    if not isinstance(config.task, str | World | None):
        raise UsageError(f"task: must be a name, FILE.py:NAME or an environment, got {config.task!r}")
    if not isinstance(config.preset, str):
        raise UsageError(f"preset: must be a name, got {config.preset!r}")
    if config.out is not None and (not isinstance(config.out, str | pathlib.Path) or not str(config.out)):
        raise UsageError(f"out: must be a folder, or None for no folder, got {config.out!r}")
    if config.optimizer is not None:
        load_optimizer(config.optimizer)
    if not isinstance(config.overrides, dict):
        raise UsageError(f"overrides: must be a dict of settings by name, got {config.overrides!r}")


def _task(config: TrainConfig, data: Episodes | Recording | None) -> World | Recording:
    if config.task is None:
        assert data is not None
        return recording_of(data)
    return find_task(config.task, config.horizon) if isinstance(config.task, str) else config.task


def _with_context(config: TrainConfig, task: World | Recording) -> World | Recording:
    length = check("observation_context", config.observation_context, CHECKED["observation_context"])
    return recorded_with_context(task, length) if isinstance(task, Recording) else with_context(task, length)


def with_overrides(
    method: Method, preset: str, horizon: int, overrides: Mapping[str, Any]
) -> AbstractSettings:
    """The method's preset, with settings replaced."""
    if method.given is not None and overrides:
        raise UsageError(
            f"overrides: {method.name} is a learner that has its settings already, got {overrides}"
        )
    known = field_types(method.settings)
    for name, value in overrides.items():
        if name not in known:
            elsewhere = any(name in field_types(other.settings) for other in MODELS.values())
            what = "has no meaning for" if elsewhere else "is given, which is no setting of"
            raise UsageError(
                f"{name}: {value!r} {what} {method.name}; it has {', '.join(known)}{did_you_mean(name, known)}"
            )
    settings = method.preset(preset, horizon).replace(**overrides)
    if settings.problem is not None:
        raise UsageError(settings.problem)
    return settings


def _in_windows(
    config: TrainConfig, env: World | Recording, method: Method, settings: AbstractSettings
) -> AbstractSettings:
    """What the preset `default` says where windows of an episode are imagined; other settings as they are."""
    if config.preset != "default" or method.given is not None or not isinstance(settings, Settings):
        return settings
    if window_of(env, settings, config.learned_reward) is None:
        return settings
    return settings.in_windows().replace(**config.overrides)


def _check_together(
    config: TrainConfig,
    env: World | Recording,
    method: Method,
    settings: AbstractSettings,
) -> None:
    """What the type of one field alone cannot say."""
    if not method.imagines:
        _refuse_what_needs_a_model(config)
    if config.steps < env.horizon:
        raise UsageError(f"steps: must be at least one episode, {env.horizon} steps, got {config.steps}")
    last = config.seed + config.num_seeds - 1
    if last > MAX_SEED:
        raise UsageError(f"seed: the last one must be at most {MAX_SEED}, got {last}")
    has_optimum = scored_task(env, config.optimum) is not None
    if config.stop_score is not None and not has_optimum:
        raise UsageError("stop_score: a task of your own has no score unless optimum is set too")
    if settings.needs_optimum and not has_optimum:
        raise UsageError(
            "return_target: of a task of your own it must be a number, unless optimum is set too"
        )


def _refuse_what_needs_a_model(config: TrainConfig) -> None:
    for field in dataclasses.fields(config):
        if field.name in _OF_MODELS and getattr(config, field.name) != field.default:
            value = getattr(config, field.name)
            raise UsageError(
                f"{field.name}: {value!r} has no meaning for {config.model}, which imagines nothing"
            )
