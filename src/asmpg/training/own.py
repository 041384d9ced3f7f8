"""Objects of the user's own as methods: what is wrong with one is said on one line, before anything is compiled."""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ..core.types import OF_USERS, one_line, Trajectory, UsageError
from ..core.user_code import define, is_file, short_name
from ..learners.base import AbstractLearner
from ..learners.optimisation import OwnOptimiser, Part
from ..learners.replay import ReplayBuffer
from ..learners.settings import AbstractSettings, Settings
from ..models import AbstractDynamicsModel
from ..models.backbones import AbstractBackbone, CreateBackbone
from ..models.normalisation import Normaliser
from ..tasks.spec import Spec


def label_of(thing: object) -> str:
    """The name of a class, a function or an object's class."""
    if isinstance(thing, functools.partial):
        return label_of(thing.func)
    return getattr(thing, "__name__", type(thing).__name__)


def refuse_abstract(option: str, kind: type) -> None:
    """Raises a UsageError that names the methods and fields which a class lacks."""
    missing = sorted(getattr(kind, "__abstractmethods__", ())) or sorted(
        {*getattr(kind, "__abstractvars__", ()), *getattr(kind, "__abstractclassvars__", ())}
    )
    if missing:
        raise UsageError(f"{option}: {kind.__name__} lacks {', '.join(map(str, missing))}")


def backbone_of(thing: object) -> CreateBackbone | AbstractBackbone | None:
    """What makes a backbone, where the object is one, a class of them or a function of (input_size, horizon)."""
    if isinstance(thing, AbstractBackbone):
        return thing
    if inspect.isclass(thing):
        return thing.create if issubclass(thing, AbstractBackbone) else None
    is_one = callable(thing) and _num_required(thing) == 2 and not makes_learner(thing)
    return typing.cast(CreateBackbone, thing) if is_one else None


def model_of(thing: object) -> Callable[..., Any] | None:
    """`make(env, key=key)`, where the object is a dynamics model, a class of them or a function of the environment."""
    if isinstance(thing, AbstractDynamicsModel):
        return lambda env, *, key: thing
    if inspect.isclass(thing):
        return thing if issubclass(thing, AbstractDynamicsModel) else None
    return thing if callable(thing) and _num_required(thing) == 1 else None


def is_learner(thing: object) -> bool:
    """Whether the object is a learner, a class of them or a function of (env, settings)."""
    if inspect.isclass(thing):
        return issubclass(thing, AbstractLearner)
    return isinstance(thing, AbstractLearner) or makes_learner(thing)


def makes_learner(thing: Any) -> bool:
    """Whether it is a function of two arguments; what makes a backbone is given a key as well."""
    two = inspect.isfunction(thing) and _num_required(thing) == 2
    return two and "key" not in inspect.signature(thing).parameters


def described(thing: object) -> str:
    """What kind of thing it is, for a message that refuses it."""
    return f"the class {thing.__name__}" if inspect.isclass(thing) else f"a {type(thing).__name__}"


def _num_required(function: Callable[..., Any]) -> int:
    """How many arguments have to be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return -1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in parameters)


def settings_of(learner: object) -> type[AbstractSettings]:
    """The class of a learner's settings, from the type of its field; `Settings` where that says no more."""
    try:
        kind = typing.get_type_hints(learner).get("settings")
    except Exception:  # annotations that cannot be evaluated
        kind = None
    usable = inspect.isclass(kind) and issubclass(kind, AbstractSettings) and not inspect.isabstract(kind)
    return typing.cast(type[AbstractSettings], kind) if usable else Settings


def make_own(
    option: str, name: str, make: Callable[..., Any], kind: type, *args: object, **kwargs: object
) -> Any:
    """What a user's class or function makes, which has to be of a kind."""
    try:
        made = make(*args, **kwargs)
    except UsageError:
        raise
    except OF_USERS as error:  # whatever the user's code raises, the message names it
        raise UsageError(f"{option}: {name} raised {one_line(error)}") from error
    if not isinstance(made, kind):
        wanted = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        raise UsageError(f"{option}: {name} gives a {type(made).__name__}, not an {wanted}")
    return made


Optimizer = optax.GradientTransformation | Callable[..., optax.GradientTransformation]


def load_optimizer(optimizer: object) -> tuple[str, Optimizer]:
    """The name of an optimiser of the user's own, and the object.

    Args:
        optimizer: an Optax transformation, a function of (settings) or (settings, part) that makes one, or the name of
            either, `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        UsageError: it is none of these.
    """
    thing = optimizer
    if isinstance(optimizer, str):
        if not is_file(optimizer):
            raise UsageError(f"optimizer: {optimizer!r} must be FILE.py:NAME or package.module:NAME")
        thing = define("optimizer", optimizer, lambda value: isinstance(value, optax.GradientTransformation))
    fits = callable(thing) and _num_required(thing) in (1, 2)
    if not isinstance(thing, optax.GradientTransformation) and not fits:
        wanted = (
            "an optax.GradientTransformation or a function of (settings) or (settings, part) that makes one"
        )
        raise UsageError(f"optimizer: must be {wanted}, got {described(thing)}")
    name = short_name(optimizer) if isinstance(optimizer, str) else label_of(thing)
    return name, typing.cast(Optimizer, thing)


def own_optimiser(optimizer: object, settings: AbstractSettings) -> OwnOptimiser:
    """The optimiser of the user's own, which has been tried with a learner's settings on two small arrays.

    Raises:
        UsageError: it is none, or raises an error.
    """
    name, thing = load_optimizer(optimizer)

    def make(settings: AbstractSettings, part: Part) -> optax.GradientTransformation:
        if isinstance(thing, optax.GradientTransformation):
            return thing
        arguments = (settings, part)[: _num_required(thing)]
        return make_own("optimizer", name, thing, optax.GradientTransformation, *arguments)

    network = {"weight": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
    for part in typing.get_args(Part):
        made = make(settings, part)
        state = _traced("optimizer", f"init of {name}", made.init, network)
        updates, after = _traced("optimizer", f"update of {name}", made.update, network, state, network)
        _same("optimizer", f"update of {name} gives back a state", state, after)
        _same("optimizer", f"update of {name} gives back updates", network, updates)
    return make


def check_model(option: str, name: str, make: Callable[..., Any], env: Spec) -> None:
    """Traces everything a dynamics model has to do, without running it."""
    horizon, dtype = env.horizon, jnp.result_type(float)
    state, action = (jax.ShapeDtypeStruct((size,), dtype) for size in (env.state_size, env.action_size))
    actions = jax.ShapeDtypeStruct((horizon, env.action_size), dtype)
    model = _traced(option, name, lambda: make_own(option, name, make, AbstractDynamicsModel, key=_key()))
    states = _traced(option, f"predict of {name}", model.predict, state, actions)
    _expect(option, f"predict of {name}", states, (horizon, env.state_size))
    carry = _traced(option, f"init of {name}", model.init, state)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    after, following = _traced(option, f"step of {name}", model.step, carry, state, action, step)
    _expect(option, f"step of {name}", following, (env.state_size,))
    _same(option, f"step of {name} gives back a carry", carry, after)
    _expect(option, f"loss of {name}", _traced(option, f"loss of {name}", model.loss, _episode(env)), ())


def check_learner(option: str, name: str, learner: AbstractLearner) -> None:
    """Traces everything the training loop asks of a learner, without running it."""
    env, key = learner.env, _key()
    episode = _episode(env)
    episodes = jax.tree.map(lambda x: jnp.stack([x, x]), episode)
    replay = ReplayBuffer.create(env, 2).add(episode)
    normaliser = Normaliser.unknown(env.state_size)
    state = _traced(option, f"init of {name}", lambda: learner.init(normaliser, key=key))
    stages = {
        "observe_warmup": lambda given: learner.observe_warmup(given, episodes),
        "update": lambda given: learner.update(given, replay, jnp.asarray(1), key=key),
        "diagnose": lambda given: learner.diagnose(given, replay, episode, key=key)[0],
    }
    for method, call in stages.items():
        after = _traced(option, f"{method} of {name}", call, state)
        _same(option, f"{method} of {name} gives back a state", state, after)
    policy = _traced(option, f"policy of {name}", learner.policy, state)
    if not callable(getattr(policy, "act", None)):
        raise UsageError(
            f"{option}: policy of {name} gives a {type(policy).__name__}, not an asmpg.AbstractPolicy"
        )


def _key() -> Any:
    return jax.random.key(0)


def _episode(env: Spec) -> Trajectory:
    """An episode of zeros."""
    horizon = env.horizon
    shapes = ((horizon + 1, env.state_size), (horizon, env.action_size), (horizon,))
    return Trajectory(*map(jnp.zeros, shapes))


def _traced(option: str, what: str, function: Callable[..., Any], *args: object) -> Any:
    """The shapes that a user's function returns."""
    try:
        return eqx.filter_eval_shape(function, *args)
    except UsageError:
        raise
    except OF_USERS as error:  # whatever the user's code raises, the message names it
        raise UsageError(f"{option}: {what} raised {one_line(error)}") from error


def _expect(option: str, what: str, value: object, shape: tuple[int, ...]) -> None:
    got = getattr(value, "shape", None)
    if got != shape:
        shown = f"shape {got}" if got is not None else f"a {type(value).__name__}"
        raise UsageError(f"{option}: {what} must return an array of shape {shape}, got {shown}")


def _same(option: str, what: str, before: object, after: object) -> None:
    """Raises a UsageError unless two trees are of one structure, with arrays of the same shapes and types."""
    arrays = [eqx.filter(tree, lambda x: hasattr(x, "shape")) for tree in (before, after)]
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in arrays]
    if jax.tree.structure(arrays[0]) != jax.tree.structure(arrays[1]):
        raise UsageError(f"{option}: {what} of another structure than init")
    leaves = zip(
        *(jax.tree_util.tree_leaves_with_path(one, is_leaf=lambda x: isinstance(x, tuple)) for one in shapes),
        strict=True,
    )
    for (path, one), (_, other) in leaves:
        if one != other:
            place = jax.tree_util.keystr(path)
            raise UsageError(f"{option}: {what} whose {place} is {other[1]}{other[0]}, not {one[1]}{one[0]}")
