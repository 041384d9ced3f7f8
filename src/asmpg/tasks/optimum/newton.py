"""Newton's method on whole episodes with feedback: differential dynamic programming within the bounds of the actions.

A step corrects actions by `k_t + K_t (s_t - old s_t)`: what is improved is a policy, so that the sensitivity of an
unstable plant to its early actions, which defeats single shooting, is not met. Source: Jacobson and Mayne (1970); with
clamped actions Tassa, Mansard and Todorov (2014).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .problem import Problem


# Second derivatives of larger tasks take too long.
MAX_SIZE = 48
_MAX_TURNS = 150
# A perturbation of the first state that grows more than this is one that no sequence of actions can answer.
UNSTABLE = 1e7
# And from here on not even float64 follows a sequence of actions.
HOPELESS = 1e12
# By how much one may grow in a part of the episode that is solved at once.
_STAGE = 1e3
_ALPHAS = 0.5 ** np.arange(14.0)


def improve(problem: Problem, state: np.ndarray, actions: np.ndarray, unit: float) -> np.ndarray:
    """Better actions [H, m], or the same ones where no step gains.

    Where the plant is unstable, the first part of the episode is solved first, so that the part after it begins where
    it can still be controlled.

    Args:
        problem: the task.
        state: the initial state.
        actions: where to begin.
        unit: of the return; a gain below 1e-13 of it ends the search.
    """
    horizon, origin = len(actions), actions
    growth = min(np.nan_to_num(amplification(problem, state, actions), nan=1.0), 1e300)
    stages = max(1, math.ceil(math.log(max(growth, 1.0)) / math.log(_STAGE))) if growth > UNSTABLE else 1
    if stages > 1:
        # Away from the bounds, where an action could not answer the state, and from where others ran away to.
        actions = np.zeros_like(actions)
    for stage in range(1, min(stages, horizon) + 1):
        length = math.ceil(horizon * stage / min(stages, horizon))
        actions = _improve(problem, state, actions, unit, length)
    better = problem.replay(state, actions)[0] > problem.replay(state, origin)[0]
    return actions if better else _improve(problem, state, origin, unit, horizon)


def _improve(
    problem: Problem, state: np.ndarray, actions: np.ndarray, unit: float, length: int
) -> np.ndarray:
    """Better actions for the rewards of the first `length` steps."""
    sweep = problem.program("sweep", lambda: _sweep(problem))
    best, damping, idle = -np.inf, 1e-9, 0
    for _ in range(_MAX_TURNS):
        values, tried, old, _ = sweep(actions, state, damping, length, problem.multipliers)
        values = np.nan_to_num(np.asarray(values), nan=-np.inf)
        best = float(old)
        i = int(values.argmax())
        gain = values[i] - best if np.isfinite(best) else np.inf
        if gain > 1e-13 * unit:
            idle = 0 if gain > 1e-10 * unit else idle + 1
            actions = np.asarray(tried[i])
            damping = max(damping / 10, 1e-12) if i < 4 else damping
        else:
            damping, idle = max(10 * damping, 1e-6), idle + 1
        if damping > 1e3 or idle >= 6:
            break
    return actions


def step_size(problem: Problem, state: np.ndarray, actions: np.ndarray) -> float:
    """By how much Newton's method would still move an action."""
    sweep = problem.program("sweep", lambda: _sweep(problem))
    feedforward, _ = sweep(actions, state, 1e-9, len(actions), problem.multipliers)[3]
    moved = np.clip(actions + np.asarray(feedforward), -1, 1) - actions
    return float(np.nan_to_num(np.abs(moved), nan=np.inf).max())


def feedback(problem: Problem, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """How actions should answer a deviation of the state, at [t]: da_t/ds_t."""
    sweep = problem.program("sweep", lambda: _sweep(problem))
    return np.asarray(sweep(actions, state, 1e-9, len(actions), problem.multipliers)[3][1])


def _sweep(problem: Problem) -> Callable[..., Any]:
    """A function of actions, initial state, damping, steps that count, and multipliers.

    Gives the returns and actions of steps of 14 lengths, the return before them, and the gains.
    """

    def sweep(actions: Array, start: Array, damping: Array, length: Array, multipliers: Any) -> Any:
        env = problem.penalised(multipliers)
        steps = jnp.arange(env.horizon)

        def total(rewards: Array, end: Array) -> Array:
            last = jnp.where(length == env.horizon, env.terminal_reward(end), 0.0)
            return jnp.where(steps < length, rewards, 0.0).sum() + last

        def move(state: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            action, step = x
            after = jnp.asarray(env.transition(state, action, step), state.dtype)
            return after, (state, env.reward(state, action, step))

        last, (states, rewards) = jax.lax.scan(move, start, (actions, steps))

        def back(value: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[Any, Any]:
            found = _step_back(env, value, x, damping)
            return jax.tree.map(lambda new: jnp.where(x[2] < length, new, jnp.zeros_like(new)), found)

        value = jax.grad(env.terminal_reward)(last), jax.hessian(env.terminal_reward)(last)
        value = jax.tree.map(lambda leaf: jnp.where(length == env.horizon, leaf, jnp.zeros_like(leaf)), value)
        _, gains = jax.lax.scan(back, value, (states, actions, steps), reverse=True)

        def forward(alpha: Array) -> tuple[Array, Array]:
            def body(state: Array, x: PyTree) -> tuple[Array, tuple[Array, Array]]:
                (feedforward, feedback), old, action, step = x
                correction = alpha * feedforward + feedback @ (state - old)
                # Beyond the steps that count, states may have run away.
                action = jnp.clip(action + jnp.where(step < length, correction, 0.0), -1.0, 1.0)
                after = jnp.asarray(env.transition(state, action, step), state.dtype)
                return after, (action, env.reward(state, action, step))

            end, (tried, rewards) = jax.lax.scan(body, start, (gains, states, actions, steps))
            return total(rewards, end), tried

        return *jax.vmap(forward)(jnp.asarray(_ALPHAS)), total(rewards, last), gains

    return sweep


def _step_back(env: Any, value: tuple[Array, Array], x: tuple[Array, ...], damping: Array) -> tuple[Any, Any]:
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


def amplification(problem: Problem, state: np.ndarray, actions: np.ndarray) -> float:
    """By how much the worst perturbation of the initial state grows until any later one.

    NaN where that cannot be known, since a derivative is not finite although nothing grew.
    """

    def make() -> Callable[..., Any]:
        def growth(actions: Array, start: Array, multipliers: Any) -> Array:
            env = problem.penalised(multipliers)

            def body(carry: PyTree, x: tuple[Array, Array]) -> tuple[Any, Array]:
                state, product = carry
                action, step = x
                after, tangents = jax.linearize(
                    lambda s: jnp.asarray(env.transition(s, action, step), s.dtype), state
                )
                product = jax.vmap(tangents, in_axes=1, out_axes=1)(product)
                return (after, product), jnp.abs(product).max()

            first = start, jnp.eye(start.shape[0])
            return jax.lax.scan(body, first, (actions, jnp.arange(env.horizon)))[1]

        return growth

    series = np.asarray(problem.program("amplification", make)(actions, state, problem.multipliers))
    known = series[: np.isfinite(series).argmin() if not np.isfinite(series).all() else None]
    largest = float(known.max(initial=1.0))
    return largest if len(known) == len(series) else (np.inf if largest > HOPELESS else np.nan)
