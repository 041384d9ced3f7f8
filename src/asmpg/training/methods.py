"""Every method by its name: what a `--model` stands for."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING

from ..core import user_code as user_files
from ..core.checks import check_choice, check_integer, check_number
from ..core.types import UsageError
from ..gradients.policies import ActionSequence
from ..learners import odt as decision_transformer
from ..learners import sac
from ..learners.base import AbstractLearner
from ..learners.model_based import ModelBasedLearner, new_policy
from ..learners.settings import AbstractSettings, PRESETS, RECURRENT_PRESETS, Settings
from ..models import AbstractDynamicsModel, ActionSequenceModel, HistoryModel, OneStepModel, Simulator
from ..models.backbones import BACKBONES, CreateBackbone
from ..models.files import load_backbone, split_family
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractEnvironment


if TYPE_CHECKING:
    from .config import TrainConfig


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


MakeModel = Callable[[AbstractEnvironment, Settings], Callable[..., AbstractDynamicsModel]]


def _sequence(backbone: str | CreateBackbone) -> MakeModel:
    """An action-sequence model around a backbone."""
    return lambda env, settings: functools.partial(
        ActionSequenceModel,
        env,
        backbone,
        dropout=settings.dropout,
        decoder=settings.decoder,
        difference_loss=settings.difference_loss,
        summed_differences=settings.summed_differences,
        normaliser=Normaliser.unknown(env.state_size),
    )


def _history(backbone: str | CreateBackbone) -> MakeModel:
    """A history model around a backbone."""
    return lambda env, settings: functools.partial(
        HistoryModel,
        env,
        backbone,
        dropout=settings.dropout,
        cut_state_gradient=settings.cut_state_gradient,
        decoder=settings.decoder,
        difference_unit=settings.difference_unit,
        normaliser=Normaliser.unknown(env.state_size),
    )


def _one_step(env: AbstractEnvironment, settings: Settings) -> Callable[..., AbstractDynamicsModel]:
    """The Markovian model."""
    return functools.partial(
        OneStepModel,
        env,
        normaliser=Normaliser.unknown(env.state_size),
        difference_unit=settings.difference_unit,
        state_gradient_decay=settings.state_gradient_decay,
    )


def _model_based(
    make_model: MakeModel,
    make_policy: Callable[..., Any],
    presets: Mapping[str, Callable[[int], Settings]] = PRESETS,
) -> Method:
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

    return Method(Settings, presets, learner)


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


# What stands before a backbone's name, its dynamics model and its policy.
_FAMILIES = {
    "": (_sequence, new_policy),
    "history-": (_history, new_policy),
    "actions-": (_sequence, ActionSequence),
}


def _with_backbone(family: str, backbone: str | CreateBackbone) -> Method:
    make_model, make_policy = _FAMILIES[family]
    presets = PRESETS if backbone == "transformer" else RECURRENT_PRESETS
    return _model_based(make_model(backbone), make_policy, presets)


MODELS = {
    **{f"{family}{name}": _with_backbone(family, name) for family in _FAMILIES for name in BACKBONES},
    "actions": _with_backbone("actions-", "transformer"),
    "one-step": _model_based(_one_step, new_policy, RECURRENT_PRESETS),
    "simulator": _model_based(lambda env, settings: lambda *, key: Simulator(env), new_policy),
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
    family, file = split_family(model)
    return _with_backbone(family, load_backbone(file))


def is_sequence_model(model: str) -> bool:
    """Whether a `--model` is fitted as an action-sequence model, whose `predict` reads no state but the first."""
    family, backbone = split_family(model)
    return model == "actions" or (
        family != "history-" and (backbone in BACKBONES or user_files.is_file(backbone))
    )


# Integers are at least one unless they are named here, where zero means none. Real numbers may be zero unless they are
# named here; probabilities must stay below one, shares may be one.
_MAY_BE_NONE = {"learning_rate_decay", "learning_rate_warmup", "policy_average"}
_POSITIVE = {
    *("model_learning_rate", "policy_learning_rate", "critic_learning_rate", "temperature_learning_rate"),
    *("gradient_clip", "target_rate"),
}
_BELOW_ONE = {"dropout"}
_AT_MOST_ONE = {"discount", "predicted_state_share", "target_rate", "state_gradient_decay"}
_ANY_SIGN = {"target_entropy"}


def check_setting(name: str, value: Any, settings: type[AbstractSettings] = Settings) -> None:
    """Checks one setting: an integer >= 1, a finite number >= 0, a truth value or a listed word, by its type.

    Raises:
        UsageError: the method has no such setting, or the value is not allowed.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(settings)}
    if name not in kinds and any(name in setting_names(method.settings) for method in MODELS.values()):
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


def setting_names(settings: type[AbstractSettings]) -> set[str]:
    """The names of a method's settings."""
    return {field.name for field in dataclasses.fields(settings)}
