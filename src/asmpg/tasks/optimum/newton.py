"""Newton's method on whole episodes with feedback: differential dynamic programming within the bounds of the actions.

Both the states and the actions of an episode are unknowns (multiple shooting): a step corrects actions by
`k_t + K_t (s_t - old s_t)`, and closes the gaps between a state and what the one before it leads to. What is improved
is thus a policy, so that the sensitivity of an unstable plant to its early actions, which defeats single shooting, is
not met. Source: Jacobson and Mayne (1970); with clamped actions Tassa, Mansard and Todorov (2014); with gaps
Giftthaler et al. (2018) and Mastalli et al. (2020).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..constraints import Multipliers
from ..environment import AbstractEnvironment
from .problem import Problem


# Second derivatives of larger tasks take too long.
MAX_SIZE = 48
_MAX_TURNS = 150
# A perturbation of the first state that grows more than this is one that no sequence of actions can answer.
UNSTABLE = 1e7
# And from here on not even float64 follows a sequence of actions.
HOPELESS = 1e12
# Gaps below this share of the states' size are closed.
CLOSED = 1e-9
_ALPHAS = 0.5 ** np.arange(14.0)


def improve(
    problem: Problem, states: np.ndarray, actions: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Better states [H+1, n] and actions [H, m], or the same ones where no step gains.

    Args:
        problem: the task.
        states: where to begin; there may be gaps between what a state leads to and the next one.
        actions: where to begin.
        unit: of the return; a gain below 1e-13 of it ends the search.
    """
    sweep = problem.program("sweep", lambda: _sweep(problem))
    damping, idle, weight = 1e-9, 0, 0.0
    for _ in range(_MAX_TURNS):
        values, tried, old, gaps, prices, _ = sweep(states, actions, damping, problem.multipliers)
        # An exact penalty: a gap costs more than the most that it could gain.
        weight = max(weight, 2 * float(np.nan_to_num(prices)))
        gaps = float(gaps)
        merits = np.nan_to_num(np.asarray(values) - weight * (1 - _ALPHAS) * gaps, nan=-np.inf)
        best = float(old) - weight * gaps
        i = int(merits.argmax())
        gain = merits[i] - best if np.isfinite(best) else np.inf
        if gain > 1e-13 * unit:
            idle = 0 if gain > 1e-10 * unit or gaps > 0 else idle + 1
            states, actions = (np.asarray(leaf[i]) for leaf in tried)
            damping = max(damping / 10, 1e-12) if i < 4 else damping
        else:
            damping = max(30 * damping, 1e-6)
        if damping > 1e5 or idle >= 6:
            break
    return states, actions


def step_size(problem: Problem, states: np.ndarray, actions: np.ndarray) -> float:
    """By how much Newton's method would still move an action."""
    feedforward, _ = _gains(problem, states, actions)
    moved = np.clip(actions + np.asarray(feedforward), -1, 1) - actions
    return float(np.nan_to_num(np.abs(moved), nan=np.inf).max())


def feedback(problem: Problem, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """How actions should answer a deviation of the state, at [t]: da_t/ds_t."""
    return np.asarray(_gains(problem, states, actions)[1])


def _gains(problem: Problem, states: np.ndarray, actions: np.ndarray) -> Any:
    sweep = problem.program("sweep", lambda: _sweep(problem))
    return sweep(states, actions, 1e-9, problem.multipliers)[-1]


def _sweep(problem: Problem) -> Callable[..., Any]:
    """A function of states, actions, damping and multipliers.

    Gives the returns of steps of 14 lengths, their states and actions, the return before them, the sum of the gaps, the
    most that closing one is worth per unit, and the gains.
    """

    def sweep(states: Array, actions: Array, damping: Array, multipliers: Multipliers | None) -> Any:
        env = problem.penalised(multipliers)
        steps = jnp.arange(env.horizon)
        move = lambda s, a, t: jnp.asarray(env.transition(s, a, t), s.dtype)  # noqa: E731
        gaps = jax.vmap(move)(states[:-1], actions, steps) - states[1:]

        def total(states: Array, actions: Array) -> Array:
            return jax.vmap(env.reward)(states[:-1], actions, steps).sum() + env.terminal_reward(states[-1])

        def back(value: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[Any, Any]:
            *here, gap = x
            slope, curvature = value
            price = jnp.abs(slope).max()
            value, gains = _step_back(env, (slope + curvature @ gap, curvature), tuple(here), damping)
            return value, (gains, price)

        last = states[-1]
        value = jax.grad(env.terminal_reward)(last), jax.hessian(env.terminal_reward)(last)
        given = (states[:-1], actions, steps, gaps)
        _, (gains, prices) = jax.lax.scan(back, value, given, reverse=True)

        def forward(alpha: Array) -> tuple[Array, tuple[Array, Array]]:
            def body(state: Array, x: Any) -> tuple[Array, tuple[Array, Array]]:
                (feedforward, feedback), old, action, step, gap = x
                action = jnp.clip(action + alpha * feedforward + feedback @ (state - old), -1.0, 1.0)
                return move(state, action, step) - (1 - alpha) * gap, (state, action)

            end, (visited, tried) = jax.lax.scan(body, states[0], (gains, *given))
            visited = jnp.concatenate([visited, end[None]])
            return total(visited, tried), (visited, tried)

        values, tried = jax.vmap(forward)(jnp.asarray(_ALPHAS))
        return values, tried, total(states, actions), jnp.abs(gaps).sum(), prices.max(), gains

    return sweep


def _step_back(
    env: AbstractEnvironment, value: tuple[Array, Array], x: tuple[Array, ...], damping: Array
) -> tuple[Any, Any]:
    """One step of the backward pass: gradient and Hessian of the value before the step, and the gains of the step."""
    (slope, curvature), (state, action, step) = value, x
    n = state.shape[0]

    def stacked(both: Array) -> Array:
        return jnp.asarray(env.transition(both[:n], both[n:], step), both.dtype)

    def first_order(both: Array) -> Array:
        return env.reward(both[:n], both[n:], step) + slope @ stacked(both)

    both = jnp.concatenate([state, action])
    jacobian = jax.jacfwd(stacked)(both)
    gradient = jax.grad(first_order)(both)
    hessian = jax.hessian(first_order)(both) + jacobian.T @ curvature @ jacobian
    q_u, q_uu, q_ux = gradient[n:], hessian[n:, n:], hessian[n:, :n]
    outward = ((action >= 1) & (q_u > 0)) | ((action <= -1) & (q_u < 0))
    free = jnp.where(outward, 0.0, 1.0)
    # Downhill in every direction: the Hessian's eigenvalues with a negative sign, damped.
    eigenvalues, vectors = jnp.linalg.eigh(q_uu * free[:, None] * free + jnp.diag(free - 1.0))
    sizes = jnp.abs(eigenvalues)
    # Where there is no curvature, a step that is long enough to reach any bound.
    floor = jnp.maximum(1e-12 * sizes.max(), 1e-9 * jnp.abs(q_u).max()) + 1e-300
    inverse = vectors @ jnp.diag(1 / (jnp.maximum(sizes, floor) + damping * sizes.max())) @ vectors.T
    feedforward = inverse @ (q_u * free) * free
    feedback = (inverse @ (q_ux * free[:, None])) * free[:, None]
    q_x, q_xx = gradient[:n], hessian[:n, :n]
    slope = q_x + feedback.T @ (q_uu @ feedforward + q_u) + q_ux.T @ feedforward
    curvature = q_xx + feedback.T @ q_uu @ feedback + feedback.T @ q_ux + q_ux.T @ feedback
    return (slope, (curvature + curvature.T) / 2), (feedforward, feedback)


def amplification(problem: Problem, states: np.ndarray, actions: np.ndarray) -> float:
    """By how much the worst perturbation of the initial state grows until any later one.

    Components of the state count in units of their usual size along the trajectory, so that it does not matter which
    units those are given in.

    NaN where that cannot be known, since a derivative is not finite although nothing grew.
    """

    def make() -> Callable[..., Any]:
        def growth(states: Array, actions: Array, multipliers: Multipliers | None, sizes: Array) -> Array:
            env = problem.penalised(multipliers)

            def body(product: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
                state, action, step = x
                _, tangents = jax.linearize(
                    lambda s: jnp.asarray(env.transition(s, action, step), s.dtype), state
                )
                product = jax.vmap(tangents, in_axes=1, out_axes=1)(product)
                return product, jnp.abs(product / sizes[:, None]).max()

            given = (states[:-1], actions, jnp.arange(env.horizon))
            return jax.lax.scan(body, jnp.diag(sizes), given)[1]

        return growth

    growth = problem.program("amplification", make)
    series = np.asarray(growth(states, actions, problem.multipliers, _usual_sizes(states)))
    finite = np.isfinite(series)
    largest = float(series[: None if finite.all() else finite.argmin()].max(initial=1.0))
    return largest if finite.all() else (np.inf if largest > HOPELESS else np.nan)


def _usual_sizes(states: np.ndarray) -> np.ndarray:
    """The usual size of every component along a trajectory, 1 where it is always zero."""
    sizes = np.abs(np.where(np.isfinite(states), states, 0.0))
    usual = np.median(sizes, axis=0)
    usual = np.where(usual > 0, usual, sizes.max(axis=0))
    return np.where(usual > 0, usual, 1.0)
