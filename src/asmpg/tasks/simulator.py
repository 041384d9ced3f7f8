"""Simulators in JAX that are more than a flat vector: any state, a part of it observed, noise, an early end."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..core.checks import check_integer, MAX_HORIZON
from ..core.types import OF_USERS, one_line, PRNGKey, Scalar, Step, Trajectory, UsageError
from .environment import AbstractActor


class AbstractSimulator(eqx.Module):
    """A simulator written in JAX whose state is any pytree. One unbatched copy; `jax.vmap` belongs to the caller.

    Training in it is one compiled program, as for a task. Its derivatives are never taken. Its reward is learned,
    since it may depend on what is not observed, unless `known_reward` says what it is.

    Attributes:
        name: short name.
        horizon: number of actions in an episode.
        observation_size: number of components of what `observe` gives.
        action_size: number of action components, each in [-1, 1].
        ends_early: whether an episode may end before the horizon. Networks then see one more component, `alive`: 1, and
            0 once the episode has ended; the last observation stays and rewards are 0. Otherwise what `transition`
            says of an end is not looked at.
        fixed_start: whether every episode begins in the same state.
        num_evaluations: episodes that a policy is evaluated on at each record, the same for all.
        known_reward: a method `known_reward(observation, action, step)` that gives the reward of a step, where that
            depends on nothing else; imagination then uses it, and no reward is learned.
    """

    name: eqx.AbstractVar[str]
    horizon: eqx.AbstractVar[int]
    observation_size: eqx.AbstractVar[int]
    action_size: eqx.AbstractVar[int]
    # Without annotations, so that a subclass may make fields of them, in its own order.
    ends_early = True
    fixed_start = False
    num_evaluations = 10
    known_reward = None

    @abc.abstractmethod
    def initial_state(self, *, key: PRNGKey) -> Any:
        """The state before the first action."""

    @abc.abstractmethod
    def observe(self, state: object) -> Float[Array, " observation"]:
        """What networks see of a state."""

    @abc.abstractmethod
    def transition(
        self, state: object, action: Float[Array, " action"], step: Step, *, key: PRNGKey
    ) -> tuple[Any, Scalar, Bool[Array, ""]]:
        """The next state, the reward, and whether the episode has ended there. The key is for noise."""

    @property
    def state_size(self) -> int:
        """Components that networks see: the observation's and, where episodes end early, `alive`."""
        return self.observation_size + bool(self.ends_early)

    def identity(self) -> None:
        """Nothing is kept on disk about a simulator."""


def simulate(
    simulator: AbstractSimulator, actor: AbstractActor, *, key: PRNGKey, start: object = None
) -> tuple[Trajectory, Int[Array, ""]]:
    """One episode.

    Args:
        simulator: the simulator.
        actor: chooses the actions; its actions are clipped to [-1, 1].
        key: for the initial state and the simulator's noise.
        start: the initial state, instead of one that is drawn.

    Returns:
        What networks see of the episode, padded where it ended early, and how many steps it really had.
    """
    start_key, noise_key = jax.random.split(key)
    start = simulator.initial_state(key=start_key) if start is None else start

    def see(state: object, alive: Array) -> Array:
        observation = jnp.asarray(simulator.observe(state), float)
        return jnp.append(observation, alive.astype(float)) if simulator.ends_early else observation

    def body(carries: tuple[Any, ...], step: Array) -> tuple[Any, tuple[Array, ...]]:
        state, seen, alive, own = carries
        action = jnp.clip(jnp.where(alive, actor.act(own, seen, step), 0.0), -1.0, 1.0)
        step_key = jax.random.fold_in(noise_key, step)
        following, reward, ended = simulator.transition(state, action, step, key=step_key)
        reward = jnp.where(alive, jnp.asarray(reward, float), 0.0)
        own = actor.observe(own, seen, step, action, reward) if own is not None else None
        following = jax.tree.map(_like, following, state)
        if not simulator.ends_early:
            return (following, see(following, alive), alive, own), (seen, action, reward, alive)
        still = alive & ~jnp.asarray(ended, bool)
        following = jax.tree.map(lambda new, old: jnp.where(alive, new, old), following, state)
        return (following, see(following, still), still, own), (seen, action, reward, alive)

    alive = jnp.asarray(True)
    start = jax.tree.map(jnp.asarray, start)
    first = (start, see(start, alive), alive, actor.begin())
    last, (seen, actions, rewards, lived) = jax.lax.scan(body, first, jnp.arange(simulator.horizon))
    states = jnp.concatenate([seen, last[1][None]])
    return Trajectory(states, actions, rewards), lived.sum(dtype=jnp.int32)


def _like(new: Any, old: Array) -> Array:
    """A leaf of the next state in the type of the first one's: a simulator may begin with integers or Python floats."""
    return new if getattr(new, "dtype", None) == old.dtype else jnp.asarray(new, old.dtype)


def check_simulator(simulator: AbstractSimulator) -> None:
    """Checks what a simulator declares and, without running it, what its functions return.

    Raises:
        UsageError: one line that names the attribute or the function.
    """
    name = simulator.name
    check_integer(f"horizon of {name}", simulator.horizon, 2, MAX_HORIZON)
    for attribute in ("observation_size", "action_size", "num_evaluations"):
        check_integer(f"{attribute} of {name}", getattr(simulator, attribute), 1)
    key = jax.random.key(0)
    action = jax.ShapeDtypeStruct((simulator.action_size,), jnp.result_type(float))
    step = jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)
    start = traced(f"initial_state of {name}", lambda key: simulator.initial_state(key=key), key)
    observation = traced(f"observe of {name}", simulator.observe, start)
    expect(f"observe of {name}", observation, (simulator.observation_size,))

    def transition(state: object, action: Array, step: Array, key: PRNGKey) -> Any:
        return simulator.transition(state, action, step, key=key)

    result = traced(f"transition of {name}", transition, start, action, step, key)
    if not isinstance(result, tuple) or len(result) != 3:
        raise UsageError(
            f"transition of {name}: must return the next state, the reward, and whether it has ended"
        )
    following, reward, ended = result
    expect(f"reward that transition of {name} returns", reward, ())
    expect(f"end that transition of {name} returns", ended, ())
    structures = [jax.tree.structure(state) for state in (start, following)]
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(state)] for state in (start, following)]
    if structures[0] != structures[1] or shapes[0] != shapes[1]:
        raise UsageError(f"transition of {name}: returns a state of another structure than initial_state")


def flat(observation: object) -> Float[Array, " observation"]:
    """Arrays in any pytree as one vector."""
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, float)) for leaf in jax.tree.leaves(observation)])


def scaled(
    action: Float[Array, " action"], low: tuple[float, ...], high: tuple[float, ...]
) -> Float[Array, " action"]:
    """An action in [-1, 1] in the units of its range."""
    lowest, highest = jnp.asarray(low, action.dtype), jnp.asarray(high, action.dtype)
    return (highest + lowest) / 2 + (highest - lowest) / 2 * action


def traced(label: str, function: Callable[..., Any], *arguments: object) -> Any:
    """The shapes that a user's function returns.

    Raises:
        UsageError: it raises an error.
    """
    try:
        return jax.eval_shape(function, *arguments)
    except UsageError:
        raise
    except OF_USERS as error:  # whatever the user's code raises, the message names the function
        raise UsageError(f"{label}: raised {one_line(error)}") from error


def expect(label: str, value: object, shape: tuple[int, ...]) -> None:
    """Raises a UsageError unless the value has this shape."""
    got = getattr(value, "shape", None)
    if got != shape:
        shown = f"a {type(value).__name__}" if got is None else f"shape {got}"
        raise UsageError(f"{label}: must be numbers of shape {shape}, got {shown}")
