"""The double pendulum's true gradient against its variational equation, integrated by another method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from asmpg.gradients.analysis import first_action_jacobian
from asmpg.models import Simulator
from asmpg.tasks import make
from asmpg.tasks.mechanics import pendulum_rates


pytestmark = pytest.mark.usefixtures("quickly")

HORIZON = 100
REGULAR = (-0.5, -0.4, -0.15, 0.05, 0.3, 0.5)
CHAOTIC = (0.75, -0.85, 0.95)


@pytest.fixture(scope="module")
def gradients():
    """By first action: `ds_t/da_0` at t = 1 .. 200 through the simulator, to 100 by an adaptive method of order 8."""
    env = make("double_pendulum", 2 * HORIZON)
    with jax.enable_x64(True):

        def differentiate(action):
            actions = jnp.zeros((2 * HORIZON, 1)).at[0, 0].set(action)
            return first_action_jacobian(Simulator(env), env.initial_state(), actions)[:, :, 0]

        simulated = jax.jit(jax.vmap(differentiate))(jnp.asarray(REGULAR + CHAOTIC))

        def one(state, slope):
            return jax.jvp(lambda s: jnp.stack(pendulum_rates(jnp, tuple(s))), (state,), (slope,))

        both = jax.jit(lambda flat: jnp.stack(jax.vmap(one)(*flat.reshape(2, -1, 4))).ravel())
        start = np.zeros((2, len(REGULAR + CHAOTIC), 4))
        start[0, :, 0], start[1, :, 0] = np.pi * np.array(REGULAR + CHAOTIC), np.pi
        times = 0.05 * np.arange(HORIZON)
        # All motions at once: the steps are those that the wildest of them needs.
        solution = solve_ivp(lambda _, y: np.asarray(both(y)), times[[0, -1]], start.ravel(), "DOP853", times,
                             rtol=1e-10, atol=1e-10)  # fmt: skip
        slopes = solution.y.reshape(2, -1, 4, HORIZON)[1].transpose(0, 2, 1)
    return dict(zip(REGULAR + CHAOTIC, zip(np.asarray(simulated), slopes, strict=True), strict=True))


def relative_errors(pair):
    ours, reference = pair[0][:HORIZON], pair[1]
    return np.linalg.norm(ours - reference, axis=1) / np.linalg.norm(reference, axis=1)


@pytest.mark.parametrize("action", REGULAR)
def test_the_gradient_of_regular_motion_is_exact_to_1e_4(gradients, action):
    assert relative_errors(gradients[action]).max() < 1e-4


def largest(gradients, action, horizon):
    return np.linalg.norm(gradients[action][0][:horizon], axis=1).max()


def test_regular_gradients_grow_like_a_power_and_chaotic_ones_do_not(gradients):
    """Twice the time, 2^p times the norm: p about 1 where only the phases drift, which is linear in time.

    Towards the edge of regular motion p is larger, but stays below 3; exponential growth is beyond every power that its
    time allows to tell: above 4 here.
    """
    degrees = {
        action: np.log2(largest(gradients, action, 2 * HORIZON) / largest(gradients, action, HORIZON))
        for action in REGULAR + CHAOTIC
    }
    assert max(degrees[a] for a in REGULAR if abs(a) <= 0.3) < 1.5
    assert max(degrees[a] for a in REGULAR) < 3 < 4 < min(degrees[a] for a in CHAOTIC)
    ends = [[largest(gradients, a, 2 * HORIZON) for a in group] for group in (REGULAR, CHAOTIC)]
    assert min(ends[1]) > 10 * max(ends[0])


def test_the_error_of_chaotic_motion_is_larger_and_known(gradients, record_property):
    """The error grows with the gradient; eight substeps keep it below a hundredth up to H = 100."""
    errors = {a: float(relative_errors(gradients[a]).max()) for a in CHAOTIC}
    record_property("largest relative error by first action", errors)
    assert max(errors.values()) > max(relative_errors(gradients[a]).max() for a in REGULAR)
    assert max(errors.values()) < 1e-2
