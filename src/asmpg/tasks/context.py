"""Worlds whose networks see the last observations and actions too, so that what is hidden can be inferred."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, final, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..core.checks import check_integer
from ..core.types import Given, PRNGKey, Scalar, Step, UsageError
from .data import Episodes
from .environment import AbstractEnvironment
from .host import check_world, HostEnvironment
from .observed import observe, ObservedTask
from .recording import Recording
from .simulator import AbstractSimulator, check_simulator
from .stack import Stack


# Pairs of an observation and an action; a policy's first layer is so wide.
MAX_CONTEXT = 1000
# Of a world that says what its actions are in its own units.
_RANGE = ("action_low", "action_high")


@overload
def with_context(world: Episodes, length: int) -> Episodes: ...
@overload
def with_context(
    world: AbstractEnvironment | AbstractSimulator | HostEnvironment, length: int
) -> AbstractEnvironment | AbstractSimulator | HostEnvironment: ...
def with_context(
    world: Given[AbstractEnvironment | AbstractSimulator | HostEnvironment | Episodes], length: Given[int]
) -> AbstractEnvironment | AbstractSimulator | HostEnvironment | Episodes:
    """A world of which networks see the newest observation and the last observations and actions before it.

    A model predicts the newest observation only; its context follows from the observations and the actions, exactly. An
    action-sequence model still reads no state but the first, whose context comes before the actions that it is given.

    Args:
        world: a simulator in JAX or outside it, or a task, of which everything is seen; or recorded episodes.
        length: pairs of a former observation and the action that followed it; 0 leaves the world as it is.

    Raises:
        UsageError: it is no world, or the length is not an integer from 0 to 1,000.
    """
    length = check_integer("with_context: length", length, 0, MAX_CONTEXT)
    if not isinstance(world, AbstractEnvironment | AbstractSimulator | HostEnvironment | Episodes):
        raise UsageError(f"with_context: world: must be a world, got a {type(world).__name__}")
    if length == 0:
        return world
    if isinstance(world, Episodes):
        return recorded_with_context(world, length)
    if isinstance(world, HostEnvironment):
        check_world(world)
        return HostWithContext(world, length)
    if isinstance(world, AbstractEnvironment):
        world = observe(world, range(world.state_size))
    check_simulator(world)
    return WithContext(world, length)


@overload
def recorded_with_context(data: Episodes, length: int) -> Episodes: ...
@overload
def recorded_with_context(data: Recording, length: int) -> Recording: ...
@overload
def recorded_with_context(data: Episodes | Recording, length: int) -> Episodes | Recording: ...
def recorded_with_context(data: Episodes | Recording, length: int) -> Episodes | Recording:
    """The same of recorded episodes, or of what is known of them.

    Raises:
        UsageError: they have a context already.
    """
    known = data.recording if isinstance(data, Episodes) else data
    if known.context:
        raise UsageError(f"with_context: world: {known.name} has a context of {known.context} already")
    if length == 0:
        return data
    if isinstance(data, Episodes):
        return data.with_context(length)
    size = Stack(data.observation_size, data.action_size, length).observation_size
    return dataclasses.replace(data, observation_size=size, context=length)


@final
class WithContext(AbstractSimulator):
    """What `with_context` makes of a simulator in JAX. A state is that of the simulator, and what is seen of it.

    Attributes:
        world: the simulator.
        length: pairs of a former observation and a former action.
    """

    world: AbstractSimulator
    length: int

    @property
    def name(self) -> str:
        """The simulator's, and how much is remembered."""
        return f"{self.world.name}_context_{self.length}"

    @property
    def horizon(self) -> int:
        """The simulator's."""
        return self.world.horizon

    @property
    def action_size(self) -> int:
        """The simulator's."""
        return self.world.action_size

    @property
    def ends_early(self) -> bool:
        """The simulator's."""
        return self.world.ends_early

    @property
    def fixed_start(self) -> bool:
        """The simulator's."""
        return self.world.fixed_start

    @property
    def num_evaluations(self) -> int:
        """The simulator's."""
        return self.world.num_evaluations

    @property
    def stack(self) -> Stack:
        """The layout of what is seen."""
        sizes = (self.world.observation_size, self.world.action_size, self.length)
        return Stack(*sizes, bool(self.world.ends_early))

    @property
    def action_low(self) -> Any:
        """The simulator's, None where it has no range of its own."""
        return getattr(self.world, "action_low", None)

    @property
    def action_high(self) -> Any:
        """The simulator's, None where it has no range of its own."""
        return getattr(self.world, "action_high", None)

    @property
    def observation_size(self) -> int:
        """Of the newest observation and its context."""
        return self.stack.observation_size

    @property
    def known_reward(self) -> Callable[..., Scalar] | None:
        """The simulator's, of the newest observation."""
        return None if self.world.known_reward is None else self._reward_of_newest

    def _reward_of_newest(self, observation: Array, action: Array, step: Step) -> Scalar:
        known: Any = self.world.known_reward
        return known(observation[: self.world.observation_size], action, step)

    def begin(self, state: object) -> tuple[Any, Float[Array, " observation"]]:
        """A state of the simulator without context."""
        return state, self.stack.begin(jnp.asarray(self.world.observe(state), float))

    def initial_state(self, *, key: PRNGKey) -> tuple[Any, Float[Array, " observation"]]:
        """The simulator's, without context."""
        return self.begin(self.world.initial_state(key=key))

    def observe(self, state: tuple[Any, Array]) -> Float[Array, " observation"]:
        """The newest observation and its context."""
        return state[1]

    def transition(
        self, state: tuple[Any, Array], action: Float[Array, " action"], step: Step, *, key: PRNGKey
    ) -> tuple[tuple[Any, Array], Scalar, Bool[Array, ""]]:
        """The simulator's."""
        own, seen = state
        following, reward, ended = self.world.transition(own, action, step, key=key)
        newest = jnp.asarray(self.world.observe(following), float)
        return (following, self.stack.follow(seen, action, newest)), reward, ended


@final
class HostWithContext(HostEnvironment):
    """What `with_context` makes of a simulator outside JAX."""

    def __init__(self, world: HostEnvironment, length: int):
        """Remembers as many pairs of every copy of the world."""
        self.world, self.name = world, f"{world.name}_context_{length}"
        self.horizon, self.action_size = world.horizon, world.action_size
        self.ends_early, self.fixed_start = world.ends_early, world.fixed_start
        self.num_evaluations, self.time_limit = world.num_evaluations, world.time_limit
        self.stack = Stack(world.observation_size, world.action_size, length, bool(world.ends_early))
        self.observation_size = self.stack.observation_size
        for name in _RANGE:
            if hasattr(world, name):
                setattr(self, name, getattr(world, name))
        if world.known_reward is not None:
            self.known_reward = self._reward_of_newest

    def _reward_of_newest(self, observation: Array, action: Array, step: Step) -> Scalar:
        known: Any = self.world.known_reward
        return known(observation[: self.world.observation_size], action, step)

    @property
    def _simulator(self) -> HostEnvironment:
        return self.world

    def _first_seen(self, observations: np.ndarray) -> np.ndarray:
        self._seen = self.stack.begin(observations)
        return self._seen

    def _next_seen(self, actions: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self._seen = self.stack.follow(self._seen, actions, observations)
        return self._seen

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "copies observation"]:
        """First observations, without context."""
        return self._first_seen(np.asarray(self.world.reset(seeds), np.float32))

    def step(
        self, actions: Float[np.ndarray, "copies action"]
    ) -> tuple[Float[np.ndarray, "copies observation"], Float[np.ndarray, " copies"], Any]:
        """The world's step, with the observations before it as a context."""
        observations, rewards, ended = self.world.step(actions)
        return self._next_seen(actions, np.asarray(observations, np.float32)), rewards, ended

    def close(self) -> None:
        """Closes the world."""
        self.world.close()


def observed_task(world: object) -> ObservedTask | None:
    """The partly seen task that a world is, with a context or without one."""
    inner = world.world if isinstance(world, WithContext) else world
    return inner if isinstance(inner, ObservedTask) else None


def with_start(world: AbstractSimulator, state: object) -> object:
    """A task's initial state as the world's."""
    return world.begin(state) if isinstance(world, WithContext) else state
