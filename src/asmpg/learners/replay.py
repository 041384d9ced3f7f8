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
    def create(cls, env: Spec, capacity: int, recorded: Trajectory | None = None) -> "ReplayBuffer":
        """A buffer for `capacity` episodes: empty, or beginning with recorded ones, of which there are fewer."""
        empty = cls(
            Trajectory(
                jnp.zeros((capacity, env.horizon + 1, env.state_size)),
                jnp.zeros((capacity, env.horizon, env.action_size)),
                jnp.zeros((capacity, env.horizon)),
            ),
            jnp.zeros((), jnp.int32),
        )
        if recorded is None:
            return empty
        number = recorded.rewards.shape[0]
        rows = jax.tree.map(lambda old, new: old.at[:number].set(new), empty.episodes, recorded)
        return cls(rows, jnp.asarray(number, jnp.int32))

    @classmethod
    def full(cls, episodes: Trajectory) -> "ReplayBuffer":
        """A buffer of these episodes (leading axis) and no room for more."""
        return cls(episodes, jnp.asarray(episodes.rewards.shape[0], jnp.int32))

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

    def windows(self, num_windows: int, length: int, *, key: PRNGKey, ends_early: bool = False) -> Trajectory:
        """Draws stretches of stored episodes uniformly, with replacement, from all that begin before an end.

        Args:
            num_windows: how many.
            length: steps of each; at most the horizon.
            key: for the draws.
            ends_early: whether the last component of a state says whether the episode has ended.
        """
        horizon = self.episodes.rewards.shape[1]
        rows, starts = self._places(num_windows, horizon - length + 1, ends_early, key)

        return self.cut(rows, starts, length)

    def cut(self, rows: Int[Array, " windows"], starts: Int[Array, " windows"], length: int) -> Trajectory:
        """The stretches of this length that begin at these steps of these rows."""
        steps = starts[:, None] + jnp.arange(length)
        before = self.episodes.states[rows[:, None], steps]
        last = self.episodes.states[rows, starts + length]
        return Trajectory(
            jnp.concatenate([before, last[:, None]], axis=1),
            self.episodes.actions[rows[:, None], steps],
            self.episodes.rewards[rows[:, None], steps],
        )

    def observations(
        self, num_states: int, *, key: PRNGKey, ends_early: bool = False
    ) -> Float[Array, "num_states state"]:
        """Draws states before an end and before the horizon uniformly, with replacement."""
        rows, steps = self._places(num_states, self.episodes.rewards.shape[1], ends_early, key)
        return self.episodes.states[rows, steps]

    def _places(self, number: int, num_steps: int, ends_early: bool, key: PRNGKey) -> tuple[Array, Array]:
        """Rows and steps, uniformly from the first `num_steps` steps of all episodes, as far as they lasted."""
        row_key, step_key = jax.random.split(key)
        if not ends_early:
            rows = jax.random.randint(row_key, (number,), 0, jnp.minimum(self.count, self.capacity))
            return rows, jax.random.randint(step_key, (number,), 0, num_steps)
        stored = jnp.arange(self.capacity) < self.count
        # Found by halving: looking at every step of every episode would take as long as the update.
        ended = jax.vmap(lambda alive: jnp.searchsorted(-alive, 0.0))(self.episodes.states[:, :-1, -1])
        lengths = jnp.where(stored, jnp.minimum(ended, num_steps), 0)
        rows = jax.random.categorical(row_key, jnp.log(lengths.astype(float)), shape=(number,))
        return rows, jax.random.randint(step_key, (number,), 0, lengths[rows])

    def initial_states(self, num_states: int, *, key: PRNGKey) -> Float[Array, "num_states state"]:
        """Draws initial states uniformly, with replacement, from the stored episodes."""
        rows = jax.random.randint(key, (num_states,), 0, jnp.minimum(self.count, self.capacity))
        return self.episodes.states[rows, 0]
