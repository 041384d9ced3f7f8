"""`OdeEnvironment`: an ordinary differential equation with a control, in steps of constant control."""

import dataclasses
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import Given, PRNGKey, Scalar, Step
from .constraints import Constraints, Multipliers
from .environment import AbstractEnvironment
from .integrators import integrate


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
