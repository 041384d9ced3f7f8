"""Constraints met by an augmented Lagrangian: unconstrained problems whose multipliers are adjusted from turn to turn.

Source: Nocedal and Wright, "Numerical Optimization" (2006), Framework 17.3.
"""

import dataclasses
from collections.abc import Callable

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
    sizes = [_known(size) for size in problem.constraint_sizes(begin, start)]
    before, actions, states = [np.full(size.shape, np.inf) for size in sizes], start, None
    begin_unit = unit(begin, start)
    first = [10 * begin_unit / size**2 for size in sizes]
    largest = [_LARGEST_WEIGHT * 10 * max(begin_unit, gap) / size**2 for size in sizes]
    problem.multipliers = Multipliers(
        terminal=jnp.zeros(len(sizes[0])),
        path=jnp.zeros((len(begin), len(sizes[1]))),
        terminal_weight=jnp.asarray(first[0]),
        path_weight=jnp.asarray(first[1]),
    )
    for _ in range(_MAX_TURNS):
        found = ascend(actions, states)
        actions, used = found.actions, problem.multipliers
        states = found.states if found.method == "multiple shooting" else None
        value, equalities, inequalities = problem.free(found.states, actions)
        own = [_known(size) for size in problem.constraint_sizes(found.states, actions)]
        weights = [np.asarray(used.terminal_weight), np.asarray(used.path_weight)]
        # An inequality that is slack while its multiplier is not zero has not settled either.
        slack = np.maximum(inequalities, -np.asarray(used.path) / weights[1])
        unsettled = [np.abs(equalities) / own[0], np.abs(slack).max(axis=0) / own[1]]
        if max(part.max(initial=0.0) for part in unsettled) <= _SOUGHT:
            break
        heavier = _factors(unsettled, before, weights, largest)
        multipliers = used.updated(jnp.asarray(equalities), jnp.asarray(inequalities))
        before, problem.multipliers = (
            unsettled,
            dataclasses.replace(
                multipliers,
                terminal_weight=jnp.asarray(weights[0] * heavier[0]),
                path_weight=jnp.asarray(weights[1] * heavier[1]),
            ),
        )
    violations = [np.abs(equalities), np.maximum(inequalities.max(axis=0, initial=0.0), 0.0)]
    shares = [violation / size for violation, size in zip(violations, own, strict=True)]
    return dataclasses.replace(
        found,
        episode_return=value,
        violation=float(max(part.max(initial=0.0) for part in violations)),
        relative_violation=float(max(part.max(initial=0.0) for part in shares)),
        multipliers=jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), used),
    )


def _factors(
    unsettled: list[np.ndarray],
    before: list[np.ndarray],
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


def _known(sizes: np.ndarray) -> np.ndarray:
    """Sizes to divide by: 1 for a constraint that is zero all along, or whose size cannot be known."""
    return np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0)
