"""Constraints of a task: what has to hold along and at the end of an episode, and what a violation costs."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..core.types import Scalar


@final
class Multipliers(eqx.Module):
    """The terms of an augmented Lagrangian (Hestenes, Powell, Rockafellar).

    Equalities h = 0 cost `lambda h + w/2 h^2`; inequalities g <= 0 cost `(max(0, mu + w g)^2 - mu^2) / (2 w)`. With
    zero multipliers both are plain quadratic penalties; with those of the optimum, the optimum of the penalised task
    is that of the constrained one.

    Attributes:
        terminal: lambda, one for every terminal condition.
        path: mu, for every path inequality after every step: row t is about `s_t`; that of `s_0` is not used.
        terminal_weight: w of every terminal condition, for each has units of its own.
        path_weight: w of every path inequality.
    """

    terminal: Float[Array, " equalities"]
    path: Float[Array, "horizon_plus_1 inequalities"]
    terminal_weight: Float[Array, " equalities"]
    path_weight: Float[Array, " inequalities"]

    def equality_cost(self, values: Float[Array, " equalities"]) -> Scalar:
        """What the terminal conditions cost."""
        multiplier, weight = (
            jnp.asarray(leaf, values.dtype) for leaf in (self.terminal, self.terminal_weight)
        )
        return (multiplier * values + weight / 2 * values**2).sum()

    def inequality_cost(self, values: Float[Array, " inequalities"], step: object) -> Scalar:
        """What the path inequalities cost at a step, per unit of time."""
        weight, before = (jnp.asarray(leaf, values.dtype) for leaf in (self.path_weight, self.path[step]))
        pushed = jnp.maximum(before + weight * values, 0.0)
        return ((pushed**2 - before**2) / (2 * weight)).sum()

    def updated(
        self,
        equalities: Float[Array, " equalities"],
        inequalities: Float[Array, "horizon_plus_1 inequalities"],
    ) -> "Multipliers":
        """The multipliers after one turn of the method, at the same weights."""
        return Multipliers(
            terminal=self.terminal + self.terminal_weight * equalities,
            path=jnp.maximum(self.path + self.path_weight * inequalities, 0.0),
            terminal_weight=self.terminal_weight,
            path_weight=self.path_weight,
        )


@final
class Constraints(eqx.Module):
    """Terminal conditions `h(x_H) = 0` and path inequalities `g(x, u, t) <= 0`.

    Attributes:
        terminal: h, or None; a number or a vector.
        path: g, or None; a number or a vector. It holds at `s_1 .. s_H`; at `s_H`, where there is no control, only
            those components that do not depend on it.
        num_terminal: how many conditions.
        num_path: how many inequalities.
        at_end: which inequalities hold at `s_H`.
    """

    terminal: Callable[..., Any] | None = eqx.field(static=True)
    path: Callable[..., Any] | None = eqx.field(static=True)
    num_terminal: int = eqx.field(static=True)
    num_path: int = eqx.field(static=True)
    at_end: Bool[Array, " inequalities"]

    def equalities(self, state: Float[Array, " state"]) -> Float[Array, " equalities"]:
        """h, as a vector; empty where there is none."""
        if self.terminal is None:
            return jnp.zeros(0, state.dtype)
        return jnp.atleast_1d(jnp.asarray(self.terminal(state), state.dtype))

    def inequalities(
        self, state: Float[Array, " state"], control: Float[Array, " action"], time: Scalar
    ) -> Float[Array, " inequalities"]:
        """g, as a vector; empty where there is none."""
        if self.path is None:
            return jnp.zeros(0, state.dtype)
        return jnp.atleast_1d(jnp.asarray(self.path(state, control, time), state.dtype))

    def end_inequalities(
        self, state: Float[Array, " state"], control: Float[Array, " action"], time: Scalar
    ) -> Float[Array, " inequalities"]:
        """G at the end, -1 (which costs nothing) in place of what depends on the control."""
        values = self.inequalities(state, control, time)
        return jnp.where(self.at_end, values, -1.0)

    def values(
        self,
        states: Float[Array, "horizon_plus_1 state"],
        controls: Float[Array, "horizon action"],
        times: Float[Array, " horizon_plus_1"],
    ) -> tuple[Float[Array, " equalities"], Float[Array, "horizon_plus_1 inequalities"]]:
        """h, and g after every step (-1 where it does not hold: at `s_0`)."""
        along = jax.vmap(self.inequalities)(states[:-1], controls, times[:-1])
        last = self.end_inequalities(states[-1], controls[-1], times[-1])
        along = along.at[0].set(-1.0)
        return self.equalities(states[-1]), jnp.concatenate([along, last[None]])

    def sizes(
        self,
        states: Float[Array, "horizon_plus_1 state"],
        controls: Float[Array, "horizon action"],
        times: Float[Array, " horizon_plus_1"],
    ) -> tuple[Float[Array, " equalities"], Float[Array, " inequalities"]]:
        """What violations count in: the largest of h, and of g, in size that an episode meets anywhere on its way."""
        along = jax.vmap(self.inequalities)(states[:-1], controls, times[:-1])
        last = jnp.where(self.at_end, self.inequalities(states[-1], controls[-1], times[-1]), 0.0)
        return _largest(jax.vmap(self.equalities)(states)), _largest(jnp.concatenate([along, last[None]]))


def _largest(values: Array) -> Array:
    """The largest of every column in size; what is not finite, as at a start where it does not hold yet, is no size."""
    return jnp.where(jnp.isfinite(values), jnp.abs(values), 0.0).max(axis=0)
