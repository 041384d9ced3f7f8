"""What makes the one-step model fall with the horizon: the unit of its output, and a decay of its gradient.

No figure of the paper's. Its one-step model fails past H = 100 and ours, under `default`, does not; this table changes
one thing at a time. The theory is in docs/theory.md (Corollary 1.1 through an Euler scheme).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np

from ..drawing.charts import Chart, Panel, Series
from ..sweeps import Grid, Scale
from . import scales
from .comparison import compare, decide_runs, opposite
from .curves import horizon_panel
from .experiment import Tables, Text
from .rules import FLAT, HIGH, judged, LONG, LONGEST, LOST, MARGIN
from .table import Table
from .trained_runs import pick, read_runs, Run, unique
from .training import AbstractSweepExperiment
from .verdicts import three_way, Verdict


Value = Callable[[Mapping[str, Any]], float]
TASKS, HORIZONS = ("timber_harvest", "harvest"), (100, 500, 20)
# Of single precision, as a decimal logarithm.
LARGEST = 38.0
UNITS, DECAYS = ("typical", "state"), (1.0, 0.99)


def name_of(unit: str, decay: float) -> str:
    """What a combination is called in figures."""
    return f"{unit} units" + ("" if decay == 1.0 else f", decay {decay:g}")


PLAIN, STATE, DECAYED = name_of("typical", 1.0), name_of("state", 1.0), name_of("typical", 0.99)


@final
class OneStep(AbstractSweepExperiment):
    """The one-step model in two units, with and without a decay."""

    name = "one_step"
    title = "what makes the one-step model fall: the unit of its output, and a decay of its gradient"
    texts: ClassVar = {
        "one_step": Text(
            "What makes the one-step model fall",
            "The paper has the one-step model fail past H = 100. Whether it does depends on two things that the paper "
            "does not discuss: the unit in which the network counts a step's difference, and a decay of the gradient "
            "through the state that its published code has.",
        )
    }

    def grids(self, scale: Scale) -> list[Grid]:
        both: dict[str, Any] = {"difference_unit": list(UNITS), "state_gradient_decay": list(DECAYS)}
        if scale == "smoke":
            options = {**scales.SMOKE, "record_cosine": True}
            settings = {**scales.SMOKE_SETTINGS, "difference_unit": list(UNITS), "state_gradient_decay": 0.99}
            return [Grid(TASKS[:1], (10,), ("one-step",), options, settings)]
        cpu = {"steps": 5_000, "chunk_steps": 500, "seeds": 3}
        options = {**(cpu if scale == "cpu" else scales.PAPER), "record_cosine": True}
        return [
            Grid((task,), (horizon,), ("one-step",), options, both) for horizon in HORIZONS for task in TASKS
        ]

    def method(self, row: Mapping[str, Any]) -> str:
        return name_of(row["difference_unit"], row["state_gradient_decay"])

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        runs = read_runs(tables, self.method)
        longest = pick(runs, horizon=LONGEST)
        return [
            compare("one_step.unit", longest, (PLAIN, STATE), MARGIN),
            compare("one_step.decay", longest, (PLAIN, DECAYED), MARGIN),
            self._growth(runs, tables["runs"]),
            *(self._cosine(name, longest, tables["runs"]) for name in (PLAIN, STATE, DECAYED)),
        ]

    def _growth(self, runs: Sequence[Run], table: Table) -> Verdict:
        """Whether the product of Jacobians depends on the horizon in one unit and not in the other."""
        medians = {
            name: [float(np.median(self._of(table, name, horizon, product))) for horizon in (LONG, LONGEST)]
            for name in (PLAIN, STATE)
        }
        if not np.isfinite([*medians.values()]).all():
            return judged("one_step.growth", None, f"not trained at H = {LONG} and {LONGEST} in both units")
        changes = {name: longest - long for name, (long, longest) in medians.items()}
        holds = abs(changes[PLAIN]) <= np.log10(FLAT) < changes[STATE]
        reason = "; ".join(
            f"{name}: 10^{low:z.1f} and 10^{high:z.1f}" for name, (low, high) in medians.items()
        )
        used = pick(runs, method=(PLAIN, STATE), horizon=(LONG, LONGEST))
        return decide_runs("one_step.growth", bool(holds), reason, {"changes": changes}, used)

    def _cosine(self, name: str, runs: Sequence[Run], table: Table) -> Verdict:
        """Whether the gradient keeps its direction at the longest horizon, in typical units, or loses it."""
        kept = name == PLAIN
        id = (
            "one_step.cosine.kept"
            if kept
            else f"one_step.cosine.lost.{'state' if name == STATE else 'decay'}"
        )
        median = float(np.median(self._of(table, name, LONGEST, cosine)))
        if np.isnan(median):
            return judged(id, None, f"{name}: not trained at H = {LONGEST}", name=name)
        answer = three_way(median, true_above=HIGH, false_below=LOST)
        reason = f"the median cosine over tasks, seeds and records is {median:z.3f}"
        answer = answer if kept else opposite(answer)
        return decide_runs(id, answer, reason, {"median": median}, pick(runs, method=name), name=name)

    def charts(self, tables: Tables) -> list[Chart]:
        runs, panels = read_runs(tables, self.method), []
        for task in unique(runs, "task"):
            own = Table(row for row in tables["runs"] if row["task"] == task)
            panels.append(horizon_panel(pick(runs, task=task), task))
            for label, value in (
                ("norm of the Jacobians' product, 10^", product),
                ("cosine to the true gradient", cosine),
            ):
                panels.append(self._panel(own, task, label, value))
        steps = max((int(run.steps[-1]) for run in runs), default=0)
        title = f"one-step model, preset default, {steps:,} steps: median and middle half of the records of all seeds"
        return [Chart("one_step", "one_step", title, panels, 3)]

    def _panel(self, table: Table, title: str, label: str, value: Value) -> Panel:
        horizons, lines = sorted(table.unique("horizon")), []
        for name in (name_of(unit, decay) for unit in UNITS for decay in DECAYS):
            values = {horizon: self._of(table, name, horizon, value) for horizon in horizons}
            found = {horizon: part for horizon, part in values.items() if np.isfinite(part).all()}
            bounds = [[float(np.quantile(part, at)) for part in found.values()] for at in (0.5, 0.25, 0.75)]
            lines += [Series(name, list(found), *bounds)] * bool(found)
        return Panel(title, "horizon H", label, lines, x_log=True)

    def _of(self, table: Table, name: str, horizon: int, value: Value) -> np.ndarray:
        """A value of every record after training began, of all tasks and seeds; NaN alone if there is none."""
        rows = [row for row in table if row["horizon"] == horizon and self.method(row) == name]
        steps = np.array([row["steps"] for row in rows], float)
        later = [row for row, at in zip(rows, steps, strict=True) if at > steps.min(initial=np.inf)]
        return np.array([value(row) for row in later] or [np.nan])


def cosine(row: Mapping[str, Any]) -> float:
    """Of a record; no direction at all counts as 0."""
    value = row.get("cosine")
    return 0.0 if value is None or not np.isfinite(value) else float(value)


def product(row: Mapping[str, Any]) -> float:
    """The decimal logarithm of the norm of the product of all Jacobians of an episode.

    An episode that leaves single precision counts as its largest number, a product of zero as its smallest.
    """
    growth = row.get("state_growth")
    if growth is None or not np.isfinite(growth):
        return LARGEST
    return float(row["horizon"] * np.log10(growth)) if growth > 0 else -LARGEST


EXPERIMENT = OneStep()
