"""Frozen input and output scales: one set of statistics for the networks of a run."""

from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import Scalar, Trajectory
from ..tasks.environment import AbstractEnvironment, random_episodes
from ..tasks.spec import Spec
from ..tasks.stack import Stack


DifferenceUnit = Literal["typical", "state"]
Networks = TypeVar("Networks")

NUM_EPISODES = 64
# Of the typical difference of a component in its spread, and of a step's reward in that of the returns.
FLOOR = 1e-3
# What spreads less than this share of its own size does not move at all.
STILL = 1e-4
# The same of returns, which may be sums of large numbers.
SPREAD_FLOOR = 1e-6
# The least that counts as the typical difference of `alive`, which is 1 once in an episode.
TYPICAL_END = 0.1


def reference_episodes(env: AbstractEnvironment) -> Trajectory:
    """64 random episodes under a fixed key: statistics for a network that is built without data."""
    return jax.jit(lambda key: random_episodes(env, NUM_EPISODES, key=key))(jax.random.key(0))


def spread(
    values: Float[Array, "..."], least: float = SPREAD_FLOOR, axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Standard deviation, at least a share `least` of the largest value; 1 where all values are zero."""
    found = jnp.maximum(values.std(axis=axis), least * jnp.abs(values).max(axis=axis))
    return jnp.where(found > 0, found, 1.0)


class Normaliser(eqx.Module):
    """Mean and scale of every state component, and the typical size of a state difference over one step.

    Never trained: gradients stop here. A component that (almost) never moves gets a small share of its own size as its
    scale, whatever its unit.

    Attributes:
        mean: over all states of the episodes.
        scale: standard deviation of the states, at least 1e-4 of the largest one.
        difference_scale: root mean square of `s_{t+1} - s_t`, at least 1e-3 of `scale`.
    """

    mean: Float[Array, " state"]
    scale: Float[Array, " state"]
    difference_scale: Float[Array, " state"]

    @classmethod
    def from_states(
        cls, states: Float[Array, "episodes horizon_plus_1 state"], ends_early: bool = False
    ) -> "Normaliser":
        """The statistics of whole episodes.

        Args:
            states: of the episodes.
            ends_early: whether the last component is `alive`, which is normalised to itself: a first end may be seen
                long after these episodes.
        """
        mean = states.mean(axis=(0, 1))
        scale = spread(states, STILL, (0, 1))
        difference = jnp.sqrt(jnp.square(states[:, 1:] - states[:, :-1]).mean(axis=(0, 1)))
        difference = jnp.maximum(difference, FLOOR * scale)
        if ends_early:
            mean, scale = mean.at[-1].set(0.0), scale.at[-1].set(1.0)
            difference = difference.at[-1].set(jnp.maximum(difference[-1], TYPICAL_END))
        return cls(mean, scale, difference)

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

    def of(self, stack: Stack | None) -> "Normaliser":
        """The statistics of what a model predicts, where that is not all of a state."""
        return self if stack is None else jax.tree.map(lambda x: x[stack.told], self)

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
    """Mean and scale of the rewards, separate for the last step, whose reward includes the terminal one.

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
        before, last = rewards[:, :-1], rewards[:, -1]
        scale = jnp.maximum(before.std(), FLOOR * spread(rewards.sum(axis=1)) / rewards.shape[1])
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
