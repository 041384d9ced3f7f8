"""Automatic differentiation of a task's return against finite differences of it."""

import dataclasses
import warnings

import numpy as np

from ...core.types import Given, is_out_of_memory, one_line, UsageError
from ..environment import AbstractEnvironment
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
    if env.identity() is not None:
        return ""

    def check() -> GradientCheck:
        found = check_gradient(env)
        if not found.right:
            warnings.warn(f"{env.name}: {found.message}", GradientWarning, stacklevel=6)
        return found

    return solution_cache.remember(env, ("gradient warned",), check).message


def _check(env: AbstractEnvironment) -> GradientCheck:
    random = np.random.default_rng(3)
    shape = (env.horizon, env.action_size)
    with double_precision():
        problem = problem_of(env)
        errors = []
        flat = True
        for _ in range(_NUM_EPISODES):
            actions = random.uniform(-0.9, 0.9, shape)
            directions = random.choice([-1.0, 1.0], (_NUM_DIRECTIONS, *shape))
            gradient = _gradient(problem, actions)
            if not np.isfinite(gradient).all():
                return GradientCheck(
                    np.nan, 0, "its gradient is not finite at random actions; asmpg.locate_nonfinite"
                )
            errors += _errors(problem, actions, gradient, directions)
            flat &= not gradient.any() and _moves(problem, actions, directions)
    if flat:
        return GradientCheck(1.0, 0, "its gradient is zero, though other actions change its return")
    if not errors:
        return GradientCheck(np.nan, 0)
    error = float(np.median(errors))
    if error <= TOLERANCE:
        return GradientCheck(error, len(errors))
    message = (
        f"its gradient is not that of its return, off by {error:.2g} of its size: something is cut off from "
        "differentiation, such as by stop_gradient or a cast to integers"
    )
    return GradientCheck(error, len(errors), message)


def _gradient(problem: Problem, actions: np.ndarray) -> np.ndarray:
    try:
        return problem.value_and_grad(problem.starts[0], actions)[1]
    except Exception as error:  # whatever a user's function does when it is differentiated
        if is_out_of_memory(error):
            raise
        raise UsageError(f"{problem.env.name}: cannot be differentiated: {one_line(error)}") from error


def _errors(
    problem: Problem, actions: np.ndarray, gradient: np.ndarray, directions: np.ndarray
) -> list[float]:
    """Differences between derivatives along directions, as shares of the larger, where two step sizes agree."""
    found = []
    slopes = []
    for step in _STEPS:
        both = np.concatenate([actions + step * directions, actions - step * directions])
        ahead, behind = np.split(problem.returns(problem.starts[0], both), 2)
        slopes.append((ahead - behind) / (2 * step))
    own = (directions * gradient).sum(axis=(1, 2))
    size = np.sqrt((gradient**2).sum())
    for coarse, fine, exact in zip(*slopes, own, strict=True):
        scale = max(abs(fine), abs(exact), size)
        if np.isfinite(coarse + fine) and scale > 0 and abs(coarse - fine) <= _CONSISTENT * scale:
            found.append(abs(fine - exact) / scale)
    return found


def _moves(problem: Problem, actions: np.ndarray, directions: np.ndarray) -> bool:
    """Whether large changes of the actions change the return."""
    values = problem.returns(problem.starts[0], np.clip(actions + 0.5 * directions, -1, 1))
    return bool(np.ptp(values) > 1e-9 * np.abs(values).max())
