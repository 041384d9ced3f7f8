"""What scores are measured by, and how they stand in a summary."""

import dataclasses
import math
from typing import Any

import numpy as np

from ...tasks.environment import AbstractEnvironment
from ...tasks.optimum import best_constant_return, doubts, optimal, random_return


@dataclasses.dataclass(frozen=True)
class Reference:
    """What scores are measured by.

    Attributes:
        random_return: of uniform random actions, a score of 0.
        optimal_return: of the optimum, a score of 1.
        best_constant_return: of the best constant action; None in a run of before it was kept.
        message: what the solver said about the optimum.
        doubts: what speaks against these scores, a line each.
    """

    random_return: float
    optimal_return: float
    best_constant_return: float | None = None
    message: str = ""
    doubts: tuple[str, ...] = ()

    def score(self, returns: np.ndarray) -> np.ndarray:
        """0 for random actions, 1 for the optimum; NaN where random actions are already optimal."""
        gap = self.optimal_return - self.random_return
        return (np.asarray(returns, np.float64) - self.random_return) / (gap if gap > 0 else np.nan)


def reference_of(task: AbstractEnvironment) -> Reference:
    """Of a task, which is solved."""
    solution, random = optimal(task), random_return(task)
    return Reference(
        random_return=random,
        optimal_return=solution.episode_return,
        best_constant_return=best_constant_return(task),
        message=solution.message,
        doubts=tuple(doubts(task)),
    )


def beside(known: Reference | None, returns: np.ndarray) -> dict[str, Any]:
    """What qualifies a score, as plain JSON: its distance from the best constant action, and the solver's message."""
    if known is None or known.best_constant_return is None:
        return {"best_constant_return": None, "score_above_constant": None, "optimum": None, "doubts": []}
    gap = known.optimal_return - known.best_constant_return
    above = (float(np.mean(returns)) - known.best_constant_return) / gap if gap > 0 else math.nan
    return {
        "best_constant_return": known.best_constant_return,
        "score_above_constant": finite(above),
        "optimum": known.message,
        "doubts": list(known.doubts),
    }


def scores_as_json(scores: np.ndarray | None, returns: np.ndarray) -> dict[str, Any]:
    """`scores`, their mean `score`, and `returns`, as plain JSON."""
    return {
        "scores": None if scores is None else [finite(float(score)) for score in scores],
        "score": None if scores is None else finite(float(scores.mean())),
        "returns": [finite(float(value)) for value in returns],
    }


def finite(number: float | int) -> float | int | None:
    """The number, or None in place of one that JSON cannot hold."""
    return number if math.isfinite(number) else None
