"""Optima with constraints against closed forms, optima where random actions are catastrophic, doubts about scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import asmpg
from asmpg.tasks.optimum import best_constant_return, doubts, ScoreWarning
from tiers import thorough_but


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


@pytest.mark.parametrize(("horizon", "known"), [(50, 4.036), (100, 4.009)])
def test_bryson_denham_is_its_quadratic_programme_and_its_multipliers_make_it_unconstrained(horizon, known):
    """Euler's steps cost more than the 4 of the continuous problem: 4.009 at 100 of them."""
    limit = 1 / 9
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
    np.testing.assert_allclose(programme.fun, known, atol=5e-4)
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


UNITS = [(1e-3, 1e6), (1e6, 1e-3), (1e-9, 1e-9), (1e9, 1e9)]


@pytest.mark.parametrize(("metre", "speed"), thorough_but(UNITS[:1], UNITS))
def test_the_units_of_the_states_change_nothing_of_a_constrained_optimum(metre, speed):
    """Tolerances and weights used to be absolute: in units of 1e-6 a violation of all there is counted as none."""
    env = asmpg.from_ode(
        lambda x, u, t: jnp.stack([metre * x[1] / speed, speed * u[0]]),
        lambda x, u, t: 0.5 * u[0] ** 2,
        initial_state=[0.0, speed],
        duration=1.0,
        horizon=50,
        control_bounds=(-15.0, 15.0),
        terminal_constraint=lambda x: x + jnp.array([0.0, speed]),
        path_constraint=lambda x, u, t: x[0] - metre / 9,
        name="bryson-denham in other units",
    )
    solution = asmpg.optimal(env, num_starts=1)
    np.testing.assert_allclose(solution.episode_return, -4.03642, rtol=1e-5)
    np.testing.assert_allclose(solution.states[-1] / np.array([metre, speed]), [0.0, -1.0], atol=1e-6)
    assert solution.states[:, 0].max() <= metre / 9 * (1 + 1e-6)
    assert solution.trusted
    assert "unstable" not in solution.message


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_constraint_that_cannot_be_met_is_said_and_its_violation_costs_nothing(unit):
    env = asmpg.from_ode(
        lambda x, u, t: unit * u,
        lambda x, u, t: u[0] ** 2,
        initial_state=0.0,
        duration=1.0,
        horizon=10,
        control_bounds=(-1.0, 1.0),
        terminal_constraint=lambda x: x - 2 * unit,
        name="out of reach",
    )
    solution = asmpg.optimal(env, num_starts=1)
    np.testing.assert_allclose(solution.controls[:, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(solution.episode_return, -1.0, rtol=1e-6)
    np.testing.assert_allclose(solution.violation, unit, rtol=1e-6)
    assert "the constraints are violated" in solution.message
    assert not solution.trusted


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


def followed(env, solution):
    """The return in float32 of a policy that answers deviations from a solution with its gains."""
    plan = jnp.asarray(solution.actions), jnp.asarray(solution.gains), jnp.asarray(solution.states)

    def policy(state, step, *, key=None):
        actions, gains, states = (leaf[step].astype(state.dtype) for leaf in plan)
        return jnp.clip(actions + gains @ (state - states), -1.0, 1.0)

    return float(asmpg.rollout(env, policy).rewards.sum())


@pytest.mark.parametrize("rate", [2.0, 8.0])
def test_an_unstable_plant_is_solved_by_multiple_shooting(rate):
    """Perturbations grow up to 3e25-fold: no sequence of actions leads there, not even in float64."""
    env = unstable(rate)
    solution = asmpg.optimal(env, num_starts=1)
    np.testing.assert_allclose(solution.episode_return, riccati(rate), rtol=1e-9)
    assert solution.method == "multiple shooting"
    assert "unstable plant" in solution.message
    assert solution.trusted
    assert solution.residual < 1e-6
    np.testing.assert_allclose(followed(env, solution), riccati(rate), rtol=1e-4)
    np.testing.assert_allclose(asmpg.score(env, riccati(rate)), 1, rtol=1e-6)


def pendulum(bound, duration=10.0, **options):
    """An inverted pendulum near its upright position."""
    return asmpg.from_ode(
        lambda x, u, t: jnp.stack([x[1], 4 * x[0] + u[0]]),
        lambda x, u, t: (x**2).sum() + 0.1 * u[0] ** 2,
        initial_state=[0.2, 0.1],
        duration=duration,
        horizon=int(10 * duration),
        control_bounds=(-bound, bound),
        name="inverted pendulum",
        **options,
    )


def pendulum_riccati(horizon, dt=0.1):
    step, push, value = np.array([[1, dt], [4 * dt, 1]]), np.array([[0.0], [dt]]), np.zeros((2, 2))
    for _ in range(horizon):
        gain = np.linalg.solve(0.1 * dt * np.eye(1) + push.T @ value @ push, push.T @ value @ step)
        value = dt * np.eye(2) + step.T @ value @ (step - push @ gain)
    return -np.array([0.2, 0.1]) @ value @ np.array([0.2, 0.1])


def test_an_inverted_pendulum_is_held_with_and_without_constraints():
    best = pendulum_riccati(100)
    for options in ({}, {"terminal_constraint": lambda x: x}):
        solution = asmpg.optimal(pendulum(10.0, **options), num_starts=1)
        np.testing.assert_allclose(solution.episode_return, best, rtol=1e-6)
        assert solution.violation < 1e-6
        assert solution.trusted


def test_a_pendulum_that_falls_whatever_one_does_is_told_from_one_that_is_held():
    """Its unstable mode 2 theta + omega is 0.5: controls of size 1 hold it, less do not."""
    held, fallen = asmpg.optimal(pendulum(1.1), num_starts=1), asmpg.optimal(pendulum(0.9), num_starts=1)
    assert held.episode_return > -1
    assert fallen.episode_return < -1e6
    np.testing.assert_allclose(fallen.controls[:80], -0.9)
    assert "only where nothing deviates" in fallen.message


def test_no_other_formulation_of_van_der_pol_is_better():
    """Its states and controls as unknowns of SciPy's SLSQP, with the equation of motion as constraints."""
    horizon, dt = 25, 0.2
    env = asmpg.from_ode(
        lambda x, u, t: jnp.stack([(1 - x[1] ** 2) * x[0] - x[1] + u[0], x[0]]),
        lambda x, u, t: (x**2).sum() + u[0] ** 2,
        initial_state=[0.0, 1.0],
        duration=5.0,
        horizon=horizon,
        control_bounds=(-1.0, 1.0),
        path_constraint=lambda x, u, t: -0.25 - x[0],
        name="van der pol",
    )

    def split(z):
        return np.vstack([[0.0, 1.0], z[horizon:].reshape(horizon, 2)]), z[:horizon]

    def cost(z):
        x, u = split(z)
        return dt * ((x[:-1] ** 2).sum() + (u**2).sum())

    def slope(z):
        x, u = split(z)
        return dt * np.concatenate([2 * u, 2 * x[1:-1].ravel(), [0.0, 0.0]])

    def gaps(z):
        x, u = split(z)
        p, q = x[:-1].T
        return (x[1:] - x[:-1] - dt * np.stack([(1 - q**2) * p - q + u, p], axis=1)).ravel()

    bounds = [(-1.0, 1.0)] * horizon + [(-0.25, None), (None, None)] * horizon
    other = minimize(cost, np.zeros(3 * horizon), jac=slope, method="SLSQP", bounds=bounds,
                     constraints={"type": "eq", "fun": gaps}, options={"maxiter": 300, "ftol": 1e-12})  # fmt: skip
    assert other.success
    solution = asmpg.optimal(env, num_starts=2)
    np.testing.assert_allclose(-solution.episode_return, other.fun, rtol=1e-5)
    assert solution.violation < 1e-6


def test_solving_a_constrained_task_leaves_its_other_numbers_as_they_are():
    before, after = (pendulum(10.0, 1.0, terminal_constraint=lambda x: x) for _ in range(2))
    expected = asmpg.random_return(before, num_episodes=64), best_constant_return(before)
    asmpg.optimal(after, num_starts=1)
    assert (asmpg.random_return(after, num_episodes=64), best_constant_return(after)) == expected


def test_a_gradient_that_is_not_finite_is_no_kink_and_no_unstable_plant():
    """The case of a norm at rest: states are finite, and so are the gradients along the optimum."""

    def spring(length):
        return asmpg.from_ode(
            lambda x, u, t: jnp.concatenate([x[2:], u - 0.3 * length(x[2:]) * x[2:]]),
            lambda x, u, t: 0.01 * (u**2).sum(),
            initial_state=np.zeros(4),
            duration=1.0,
            horizon=8,
            control_bounds=([-3, -3], [3, 3]),
            terminal_cost=lambda x: ((x - jnp.array([0.5, 0.25, 0.0, 0.0])) ** 2).sum(),
            name="drag",
        )

    with pytest.warns(Warning, match="its dynamics is not finite"):
        env = spring(jnp.linalg.norm)
    solution = asmpg.optimal(env, num_starts=1)
    smooth = asmpg.optimal(spring(lambda v: jnp.sqrt((v * v).sum() + 1e-12)), num_starts=1)
    np.testing.assert_allclose(solution.episode_return, smooth.episode_return, rtol=1e-4)
    assert "unstable" not in solution.message
    never = asmpg.from_ode(
        lambda x, u, t: jnp.stack([u[0] - 0.1 * jnp.linalg.norm(x[1:] * 0.0), 0.0 * u[0]]),
        lambda x, u, t: (x[0] - 1) ** 2,
        initial_state=[0.0, 0.0],
        duration=1.0,
        horizon=4,
        control_bounds=(-1, 1),
        name="never",
    )
    with pytest.warns(Warning, match="not finite"):
        solution = asmpg.optimal(never, num_starts=2)
    assert "locate_nonfinite" in solution.message
    assert "kink" not in solution.message
    assert not solution.trusted


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


def integrator(scale=1.0, cost=1.0, bound=10.0):
    """`x' = u` from x = 1, in other units: of length, of cost, and with another share of useful controls."""
    return asmpg.from_ode(
        lambda x, u, t: u,
        lambda x, u, t: cost * ((x[0] / scale) ** 2 + (u[0] / scale) ** 2),
        initial_state=[scale],
        duration=4.0,
        horizon=20,
        control_bounds=(-bound * scale, bound * scale),
        name="integrator",
    )


@pytest.mark.parametrize(
    "units", [{"scale": 1e-9}, {"scale": 1e9}, {"cost": 1e-9}, {"cost": 1e9}, {"bound": 1e9}]
)
def test_an_optimum_is_the_same_in_any_units(units):
    value = 0.0
    for _ in range(20):
        value = 0.2 + value - 0.04 * value**2 / (0.2 + 0.04 * value)
    solution = asmpg.optimal(integrator(**units), num_starts=2)
    np.testing.assert_allclose(solution.episode_return, -value * units.get("cost", 1.0), rtol=1e-7)
    assert solution.starts_agree
    assert solution.trusted


def test_one_start_of_many_is_said_to_be_one():
    solution = asmpg.optimal(cake(terminal_cost=lambda x: 10 * jnp.maximum(-x[0], 0.0)), num_starts=3)
    assert solution.num_agree == sum(
        solution.start_returns[0] - value <= 1e-4 * solution.unit for value in solution.start_returns
    )
    assert f"{solution.num_agree} of 3 starts" in solution.message


def test_an_optimum_that_one_start_of_many_found_is_doubted_in_the_run_and_on_its_curve():
    env = asmpg.from_ode(
        lambda x, u, t: u,
        lambda x, u, t: 3 * jnp.sin(40 * x[0]) + 0.1 * (x[0] - 0.7) ** 2,
        initial_state=0.0,
        duration=1.0,
        horizon=10,
        control_bounds=(-3.0, 3.0),
        name="rugged",
    )
    solution = asmpg.optimal(env)
    assert solution.num_agree == 1 < len(solution.start_returns)
    assert doubts(env)[0] == f"its 1 may not be the optimum: {solution.message}"
    with pytest.warns(ScoreWarning, match="1 of 32 starts"):
        asmpg.score(env, solution.episode_return)
    small = {"warmup_steps": 10, "policy_batch_size": 2}
    result = asmpg.train(env, model="simulator", steps=20, optimum=True, overrides=small)
    assert doubts(env) == result.summary()["doubts"]
    assert "may not be the optimum: 1 of 32 starts" in " ".join(result.curve()[0].split())
