"""Panels that figures of trained methods consist of: scores against the horizon, and learning curves.

Interquartile means are drawn as what is missing to the optimum, `1 - score`, on a logarithmic axis: 0.97 and 0.998 are
a factor of fifteen apart there, and a method that fails does not press all others into one line. Means with standard
deviations, which reach beyond 1, are drawn as scores, on an axis that no band leaves.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..drawing.charts import Number, Panel, Series
from ..statistics import bootstrap_interval, interquartile_mean, Scores
from .trained_runs import pick, Run, to_scores, unique, Value


# Points of a learning curve, and resamples of the bootstrap at each.
NUM_POINTS, NUM_RESAMPLES = 40, 500
# What is missing to the optimum counts as at least this much: float32 and the solver agree to about as many digits.
LEAST = 1e-4
UNTRAINED, CONSTANT = "untrained policy", "best constant action"
_LIMITS = (-0.25, 1.1)
_MISSING = "1 - score"


def score_limits(lines: Sequence[Series]) -> tuple[float, float]:
    """What is shown of a score: random to optimal, and as far as any line or band goes."""
    values = [value for line in lines for part in (line.y, line.low, line.high) for value in part]
    lowest, highest = (float(f(values)) if values else 0.5 for f in (np.nanmin, np.nanmax))
    return min(_LIMITS[0], lowest - 0.05), max(_LIMITS[1], highest + 0.05)


def _missing(line: Series) -> Series:
    """The same line as what is missing to the optimum."""
    y, low, high = (
        np.maximum(1.0 - np.asarray(part), LEAST).tolist() for part in (line.y, line.high, line.low)
    )
    return Series(line.name, line.x, y, low, high)


def _missing_panel(title: str, x_label: str, lines: Sequence[Series], x_log: bool = False) -> Panel:
    return Panel(title, x_label, _MISSING, [_missing(line) for line in lines], x_log=x_log, y_log=True)


def horizon_panel(runs: Sequence[Run], title: str) -> Panel:
    """What is missing at the end against the horizon: interquartile mean and its 95% interval, one line a method."""
    lines = []
    for method in unique(runs, "method"):
        found = []
        for horizon in sorted(unique(pick(runs, method=method), "horizon")):
            scores = to_scores(pick(runs, method=method, horizon=horizon))
            if scores is not None:
                interval = bootstrap_interval(scores)
                found.append((horizon, interquartile_mean(scores), interval.low, interval.high))
        lines.append(Series(method, *map(list, zip(*found, strict=True))))
    return _missing_panel(title, "horizon H", lines, x_log=True)


def spread_panel(runs: Sequence[Run], title: str) -> Panel:
    """Final score against the horizon: mean and standard deviation over seeds, with what costs no training beside."""
    lines = []
    for method in unique(runs, "method"):
        group = pick(runs, method=method)
        found = []
        for horizon in sorted(unique(group, "horizon")):
            values = np.array([run.value("score") for run in pick(group, horizon=horizon)])
            found.append((horizon, values.mean(), values.mean() - values.std(), values.mean() + values.std()))
        lines.append(Series(method, *map(list, zip(*found, strict=True))))
    horizons = sorted(unique(runs, "horizon"))
    lines += _untrained(runs, horizons, lambda horizon: pick(runs, horizon=horizon))
    return Panel(title, "horizon H", "final score", lines, y_limits=score_limits(lines))


def _untrained(
    runs: Sequence[Run], xs: Sequence[Number], at: Callable[[Number], Sequence[Run]]
) -> list[Series]:
    """Lines of what needs no training, at each x the mean over runs; none where it is not known."""
    lines = []
    kinds: tuple[tuple[str, Value], ...] = ((UNTRAINED, "start"), (CONSTANT, "constant"))
    for name, part in kinds:
        means = [float(np.mean([run.value(part) for run in at(x)])) for x in xs]
        if runs and np.isfinite(means).any():
            lines.append(Series(name, list(xs), means))
    return lines


def curve_panel(
    runs: Sequence[Run],
    title: str,
    spread: Callable[[np.ndarray], tuple[float, float, float]],
    references: bool = False,
) -> Panel:
    """Score against environment steps, one line a method.

    Args:
        runs: on one or more tasks.
        title: of the panel.
        spread: centre, lower and upper bound of the scores [runs, tasks] at one number of steps. `iqm_spread` is drawn
            as what is missing to the optimum.
        references: whether to show the untrained policy and the best constant action as lines.
    """
    lines = []
    for method in unique(runs, "method"):
        group = pick(runs, method=method)
        begin, end = max(run.steps[0] for run in group), min(run.steps[-1] for run in group)
        num_points = min(NUM_POINTS, max(len(run.steps) for run in group))
        steps = np.linspace(begin, end, num_points)
        bounds = [spread(values) for values in _aligned(group, steps)]
        lines.append(Series(method, steps.tolist(), *map(list, zip(*bounds, strict=True))))
    if spread is iqm_spread:
        return _missing_panel(title, "environment steps", lines)
    if references and lines:
        ends = [min(line.x[0] for line in lines), max(line.x[-1] for line in lines)]
        lines += _untrained(runs, ends, lambda _: runs)
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
