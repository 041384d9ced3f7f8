"""Automatic differentiation of a task's return against finite differences of it."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from ...core.types import Given, is_out_of_memory, one_line, UsageError
from ..environment import AbstractEnvironment, trajectory_rewards
from ..fits import check_env
from . import cache as solution_cache
from .problem import double_precision, Problem, problem_of


_NUM_EPISODES, _NUM_DIRECTIONS = 3, 4
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
    return solution_cache.remember(env, ("gradient",), lambda: _check(env))


def warn_of_gradient(env: AbstractEnvironment) -> str:
    """A `GradientWarning`, once, where the gradient of a user's own task is not that of its return; what it says."""
    return _warn(env, "gradient", lambda: check_gradient(env))


def warn_of_reward(env: AbstractEnvironment) -> str:
    """The same of the rewards alone, as functions of states and actions: all that a method with a model needs."""
    return _warn(env, "reward", lambda: _check(env, _of_rewards))


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


def _of_return(problem: Problem, actions: np.ndarray) -> _Differentiated:
    """The return of an episode, by its actions."""

    def values(points: np.ndarray) -> np.ndarray:
        return problem.returns(problem.starts[0], points.reshape(-1, *actions.shape))

    gradient = _tried(problem, lambda: problem.value_and_grad(problem.starts[0], actions)[1])
    return _Differentiated(("return", "actions"), values, actions.ravel(), gradient.ravel(), actions.size)


def _of_rewards(problem: Problem, actions: np.ndarray) -> _Differentiated:
    """The sum of an episode's rewards, by its states, in units of how far they spread, and its actions."""
    _, states = problem.replay(problem.starts[0], actions)
    spread = np.ptp(states, axis=0)
    unit = np.where(spread > 0, spread, 1.0)

    def total(point: Array) -> Array:
        visited = point[: states.size].reshape(states.shape) * unit
        acts = point[states.size :].reshape(actions.shape)
        return trajectory_rewards(problem.penalised(None), visited, acts).sum()

    values, gradient = jax.jit(jax.vmap(total)), jax.jit(jax.grad(total))
    point = np.concatenate([(states / unit).ravel(), actions.ravel()])
    found = _tried(problem, lambda: np.asarray(gradient(point)))
    what = ("sum of rewards", "states")
    return _Differentiated(what, lambda points: np.asarray(values(points)), point, found, actions.size)


def _check(
    env: AbstractEnvironment, of: Callable[[Problem, np.ndarray], _Differentiated] = _of_return
) -> GradientCheck:
    random, errors, what = np.random.default_rng(3), [], ("", "")
    flat, moves = True, False
    with double_precision():
        problem = problem_of(env)
        for _ in range(_NUM_EPISODES):
            one = of(problem, random.uniform(-0.9, 0.9, (env.horizon, env.action_size)))
            directions, what = random.choice([-1.0, 1.0], (_NUM_DIRECTIONS, len(one.point))), one.what
            if not np.isfinite(one.gradient).all():
                message = (
                    f"the gradient of its {what[0]} is not finite at random actions; asmpg.locate_nonfinite"
                )
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


def _tried(problem: Problem, differentiate: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return differentiate()
    except Exception as error:  # whatever a user's function does when it is differentiated
        if is_out_of_memory(error):
            raise
        raise UsageError(f"{problem.env.name}: cannot be differentiated: {one_line(error)}") from error


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
