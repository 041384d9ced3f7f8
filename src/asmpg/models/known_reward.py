"""The reward that a simulator says it pays, in place of a learned one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import Scalar, Step, Trajectory
from ..tasks.environment import AbstractReward, trajectory_rewards
from ..tasks.spec import alive, ends_early
from .normalisation import Normaliser, RewardScale


class RewardUnits(eqx.Module):
    """What is kept of a reward that need not be learned: the statistics in whose units a window's value counts.

    Attributes:
        normaliser: frozen statistics of the states.
        scale: of the rewards.
    """

    normaliser: Normaliser
    scale: RewardScale

    def with_statistics(self, normaliser: Normaliser, episodes: Trajectory) -> "RewardUnits":
        """Others: of states as given, of rewards those of episodes (leading axis)."""
        return RewardUnits(normaliser, RewardScale.from_rewards(episodes.rewards))


class KnownReward(AbstractReward):
    """A simulator's `known_reward`.

    Attributes:
        world: the simulator.
        units: the statistics.
    """

    world: Any
    units: RewardUnits

    @property
    def normaliser(self) -> Normaliser:
        """Of the states."""
        return self.units.normaliser

    @property
    def scale(self) -> RewardScale:
        """Of the rewards."""
        return self.units.scale

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`known_reward` of the observation, which is the state without `alive`."""
        value = self.world.known_reward(state[: self.world.observation_size], action, step)
        return self.while_alive(state, jnp.asarray(value, state.dtype))

    def while_alive(self, state: Float[Array, " state"], value: Scalar) -> Scalar:
        """The value, times `alive` where episodes end early."""
        return value * alive(state) if ends_early(self.world) else value

    def loss(self, trajectory: Trajectory) -> Scalar:
        """Mean squared error of the rewards of one episode, in normalised units; zero if what is said is paid."""
        predicted = trajectory_rewards(self, trajectory.states, trajectory.actions)
        unit = jax.lax.stop_gradient(self.scale.scale)
        return jnp.square((predicted - trajectory.rewards) / unit).mean()
