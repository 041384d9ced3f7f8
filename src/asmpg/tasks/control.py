"""Tasks from an ordinary differential equation with a control, discretised in time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.arguments import a_count, a_function, a_text, or_none, takes
from ..core.checks import check_choice
from ..core.types import Given, OF_USERS, one_line, PRNGKey, Scalar, Step, UsageError
from .adaptive import load
from .constraints import Constraints, Multipliers
from .environment import AbstractEnvironment
from .functions import check_indices, check_reproducible, returned_shape
from .integrators import integrate, METHODS
from .stability import warn_if_unstable
from .validation import check_horizon


@final
class OdeEnvironment(AbstractEnvironment):
    """An ordinary differential equation with a control and a running cost, in steps of constant control.

    Built by `from_ode`, which checks its arguments. Constants are Python floats, so that one object serves float32
    and float64 alike.

    Attributes:
        dynamics: `dx/dt = dynamics(x, u, t)`; x, u vectors in their own units, t in seconds.
        cost: `cost(x, u, t)`, a rate per second.
        terminal_cost: `terminal_cost(x_T)`, or None.
        start: the initial state, or a function of a key.
        duration: T, in seconds.
        controls: lower and upper bound of every control component.
        bounds: lower and upper bound of every state component, to which each step clips the state; or None.
        method: how a step is integrated, one of `integrators.METHODS`.
        substeps: steps of the method in a step of the task.
        constraints: what has to hold, or None.
        multipliers: what a violation costs in the reward; None without constraints.
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
    method: str = eqx.field(static=True, default="euler")
    substeps: int = eqx.field(static=True, default=1)
    constraints: Constraints | None = None
    multipliers: Multipliers | None = None

    @property
    def dt(self) -> float:
        """Length of a step, in seconds."""
        return self.duration / self.horizon

    def control(self, action: Given[Float[Array, " action"]]) -> Float[Array, " action"]:
        """The control a normalised action stands for: affine, -1 the lower bound, +1 the upper one."""
        action = _floating(action)
        low, high = (jnp.asarray(bound, action.dtype) for bound in self.controls)
        return low + (high - low) * (action + 1) / 2

    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """`s_0`; where it is random, None stands for a fixed key."""
        if not callable(self.start):
            return jnp.asarray(self.start, float)
        return jnp.asarray(self.start(jax.random.key(0) if key is None else key), float)

    def transition(
        self, state: Given[Float[Array, " state"]], action: Given[Float[Array, " action"]], step: Step
    ) -> Float[Array, " state"]:
        """The state a step later, clipped to the bounds; the control is constant, the time runs."""
        state = self.unclipped(state, action, step)
        if self.bounds is None:
            return state
        low, high = (jnp.asarray(bound, state.dtype) for bound in self.bounds)
        return jnp.clip(state, low, high)

    def unclipped(
        self, state: Given[Float[Array, " state"]], action: Given[Float[Array, " action"]], step: Step
    ) -> Float[Array, " state"]:
        """The state a step later, before it is clipped."""
        state = _floating(state)
        control, time = self.control(action), self.time(step, state)

        def field(state: Array, time: Array) -> Array:
            return jnp.asarray(self.dynamics(state, control, time), state.dtype)

        return integrate(field, state, time, self.dt, self.method, self.substeps)

    def time(self, step: Step, state: Float[Array, " state"]) -> Scalar:
        """The time at the start of a step, in seconds, in the precision of a state."""
        return jnp.asarray(step, state.dtype) * self.dt

    def reward(
        self, state: Given[Float[Array, " state"]], action: Given[Float[Array, " action"]], step: Step
    ) -> Scalar:
        """`-cost(s, u, t) dt`, or minus the integral of the cost over the step by the method that moves the state.

        Less what the path inequalities cost.
        """
        state = _floating(state)
        control, time = self.control(action), self.time(step, state)
        reward = -self._running_cost(state, control, time)
        if self.constraints is None or self.multipliers is None:
            return reward
        values = self.constraints.inequalities(state, control, time)
        violation = self.multipliers.inequality_cost(values, step)
        return reward - jnp.where(jnp.asarray(step) > 0, self.dt * violation, 0.0)

    def _running_cost(self, state: Array, control: Array, time: Array) -> Array:
        if self.method == "euler" and self.substeps == 1:
            return self.dt * jnp.asarray(self.cost(state, control, time), state.dtype)

        def field(both: Array, time: Array) -> Array:
            slope = jnp.asarray(self.dynamics(both[1:], control, time), both.dtype)
            cost = jnp.asarray(self.cost(both[1:], control, time), both.dtype)
            return jnp.concatenate([cost[None], slope])

        both = jnp.concatenate([jnp.zeros(1, state.dtype), state])
        return integrate(field, both, time, self.dt, self.method, self.substeps)[0]

    def terminal_reward(self, state: Given[Float[Array, " state"]]) -> Scalar:
        """`-terminal_cost(s_H)`, not multiplied by dt, less what the constraints at the end cost."""
        state = _floating(state)
        reward = jnp.zeros((), state.dtype)
        if self.terminal_cost is not None:
            reward = -jnp.asarray(self.terminal_cost(state), state.dtype)
        if self.constraints is None or self.multipliers is None:
            return reward
        middle = self.control(jnp.zeros(self.action_size, state.dtype))
        end = self.constraints.end_inequalities(state, middle, self.time(self.horizon, state))
        path = self.multipliers.inequality_cost(end, self.horizon)
        return reward - self.multipliers.equality_cost(self.constraints.equalities(state)) - self.dt * path

    def constraint_values(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> tuple[Float[Array, " equalities"], Float[Array, "horizon_plus_1 inequalities"]]:
        """The terminal conditions, to be 0, and the path inequalities after every step, to be at most 0."""
        if self.constraints is None:
            return jnp.zeros(0), jnp.zeros((self.horizon + 1, 0))
        times = jnp.arange(self.horizon + 1, dtype=states.dtype) * self.dt
        return self.constraints.values(states, jax.vmap(self.control)(actions), times)

    def constraint_sizes(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> tuple[Float[Array, " equalities"], Float[Array, " inequalities"]]:
        """How large each terminal condition and path inequality becomes anywhere in an episode."""
        if self.constraints is None:
            return jnp.zeros(0), jnp.zeros(0)
        times = jnp.arange(self.horizon + 1, dtype=states.dtype) * self.dt
        return self.constraints.sizes(states, jax.vmap(self.control)(actions), times)

    def violation(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> Scalar | None:
        """The largest of `constraint_values` in the wrong direction."""
        if self.constraints is None:
            return None
        equalities, inequalities = self.constraint_values(states, actions)
        return jnp.maximum(jnp.abs(equalities).max(initial=0.0), inequalities.max(initial=0.0))

    def relative_violation(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> Scalar | None:
        if self.constraints is None:
            return None
        equalities, inequalities = self.constraint_values(states, actions)
        terminal, path = self.constraint_sizes(states, actions)
        equalities = jnp.where(equalities != 0, jnp.abs(equalities) / terminal, 0.0)
        inequalities = jnp.where(inequalities > 0, inequalities / path, 0.0)
        return jnp.maximum(equalities.max(initial=0.0), inequalities.max(initial=0.0))

    def with_multipliers(self, multipliers: Multipliers | None) -> "OdeEnvironment":
        """The same task with another cost of violations.

        With the multipliers of `asmpg.optimal` its unconstrained optimum is the constrained one, so that a policy
        can be trained, and scored, against the constraints. None: violations cost nothing.
        """
        if multipliers is not None:
            multipliers = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), multipliers)
        return dataclasses.replace(self, multipliers=multipliers)

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """The parameters that `make` was given."""
        return self.parameters


def _floating(numbers: object) -> Array:
    """What may be a list, or an array of integers, as an array of floating-point numbers."""
    array = jnp.asarray(numbers)
    return jnp.asarray(array, jnp.result_type(array, float))


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
