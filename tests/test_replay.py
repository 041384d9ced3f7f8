"""The replay ring: the oldest goes first, only what was stored is drawn, and every episode equally often."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from asmpg.core.types import Trajectory
from asmpg.learners.replay import ReplayBuffer
from toys import Drift


CAPACITY = 4


def episode(index: int) -> Trajectory:
    """An episode whose every number says which one it is and where it stands."""
    env = Drift()
    states = 100.0 * index + jnp.arange((env.horizon + 1) * 3.0).reshape(-1, 3)
    actions = -100.0 * index - jnp.arange(env.horizon * 2.0).reshape(-1, 2)
    return Trajectory(states, actions, 100.0 * index + jnp.arange(float(env.horizon)))


def filled(num_episodes: int) -> ReplayBuffer:
    buffer = ReplayBuffer.create(Drift(), CAPACITY)
    add = eqx.filter_jit(lambda buffer, episode: buffer.add(episode))
    for index in range(1, num_episodes + 1):
        buffer = add(buffer, episode(index))
    return buffer


def drawn(buffer: ReplayBuffer, num: int, seed: int = 0) -> np.ndarray:
    """The indices of the episodes that a sample holds."""
    sample = eqx.filter_jit(lambda buffer, key: buffer.sample(num, key=key))(buffer, jax.random.key(seed))
    return np.asarray(sample.rewards[:, 0]) / 100


@pytest.mark.parametrize("num_episodes", [1, 3, 4, 5, 11])
def test_the_last_episodes_are_kept_and_only_they_are_drawn(num_episodes):
    buffer = filled(num_episodes)
    assert int(buffer.count) == num_episodes and buffer.capacity == CAPACITY
    kept = set(range(max(1, num_episodes - CAPACITY + 1), num_episodes + 1))
    assert set(drawn(buffer, 200)) == kept  # 200 draws of 4 miss one with probability 4 (3/4)^200
    starts = buffer.initial_states(200, key=jax.random.key(1))
    assert set(np.asarray(starts[:, 0]) / 100) == kept
    assert set(np.asarray(starts[:, 1] - starts[:, 0])) == {1.0}, "initial states are the first ones"


def test_episodes_come_out_whole():
    sample = filled(6).sample(10, key=jax.random.key(2))
    for row in range(10):
        ours = jax.tree.map(lambda leaf, row=row: leaf[row], sample)
        expected = episode(round(float(ours.rewards[0]) / 100))
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("num_episodes", [3, 9])
def test_draws_are_uniform(num_episodes):
    """Chi-square for a fixed key, before and after the ring closes."""
    buffer = filled(num_episodes)
    sample = eqx.filter_jit(lambda buffer, key: buffer.initial_states(3000, key=key)[:, 0])
    for values in (drawn(buffer, 3000, seed=3), np.asarray(sample(buffer, jax.random.key(4)))):
        counts = np.unique(values, return_counts=True)[1]
        assert len(counts) == min(num_episodes, CAPACITY)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_draws_follow_their_key():
    buffer = filled(4)
    np.testing.assert_array_equal(drawn(buffer, 20, seed=5), drawn(buffer, 20, seed=5))
    assert (drawn(buffer, 20, seed=5) != drawn(buffer, 20, seed=6)).any()
