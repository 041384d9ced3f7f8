"""Tables of trained policies: a suite of the sweeps, run or taken as it stands, as one tidy table."""

import abc
import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from ..core.types import UsageError
from ..sweeps import (
    AbstractEngine,
    check_versions,
    Grid,
    InProcess,
    look,
    make_suite,
    open_store,
    run_sweep,
    Scale,
    State,
    Suite,
)
from ..sweeps.code import code_version
from ..sweeps.tidy import collect
from ..tasks import make, MYRIAD_TASKS
from ..tasks.optimum import optimal
from ..training.runs import RunWarning
from .experiment import AbstractExperiment, Report, Tables
from .table import Table
from .trained_runs import by_model, FLOOR, REFERENCES, summarise


# Telling parts of a table from the rest of its columns, which are losses and norms.
_MEASURED = ("steps", "return", "score")
# Kept where a suite asks for them.
_RECORDED = ("cosine", "state_growth")
# Horizons at which the continuous-time optimum is extrapolated from; the error of Euler's method falls like 1/H.
_FINE = (1000, 2000)


@dataclasses.dataclass(frozen=True)
class Sweeping:
    """How the sweep behind a table is run.

    Attributes:
        out: folder or URL of its results; None for `sweeps/SUITE-SCALE`, which is that of `asmpg sweep` too.
        engine: makes what runs the items.
        only_finished: whether to take what is finished, and train nothing.
        mix_versions: whether results of another code version are taken too.
        stop: whether to stop; what is done until then is kept.
        preset: trains under this preset alone, instead of those that the grids name.
        earlier: tables of an earlier measurement, such as another machine's; what is finished there is not trained.
    """

    out: str | None = None
    engine: Callable[[], AbstractEngine] = InProcess
    only_finished: bool = False
    mix_versions: bool = False
    stop: Callable[[], bool] = lambda: False
    preset: str | None = None
    earlier: Tables | None = None


class StoppedError(Exception):
    """A sweep was asked to stop before it was finished; its results so far are kept."""


class AbstractSweepExperiment(AbstractExperiment):
    """An experiment whose tables are a sweep: training runs on a grid, which `asmpg sweep` can do too.

    Attributes:
        suite_name: what `asmpg sweep` calls it; by default the experiment's name.
    """

    suite_name: str = ""

    @abc.abstractmethod
    def grids(self, scale: Scale) -> Sequence[Grid]:
        """What is trained at a scale, the most telling first."""

    def method(self, row: Mapping[str, Any]) -> str:
        """What a row's method is called in figures and verdicts."""
        return by_model(row)

    def suite(self, scale: Scale, preset: str | None = None) -> Suite:
        """The items of the grids, under one preset if it is given."""
        grids = self.grids(scale)
        if preset is not None:
            named = [grid for grid in grids if grid.options.get("preset") == preset]
            grids = named or [
                dataclasses.replace(grid, options={**grid.options, "preset": preset}) for grid in grids
            ]
        return make_suite(self.suite_name or self.name, scale, grids)

    def measure(self, scale: Scale, report: Report) -> Tables:
        """Trains in this process; `sweep` says how else."""
        return self.sweep(scale, report, Sweeping())

    def sweep(self, scale: Scale, report: Report, sweeping: Sweeping) -> Tables:
        """Trains what is left of the suite, or takes it as it stands."""
        return measure_suite(self.suite(scale, sweeping.preset), report, sweeping)

    def summarise(self, tables: Tables) -> dict[str, list[dict[str, Any]]]:
        """Scores by method and horizon, and what was selected from a sweep."""
        return summarise(tables, self.method)


def measure_suite(suite: Suite, report: Report, sweeping: Sweeping) -> Tables:
    """Trains what is left of a suite and makes the tables of what is finished.

    Args:
        suite: what is trained.
        report: told how far it is.
        sweeping: where and how.

    Returns:
        `runs`, one row a record of every seed; and `items`, one row an item of the suite, finished or not.

    Raises:
        StoppedError: it was asked to stop.
        UsageError: there are results of another code version, or nothing of this suite in an earlier measurement.
    """
    out = sweeping.out or f"sweeps/{suite.name}-{suite.scale}"
    whole, before = suite, _finished_before(suite, sweeping)
    suite = dataclasses.replace(suite, items=tuple(item for item in suite.items if item.id not in before))
    if sweeping.only_finished or not suite.items:
        state = look(suite, open_store(out))
        check_versions(state, sweeping.mix_versions)
    else:
        state = _swept(suite, out, report, sweeping)
    for item, error in state.failed.items():
        warnings.warn(f"{item} failed and is not in the table: {error}", RunWarning, stacklevel=2)
    tables = {"runs": runs_table(state), "items": items_table(state)}
    if suite.scale != "smoke":
        add_paper_scores(tables["runs"], lambda task: report(len(state.finished), len(suite.items), task))
    return _joined(whole, tables, sweeping.earlier or {}, before)


def _finished_before(suite: Suite, sweeping: Sweeping) -> Set[str]:
    """The items of the suite that an earlier measurement has finished."""
    if sweeping.earlier is None:
        return set()
    models = {item.id: item.config.model_name for item in suite.items}
    rows = [row for row in sweeping.earlier.get("items", ()) if row.get("state") == "done"]
    codes = {str(row["item"]): row.get("code") for row in rows if row["item"] in models}
    if not codes:
        raise UsageError(f"earlier: holds no finished item of {suite.name} at scale {suite.scale}")
    others = [code for item, code in codes.items() if code != code_version(models[item])]
    if others and not sweeping.mix_versions:
        raise UsageError(
            f"mix_versions: {len(others)} of {len(codes)} earlier results are of another code version; "
            "take them with --mix-versions"
        )
    return codes.keys()


def _joined(suite: Suite, tables: Tables, earlier: Tables, before: Set[str]) -> Tables:
    """The tables with the rows of items that were finished before, in the order of the suite."""
    place = {item.id: index for index, item in enumerate(suite.items)}

    def rows(name: str) -> Table:
        kept = [row for row in earlier.get(name, ()) if row["item"] in before]
        return Table(sorted([*tables[name], *kept], key=lambda row: place[str(row["item"])]))

    return {name: rows(name) for name in tables}


def _swept(suite: Suite, out: str, report: Report, sweeping: Sweeping) -> State:
    state = run_sweep(
        suite,
        out,
        sweeping.engine(),
        mix_versions=sweeping.mix_versions,
        watch=lambda watch: report(watch.done, watch.total, watch.message or watch.under_way() or "starting"),
        stop=sweeping.stop,
    )
    if state.left() and sweeping.stop():
        raise StoppedError(f"stopped with {len(state.left())} items left")
    return state


def runs_table(state: State) -> Table:
    """The records of everything finished: names, choices, code version, seed, steps, return, score, references."""
    columns = collect(state.suite, state.finished)
    end = list(columns).index("seed") + 1
    kept = [*list(columns)[:end], *_MEASURED, *(name for name in _RECORDED if name in columns)]
    references = {
        item: {name: (result.reference or {}).get(name) for name in REFERENCES}
        for item, result in state.finished.items()
    }
    rows = [dict(zip(kept, values, strict=True)) for values in zip(*(columns[k] for k in kept), strict=True)]
    return Table(row | references[row["item"]] for row in rows)


def items_table(state: State) -> Table:
    """Every item of the suite: what it is, its steps, how it ended, how long it took and on what kind of device."""
    table = Table()
    for item in state.suite.items:
        config, result = item.config, state.finished.get(item.id)
        outcome = "done" if result else "failed" if item.id in state.failed else "left"
        row = {
            "item": item.id,
            "state": outcome,
            "task": config.environment().name,
            "horizon": config.horizon,
        }
        row |= {"model": config.model, "preset": config.preset, "num_seeds": config.num_seeds}
        row |= {**item.choices, "steps": config.steps}
        timing: Mapping[str, Any] = result.timing if result else {}
        row |= {name: timing[name] for name in ("seconds", "device") if name in timing}
        table.add(**row, **({"code": result.code} if result else {}))
    return table


def continuous_optimum(task: str) -> float:
    """The optimal return in continuous time, to first order: from the optima at two fine discretisations."""
    coarse, fine = (optimal(make(task, horizon)).episode_return for horizon in _FINE)
    return fine + (fine - coarse) * _FINE[0] / (_FINE[1] - _FINE[0])


def add_paper_scores(table: Table, report: Callable[[str], None]) -> None:
    """Adds `paper_score`, the paper's normalisation (Appendix D), where 1 is the optimum in continuous time.

    Only the Myriad tasks come from a differential equation. The toy task and the pendulum have no other optimum than
    their own.
    """
    optima = {}
    for task in table.unique("task"):
        if task in MYRIAD_TASKS:
            report(f"solving {task} in continuous time")
            optima[task] = continuous_optimum(task)
    for row in table:
        value, low = row.get("return"), row.get("random_return")
        best = optima.get(row["task"])
        if best is not None and isinstance(low, float) and best > low:
            if isinstance(value, float) and math.isfinite(value):
                row["paper_score"] = (value - low) / (best - low)
            else:  # as it counts for the score
                row["paper_score"] = FLOOR
