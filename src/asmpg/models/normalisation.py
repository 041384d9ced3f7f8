"""Frozen input and output scales: one set of statistics for the networks of a run."""

from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import Scalar, Trajectory
from ..tasks.environment import AbstractEnvironment, random_episodes
from ..tasks.spec import Spec


DifferenceUnit = Literal["typical", "state"]
Networks = TypeVar("Networks")

NUM_EPISODES = 64
FLOOR = 1e-3
# Returns that spread less than this, in the task's units, do not spread at all.
SPREAD_FLOOR = 1e-6


def reference_episodes(env: AbstractEnvironment) -> Trajectory:
    """64 random episodes under a fixed key: statistics for a network that is built without data."""
    return jax.jit(lambda key: random_episodes(env, NUM_EPISODES, key=key))(jax.random.key(0))


class Normaliser(eqx.Module):
    """Mean and scale of every state component, and the typical size of a state difference over one step.

    Never trained: gradients stop here. A component that (almost) never moves gets the floor as its scale.

    Attributes:
        mean: over all states of the episodes.
        scale: standard deviation of the states, at least 1e-3.
        difference_scale: root mean square of `s_{t+1} - s_t`, at least 1e-3 of `scale`.
    """

    mean: Float[Array, " state"]
    scale: Float[Array, " state"]
    difference_scale: Float[Array, " state"]

    @classmethod
    def from_states(cls, states: Float[Array, "episodes horizon_plus_1 state"]) -> "Normaliser":
        """The statistics of whole episodes."""
        mean = states.mean(axis=(0, 1))
        scale = jnp.maximum(states.std(axis=(0, 1)), FLOOR)
        difference = jnp.sqrt(jnp.square(states[:, 1:] - states[:, :-1]).mean(axis=(0, 1)))
        return cls(mean, scale, jnp.maximum(difference, FLOOR * scale))

    @classmethod
    def from_random_episodes(cls, env: Spec) -> "Normaliser":
        """The statistics of 64 episodes of uniform random actions under a fixed key.

        Of a world outside JAX nothing is known before its first episodes.
        """
        if isinstance(env, AbstractEnvironment):
            return cls.from_states(reference_episodes(env).states)
        return cls.unknown(env.state_size)

    @classmethod
    def unknown(cls, state_size: int) -> "Normaliser":
        """Of a world whose units are not known yet: every finite state is normalised to zero."""
        return cls(jnp.zeros(state_size), jnp.full(state_size, jnp.inf), jnp.ones(state_size))

    def normalise(self, state: Float[Array, "*batch state"]) -> Float[Array, "*batch state"]:
        """Environment units to normalised ones."""
        return (state - jax.lax.stop_gradient(self.mean)) / jax.lax.stop_gradient(self.scale)

    def denormalise(self, state: Float[Array, "*batch state"]) -> Float[Array, "*batch state"]:
        """Normalised units to environment ones."""
        return jax.lax.stop_gradient(self.mean) + jax.lax.stop_gradient(self.scale) * state

    @property
    def relative_difference(self) -> Float[Array, " state"]:
        """The typical difference in normalised units; a constant to derivatives."""
        return jax.lax.stop_gradient(self.difference_scale / self.scale)

    def difference_scale_in(self, unit: DifferenceUnit) -> Float[Array, " state"]:
        """One "typical" difference, or the spread of the "state", in environment units; a constant to derivatives."""
        return jax.lax.stop_gradient(self.difference_scale if unit == "typical" else self.scale)

    def scale_difference(
        self, difference: Float[Array, "*batch state"], unit: DifferenceUnit = "typical"
    ) -> Float[Array, "*batch state"]:
        """Differences in a unit of theirs to environment units."""
        return self.difference_scale_in(unit) * difference

    def unscale_difference(
        self, difference: Float[Array, "*batch state"], unit: DifferenceUnit = "typical"
    ) -> Float[Array, "*batch state"]:
        """Environment units to a unit of differences."""
        return difference / self.difference_scale_in(unit)


class RewardScale(eqx.Module):
    """Mean and scale of the rewards, apart for the last step, whose reward includes the terminal one.

    Never trained, like `Normaliser`. The two differ by orders of magnitude where a task pays at the end only; in common
    units, the running rewards of such a task would drown in the error of the terminal one.

    Attributes:
        mean: over all steps but the last.
        scale: standard deviation over these steps, at least 1e-3 of what a step is to the spread of the returns.
        last_mean: of the reward of the last step.
        last_scale: standard deviation of that reward, at least `scale`.
    """

    mean: Scalar
    scale: Scalar
    last_mean: Scalar
    last_scale: Scalar

    @classmethod
    def from_random_episodes(cls, env: Spec) -> "RewardScale":
        """The statistics of the episodes that `Normaliser.from_random_episodes` takes."""
        if isinstance(env, AbstractEnvironment):
            return cls.from_rewards(reference_episodes(env).rewards)
        return cls.unknown()

    @classmethod
    def unknown(cls) -> "RewardScale":
        """Of a world whose units are not known yet."""
        return cls(jnp.zeros(()), jnp.ones(()), jnp.zeros(()), jnp.ones(()))

    @classmethod
    def from_rewards(cls, rewards: Float[Array, "episodes horizon"]) -> "RewardScale":
        """The statistics of whole episodes."""
        spread = jnp.maximum(rewards.sum(axis=1).std(), SPREAD_FLOOR)
        before, last = rewards[:, :-1], rewards[:, -1]
        scale = jnp.maximum(before.std(), FLOOR * spread / rewards.shape[1])
        return cls(before.mean(), scale, last.mean(), jnp.maximum(last.std(), scale))


def with_normaliser(networks: Networks, normaliser: Normaliser) -> Networks:
    """The networks, in any pytree, with every normaliser in it replaced; numbers keep their precision."""

    def replaced(node: Normaliser) -> Normaliser:
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), normaliser, node)

    def is_normaliser(node: object) -> bool:
        return isinstance(node, Normaliser)

    return jax.tree.map(
        lambda node: replaced(node) if is_normaliser(node) else node, networks, is_leaf=is_normaliser
    )
