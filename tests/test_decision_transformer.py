"""The online decision transformer: what it is told, what it sees, what it is fitted to, and when."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from asmpg.core.loops import loop
from asmpg.core.types import Trajectory
from asmpg.learners.odt import DecisionTransformer, DecisionTransformerSettings, target_return
from asmpg.learners.odt_policy import (
    Carry,
    DecisionTransformerPolicy,
    imitation_loss,
    returns_to_go,
    sub_sequence,
    Window,
)
from asmpg.learners.optimisation import apply_gradient
from asmpg.learners.replay import ReplayBuffer
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import play, rollout, uniform_actions
from asmpg.tasks.optimum import optimal, score
from probes import RewardIsState
from toys import bits, Drift, flatten, relative_error, unit_normaliser


# Most of what takes time here is compilation.
pytestmark = pytest.mark.usefixtures("quickly")

ENV = Drift()
TARGET = 11.0


@functools.cache
def make_policy(context: int, double: bool = False) -> DecisionTransformerPolicy:
    """A policy whose actions differ from step to step."""
    with jax.enable_x64(double):
        keys = jax.random.split(jax.random.key(0), 2)
        policy = DecisionTransformerPolicy(
            ENV, TARGET, context=context, normaliser=unit_normaliser(ENV), key=keys[0]
        )
        weight = 0.2 * jax.random.normal(keys[1], policy.head.weight.shape)
        return eqx.tree_at(lambda p: (p.head.weight, p.return_scale), policy, (weight, jnp.array(5.0)))


@functools.cache
def make_episode() -> Trajectory:
    return jax.jit(lambda key: rollout(ENV, uniform_actions(ENV, key=key)))(jax.random.key(3))


# Returns to go


def test_returns_to_go_by_hand():
    np.testing.assert_array_equal(returns_to_go(jnp.array([1.0, -2.0, 4.0, 0.5])), [3.5, 2.5, 4.5, 0.5])
    episode = make_episode()
    np.testing.assert_allclose(returns_to_go(episode.rewards)[0], episode.episode_return, rtol=1e-6)


def test_hindsight_knows_of_no_past_reward_and_asks_for_all_later_ones():
    """The derivative of what is asked for at step t in the reward at step k is 1 from t on, and exactly 0 before."""
    episode, context = make_episode(), 4

    def asked(rewards, first):
        relabelled = eqx.tree_at(lambda e: e.rewards, episode, rewards)
        return sub_sequence(relabelled, first, context)[0].returns_to_go

    jacobian = jax.jit(jax.vmap(jax.jacobian(asked), in_axes=(None, 0)))
    firsts = jnp.arange(1 - context, ENV.horizon)
    for first, slopes in zip(firsts.tolist(), jacobian(episode.rewards, firsts), strict=True):
        steps = max(first, 0) + np.arange(context)
        inside = steps < min(first + context, ENV.horizon)
        expected = (np.arange(ENV.horizon) >= steps[:, None]) & inside[:, None]
        np.testing.assert_array_equal(slopes, expected)


def test_sub_sequences_hold_what_happened_and_every_step_equally_often():
    episode, context = make_episode(), 4
    to_go = np.cumsum(np.asarray(episode.rewards)[::-1])[::-1]
    cut = jax.jit(lambda first: sub_sequence(episode, first, context))
    counts = np.zeros(ENV.horizon, int)
    for first in range(1 - context, ENV.horizon):
        window, present = jax.tree.map(np.asarray, cut(first))
        num = present.sum()
        assert present[:num].all() and not present[num:].any()
        steps = window.steps[:num]
        np.testing.assert_array_equal(steps, np.arange(max(first, 0), max(first, 0) + num))
        counts[steps] += 1
        np.testing.assert_array_equal(window.states[:num], episode.states[steps])
        np.testing.assert_array_equal(window.actions[:num], episode.actions[steps])
        np.testing.assert_allclose(window.returns_to_go[:num], to_go[steps], rtol=1e-5)
        assert not any(np.any(leaf[num:]) for leaf in jax.tree.leaves(window))
    assert (counts == context).all()


# Acting


class Recorder(eqx.Module):
    """Plays an episode whose actions are not the ones proposed, and keeps every carry."""

    policy: DecisionTransformerPolicy

    def episode(self) -> tuple[list[Carry], Trajectory]:
        carries, states = [self.policy.begin()], [ENV.initial_state()]
        actions, rewards = [], []
        observe = eqx.filter_jit(lambda policy, *arguments: policy.observe(*arguments))
        for step in range(ENV.horizon):
            action = jnp.array([0.1 * step - 0.3, -0.2])
            rewards.append(ENV.reward(states[-1], action, step))
            carries.append(
                observe(self.policy, carries[-1], states[-1], jnp.array(step), action, rewards[-1])
            )
            states.append(ENV.transition(states[-1], action, step))
            actions.append(action)
        return carries, Trajectory(jnp.stack(states), jnp.stack(actions), jnp.stack(rewards))


@pytest.mark.parametrize("context", [3, 7])
def test_the_carry_is_what_happened(context):
    """Before every step: the target less the rewards so far, and the last steps as they were taken."""
    carries, episode = Recorder(make_policy(context)).episode()
    paid = np.concatenate([[0.0], np.cumsum(episode.rewards)])
    for step, carry in enumerate(carries):
        assert int(carry.num_steps) == step
        np.testing.assert_allclose(carry.return_to_go, TARGET - paid[step], rtol=1e-5)
        steps = np.arange(max(0, step - context), step)
        np.testing.assert_array_equal(carry.window.steps[: len(steps)], steps)
        np.testing.assert_array_equal(carry.window.states[: len(steps)], episode.states[steps])
        np.testing.assert_array_equal(carry.window.actions[: len(steps)], episode.actions[steps])
        np.testing.assert_allclose(carry.window.returns_to_go[: len(steps)], TARGET - paid[steps], rtol=1e-5)


def asked_for(episode: Trajectory) -> Trajectory:
    """The episode with a last reward that makes hindsight ask for exactly what acting asked for."""
    missing = TARGET - episode.episode_return
    return eqx.tree_at(lambda e: e.rewards, episode, episode.rewards.at[-1].add(missing))


@pytest.mark.parametrize("context", [7, 20])
def test_seen_whole_acting_is_the_parallel_prediction(context):
    """No step is ever dropped where the horizon is not longer than the context."""
    policy = make_policy(context)
    assert policy.context == ENV.horizon
    episode = eqx.filter_jit(lambda policy: rollout(ENV, policy))(policy)
    window, _ = sub_sequence(asked_for(episode), jnp.array(0), ENV.horizon)
    normal = eqx.filter_jit(lambda policy: policy.distribution(window))(policy)
    np.testing.assert_allclose(episode.actions, jnp.tanh(normal.loc), rtol=1e-3, atol=1e-5)
    assert np.ptp(episode.actions, axis=0).min() > 0.05, "actions differ from step to step"


def test_beyond_the_context_acting_sees_the_last_steps():
    """The same windows as in training: of step t, steps t - 2 .. t."""
    policy = make_policy(3)
    episode = eqx.filter_jit(lambda policy: rollout(ENV, policy))(policy)

    @eqx.filter_jit
    def last(policy, first):
        window, present = sub_sequence(asked_for(episode), first, 3)
        return policy.distribution(window).loc[present.sum() - 1]

    for step in range(ENV.horizon):
        np.testing.assert_allclose(
            episode.actions[step], np.tanh(last(policy, jnp.array(step - 2))), rtol=1e-3, atol=1e-5
        )


def test_noise_moves_actions_by_their_standard_deviation():
    """And the same key gives the same episode."""
    policy = make_policy(3)
    noisy = eqx.filter_jit(lambda key: rollout(ENV, policy, key=key))
    one, again, other = (noisy(jax.random.key(seed)) for seed in (1, 1, 2))
    assert bits(one) == bits(again) and bits(one) != bits(other)
    act = eqx.filter_jit(lambda noise: policy.act(policy.begin(), ENV.initial_state(), 0, noise))
    window = eqx.tree_at(
        lambda w: (w.returns_to_go, w.states),
        policy.begin().window,
        (jnp.full(3, TARGET), jnp.zeros((3, 3)).at[0].set(ENV.initial_state())),
    )
    normal = policy.distribution(window)
    for noise in ([0.0, 0.0], [1.5, -0.5]):
        expected = np.tanh(normal.loc[0] + normal.scale[0] * np.array(noise))
        np.testing.assert_allclose(act(jnp.array(noise)), expected, rtol=1e-4, atol=1e-6)


class Still(Drift):
    """Its state never moves, and nothing is paid: only the actions of the past distinguish steps."""

    def transition(self, state, action, step):
        return state

    def reward(self, state, action, step):
        return jnp.zeros(())


def test_what_is_carried_is_the_action_taken():
    """Noise that is added to an action is part of what the policy sees later."""
    policy, env = make_policy(7), Still()

    @jax.jit
    @jax.vmap
    def actions(first):
        def act(carry, state, step, added):
            return policy.act(carry, state, step) + added

        return play(env, act, jnp.zeros((7, 2)).at[0, 0].set(first), env.initial_state(), policy).actions

    plain, moved = actions(jnp.array([0.0, 0.3]))
    np.testing.assert_allclose(moved[0] - plain[0], [0.3, 0.0], atol=1e-6)
    assert np.abs(moved[1] - plain[1]).max() > 1e-4


# What a prediction sees


def test_a_prediction_never_sees_its_own_action_or_anything_later():
    """Exactly: the derivatives are zero, and those of what it may see are not."""
    policy = make_policy(7)
    window, _ = sub_sequence(make_episode(), jnp.array(0), 7)

    @eqx.filter_jit
    def slopes(policy):
        def mean(to_go, states, actions):
            return policy.distribution(Window(to_go, states, actions, window.steps)).loc

        jacobians = jax.jacobian(mean, argnums=(0, 1, 2))(window.returns_to_go, window.states, window.actions)
        to_go, states, actions = (jnp.abs(jacobian) for jacobian in jacobians)
        return to_go.max(axis=1), states.max(axis=(1, 3)), actions.max(axis=(1, 3))

    to_go, states, actions = map(np.asarray, slopes(policy))
    later = np.arange(7)[None, :] > np.arange(7)[:, None]
    for slope, hidden in ((to_go, later), (states, later), (actions, later | np.eye(7, dtype=bool))):
        assert (slope[hidden] == 0).all()
        assert (slope[~hidden] > 0).all()


def test_time_and_target_are_inputs():
    policy = make_policy(7)
    window, _ = sub_sequence(make_episode(), jnp.array(0), 7)
    mean = eqx.filter_jit(lambda window: policy.distribution(window).loc)
    for name, change in (("steps", 1), ("returns_to_go", 3.0)):
        other = eqx.tree_at(lambda w, name=name: getattr(w, name), window, getattr(window, name) + change)
        assert np.abs(mean(other) - mean(window)).min() > 1e-6


# The loss


def loss_arguments() -> tuple[Window, jax.Array, jax.Array]:
    window, present = sub_sequence(make_episode(), jnp.array(5), 4)
    noise = jax.random.normal(jax.random.key(4), (4, 2))
    assert int(present.sum()) == 2
    return window, 0.5 * present, noise


def test_without_temperature_the_loss_is_the_surprise_of_the_actions_taken(x64):
    """By the density of a tanh-normal number, over the steps that are there."""
    policy = make_policy(4, True)
    window, weights, noise = loss_arguments()
    loss, (surprise, entropy) = imitation_loss(policy, window, weights, noise, 0.0)
    normal = policy.distribution(window)

    def surprises(actions):
        density = scipy.stats.norm.logpdf(np.arctanh(actions), normal.loc, normal.scale)
        return -(density - np.log1p(-np.square(actions))).sum(axis=-1)

    np.testing.assert_allclose(loss, surprises(np.asarray(window.actions))[:2].mean(), rtol=1e-7)
    np.testing.assert_allclose(surprise, loss, rtol=1e-12)
    sampled = surprises(np.tanh(normal.loc + normal.scale * noise))[:2].mean()
    np.testing.assert_allclose(entropy, sampled, rtol=1e-6)
    held = imitation_loss(policy, window, weights, noise, 0.7)[0]
    np.testing.assert_allclose(held, loss - 0.7 * entropy, rtol=1e-9)


def test_actions_at_a_bound_are_imitated_all_the_same():
    window, weights, noise = loss_arguments()
    window = eqx.tree_at(lambda w: w.actions, window, jnp.ones_like(window.actions))
    value, grads = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda p: imitation_loss(p, window, weights, noise, 0.1)[0])
    )(make_policy(4))
    assert np.isfinite(value) and np.isfinite(flatten(grads)).all()
    assert (grads.head.bias[:2] < 0).all(), "towards the bound"


def test_the_gradient_of_the_loss_is_its_slope(x64):
    """And the frozen numbers take no part in it."""
    policy = make_policy(4, True)
    arguments = loss_arguments()

    @eqx.filter_jit
    def value(policy):
        return imitation_loss(policy, *arguments, 0.3)[0]

    grads = eqx.filter_jit(eqx.filter_grad(value))(policy)
    norm, step = np.linalg.norm(flatten(grads)), 1e-6
    moved = [
        value(eqx.apply_updates(policy, jax.tree.map(lambda g, sign=sign: sign * step * g / norm, grads)))
        for sign in (1, -1)
    ]
    np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), norm, rtol=1e-5)
    frozen = (grads.return_mean, grads.return_scale, grads.target_return, grads.normaliser)
    assert not flatten(frozen).any()


# The learner


def make_learner(**overrides: Any) -> DecisionTransformer:
    small = {"batch_size": 4, "context": 4, "updates_per_iteration": 3, "episodes_per_iteration": 2}
    settings = dataclasses.replace(DecisionTransformerSettings.default(ENV.horizon), **(small | overrides))
    return DecisionTransformer(ENV, settings, TARGET)


@functools.cache
def make_replay() -> ReplayBuffer:
    keys = jax.random.split(jax.random.key(1), 4)
    episodes = jax.jit(jax.vmap(lambda key: rollout(ENV, uniform_actions(ENV, key=key))))(keys)
    return ReplayBuffer(episodes, jnp.array(4))


@functools.cache
def start(**overrides: Any) -> tuple[DecisionTransformer, Any]:
    learner = make_learner(**overrides)
    init = eqx.filter_jit(lambda key: learner.init(Normaliser.from_random_episodes(ENV), key=key))
    return learner, learner.observe_warmup(init(jax.random.key(0)), make_replay().episodes)


@eqx.filter_jit
def repeat_step(learner, state, replay, elapsed, num):
    def body(index, state):
        return learner.update(state, replay, elapsed, key=jax.random.fold_in(jax.random.key(2), index))

    return loop(0, num, body, state)


def run(learner, state, elapsed, num=1, replay=None):
    """The updates of step `elapsed`, `num` times."""
    replay = make_replay() if replay is None else replay
    return repeat_step(learner, state, replay, jnp.array(elapsed), jnp.array(num))


def num_applied(optimiser_state: Any) -> int:
    """How many updates Adam has seen."""
    leaves = jax.tree.leaves_with_path(optimiser_state)
    return int(next(leaf for path, leaf in leaves if "count" in str(path[-1])))


def test_a_round_of_updates_follows_two_whole_episodes():
    learner, before = start()
    for elapsed in (1, 7, 13, 15, 21):
        assert bits(run(learner, before, elapsed)) == bits(before)
    for elapsed in (14, 28):
        after = run(learner, before, elapsed)
        assert num_applied(after.policy_optimiser) == num_applied(after.temperature_optimiser) == 3


def test_updates_imitate_and_leave_what_is_frozen_alone():
    learner, before = start()
    after = run(learner, before, 14, 40)
    replay, key = make_replay(), jax.random.key(6)
    episode = jax.tree.map(lambda leaf: leaf[0], replay.episodes)
    diagnose = eqx.filter_jit(lambda state: learner.diagnose(state, replay, episode, key=key))
    losses = [diagnose(state)[1]["negative_log_likelihood"] for state in (before, after)]
    assert losses[1] < losses[0] - 0.3
    for name in ("return_mean", "return_scale", "target_return", "normaliser"):
        assert bits(getattr(after.policy, name)) == bits(getattr(before.policy, name))
    to_go = np.cumsum(np.asarray(make_replay().episodes.rewards)[:, ::-1], axis=1)
    np.testing.assert_allclose(before.policy.return_mean, to_go.mean(), rtol=1e-4)
    np.testing.assert_allclose(before.policy.return_scale, to_go.std(), rtol=1e-4)
    assert before.policy.target_return == TARGET


def test_the_temperature_follows_the_entropy():
    """Down while the entropy is above its target, up while it is below."""
    learner, before = start()
    for bias, direction in ((-4.0, 1), (0.0, -1)):
        state = eqx.tree_at(lambda s: s.policy.head.bias, before, jnp.array([0.0, 0.0, bias, bias]))
        after = run(learner, state, 14)
        assert np.sign(after.log_temperature - before.log_temperature) == direction


def test_a_number_that_is_not_finite_skips_the_update_and_is_counted():
    learner, before = start()
    replay = make_replay()
    bad = eqx.tree_at(lambda r: r.episodes.states, replay, jnp.full_like(replay.episodes.states, jnp.nan))
    after = run(learner, before, 14, replay=bad)
    for name in ("policy", "policy_optimiser", "log_temperature"):
        assert bits(getattr(after, name)) == bits(getattr(before, name))
    assert int(after.statistics.num_nonfinite) == 3


def test_targets():
    """The optimum, the return whose score is 2, or any number."""
    env = RewardIsState()
    assert target_return(env, "expert") == optimal(env).episode_return
    np.testing.assert_allclose(score(env, target_return(env, "overshot")), 2.0, rtol=1e-9)
    assert target_return(env, -3) == -3.0


def test_dropout_acts_while_fitting_only():
    """With a rate, updates draw it; acting and the reported likelihood do not."""
    learner, before = start(dropout=0.5)
    plain, plain_before = start()
    state = run(plain, before, 14)
    assert relative_error(run(learner, before, 14).policy.head, state.policy.head) > 1e-6
    window = before.policy.begin().window
    calls = [before.policy.distribution(window, key=key).loc for key in (None, jax.random.key(1))]
    assert np.isfinite(calls[1]).all() and not np.allclose(calls[0], calls[1])
    action = [s.policy.act(s.policy.begin(), ENV.initial_state(), 0) for s in (before, plain_before)]
    assert bits(action[0]) == bits(action[1]), "the same networks, but for the rate"


def test_weight_decay_and_warm_up_are_of_the_policys_numbers_alone():
    """LAMB as Zheng et al. use it: the first of w updates is a w-th as long, and frozen numbers do not decay."""
    options = {"policy_optimiser": "lamb", "gradient_clip": 1e6}

    def step(**extra):
        learner, state = start(**options, **extra)
        policy, optimiser = state.policy, learner._policy_optimiser
        grads = jax.tree.map(jnp.ones_like, eqx.filter(policy, eqx.is_inexact_array))
        grads = eqx.tree_at(
            lambda p: (p.return_mean, p.return_scale, p.target_return, p.normaliser),
            grads,
            replace_fn=lambda part: jax.tree.map(jnp.zeros_like, part),
        )
        new, _, applied = apply_gradient(optimiser, policy, state.policy_optimiser, grads)
        assert applied and bits(new.normaliser) == bits(policy.normaliser)
        assert float(new.return_scale) == float(policy.return_scale)
        return flatten(new) - flatten(policy)

    plain = step(weight_decay=1e-9)
    assert relative_error(4 * step(weight_decay=1e-9, learning_rate_warmup=4), plain) < 1e-3
    assert relative_error(step(weight_decay=0.5), plain) > 1e-2
