"""The double pendulum's true gradient against its variational equation, integrated by another method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from asmpg.analysis import first_action_jacobian
from asmpg.envs import make
from asmpg.envs.mechanics import pendulum_rates
from asmpg.models import Simulator


HORIZON = 100
REGULAR = (-0.5, -0.4, -0.15, 0.05, 0.3, 0.5)
CHAOTIC = (0.75, -0.85, 0.95)


@pytest.fixture(scope="module")
def gradients():
    """By first action: `ds_t/da_0` at t = 1 .. 100 through the simulator, and by an adaptive method of order 8."""
    env = make("double_pendulum", HORIZON)
    with jax.enable_x64(True):

        def differentiate(action):
            actions = jnp.zeros((HORIZON, 1)).at[0, 0].set(action)
            return first_action_jacobian(Simulator(env), env.initial_state(), actions)[:, :, 0]

        rates = jax.jit(lambda s: jnp.stack(pendulum_rates(jnp, tuple(s))))
        slopes = jax.jit(jax.jacfwd(lambda s: jnp.stack(pendulum_rates(jnp, tuple(s)))))
        simulated = jax.jit(jax.vmap(differentiate))(jnp.asarray(REGULAR + CHAOTIC))

        def variational(_, both):
            state, slope = jnp.split(jnp.asarray(both), 2)
            return np.concatenate([rates(state), slopes(state) @ slope])

        found = {}
        for action, ours in zip(REGULAR + CHAOTIC, np.asarray(simulated), strict=True):
            start = np.array([np.pi * action, 0, 0, 0, np.pi, 0, 0, 0])
            times = 0.05 * np.arange(HORIZON)
            solution = solve_ivp(variational, times[[0, -1]], start, "DOP853", times, rtol=1e-10, atol=1e-10)
            found[action] = ours, solution.y[4:].T
    return found


def relative_errors(pair):
    ours, reference = pair
    return np.linalg.norm(ours - reference, axis=1) / np.linalg.norm(reference, axis=1)


@pytest.mark.parametrize("action", REGULAR)
def test_the_gradient_of_regular_motion_is_exact_to_1e_4(gradients, action):
    assert relative_errors(gradients[action]).max() < 1e-4


def test_chaotic_motion_is_another_matter(gradients, record_property):
    """It grows by orders of magnitude, which regular motion does not, and the error with it: below a hundredth."""
    growth = {a: np.linalg.norm(ours[-1]) / np.linalg.norm(ours[0]) for a, (ours, _) in gradients.items()}
    errors = {a: float(relative_errors(gradients[a]).max()) for a in CHAOTIC}
    record_property("largest relative error by first action", errors)
    assert max(growth[a] for a in REGULAR) < 30 < 1000 < max(growth[a] for a in CHAOTIC)
    assert max(errors.values()) > max(relative_errors(gradients[a]).max() for a in REGULAR)
    assert max(errors.values()) < 1e-2
