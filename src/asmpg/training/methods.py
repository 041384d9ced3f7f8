"""Every method by its name: what a `--model` stands for."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ..core import user_code as user_files
from ..core.checks import check_choice
from ..core.digest import digest
from ..core.types import UsageError
from ..gradients.imagination import Loop
from ..gradients.policies import ActionSequence
from ..learners.base import AbstractLearner
from ..learners.model_based import ModelBasedLearner
from ..learners.odt import DecisionTransformer, DecisionTransformerSettings, target_return
from ..learners.optimisation import OwnOptimiser
from ..learners.sac import SoftActorCritic, SoftActorCriticSettings
from ..learners.settings import AbstractSettings, Preset, Settings
from ..learners.window_value import window_of
from ..models import AbstractDynamicsModel, ActionSequenceModel, HistoryModel, OneStepModel, Simulator
from ..models.backbones import AbstractBackbone, BACKBONES, CreateBackbone, with_sizes
from ..models.files import check_backbone, load_definition, short_name, split_family
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractEnvironment
from ..tasks.spec import sizes_of_windows, Spec
from ..tasks.world import inside
from .own import (
    backbone_of,
    check_learner,
    check_model,
    described,
    is_learner,
    label_of,
    make_own,
    model_of,
    refuse_abstract,
    settings_of,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the builder of a learner is told beyond the task and the settings; see `TrainConfig`.

    `own_optimiser` is what `TrainConfig.optimizer` stands for; the others are fields of the same name.
    """

    loop: Loop = "open"
    record_cosine: bool = False
    learned_reward: bool = False
    scan_chunk: int | None = None
    own_optimiser: OwnOptimiser | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """What a `--model` stands for.

    Attributes:
        name: as it is shown and stored.
        settings: the class of its settings, whose presets are its own.
        learner: builds the learner from a world, settings and options. A world is an `AbstractEnvironment`; to
            methods that only ask for its sizes, anything with a `Spec`.
        imagines: whether it differentiates through a dynamics model, so that `Options` mean something to it.
        paper: the settings in which the preset `paper` differs from the class's for this method.
        given: the settings of a learner that is given as an object, which has them already.
        source: of the user's own, the object that it was made from.
        check: raises a UsageError unless what the user made works on a task.
    """

    name: str
    settings: type[AbstractSettings]
    learner: Callable[[Any, Any, Options], AbstractLearner]
    imagines: bool = False
    paper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: AbstractSettings | None = None
    source: Any = None
    check: Callable[[Spec, AbstractSettings], None] = lambda env, settings: None

    def preset(self, name: str, horizon: int) -> AbstractSettings:
        """The settings of a preset at a horizon.

        Raises:
            UsageError: there is no such preset.
        """
        if self.given is not None:
            return self.given
        settings = self.settings.preset(name, horizon)
        return settings.replace(**self.paper) if name == "paper" else settings

    @property
    def presets(self) -> Mapping[str, Callable[[int], AbstractSettings]]:
        """From a preset's name to what makes its settings for a horizon."""
        return {name: functools.partial(self.preset, name) for name in typing.get_args(Preset)}


MakeModel = Callable[[Spec, Settings], Callable[..., AbstractDynamicsModel]]


def _sequence(backbone: str | AbstractBackbone | CreateBackbone) -> MakeModel:
    """An action-sequence model around a backbone."""
    return lambda env, settings: functools.partial(
        ActionSequenceModel,
        env,
        with_sizes(backbone, **_sizes(settings)),
        difference_loss=settings.difference_loss,
        decoder_output=settings.decoder_output,
        **_around_backbone(env, settings),
    )


def _history(backbone: str | AbstractBackbone | CreateBackbone) -> MakeModel:
    """A history model around a backbone."""
    return lambda env, settings: functools.partial(
        HistoryModel,
        env,
        with_sizes(backbone, **_sizes(settings)),
        cut_state_gradient=settings.cut_state_gradient,
        difference_unit=settings.difference_unit,
        **_around_backbone(env, settings),
    )


def _around_backbone(env: Spec, settings: Settings) -> dict[str, Any]:
    """What both kinds of model with a backbone are told."""
    return {
        "dropout": settings.dropout,
        "decoder": settings.decoder if settings.decoder == "linear" else settings.decoder_width,
        "normaliser": Normaliser.unknown(env.state_size),
    }


def _sizes(settings: Settings) -> dict[str, int]:
    """Of a model's layers, where they are not the standard."""
    sizes = {"width": settings.model_width, "num_layers": settings.num_model_layers}
    return {name: size for name, size in sizes.items() if size}


def _one_step(env: Spec, settings: Settings) -> Callable[..., AbstractDynamicsModel]:
    """The Markovian model."""
    return functools.partial(
        OneStepModel,
        env,
        normaliser=Normaliser.unknown(env.state_size),
        difference_unit=settings.difference_unit,
        state_gradient_decay=settings.state_gradient_decay,
        **_sizes(settings),
    )


# What the preset `paper` says of all but the transformer: dropout is GPT-2's alone, and Equation 2's output linear.
_RECURRENT = {"dropout": 0.0, "decoder": "linear"}


def _model_based(
    name: str,
    make_model: MakeModel,
    make_policy: Callable[..., Any] | None = None,
    paper: Mapping[str, Any] | None = None,
    check: Callable[[Spec, AbstractSettings], None] = lambda env, settings: None,
) -> Method:
    """Algorithm 1 with one kind of dynamics model and one of policy."""

    def learner(env: Spec, settings: Settings, options: Options) -> AbstractLearner:
        window = window_of(env, settings, options.learned_reward)
        imagined = env if window is None else sizes_of_windows(env, window)
        outside = not isinstance(env, AbstractEnvironment)
        return ModelBasedLearner(
            env,
            settings,
            make_model(imagined, settings),
            options.loop,
            options.record_cosine,
            options.learned_reward or (outside and getattr(env, "known_reward", None) is None),
            make_policy,
            options.scan_chunk,
            window,
            own_optimiser=options.own_optimiser,
        )

    return Method(name, Settings, learner, True, paper or {}, check=check)


def _decision_transformer(
    env: Spec, settings: DecisionTransformerSettings, options: Options
) -> AbstractLearner:
    target = target_return(env, settings.return_target)
    return DecisionTransformer(env, settings, target, options.own_optimiser)


def _soft_actor_critic(env: Spec, settings: SoftActorCriticSettings, options: Options) -> AbstractLearner:
    return SoftActorCritic(env, settings, own_optimiser=options.own_optimiser)


def _with_backbone(family: str, backbone: str | AbstractBackbone | CreateBackbone, name: str) -> Method:
    """The method of a family, which is what stands before the backbone's name, and a backbone."""
    paper = {} if backbone == "transformer" else _RECURRENT
    check = functools.partial(_check_sizes, name, backbone)
    if family == "history-":
        return _model_based(name, _history(backbone), paper=paper, check=check)
    policy = ActionSequence if family == "actions-" else None
    return _model_based(name, _sequence(backbone), policy, paper=paper, check=check)


def _check_sizes(
    name: str, backbone: str | AbstractBackbone | CreateBackbone | None, env: Spec, settings: AbstractSettings
) -> None:
    """Raises a UsageError where sizes are given to a model that has none, or whose backbone does not take them."""
    assert isinstance(settings, Settings)
    for size, number in _sizes(settings).items():
        option = {"width": "model_width", "num_layers": "num_model_layers"}[size]
        if backbone is None:
            raise UsageError(f"{option}: {name} has none that could be chosen")
        try:
            with_sizes(backbone, **{size: number})
        except UsageError as error:
            raise UsageError(f"{option}: {str(error).partition(': ')[2]}") from error


_FAMILIES = ("", "history-", "actions-")
MODELS: dict[str, Method] = {
    method.name: method
    for method in (
        *(_with_backbone(family, name, f"{family}{name}") for family in _FAMILIES for name in BACKBONES),
        _with_backbone("actions-", "transformer", "actions"),
        _model_based("one-step", _one_step, paper=_RECURRENT),
        _model_based(
            "simulator",
            lambda env, settings: lambda *, key: Simulator(inside(env)),
            check=functools.partial(_check_sizes, "simulator", None),
        ),
        Method("sac", SoftActorCriticSettings, _soft_actor_critic),
        Method("odt", DecisionTransformerSettings, _decision_transformer),
    )
}


# What may be given as a model or a learner: names, classes, instances, and functions that make them.
ModelLike = (
    str
    | Method
    | AbstractBackbone
    | AbstractDynamicsModel
    | AbstractLearner
    | type[AbstractBackbone | AbstractDynamicsModel | AbstractLearner]
    | Callable[..., Any]
)


def find_method(model: object, option: str = "model") -> Method:
    """What a `--model` stands for.

    Args:
        model: a name of `MODELS`, `FILE.py:NAME`, `package.module:NAME`, or an object of one's own: a backbone, a
            dynamics model, a learner, a `Method`, a class of these, or a function. One of (input_size, horizon, *,
            dropout, key) makes a backbone, one of (env, *, key) a dynamics model, one of (env, settings) a learner.
        option: what messages name.

    Raises:
        UsageError: an unknown model, or nothing that could be one.
    """
    if isinstance(model, Method):
        own = model.source is None and MODELS.get(model.name) is not model
        return own_method(model, model.name, option) if own else model
    if not isinstance(model, str):
        return own_method(model, label_of(model), option)
    family, rest = split_family(model)
    if user_files.is_file(model):
        return own_method(load_definition(rest), short_name(model), option, family)
    if model not in MODELS and rest in user_files.installed("asmpg.backbones"):
        point = user_files.installed("asmpg.backbones")[rest]
        return own_method(user_files.load_installed(option, point), model, option, family)
    check_choice(option, model, MODELS, *user_files.installed("asmpg.backbones"), "FILE.py:NAME")
    return MODELS[model]


def own_method(thing: object, name: str, option: str = "model", family: str = "") -> Method:
    """The method around an object of the user's own.

    Args:
        thing: see `find_method`.
        name: how it is shown and stored.
        option: what messages name.
        family: `history-` or `actions-`, for a backbone.

    Raises:
        UsageError: it is nothing that could be a model, or lacks something.
    """
    if isinstance(thing, Method) and not family:
        return dataclasses.replace(thing, name=name, source=thing.source or thing)
    if inspect.isclass(thing):
        refuse_abstract(option, thing)
    backbone, make_model = backbone_of(thing), model_of(thing)
    if backbone is not None:
        if not isinstance(backbone, AbstractBackbone):
            check_backbone(option, name, backbone)
        method = _with_backbone(family, backbone, name)
        return dataclasses.replace(method, source=thing)
    if family:
        raise UsageError(f"{option}: {name} must name a backbone, {family} stands before no other model")
    if make_model is not None:

        def make(env: object, settings: Settings) -> Callable[..., AbstractDynamicsModel]:
            return functools.partial(make_own, option, name, make_model, AbstractDynamicsModel, env)

        method = _model_based(name, make, paper=_RECURRENT)
        check = functools.partial(_check_own_model, option, name, make)
        return dataclasses.replace(method, source=thing, check=check)
    if is_learner(thing):
        return own_learner(thing, name, option)
    wanted = "a backbone, a dynamics model, a learner, a class of these, a function that makes one, a Method, or a name"
    raise UsageError(f"{option}: {name} is {described(thing)}, not {wanted}")


def own_learner(thing: Any, name: str, option: str = "learner") -> Method:
    """The method that is a learner of the user's own: an instance, a class, or a function of (env, settings)."""
    given = thing.settings if isinstance(thing, AbstractLearner) else None

    def make(env: Spec, settings: AbstractSettings, options: Options) -> AbstractLearner:
        if not isinstance(thing, AbstractLearner):
            return make_own(option, name, thing, AbstractLearner, env, settings)
        if thing.env is not env and digest(thing.env) != digest(env):
            raise UsageError(f"{option}: {name} is of another task, {thing.env.name}, than {env.name}")
        return thing

    def check(env: Spec, settings: AbstractSettings) -> None:
        check_learner(option, name, make(env, settings, Options()))

    kind = settings_of(thing) if given is None else type(given)
    return Method(name, kind, make, given=given, source=thing, check=check)


def _check_own_model(
    option: str, name: str, make_model: MakeModel, env: Spec, settings: AbstractSettings
) -> None:
    assert isinstance(settings, Settings)
    _check_sizes(name, None, env, settings)
    check_model(option, name, make_model(env, settings), env)
