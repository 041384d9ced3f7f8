"""Steps of a differential equation by adaptive methods of diffrax, an optional library."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.extras import require
from ..core.types import Scalar


Vector = Float[Array, " state"]

# The methods by their classes in diffrax: explicit, of order 5 (Tsitouras, 2011); implicit, L-stable, of order 5
# (Kværnø, 2004).
SOLVERS: MappingProxyType[str, str] = MappingProxyType({"adaptive": "Tsit5", "adaptive-implicit": "Kvaerno5"})
# Relative errors of a step, in double and in single precision.
TOLERANCES = (1e-8, 1e-5)
_MAX_STEPS = 256


def load() -> Any:
    """The library.

    Raises:
        UsageError: it is not installed.
    """
    return require("diffrax", "stiff", "method")


def integrate(
    field: Callable[[Vector, Scalar], Vector], x: Vector, t: Scalar, dt: float, method: str
) -> Vector:
    """The state after `dt` seconds from time t; NaN where that takes more than 256 steps.

    Differentiable in forward and reverse mode, as often as one likes. Errors are relative to each component's own
    size, or to how much it would change at its first speed where that is more, so that units make no difference.

    Args:
        field: `dx/dt = field(x, t)`.
        x: the state.
        t: the time.
        dt: how long.
        method: one of `SOLVERS`.
    """
    diffrax = load()
    tolerance = TOLERANCES[0] if x.dtype == jnp.float64 else TOLERANCES[1]
    size = jnp.maximum(jnp.abs(x), dt * jnp.abs(field(x, t)))
    solver = getattr(diffrax, SOLVERS[method])()
    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, _: field(x, t)),
        solver,
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
