"""The gradient laboratory: Jacobians against finite differences, growth laws, landscapes, and the first NaN."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.types import UsageError
from asmpg.gradients import analysis
from asmpg.gradients.policy_gradient import action_gradient, policy_gradient
from asmpg.models import ActionSequenceModel, OneStepModel, Simulator
from asmpg.tasks.environment import AbstractEnvironment, rollout
from test_gradients import make_model, make_policy
from toys import Drift, flatten, relative_error, unit_normaliser


pytestmark = pytest.mark.usefixtures("quickly")

# Every kind of model, and of backbones those whose derivatives are written by hand or taken in chunks.
JACOBIANS = ("rnn", "lstm", "lru", "transformer", "gated_delta", "history-rnn", "one-step", "simulator")


def make_actions(env: AbstractEnvironment, seed: int = 0, dtype: Any = float) -> jax.Array:
    random = np.random.default_rng(seed)
    return jnp.asarray(random.uniform(-1, 1, (env.horizon, env.action_size)), dtype)


class Memory(AbstractEnvironment):
    """`s' = eta s + a` in one dimension: `ds_H/da_0 = eta^(H-1)`, whatever the actions."""

    horizon: int
    eta: float = 0.9
    name: str = "memory"
    state_size: int = 1
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return self.eta * state + action

    def reward(self, state, action, step):
        return jnp.zeros((), state.dtype)

    def terminal_reward(self, state):
        return state[0]


# Jacobians


@pytest.mark.parametrize("name", JACOBIANS)
def test_jacobians_are_finite_differences(name, x64):
    """At a start that is not the task's own; what is still to come has no effect at all."""
    env, width = Drift(), 1e-6
    model, actions = make_model(name, env), make_actions(env)
    start = env.initial_state() + jnp.array([0.3, -0.2, 0.1])
    basis = np.eye(actions.size).reshape(-1, *actions.shape)

    @eqx.filter_jit
    def run(model, steps):
        moved = jax.vmap(lambda step: model.predict(start, actions + step))(steps)
        first = analysis.first_action_jacobian(model, start, actions)
        return moved, analysis.action_jacobian(model, start, actions, chunk_size=7), first

    moved, jacobian, first = run(model, jnp.asarray(width * np.concatenate([basis, -basis])))
    above, below = np.split(np.asarray(moved), 2)
    expected = np.moveaxis((above - below) / (2 * width), 0, -1).reshape(jacobian.shape)
    assert relative_error(jacobian, expected) < 1e-7
    np.testing.assert_allclose(first, jacobian[:, :, 0], rtol=1e-9, atol=1e-13)
    later = np.triu(np.ones((env.horizon, env.horizon), bool), 1)
    blocks = np.swapaxes(np.asarray(jacobian), 1, 2)
    assert (blocks[later] == 0).all() and (blocks[~later] != 0).any(axis=(1, 2)).all()


def test_the_parts_of_a_jacobian(x64):
    """Chunked as whole, even where the chunks do not come out even; the last row, the norms and the reach."""
    env = Drift()
    model, actions, start = make_model("one-step", env), make_actions(env), env.initial_state()

    @eqx.filter_jit
    def run(model):
        whole, parts = (analysis.action_jacobian(model, start, actions, chunk_size=n) for n in (1000, 8))
        last = analysis.final_state_jacobian(model, start, actions)
        norms = analysis.jacobian_norms(model, start, actions)
        return whole, parts, last, norms, analysis.reach(model, start, actions)

    whole, parts, last, norms, reach = run(model)
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(last, whole[-1], rtol=1e-12, atol=1e-14)
    expected = np.linalg.norm(np.swapaxes(whole, 1, 2), ord=2, axis=(-2, -1))
    np.testing.assert_allclose(norms, expected, rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(reach, expected[-1, 0] / expected[-1, -1], rtol=1e-7)


def test_norms_do_not_underflow():
    """In single precision, of matrices whose squares would."""
    matrix = jax.random.normal(jax.random.key(0), (3, 2))
    for scale in (1.0, 1e-30, 1e30):
        expected = scale * np.linalg.norm(matrix, ord=2)
        np.testing.assert_allclose(analysis.operator_norm(scale * matrix), expected, rtol=1e-5)
        np.testing.assert_allclose(
            analysis.gradient_norm([scale * matrix]), scale * np.linalg.norm(matrix), rtol=1e-5
        )
        np.testing.assert_allclose(analysis.cosine_similarity(scale * matrix, -matrix), -1.0, rtol=1e-5)
    assert analysis.operator_norm(jnp.zeros((2, 2))) == 0


def test_the_jacobian_can_be_vmapped():
    env = Memory(4, 0.5)

    def run(actions):
        start = env.initial_state()
        whole = analysis.action_jacobian(Simulator(env), start, actions, chunk_size=3)
        return whole[:, 0, :, 0], analysis.reach(Simulator(env), start, actions)

    actions = jnp.stack([make_actions(env, seed) for seed in range(2)])
    jacobians, reaches = jax.jit(jax.vmap(run))(actions)
    powers = np.arange(4)[:, None] - np.arange(4)
    expected = np.where(powers >= 0, 0.5**powers, 0.0)
    np.testing.assert_allclose(jacobians, [expected, expected], rtol=1e-6)
    np.testing.assert_allclose(reaches, 0.5**3, rtol=1e-6)


# Profiles and comparisons


def test_the_profile_of_a_memory_that_fades():
    """`|ds_H/da_0| = eta^(H-1)` for every action, and the fit finds eta."""
    horizons, eta = (5, 2, 9, 14, 20), 0.8
    problems = [(env, Simulator(env)) for env in (Memory(h, eta) for h in horizons)]
    profile = analysis.gradient_norm_profile(problems, key=jax.random.key(0), num_samples=3)
    assert profile.horizons == horizons and profile.num_nonfinite == 0
    expected = eta ** (np.array(horizons) - 1.0)
    np.testing.assert_allclose(profile.state_norms, np.tile(expected[:, None], 3), rtol=1e-5)
    statistics = profile.statistics(quantiles=(0.25,))
    assert set(statistics) == {"mean", "median", "quantile_0.25"}
    fit = analysis.growth_fit(profile.horizons, statistics["median"])
    assert fit.law == "exponential"
    np.testing.assert_allclose(fit.eta, eta, rtol=1e-5)


def test_the_profile_of_the_policy_gradient():
    """Every entry is the norm of a policy gradient, and different draws differ."""
    env = Drift()
    policy, model = make_policy(env), Simulator(env)
    profile = analysis.gradient_norm_profile(
        [(env, model)], key=jax.random.key(3), policies=[policy], num_samples=3
    )
    assert profile.policy_norms is not None and len(set(profile.policy_norms[0])) == 3
    keys = jax.random.split(jax.random.split(jax.random.fold_in(jax.random.key(3), env.horizon), 3)[2], 3)
    gradient = eqx.filter_jit(policy_gradient)(policy, model, env, env.initial_state(), key=keys[1])[1]
    np.testing.assert_allclose(profile.policy_norms[0, 1], np.linalg.norm(flatten(gradient)), rtol=1e-4)


def test_statistics_leave_out_what_is_not_finite():
    norms = np.array([[1.0, np.nan, 3.0], [np.inf, np.nan, np.nan]])
    profile = analysis.GradientNormProfile((5, 10), norms)
    assert profile.num_nonfinite == 4
    assert profile.statistics()["mean"][0] == 2.0 and np.isnan(profile.statistics()["median"][1])


def test_models_that_do_not_fit_are_refused():
    fitting = Memory(4)
    cases = {
        "horizon": OneStepModel(Memory(5), key=jax.random.key(0), normaliser=unit_normaliser(fitting)),
        "task": Simulator(Drift()),
        "of the task": ActionSequenceModel(
            Drift(4), "rnn", key=jax.random.key(0), normaliser=unit_normaliser(Drift())
        ),
    }
    for word, model in cases.items():
        with pytest.raises(UsageError, match=word):
            analysis.check_fits(model, fitting)
        with pytest.raises(UsageError, match=word):
            analysis.gradient_norm_profile([(fitting, model)], key=jax.random.key(0))
    twice = [(fitting, Simulator(fitting))] * 2
    with pytest.raises(UsageError, match="horizons: must differ"):
        analysis.gradient_norm_profile(twice, key=jax.random.key(0))


def test_bias_and_variance_add_up():
    random = np.random.default_rng(0)
    truth = {"a": jnp.asarray(random.normal(size=3)), "b": jnp.asarray(random.normal(size=(2, 2)))}
    offset, noise = 0.3, jax.tree.map(lambda x: jnp.asarray(random.normal(size=(1000, *x.shape))), truth)
    noise = jax.tree.map(lambda x: x - x.mean(axis=0), noise)
    estimates = jax.tree.map(lambda x, n: x * (1 + offset) + 0.1 * n, truth, noise)
    run = jax.jit(analysis.estimator_error)
    error = run(estimates, truth)
    np.testing.assert_allclose(error.bias, offset, rtol=1e-4)
    np.testing.assert_allclose(error.error**2, error.bias**2 + error.deviation**2, rtol=1e-4)
    np.testing.assert_allclose(error.cosine, 1.0, rtol=1e-5)
    spread = 0.1 * np.sqrt(7) / np.linalg.norm(flatten(truth))
    np.testing.assert_allclose(error.deviation, spread, rtol=0.1)
    spoiled = jax.tree.map(lambda x: x.at[0].set(jnp.nan), estimates)
    left = run(spoiled, truth)
    assert left.num_nonfinite == 1 and error.num_nonfinite == 0
    np.testing.assert_allclose(left.bias, error.bias, rtol=1e-2)


# Growth


@pytest.mark.parametrize("parameter", [0.9, 1.02, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_growth_recovers_eta(parameter, seed):
    noise = np.random.default_rng(seed).normal(size=12)
    horizons = np.linspace(5, 120, 12)
    fit = analysis.growth_fit(horizons, 3.0 * parameter**horizons * np.exp(0.1 * noise))
    assert fit.law == "exponential" and fit.preference > 6
    assert abs(fit.eta - parameter) < 0.003 * parameter


@pytest.mark.parametrize("parameter", [-1.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_growth_recovers_the_degree(parameter, seed):
    noise = np.random.default_rng(seed).normal(size=12)
    horizons = np.linspace(5, 120, 12)
    fit = analysis.growth_fit(horizons, 0.2 * horizons**parameter * np.exp(0.05 * noise))
    assert fit.law == "power" and fit.preference < -6
    assert abs(fit.p - parameter) < 0.15


def test_the_intervals_cover_what_they_say():
    """Of 400 noisy profiles of each law, the 95% interval holds the parameter in 92 to 98 of 100."""
    random, horizons = np.random.default_rng(1), np.array([5.0, 10, 20, 35, 50, 100])
    hits = {"eta": 0, "p": 0}
    for _ in range(400):
        noise = np.exp(0.2 * random.normal(size=6))
        fit = analysis.growth_fit(horizons, 1.1**horizons * noise)
        hits["eta"] += fit.eta_interval[0] < 1.1 < fit.eta_interval[1]
        fit = analysis.growth_fit(horizons, horizons**2 * noise)
        hits["p"] += fit.p_interval[0] < 2 < fit.p_interval[1]
    assert all(368 <= count <= 392 for count in hits.values()), hits


def test_growth_says_constant_or_undecided():
    horizons = np.array([5.0, 10, 20, 50, 100, 200])
    assert analysis.growth_fit(horizons, np.full(6, 3.0)).law == "constant"
    wild = np.array([1.0, 50.0, 0.3, 20.0, 0.1, 8.0])
    assert analysis.growth_fit(horizons, wild).law == "undecided"


@pytest.mark.parametrize(
    ("horizons", "norms", "reason"),
    [
        ([5, 10, 20, 20], [1, 2, 3, 4], "too few horizons"),
        ([5, 10, 20, 50, 100], [1, 1e-20, 1e-30, 1e-40, 0], "underflow to zero, first at horizon 50"),
        ([5, 10, 20, 50, 100], [1, 2, np.nan, 3, 4], "not finite"),
        ([0, 10, 20, 50, 100], [1, 2, 2, 3, 4], "positive"),
        ([5, 10, 20, 50, 100], [1, 2, 2, 3], "one norm a horizon"),
    ],
)
def test_growth_refuses_rather_than_guesses(horizons, norms, reason):
    with pytest.raises(UsageError, match=reason):
        analysis.growth_fit(horizons, norms)


# Theorem 1


def test_the_bound_has_the_constants_of_the_theorem(x64):
    """Every constant against a calculation with whole Jacobians."""
    env = Drift()
    policy, model = make_policy(env), Simulator(env)
    start, steps = env.initial_state(), jnp.arange(env.horizon)
    arrays, static = eqx.partition(policy, eqx.is_inexact_array)

    @eqx.filter_jit
    def run(policy):
        bound = analysis.theorem1_bound(policy, model, env, start)
        episode = rollout(env, policy)
        spread = jax.jacrev(lambda p, s, t: eqx.combine(p, static).mode(s, t))
        whole = jax.vmap(spread, in_axes=(None, 0, 0))(arrays, episode.states[:-1], steps)
        slopes = jax.vmap(jax.grad(env.reward, (0, 1)))(episode.states[:-1], episode.actions, steps)
        last = jax.grad(env.terminal_reward)(episode.states[-1])
        gradient = policy_gradient(policy, model, env, start)[1]
        return bound, (bound.bound, bound.paper_bound, bound.ratio), whole, slopes, last, gradient

    bound, (full, printed, ratio), whole, (by_state, by_action), last, gradient = run(policy)
    leaves = [np.reshape(leaf, (env.horizon, env.action_size, -1)) for leaf in jax.tree.leaves(whole)]
    largest = np.linalg.norm(np.concatenate(leaves, axis=-1), ord=2, axis=(1, 2)).max()
    np.testing.assert_allclose(bound.policy_lipschitz, largest, rtol=1e-9)
    slopes = np.linalg.norm(np.concatenate([by_state[1:], last[None]]), axis=1)
    np.testing.assert_allclose(bound.reward_lipschitz, slopes.max(), rtol=1e-9)
    np.testing.assert_allclose(bound.action_sum, np.linalg.norm(by_action, axis=1).sum(), rtol=1e-9)
    np.testing.assert_allclose(bound.gradient_norm, np.linalg.norm(flatten(gradient)), rtol=1e-9)
    np.testing.assert_allclose(ratio, bound.gradient_norm / full, rtol=1e-12)
    assert 0 < ratio < 1 and full > printed


# Landscapes


def test_a_landscape_has_the_slope_of_the_gradient(x64):
    """In action space and in parameter space, along one random direction; the frozen statistics do not move."""
    env, width = Drift(), 1e-5
    model, policy, start = Simulator(env), make_policy(env), env.initial_state()
    offsets, actions = jnp.array([-width, 0.0, width]), make_actions(env)
    direction = analysis.random_direction(actions, key=jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-6)
    value, gradient = jax.jit(lambda a: action_gradient(model, env, start, a))(actions)
    landscape = eqx.filter_jit(analysis.return_landscape)(
        lambda a: analysis.action_return(model, env, start, a), actions, [direction], offsets, chunk_size=2
    )
    np.testing.assert_allclose(landscape[1], value, rtol=1e-12)
    slope = (landscape[2] - landscape[0]) / (2 * width)
    np.testing.assert_allclose(slope, jnp.vdot(gradient, direction), rtol=1e-6)

    along = analysis.random_direction(policy, key=jax.random.key(1))
    np.testing.assert_allclose(np.linalg.norm(flatten(along)), 1.0, rtol=1e-6)
    assert not flatten(along.normaliser).any() and flatten(along.layers).all()
    _, grads = eqx.filter_jit(policy_gradient)(policy, model, env, start, loop="closed")
    landscape = eqx.filter_jit(analysis.return_landscape)(
        lambda p: analysis.policy_return(model, env, start, p), policy, [along], offsets
    )
    slope = (landscape[2] - landscape[0]) / (2 * width)
    np.testing.assert_allclose(slope, flatten(grads) @ flatten(along), rtol=1e-6)


def test_a_landscape_over_two_directions():
    """The first direction along the first axis; a third is refused."""

    def objective(x):
        return 10 * x[0] + x[1]

    centre, offsets = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0, 3.0])
    directions = [jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])]
    landscape = analysis.return_landscape(objective, centre, directions, offsets)
    np.testing.assert_array_equal(landscape, 12 + 10 * offsets[:, None] + offsets[None, :])
    for wrong in ([], directions + directions[:1]):
        with pytest.raises(UsageError, match=r"one direction or two|at least one"):
            analysis.return_landscape(objective, centre, wrong, offsets)


# The first NaN


class Brittle(AbstractEnvironment):
    """A task of which one function, from step 3 on, gives NaN or has an infinite derivative, as `fault` says."""

    fault: str = eqx.field(static=True)
    horizon: int = 6
    name: str = "brittle"
    state_size: int = 1
    action_size: int = 1

    def broken(self, function, value, step):
        late = jnp.asarray(step) >= 3
        if self.fault == f"forward {function}":
            return jnp.where(late, jnp.nan, value)
        if self.fault == f"backward {function}":
            return value + jnp.where(late, 1.0, 0.0) * jnp.sqrt(0.0 * value)
        return value

    def initial_state(self, *, key=None):
        return jnp.ones(1)

    def transition(self, state, action, step):
        return self.broken("transition", state + 0.1 * action, step)

    def reward(self, state, action, step):
        return self.broken("reward", state[0] + action[0], step)

    def terminal_reward(self, state):
        return self.broken("terminal_reward", state[0], self.horizon)


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("forward transition", 3),
        ("forward reward", 3),
        ("forward terminal_reward", 6),
        ("backward transition", 5),
        ("backward reward", 5),
        ("backward terminal_reward", 6),
    ],
)
def test_the_first_nan_is_found(fault, step):
    env = Brittle(fault)
    found = analysis.locate_nonfinite(Simulator(env), env, env.initial_state(), make_actions(env))
    assert found is not None
    assert (f"{found.direction} {found.function}", found.step) == (fault, step)
    assert np.isfinite(found.inputs["state"]).all()
    assert not all(np.isfinite(value).all() for value in found.value.values())
    assert found.function in str(found) and f"step {step}" in str(found)


def test_a_policy_and_a_network_are_looked_at_too():
    env = Drift()
    policy, model = make_policy(env), make_model("one-step", env)
    start = env.initial_state()
    assert analysis.locate_nonfinite(model, env, start, policy, key=jax.random.key(0), loop="closed") is None
    huge = eqx.tree_at(lambda m: m.layers[2].bias, model, replace_fn=lambda b: b + jnp.inf)
    found = analysis.locate_nonfinite(huge, env, start, policy)
    assert found is not None and (found.function, found.step) == ("model", 0)
    broken = eqx.tree_at(lambda p: p.layers[2].bias, policy, replace_fn=lambda b: b * jnp.nan)
    found = analysis.locate_nonfinite(model, env, start, broken)
    assert found is not None and (found.direction, found.function) == ("forward", "policy")
    with pytest.raises(UsageError, match="initial_state"):
        analysis.locate_nonfinite(model, env, start * jnp.nan, policy)


def test_exploding_products_are_found_where_they_overflow():
    """A derivative that grows by 1e10 a step leaves single precision on the way back, not at the end."""
    env = Memory(8, 1e10)
    found = analysis.locate_nonfinite(Simulator(env), env, env.initial_state(), 0 * make_actions(env))
    assert found is not None and (found.direction, found.function, found.step) == (
        "backward",
        "transition",
        4,
    )
