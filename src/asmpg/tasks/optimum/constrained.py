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


# Violations below this, in the constraints' own units, are none.
FEASIBLE = 1e-5
_SOUGHT = 1e-8
_MAX_TURNS = 25
_LARGEST_WEIGHT = 1e10


def meet(
    problem: Problem,
    state: np.ndarray,
    start: np.ndarray,
    ascend: Callable[[np.ndarray, np.ndarray | None], Candidate],
    unit: Callable[[np.ndarray, np.ndarray], float],
) -> Candidate:
    """The best actions found from a start that meet the task's constraints.

    Args:
        problem: the task; its multipliers change on the way.
        state: the initial state.
        start: actions [H, m].
        ascend: finds the best actions at the current multipliers, from actions and, with multiple shooting, states.
        unit: of the return.
    """
    begin = problem.replay(state, start)[1]
    _, equalities, inequalities = problem.free(begin, start)
    before, actions, states = np.inf, start, None
    # The constraints' own size, slack included: where the start meets them all, violations have none yet.
    scale = max(np.abs(equalities).max(initial=0.0), np.abs(inequalities[1:]).max(initial=0.0), 1e-6)
    weight = 10 * unit(begin, start) / scale**2
    problem.multipliers = Multipliers(
        terminal=jnp.zeros(len(equalities)), path=jnp.zeros(inequalities.shape), weight=jnp.asarray(weight)
    )
    for _ in range(_MAX_TURNS):
        found = ascend(actions, states)
        actions, used = found.actions, problem.multipliers
        states = found.states if found.method == "multiple shooting" else None
        value, equalities, inequalities = problem.free(found.states, actions)
        # An inequality that is slack while its multiplier is not zero has not settled either.
        slack = np.maximum(inequalities, -np.asarray(used.path) / float(used.weight))
        violation, unsettled = _size(equalities, inequalities), _size(equalities, np.abs(slack))
        multipliers = used.updated(jnp.asarray(equalities), jnp.asarray(inequalities))
        if unsettled <= _SOUGHT:
            break
        if unsettled > 0.25 * before and float(used.weight) < _LARGEST_WEIGHT * max(weight, 1e-300):
            multipliers = dataclasses.replace(multipliers, weight=10 * used.weight)
        before, problem.multipliers = unsettled, multipliers
    numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), used)
    return dataclasses.replace(found, episode_return=value, violation=violation, multipliers=numbers)


def _size(equalities: np.ndarray, inequalities: np.ndarray) -> float:
    """The largest violation."""
    return float(max(np.abs(equalities).max(initial=0.0), inequalities.max(initial=0.0), 0.0))
