"""Learned rewards that stay right where the policy goes: an ensemble, and a penalty on the gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.learners.window_value import Bootstrapped, WindowValue
from asmpg.models.reward import fitting_loss, LearnedReward, RewardEnsemble
from asmpg.tasks.spec import Sizes
from test_rewards import episode, make_episodes, make_reward, SCALE
from toys import Drift, relative_error


pytestmark = pytest.mark.usefixtures("quickly")
STATE, ACTION = jnp.array([0.4, -0.7, 1.1]), jnp.array([0.3, -0.6])


def member(index):
    """One of several rewards that differ in their networks alone."""
    reward = make_reward()
    keys = jax.random.split(jax.random.key(index), len(jax.tree.leaves(reward.running)))
    leaves, structure = jax.tree.flatten(reward.running)
    noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return eqx.tree_at(lambda r: r.running, reward, jax.tree.unflatten(structure, noisy))


def ensemble(number):
    members = [member(index) for index in range(number)]
    return RewardEnsemble(jax.tree.map(lambda *x: jnp.stack(x) if eqx.is_array(x[0]) else x[0], *members))


def values(reward):
    """Everything that a reward says."""
    at_end = (reward.terminal_reward(STATE), reward.while_alive(STATE, jnp.asarray(2.0)))
    of_episode = (reward.loss(episode()), reward.steepness(episode()))
    return jnp.stack([reward.reward(STATE, ACTION, 2), reward.reward(STATE, ACTION, 6), *at_end, *of_episode])


@pytest.mark.parametrize("number", [1, 3])
def test_it_says_the_mean_of_what_its_members_say(number):
    mean = jnp.stack([values(member(index)) for index in range(number)]).mean(axis=0)
    np.testing.assert_allclose(values(ensemble(number)), mean, rtol=1e-5)


def test_each_member_is_fitted_by_itself():
    """The gradient of the ensemble's loss in one member is that member's own, whatever the others are."""
    grads = eqx.filter_grad(lambda r: r.loss(episode()))(ensemble(3)).members.running
    for index in range(3):
        own = eqx.filter_grad(lambda r: r.loss(episode()))(member(index)).running
        mine = jax.tree.map(lambda x, i=index: 3 * x[i], grads)
        assert relative_error(mine, own) < 1e-4


def test_statistics_are_those_of_a_single_reward():
    reward, normaliser = make_reward(), make_reward().normaliser
    one = reward.with_statistics(normaliser, make_episodes())
    many = ensemble(3).with_statistics(normaliser, make_episodes())
    for got, wanted in zip(jax.tree.leaves(many.scale), jax.tree.leaves(one.scale), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_value_at_a_windows_end_takes_an_ensemble_too():
    value = WindowValue.create(3, asmpg_optimiser(), key=jax.random.key(0)).slow
    one, same = (
        Bootstrapped(reward, value, 0.9, 7)
        for reward in (make_reward(), RewardEnsemble(stacked(make_reward())))
    )
    np.testing.assert_allclose(one.terminal_reward(STATE), same.terminal_reward(STATE), rtol=1e-6)
    np.testing.assert_allclose(one.reward(STATE, ACTION, 3), same.reward(STATE, ACTION, 3), rtol=1e-6)


def stacked(reward):
    return jax.tree.map(lambda x: x[None] if eqx.is_array(x) else x, reward)


def asmpg_optimiser():
    import optax

    return optax.sgd(0.1)


def test_the_steepness_is_that_of_finite_differences(x64):
    """In units of states and rewards: of every step in state and action, and of the end in the state."""
    single = make_reward()
    reward = jax.tree.map(lambda x: x.astype(float) if eqx.is_inexact_array(x) else x, single)
    scale = jnp.array([2.0, 0.5, 3.0])
    reward = eqx.tree_at(lambda r: r.normaliser.scale, reward, scale)
    given = jax.tree.map(lambda x: jnp.asarray(x, float), episode())
    horizon, width = given.actions.shape[0], 1e-4

    def slopes(function, point, units):
        moves = width * np.diag(units)
        return np.array([(function(point + move) - function(point - move)) / (2 * width) for move in moves])

    squares = []
    for step in range(horizon):
        unit = SCALE.last_scale if step == horizon - 1 else SCALE.scale
        state, action = given.states[step], given.actions[step]
        by_state = slopes(lambda x, a=action, t=step: reward.reward(x, a, t), state, scale)
        by_action = slopes(lambda x, s=state, t=step: reward.reward(s, x, t), action, np.ones(2))
        squares.append(((by_state**2).sum() + (by_action**2).sum()) / float(unit) ** 2)
    at_end = slopes(reward.terminal_reward, given.states[-1], scale) / float(SCALE.last_scale)
    expected = np.mean(squares) + (at_end**2).sum()
    np.testing.assert_allclose(reward.steepness(given), expected, rtol=1e-5)


def test_the_penalty_is_added_to_the_loss_and_flattens_the_reward():
    reward, model, given = make_reward(), asmpg.Simulator(Drift()), episode()
    for share in (0.0, 0.5):
        plain = fitting_loss(reward, model, given, share)
        penalised = fitting_loss(reward, model, given, share, 0.3)
        np.testing.assert_allclose(penalised, plain + 0.3 * reward.steepness(given), rtol=1e-5)
    downhill = eqx.filter_grad(lambda r: fitting_loss(r, model, given, 0.0, 10.0))(reward)
    flatter = eqx.apply_updates(reward, jax.tree.map(lambda g: -1e-5 * g, downhill))
    assert flatter.steepness(given) < reward.steepness(given)


def test_alive_does_not_count_as_steep():
    """Its derivative is the reward itself: a large constant reward is flat all the same."""
    sizes = Sizes("drift", Drift().horizon, 3, 2, ends_early=True)
    reward = LearnedReward(sizes, key=jax.random.key(0), normaliser=make_reward().normaliser, scale=SCALE)
    alive = eqx.tree_at(lambda e: e.states, episode(), episode().states.at[:, -1].set(1.0))
    large = eqx.tree_at(lambda r: r.scale.mean, reward, jnp.asarray(1e3))
    assert large.reward(alive.states[0], ACTION, 0) > 900
    np.testing.assert_allclose(large.steepness(alive), reward.steepness(alive), rtol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"window": 3}], ids=["whole", "windows"])
def test_they_train(settings):
    overrides = {"warmup_steps": 14, "model_batch_size": 4, "policy_batch_size": 4, **settings}
    overrides |= {"reward_ensemble": 2, "reward_gradient_penalty": 0.1}
    options = {"model": "one-step", "learned_reward": True, "steps": 21, "overrides": overrides}
    result = asmpg.train(Drift(), **options)
    assert np.isfinite(result.metrics["reward_loss"]).all() and result.metrics["gradient_norm"][-1] > 0
