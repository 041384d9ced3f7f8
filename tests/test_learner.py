"""Algorithm 1 as a learner: what an update improves, what it leaves alone, when it is due, when it is skipped."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.environment import AbstractEnvironment, rollout, uniform_actions
from asmpg.gradients import imagined_return
from asmpg.learner import gradient_cosine, ModelBasedLearner, ModelBasedState
from asmpg.models import ActionSequenceModel, OneStepModel, Simulator
from asmpg.normalisation import Normaliser
from asmpg.optimisation import mean_gradient, optimiser
from asmpg.policies import TanhGaussianPolicy
from asmpg.replay import ReplayBuffer
from asmpg.settings import preset
from asmpg.types import Trajectory
from toys import bits, Drift, flatten, relative_error, unit_normaliser


NEVER = 10**6
MODELS = {
    "rnn": lambda env: functools.partial(ActionSequenceModel, env, "rnn", normaliser=unit_normaliser(env)),
    "one-step": lambda env: functools.partial(OneStepModel, env, normaliser=unit_normaliser(env)),
    "simulator": lambda env: lambda *, key: Simulator(env),
}


def make_learner(env: AbstractEnvironment, model: str = "rnn", **overrides: Any) -> ModelBasedLearner:
    small = {"model_batch_size": 4, "policy_batch_size": 4, "model_update_every": 1, "policy_update_every": 1}
    settings = dataclasses.replace(preset("default", env.horizon), **(small | overrides))
    return ModelBasedLearner(env, settings, MODELS[model](env))


def make_replay(env: AbstractEnvironment, num_episodes: int = 4) -> tuple[ReplayBuffer, Trajectory]:
    """A buffer of random episodes, and these episodes."""
    keys = jax.random.split(jax.random.key(1), num_episodes)
    episodes = jax.jit(jax.vmap(lambda key: rollout(env, uniform_actions(env, key=key))))(keys)
    return ReplayBuffer(episodes, jnp.array(num_episodes)), episodes


def run_updates(
    learner: ModelBasedLearner, state: ModelBasedState, replay: ReplayBuffer, num: int, first: int = 1
) -> ModelBasedState:
    """The updates of `num` environment steps, in one program."""
    arrays, static = eqx.partition(state, eqx.is_array)

    @jax.jit
    def run(arrays, replay):
        def body(elapsed, arrays):
            state = eqx.combine(arrays, static)
            state = learner.update(state, replay, elapsed, key=jax.random.fold_in(jax.random.key(2), elapsed))
            return eqx.filter(state, eqx.is_array)

        return jax.lax.fori_loop(first, first + num, body, arrays)

    return eqx.combine(run(arrays, replay), static)


def start(learner: ModelBasedLearner, episodes: Trajectory) -> ModelBasedState:
    state = eqx.filter_jit(lambda key: learner.init(key=key))(jax.random.key(0))
    return learner.observe_warmup(state, episodes)


def test_model_updates_fit_the_episodes_and_leave_the_policy_alone():
    env = Drift()
    replay, episodes = make_replay(env)
    learner = make_learner(env, policy_update_every=NEVER)
    before = start(learner, episodes)
    after = run_updates(learner, before, replay, 60)
    loss = eqx.filter_jit(lambda model: jax.vmap(model.loss)(episodes).mean())
    assert loss(after.model) < 0.5 * loss(before.model)
    assert bits(after.policy) == bits(before.policy)
    assert bits(after.policy_optimiser) == bits(before.policy_optimiser)


def test_policy_updates_raise_the_imagined_return_and_leave_the_model_alone():
    env = Drift()
    replay, episodes = make_replay(env)
    learner = make_learner(env, "simulator", model_update_every=NEVER, entropy=0.0)
    before = start(learner, episodes)
    after = run_updates(learner, before, replay, 40)
    noise = jnp.zeros((env.horizon, env.action_size))

    @eqx.filter_jit
    def value(policy):
        return imagined_return(policy, after.model, env, env.initial_state(), noise)[0]

    assert value(after.policy) > value(before.policy) + 0.5 * after.return_scale
    assert bits(after.model) == bits(before.model)
    assert bits(after.model_optimiser) == bits(before.model_optimiser)


@eqx.filter_jit
def entropy_of(policy: TanhGaussianPolicy, env: AbstractEnvironment) -> jax.Array:
    noise = jax.random.normal(jax.random.key(9), (200, env.action_size))
    log_probs = jax.vmap(lambda x: policy.sample_and_log_prob(env.initial_state(), 1, x)[1])(noise)
    return -log_probs.mean()


class Nothing(Drift):
    """A task that pays nothing."""

    def reward(self, state, action, step):
        return jnp.zeros(())

    def terminal_reward(self, state):
        return jnp.zeros(())


def test_the_entropy_bonus_acts_alone_where_nothing_is_paid():
    """It raises the entropy; without it and without a reward nothing moves at all."""
    env = Nothing()
    replay, episodes = make_replay(env)
    for weight in (0.0, 0.1):
        learner = make_learner(env, "simulator", entropy=weight, normalise_return=False)
        before = start(learner, episodes)
        narrow = before.policy.layers[-1].bias.at[env.action_size :].set(-2.0)
        before = eqx.tree_at(lambda s: s.policy.layers[-1].bias, before, narrow)
        after = run_updates(learner, before, replay, 30)
        if weight:
            assert entropy_of(after.policy, env) > entropy_of(before.policy, env) + 0.1
        else:
            assert bits(after.policy) == bits(before.policy)


class Paid(Drift):
    """The same task paid in another currency."""

    rate: float = 1.0

    def reward(self, state, action, step):
        return self.rate * super().reward(state, action, step)

    def terminal_reward(self, state):
        return self.rate * super().terminal_reward(state)


def test_the_units_of_the_reward_do_not_matter():
    """With normalised returns: the same policies for any currency, the entropy weight included."""
    policies = []
    for rate in (1.0, 1024.0):
        env = Paid(rate=rate)
        replay, episodes = make_replay(env)
        learner = make_learner(env, "simulator", normalise_return=True)
        policies.append(run_updates(learner, start(learner, episodes), replay, 10).policy.layers)
    assert relative_error(policies[1], policies[0]) < 1e-4


def test_an_episode_that_is_not_finite_skips_the_update_and_is_counted():
    """Parameters and optimiser stay bit for bit; the policy, which does not see the bad numbers, goes on."""
    env = Drift()
    replay, episodes = make_replay(env)
    bad = eqx.tree_at(lambda r: r.episodes.states, replay, episodes.states.at[:, 3].set(jnp.nan))
    learner = make_learner(env)
    before = start(learner, episodes)
    after = run_updates(learner, before, bad, 1)
    assert bits(after.model) == bits(before.model) and bits(after.model_optimiser) == bits(
        before.model_optimiser
    )
    assert int(after.statistics.num_nonfinite) == 1
    assert bits(after.policy) != bits(before.policy) and np.isfinite(flatten(after.policy)).all()
    # One good draw later, training goes on.
    later = run_updates(learner, after, replay, 1, first=2)
    assert bits(later.model) != bits(before.model) and np.isfinite(flatten(later.model)).all()
    assert int(later.statistics.num_nonfinite) == 1


class Kinked(Drift):
    """Its reward is finite and its derivative is not: a number, or one too large to be squared in float32."""

    slope: float = jnp.nan

    def reward(self, state, action, step):
        if np.isnan(self.slope):
            return super().reward(state, action, step) + jnp.sqrt(action[0] - action[0])
        return self.slope * action[0]


@pytest.mark.parametrize("slope", [np.nan, 1e25])
def test_a_gradient_that_is_not_finite_skips_the_update_and_is_counted(slope):
    """An overflowing norm counts too: to divide by it would quietly replace the gradient by zero."""
    env = Kinked(slope=slope)
    replay, episodes = make_replay(Drift())
    learner = make_learner(env, "one-step", normalise_return=False)
    before = start(learner, episodes)
    after = run_updates(learner, before, replay, 3)
    assert bits(after.policy) == bits(before.policy)
    assert bits(after.policy_optimiser) == bits(before.policy_optimiser)
    assert int(after.statistics.num_nonfinite) == 3
    assert bits(after.model) != bits(before.model)
    _, metrics = eqx.filter_jit(learner.diagnose)(after, replay, key=jax.random.key(3))
    assert float(metrics["num_nonfinite"]) == 3 and np.isfinite(float(metrics["gradient_norm"]))


@pytest.mark.parametrize("model", ["rnn", "one-step"])
def test_statistics_are_frozen_by_the_warm_up(model):
    """One set, of the warm-up episodes, in both networks; no update moves it."""
    env = Drift()
    replay, episodes = make_replay(env)
    learner = make_learner(env, model)
    before = start(learner, episodes)
    after = run_updates(learner, before, replay, 5)
    expected = bits(Normaliser.from_states(episodes.states))
    for state in (before, after):
        assert bits(state.model.normaliser) == expected
        assert bits(state.policy.normaliser) == expected
    assert bits(after.model) != bits(before.model) and bits(after.policy) != bits(before.policy)


def test_the_first_policy_is_the_same_for_all_models():
    policies = [
        bits(eqx.filter_jit(make_learner(Drift(), model).init)(key=jax.random.key(4)).policy)
        for model in MODELS
    ]
    assert policies[0] == policies[1] == policies[2]
    other = eqx.filter_jit(make_learner(Drift()).init)(key=jax.random.key(5)).policy
    assert bits(other.layers) != policies[0][: len(bits(other.layers))]


def num_applied(optimiser_state: Any) -> jax.Array:
    """How many updates Adam has seen."""
    return next(leaf for path, leaf in jax.tree.leaves_with_path(optimiser_state) if "count" in str(path[-1]))


def test_updates_come_when_they_are_due():
    """Every 2 and every 16 steps over episodes of 37: after t steps floor(t / 2) and floor(t / 16), whatever t."""
    env = Drift(horizon=37)
    learner = make_learner(
        env, "one-step", model_update_every=2, policy_update_every=16, model_batch_size=1, policy_batch_size=1
    )
    replay, episodes = make_replay(env)
    arrays, static = eqx.partition(start(learner, episodes), eqx.is_array)

    @jax.jit
    def counts(arrays):
        def body(arrays, elapsed):
            state = learner.update(eqx.combine(arrays, static), replay, elapsed, key=jax.random.key(0))
            counts = num_applied(state.model_optimiser), num_applied(state.policy_optimiser)
            return eqx.filter(state, eqx.is_array), counts

        return jax.lax.scan(body, arrays, jnp.arange(1, 3 * 37 + 1))[1]

    elapsed = np.arange(1, 3 * 37 + 1)
    of_model, of_policy = counts(arrays)
    np.testing.assert_array_equal(of_model, elapsed // 2)
    np.testing.assert_array_equal(of_policy, elapsed // 16)


def test_diagnosis_reports_and_starts_over():
    env = Drift()
    replay, episodes = make_replay(env, num_episodes=1)
    learner = dataclasses.replace(make_learner(env, policy_update_every=2), record_cosine=True)
    state = run_updates(learner, start(learner, episodes), replay, 4)
    assert int(state.statistics.num_updates) == 2
    diagnose = eqx.filter_jit(learner.diagnose)
    reset, metrics = diagnose(state, replay, key=jax.random.key(3))
    episode = jax.tree.map(lambda leaf: leaf[0], episodes)
    np.testing.assert_allclose(metrics["model_loss"], state.model.loss(episode), rtol=1e-4)
    own = rollout(env, state.policy)
    np.testing.assert_allclose(metrics["model_loss_on_policy"], state.model.loss(own), rtol=1e-4)
    std = [state.policy.distribution(s, t).scale for t, s in enumerate(own.states[:-1])]
    np.testing.assert_allclose(metrics["policy_std"], np.mean(std), rtol=1e-4)
    assert metrics["gradient_norm"] > 0 and -1 <= metrics["cosine"] <= 1 and metrics["num_nonfinite"] == 0
    assert bits((reset.model, reset.policy, reset.model_optimiser)) == bits(
        (state.model, state.policy, state.model_optimiser)
    )
    _, again = diagnose(reset, replay, key=jax.random.key(3))
    assert again["gradient_norm"] == 0 and again["entropy"] == 0, "sums since the last record"


def test_the_reported_gradient_norm_is_in_units_of_the_return():
    """Whether or not the objective was normalised."""
    norms = []
    for normalise in (False, True):
        env = Drift()
        replay, episodes = make_replay(env)
        learner = make_learner(env, "simulator", entropy=0.0, normalise_return=normalise)
        state = run_updates(learner, start(learner, episodes), replay, 1)
        norms.append(
            float(eqx.filter_jit(learner.diagnose)(state, replay, key=jax.random.key(0))[1]["gradient_norm"])
        )
        assert (float(state.return_scale) == 1.0) != normalise
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4)


def test_the_cosine_is_one_through_the_simulator_and_less_through_a_fresh_model():
    env = Drift()
    policy = TanhGaussianPolicy(env, key=jax.random.key(0), normaliser=unit_normaliser(env))
    cosine = eqx.filter_jit(gradient_cosine)
    np.testing.assert_allclose(cosine(policy, Simulator(env), env, env.initial_state()), 1.0, rtol=1e-5)
    fresh = MODELS["rnn"](env)(key=jax.random.key(1))
    assert abs(cosine(policy, fresh, env, env.initial_state())) < 0.99


@pytest.mark.parametrize("size", [1, 6, 8, 24])
def test_micro_batches_change_nothing(size, x64):
    """A batch in parts gives the gradient, and the other numbers, of the batch."""
    env = Drift()
    model = MODELS["rnn"](env)(key=jax.random.key(1))
    _, episodes = make_replay(env, size)

    def loss(model, episode):
        return model.loss(episode), {"return": episode.episode_return}

    @eqx.filter_jit
    def both(model, episodes):
        whole = eqx.filter_grad(lambda m: jax.vmap(m.loss)(episodes).mean())(model)
        return whole, mean_gradient(loss, model, episodes)

    expected, (grads, others) = both(model, episodes)
    assert relative_error(grads, expected) < 1e-12
    np.testing.assert_allclose(others["return"], episodes.episode_return.mean(), rtol=1e-12)


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
