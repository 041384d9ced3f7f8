"""The adaptive integrator: its tolerance, its derivatives, and the line that says what is not installed."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.tasks.adaptive import adaptive


pytest.importorskip("diffrax")
MATRIX = np.array([[0.0, 1.0], [-1.0, 0.0]])


def test_a_linear_equation_is_solved_to_the_tolerance_and_differentiated():
    def after(start):
        return adaptive(lambda x, t: jnp.asarray(MATRIX, x.dtype) @ x, start, jnp.zeros((), start.dtype), 0.5)

    expected = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
    single = jax.jit(after)(jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(single, expected @ [1.0, 0.5], rtol=1e-3)
    # Errors are relative: in other units it is the same.
    np.testing.assert_allclose(after(jnp.array([1e-9, 0.5e-9])), 1e-9 * single, rtol=1e-3)
    with jax.enable_x64(True):
        value, slope = jax.jit(lambda x: (after(x), jax.jacfwd(after)(x)))(jnp.array([1.0, 0.5]))
        np.testing.assert_allclose(value, expected @ [1.0, 0.5], rtol=1e-6)
        np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)
        pulled = jax.jit(jax.grad(lambda x: after(x) @ jnp.array([1.0, 2.0])))(jnp.array([1.0, 0.5]))
        np.testing.assert_allclose(pulled, [1.0, 2.0] @ expected, rtol=1e-5, atol=1e-6)


def test_an_equation_takes_the_method_and_says_what_is_missing(monkeypatch):
    given = {"initial_state": [1.0, 0.0], "duration": 1.0, "horizon": 2, "control_bounds": (-1.0, 1.0)}

    def make():
        return asmpg.from_ode(
            lambda x, u, t: jnp.stack([x[1], -x[0] + u[0]]),
            lambda x, u, t: x[0] ** 2,
            method="adaptive",
            **given,
        )

    trajectory = asmpg.rollout(make(), np.zeros((2, 1)))
    np.testing.assert_allclose(trajectory.states[:, 0], np.cos([0, 0.5, 1]), atol=1e-3)
    np.testing.assert_allclose(trajectory.rewards.sum(), -(0.5 + np.sin(2) / 4), atol=1e-3)
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(
        asmpg.UsageError, match=r"method: needs diffrax, which pip install 'asmpg\[adaptive\]'"
    ):
        make()
