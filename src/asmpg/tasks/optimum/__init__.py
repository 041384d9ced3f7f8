"""The optimum of a task by trajectory optimisation, and the scores that are measured against it."""

from .differences import check_gradient, GradientWarning, warn_of_gradient, warn_of_reward
from .scores import best_constant_return, doubts, optimal, random_return, score, ScoreWarning
from .solution import Solution


__all__ = [
    "GradientWarning",
    "ScoreWarning",
    "Solution",
    "best_constant_return",
    "check_gradient",
    "doubts",
    "optimal",
    "random_return",
    "score",
    "warn_of_gradient",
    "warn_of_reward",
]
