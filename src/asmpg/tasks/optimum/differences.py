"""Automatic differentiation of a task's return against finite differences of it."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.types import Given, is_out_of_memory, one_line, UsageError
from ..control import OdeEnvironment
from ..environment import AbstractEnvironment
from ..fits import check_env
from . import cache as solution_cache
from .problem import double_precision, in_double, problem_of


_NUM_EPISODES, _NUM_DIRECTIONS = 3, 4
# Of an episode's rewards, at most; and numbers of the states and actions that they are of.
_NUM_REWARDS, _NUMBERS = 16, 2**20
_STEPS = (1e-4, 1e-5)
# Differences that two steps do not agree on to this share say nothing: chaos, a kink.
_CONSISTENT = 0.02
TOLERANCE = 0.01


class GradientWarning(UserWarning):
    """The derivative that JAX takes of a task is not that of its return."""


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """What differences say about a gradient.

    Attributes:
        error: largest difference between the two, as a share of the gradient's size; NaN where no differences could be
            trusted.
        num_trusted: how many directional derivatives could be compared.
        message: one line; empty where the gradient is right.
    """

    error: float
    num_trusted: int
    message: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing speaks against the gradient."""
        return not self.message


def check_gradient(env: Given[AbstractEnvironment]) -> GradientCheck:
    """Compares the gradient of the return in the actions with central differences, on a few random episodes.

    Finds what is cut off from differentiation: `stop_gradient`, casts to integers, comparisons, callbacks.

    Args:
        env: the task; the result is kept.

    Raises:
        UsageError: the task cannot be differentiated at all.
    """
    check_env("check_gradient", env)

    def check() -> GradientCheck:
        with double_precision():
            return _check(_of_returns(env))

    return solution_cache.remember(env, ("gradient",), check)


def warn_of_gradient(env: AbstractEnvironment) -> str:
    """A `GradientWarning`, once, where the gradient of a user's own task is not that of its return; what it says."""
    return _warn(env, "gradient", lambda: check_gradient(env))


def warn_of_reward(
    env: AbstractEnvironment,
    states: Float[np.ndarray, "episodes horizon_plus_1 state"],
    actions: Float[np.ndarray, "episodes horizon action"],
) -> str:
    """The same of the rewards alone, by states and actions, in some episodes: all that a method with a model needs."""

    def check() -> GradientCheck:
        tried = (array[:_NUM_EPISODES].astype(np.float64) for array in (states, actions))
        with double_precision():
            return _check(_of_rewards(env, *tried))

    return _warn(env, "reward", check)


def _warn(env: AbstractEnvironment, what: str, check: Callable[[], GradientCheck]) -> str:
    if env.identity() is not None:
        return ""

    def warn() -> GradientCheck:
        found = check()
        if not found.right:
            warnings.warn(f"{env.name}: {found.message}", GradientWarning, stacklevel=7)
        return found

    return solution_cache.remember(env, (f"{what} warned",), warn).message


class _Differentiated(NamedTuple):
    """A function of a vector around one point, with its gradient there.

    Attributes:
        what: its name, and that of its argument.
        values: of many vectors [k, n].
        point: [n], which ends with the actions.
        gradient: [n].
        num_actions: how many numbers those are.
    """

    what: tuple[str, str]
    values: Callable[[np.ndarray], np.ndarray]
    point: np.ndarray
    gradient: np.ndarray
    num_actions: int


def _of_rewards(
    env: AbstractEnvironment, states: Float[np.ndarray, "episodes horizon_plus_1 state"], actions: np.ndarray
) -> Iterator[_Differentiated]:
    """Of each episode the sum of some rewards, by their states, in units of their size, and their actions."""
    if isinstance(env, OdeEnvironment):
        # Its cost itself; the integral over a step takes long to compile.
        env = dataclasses.replace(env, method="euler", substeps=1)
    exact, size = in_double(env), env.state_size
    num = int(np.clip(_NUMBERS // (size + env.action_size), 1, min(env.horizon, _NUM_REWARDS)))
    steps = np.linspace(0, env.horizon - 1, num).astype(int)

    def total(point: Array, unit: Array) -> Array:
        visited, acts = point[: (num + 1) * size].reshape(-1, size) * unit, point[(num + 1) * size :]
        rewards = jax.vmap(exact.reward)(visited[:-1], acts.reshape(num, -1), jnp.asarray(steps))
        return rewards.sum() + exact.terminal_reward(visited[-1])

    program = jax.jit(jax.vmap(jax.value_and_grad(total), (0, None)))

    def around(visited: np.ndarray, acts: np.ndarray) -> _Differentiated:
        spread, largest = np.ptp(visited, axis=0), np.abs(visited).max(axis=0)
        unit = np.where(spread > 0, spread, np.where(largest > 0, largest, 1.0))
        point = np.concatenate([(visited / unit).ravel(), acts.ravel()])

        def both(points: np.ndarray) -> Any:
            # As many every time, so that there is one program.
            return program(np.resize(points, (2 * _NUM_DIRECTIONS, len(point))), unit)

        def values(points: np.ndarray) -> np.ndarray:
            return np.asarray(both(points)[0])[: len(points)]

        gradient = _tried(env, lambda: np.asarray(both(point)[1][0]))
        return _Differentiated(("sum of rewards", "states"), values, point, gradient, acts.size)

    return map(around, states[:, [*steps, -1]], actions[:, steps])


def _of_returns(env: AbstractEnvironment) -> Iterator[_Differentiated]:
    """Of random episodes the return, by the actions."""
    problem, shape = problem_of(env), (env.horizon, env.action_size)
    start = problem.starts[0]

    def around(actions: np.ndarray) -> _Differentiated:
        def values(points: np.ndarray) -> np.ndarray:
            return problem.returns(start, points.reshape(-1, *shape))

        gradient = _tried(env, lambda: problem.value_and_grad(start, actions)[1])
        return _Differentiated(("return", "actions"), values, actions.ravel(), gradient.ravel(), actions.size)

    return map(around, np.random.default_rng(3).uniform(-0.9, 0.9, (_NUM_EPISODES, *shape)))


def _check(differentiated: Iterable[_Differentiated]) -> GradientCheck:
    """What differences say of the same function around some points. Use within `double_precision`."""
    random, errors, what = np.random.default_rng(4), [], ("", "")
    flat, moves = True, False
    for one in differentiated:
        directions, what = random.choice([-1.0, 1.0], (_NUM_DIRECTIONS, len(one.point))), one.what
        if not np.isfinite(one.gradient).all():
            message = f"the gradient of its {what[0]} is not finite at random actions; asmpg.locate_nonfinite"
            return GradientCheck(np.nan, 0, message)
        errors += _errors(one, directions)
        flat &= not one.gradient.any()
        moves |= _moves(one, directions)
    if flat and moves:
        message = f"the gradient of its {what[0]} is zero, though other {what[1]} change it"
        return GradientCheck(1.0, 0, message)
    if not errors:
        return GradientCheck(np.nan, 0)
    error = float(np.median(errors))
    if error <= TOLERANCE:
        return GradientCheck(error, len(errors))
    message = (
        f"its gradient is not that of its {what[0]}, off by {error:.2g} of its size: something is cut off from "
        "differentiation, such as by stop_gradient or a cast to integers"
    )
    return GradientCheck(error, len(errors), message)


def _tried(env: AbstractEnvironment, differentiate: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return differentiate()
    except Exception as error:  # whatever a user's function does when it is differentiated
        if is_out_of_memory(error):
            raise
        raise UsageError(f"{env.name}: cannot be differentiated: {one_line(error)}") from error


def _errors(one: _Differentiated, directions: np.ndarray) -> list[float]:
    """Differences between derivatives along directions, as shares of the larger, where two step sizes agree."""
    found, slopes = [], []
    for step in _STEPS:
        both = np.concatenate([one.point + step * directions, one.point - step * directions])
        ahead, behind = np.split(one.values(both), 2)
        slopes.append((ahead - behind) / (2 * step))
    own = directions @ one.gradient
    size = np.sqrt((one.gradient**2).sum())
    for coarse, fine, exact in zip(*slopes, own, strict=True):
        scale = max(abs(fine), abs(exact), size)
        if np.isfinite(coarse + fine) and scale > 0 and abs(coarse - fine) <= _CONSISTENT * scale:
            found.append(abs(fine - exact) / scale)
    return found


def _moves(one: _Differentiated, directions: np.ndarray) -> bool:
    """Whether large changes change the value."""
    points = one.point + 0.5 * directions
    points[:, -one.num_actions :] = np.clip(points[:, -one.num_actions :], -1, 1)
    values = one.values(points)
    return bool(np.ptp(values) > 1e-9 * np.abs(values).max())
