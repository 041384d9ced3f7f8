"""The optimum of a task by trajectory optimisation, and the scores that are measured against it."""

from .scores import best_constant_return, optimal, random_return, score
from .shooting import Solution


__all__ = ["Solution", "best_constant_return", "optimal", "random_return", "score"]
