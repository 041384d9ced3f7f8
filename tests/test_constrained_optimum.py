"""Optima with constraints against closed forms, optima where random actions are catastrophic, doubts about scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import asmpg
from asmpg.tasks.optimum import best_constant_return, doubts, ScoreWarning


def cake(**options):
    """Eating from a store of 10 that grows at 0.5, discounted at 0.33."""
    return asmpg.from_ode(
        lambda x, u, t: 0.5 * x - u,
        lambda x, u, t: -jnp.exp(-0.33 * t) * jnp.log(u[0]),
        initial_state=10.0,
        duration=10.0,
        horizon=200,
        control_bounds=(0.01, 100.0),
        name="cake",
        **options,
    )


def cake_optimum():
    """Euler's problem by its Lagrangian: consumption is proportional to discount over price, the budget is spent."""
    dt, times = 0.05, 0.05 * np.arange(200)
    price, discount = dt * (1 + 0.5 * dt) ** -(np.arange(200) + 1.0), dt * np.exp(-0.33 * times)
    consumption = discount / price * 10 / discount.sum()
    return (discount * np.log(consumption)).sum(), consumption


def test_the_cake_is_eaten_as_its_closed_form_says():
    best, consumption = cake_optimum()
    np.testing.assert_allclose(best, 4.93677, atol=5e-6)
    solution = asmpg.optimal(cake(path_constraint=lambda x, u, t: -x), num_starts=2)
    np.testing.assert_allclose(solution.episode_return, best, atol=1e-6)
    np.testing.assert_allclose(solution.controls[:, 0], consumption, rtol=1e-3)
    assert solution.violation < 1e-6
    assert solution.residual < 1e-4


def test_catastrophic_random_actions_leave_the_search_its_units():
    """A penalty that random actions incur a million times over: the search used to stop where it began."""
    best, _ = cake_optimum()
    env = cake(terminal_cost=lambda x: 1e3 * jnp.minimum(x[0], 0.0) ** 2)
    solution = asmpg.optimal(env)
    np.testing.assert_allclose(solution.episode_return, best, atol=1e-4)
    assert solution.residual < 1e-4
    assert any("catastrophic" in doubt for doubt in doubts(env))
    with pytest.warns(ScoreWarning, match="catastrophic"):
        assert asmpg.score(env, best) > 0.99


def test_a_clip_is_not_taken_for_a_constraint_in_silence():
    solution = asmpg.optimal(cake(state_bounds=(0.0, np.inf)), num_starts=1)
    assert "state_bounds clipped state component 0" in solution.message
    assert "path_constraint" in solution.message


def double_integrator(horizon, **options):
    return asmpg.from_ode(
        lambda x, u, t: jnp.stack([x[1], u[0]]),
        lambda x, u, t: 0.5 * u[0] ** 2,
        duration=1.0,
        horizon=horizon,
        control_bounds=(-15.0, 15.0),
        **options,
    )


def maps(horizon):
    """Positions [H] after every step and the final speed of the double integrator, linear in the controls."""
    h = 1 / horizon
    speed = np.tril(np.ones((horizon, horizon))) * h
    before = np.vstack([np.zeros((1, horizon)), speed[:-1]])
    return h * np.cumsum(before, axis=0), speed[-1]


def test_minimum_energy_is_the_least_norm_solution():
    position, speed = maps(30)
    rows = np.stack([position[-1], speed])
    controls = rows.T @ np.linalg.solve(rows @ rows.T, [1.0, 0.0])
    env = double_integrator(
        30,
        initial_state=[0.0, 0.0],
        terminal_constraint=lambda x: x - jnp.array([1.0, 0.0]),
        name="minimum energy",
    )
    solution = asmpg.optimal(env, num_starts=1)
    np.testing.assert_allclose(solution.episode_return, -0.5 / 30 * controls @ controls, rtol=1e-6)
    np.testing.assert_allclose(solution.controls[:, 0], controls, atol=1e-3)


def test_bryson_denham_is_its_quadratic_programme_and_its_multipliers_make_it_unconstrained():
    horizon, limit = 50, 1 / 9
    position, speed = maps(horizon)
    drift = (np.arange(horizon) + 1) / horizon
    programme = minimize(
        lambda u: 0.5 / horizon * u @ u,
        np.full(horizon, -2.0),
        jac=lambda u: u / horizon,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda u: np.array([1 + position[-1] @ u, 2 + speed @ u])},
            {"type": "ineq", "fun": lambda u: limit - drift - position @ u, "jac": lambda u: -position},
        ],
        options={"maxiter": 500, "ftol": 1e-13},
    )
    env = double_integrator(
        horizon,
        initial_state=[0.0, 1.0],
        terminal_constraint=lambda x: x - jnp.array([0.0, -1.0]),
        path_constraint=lambda x, u, t: x[0] - limit,
        name="bryson-denham",
    )
    solution = asmpg.optimal(env, num_starts=1)
    np.testing.assert_allclose(-solution.episode_return, programme.fun, rtol=1e-5)
    assert solution.states[:, 0].max() <= limit + 1e-6
    # With the multipliers in its reward nothing else is better, and the optimum pays nothing for them.
    relaxed = env.with_multipliers(solution.multipliers)
    returns = jax.jit(jax.vmap(lambda a: asmpg.rollout(relaxed, a).rewards.sum()))
    near = np.random.default_rng(0).normal(size=(64, horizon, 1)) * np.geomspace(1e-3, 0.3, 64)[:, None, None]
    values = returns(jnp.asarray(np.clip(solution.actions + near, -1, 1), jnp.float32))
    np.testing.assert_allclose(
        returns(jnp.asarray(solution.actions[None], jnp.float32))[0], -programme.fun, rtol=1e-3
    )
    assert (values <= -programme.fun + 1e-3).all()


def unstable(rate):
    return asmpg.from_ode(
        lambda x, u, t: rate * x + u,
        lambda x, u, t: x[0] ** 2 + 0.1 * u[0] ** 2,
        initial_state=0.5,
        duration=10.0,
        horizon=100,
        control_bounds=(-30.0, 30.0),
        name=f"unstable {rate}",
    )


def riccati(rate, dt=0.1):
    value = 0.0
    for _ in range(100):
        gain = value * (1 + rate * dt) / (0.1 + dt * value)
        value = dt + (1 + rate * dt) * value * (1 + rate * dt - dt * gain)
    return -0.25 * value


def test_an_unstable_plant_is_solved_with_feedback():
    solution = asmpg.optimal(unstable(2.0), num_starts=2)
    np.testing.assert_allclose(solution.episode_return, riccati(2.0), rtol=1e-6)
    assert "unstable plant" in solution.message
    assert solution.trusted


def test_a_hopeless_plant_is_said_to_be_one():
    env = unstable(8.0)
    solution = asmpg.optimal(env, num_starts=1)
    assert "cannot be trusted" in solution.message
    assert not solution.trusted
    assert any("not a trusted optimum" in doubt for doubt in doubts(env))


def test_a_constant_that_is_nearly_optimal_is_a_doubt_on_ones_own_task_alone():
    env = asmpg.from_ode(
        lambda x, u, t: u - x,
        lambda x, u, t: (x[0] - 0.5) ** 2,
        initial_state=0.5,
        duration=1.0,
        horizon=5,
        control_bounds=(-5.0, 5.0),
        name="held",
    )
    assert best_constant_return(env) > -1e-2
    assert any("best constant action scores" in doubt for doubt in doubts(env))
    assert doubts(asmpg.make("bioreactor", 5)) == []


def test_one_start_of_many_is_said_to_be_one():
    solution = asmpg.optimal(cake(terminal_cost=lambda x: 10 * jnp.maximum(-x[0], 0.0)), num_starts=3)
    assert solution.num_agree == sum(
        solution.start_returns[0] - value <= 1e-4 * solution.unit for value in solution.start_returns
    )
    assert f"{solution.num_agree} of 3 starts" in solution.message
