"""Tasks from differential equations: methods, their orders and their warnings, constraints and what they cost."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.core.precision import double
from asmpg.tasks import DiscretisationWarning, stability
from asmpg.tasks.constraints import Multipliers
from asmpg.tasks.integrators import METHODS
from tiers import thorough_but


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch):
    monkeypatch.setattr(stability, "_warned", set())


def pendulum(**options):
    """A driven pendulum whose cost depends on state, control and time."""
    return asmpg.from_ode(
        lambda x, u, t: jnp.stack([x[1], -jnp.sin(x[0]) + u[0] + jnp.cos(3 * t)]),
        lambda x, u, t: x[0] ** 2 + u[0] * x[1] + jnp.sin(t),
        initial_state=(1.0, 0.0),
        duration=2.0,
        control_bounds=(-1.0, 1.0),
        **options,
    )


def end(env):
    """Final state and return of a control that is constant, so that all horizons integrate the same equation."""
    with double():
        trajectory = jax.jit(lambda a: asmpg.rollout(env, a))(np.full((env.horizon, 1), 0.3))
        return np.append(trajectory.states[-1], trajectory.rewards.sum())


@functools.cache
def exact_end():
    return end(pendulum(method="rk4", horizon=64, substeps=16))


ORDERS = [("euler", 1), ("heun", 2), ("rk4", 4), ("implicit", 2)]


@pytest.mark.parametrize(("method", "order"), thorough_but(ORDERS[:3], ORDERS))
def test_every_method_has_its_order_in_steps_and_in_substeps(method, order):
    exact = exact_end()
    for made in (
        [pendulum(method=method, horizon=horizon, substeps=2) for horizon in (8, 16, 32)],
        [pendulum(method=method, horizon=4, substeps=substeps) for substeps in (4, 8, 16)],
    ):
        errors = [np.linalg.norm(end(env) - exact) for env in made]
        orders = np.log2(np.divide(errors[:-1], errors[1:]))
        assert abs(orders[-1] - order) < 0.3, orders


def test_the_table_of_orders_names_every_method():
    assert set(METHODS) == {"euler", "heun", "rk4", "implicit", "adaptive"}


def test_one_euler_step_is_bit_for_bit_what_it_says():
    env = asmpg.make("harvest", 10)
    state, action = jnp.array([0.4]), jnp.array([0.3])
    u = (action + 1) / 2
    np.testing.assert_array_equal(env.transition(state, action, 3), state + 1.0 * (-(0.2 + u) * state))
    np.testing.assert_array_equal(
        env.reward(state, action, 3), -1.0 * (u[0] ** 2 - 5 * 10 * jnp.float32(3) / 4 * state[0] * u[0])
    )


def stiff(**options):
    """A state pulled at 1000/s towards cos t plus the control."""
    return asmpg.from_ode(
        lambda x, u, t: -1000.0 * (x - jnp.cos(t) - u),
        lambda x, u, t: (x[0] - 1.0) ** 2,
        initial_state=0.0,
        duration=4.0,
        horizon=20,
        control_bounds=(-1.0, 1.0),
        **options,
    )


def test_a_stiff_equation_warns_with_explicit_steps_and_is_solved_by_implicit_ones():
    with pytest.warns(DiscretisationWarning, match='method="implicit" is for stiff'):
        stiff()
    with pytest.warns(DiscretisationWarning, match="non-finite|rk4 with steps"):
        stiff(method="rk4", substeps=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = stiff(method="implicit")
        stiff(substeps=120)
    with double():
        trajectory = asmpg.rollout(env, np.zeros((20, 1)))
        np.testing.assert_allclose(trajectory.states[2:, 0], np.cos(0.2 * np.arange(2, 21)), atol=2e-3)
    gradient = jax.grad(lambda a: asmpg.rollout(env, a).states[-1, 0])(jnp.zeros((20, 1)))
    np.testing.assert_allclose(gradient[-1], 1.0, rtol=0.03)  # of the last control, at its own rate
    tangent = jax.jvp(
        lambda a: asmpg.rollout(env, a).states[-1, 0], (jnp.zeros((20, 1)),), (jnp.ones((20, 1)),)
    )[1]
    np.testing.assert_allclose(tangent, gradient.sum(), rtol=1e-4)


def test_a_derivative_that_is_not_finite_is_said_to_be_one():
    with pytest.warns(DiscretisationWarning, match="derivative of its dynamics is not finite") as caught:
        asmpg.from_ode(
            lambda x, u, t: u - x * jnp.linalg.norm(x),
            lambda x, u, t: u @ u,
            initial_state=np.zeros(2),
            duration=1.0,
            horizon=5,
            control_bounds=(-np.ones(2), np.ones(2)),
        )
    assert "longer horizon" not in str(caught[0].message)


def test_two_tasks_of_one_name_both_warn():
    with pytest.warns(DiscretisationWarning):
        stiff()
    with pytest.warns(DiscretisationWarning):
        asmpg.from_ode(
            lambda x, u, t: -500.0 * x + u,
            lambda x, u, t: x[0] ** 2,
            initial_state=1.0,
            duration=4.0,
            horizon=20,
            control_bounds=(-1.0, 1.0),
        )


def test_the_same_equation_warns_again_with_other_constants_and_only_then():
    def made(rate):
        return asmpg.from_ode(
            lambda x, u, t: -rate * x + u,
            lambda x, u, t: x[0] ** 2,
            initial_state=1.0,
            duration=4.0,
            horizon=20,
            control_bounds=(-1.0, 1.0),
            name="of a rate",
        )

    for rate in (12.0, 13.0):
        with pytest.warns(DiscretisationWarning, match=f"rate {rate:.0f}/s"):
            made(rate)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made(rate)


def test_a_task_can_be_made_within_a_jitted_function():
    def final(rate):
        env = asmpg.from_ode(
            lambda x, u, t: -rate * x + u,
            lambda x, u, t: x[0] ** 2,
            initial_state=1.0,
            duration=1.0,
            horizon=10,
            control_bounds=(-1.0, 1.0),
            path_constraint=lambda x, u, t: x - 2.0,
        )
        return asmpg.rollout(env, jnp.zeros((10, 1))).states[-1, 0]

    np.testing.assert_allclose(jax.jit(final)(0.5), 0.95**10, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(final)(0.5), -(0.95**9), rtol=1e-4)


# Constraints.


def boxed(**options):
    return asmpg.from_ode(
        lambda x, u, t: u,
        lambda x, u, t: u @ u,
        initial_state=0.5,
        duration=2.0,
        horizon=4,
        control_bounds=(-1.0, 1.0),
        **options,
    )


def test_violations_cost_half_the_penalty_times_their_square():
    env = boxed(
        terminal_constraint=lambda x: x[0] - 1.0,
        path_constraint=lambda x, u, t: [x[0] - 0.9, u[0] - 0.5],
        penalty=10.0,
    )
    free = asmpg.rollout(env.with_multipliers(None), jnp.ones((4, 1)))
    trajectory = asmpg.rollout(env, jnp.ones((4, 1)))
    np.testing.assert_array_equal(trajectory.states, free.states)  # 0.5, 1, 1.5, 2, 2.5
    cost = free.rewards - trajectory.rewards
    # Nothing at step 0; the control's excess of 0.5 at steps 1 to 3; the state's at s_1 .. s_4, seconds of 0.5.
    along = 5 * 0.5 * (np.array([0.0, 0.1, 0.6, 1.1]) ** 2 + np.array([0.0, 0.25, 0.25, 0.25]))
    along[-1] += 5 * (0.5 * 1.6**2 + 1.5**2)
    np.testing.assert_allclose(cost, along, rtol=1e-5)
    h, g = env.constraint_values(free.states, free.actions)
    np.testing.assert_allclose(h, [1.5])
    np.testing.assert_allclose(g[1:, 0], [0.1, 0.6, 1.1, 1.6], rtol=1e-5)
    np.testing.assert_allclose(g[:, 1], [-1, 0.5, 0.5, 0.5, -1])


def test_a_constraint_that_is_not_finite_at_the_start_hides_no_violation():
    env = boxed(path_constraint=lambda x, u, t: 1 / x[0] - 0.1, terminal_constraint=None)
    states = jnp.asarray([0.0, 0.5, 1.0, 1.5, 2.0])[:, None]
    np.testing.assert_allclose(env.relative_violation(states, jnp.zeros((4, 1))), 1.0)
    np.testing.assert_allclose(env.violation(states, jnp.zeros((4, 1))), 1.9, rtol=1e-6)


def test_zero_multipliers_are_a_penalty_and_feasible_ones_cost_at_most_nothing():
    key = jax.random.key(0)
    values = jax.random.normal(key, (6,))
    multipliers = Multipliers(jnp.zeros(6), jnp.zeros((1, 6)), jnp.full(6, 3.0), jnp.full(6, 3.0))
    np.testing.assert_allclose(multipliers.equality_cost(values), 1.5 * (values**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        multipliers.inequality_cost(values, 0), 1.5 * (np.maximum(values, 0) ** 2).sum(), rtol=1e-5
    )
    pushed = Multipliers(jnp.zeros(6), jnp.full((1, 6), 0.7), jnp.full(6, 3.0), jnp.full(6, 3.0))
    assert pushed.inequality_cost(-jnp.abs(values), 0) <= 0


WRONG = {
    "method": {"method": "rk5"},
    "substeps": {"substeps": 0},
    "penalty": {"terminal_constraint": lambda x: x, "penalty": -1.0},
    "terminal_constraint": {"terminal_constraint": 3},
    "path_constraint": {"path_constraint": lambda x, u, t: jnp.zeros((2, 2))},
    "name": {"name": 3},
}


@pytest.mark.parametrize("option", WRONG)
def test_options_that_are_not_allowed_are_named(option):
    with pytest.raises(asmpg.UsageError, match=option) as caught:
        boxed(**WRONG[option])
    assert "\n" not in str(caught.value)


def test_what_an_equation_is_made_of_must_be_known_within_jit():
    def made(duration):
        options = {"initial_state": [1.0], "horizon": 4, "control_bounds": (0, 1)}
        return asmpg.from_ode(lambda x, u, t: u - x, lambda x, u, t: x[0], duration=duration, **options)

    with pytest.raises(asmpg.UsageError, match=r"^duration: must be known when the task is made.*jit"):
        jax.jit(lambda seconds: asmpg.rollout(made(seconds), jnp.zeros((4, 1))).rewards)(2.0)
    jax.jit(lambda actions: asmpg.rollout(made(2.0), actions).rewards)(jnp.zeros((4, 1)))
