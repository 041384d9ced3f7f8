"""One step of a differential equation: explicit Runge-Kutta methods, and an implicit one for stiff equations."""

import math
from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import Scalar, Step
from .adaptive import adaptive


Vector = Float[Array, " state"]
Field = Callable[[Vector, Scalar], Vector]
Method = Callable[[Field, Vector, Scalar, float], Vector]


def euler(field: Field, x: Vector, t: Scalar, h: float) -> Vector:
    """Explicit Euler, order 1."""
    return x + h * field(x, t)


def heun(field: Field, x: Vector, t: Scalar, h: float) -> Vector:
    """Heun's method (explicit trapezoid), order 2."""
    first = field(x, t)
    return x + h / 2 * (first + field(x + h * first, t + h))


def rk4(field: Field, x: Vector, t: Scalar, h: float) -> Vector:
    """The classical Runge-Kutta method, order 4."""
    k1 = field(x, t)
    k2 = field(x + h / 2 * k1, t + h / 2)
    k3 = field(x + h / 2 * k2, t + h / 2)
    k4 = field(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


_GAMMA = 1 - 1 / math.sqrt(2)
_NEWTON_STEPS = 10
# A stage whose last Newton step still moved it by more than this share of its size was not found.
_NEWTON_TOLERANCE = 1e-3


def implicit(field: Field, x: Vector, t: Scalar, h: float) -> Vector:
    """The L-stable singly diagonally implicit method of two stages and order 2 (Alexander, 1977).

    Differentiable in forward and reverse mode by the implicit function theorem; NaN where Newton's method fails.
    """
    first = _stage(field, x, x, t + _GAMMA * h, _GAMMA * h)
    slope = (first - x) / (_GAMMA * h)
    return _stage(field, x + (1 - _GAMMA) * h * slope, first, t + h, _GAMMA * h)


def _stage(field: Field, base: Vector, guess: Vector, t: Scalar, h: float) -> Vector:
    """The root y of `y = base + h field(y, t)`."""

    def residual(y: Vector) -> Vector:
        return y - base - h * field(y, t)

    def newton(residual: Callable[[Vector], Vector], guess: Vector) -> Vector:
        def improve(_: Step, carry: tuple[Vector, Vector]) -> tuple[Vector, Vector]:
            y, _step = carry
            step = jnp.linalg.solve(jax.jacfwd(residual)(y), residual(y))
            return y - step, step

        y, step = jax.lax.fori_loop(0, _NEWTON_STEPS, improve, (guess, jnp.zeros_like(guess)))
        found = jnp.abs(step).max() <= _NEWTON_TOLERANCE * (jnp.abs(y).max() + jnp.abs(base).max())
        return jnp.where(found, y, jnp.nan)

    def linear(function: Callable[[Vector], Vector], right: Vector) -> Vector:
        return jnp.linalg.solve(jax.jacfwd(function)(jnp.zeros_like(right)), right)

    return jax.lax.custom_root(residual, guess, newton, linear)


METHODS: MappingProxyType[str, Method] = MappingProxyType(
    {"euler": euler, "heun": heun, "rk4": rk4, "implicit": implicit, "adaptive": adaptive}
)

# Coefficients c_k of the stability function R(z) = sum c_k z^k of the explicit methods: a mode of rate lambda is
# multiplied by R(h lambda) a substep. The implicit method damps every mode that decays.
STABILITY = MappingProxyType(
    {"euler": (1.0, 1.0), "heun": (1.0, 1.0, 1 / 2), "rk4": (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24)}
)


def integrate(field: Field, x: Vector, t: Scalar, dt: float, method: str, substeps: int) -> Vector:
    """The state after `dt` seconds from time t, in equal substeps of a method."""
    h = dt / substeps
    step = METHODS[method]
    if substeps == 1:
        return step(field, x, t, h)
    # A loop rather than stages written out: compiles many times faster.
    times = t + h * jnp.arange(substeps, dtype=x.dtype)
    return jax.lax.scan(lambda x, t: (step(field, x, t, h), None), x, times)[0]
