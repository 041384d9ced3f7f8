"""Partial observation of a task, and rewards that a simulator says itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.models.known_reward import KnownReward, RewardUnits
from asmpg.models.normalisation import Normaliser, RewardScale
from asmpg.tasks.environment import AbstractActor, evaluation_states
from asmpg.tasks.known import depends_on_step
from asmpg.tasks.simulator import simulate
from asmpg.tasks.world import evaluation_starts
from test_host import SMALL, Walk


pytestmark = pytest.mark.usefixtures("quickly")


class Actions(AbstractActor):
    """A sequence of actions."""

    actions: jax.Array

    def begin(self):
        return None

    def act(self, carry, state, step, noise=None):
        return self.actions[step]

    def observe(self, carry, state, step, action, reward):
        return None


# A part of a task


@pytest.mark.parametrize(("task", "seen"), [("double_pendulum", [2, 0]), ("hiv_treatment", 1)])
def test_motion_and_rewards_are_the_whole_tasks(task, seen):
    env = asmpg.make(task, 6)
    world = asmpg.observe(env, seen)
    actions = jax.random.uniform(jax.random.key(0), (6, env.action_size), minval=-1.0)
    episode, length = jax.jit(lambda key: simulate(world, Actions(actions), key=key))(jax.random.key(1))
    whole = asmpg.rollout(env, actions)
    np.testing.assert_allclose(episode.states, whole.states[:, np.atleast_1d(seen)], rtol=1e-5)
    np.testing.assert_allclose(episode.rewards, whole.rewards, rtol=1e-5)
    assert length == 6 and world.fixed_start


class Anywhere(asmpg.AbstractEnvironment):
    """Two numbers that begin anywhere and stay."""

    horizon: int = 4
    name: str = "anywhere"
    state_size = property(lambda self: 2)
    action_size = property(lambda self: 1)

    def initial_state(self, *, key=None):
        return jax.random.uniform(jax.random.key(0) if key is None else key, (2,))

    def transition(self, state, action, step):
        return state

    def reward(self, state, action, step):
        return -jnp.square(action[0] - state[0])


def test_a_range_of_actions_of_its_own_is_the_whole_tasks():
    class Valve(type(asmpg.make("double_pendulum", 5))):
        action_low = property(lambda self: np.array([0.0]))
        action_high = property(lambda self: np.array([7.0]))

    plain = asmpg.make("double_pendulum", 5)
    seen = asmpg.observe(Valve(**vars(plain)), [0])
    assert (seen.action_low, seen.action_high) == (0.0, 7.0)
    assert asmpg.observe(plain, [0]).action_low is asmpg.observe(plain, [0]).action_high is None


def test_the_evaluation_is_from_the_whole_tasks_states():
    world = asmpg.observe(Anywhere(), 0)
    np.testing.assert_array_equal(evaluation_starts(world), evaluation_states(Anywhere()))
    assert not world.fixed_start and world.num_evaluations == 64


def test_it_trains_and_a_score_is_the_whole_tasks(tmp_path):
    env = asmpg.make("hiv_treatment", 6)
    world = asmpg.observe(env, [0])
    options = {"model": "one-step", "steps": 36, "chunk_steps": 12, "overrides": SMALL}
    result = asmpg.train(world, out=tmp_path / "run", **options)
    wanted = [asmpg.score(env, value) for value in result.returns]
    np.testing.assert_allclose(result.scores, wanted, rtol=1e-6)
    assert result.policy.layers[0].weight.shape[1] == 1 + 1
    again = asmpg.load(tmp_path / "run", task=asmpg.observe(env, [0]))
    np.testing.assert_array_equal(again.scores, result.scores)
    with pytest.raises(asmpg.UsageError, match="not what the run was started with"):
        asmpg.load(tmp_path / "run", task=asmpg.observe(env, [1]))


@pytest.mark.parametrize(
    ("task", "seen", "known"),
    [
        ("hiv_treatment", [0], True),  # T cells and the dose pay
        ("hiv_treatment", [1, 2], False),
        ("double_pendulum", [0, 1, 2, 3], False),  # pays at the end only
        ("invasive_plant", [0, 1], False),
        ("harvest", [0], True),
    ],
)
def test_a_reward_is_known_if_it_depends_on_what_is_seen_alone(task, seen, known):
    env = asmpg.make(task, 6)
    world = asmpg.observe(env, seen)
    assert (world.known_reward is not None) == known
    if known:
        actions = jax.random.uniform(jax.random.key(0), (6, env.action_size), minval=-1.0)
        whole = asmpg.rollout(env, actions)
        states = whole.states[:-1, np.array(seen)]
        paid = jax.vmap(world.known_reward)(states, actions, jnp.arange(6))
        np.testing.assert_allclose(paid, whole.rewards, rtol=1e-5)
        assert depends_on_step(world) == (task == "harvest")


@pytest.mark.parametrize("components", [[], [3], [-1], [0, 0], [0.5], [True], "ab"])
def test_components_are_checked(components):
    with pytest.raises(
        asmpg.UsageError, match=r"observe: components: must be .* 0 to 2 of hiv_treatment"
    ) as caught:
        asmpg.observe(asmpg.make("hiv_treatment", 5), components)
    assert "\n" not in str(caught.value)


# A reward that is known


class Told(Walk):
    """A walk that says what it pays: of the next position it says nothing, so it pays for the one it sees."""

    def step(self, actions):
        before = self.at[:, 0].copy()
        observations, _, over = super().step(actions)
        return observations, -(before**2) - 0.1 * actions[:, 0] ** 2, over

    def known_reward(self, observation, action, step):
        return -(observation[0] ** 2) - 0.1 * action[0] ** 2


class Timed(Told):
    def known_reward(self, observation, action, step):
        return super().known_reward(observation, action, step) * step


def train(env, **overrides):
    return asmpg.train(env, model="one-step", steps=30, chunk_steps=6, overrides={**SMALL, **overrides})


def test_a_known_reward_is_used_and_none_is_learned():
    result = train(Told())
    np.testing.assert_allclose(result.metrics["reward_loss"], 0.0, atol=1e-8)
    np.testing.assert_allclose(result.metrics["reward_loss_on_policy"], 0.0, atol=1e-8)
    assert not result.config.learned_reward and np.isfinite(result.returns).all()


def test_in_windows_its_units_are_those_of_the_episodes():
    result = train(Told(), window=3)
    np.testing.assert_allclose(result.metrics["reward_loss"], 0.0, atol=1e-8)
    assert result.metrics["num_nonfinite"][-1] == 0


def test_nothing_is_paid_after_an_end():
    reward = KnownReward(Told(), RewardUnits(Normaliser.unknown(2), RewardScale.unknown()))
    alive, dead = jnp.array([0.5, 1.0]), jnp.array([0.5, 0.0])
    np.testing.assert_allclose(reward.reward(alive, jnp.ones(1), 0), -0.35, rtol=1e-6)
    assert reward.reward(dead, jnp.ones(1), 0) == 0


def test_a_reward_that_needs_the_time_is_refused_in_windows():
    assert depends_on_step(Timed()) and not depends_on_step(Told())
    small = {**SMALL, "window": 3}
    with pytest.raises(asmpg.UsageError, match="known_reward of timed: depends on the step"):
        asmpg.TrainConfig(Timed(), model="one-step", steps=30, overrides=small).checked()
    asmpg.TrainConfig(Timed(), model="one-step", steps=30, overrides=SMALL).checked()
    learned = asmpg.TrainConfig(Timed(), model="one-step", steps=30, overrides=small, learned_reward=True)
    assert learned.checked().learned_reward


def test_a_known_reward_is_checked():
    class Vector(Told):
        def known_reward(self, observation, action, step):
            return observation

    with pytest.raises(asmpg.UsageError, match=r"known_reward of vector: must be numbers of shape \(\)"):
        asmpg.TrainConfig(Vector(), model="one-step", steps=30, overrides=SMALL).checked()
