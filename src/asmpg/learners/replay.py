"""A ring of whole episodes on the device."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..core.types import PRNGKey, Trajectory
from ..tasks.spec import Spec


class ReplayBuffer(eqx.Module):
    """The last `capacity` episodes.

    Attributes:
        episodes: storage, one row an episode; rows never written are zero.
        count: number of episodes added so far, which may exceed the capacity.
    """

    episodes: Trajectory
    count: Int[Array, ""]

    @classmethod
    def create(cls, env: Spec, capacity: int) -> "ReplayBuffer":
        """An empty buffer for `capacity` episodes."""
        return cls(
            Trajectory(
                jnp.zeros((capacity, env.horizon + 1, env.state_size)),
                jnp.zeros((capacity, env.horizon, env.action_size)),
                jnp.zeros((capacity, env.horizon)),
            ),
            jnp.zeros((), jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """The number of rows."""
        return self.episodes.rewards.shape[0]

    def add(self, episode: Trajectory) -> "ReplayBuffer":
        """Writes one episode over the oldest."""
        row = self.count % self.capacity
        written = jax.tree.map(lambda old, new: old.at[row].set(new), self.episodes, episode)
        return type(self)(written, self.count + 1)

    def sample(self, num_episodes: int, *, key: PRNGKey) -> Trajectory:
        """Draws whole episodes uniformly, with replacement, from those stored."""
        rows = jax.random.randint(key, (num_episodes,), 0, jnp.minimum(self.count, self.capacity))
        return jax.tree.map(lambda leaf: leaf[rows], self.episodes)

    def initial_states(self, num_states: int, *, key: PRNGKey) -> Float[Array, "num_states state"]:
        """Draws initial states uniformly, with replacement, from the stored episodes."""
        rows = jax.random.randint(key, (num_states,), 0, jnp.minimum(self.count, self.capacity))
        return self.episodes.states[rows, 0]
