"""Simulators in JAX that are more than a flat vector: any state, a part of it observed, noise, an early end."""

import abc
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..core.types import PRNGKey, Scalar, Step
from .host import HostEnvironment


class AbstractSimulator(eqx.Module):
    """A simulator written in JAX whose state is any pytree. One unbatched copy; `jax.vmap` belongs to the caller.

    Its reward is learned, since it may depend on what is not observed.

    Attributes:
        name: short name.
        horizon: number of actions in an episode.
        observation_size: number of components of what `observe` gives.
        action_size: number of action components, each in [-1, 1].
    """

    name: eqx.AbstractVar[str]
    horizon: eqx.AbstractVar[int]
    observation_size: eqx.AbstractVar[int]
    action_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def initial_state(self, *, key: PRNGKey) -> Any:
        """The state before the first action."""

    @abc.abstractmethod
    def observe(self, state: Any) -> Float[Array, " observation"]:
        """What networks see of a state."""

    @abc.abstractmethod
    def transition(
        self, state: Any, action: Float[Array, " action"], step: Step, *, key: PRNGKey
    ) -> tuple[Any, Scalar, Bool[Array, ""]]:
        """The next state, the reward, and whether the episode has ended there. The key is for noise."""


def from_simulator(
    simulator: AbstractSimulator, *, ends_early: bool = True, num_evaluations: int = 10
) -> "SimulatorWorld":
    """A simulator as a world to train in.

    Its steps are compiled, for all copies at once; episodes are played step by step from Python, as in any world whose
    derivatives are not known.

    Args:
        simulator: the simulator.
        ends_early: whether an episode may end before the horizon.
        num_evaluations: episodes that a policy is evaluated on.
    """
    world = SimulatorWorld(simulator)
    world.ends_early, world.num_evaluations = ends_early, num_evaluations
    return world


@final
class SimulatorWorld(HostEnvironment):
    """What `from_simulator` makes."""

    def __init__(self, simulator: AbstractSimulator):
        """Compiles nothing yet."""
        self.name, self.horizon = simulator.name, simulator.horizon
        self.observation_size, self.action_size = simulator.observation_size, simulator.action_size

        def begin(seed: Array) -> tuple[Any, PRNGKey, Array]:
            start_key, noise_key = jax.random.split(jax.random.key(seed))
            state = simulator.initial_state(key=start_key)
            return state, noise_key, simulator.observe(state)

        def step(state: Any, key: PRNGKey, action: Array, step: Array) -> tuple[Any, Array, Array, Array]:
            key = jax.random.fold_in(key, step)
            state, reward, ended = simulator.transition(state, action, step, key=key)
            return state, simulator.observe(state), reward, ended

        self._begin = jax.jit(jax.vmap(begin))
        self._step = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)))

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "copies observation"]:
        """Begins an episode in every copy."""
        self._now = 0
        self._state, self._keys, observations = self._begin(jnp.asarray(seeds))
        return np.asarray(observations)

    def step(
        self, actions: Float[np.ndarray, "copies action"]
    ) -> tuple[Float[np.ndarray, "copies observation"], Float[np.ndarray, " copies"], np.ndarray]:
        """One step in every copy."""
        self._state, *seen = self._step(self._state, self._keys, actions, self._now)
        self._now += 1
        observations, rewards, ended = map(np.asarray, seen)
        return observations, rewards, ended
