"""Soft actor-critic: what its losses reduce to, what never bootstraps, what an update moves and what it leaves."""

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
from asmpg.gradients.policies import TanhGaussianPolicy
from asmpg.learners.optimisation import polyak_average
from asmpg.learners.replay import ReplayBuffer
from asmpg.learners.sac import SoftActorCritic, SoftActorCriticSettings, SoftActorCriticState
from asmpg.learners.soft_values import (
    bootstrap_target,
    Critic,
    critic_loss,
    policy_loss,
    sample_transitions,
    Transition,
)
from asmpg.learners.temperature import temperature_loss
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import rollout, uniform_actions
from toys import bits, Drift, flatten, relative_error, unit_normaliser


# Most of what takes time here is compilation.
pytestmark = pytest.mark.usefixtures("quickly")

ENV = Drift()
NOISE = np.array([0.7, -1.2])


@functools.cache
def networks(double: bool = False) -> tuple[TanhGaussianPolicy, tuple[Critic, Critic]]:
    """A policy that is not centred, and two critics."""
    with jax.enable_x64(double):
        keys = jax.random.split(jax.random.key(0), 4)
        normaliser = unit_normaliser(ENV)
        policy = TanhGaussianPolicy(ENV, key=keys[0], normaliser=normaliser)
        weight = 0.1 * jax.random.normal(keys[1], policy.layers[-1].weight.shape)
        policy = eqx.tree_at(lambda p: p.layers[-1].weight, policy, weight)
        critics = [Critic(ENV, key=key, normaliser=normaliser) for key in keys[2:]]
        return policy, (critics[0], critics[1])


def make_transition(terminal: bool = False) -> Transition:
    state, action = jnp.array([0.4, -0.7, 1.9]), jnp.array([0.3, -0.8])
    step, reward = jnp.array(3), jnp.array(1.7)
    following = ENV.transition(state, action, step)
    return Transition(state, step, action, reward, following, step + 1, jnp.array(terminal))


# The target


def test_without_entropy_and_noise_one_critic_gives_the_target_of_ddpg(x64):
    policy, (critic, _) = networks(True)
    transition = make_transition()
    target = bootstrap_target((critic,), policy, transition, jnp.zeros(2), 0.0, 0.9)
    action = policy.mode(transition.next_state, 4)
    expected = 1.7 + 0.9 * critic(transition.next_state, 4, action)
    np.testing.assert_allclose(target, expected, rtol=1e-12)


def test_the_lower_critic_and_the_entropy_count(x64):
    policy, critics = networks(True)
    transition, noise = make_transition(), jnp.asarray(NOISE)
    action, log_prob = policy.sample_and_log_prob(transition.next_state, 4, noise)
    values = [float(critic(transition.next_state, 4, action)) for critic in critics]
    assert abs(values[0] - values[1]) > 1e-2
    for order in (critics, critics[::-1]):
        target = bootstrap_target(order, policy, transition, noise, 0.3, 0.9)
        np.testing.assert_allclose(target, 1.7 + 0.9 * (min(values) - 0.3 * log_prob), rtol=1e-12)


def test_without_a_future_the_critic_is_a_regression_on_the_reward(x64):
    """Discount 0: the target is the reward, and the gradient is the error times the value's own."""
    policy, critics = networks(True)
    transition = make_transition()
    target = bootstrap_target(critics, policy, transition, jnp.asarray(NOISE), 0.3, 0.0)
    assert target == transition.reward

    def value(critic):
        return critic(transition.state, transition.step, transition.action)

    grads = eqx.filter_grad(critic_loss)(critics, transition, target)
    for critic, grad in zip(critics, grads, strict=True):
        own, slope = eqx.filter_value_and_grad(value)(critic)
        expected = jax.tree.map(lambda leaf, own=own: (own - 1.7) * leaf, slope)
        assert relative_error(grad, expected) < 1e-12


@pytest.mark.parametrize("bias", [1e30, np.nan], ids=["huge", "nan"])
def test_the_end_of_a_task_never_bootstraps(bias):
    """Whatever the critics say about what is beyond it."""
    policy, critics = networks()
    critics = eqx.tree_at(lambda c: c[0].layers[-1].bias, critics, jnp.array([-bias]))
    noise = jnp.asarray(NOISE, jnp.float32)
    ended, cut = (
        bootstrap_target(critics, policy, make_transition(terminal), noise, 0.3, 1.0)
        for terminal in (True, False)
    )
    assert ended == make_transition().reward
    assert not abs(cut) < 1e29


# Gradients


def differences(loss: Any, network: Any) -> tuple[float, float]:
    """The slope of a loss along its own gradient, by the gradient and by central differences."""
    grads = eqx.filter_grad(loss)(network)
    norm = np.linalg.norm(flatten(grads))
    step = 1e-5

    def moved(sign):
        return loss(eqx.apply_updates(network, jax.tree.map(lambda g: sign * step * g / norm, grads)))

    return norm, float(moved(1) - moved(-1)) / (2 * step)


@pytest.mark.parametrize("terminal", [False, True])
def test_loss_gradients_are_slopes(x64, terminal):
    policy, critics = networks(True)
    transition, noise = make_transition(terminal), jnp.asarray(NOISE)
    target = bootstrap_target(critics, policy, transition, noise, 0.3, 0.9)
    for loss, network in (
        (lambda c: critic_loss(c, transition, target), critics),
        (lambda p: policy_loss(p, critics, transition, noise, 0.3)[0], policy),
    ):
        slope, expected = differences(loss, network)
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_the_target_is_a_constant(x64):
    """Neither the slow critics nor the policy are fitted to the target by way of its own derivative."""
    policy, critics = networks(True)
    grads = eqx.filter_grad(
        lambda both: bootstrap_target(both[1], both[0], make_transition(), jnp.asarray(NOISE), 0.3, 0.9)
    )((policy, critics))
    assert not flatten(grads).any()


def test_without_entropy_and_noise_the_policy_gradient_is_that_of_ddpg(x64):
    """The slope of the value in the action, carried to the parameters."""
    policy, (critic, _) = networks(True)
    transition = make_transition()
    grads, entropy = eqx.filter_grad(
        lambda p: policy_loss(p, (critic,), transition, jnp.zeros(2), 0.0), has_aux=True
    )(policy)
    action, pull = eqx.filter_vjp(lambda p: p.mode(transition.state, transition.step), policy)
    slope = jax.grad(lambda a: critic(transition.state, transition.step, a))(action)
    assert relative_error(grads, pull(-slope)[0]) < 1e-12
    log_prob = policy.sample_and_log_prob(transition.state, transition.step, jnp.zeros(2))[1]
    np.testing.assert_allclose(entropy, -log_prob, rtol=1e-12)


@pytest.mark.parametrize("entropy", [-3.0, 0.5])
def test_the_temperature_rises_while_the_entropy_is_too_low(x64, entropy):
    log_temperature, target = jnp.array(-1.3), -1.0
    slope = jax.grad(temperature_loss)(log_temperature, jnp.array(entropy), target)
    np.testing.assert_allclose(slope, np.exp(-1.3) * (entropy - target), rtol=1e-12)
    assert (slope < 0) == (entropy < target), "descent goes against the slope"
    assert jax.grad(temperature_loss, argnums=1)(log_temperature, jnp.array(entropy), target) == 0


def test_slow_critics_follow():
    _, (slow, fast) = networks()
    assert bits(polyak_average((slow,), (fast,), 0.0)) == bits((slow,))
    assert relative_error(polyak_average((slow,), (fast,), 1.0), (fast,)) < 1e-6
    quarter = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, (slow,), (fast,))
    assert relative_error(polyak_average((slow,), (fast,), 0.25), quarter) < 1e-6


# Transitions


@functools.cache
def make_replay(num_episodes: int = 3, capacity: int = 4) -> ReplayBuffer:
    keys = jax.random.split(jax.random.key(1), num_episodes)
    episodes = jax.jit(jax.vmap(lambda key: rollout(ENV, uniform_actions(ENV, key=key))))(keys)
    empty = ReplayBuffer.create(ENV, capacity)
    stored = jax.tree.map(lambda a, b: a.at[:num_episodes].set(b), empty.episodes, episodes)
    return ReplayBuffer(stored, jnp.array(num_episodes))


@pytest.mark.parametrize("ends", [True, False])
def test_transitions_are_steps_of_the_stored_episodes(ends):
    """Each equally often; only the last step of a task that ends is terminal, and a mere time limit hides time."""
    replay, num = make_replay(), 4200
    sample = eqx.filter_jit(lambda key: sample_transitions(replay, num, ends=ends, key=key))
    transitions, steps = jax.tree.map(np.asarray, sample(jax.random.key(2)))
    episodes = jax.tree.map(lambda leaf: np.asarray(leaf[:3]), replay.episodes)
    # Every stored reward is another number, so that it says which step it belongs to.
    places = {float(reward): place for place, reward in np.ndenumerate(episodes.rewards)}
    assert len(places) == 3 * ENV.horizon
    drawn = np.array([places[float(reward)] for reward in transitions.reward])
    counts = np.unique(drawn @ [ENV.horizon, 1], return_counts=True)[1]
    assert len(counts) == 3 * ENV.horizon and scipy.stats.chisquare(counts).pvalue > 1e-3
    rows, places_in_time = drawn.T
    np.testing.assert_array_equal(steps, places_in_time)
    np.testing.assert_array_equal(transitions.state, episodes.states[rows, steps])
    np.testing.assert_array_equal(transitions.next_state, episodes.states[rows, steps + 1])
    np.testing.assert_array_equal(transitions.action, episodes.actions[rows, steps])
    np.testing.assert_array_equal(transitions.terminal, (steps == ENV.horizon - 1) & ends)
    np.testing.assert_array_equal(transitions.step, steps if ends else 0)
    np.testing.assert_array_equal(transitions.next_step, steps + 1 if ends else 0)


# The learner. Updates are due at multiples of these numbers of steps: at 2 the critics' only, at 3 the policy's only.

CRITIC_STEP, POLICY_STEP, BOTH = 2, 3, 6


def make_learner(**overrides: Any) -> SoftActorCritic:
    small = {"batch_size": 8, "critic_update_every": CRITIC_STEP, "policy_update_every": POLICY_STEP}
    small |= {"target_rate": 0.01, "target_entropy": -1.0}
    settings = dataclasses.replace(SoftActorCriticSettings.default(ENV.horizon), **(small | overrides))
    return SoftActorCritic(ENV, settings)


@eqx.filter_jit
def started(learner: SoftActorCritic, episodes: Trajectory) -> SoftActorCriticState:
    return learner.observe_warmup(
        learner.init(Normaliser.unknown(learner.env.state_size), key=jax.random.key(0)), episodes
    )


def start(learner: SoftActorCritic, replay: ReplayBuffer) -> SoftActorCriticState:
    return started(learner, jax.tree.map(lambda leaf: leaf[:3], replay.episodes))


@eqx.filter_jit
def repeat_step(learner, state, replay, elapsed, num):
    def body(index, state):
        return learner.update(state, replay, elapsed, key=jax.random.fold_in(jax.random.key(2), index))

    return loop(0, num, body, state)


def run(learner, state, elapsed, num=1, replay=None):
    """The updates of step `elapsed`, `num` times."""
    replay = make_replay() if replay is None else replay
    return repeat_step(learner, state, replay, jnp.array(elapsed), jnp.array(num))


def test_updates_come_when_they_are_due_and_move_only_what_is_theirs():
    learner = make_learner()
    before = start(learner, make_replay())
    assert bits(run(learner, before, 1)) == bits(before), "no update is due"
    after = run(learner, before, CRITIC_STEP, 3)
    for name in ("policy", "policy_optimiser", "log_temperature"):
        assert bits(getattr(after, name)) == bits(getattr(before, name))
    moved = [
        flatten(getattr(after, name)) - flatten(before.critics) for name in ("critics", "target_critics")
    ]
    assert 0 < np.linalg.norm(moved[1]) < 0.1 * np.linalg.norm(moved[0])
    later = run(learner, after, POLICY_STEP, 3)
    for name in ("critics", "target_critics", "critic_optimiser"):
        assert bits(getattr(later, name)) == bits(getattr(after, name))
    assert bits(later.policy.layers) != bits(after.policy.layers)


def test_statistics_are_frozen_by_the_warm_up():
    """One set in all networks, which no update moves; returns in units of their spread, and around their mean."""
    learner, replay = make_learner(), make_replay()
    before = start(learner, replay)
    after = run(learner, before, BOTH, 5)
    episodes = jax.tree.map(lambda leaf: leaf[:3], replay.episodes)
    expected = Normaliser.from_states(episodes.states)
    for state in (before, after):
        for network in (state.policy, *state.critics, *state.target_critics):
            assert relative_error(network.normaliser, expected) < 1e-6
    assert bits(after.policy.normaliser) == bits(before.policy.normaliser)
    assert bits(after.target_critics[1].normaliser) == bits(before.policy.normaliser)
    transitions, _ = learner._sample(before, replay, key=jax.random.key(5))
    raw, steps = sample_transitions(replay, 8, ends=True, key=jax.random.split(jax.random.key(5))[0])
    baseline = episodes.rewards.mean(axis=0)[steps]
    np.testing.assert_allclose(
        transitions.reward, (raw.reward - baseline) / episodes.episode_return.std(), rtol=1e-4, atol=1e-6
    )


def test_the_units_of_the_reward_do_not_matter():
    """With normalised returns: the same networks in another currency, with a fee for every step."""
    learner, replay = make_learner(), make_replay()
    fee = jnp.arange(ENV.horizon) / 8
    exchanged = eqx.tree_at(lambda r: r.episodes.rewards, replay, 1024 * (replay.episodes.rewards - fee))
    states = [run(learner, start(learner, buffer), BOTH, 5, buffer) for buffer in (replay, exchanged)]
    for name in ("policy", "critics"):
        assert relative_error(*(getattr(state, name) for state in states)) < 1e-3


def test_a_time_limit_is_no_end_and_hides_the_time():
    """A Gymnasium truncation: values look beyond the last step, and nothing that acts or learns knows the step."""
    learner = dataclasses.replace(make_learner(), ends=False)
    replay = make_replay()
    state = start(learner, replay)
    transitions, noise = learner._sample(state, replay, key=jax.random.key(5))
    targets = learner._targets(state, transitions, noise)
    assert not transitions.terminal.any() and not transitions.next_step.any()
    assert (np.abs(targets - transitions.reward) > 1e-6).all(), "what follows counts, after the last step too"
    raw, steps = sample_transitions(replay, 100, ends=False, key=jax.random.key(6))
    assert (np.asarray(steps) == replay.episodes.rewards.shape[1] - 1).any() and not raw.terminal.any()
    policy = learner.policy(run(learner, state, BOTH, 3, replay))
    observed = make_learner().policy(start(make_learner(), replay))
    state_of_task = jnp.asarray(ENV.initial_state()) + 0.3
    for who, same in ((policy, True), (observed, False)):
        actions = [who.distribution(state_of_task, step).loc for step in (0, ENV.horizon - 1)]
        assert (bits(actions[0]) == bits(actions[1])) == same
    assert len(set(np.asarray(state.reward_mean).tolist())) == 1, "one mean for all steps"


def test_a_number_that_is_not_finite_skips_the_update_and_is_counted():
    replay = make_replay()
    bad = eqx.tree_at(lambda r: r.episodes.rewards, replay, jnp.full_like(replay.episodes.rewards, jnp.nan))
    learner = make_learner()
    before = start(learner, replay)
    after = run(learner, before, BOTH, 2, bad)
    for name in ("critics", "target_critics", "critic_optimiser"):
        assert bits(getattr(after, name)) == bits(getattr(before, name))
    assert int(after.statistics.num_nonfinite) == 2
    assert bits(after.policy) != bits(before.policy), "the policy's gradient was finite"


def test_a_tuned_temperature_keeps_the_entropy_at_its_target():
    """It rises while actions are too narrow and falls while they are too wide."""
    learner = make_learner()
    before = start(learner, make_replay())
    for bias, direction in ((-4.0, 1), (0.0, -1)):
        state = eqx.tree_at(lambda s: s.policy.layers[-1].bias, before, jnp.array([0.0, 0.0, bias, bias]))
        after = run(learner, state, POLICY_STEP, 5)
        assert np.sign(after.log_temperature - before.log_temperature) == direction
        assert learner.temperature(after) == jnp.exp(after.log_temperature)
    assert make_learner(tune_temperature=False, temperature=0.25).temperature(before) == 0.25


def test_the_presets_are_those_of_table_2():
    paper = SoftActorCriticSettings.paper(50)
    assert (paper.critic_update_every, paper.policy_update_every, paper.batch_size) == (2, 16, 128)
    assert (paper.discount, paper.target_rate, paper.warmup_steps) == (0.995, 0.005, 1500)
    assert (paper.replay_capacity, paper.num_critics, paper.tune_temperature) == (10**6, 1, False)
    assert paper.critic_learning_rate in (1e-3, 1e-4, 1e-5) and paper.temperature in (1.0, 0.01, 0.001)
    critic = networks()[1][0]
    assert [layer.weight.shape for layer in critic.layers] == [(6, 256), (256, 256), (256, 1)]
    assert (
        SoftActorCriticSettings.default(50).discount == 1.0
        and SoftActorCriticSettings.default(50).num_critics == 2
    )


def test_the_clock_is_an_input_of_critic_and_policy():
    policy, (critic, _) = networks()
    state, action = jnp.array([0.4, -0.7, 1.9]), jnp.array([0.3, -0.8])
    assert abs(critic(state, 5, action) - critic(state, 2, action)) > 1e-3
    assert np.abs(policy.mode(state, 5) - policy.mode(state, 2)).max() > 1e-4
