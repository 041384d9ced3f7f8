"""Figures 2, 3c and 5 as charts, from the tables of models that were fitted offline."""

from collections.abc import Callable, Sequence

import numpy as np

from ..drawing.charts import Chart, Panel, Series
from ..experiments.experiment import Tables
from ..experiments.table import Table


# Points of a landscape that are kept.
_MOST = 120


def offline_charts(tables: Tables) -> list[Chart]:
    """The charts of whatever tables there are."""
    makers: dict[str, Callable[[Tables], Sequence[Chart]]] = {
        "toy_offline": _cosines,
        "bounce": _rewards,
        "pendulum": _norms,
        "pendulum_landscapes": _landscapes,
    }
    return [chart for name, make in makers.items() if name in tables for chart in make(tables)]


def _lines(table: Table, x: str, y: str) -> list[Series]:
    """One line a model: mean over everything else, with one standard deviation around it."""
    lines = []
    for model in table.unique("model"):
        rows = table.select(model=model)
        places, values = rows.values(x), rows.values(y)
        found = np.unique(places)
        found = found[:: max(1, len(found) // _MOST)]
        groups = [values[places == place] for place in found]
        mean, spread = np.array([g.mean() for g in groups]), np.array([g.std() for g in groups])
        band = () if not spread.any() else ((mean - spread).tolist(), (mean + spread).tolist())
        lines.append(Series(model, found.tolist(), mean.tolist(), *band))
    return lines


def _cosines(tables: Tables) -> list[Chart]:
    lines = _lines(tables["toy_offline"], "horizon", "cosine")
    panel = Panel("toy credit assignment", "horizon H", "cosine", lines, x_log=True, y_limits=(-1.05, 1.05))
    return [Chart("2", "figure_2", "cosine to the true policy gradient (mean and std over seeds)", [panel])]


def _rewards(tables: Tables) -> list[Chart]:
    lines = _lines(tables["bounce"], "initial_action", "reward")
    panel = Panel("predicted final reward", "initial action", "final reward", lines)
    return [Chart("3", "figure_3c", "final reward after one bounce (mean and std over seeds)", [panel])]


def _norms(tables: Tables) -> list[Chart]:
    lines = []
    for line in _lines(tables["pendulum"], "horizon", "norm"):
        # The spread over actions is as large as the mean, and no band around a logarithm.
        lines.append(Series(line.name, line.x, line.y))
    panel = Panel("mean over 50 random actions", "horizon H", "|ds_H/da_0|", lines, y_log=True)
    return [Chart("5", "figure_5b", "gradient norms of the double pendulum", [panel])]


def _landscapes(tables: Tables) -> list[Chart]:
    table = tables["pendulum_landscapes"]
    found = []
    for horizon in sorted(table.unique("horizon")):
        lines = _lines(table.select(horizon=horizon), "initial_action", "return")
        truth = table.select(horizon=horizon, model="truth").values("return")
        limits = (1.3 * float(truth.min()), -0.1 * float(truth.min())) if truth.size else None
        found.append(Panel(f"H = {horizon}", "initial action", "return", lines, y_limits=limits))
    return [Chart("5", "figure_5c", "return of the double pendulum against the initial action", found)]
