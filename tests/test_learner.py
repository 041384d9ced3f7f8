"""Algorithm 1 as a learner: what an update improves, what it leaves alone, when it is due, when it is skipped."""

import dataclasses
import functools
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.loops import loop
from asmpg.core.types import Trajectory
from asmpg.gradients.policies import TanhGaussianPolicy
from asmpg.gradients.policy_gradient import imagined_return
from asmpg.learners.model_based import gradient_cosine, ModelBasedLearner, ModelBasedState
from asmpg.learners.optimisation import CPU_MICRO_BATCH_STEPS, mean_gradient, micro_batch_size, optimiser
from asmpg.learners.replay import ReplayBuffer
from asmpg.learners.settings import Settings
from asmpg.models import ActionSequenceModel, OneStepModel, Simulator
from asmpg.models.backbones import BACKBONES
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import AbstractEnvironment, rollout, trajectory_rewards, uniform_actions
from toys import bits, Drift, flatten, relative_error, unit_normaliser


# Updates are due at multiples of these numbers of steps: at 2 the model's only, at 3 the policy's only, at 6 both.
MODEL_STEP, POLICY_STEP, BOTH = 2, 3, 6


@functools.cache
def maker(kind: str, env: AbstractEnvironment) -> Any:
    """What builds a model: the same object for the same task, so that a learner's programs are found again."""
    if kind == "simulator":
        return lambda *, key: Simulator(env)
    if kind == "one-step":
        return functools.partial(OneStepModel, env, normaliser=unit_normaliser(env))
    return functools.partial(ActionSequenceModel, env, kind, normaliser=unit_normaliser(env))


def make_learner(
    kind: str = "rnn", env: AbstractEnvironment | None = None, **overrides: Any
) -> ModelBasedLearner:
    env = Drift() if env is None else env
    small = {
        "model_batch_size": 4,
        "policy_batch_size": 4,
        "model_update_every": MODEL_STEP,
        "policy_update_every": POLICY_STEP,
        "learning_rate_decay": 0,
        "gradient_clip": 100.0,
    }
    settings = dataclasses.replace(Settings.default(env.horizon), **(small | overrides))
    return ModelBasedLearner(env, settings, maker(kind, Drift()))


@functools.cache
def make_replay(num_episodes: int = 4) -> tuple[ReplayBuffer, Trajectory]:
    """A buffer of random episodes, and these episodes."""
    env = Drift()
    keys = jax.random.split(jax.random.key(1), num_episodes)
    episodes = jax.jit(jax.vmap(lambda key: rollout(env, uniform_actions(env, key=key))))(keys)
    return ReplayBuffer(episodes, jnp.array(num_episodes)), episodes


@eqx.filter_jit
def init(learner: ModelBasedLearner, key: jax.Array) -> ModelBasedState:
    return learner.init(Normaliser.from_random_episodes(learner.env), key=key)


def start(learner: ModelBasedLearner) -> ModelBasedState:
    """A learner that has seen its warm-up episodes."""
    episodes = make_replay()[1]
    paid = jax.vmap(lambda s, a: trajectory_rewards(learner.env, s, a))(episodes.states, episodes.actions)
    episodes = eqx.tree_at(lambda e: e.rewards, episodes, paid)
    return learner.observe_warmup(init(learner, jax.random.key(0)), episodes)


@eqx.filter_jit
def repeat_step(
    learner: ModelBasedLearner,
    state: ModelBasedState,
    replay: ReplayBuffer,
    elapsed: jax.Array,
    num: jax.Array,
) -> ModelBasedState:
    def body(index, state):
        return learner.update(state, replay, elapsed, key=jax.random.fold_in(jax.random.key(2), index))

    return loop(0, num, body, state)


def run(
    learner: ModelBasedLearner,
    state: ModelBasedState,
    elapsed: int,
    num: int = 1,
    replay: ReplayBuffer | None = None,
) -> ModelBasedState:
    """The updates of step `elapsed`, `num` times."""
    replay = make_replay()[0] if replay is None else replay
    return repeat_step(learner, state, replay, jnp.array(elapsed), jnp.array(num))


def test_model_updates_fit_the_episodes_and_leave_the_policy_alone():
    learner = make_learner()
    before = start(learner)
    after = run(learner, before, MODEL_STEP, 60)
    episodes = make_replay()[1]
    loss = eqx.filter_jit(lambda model: jax.vmap(model.loss)(episodes).mean())
    assert loss(after.model) < 0.5 * loss(before.model)
    assert bits(after.policy) == bits(before.policy)
    assert bits(after.policy_optimiser) == bits(before.policy_optimiser)


def test_policy_updates_raise_the_imagined_return_and_leave_the_model_alone():
    learner = make_learner()
    before = start(learner)
    after = run(learner, before, POLICY_STEP, 60)
    env, noise = Drift(), jnp.zeros((7, 2))
    value = eqx.filter_jit(lambda p: imagined_return(p, after.model, env, env.initial_state(), noise)[0])
    assert value(after.policy) > value(before.policy) + 0.3 * after.return_scale
    assert bits(after.model) == bits(before.model)
    assert bits(after.model_optimiser) == bits(before.model_optimiser)
    assert bits(run(learner, before, 1)) == bits(before), "no update is due"


@eqx.filter_jit
def entropy_of(policy: TanhGaussianPolicy, env: AbstractEnvironment) -> jax.Array:
    noise = jax.random.normal(jax.random.key(9), (200, env.action_size))
    log_probs = jax.vmap(lambda x: policy.sample_and_log_prob(env.initial_state(), 1, x)[1])(noise)
    return -log_probs.mean()


class Paid(Drift):
    """The same task, paid in another currency; or unpaid."""

    rate: Any = 1.0

    def reward(self, state, action, step):
        return self.rate * super().reward(state, action, step)

    def terminal_reward(self, state):
        return self.rate * super().terminal_reward(state)


def paid(rate: float, **overrides: Any) -> ModelBasedLearner:
    return make_learner("one-step", Paid(rate=jnp.array(rate)), **overrides)


def test_the_entropy_bonus_acts_alone_where_nothing_is_paid():
    learner = paid(0.0, entropy=0.1)
    before = start(learner)
    narrow = before.policy.layers[-1].bias.at[2:].set(-2.0)
    before = eqx.tree_at(lambda s: s.policy.layers[-1].bias, before, narrow)
    after = run(learner, before, POLICY_STEP, 30)
    assert entropy_of(after.policy, Drift()) > entropy_of(before.policy, Drift()) + 0.1


def test_the_units_of_the_reward_do_not_matter():
    """With normalised returns: the same policies for any currency, the entropy weight included."""
    policies = []
    for rate in (1.0, 1024.0):
        learner = paid(rate, entropy=0.1)
        policies.append(run(learner, start(learner), POLICY_STEP, 5).policy.layers)
    assert relative_error(policies[1], policies[0]) < 1e-4


def test_an_episode_that_is_not_finite_skips_the_update_and_is_counted():
    """Parameters and optimiser stay bit for bit; the policy, which does not see the bad numbers, goes on."""
    replay, episodes = make_replay()
    bad = eqx.tree_at(lambda r: r.episodes.states, replay, episodes.states.at[:, 3].set(jnp.nan))
    learner = make_learner()
    before = start(learner)
    after = run(learner, before, BOTH, replay=bad)
    assert bits(after.model) == bits(before.model) and bits(after.model_optimiser) == bits(
        before.model_optimiser
    )
    assert int(after.statistics.num_nonfinite) == 1
    assert bits(after.policy) != bits(before.policy) and np.isfinite(flatten(after.policy)).all()
    later = run(learner, after, BOTH)
    assert bits(later.model) != bits(before.model) and np.isfinite(flatten(later.model)).all()
    assert int(later.statistics.num_nonfinite) == 1


class Kinked(Drift):
    """Its reward is finite; its derivative is not where the exponent is 1/2, and huge where the slope is."""

    slope: Any = 0.0
    exponent: Any = 1.0

    def reward(self, state, action, step):
        return self.slope * action[0] + (action[0] - action[0]) ** self.exponent


@pytest.mark.parametrize(("slope", "exponent"), [(1.0, 0.5), (1e25, 1.0)], ids=["nan", "overflow"])
def test_a_gradient_that_is_not_finite_skips_the_update_and_is_counted(slope, exponent):
    """An overflowing norm counts too: to divide by it would quietly replace the gradient by zero."""
    env = Kinked(slope=jnp.array(slope), exponent=jnp.array(exponent))
    learner = make_learner("one-step", env, normalise_return=False)
    before = start(learner)
    assert np.isfinite(rollout(env, make_replay()[1].actions[0]).rewards).all()
    after = run(learner, before, BOTH, 3)
    assert bits(after.policy) == bits(before.policy)
    assert bits(after.policy_optimiser) == bits(before.policy_optimiser)
    assert int(after.statistics.num_nonfinite) == 3
    assert bits(after.model) != bits(before.model), "the model's gradient was finite"
    reset, metrics = diagnose(learner, after, make_replay()[0])
    assert float(metrics["num_nonfinite"]) == 3 and metrics["gradient_norm"] == 0
    assert int(reset.statistics.num_nonfinite) == 3, "the count is the run's"


@eqx.filter_jit
def diagnose(learner: ModelBasedLearner, state: ModelBasedState, replay: ReplayBuffer) -> Any:
    evaluated = rollout(learner.env, learner.policy(state))
    return learner.diagnose(state, replay, evaluated, key=jax.random.key(3))


@pytest.mark.parametrize("kind", ["rnn", "one-step"])
def test_statistics_are_frozen_by_the_warm_up(kind):
    """One set, of the warm-up episodes, in both networks; no update moves it."""
    learner = make_learner() if kind == "rnn" else paid(1.0, entropy=0.1)
    before = start(learner)
    after = run(learner, before, BOTH, 5)
    expected = bits(Normaliser.from_states(make_replay()[1].states))
    for state in (before, after):
        assert bits(state.model.normaliser) == expected
        assert bits(state.policy.normaliser) == expected
    assert bits(after.model) != bits(before.model) and bits(after.policy) != bits(before.policy)


def test_the_first_policy_is_the_same_for_all_models():
    learners = [make_learner(), paid(1.0, entropy=0.1), make_learner("simulator")]
    policies = [init(learner, jax.random.key(0)).policy for learner in learners]
    assert bits(policies[0]) == bits(policies[1]) == bits(policies[2])
    other = init(learners[0], jax.random.key(5)).policy
    assert all((a != b).any() for a, b in zip(weights(other), weights(policies[0]), strict=True))


def weights(policy: TanhGaussianPolicy) -> list[np.ndarray]:
    return [np.asarray(layer.weight) for layer in policy.layers]


def num_applied(optimiser_state: Any) -> jax.Array:
    """How many updates Adam has seen."""
    return next(leaf for path, leaf in jax.tree.leaves_with_path(optimiser_state) if "count" in str(path[-1]))


def test_updates_come_when_they_are_due():
    """Every 2 and every 16 steps over episodes of 37: after t steps floor(t / 2) and floor(t / 16), whatever t."""
    intervals = {"model_update_every": 2, "policy_update_every": 16}
    learner = make_learner("one-step", model_batch_size=1, policy_batch_size=1, **intervals)
    elapsed = np.arange(1, 3 * 37 + 1)
    (arrays, static), replay = eqx.partition(start(learner), eqx.is_array), make_replay()[0]

    @jax.jit
    def counts(arrays):
        def body(arrays, elapsed):
            state = eqx.combine(arrays, static)
            state = learner.update(state, replay, elapsed, key=jax.random.key(0))
            counts = num_applied(state.model_optimiser), num_applied(state.policy_optimiser)
            return eqx.filter(state, eqx.is_array), counts

        return jax.lax.scan(body, arrays, jnp.asarray(elapsed))[1]

    of_model, of_policy = counts(arrays)
    np.testing.assert_array_equal(of_model, elapsed // 2)
    np.testing.assert_array_equal(of_policy, elapsed // 16)


def test_diagnosis_reports_and_starts_over():
    learner = dataclasses.replace(make_learner(), record_cosine=True)
    state = run(make_learner(), start(make_learner()), BOTH, 2)
    assert int(state.statistics.num_updates) == 2
    reset, metrics = diagnose(learner, state, make_replay(1)[0])
    episode = jax.tree.map(lambda leaf: leaf[0], make_replay(1)[1])

    @eqx.filter_jit
    def by_hand(state):
        own = rollout(Drift(), state.policy)
        std = jax.vmap(lambda s, t: state.policy.distribution(s, t).scale)(own.states[:-1], jnp.arange(7))
        return state.model.loss(episode), state.model.loss(own), std.mean()

    names = ("model_loss", "model_loss_on_policy", "policy_std")
    np.testing.assert_allclose([metrics[name] for name in names], by_hand(state), rtol=1e-4)
    assert metrics["gradient_norm"] > 0 and -1 <= metrics["cosine"] <= 1 and metrics["num_nonfinite"] == 0
    networks = operator.attrgetter("model", "policy", "model_optimiser", "policy_optimiser")
    assert bits(networks(reset)) == bits(networks(state))
    again = diagnose(learner, reset, make_replay(1)[0])[1]
    assert again["gradient_norm"] == 0 and again["entropy"] == 0, "sums since the last record"


def test_the_reported_gradient_norm_is_in_units_of_the_return():
    """Whether or not the objective was normalised."""
    norms = []
    for normalise in (False, True):
        learner = make_learner("simulator", entropy=0.0, normalise_return=normalise)
        state = run(learner, start(learner), POLICY_STEP)
        norms.append(float(state.statistics.gradient_norm * state.return_scale))
        assert (float(state.return_scale) == 1.0) != normalise
        np.testing.assert_allclose(
            diagnose(learner, state, make_replay()[0])[1]["gradient_norm"], norms[0], rtol=1e-4
        )


def test_the_cosine_is_one_through_the_simulator_and_less_through_a_fresh_model():
    env = Drift()
    policy = TanhGaussianPolicy(env, key=jax.random.key(0), normaliser=unit_normaliser(env))
    cosine = eqx.filter_jit(gradient_cosine)
    np.testing.assert_allclose(cosine(policy, Simulator(env), env, env.initial_state()), 1.0, rtol=1e-5)
    fresh = maker("rnn", env)(key=jax.random.key(1))
    assert abs(cosine(policy, fresh, env, env.initial_state())) < 0.99


@pytest.mark.parametrize("size", [1, 6, 8, 24])
def test_micro_batches_change_nothing(size, x64):
    """A batch in parts gives the gradient, and the other numbers, of the batch."""
    env = Drift()
    model = maker("rnn", env)(key=jax.random.key(1))
    episodes = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), make_replay(size)[1])

    def loss(model, episode):
        return model.loss(episode), {"return": episode.rewards.sum()}

    @eqx.filter_jit
    def both(model, episodes):
        whole = eqx.filter_grad(lambda m: jax.vmap(m.loss)(episodes).mean())(model)
        return whole, mean_gradient(loss, model, episodes)

    expected, (grads, others) = both(model, episodes)
    assert relative_error(grads, expected) < 1e-12
    np.testing.assert_allclose(others["return"], episodes.rewards.sum(axis=1).mean(), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 8, 12, 64])
@pytest.mark.parametrize("length", [2, 100, 300, 500, 5000])
@pytest.mark.parametrize("least", sorted({backbone.least_batch for backbone in BACKBONES.values()}))
def test_micro_batches_divide_the_batch_and_fit_the_cache(size, length, least):
    micro = micro_batch_size(size, length, least)
    assert size % micro == 0
    assert micro >= min(size, least)
    assert micro in (size, least) or micro * length <= CPU_MICRO_BATCH_STEPS


def test_adam_its_clip_and_its_decay():
    """For a constant gradient Adam's step is its rate; the clip makes a large one equal to its clipped self."""
    rate, decay, clip = 0.1, 5, 2.0
    direction = jnp.array([3.0, -4.0])

    def steps(scale: float, decay: int) -> np.ndarray:
        transformation = optimiser(rate, decay, clip)
        state, updates = transformation.init(direction), []
        for _ in range(12):
            update, state = transformation.update(scale * direction, state)
            updates.append(update)
        return np.stack(updates)

    np.testing.assert_allclose(steps(1.0, 0), np.broadcast_to(-rate * np.sign(direction), (12, 2)), rtol=1e-4)
    expected = -rate / np.sqrt(1 + np.arange(12) / decay)
    np.testing.assert_allclose(steps(1.0, decay)[:, 0], expected, rtol=1e-4)

    transformation = optimiser(rate, 0, clip)
    state = transformation.init(direction)
    moments = [
        transformation.update(gradient, state)[1] for gradient in (100 * direction, clip * direction / 5)
    ]
    assert relative_error(moments[0], moments[1]) < 1e-5
    unclipped = transformation.update(0.1 * direction, state)[1]
    assert relative_error(unclipped, moments[1]) > 0.1


def test_the_average_policy_is_what_is_kept_and_nothing_else_sees_it():
    """After every update it goes an n-th of the way to the new policy; the policy itself goes on as without it."""
    learner, plain = make_learner(policy_average=4), make_learner(policy_average=0)
    states = [start(learner)]
    for _ in range(3):
        states.append(run(learner, states[-1], POLICY_STEP))
    expected = flatten(states[0].policy)
    for state in states[1:]:
        expected = 0.75 * expected + 0.25 * flatten(state.policy)
        np.testing.assert_allclose(flatten(learner.evaluated(state)), expected, rtol=1e-5, atol=1e-7)
        assert learner.policy(state) is state.policy
    assert relative_error(states[-1].average, states[-1].policy) > 1e-4
    state = start(plain)
    assert plain.evaluated(state) is state.policy and state.average is None
    for _ in range(3):
        state = run(plain, state, POLICY_STEP)
    assert relative_error(state.policy, states[-1].policy) < 1e-5
