"""Statistics over runs and tasks: aggregates with stratified-bootstrap intervals, profiles, comparisons, curves.

Few runs on several tasks are summarised as Agarwal et al. (2021), "Deep reinforcement learning at the edge of the
statistical precipice", recommend. Runs and tasks are different things: they come with their names, in a `Scores`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from .core.arguments import a_count, a_function, a_key, between, numbers, shown, takes
from .core.types import Given, PRNGKey, UsageError


# Takes values [*batch, runs, tasks], gives one number or vector for each of the batch.
Statistic = Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A confidence interval; arrays for a statistic that is a vector."""

    low: Any
    high: Any


@dataclasses.dataclass(frozen=True)
class Scores:
    """One number for every run on every task.

    Tasks are named by words and runs by integers, so that neither can be taken for the other.

    Attributes:
        values: one row a run, one column a task; finite.
        tasks: the names of the columns.
        runs: what distinguishes the rows, usually seeds. Runs of different tasks have nothing to do with each other.
    """

    values: Float[np.ndarray, "runs tasks"]
    tasks: tuple[str, ...]
    runs: tuple[int, ...]

    def __post_init__(self):
        """Checks the axes.

        Raises:
            UsageError: names of the wrong kind, used twice or not as many as there are rows or columns; no values; or
                values that are not finite.
        """
        object.__setattr__(self, "values", numbers(finite=False)("Scores: values", self.values))
        shape = self.values.shape
        for axis, names, kind in (("runs", self.runs, int | np.integer), ("tasks", self.tasks, str)):
            if not isinstance(names, tuple | list):
                raise UsageError(f"Scores: {axis} must be a tuple of names, got {shown(names)}")
            if not all(isinstance(name, kind) and not isinstance(name, bool) for name in names):
                raise UsageError(
                    f"Scores: {axis} must be named by {'words' if axis == 'tasks' else 'integers'}"
                )
            if len(set(names)) != len(names) or not names:
                raise UsageError(f"Scores: {axis} must be at least one and all different, got {list(names)}")
        if shape != (len(self.runs), len(self.tasks)):
            raise UsageError(
                f"Scores: values must be [runs, tasks] = [{len(self.runs)}, {len(self.tasks)}], got {list(shape)}"
            )
        for run, task in zip(*np.nonzero(~np.isfinite(self.values)), strict=True):
            raise UsageError(f"Scores: run {self.runs[run]} of {self.tasks[task]} is not finite")

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, Any]], value: str = "score", run: str = "seed"
    ) -> "Scores":
        """Scores from tidy rows, one for every run and task.

        Args:
            rows: each with `task`, the run and the value; other columns are not looked at.
            value: the column of the values.
            run: the column that distinguishes runs.

        Raises:
            UsageError: a run of a task is missing, there twice, or has no finite value.
        """
        table: dict[tuple[int, str], float] = {}
        for row in rows:
            place = (int(row[run]), str(row["task"]))
            if place in table:
                raise UsageError(f"Scores: {run} {place[0]} of {place[1]} is there twice")
            table[place] = np.nan if row[value] is None else float(row[value])
        runs = tuple(sorted({place[0] for place in table}))
        tasks = tuple(dict.fromkeys(place[1] for place in table))
        for place in ((run_, task) for run_ in runs for task in tasks):
            if place not in table:
                raise UsageError(f"Scores: {run} {place[0]} of {place[1]} is missing")
        return cls(np.array([[table[run_, task] for task in tasks] for run_ in runs]), tasks, runs)


def _scores(about: str, value: object) -> Scores:
    if not isinstance(value, Scores):
        raise UsageError(f"{about}: must be asmpg.Scores, got {shown(value)}")
    return value


_RESAMPLING = {"confidence": between(0.0, 1.0), "num_resamples": a_count, "key": a_key}
_BOTH = {"better": _scores, "than": _scores}


def iqm(values: Float[np.ndarray, "*batch runs tasks"]) -> Float[np.ndarray, "*batch"]:
    """The mean of the middle half of all runs of all tasks together."""
    from scipy import stats

    return np.asarray(stats.trim_mean(values.reshape(*values.shape[:-2], -1), 0.25, axis=-1))


@takes(scores=_scores)
def interquartile_mean(scores: Given[Scores]) -> float:
    """The mean of the middle half of all runs of all tasks together: robust like a median, but of half the runs.

    Args:
        scores: of every run of every task.
    """
    return float(iqm(scores.values))


@takes(scores=_scores, statistic=a_function, **_RESAMPLING)
def bootstrap_interval(
    scores: Given[Scores],
    statistic: Given[Statistic] = iqm,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    key: PRNGKey | None = None,
) -> Interval:
    """A percentile interval from the stratified bootstrap: each task's runs are resampled, tasks never are.

    Args:
        scores: at least one run; with a single one the interval has no width and means nothing.
        statistic: of values [*batch, runs, tasks].
        confidence: the share of resamples within.
        num_resamples: how many.
        key: draws the resamples; by default always the same.

    Raises:
        UsageError: a confidence outside (0, 1), or fewer than one resample.
    """
    resamples = _resample(scores.values, num_resamples, _generator(key))
    return _percentiles(statistic(resamples), confidence)


@takes(scores=_scores, thresholds=numbers(finite=False, least=1, axes=1))
def performance_profile(
    scores: Given[Scores], thresholds: Given[Float[np.ndarray, " thresholds"]]
) -> Float[np.ndarray, " thresholds"]:
    """The share of runs with a score above each threshold, averaged over tasks.

    Args:
        scores: of every run of every task.
        thresholds: at which the profile is taken.
    """
    return profile_statistic(thresholds)(scores.values)


def profile_statistic(thresholds: Float[np.ndarray, " thresholds"]) -> Statistic:
    """`performance_profile` as a statistic for `bootstrap_interval`."""

    def profile(values: np.ndarray) -> np.ndarray:
        above = [(values > threshold).mean(axis=(-2, -1)) for threshold in np.asarray(thresholds)]
        return np.stack(above, axis=-1)

    return profile


@takes(**_BOTH)
def probability_of_improvement(better: Given[Scores], than: Given[Scores]) -> float:
    """The chance that a run of one method beats a run of the other on the same task, averaged over tasks; ties half.

    Args:
        better: runs of the one method.
        than: runs of the other, on the same tasks in the same order; there may be more or fewer of them.

    Raises:
        UsageError: the tasks differ.
    """
    _check_same_tasks(better, than)
    return float(_improvement(better.values, than.values))


@takes(**_BOTH, **_RESAMPLING)
def improvement_interval(
    better: Given[Scores],
    than: Given[Scores],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    key: PRNGKey | None = None,
) -> Interval:
    """The stratified-bootstrap interval of `probability_of_improvement`: the runs of both methods are resampled.

    Args:
        better: runs of the one method.
        than: runs of the other, on the same tasks in the same order; there may be more or fewer of them.
        confidence: the share of resamples within.
        num_resamples: how many.
        key: draws the resamples; by default always the same.

    Raises:
        UsageError: the tasks differ, a confidence outside (0, 1), or fewer than one resample.
    """
    _check_same_tasks(better, than)
    generator = _generator(key)
    drawn = [_resample(scores.values, num_resamples, generator) for scores in (better, than)]
    return _percentiles(_improvement(*drawn), confidence)


@takes(**_BOTH, statistic=a_function, **_RESAMPLING)
def difference_interval(
    better: Given[Scores],
    than: Given[Scores],
    statistic: Given[Statistic] = iqm,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    key: PRNGKey | None = None,
) -> Interval:
    """The stratified-bootstrap interval of the difference of a statistic: the runs of both are resampled.

    Args:
        better: runs of the one method.
        than: runs of the other, on the same tasks in the same order; there may be more or fewer of them.
        statistic: of values [*batch, runs, tasks].
        confidence: the share of resamples within.
        num_resamples: how many.
        key: draws the resamples; by default always the same.

    Raises:
        UsageError: the tasks differ, a confidence outside (0, 1), or fewer than one resample.
    """
    _check_same_tasks(better, than)
    generator = _generator(key)
    drawn = [statistic(_resample(scores.values, num_resamples, generator)) for scores in (better, than)]
    return _percentiles(drawn[0] - drawn[1], confidence)


@takes(steps=numbers(least=2), values=numbers(finite=False))
def area_under_curve(
    steps: Given[Sequence[int | float] | np.ndarray], values: Given[Float[np.ndarray, " records *batch"]]
) -> Float[np.ndarray, "*batch"]:
    """The mean height of learning curves between the first and the last record, by the trapezoidal rule.

    Args:
        steps: environment steps of the records, increasing.
        values: of every record.

    Raises:
        UsageError: steps do not increase, are not as many as the records, or are fewer than two.
    """
    steps = _check_steps(steps, values, 2)
    return np.asarray(np.trapezoid(values, steps, axis=0) / (steps[-1] - steps[0]))


@takes(steps=numbers(least=1), values=numbers(finite=False), score=between(-math.inf, math.inf))
def steps_to_score(
    steps: Given[Sequence[int | float] | np.ndarray],
    values: Given[Float[np.ndarray, " records *batch"]],
    score: Given[float],
) -> Float[np.ndarray, "*batch"]:
    """Environment steps at the first record with at least this score; infinite where none has.

    Args:
        steps: environment steps of the records, increasing.
        values: of every record; a NaN reaches no score.
        score: to reach.

    Raises:
        UsageError: steps do not increase, or are not as many as the records.
    """
    steps = _check_steps(steps, values, 1)
    reached = np.asarray(values) >= score
    return np.where(reached.any(axis=0), steps[reached.argmax(axis=0)], np.inf)


def _check_steps(steps: object, values: np.ndarray, least: int) -> np.ndarray:
    steps = np.asarray(steps, np.float64)
    if steps.ndim != 1 or len(steps) != len(values) or len(steps) < least or not (np.diff(steps) > 0).all():
        raise UsageError(
            f"steps: must be at least {least}, increasing, and as many as records, {len(values)}"
        )
    return steps


def _check_same_tasks(one: Scores, other: Scores) -> None:
    if one.tasks != other.tasks:
        raise UsageError(f"Scores: both must be of the same tasks, got {one.tasks} and {other.tasks}")


def _generator(key: PRNGKey | None) -> np.random.Generator:
    drawn = jax.random.bits(jax.random.key(0) if key is None else key, (4,))
    return np.random.default_rng(np.asarray(drawn).tolist())


def _resample(values: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Runs drawn with replacement, for every task on its own: [number, runs, tasks]."""
    chosen = generator.integers(len(values), size=(number, *values.shape))
    return np.take_along_axis(values[None], chosen, axis=1)


def _percentiles(drawn: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Interval(*(bound.item() if bound.ndim == 0 else bound for bound in (low, high)))


def _improvement(better: np.ndarray, than: np.ndarray) -> np.ndarray:
    """Values [*batch, runs, tasks] of each: Mann and Whitney's U over the number of pairs, averaged over tasks."""
    difference = better[..., :, None, :] - than[..., None, :, :]
    return np.asarray((0.5 + 0.5 * np.sign(difference)).mean(axis=(-3, -2, -1)))
