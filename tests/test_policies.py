"""The tanh-normal policy: its density, its limits, its inputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from asmpg.gradients.policies import ActionSequence, TanhGaussianPolicy
from asmpg.tasks.environment import AbstractEnvironment
from toys import Drift, unit_normaliser


HIDDEN = 64


def make_policy(env: AbstractEnvironment | None = None, spread: float = 0.5) -> TanhGaussianPolicy:
    """A policy whose last layer is not small: means and standard deviations differ from state to state."""
    env = Drift() if env is None else env
    policy = TanhGaussianPolicy(env, key=jax.random.key(0), normaliser=unit_normaliser(env))
    shape = (HIDDEN, 2 * env.action_size)
    weight = spread * HIDDEN**-0.5 * np.random.default_rng(1).normal(size=shape)
    return eqx.tree_at(
        lambda p: p.layers[-1].weight, policy, jnp.asarray(weight, policy.layers[-1].weight.dtype)
    )


def saturated(mean: float) -> TanhGaussianPolicy:
    """A policy with this mean before the squashing, whatever the state."""
    bias = jnp.array([mean, mean, 0.0, 0.0])
    return eqx.tree_at(lambda p: p.layers[-1].bias, make_policy(spread=0.0), bias)


STATE = (0.4, -0.7, 1.9)


def test_log_probability_is_the_density_of_the_action(x64):
    """By the change of variables: the density of `tanh(u)` at a is that of u at `artanh(a)` over `1 - a^2`."""
    policy, state = make_policy(), jnp.array(STATE)
    noises = np.random.default_rng(2).normal(size=(20, 2))
    actions, log_probs = jax.vmap(lambda noise: policy.sample_and_log_prob(state, 3, noise))(
        jnp.asarray(noises)
    )
    normal = policy.distribution(state, 3)
    density = scipy.stats.norm.logpdf(np.arctanh(actions), normal.loc, normal.scale) - np.log1p(
        -np.square(actions)
    )
    np.testing.assert_allclose(log_probs, density.sum(axis=-1), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(actions, np.tanh(normal.loc + normal.scale * noises), rtol=1e-12)
    assert not np.allclose(normal.scale[0], normal.scale[1], rtol=1e-2)


def test_log_probability_is_the_slope_of_the_distribution_function(x64):
    """Independently of the formula: the density is the derivative of P(action <= a) in a."""
    policy, state, step = make_policy(), jnp.array(STATE), 1e-6
    noise = jnp.array([0.3, -1.1])
    action, log_prob = policy.sample_and_log_prob(state, 2, noise)
    normal = policy.distribution(state, 2)

    def cumulative(a):
        return scipy.stats.norm.cdf(np.arctanh(a), normal.loc, normal.scale)

    slopes = (cumulative(np.asarray(action) + step) - cumulative(np.asarray(action) - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(log_prob), slopes.prod(), rtol=1e-6)


def test_samples_follow_the_distribution():
    """With a key: Kolmogorov-Smirnov against the squashed normal, for a key that is fixed."""
    policy, state = make_policy(), jnp.array(STATE)
    keys = jax.random.split(jax.random.key(3), 2000)
    actions = np.asarray(jax.jit(jax.vmap(lambda key: policy(state, 4, key=key)))(keys))
    normal = policy.distribution(state, 4)
    for component in range(2):
        law = scipy.stats.norm(float(normal.loc[component]), float(normal.scale[component]))
        assert scipy.stats.kstest(np.arctanh(actions[:, component].astype(np.float64)), law.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.1, "components are independent"


@pytest.mark.parametrize("mean", [-1e3, -30.0, 30.0, 1e3])
def test_saturated_actions_stay_finite(mean):
    """At exactly +-1 in float32 the log-probability and its derivative are still numbers, and still right."""
    policy, state, noise = saturated(mean), jnp.array(STATE), jnp.array([0.5, -0.5])
    action, log_prob = policy.sample_and_log_prob(state, 0, noise)
    np.testing.assert_array_equal(action, np.sign(mean))
    # For large |u|, log(1 - tanh(u)^2) = log 4 - 2 |u|.
    unsquashed = mean + np.array([0.5, -0.5])
    expected = scipy.stats.norm.logpdf(unsquashed, mean, 1.0) - (np.log(4) - 2 * np.abs(unsquashed))
    np.testing.assert_allclose(log_prob, expected.sum(), rtol=1e-5)
    grads = eqx.filter_grad(lambda p: p.sample_and_log_prob(state, 0, noise)[1])(policy)
    # d/d(mean) of 2 |u| at fixed noise.
    np.testing.assert_allclose(grads.layers[-1].bias[:2], 2 * np.sign(mean), rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_the_mode_is_the_action_without_noise():
    policy, state = make_policy(), jnp.array(STATE)
    mode = policy.mode(state, 3)
    np.testing.assert_allclose(policy.sample_and_log_prob(state, 3, jnp.zeros(2))[0], mode, rtol=1e-6)
    np.testing.assert_array_equal(policy(state, 3), mode)
    np.testing.assert_allclose(mode, np.tanh(policy.distribution(state, 3).loc), rtol=1e-6)


def test_calls_are_reproduced_by_their_key():
    policy, state = make_policy(), jnp.array(STATE)
    draws = [np.asarray(policy(state, 3, key=jax.random.key(seed))) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all() and (draws[0] != policy.mode(state, 3)).all()
    np.testing.assert_array_equal(policy(state, 3, key=jax.random.PRNGKey(5)), draws[0])  # a legacy key


def test_state_and_time_are_inputs():
    policy, state = make_policy(), jnp.array(STATE)
    base = policy.mode(state, 3)
    assert not np.allclose(policy.mode(state, 4), base, rtol=1e-4)
    for component in range(3):
        assert not np.allclose(policy.mode(state.at[component].add(0.5), 3), base, rtol=1e-4)
    # Time is the share of the horizon, so that step 6 of 14 is step 3 of 7.
    longer = eqx.tree_at(lambda p: p.normaliser, make_policy(Drift(horizon=14)), policy.normaliser)
    np.testing.assert_allclose(longer.mode(state, 6), base, rtol=1e-6)


def test_first_actions_are_centred_and_wide():
    """Before training, mode and log standard deviation are near 0: as near as the initial weights let them.

    Two ReLU layers of gain 2 keep the mean square of their input x of size f; the last layer's weights have
    standard deviation 0.01, so an output has 0.01 * sqrt(64 |x|^2 / f). Three of those bound every draw here.
    """
    env = Drift()
    policy = TanhGaussianPolicy(env, key=jax.random.key(0), normaliser=unit_normaliser(env))
    for scale in (0.0, 1.0, 10.0):
        state = scale * jnp.array(STATE)
        normal = policy.distribution(state, 3)
        square = float(jnp.sum(state**2)) + (3 / env.horizon) ** 2
        bound = 3 * 0.01 * np.sqrt(64 * square / (env.state_size + 1))
        np.testing.assert_allclose(normal.loc, 0.0, atol=bound)
        np.testing.assert_allclose(np.log(normal.scale), 0.0, atol=bound)


def test_standard_deviations_are_bounded():
    for bias, bound in ((100.0, "max_log_std"), (-100.0, "min_log_std")):
        policy = make_policy(spread=0.0)
        policy = eqx.tree_at(lambda p: p.layers[-1].bias, policy, jnp.array([0.0, 0.0, bias, bias]))
        scale = policy.distribution(jnp.array(STATE), 0).scale
        np.testing.assert_allclose(scale, np.exp(getattr(policy, bound)), rtol=1e-5)


def test_sizes_of_appendix_e():
    """Two hidden layers of 64."""
    assert [layer.weight.shape for layer in make_policy().layers] == [(4, 64), (64, 64), (64, 4)]


def make_sequence() -> ActionSequence:
    """Means and standard deviations that differ from step to step."""
    values = 0.5 * np.random.default_rng(4).normal(size=(2, 7, 2))
    sequence = ActionSequence(Drift(), key=jax.random.key(0))
    return eqx.tree_at(lambda s: (s.means, s.log_stds), sequence, tuple(map(jnp.asarray, values)))


def test_an_action_sequence_is_one_distribution_a_step_whatever_the_state(x64):
    sequence, noise = make_sequence(), jnp.array([0.3, -1.1])
    for step in range(7):
        action, log_prob = sequence.sample_and_log_prob(jnp.array(STATE), step, noise)
        mean, std = sequence.means[step], np.exp(sequence.log_stds[step])
        np.testing.assert_allclose(action, np.tanh(mean + std * noise), rtol=1e-12)
        density = scipy.stats.norm.logpdf(np.arctanh(action), mean, std) - np.log1p(-np.square(action))
        np.testing.assert_allclose(log_prob, density.sum(), rtol=1e-9)
        np.testing.assert_allclose(sequence.mode(jnp.array(STATE), step), np.tanh(mean), rtol=1e-12)
        elsewhere = sequence.sample_and_log_prob(jnp.full(3, 1e6), step, noise)
        np.testing.assert_array_equal(elsewhere[0], action)


def test_a_first_action_sequence_is_that_of_a_first_network():
    """Centred to within 0.1 or so, with a standard deviation of one; different for every key, within the bounds."""
    first, other = (ActionSequence(Drift(horizon=50), key=jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_allclose(first.means.std(), 0.1, rtol=0.3)
    assert (first.means != other.means).all()
    np.testing.assert_array_equal(first.distribution(jnp.array(STATE), 4).scale, 1.0)
    for value, bound in ((100.0, np.exp(2.0)), (-100.0, np.exp(-5.0))):
        wide = eqx.tree_at(lambda s: s.log_stds, first, jnp.full((50, 2), value))
        np.testing.assert_allclose(wide.distribution(jnp.array(STATE), 4).scale, bound, rtol=1e-5)
