"""The optimum of a task by trajectory optimisation, and the scores that are measured against it."""

from .scores import best_constant_return, doubts, optimal, random_return, score, ScoreWarning
from .shooting import Solution


__all__ = ["ScoreWarning", "Solution", "best_constant_return", "doubts", "optimal", "random_return", "score"]
