"""Panels that figures of trained methods consist of: scores against the horizon, and learning curves."""

from collections.abc import Callable, Sequence

import numpy as np

from ..drawing.charts import Panel, Series
from ..statistics import bootstrap_interval, interquartile_mean, Scores
from .trained_runs import pick, Run, to_scores, unique


# Points of a learning curve, and resamples of the bootstrap at each.
NUM_POINTS, NUM_RESAMPLES = 40, 500
_LIMITS = (-0.25, 1.1)


def score_limits(lines: Sequence[Series]) -> tuple[float, float]:
    """What is shown of a score: random to optimal, and down to the lowest line."""
    lowest = min((float(np.min(line.y)) for line in lines), default=0.0)
    return min(_LIMITS[0], lowest - 0.05), _LIMITS[1]


def horizon_panel(runs: Sequence[Run], title: str) -> Panel:
    """Final score against the horizon, one line a method: interquartile mean and its 95% interval."""
    lines = []
    for method in unique(runs, "method"):
        found = []
        for horizon in sorted(unique(pick(runs, method=method), "horizon")):
            scores = to_scores(pick(runs, method=method, horizon=horizon))
            if scores is not None:
                interval = bootstrap_interval(scores)
                found.append((horizon, interquartile_mean(scores), interval.low, interval.high))
        lines.append(Series(method, *map(list, zip(*found, strict=True))))
    return Panel(title, "horizon H", "final score", lines, x_log=True, y_limits=score_limits(lines))


def spread_panel(runs: Sequence[Run], title: str) -> Panel:
    """Final score against the horizon: mean and standard deviation over seeds."""
    lines = []
    for method in unique(runs, "method"):
        group = pick(runs, method=method)
        found = []
        for horizon in sorted(unique(group, "horizon")):
            values = np.array([run.value("score") for run in pick(group, horizon=horizon)])
            found.append((horizon, values.mean(), values.mean() - values.std(), values.mean() + values.std()))
        lines.append(Series(method, *map(list, zip(*found, strict=True))))
    return Panel(title, "horizon H", "final score", lines, y_limits=score_limits(lines))


def curve_panel(
    runs: Sequence[Run], title: str, spread: Callable[[np.ndarray], tuple[float, float, float]]
) -> Panel:
    """Score against environment steps, one line a method.

    Args:
        runs: on one or more tasks.
        title: of the panel.
        spread: centre, lower and upper bound of the scores [runs, tasks] at one number of steps.
    """
    lines = []
    for method in unique(runs, "method"):
        group = pick(runs, method=method)
        begin, end = max(run.steps[0] for run in group), min(run.steps[-1] for run in group)
        num_points = min(NUM_POINTS, max(len(run.steps) for run in group))
        steps = np.linspace(begin, end, num_points)
        bounds = [spread(values) for values in _aligned(group, steps)]
        lines.append(Series(method, steps.tolist(), *map(list, zip(*bounds, strict=True))))
    return Panel(title, "environment steps", "score", lines, y_limits=score_limits(lines))


def _aligned(runs: Sequence[Run], steps: np.ndarray) -> np.ndarray:
    """Scores [points, runs, tasks], between records along straight lines."""
    tasks, seeds = sorted({(run.task, run.horizon) for run in runs}), sorted({run.seed for run in runs})
    values = np.full((len(steps), len(seeds), len(tasks)), np.nan)
    for run in runs:
        place = (slice(None), seeds.index(run.seed), tasks.index((run.task, run.horizon)))
        values[place] = np.interp(steps, run.steps, run.scores)
    return values[:, ~np.isnan(values).any(axis=(0, 2))]


def iqm_spread(values: np.ndarray) -> tuple[float, float, float]:
    """Interquartile mean and 95% interval."""
    scores = Scores(values, tuple(f"task {i}" for i in range(values.shape[1])), tuple(range(len(values))))
    return (interquartile_mean(scores), *bootstrap_interval(scores, num_resamples=NUM_RESAMPLES))


def std_spread(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and one standard deviation on either side."""
    mean, deviation = float(values.mean()), float(values.std())
    return mean, mean - deviation, mean + deviation
