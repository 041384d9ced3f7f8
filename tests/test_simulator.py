"""Simulators in JAX: any state, a part of it observed, noise, an early end; trained as one compiled program."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.learners.base import start_key
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import AbstractActor
from asmpg.tasks.simulator import simulate
from asmpg.training.loop import is_refresh
from asmpg.training.runs.lifecycle import start
from toys import bits
from wanderer import Wanderer


pytestmark = pytest.mark.usefixtures("quickly")
SMALL = {"warmup_steps": 16, "model_batch_size": 2, "policy_batch_size": 2}


class State(NamedTuple):
    position: jax.Array
    hidden: jax.Array
    count: int


class Drifting(asmpg.AbstractSimulator):
    """A position that is seen, a drift that is not, noise, and an end beyond 1."""

    name: str = "drifting"
    horizon: int = 8
    observation_size: int = 1
    action_size: int = 1
    noise: float = 0.1
    ends_early: bool = True

    def initial_state(self, *, key):
        return State(jnp.zeros(1), 0.2 * jax.random.normal(key, (1,)), 0)

    def observe(self, state):
        return state.position

    def transition(self, state, action, step, *, key):
        noise = self.noise * jax.random.normal(key, (1,))
        position = state.position + 0.3 * action + state.hidden + noise
        return State(position, state.hidden, state.count + 1), -jnp.abs(position[0]), position[0] > 1


class Push(AbstractActor):
    """Always the same action; it counts what it is told."""

    action: float = 1.0

    def begin(self):
        return jnp.zeros(())

    def act(self, carry, state, step, noise=None):
        return jnp.full((1,), self.action)

    def observe(self, carry, state, step, action, reward):
        return carry + 1


def episodes_of(simulator, number=8, action=1.0):
    keys = jax.random.split(jax.random.key(1), number)
    return jax.jit(jax.vmap(lambda key: simulate(simulator, Push(action), key=key)))(keys)


def test_an_early_end_is_padded_and_its_steps_are_not_counted():
    episodes, lengths = episodes_of(Drifting())
    states, rewards = np.asarray(episodes.states), np.asarray(episodes.rewards)
    assert states.shape == (8, 9, 2) and lengths.min() < lengths.max() <= 8
    for i, length in enumerate(lengths):
        ended = states[i, length, 0] > 1
        np.testing.assert_array_equal(states[i, :, 1], np.arange(9) < (length if ended else 9))
        assert (states[i, length:, 0] == states[i, length, 0]).all()
        assert (rewards[i, length:] == 0).all() and (rewards[i, :length] != 0).all()
        assert (np.asarray(episodes.actions)[i, length:] == 0).all()


def test_steps_are_the_simulators_own():
    """Without noise, the difference of two observations is the action's and the hidden drift's."""
    episodes, lengths = episodes_of(Drifting(noise=0.0, ends_early=False), 2, 0.5)
    assert lengths.tolist() == [8, 8] and episodes.states.shape == (2, 9, 1)
    moved = np.diff(np.asarray(episodes.states)[:, :, 0], axis=1)
    np.testing.assert_allclose(moved, moved[:, :1] * np.ones(8), rtol=1e-4)
    assert moved[0, 0] != moved[1, 0]
    np.testing.assert_allclose(episodes.rewards, -np.abs(episodes.states[:, 1:, 0]), rtol=1e-6)


def test_noise_and_starts_are_of_the_key_alone():
    among = episodes_of(Drifting(), 4)[0]
    again = episodes_of(Drifting(), 4)[0]
    assert bits(among) == bits(again)
    assert len(np.unique(np.asarray(among.states[:, 1, 0]))) == 4


# Training


def config(env=None, **options) -> asmpg.TrainConfig:
    given = {"model": "one-step", "steps": 40, "chunk_steps": 8, "overrides": SMALL, **options}
    return asmpg.TrainConfig(Drifting() if env is None else env, **given)


@pytest.fixture(scope="module")
def both(quickly):
    """A run of two seeds."""
    return asmpg.train(config(num_seeds=2))


def test_a_policy_is_trained_in_it_and_real_steps_are_counted(both):
    assert np.isfinite(both.returns).all() and both.scores is None
    lengths = np.asarray((both.replay.episodes.states[:, :, :-1, -1] > 0).sum(axis=(1, 2)))
    np.testing.assert_array_equal(both.metrics["simulated_steps"][-1], lengths)
    assert (lengths >= both.steps).all() and (lengths < both.steps + 8).all()
    assert (both.replay.count > both.steps // 8).any(), "an episode that ended early is followed by another"
    records = len(both.metrics["steps"])
    assert (both.metrics["evaluation_steps"][-1] <= records * 10 * 8).all()
    np.testing.assert_allclose(both.evaluate(), both.returns, rtol=1e-5)


@pytest.mark.thorough
def test_a_seed_alone_is_the_seed_among_others(both):
    alone = asmpg.train(config(seed=1))
    for name in ("return", "return_spread", "model_loss", "reward_loss", "simulated_steps"):
        np.testing.assert_allclose(
            alone.metrics[name][:, 0], both.metrics[name][:, 1], rtol=1e-3, err_msg=name
        )


@pytest.mark.thorough
def test_a_stopped_run_goes_on_bit_for_bit(both, tmp_path):
    records = iter(range(10))
    half = config(num_seeds=2, out=str(tmp_path / "half")).checked()
    stopped = start(half, lambda progress: None, lambda: next(records) > 1)
    assert 0 < stopped.steps < both.steps
    resumed = asmpg.resume(tmp_path / "half", task=Drifting())
    assert bits((resumed.policy, resumed.model)) == bits((both.policy, both.model))
    with pytest.raises(asmpg.UsageError, match="is not what the run was started with"):
        asmpg.load(tmp_path / "half", task=Drifting(noise=0.2))


def test_the_first_episode_is_what_the_untrained_explorer_does(both):
    learner = config().learner()
    learner_key, warmup_key, _ = jax.random.split(jax.random.key(0), 3)
    key = jax.random.split(warmup_key, 2)[0]

    @eqx.filter_jit
    def alone():
        state = learner.init(Normaliser.unknown(2), key=learner_key)
        return simulate(Drifting(), learner.explorer(state, key=key), key=start_key(key))[0]

    first = jax.tree.map(lambda x: x[0, 0], both.replay.episodes)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(alone()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_statistics_are_those_of_the_episodes_so_far(both):
    """Taken again after 2 and 4 episodes: each seed's differ from the warm-up's, and models share the policy's."""
    means = np.asarray(both.policy.normaliser.mean)
    warmup = np.asarray(both.replay.episodes.states[:, :2, :, 0].mean(axis=(1, 2)))
    assert (np.abs(means[:, 0] - warmup) > 1e-6).all()
    np.testing.assert_array_equal(means, both.model.normaliser.mean)
    assert [n for n in range(1, 200) if is_refresh(n)] == [1, 2, 4, 8, 16, 32, 64]


# What is refused


class Explodes(Drifting):
    """After three steps it divides by zero."""

    def transition(self, state, action, step, *, key):
        following, reward, ended = super().transition(state, action, step, key=key)
        return following, jnp.where(state.count == 3, reward / 0, reward), ended


def test_a_number_that_is_not_finite_ends_the_run_in_one_line(tmp_path):
    given = config(Explodes(ends_early=False), model=Wanderer, out=str(tmp_path / "run"), seed=3, steps=16)
    with pytest.raises(asmpg.UsageError) as caught:
        asmpg.train(given)
    assert (
        str(caught.value)
        == "transition of drifting, at step 3 (seed 3): returned a number that is not finite"
    )


class Wrong(Drifting):
    """Goes wrong in one way."""

    how: str = ""

    def observe(self, state):
        if self.how == "raise":
            raise ValueError("no\nsensor")
        return jnp.zeros(2) if self.how == "shape" else state.position

    def transition(self, state, action, step, *, key):
        following, reward, ended = super().transition(state, action, step, key=key)
        if self.how == "pair":
            return following, reward
        if self.how == "vector":
            return following, reward[None], ended
        return (following._replace(hidden=jnp.zeros(3)) if self.how == "state" else following), reward, ended


@pytest.mark.parametrize(
    ("how", "said"),
    {
        "raise": "observe of drifting: raised ValueError: no",
        "shape": "observe of drifting: must be numbers of shape (1,), got shape (2,)",
        "pair": "transition of drifting: must return the next state, the reward, and whether it has ended",
        "vector": "reward that transition of drifting returns: must be numbers of shape (), got shape (1,)",
        "state": "transition of drifting: returns a state of another structure than initial_state",
    }.items(),
)
def test_what_a_simulator_does_wrong_is_said_in_one_line(how, said):
    with pytest.raises(asmpg.UsageError) as caught:
        config(Wrong(how=how)).checked()
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (lambda: config(model="simulator").checked(), "model: simulator needs a task written in JAX"),
        (lambda: config(record_cosine=True).checked(), "record_cosine: needs the derivatives"),
        (lambda: config(optimum=True).checked(), "optimum: needs an optimum"),
        (lambda: config(Drifting(horizon=1)).checked(), "horizon: must be"),
        (lambda: asmpg.optimal(Drifting()), "optimal: drifting is a simulator"),
        (lambda: asmpg.check_gradient(Drifting()), "check_gradient: drifting is a simulator"),
        (lambda: config().environment(), "task: drifting is a simulator"),
    ],
)
def test_what_needs_a_task_is_refused(refused, named):
    with pytest.raises(asmpg.UsageError) as caught:
        refused()
    assert named in str(caught.value) and "\n" not in str(caught.value)


FILE = """
import jax.numpy as jnp
import asmpg

class Still(asmpg.AbstractSimulator):
    name: str = "still"
    horizon: int = 5
    observation_size: int = 1
    action_size: int = 1

    def initial_state(self, *, key):
        return jnp.zeros(1)

    def observe(self, state):
        return state

    def transition(self, state, action, step, *, key):
        return state, 0.0, False
"""


def test_a_file_may_hold_a_simulator(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    env = asmpg.TrainConfig(f"{path}:Still", 5, model="one-step", steps=20).world()
    assert isinstance(env, asmpg.AbstractSimulator) and env.horizon == 5
