"""Optimal, random and constant actions of a task, remembered in memory and on disk, and the scores between them."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.arguments import check_key, shown
from ...core.checks import check_integer
from ...core.types import Given, PRNGKey, UsageError
from ..environment import AbstractEnvironment, draw_initial_states
from ..fits import check_env
from . import cache as solution_cache
from .cache import is_number, same_number
from .differences import warn_of_gradient
from .problem import double_precision, problem_of
from .search import solve
from .shooting import constants
from .solution import controls_of, Solution


_CHUNK = 512
_RANDOM_SEED = 20


def optimal(
    env: Given[AbstractEnvironment], *, num_starts: Given[int | None] = None, cache: bool = True
) -> Solution:
    """The best actions that L-BFGS-B finds from several starts.

    A built-in task's solution is kept on disk (in `$ASMPG_CACHE` or `~/.cache/asmpg`) and in memory, a user's own only
    in memory, for this very object. A file is replayed before it is believed.

    Args:
        env: the task.
        num_starts: how many starts to try; by default 8, or 5 for horizons above 200, and three times as many more
            if those disagree. A task's known actions come first, then the best constant, the best switch between
            the bounds, the best smooth random sequence.
        cache: whether to look for, and keep, a finished solution.

    Raises:
        UsageError: no start has a finite return, or `num_starts` is not an integer >= 1.
    """
    if num_starts is not None:
        num_starts = check_integer("num_starts", num_starts, 1)
    check_env("optimal", env)
    try:
        return _optimal(env, num_starts, cache)
    except jax.errors.TracerArrayConversionError as error:
        raise UsageError(
            "optimal: cannot be called within jit or another transformation of JAX's, which know no numbers"
        ) from error


def _optimal(env: AbstractEnvironment, num_starts: int | None, cache: bool) -> Solution:
    warning = warn_of_gradient(env)

    def search() -> Solution:
        solution = solve(env, num_starts)
        if not warning or not np.isfinite(solution.residual):
            return solution
        return dataclasses.replace(solution, message=f"{solution.message}; cannot be trusted, {warning}")

    if not cache:
        return search()
    key = solution_cache.cache_key(env, "optimal", num_starts=num_starts)

    def compute() -> Solution:
        stored = None if key is None else solution_cache.read(key)
        solution = None if stored is None else _restore(env, stored)
        if solution is None:
            solution = search()
            if key is not None:
                solution_cache.write(key, _to_json(solution))
        return solution

    return solution_cache.remember(env, ("optimal", num_starts), compute)


def best_constant_return(env: Given[AbstractEnvironment]) -> float:
    """The return of the best of 41 constant actions, evenly spaced over [-1, 1], the same in every component.

    Args:
        env: the task; where its initial states are random, returns are means over the evaluation states.

    Raises:
        UsageError: it is no task.
    """
    check_env("best_constant_return", env)

    def compute() -> float:
        with double_precision():
            problem = problem_of(env)
            returns = [problem.returns(state, constants(env)) for state in problem.starts]
        return float(np.max(np.mean(returns, axis=0)))

    return solution_cache.remember(env, ("best constant",), compute)


def random_return(
    env: Given[AbstractEnvironment], *, num_episodes: Given[int] = 10_000, key: Given[PRNGKey | None] = None
) -> float:
    """The mean return of uniformly random actions, a score of 0.

    Args:
        env: the task.
        num_episodes: how many episodes.
        key: for actions and initial states; by default a fixed one, from the evaluation states in turn, whose result
            is kept like `optimal`'s.

    Raises:
        UsageError: the return of some episode is not finite, or `num_episodes` is not an integer >= 1.
    """
    check_env("random_return", env)
    check_key("random_return", key)
    num_episodes = check_integer("num_episodes", num_episodes, 1)
    if key is not None:
        return _mean_of_random(env, _random_sampler(env, key, own_states=True), num_episodes)
    cache_key = solution_cache.cache_key(env, "random", num_episodes=num_episodes)

    def compute() -> float:
        sampler = _random_sampler(env, jax.random.key(_RANDOM_SEED), own_states=False)
        # The first chunk shows whether a stored number belongs to the task as it is now.
        sample = _mean_of_random(env, sampler, min(num_episodes, _CHUNK))
        stored = None if cache_key is None else solution_cache.read(cache_key)
        if stored is not None and is_number(stored.get("mean")) and same_number(stored.get("sample"), sample):
            return float(stored["mean"])
        mean = _mean_of_random(env, sampler, num_episodes)
        if cache_key is not None:
            solution_cache.write(cache_key, {"mean": mean, "sample": sample})
        return mean

    return solution_cache.remember(env, ("random", num_episodes), compute)


def score(env: Given[AbstractEnvironment], episode_return: object) -> Any:
    """`(return - random) / (optimal - random)`: 0 for random actions, 1 for the optimum.

    Args:
        env: the task; it is solved first if it has not been.
        episode_return: a number, or an array of them.

    Returns:
        A float for a number, a NumPy array for an array; NaN where random actions are already optimal.

    Raises:
        UsageError: the task cannot be solved, see `optimal` and `random_return`.
    """
    check_env("score", env)
    try:
        returns = np.asarray(episode_return, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"score: episode_return: must be a number or an array of them, got {shown(episode_return)}"
        ) from error
    low, high = random_return(env), optimal(env).episode_return
    for doubt in doubts(env):
        warnings.warn(f"score of {env.name}: {doubt}", ScoreWarning, stacklevel=2)
    gap = high - low if high > low else np.nan
    scores = (returns - low) / gap
    return float(scores) if scores.ndim == 0 else scores


class ScoreWarning(UserWarning):
    """A score of a user's own task means less than it seems."""


# A constant action that scores more than this leaves little room for differences.
FLATTERING = 0.5


def doubts(env: AbstractEnvironment) -> list[str]:
    """What speaks against scores of a user's own task: its zero, or its one. A line each; none of a built-in task.

    Args:
        env: the task; it is solved first if it has not been.
    """
    if env.identity() is not None:
        return []
    return solution_cache.remember(env, ("doubts",), lambda: _doubts(env))


def _doubts(env: AbstractEnvironment) -> list[str]:
    solution, low, constant = optimal(env), random_return(env), best_constant_return(env)
    gap, found = solution.episode_return - low, []
    if gap > 0 and (constant - low) / gap > FLATTERING:
        flat = (constant - low) / gap
        found.append(f"the best constant action scores {flat:.3g}, since 0 is uniform random actions")
    if gap > 100 * solution.unit:
        found.append(
            f"random actions are catastrophic here, {gap / solution.unit:.2g} times worse than what is at stake near "
            "the optimum: anything that avoids them scores nearly 1"
        )
    if not solution.trusted:
        found.insert(0, f"its 1 is not a trusted optimum: {solution.message}")
    elif solution.num_agree == 1 < len(solution.start_returns) or "given up" in solution.message:
        found.insert(0, f"its 1 may not be the optimum: {solution.message}")
    return found


def _random_sampler(
    env: AbstractEnvironment, key: PRNGKey, *, own_states: bool
) -> Callable[[int], np.ndarray]:
    """A function that returns the returns of the i-th 512 episodes of uniformly random actions."""

    def sample(i: int) -> np.ndarray:
        with double_precision():
            problem = problem_of(env)
            state_key, action_key = jax.random.split(jax.random.fold_in(key, i))
            shape = (_CHUNK, env.horizon, env.action_size)
            # In float32 even here, so that the episodes do not depend on the caller's precision.
            actions = jax.random.uniform(action_key, shape, jnp.float32, minval=-1.0, maxval=1.0)
            # The states that scores are averaged over in turn, unless the caller draws.
            states = problem.starts[np.arange(_CHUNK) % len(problem.starts)]
            if own_states and len(problem.starts) > 1:
                drawn = draw_initial_states(env, jax.random.split(state_key, _CHUNK))
                states = np.asarray(drawn, np.float64)
            return problem.returns(states, np.asarray(actions, np.float64))

    return sample


def _mean_of_random(
    env: AbstractEnvironment, sampler: Callable[[int], np.ndarray], num_episodes: int
) -> float:
    """The mean of the first `num_episodes` returns."""
    chunks = [sampler(i) for i in range(-(-num_episodes // _CHUNK))]
    mean = float(np.concatenate(chunks)[:num_episodes].mean())
    if not np.isfinite(mean):
        raise UsageError(f"random_return: random actions on {env.name} give the return {mean}")
    return mean


def _to_json(solution: Solution) -> dict[str, Any]:
    """A solution as plain JSON. The states are left out, since restoring replays the actions anyway."""
    kept = ("episode_return", "residual", "starts_agree", "start_returns", "replay_error", "message", "unit")
    return {name: getattr(solution, name) for name in kept} | {"actions": solution.actions.tolist()}


def _restore(env: AbstractEnvironment, stored: dict[str, Any]) -> Solution | None:
    """The stored solution, if it is whole and its actions, replayed, give its return; otherwise None."""
    numbers = ("episode_return", "residual", "replay_error", "unit")
    try:
        actions = np.asarray(stored["actions"], np.float64)
        start_returns = tuple(float(value) for value in stored["start_returns"])
        starts_agree, message = stored["starts_agree"], stored["message"]
        plain = all(is_number(stored[name]) for name in numbers)
    except (KeyError, TypeError, ValueError):
        return None
    whole = plain and isinstance(starts_agree, bool) and isinstance(message, str)
    if not whole or actions.shape != (env.horizon, env.action_size) or not (np.abs(actions) <= 1).all():
        return None
    with double_precision():
        problem = problem_of(env)
        episode_return, states = problem.replay(problem.starts[0], actions)
    if not same_number(stored["episode_return"], episode_return):
        return None
    return Solution(
        actions=actions,
        states=states,
        episode_return=episode_return,
        residual=float(stored["residual"]),
        starts_agree=starts_agree,
        start_returns=start_returns,
        replay_error=float(stored["replay_error"]),
        message=message,
        unit=float(stored["unit"]),
        controls=controls_of(env, actions),
    )
