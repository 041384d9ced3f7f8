"""What a run is: `TrainConfig`, its checks, its form in a file, and the learner it describes."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from . import model_files, task_files, user_files
from .backbones import BACKBONES
from .baselines import decision_transformer, sac
from .environment import AbstractEnvironment, check_horizon, validate
from .envs import make, TASKS
from .imagination import check_parallel, Imagine, Loop
from .learner import AbstractLearner, ModelBasedLearner
from .models import ActionSequenceModel, HistoryModel, OneStepModel, Simulator
from .policies import ActionSequence, TanhGaussianPolicy
from .precision import Precision, resolve_precision
from .settings import AbstractSettings, PRESETS, Settings
from .types import UsageError


@dataclasses.dataclass(frozen=True)
class Method:
    """What a `--model` stands for.

    Attributes:
        settings: the class of its settings.
        presets: from a preset's name to what makes its settings for a horizon.
        learner: builds the learner from (config, env, settings).
    """

    settings: type[AbstractSettings]
    presets: Mapping[str, Callable[[int], AbstractSettings]]
    learner: Callable[..., AbstractLearner]


def _model_table() -> dict[str, Any]:
    """Every model-based method, with what builds its dynamics model from (env, settings)."""
    table: dict[str, Any] = {}
    for name in BACKBONES:
        table[name] = lambda env, settings, name=name: functools.partial(
            ActionSequenceModel, env, name, dropout=settings.dropout
        )
    for name in BACKBONES:
        table[f"history-{name}"] = lambda env, settings, name=name: functools.partial(
            HistoryModel, env, name, dropout=settings.dropout, cut_state_gradient=settings.cut_state_gradient
        )
        table[f"actions-{name}"] = table[name]
    table["actions"] = table["transformer"]
    table["one-step"] = lambda env, settings: functools.partial(OneStepModel, env)
    table["simulator"] = lambda env, settings: lambda *, key: Simulator(env)
    return table


def _model_based(make_model: Callable[..., Any], make_policy: Callable[..., Any]) -> Method:
    """Algorithm 1 with one kind of dynamics model and one of policy."""

    def learner(config: "TrainConfig", env: AbstractEnvironment, settings: Settings) -> AbstractLearner:
        return ModelBasedLearner(
            env,
            settings,
            make_model(env, settings),
            config.loop,
            config.record_cosine,
            config.learned_reward,
            make_policy,
            config.imagine,
            config.scan_chunk,
        )

    return Method(Settings, PRESETS, learner)


def _soft_actor_critic(
    config: "TrainConfig", env: AbstractEnvironment, settings: sac.SoftActorCriticSettings
) -> AbstractLearner:
    return sac.SoftActorCritic(env, settings)


def _decision_transformer(
    config: "TrainConfig",
    env: AbstractEnvironment,
    settings: decision_transformer.DecisionTransformerSettings,
) -> AbstractLearner:
    target = decision_transformer.target_return(env, settings.return_target)
    return decision_transformer.DecisionTransformer(env, settings, target)


MODELS = {
    name: _model_based(make_model, ActionSequence if name.startswith("actions") else TanhGaussianPolicy)
    for name, make_model in _model_table().items()
} | {
    "sac": Method(sac.SoftActorCriticSettings, sac.PRESETS, _soft_actor_critic),
    "odt": Method(
        decision_transformer.DecisionTransformerSettings, decision_transformer.PRESETS, _decision_transformer
    ),
}


def find_method(model: str) -> Method:
    """What a `--model` stands for.

    Raises:
        UsageError: an unknown model, or a file that gives no backbone.
    """
    if not user_files.is_file(model):
        check_choice("model", model, MODELS, "FILE.py:NAME")
        return MODELS[model]
    backbone = model_files.load_backbone(model)

    def make_model(env: AbstractEnvironment, settings: Settings) -> Callable[..., Any]:
        return functools.partial(ActionSequenceModel, env, backbone, dropout=settings.dropout)

    return _model_based(make_model, TanhGaussianPolicy)


def is_sequence_model(model: str) -> bool:
    """Whether a `--model` is fitted as an action-sequence model, whose `predict` reads no state but the first."""
    return model in BACKBONES or model.startswith("actions") or user_files.is_file(model)


# More seeds than this would not be told apart by a 32-bit key.
_MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A complete description of a run, except for the code of a task or a backbone of the user's own.

    Attributes:
        task: a name of `asmpg.TASKS`, `FILE.py:NAME`, or an environment.
        horizon: actions in an episode; an environment given as `task` has its own.
        model: a name of `MODELS`, the method, or `FILE.py:NAME`; a backbone, of the table or of your own, means an
            action-sequence model, `history-BACKBONE` one over states and actions, `actions-BACKBONE` that the actions
            themselves are optimised through an action-sequence model.
        steps: environment steps, rounded up to whole episodes, the warm-up included.
        seed: the first seed.
        num_seeds: number of independent runs, with seeds `seed .. seed + num_seeds - 1`.
        preset: "default" (ours) or "paper"; what it says depends on the method.
        out: run folder; nothing is written without one.
        loop: which policy gradient, "open" or "closed".
        record_cosine: whether to record the cosine to the true policy gradient.
        learned_reward: whether the reward is learned too, instead of being known (Appendix C).
        chunk_steps: environment steps between two records and checkpoints.
        stop_score: stop early once every seed held this score for three records in a row.
        optimum: whether to solve a task of the user's own too, so that scores are known. A built-in one always is.
        imagine: how the states of an imagined episode are found: "sequential", step by step; "parallel", as a fixed
            point of whole sequences; "auto", whichever was measured faster on this device.
        scan_chunk: steps between two carries that a derivative taken step by step keeps; None: all of up to 512 steps,
            else about the square root of the horizon.
        precision: "float32", "float64", or "bfloat16-matmul" for float32 with matrix products of that precision, which
            a CPU does not have; "auto", float64 where JAX has it enabled, else float32.
        overrides: settings that replace the preset's, by name.
    """

    task: str | AbstractEnvironment
    horizon: int = 100
    model: str = "transformer"
    steps: int = 20_000
    seed: int = 0
    num_seeds: int = 1
    preset: str = "default"
    out: str | None = None
    loop: Loop = "open"
    record_cosine: bool = False
    learned_reward: bool = False
    chunk_steps: int = 500
    stop_score: float | None = None
    optimum: bool = False
    imagine: Imagine = "auto"
    scan_chunk: int | None = None
    precision: Precision = "auto"
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The model without a folder of the user's."""
        return user_files.short_name(self.model)

    def environment(self) -> AbstractEnvironment:
        """The task.

        Raises:
            UsageError: an unknown task, or a horizon that is not allowed.
        """
        if not isinstance(self.task, str):
            return self.task
        horizon = check_horizon(self.horizon)
        if task_files.is_task_file(self.task):
            return task_files.load_task(self.task, horizon)
        check_choice("task", self.task, TASKS)
        return make(self.task, horizon)

    def settings(self) -> AbstractSettings:
        """The method's preset at this horizon with the overrides applied.

        Raises:
            UsageError: an unknown model, preset or setting, or a value out of range.
        """
        horizon = self.horizon if isinstance(self.task, str) else self.task.horizon
        method = find_method(self.model)
        for name, value in self.overrides.items():
            check_setting(name, value, method.settings)
        check_choice("preset", self.preset, method.presets)
        return dataclasses.replace(method.presets[self.preset](horizon), **self.overrides)

    def learner(self) -> AbstractLearner:
        """The method.

        Raises:
            UsageError: an unknown model.
        """
        settings = self.settings()
        return find_method(self.model).learner(self, self.environment(), settings)

    def checked(self) -> "TrainConfig":
        """The same with the task's own horizon filled in, once everything about it has been checked.

        Raises:
            UsageError: one line that names the first field with a value that is not allowed.
        """
        env = self.environment()
        check_choice("precision", self.precision, typing.get_args(Precision))
        precision = resolve_precision(self.precision)
        config = dataclasses.replace(self, horizon=check_horizon(env.horizon), precision=precision)
        method = find_method(config.model)
        check_choice("preset", config.preset, method.presets)
        check_choice("loop", config.loop, typing.get_args(Loop))
        check_choice("imagine", config.imagine, typing.get_args(Imagine))
        if config.scan_chunk is not None:
            check_integer("scan_chunk", config.scan_chunk, 1)
        if config.imagine == "parallel":
            check_parallel(is_sequence_model(config.model), config.loop)
        for name, least in {"steps": 1, "num_seeds": 1, "seed": 0, "chunk_steps": 1}.items():
            check_integer(name, getattr(config, name), least)
        if config.steps < env.horizon:
            raise UsageError(f"steps: must be at least one episode, {env.horizon} steps, got {config.steps}")
        if config.seed + config.num_seeds - 1 > _MAX_SEED:
            raise UsageError(
                f"seed: the last one must be at most {_MAX_SEED}, got {config.seed + config.num_seeds - 1}"
            )
        if config.stop_score is not None:
            check_number("stop_score", config.stop_score)
            if env.identity() is None and not config.optimum:
                raise UsageError("stop_score: a task of your own has no score unless optimum is set too")
        if config.settings().needs_optimum and env.identity() is None and not config.optimum:
            raise UsageError(
                "return_target: of a task of your own it must be a number, unless optimum is set too"
            )
        if env.identity() is None:
            validate(env)
        elif config.optimum:
            config = dataclasses.replace(config, optimum=False)
        return config


def check_choice(option: str, value: Any, allowed: Collection[str], *others: str) -> None:
    """Raises a UsageError that names the option unless the value is allowed; `others` are named in it too."""
    if value not in allowed:
        raise UsageError(f"{option}: {value!r} is not one of {', '.join([*allowed, *others])}")


def check_integer(option: str, value: Any, least: int) -> None:
    """Raises a UsageError that names the option unless the value is an integer and large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{option}: must be an integer >= {least}, got {value!r}")


def check_number(option: str, value: Any) -> None:
    """Raises a UsageError that names the option unless the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{option}: must be a finite number, got {value!r}")


# Integers are at least one unless they are named here, where zero means none. Real numbers may be zero unless they are
# named here; probabilities must stay below one, shares may be one.
_MAY_BE_NONE = {"learning_rate_decay"}
_POSITIVE = {
    *("model_learning_rate", "policy_learning_rate", "critic_learning_rate", "temperature_learning_rate"),
    *("gradient_clip", "target_rate"),
}
_BELOW_ONE = {"dropout"}
_AT_MOST_ONE = {"discount", "predicted_state_share", "target_rate"}
_ANY_SIGN = {"target_entropy"}


def check_setting(name: str, value: Any, settings: type[AbstractSettings] = Settings) -> None:
    """Checks one setting: an integer >= 1, a finite number >= 0, a truth value or a listed word, by its type.

    Raises:
        UsageError: the method has no such setting, or the value is not allowed.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(settings)}
    if name not in kinds and any(name in _names(method.settings) for method in MODELS.values()):
        raise UsageError(f"{name}: {value!r} has no meaning for this method, which has {', '.join(kinds)}")
    check_choice("setting", name, kinds)
    kind = kinds[name]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # words, or a number of any size
        if isinstance(value, str):
            words = [word for part in typing.get_args(kind) for word in typing.get_args(part)]
            check_choice(name, value, words)
        else:
            check_number(name, value)
    elif typing.get_origin(kind) is typing.Literal:
        check_choice(name, value, typing.get_args(kind))
    elif kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name}: must be true or false, got {value!r}")
    elif kind is int:
        check_integer(name, value, 0 if name in _MAY_BE_NONE else 1)
    elif kind is float:
        check_number(name, value)
        if name in _ANY_SIGN:
            return
        if value < 0 or (name in _POSITIVE and value == 0):
            raise UsageError(f"{name}: must be {'>' if name in _POSITIVE else '>='} 0, got {value!r}")
        if name in _BELOW_ONE and value >= 1:
            raise UsageError(f"{name}: must be below 1, got {value!r}")
        if name in _AT_MOST_ONE and value > 1:
            raise UsageError(f"{name}: must be at most 1, got {value!r}")


def _names(settings: type[AbstractSettings]) -> set[str]:
    return {field.name for field in dataclasses.fields(settings)}


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON, complete but for the code of a task or a backbone of the user's own.

    Of those, only names, sizes and the hash of the file are kept. Nothing in here is ever run.
    """
    content = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    content["overrides"] = dict(config.overrides)
    content["settings"] = dataclasses.asdict(config.settings())
    content["model"], content["model_source"] = config.model_name, {"kind": "built-in"}
    if user_files.is_file(config.model):
        content["model_source"] = {"kind": "file", "sha256": user_files.sha256("model", config.model)}
    env = config.environment()
    identity = env.identity()
    if identity is not None:
        return content | {"task": env.name, "task_source": {"kind": "built-in", "parameters": dict(identity)}}
    source = {"kind": "object", "state_size": env.state_size, "action_size": env.action_size}
    if isinstance(config.task, str):
        path, name = task_files.split(config.task)
        source |= {"kind": "file", "sha256": task_files.sha256(config.task)}
        return content | {"task": f"{path.name}:{name}", "task_source": source}
    return content | {"task": env.name, "task_source": source}


def from_json(
    content: Mapping[str, Any], task: str | AbstractEnvironment | None = None, model: str | None = None
) -> TrainConfig:
    """The configuration that `to_json` wrote.

    Args:
        content: plain JSON.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: `FILE.py:NAME` again, where the model's backbone is the user's own.

    Raises:
        UsageError: a field is missing, unknown or of the wrong type; the task or the model is missing or another one.
    """
    fields = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    others = ("settings", "task_source", "model_source")
    values = {name: value for name, value in content.items() if name not in others}
    for name in [*fields, *others]:
        if name not in content:
            raise UsageError(f"config: {name!r} is missing")
    for name, value in values.items():
        check_choice("config", name, fields)
        _check_field(name, value, fields[name])
    values["task"] = _task_again(content, task)
    values["model"] = _model_again(content, model)
    config = TrainConfig(**values)
    # A preset may mean something else in another version: what the run was started with counts.
    stored = content["settings"]
    names = _names(find_method(config.model).settings)
    if not isinstance(stored, dict) or stored.keys() != names:
        raise UsageError("config: its settings are those of another version of asmpg")
    if stored != dataclasses.asdict(config.settings()):
        config = dataclasses.replace(config, overrides=dict(stored))
    return config


def _check_field(name: str, value: Any, kind: Any) -> None:
    """Raises a UsageError unless a value from a file has the type of its field."""
    kinds: Any = (str,) if name == "task" else typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is typing.Literal:
        check_choice(name, value, kinds)
        return
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    plain = (*plain, int) if float in plain else plain
    wrong_truth = isinstance(value, bool) and bool not in plain
    if wrong_truth or not isinstance(value, dict if name == "overrides" else plain):
        raise UsageError(f"config: {name} has the value {value!r}, which is not of its type")


def _task_again(
    content: Mapping[str, Any], task: str | AbstractEnvironment | None
) -> str | AbstractEnvironment:
    """The task of a stored configuration: built in, or the one given, once it is known to be the same."""
    name, source = content["task"], content["task_source"]
    kind = source.get("kind") if isinstance(source, dict) else None
    check_choice("config: task_source", kind, ("built-in", "file", "object"))
    if kind == "built-in":
        if task is not None:
            raise UsageError(f"task: the run is of the built-in task {name}, none must be given")
        check_choice("task", name, TASKS)
        parameters = source.get("parameters")
        if not isinstance(parameters, dict):
            raise UsageError("config: the parameters of the task are missing")
        return make(name, check_horizon(content["horizon"]), **parameters) if parameters else name
    if task is None:
        raise UsageError(
            f"task: the run is of {name}, a task of your own, which is not stored in it; "
            "give it again: --task FILE.py:NAME, or load(path, task=...)"
        )
    if isinstance(task, str):
        if kind == "file" and task_files.sha256(task) != source.get("sha256"):
            raise UsageError(
                f"task: {task} is not what the run was started with, {name}: the file has changed"
            )
        env = task_files.load_task(task, content["horizon"])
    else:
        env = task
    sizes = {
        "horizon": content["horizon"],
        "state_size": source["state_size"],
        "action_size": source["action_size"],
    }
    for attribute, wanted in sizes.items():
        if getattr(env, attribute) != wanted:
            raise UsageError(
                f"task: the run's has {attribute} {wanted}, the one given {getattr(env, attribute)}"
            )
    return task


def _model_again(content: Mapping[str, Any], model: str | None) -> str:
    """The model of a stored configuration: built in, or the file given, once it is known to be the same."""
    name, source = content["model"], content["model_source"]
    kind = source.get("kind") if isinstance(source, dict) else None
    check_choice("config: model_source", kind, ("built-in", "file"))
    if kind == "built-in":
        if model is not None:
            raise UsageError(f"model: the run is of the built-in model {name}, none must be given")
        check_choice("model", name, MODELS)
        return name
    if model is None:
        raise UsageError(
            f"model: the run is of {name}, a backbone of your own, which is not stored in it; "
            "give it again: --model FILE.py:NAME, or load(path, model=...)"
        )
    if not user_files.is_file(model) or user_files.split("model", model)[1] != name.rpartition(":")[2]:
        raise UsageError(f"model: {model} is not what the run was started with, {name}")
    if user_files.sha256("model", model) != source.get("sha256"):
        raise UsageError(f"model: {model} is not what the run was started with, {name}: the file has changed")
    return model
