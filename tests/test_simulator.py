"""Simulators in JAX with a state of any kind, of which a part is observed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import asmpg
from asmpg.tasks.host import play, Watched


class State(NamedTuple):
    position: jax.Array
    hidden: jax.Array


class Drifting(asmpg.AbstractSimulator):
    """A position that is seen, a drift that is not, noise, and an end beyond 1."""

    name: str = "drifting"
    horizon: int = 8
    observation_size: int = 1
    action_size: int = 1
    noise: float = 0.1

    def initial_state(self, *, key):
        return State(jnp.zeros(1), 0.2 * jax.random.normal(key, (1,)))

    def observe(self, state):
        return state.position

    def transition(self, state, action, step, *, key):
        position = state.position + 0.3 * action + state.hidden + self.noise * jax.random.normal(key, (1,))
        return State(position, state.hidden), -jnp.abs(position[0]), position[0] > 1


def push(states, step):
    return np.ones((len(states), 1))


def test_episodes_are_those_of_their_seeds_and_end_early():
    world = asmpg.from_simulator(Drifting())
    among, lengths = play(Watched(world), [1, 2, 3, 4], push)
    alone, _ = play(Watched(world), [3], push)
    np.testing.assert_array_equal(alone.states[0], among.states[2])
    assert lengths.min() < 8
    assert among.states.shape == (4, 9, 2)
    assert len(np.unique(np.asarray(among.states[:, 1, 0]))) == 4


def test_steps_are_the_simulators_own():
    """Without noise, the difference of two observations is the action's and the hidden drift's."""
    world = asmpg.from_simulator(Drifting(noise=0.0), ends_early=False)
    world.horizon = 2
    episodes, _ = play(Watched(world), [5], push)
    moved = np.diff(np.asarray(episodes.states)[0, :, 0])
    np.testing.assert_allclose(moved, moved[0], rtol=1e-5)
    np.testing.assert_allclose(episodes.rewards[0], -np.abs(episodes.states[0, 1:, 0]), rtol=1e-6)


def test_a_policy_is_trained_in_it(quickly):
    small = {"warmup_steps": 16, "model_batch_size": 2, "policy_batch_size": 2}
    config = asmpg.TrainConfig(
        asmpg.from_simulator(Drifting()), model="one-step", steps=32, chunk_steps=8, overrides=small
    )
    result = asmpg.train(config)
    assert np.isfinite(result.returns).all()
    assert 0 < result.metrics["simulated_steps"][-1] <= 32
