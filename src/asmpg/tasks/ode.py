"""`from_ode`: a task from a user's own differential equation, and the checks of what it is made of."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ..core.arguments import a_count, a_function, a_text, or_none, takes
from ..core.checks import check_choice
from ..core.types import Given, OF_USERS, one_line, UsageError
from .adaptive import load
from .constraints import Constraints, Multipliers
from .control import OdeEnvironment
from .functions import check_indices, check_reproducible, returned_shape
from .integrators import METHODS
from .stability import warn_if_unstable
from .validation import check_horizon


@takes(
    **dict.fromkeys(("dynamics", "cost"), a_function),
    **dict.fromkeys(("terminal_cost", "terminal_constraint", "path_constraint"), or_none(a_function)),
    substeps=a_count,
    name=a_text,
)
def from_ode(
    dynamics: Given[Callable[..., Any]],
    cost: Given[Callable[..., Any]],
    *,
    initial_state: object,
    duration: Given[float],
    horizon: Given[int],
    control_bounds: Given[tuple[Any, Any]],
    state_bounds: Given[tuple[Any, Any] | None] = None,
    terminal_cost: Given[Callable[..., Any] | None] = None,
    terminal_constraint: Given[Callable[..., Any] | None] = None,
    path_constraint: Given[Callable[..., Any] | None] = None,
    penalty: Given[float] = 1e3,
    method: Given[str] = "euler",
    substeps: Given[int] = 1,
    name: Given[str] = "ode",
) -> OdeEnvironment:
    """A task from an ordinary differential equation, in `horizon` steps of constant control.

    The return is minus the integral of the cost minus the terminal cost. Rewards lose `penalty / 2` times a squared
    violation (a second, along the path), or the terms of `env.with_multipliers(optimal(env).multipliers)`.

    Args:
        dynamics: `dynamics(x, u, t) -> dx/dt`, shape [state]; x and u are vectors, t is in seconds.
        cost: `cost(x, u, t)`, a scalar rate per second.
        initial_state: a vector (or a number, for one component), or a function of a key that returns one.
        duration: length of an episode in seconds.
        horizon: number of steps, an integer of at least 2.
        control_bounds: `(low, high)`, numbers or vectors; the longer of the two gives `action_size`.
        state_bounds: `(low, high)` to which every step CLIPS the state, as part of the dynamics; may be infinite.
        terminal_cost: `terminal_cost(x)`, a scalar.
        terminal_constraint: `h(x)`, a number or a vector that has to be 0 at the end.
        path_constraint: `g(x, u, t)`, numbers at most 0 after every step; after the last, those without u alone.
        penalty: the weight of violations in the reward, positive.
        method: of integration: "euler" (order 1), "heun" (2), "rk4" (4), "implicit" (2, for stiff equations) or
            "adaptive" (diffrax). Other than one Euler step, it integrates the cost along with the state.
        substeps: steps of the method in each step of the task.
        name: used in messages and run folders.

    Raises:
        UsageError: an argument, or what one of the functions returns, is not as described.
    """
    start, state_size = _check_initial_state(initial_state)
    controls, bounds = _check_both_bounds(control_bounds, state_bounds, state_size)
    env = OdeEnvironment(
        dynamics=dynamics,
        cost=cost,
        terminal_cost=terminal_cost,
        start=start,
        duration=_positive("duration", duration, "a positive number of seconds"),
        controls=controls,
        bounds=bounds,
        horizon=check_horizon(horizon),
        name=name,
        state_size=state_size,
        action_size=len(controls[0]),
        method=_known_method(method),
        substeps=substeps,
    )
    return _checked(env, terminal_constraint, path_constraint, penalty)


def _known_method(method: str) -> str:
    check_choice("method", method, tuple(METHODS))
    if method == "adaptive":
        load()
    return method


def _checked(
    env: OdeEnvironment, terminal: Callable[..., Any] | None, path: Callable[..., Any] | None, penalty: float
) -> OdeEnvironment:
    """The task with its constraints, once its functions are known to give what they should."""
    _check_functions(env)
    if terminal is not None or path is not None:
        env = _constrained(env, terminal, path, _positive("penalty", penalty))
    warn_if_unstable(env, env.dt)
    return env


def _positive(option: str, value: Any, wanted: str = "a positive number") -> float:
    """The value as a positive, finite float, or a `UsageError` that names the option."""
    if isinstance(value, jax.core.Tracer):
        where = "within jit or another transformation of JAX's"
        raise UsageError(f"{option}: must be known when the task is made, which it is not {where}")
    plain = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (plain and 0 < float(value) < math.inf):
        raise UsageError(f"{option}: must be {wanted}, got {value!r}")
    return float(value)


def _constrained(
    env: OdeEnvironment,
    terminal: Callable[..., Any] | None,
    path: Callable[..., Any] | None,
    penalty: float,
) -> OdeEnvironment:
    """The task with constraints, a violation of which costs the penalty."""
    x, u, t = _example_arguments(env)
    num_terminal = 0 if terminal is None else _length(f"terminal_constraint of {env.name}", terminal, x)
    num_path = 0 if path is None else _length(f"path_constraint of {env.name}", path, x, u, t)
    at_end = jnp.zeros(0, bool)
    if path is not None:
        # What is finite without a control does not depend on it.
        without = path(env.initial_state(), jnp.full(env.action_size, jnp.nan), jnp.zeros(()))
        at_end = jnp.isfinite(jnp.atleast_1d(jnp.asarray(without, float)))
    multipliers = Multipliers(
        terminal=jnp.zeros(num_terminal),
        path=jnp.zeros((env.horizon + 1, num_path)),
        terminal_weight=jnp.full(num_terminal, penalty, float),
        path_weight=jnp.full(num_path, penalty, float),
    )
    constraints = Constraints(terminal, path, num_terminal, num_path, at_end)
    return dataclasses.replace(env, constraints=constraints, multipliers=multipliers)


def _length(label: str, function: Callable[..., Any], *arguments: object) -> int:
    """How many numbers a constraint has, or a `UsageError` that names it."""
    try:
        shape = jax.eval_shape(lambda *given: jnp.asarray(function(*given), float), *arguments).shape
    except OF_USERS as error:  # whatever the user's code raises, the message names the function
        raise UsageError(f"{label}: raised {one_line(error)}") from error
    if len(shape) > 1 or 0 in shape:
        raise UsageError(f"{label}: must return a number or a vector, got shape {shape}")
    check_indices(label, function, *arguments)
    check_reproducible(label, function, *arguments)
    return shape[0] if shape else 1


def _check_initial_state(initial_state: object) -> tuple[Any, int]:
    """The start as an `OdeEnvironment` keeps it, and the number of state components."""
    if callable(initial_state):
        try:
            drawn: Any = initial_state(jax.random.key(0))
            shape = np.shape(drawn)
        except Exception as error:  # whatever the user's function raises
            raise UsageError(f"initial_state: the function raised {one_line(error)}") from error
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


def _check_both_bounds(control_bounds: object, state_bounds: object, state_size: int) -> tuple[Any, Any]:
    """Those of the controls, which must be finite, and those of the state, if there are any."""
    controls = _check_bounds("control_bounds", control_bounds)
    if not np.isfinite(controls).all():
        raise UsageError(f"control_bounds: must be finite, got {control_bounds!r}")
    return controls, None if state_bounds is None else _check_bounds("state_bounds", state_bounds, state_size)


def _example_arguments(env: OdeEnvironment) -> list[jax.ShapeDtypeStruct]:
    """Shapes of a vector state, a vector control and a scalar time."""
    dtype = jnp.result_type(float)
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in [(env.state_size,), (env.action_size,), ()]]


def _check_functions(env: OdeEnvironment) -> None:
    """What the user's functions return for a vector state, a vector control and a scalar time."""
    x, u, t = _example_arguments(env)
    functions: list[tuple[Any, ...]] = [("dynamics", x.shape, env.dynamics, x, u, t)]
    functions.append(("cost", (), env.cost, x, u, t))
    if env.terminal_cost is not None:
        functions.append(("terminal_cost", (), env.terminal_cost, x))
    for name, shape, function, *arguments in functions:
        returned_shape(f"{name} of {env.name}", function, *arguments, shape=shape)
        check_reproducible(f"{name} of {env.name}", function, *arguments)
