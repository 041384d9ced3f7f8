"""Optimal-control tasks from an ordinary differential equation, and the eight of the Myriad suite.

Source of the eight: Lenhart and Workman, "Optimal Control Applied to Biological Models" (2007), as collected in Howe
et al., "Myriad: a real-world testbed to bridge trajectory optimization and deep learning" (2022).
"""

import math
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..environment import AbstractEnvironment, check_horizon
from ..types import PRNGKey, Scalar, Step, UsageError
from .stability import warn_if_unstable, warn_once


@final
class OdeEnvironment(AbstractEnvironment):
    """An ordinary differential equation with a control and a running cost, in explicit Euler steps.

    Built by `from_ode`, which checks its arguments. Constants are Python floats, so that one object serves float32
    and float64 alike.

    Attributes:
        dynamics: `dx/dt = dynamics(x, u, t)`; x, u vectors in their own units, t in seconds.
        cost: `cost(x, u, t)`, a rate per second.
        terminal_cost: `terminal_cost(x_T)`, or None.
        start: the initial state, or a function of a key.
        duration: T, in seconds.
        controls: lower and upper bound of every control component.
        bounds: lower and upper bound of every state component, to which each step clips; or None.
        parameters: what `make` was given, so that results can be cached; None for a user's own task.
    """

    dynamics: Callable[..., Any] = eqx.field(static=True)
    cost: Callable[..., Any] = eqx.field(static=True)
    terminal_cost: Callable[..., Any] | None = eqx.field(static=True)
    start: tuple[float, ...] | Callable[..., Any] = eqx.field(static=True)
    duration: float = eqx.field(static=True)
    controls: tuple[tuple[float, ...], tuple[float, ...]] = eqx.field(static=True)
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    name: str = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    parameters: tuple[tuple[str, float], ...] | None = eqx.field(static=True, default=None)

    @property
    def dt(self) -> float:
        """Length of a step, in seconds."""
        return self.duration / self.horizon

    def control(self, action: Float[Array, " action"]) -> Float[Array, " action"]:
        """The control a normalised action stands for: affine, -1 the lower bound, +1 the upper one."""
        low, high = (jnp.asarray(bound, action.dtype) for bound in self.controls)
        return low + (high - low) * (action + 1) / 2

    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """`s_0`; where it is random, None stands for a fixed key."""
        if not callable(self.start):
            return jnp.asarray(self.start, float)
        return jnp.asarray(self.start(jax.random.key(0) if key is None else key), float)

    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """`clip(s + dt f(s, u, t), bounds)` with the time at the start of the step."""
        time = jnp.asarray(step, state.dtype) * self.dt
        state = state + self.dt * jnp.asarray(self.dynamics(state, self.control(action), time), state.dtype)
        if self.bounds is None:
            return state
        low, high = (jnp.asarray(bound, state.dtype) for bound in self.bounds)
        return jnp.clip(state, low, high)

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`-cost(s, u, t) dt`."""
        time = jnp.asarray(step, state.dtype) * self.dt
        return -self.dt * jnp.asarray(self.cost(state, self.control(action), time), state.dtype)

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """`-terminal_cost(s_H)`, not multiplied by dt."""
        if self.terminal_cost is None:
            return jnp.zeros((), state.dtype)
        return -jnp.asarray(self.terminal_cost(state), state.dtype)

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """The parameters that `make` was given."""
        return self.parameters


def from_ode(
    dynamics: Callable[..., Any],
    cost: Callable[..., Any],
    *,
    initial_state: Any,
    duration: float,
    horizon: int,
    control_bounds: tuple[Any, Any],
    state_bounds: tuple[Any, Any] | None = None,
    terminal_cost: Callable[..., Any] | None = None,
    name: str = "ode",
) -> OdeEnvironment:
    """A task from an ordinary differential equation, discretised by `horizon` explicit Euler steps.

    The return is minus the integral of the cost minus the terminal cost. A step that is too long for the equation
    gives a `DiscretisationWarning`, once per name and horizon.

    Args:
        dynamics: `dynamics(x, u, t) -> dx/dt`, shape [state]; x and u are vectors, t is in seconds.
        cost: `cost(x, u, t)`, a scalar rate per second.
        initial_state: a vector (or a number, for one component), or a function of a key that returns one.
        duration: length of an episode in seconds.
        horizon: number of steps, an integer of at least 2.
        control_bounds: `(low, high)`, numbers or vectors; the longer of the two gives `action_size`.
        state_bounds: `(low, high)` to which every step clips, numbers or vectors; infinite entries are allowed.
        terminal_cost: `terminal_cost(x)`, a scalar.
        name: used in messages and run folders.

    Raises:
        UsageError: an argument, or what one of the functions returns, is not as described.
    """
    horizon = check_horizon(horizon)
    if not (np.isscalar(duration) and np.isreal(duration) and 0 < duration < math.inf):
        raise UsageError(f"duration: must be a positive number of seconds, got {duration!r}")
    start, state_size = _check_initial_state(initial_state)
    controls = _check_bounds("control_bounds", control_bounds)
    if not np.isfinite(controls).all():
        raise UsageError(f"control_bounds: must be finite, got {control_bounds!r}")
    bounds = None if state_bounds is None else _check_bounds("state_bounds", state_bounds, state_size)
    env = OdeEnvironment(
        dynamics=dynamics,
        cost=cost,
        terminal_cost=terminal_cost,
        start=start,
        duration=float(duration),
        controls=controls,
        bounds=bounds,
        horizon=horizon,
        name=name,
        state_size=state_size,
        action_size=len(controls[0]),
    )
    _check_functions(env)
    warn_if_unstable(env, env.dt)
    return env


def _check_initial_state(initial_state: Any) -> tuple[Any, int]:
    """The start as an `OdeEnvironment` keeps it, and the number of state components."""
    if callable(initial_state):
        shape = np.shape(initial_state(jax.random.key(0)))
        if len(shape) != 1 or shape[0] == 0:
            raise UsageError(f"initial_state: the function must return a vector, got shape {shape}")
        return initial_state, shape[0]
    try:
        start = np.atleast_1d(np.asarray(initial_state, np.float64))
    except (TypeError, ValueError):
        raise UsageError(
            f"initial_state: must be a vector of numbers or a function, got {initial_state!r}"
        ) from None
    if start.ndim != 1 or start.size == 0 or not np.isfinite(start).all():
        raise UsageError(f"initial_state: must be a vector of finite numbers, got {initial_state!r}")
    return tuple(start.tolist()), start.size


def _check_bounds(
    option: str, bounds: Any, size: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`(low, high)` as two tuples of equal length, or a `UsageError` that names the option."""
    wanted = "a pair (low, high) of numbers or vectors with low < high"
    wanted += "" if size is None else f", for {size} components"
    try:
        low, high = (np.atleast_1d(np.asarray(bound, np.float64)) for bound in bounds)
        low, high, _ = np.broadcast_arrays(low, high, np.empty(1 if size is None else size))
    except (TypeError, ValueError):
        raise UsageError(f"{option}: must be {wanted}, got {bounds!r}") from None
    if low.ndim != 1 or (size is not None and low.size != size) or not (low < high).all():
        raise UsageError(f"{option}: must be {wanted}, got {bounds!r}")
    return tuple(low.tolist()), tuple(high.tolist())


def _check_functions(env: OdeEnvironment) -> None:
    """What the user's functions return for a vector state, a vector control and a scalar time."""
    x, u, t = (jax.ShapeDtypeStruct(shape, float) for shape in [(env.state_size,), (env.action_size,), ()])
    functions = {"dynamics": (env.dynamics, (x, u, t), (env.state_size,)), "cost": (env.cost, (x, u, t), ())}
    if env.terminal_cost is not None:
        functions["terminal_cost"] = (env.terminal_cost, (x,), ())
    for function_name, (function, arguments, wanted) in functions.items():
        if not callable(function):
            raise UsageError(f"{function_name}: must be a function, got {function!r}")
        try:
            out = jax.eval_shape(function, *arguments)
        except Exception as error:  # whatever the user's code raises, the message names the function
            reason = str(error).splitlines()[0] if str(error) else ""
            raise UsageError(
                f"{function_name} of {env.name}: raised {type(error).__name__}: {reason}"
            ) from error
        shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
        if shape != wanted or not jnp.issubdtype(dtype, jnp.floating):
            found = f"shape {shape}, dtype {dtype}" if shape is not None else f"a {type(out).__name__}"
            raise UsageError(
                f"{function_name} of {env.name}: must return floating-point shape {wanted}, got {found}"
            )


def cancer_treatment(*, horizon: int, r: float = 0.3, a: float = 3.0, d: float = 0.45) -> OdeEnvironment:
    """Tumour density x under a drug of strength u that is itself toxic."""
    return from_ode(
        lambda x, u, t: r * x * jnp.log(1 / x) - d * u * x,
        lambda x, u, t: a * x[0] ** 2 + u[0] ** 2,
        initial_state=0.975,
        duration=20.0,
        horizon=horizon,
        control_bounds=(0.0, 2.0),
        state_bounds=(1e-3, 1.0),
        name="cancer_treatment",
    )


def bioreactor(*, horizon: int, K: float = 2.0, G: float = 1.0, D: float = 1.0) -> OdeEnvironment:
    """Bacteria x that break down a contaminant, fed at rate u."""
    return from_ode(
        lambda x, u, t: G * u * x - D * x**2,
        lambda x, u, t: u[0] - K * x[0],
        initial_state=0.5,
        duration=2.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
        name="bioreactor",
    )


def mould_fungicide(*, horizon: int, r: float = 0.3, M: float = 10.0, A: float = 10.0) -> OdeEnvironment:
    """Mould x that grows towards M, held down by a fungicide u."""
    return from_ode(
        lambda x, u, t: r * (M - x) - u * x,
        lambda x, u, t: A * x[0] ** 2 + u[0] ** 2,
        initial_state=1.0,
        duration=5.0,
        horizon=horizon,
        control_bounds=(0.0, 5.0),
        state_bounds=(0.0, 5.0),
        name="mould_fungicide",
    )


def bacteria(
    *, horizon: int, r: float = 1.0, A: float = 1.0, B: float = 12.0, C: float = 1.0
) -> OdeEnvironment:
    """Bacteria x to be many at the end; the nutrient u feeds them, and poisons them while they are few."""
    return from_ode(
        lambda x, u, t: r * x + A * u * x - B * u**2 * jnp.exp(-x),
        lambda x, u, t: u[0] ** 2,
        terminal_cost=lambda x: -C * x[0],
        initial_state=1.0,
        duration=1.0,
        horizon=horizon,
        control_bounds=(0.0, 2.0),
        state_bounds=(0.0, 10.0),
        name="bacteria",
    )


def harvest(*, horizon: int, A: float = 5.0, k: float = 10.0, m: float = 0.2) -> OdeEnvironment:
    """A population x harvested at rate u, whose individuals grow heavier as `k t / (t + 1)`."""
    return from_ode(
        lambda x, u, t: -(m + u) * x,
        lambda x, u, t: u[0] ** 2 - A * k * t / (t + 1) * x[0] * u[0],
        initial_state=0.4,
        duration=10.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        name="harvest",
    )


def invasive_plant(*, horizon: int, B: float = 1.0, k: float = 1.0, e: float = 0.01) -> OdeEnvironment:
    """Five foci of an invasive plant, cleared at rates u; what matters is the total at the end."""
    duration = 10.0
    if horizon < duration:  # dx/dt >= -x: an Euler step longer than 1 overshoots below zero
        warn_once("invasive_plant", horizon, "a step longer than 1 s makes a cleared focus negative")
    return from_ode(
        lambda x, u, t: (x + k * x / (e + x)) * (1 - u) - x,
        lambda x, u, t: B * jnp.sum(u**2),
        terminal_cost=lambda x: jnp.sum(x),
        initial_state=(0.5, 1.0, 1.5, 2.0, 10.0),
        duration=duration,
        horizon=horizon,
        control_bounds=(np.zeros(5), np.ones(5)),
        name="invasive_plant",
    )


def hiv_treatment(
    *,
    horizon: int,
    s: float = 10.0,
    m1: float = 0.02,
    m2: float = 0.5,
    m3: float = 4.4,
    r: float = 0.03,
    Tm: float = 1500.0,
    k: float = 2.4e-5,
    N: float = 300.0,
    A: float = 0.05,
) -> OdeEnvironment:
    """Healthy cells, infected cells and free virus under chemotherapy; u = 1 is no treatment. Stiff below H = 45."""

    def dynamics(x: Array, u: Array, t: Array) -> Array:
        healthy, infected, virus = x
        infection = u[0] * k * healthy * virus
        growth = s / (1 + virus) - m1 * healthy + r * healthy * (1 - (healthy + infected) / Tm)
        return jnp.stack([growth - infection, infection - m2 * infected, N * m2 * infected - m3 * virus])

    return from_ode(
        dynamics,
        lambda x, u, t: (1 - u[0]) ** 2 - A * x[0],
        initial_state=(800.0, 0.04, 1.5),
        duration=20.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        state_bounds=((0.0, 0.0, 0.0), (1600.0, 100.0, 100.0)),
        name="hiv_treatment",
    )


def timber_harvest(*, horizon: int, r: float = 0.0, k: float = 1.0) -> OdeEnvironment:
    """Timber x whose yield is reinvested (u = 1) or sold (u = 0), discounted at rate r."""
    return from_ode(
        lambda x, u, t: k * x * u,
        lambda x, u, t: -jnp.exp(-r * t) * x[0] * (1 - u[0]),
        initial_state=100.0,
        duration=5.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        state_bounds=(0.0, 20000.0),
        name="timber_harvest",
    )
