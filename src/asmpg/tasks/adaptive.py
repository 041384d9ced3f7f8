"""Steps of a differential equation as short as they need to be, by diffrax, an optional library."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.extras import require
from ..core.types import Scalar


Vector = Float[Array, " state"]

# Relative errors of a step, in double and in single precision.
TOLERANCES = (1e-8, 1e-4)
_MAX_STEPS = 256


def load() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    return require("diffrax", "adaptive", "method")


def adaptive(field: Callable[[Vector, Scalar], Vector], x: Vector, t: Scalar, dt: float) -> Vector:
    """The state after `dt` seconds from time t; NaN where that takes more than 256 steps.

    By the explicit method of order 5 of Tsitouras (2011).

    Differentiable in forward and reverse mode, as often as one likes. Errors are relative to each component's own
    size, or to how much it would change at its first speed where that is more, so that units make no difference.

    Args:
        field: `dx/dt = field(x, t)`.
        x: the state.
        t: the time.
        dt: how long.
    """
    diffrax = load()
    tolerance = TOLERANCES[0] if x.dtype == jnp.float64 else TOLERANCES[1]
    size = jnp.maximum(jnp.abs(x), dt * jnp.abs(field(x, t)))
    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, _: field(x, t)),
        diffrax.Tsit5(),
        t0=t,
        t1=t + dt,
        dt0=None,
        y0=x,
        stepsize_controller=diffrax.PIDController(
            rtol=tolerance, atol=tolerance * (size + 1e-3 * size.max() + 1e-30)
        ),
        adjoint=diffrax.DirectAdjoint(),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    return jnp.where(solved.result == diffrax.RESULTS.successful, solved.ys[0], jnp.nan)
