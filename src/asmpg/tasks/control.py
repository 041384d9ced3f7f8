"""Tasks from an ordinary differential equation with a control, discretised by explicit Euler steps."""

import math
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.types import PRNGKey, Scalar, Step, UsageError
from .environment import AbstractEnvironment
from .stability import warn_if_unstable
from .validation import check_horizon, returned_shape


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
    dynamics: Callable[..., Any] | Any,
    cost: Callable[..., Any] | Any,
    *,
    initial_state: Any,
    duration: float | Any,
    horizon: int | Any,
    control_bounds: tuple[Any, Any] | Any,
    state_bounds: tuple[Any, Any] | Any | None = None,
    terminal_cost: Callable[..., Any] | Any | None = None,
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
    if not (isinstance(duration, int | float | np.number) and 0 < float(duration) < math.inf):
        raise UsageError(f"duration: must be a positive number of seconds, got {duration!r}")
    start, state_size = _check_initial_state(initial_state)
    _check_callable(dynamics=dynamics, cost=cost, terminal_cost=terminal_cost or cost)
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


def _check_callable(**functions: Any) -> None:
    """A `UsageError` for the first argument that is no function."""
    for option, function in functions.items():
        if not callable(function):
            raise UsageError(f"{option}: must be a function, got {function!r}")


def _check_initial_state(initial_state: Any) -> tuple[Any, int]:
    """The start as an `OdeEnvironment` keeps it, and the number of state components."""
    if callable(initial_state):
        drawn: Any = initial_state(jax.random.key(0))
        shape = np.shape(drawn)
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
    returned_shape(f"dynamics of {env.name}", env.dynamics, x, u, t, shape=x.shape)
    returned_shape(f"cost of {env.name}", env.cost, x, u, t, shape=())
    if env.terminal_cost is not None:
        returned_shape(f"terminal_cost of {env.name}", env.terminal_cost, x, shape=())
