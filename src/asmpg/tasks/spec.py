"""What networks, replay and learners ask of a world: its name, its horizon and its sizes."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.arguments import check_key
from ..core.types import Scalar, UsageError
from .stack import Stack, stack_of


@runtime_checkable
class Spec(Protocol):
    """The sizes of a world, whatever computes it. Every task in JAX, and every world outside it, has them.

    Attributes:
        name: short name, used in run folders and messages.
        horizon: number of actions in an episode.
        state_size: number of components of what is observed.
        action_size: number of action components, each normalised to [-1, 1].
    """

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        ...

    @property
    def state_size(self) -> int:
        """Components of an observation."""
        ...

    @property
    def action_size(self) -> int:
        """Components of an action."""
        ...


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A `Spec` and nothing else.

    Attributes:
        name: short name.
        horizon: actions in an episode, or in a window of one.
        state_size: components of an observation.
        action_size: components of an action.
        ends_early: whether the last component of an observation is `alive`: 1, and 0 once the episode has ended.
        stack: how an observation and its context lie in a vector, if there is a context.
    """

    name: str
    horizon: int
    state_size: int
    action_size: int
    ends_early: bool = False
    stack: Stack | None = None


def check_new(network: str, env: object, key: object) -> None:
    """Raises a UsageError unless a network can be made from this: a world's sizes, and a key."""
    if isinstance(env, type) or not isinstance(env, Spec):
        raise UsageError(f"{network}: env: must be a task, or what has its sizes, got a {type(env).__name__}")
    if key is None:
        raise UsageError(f"{network}: key: must be a JAX PRNG key such as jax.random.key(0), got None")
    check_key(network, key)


def ends_early(spec: Spec) -> bool:
    """Whether the last component of an observation is `alive`."""
    return bool(getattr(spec, "ends_early", False))


def alive(state: Float[Array, " state"]) -> Scalar:
    """Whether the episode goes on, the last component of a state where episodes end early.

    A model may predict any number there; were more than 1 paid for, a policy would look for where the model is wrong.
    """
    return jnp.clip(state[-1], 0.0, 1.0)


def task_name(spec: Spec) -> str:
    """The name of a task, which a network made for it keeps; empty for windows and recorded episodes."""
    return spec.name if callable(getattr(spec, "transition", None)) else ""


def sizes_of_windows(spec: Spec, window: int) -> Sizes:
    """The same world seen through windows of a length."""
    return Sizes(spec.name, window, spec.state_size, spec.action_size, ends_early(spec), stack_of(spec))
