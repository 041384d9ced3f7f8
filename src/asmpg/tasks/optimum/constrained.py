"""Constraints met by an augmented Lagrangian: unconstrained problems whose multipliers are adjusted from turn to turn.

Source: Nocedal and Wright, "Numerical Optimization" (2006), Framework 17.3.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..constraints import Multipliers
from .problem import Problem
from .solution import Candidate


# Violations below this share of how large their constraint becomes on the way are none.
FEASIBLE = 1e-5
_SOUGHT = 1e-8
_MAX_TURNS = 25
_LARGEST_WEIGHT = 1e10
# A turn that leaves more than this of every violation was of no use: the weights are too small by far.
_OF_NO_USE = 0.99


def meet(
    problem: Problem,
    state: np.ndarray,
    start: np.ndarray,
    ascend: Callable[[np.ndarray, np.ndarray | None], Candidate],
    unit: Callable[[np.ndarray, np.ndarray], float],
    gap: float,
) -> Candidate:
    """The best actions found from a start that meet the task's constraints.

    Every constraint has units of its own: it is weighed, and counts as met, by how large it becomes on the way.

    Args:
        problem: the task; its multipliers change on the way.
        state: the initial state.
        start: actions [H, m].
        ascend: finds the best actions at the current multipliers, from actions and, with multiple shooting, states.
        unit: of the return.
        gap: by how much returns differ between actions that were not optimised: no weight has to be much larger.
    """
    begin = problem.replay(state, start)[1]
    before, actions, states = [np.inf, np.inf], start, None
    problem.multipliers, largest = _first_weights(problem, begin, start, unit(begin, start), gap)
    for _ in range(_MAX_TURNS):
        found = ascend(actions, states)
        actions, used = found.actions, problem.multipliers
        states = found.states if found.method == "multiple shooting" else None
        value, equalities, inequalities = problem.free(found.states, actions)
        own = _sizes(problem, found.states, actions)
        weights = [np.asarray(used.terminal_weight), np.asarray(used.path_weight)]
        # An inequality that is slack while its multiplier is not zero has not settled either.
        slack = np.maximum(inequalities, -np.asarray(used.path) / weights[1])
        unsettled = [np.abs(equalities) / own[0], np.abs(slack).max(axis=0) / own[1]]
        if max(part.max(initial=0.0) for part in unsettled) <= _SOUGHT:
            break
        heavier = _factors(unsettled, before, weights, largest)
        problem.multipliers = dataclasses.replace(
            used.updated(jnp.asarray(equalities), jnp.asarray(inequalities)),
            terminal_weight=jnp.asarray(weights[0] * heavier[0]),
            path_weight=jnp.asarray(weights[1] * heavier[1]),
        )
        before = unsettled
    violation, relative = problem.violations(found.states, actions)
    numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), used)
    return dataclasses.replace(
        found, episode_return=value, violation=violation, relative_violation=relative, multipliers=numbers
    )


def _first_weights(
    problem: Problem, begin: np.ndarray, start: np.ndarray, unit: float, gap: float
) -> tuple[Multipliers, list[np.ndarray]]:
    """Zero multipliers with the weights of the first turn, and the largest that weights may become."""
    sizes = _sizes(problem, begin, start)
    weights = [jnp.asarray(10 * unit / size**2) for size in sizes]
    zeros = jnp.zeros(len(sizes[0])), jnp.zeros((len(begin), len(sizes[1])))
    return Multipliers(*zeros, *weights), [_LARGEST_WEIGHT * 10 * max(unit, gap) / size**2 for size in sizes]


def _sizes(problem: Problem, states: np.ndarray, actions: np.ndarray) -> list[np.ndarray]:
    """What violations of conditions and of inequalities count in; 1 for a constraint that is zero all along."""
    return [np.where(size > 0, size, 1.0) for size in problem.constraint_sizes(states, actions)]


def _factors(
    unsettled: list[np.ndarray],
    before: list[Any],
    weights: list[np.ndarray],
    largest: list[np.ndarray],
) -> list[np.ndarray]:
    """By how much the weights grow after a turn, from what it left of the violations."""
    turns = list(zip(unsettled, before, weights, largest, strict=True))
    useless = all(((now <= _SOUGHT) | (now > _OF_NO_USE * then)).all() for now, then, _, _ in turns)
    factor = 1e4 if useless else 10.0
    return [
        np.where((now > _SOUGHT) & (now > 0.25 * then) & (weight < limit), factor, 1.0)
        for now, then, weight, limit in turns
    ]
