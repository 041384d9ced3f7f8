"""Trained runs of a tidy table: read, picked, the best of swept settings, and their scores by method and horizon."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ..statistics import bootstrap_interval, interquartile_mean, Scores
from .table import Table


# A single diverging run must not decide a mean: what is below, or not finite, counts as this much, and is counted.
FLOOR = -1.0

Value = Literal["score", "paper_score", "area", "start", "gain", "constant"]
Method = Callable[[Mapping[str, Any]], str]
Setting = tuple[tuple[str, Any], ...]
# Returns that scores are measured by.
REFERENCES = ("random_return", "optimal_return", "best_constant_return")
# Columns of a tidy table that are not choices of its grid.
_FIXED = {
    *("cosine", "state_growth"),
    *("item", "task", "horizon", "model", "preset", "code", "seed", "steps", "return", "score"),
    *(*REFERENCES, "paper_score"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of one item.

    Attributes:
        task: its name.
        horizon: actions in an episode.
        method: what it is called in figures.
        preset: "default" or "paper".
        setting: what was swept.
        seed: which.
        steps: environment steps of the records.
        scores: of the records, from `FLOOR` up.
        paper_score: the last score in the paper's normalisation, or NaN.
        constant: the score of the best constant action, or NaN where it was not measured.
        num_floored: records whose score was below `FLOOR` or not finite.
        num_unfinished: items of the same preset and method that are not finished yet.
        num_failed: items of the same preset, method and horizon that failed.
    """

    task: str
    horizon: int
    method: str
    preset: str
    setting: Setting
    seed: int
    steps: Float[np.ndarray, " records"]
    scores: Float[np.ndarray, " records"]
    paper_score: float
    constant: float
    num_floored: int
    num_unfinished: int = 0
    num_failed: int = 0

    def renamed(self, method: str) -> "Run":
        """The same run by another method's name."""
        return dataclasses.replace(self, method=method)

    def value(self, name: Value) -> float:
        """One number of the run.

        Args:
            name: "score", the final one; "paper_score", the same in the paper's normalisation; "area", the mean over
                all steps so far; "start", that of the first record, which is made after the warm-up and before any
                update: the untrained policy's; "gain", how much the final one is above it; "constant", that of the
                best constant action.
        """
        match name:
            case "area":
                return float(np.trapezoid(self.scores, self.steps) / (self.steps[-1] - self.steps[0]))
            case "start":
                return float(self.scores[0])
            case "gain":
                return float(self.scores[-1] - self.scores[0])
            case "paper_score":
                return self.paper_score
            case "constant":
                return self.constant
        return float(self.scores[-1])


def by_model(row: Mapping[str, Any]) -> str:
    """A row's method is its model."""
    return row["model"]


def read_runs(tables: Mapping[str, Table], method: Method = by_model) -> list[Run]:
    """The runs of the tables of a suite.

    Args:
        tables: `runs` and, if there is one, `items` of `measure_suite`.
        method: what a row's method is called.
    """
    table, items = tables["runs"], tables.get("items", Table())

    def kind(row: Mapping[str, Any]) -> tuple[str, str]:
        return row["preset"], method(row)

    left = collections.Counter(kind(row) for row in items if row["state"] == "left")
    failed = collections.Counter((kind(row), row["horizon"]) for row in items if row["state"] == "failed")
    groups: dict[Any, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in table:
        groups[row["item"], row["seed"]].append(row)
    choices = [name for row in table.rows[:1] for name in _columns(table) if name not in _FIXED]
    found = []
    for rows in groups.values():
        own, horizon = kind(rows[0]), rows[0]["horizon"]
        missing = {"num_unfinished": left[own], "num_failed": failed[own, horizon]}
        found.append(dataclasses.replace(_run(rows, choices, method), **missing))
    return found


def _columns(table: Table) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def _run(rows: list[dict[str, Any]], choices: Sequence[str], method: Callable[..., str]) -> Run:
    rows = sorted(rows, key=lambda row: row["steps"])
    first, raw = rows[0], np.array([_number(row.get("score")) for row in rows])
    bad = ~(raw >= FLOOR)
    last = _number(rows[-1].get("paper_score"))
    return Run(
        first["task"],
        first["horizon"],
        method(first),
        first["preset"],
        tuple((name, first[name]) for name in choices if name in first),
        first["seed"],
        np.array([row["steps"] for row in rows], np.float64),
        np.where(bad, FLOOR, raw),
        last if math.isnan(last) else max(last, FLOOR),
        _constant(first),
        int(bad.sum()),
    )


def _constant(row: Mapping[str, Any]) -> float:
    low, best, value = (_number(row.get(f"{name}_return")) for name in ("random", "optimal", "best_constant"))
    return (value - low) / (best - low) if best > low else math.nan


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def pick(runs: Iterable[Run], **wanted: object) -> list[Run]:
    """The runs that have these attributes; a tuple or list means any of it."""

    def fits(run: Run) -> bool:
        return all(
            getattr(run, name) in value if isinstance(value, tuple | list) else getattr(run, name) == value
            for name, value in wanted.items()
        )

    return [run for run in runs if fits(run)]


def unique(runs: Iterable[Run], name: str) -> list[Any]:
    """What occurs in an attribute, in the order of first occurrence."""
    return list(dict.fromkeys(getattr(run, name) for run in runs))


def best_settings(runs: Sequence[Run]) -> tuple[list[Run], list[dict[str, Any]]]:
    """Of every preset, method and horizon the setting with the best interquartile mean over all tasks and seeds.

    That is how the paper reports its sweeps (Appendix E). One setting for all tasks leaves less to luck than one for
    each.

    Returns:
        The runs with those settings, and the selection: one row a preset, method and horizon where there was a choice.
    """
    groups: dict[tuple[str, str, int], dict[Setting, list[Run]]] = collections.defaultdict(dict)
    for run in runs:
        groups[run.preset, run.method, run.horizon].setdefault(run.setting, []).append(run)
    kept, selection = [], []
    for (preset, method, horizon), settings in groups.items():
        # Settings that were not tried on every task cannot be compared.
        most = max(len(unique(group, "task")) for group in settings.values())
        whole = {key: group for key, group in settings.items() if len(unique(group, "task")) == most}
        means = {key: _iqm([run.value("score") for run in group]) for key, group in whole.items()}
        best = max(means, key=lambda key: means[key])
        kept += whole[best]
        if len(settings) > 1:
            names = _varying(settings)
            row = {"preset": preset, "method": method, "horizon": horizon, "of": len(settings)}
            selection.append(row | {"chosen": {name: value for name, value in best if name in names}})
    return kept, selection


def _varying(settings: Iterable[Setting]) -> set[str]:
    values: dict[str, set[Any]] = collections.defaultdict(set)
    for setting in settings:
        for name, value in setting:
            values[name].add(value)
    return {name for name, found in values.items() if len(found) > 1}


def _iqm(values: Sequence[float]) -> float:
    return interquartile_mean(Scores(np.array(values)[:, None], ("all",), tuple(range(len(values)))))


def to_scores(runs: Iterable[Run], value: Value = "score", by_horizon: bool = True) -> Scores | None:
    """The runs of one method as `Scores`, whose tasks are task and horizon, or the task alone; None without runs."""
    rows = [
        {
            "task": f"{run.task}, H = {run.horizon}" if by_horizon else run.task,
            "seed": run.seed,
            value: number,
        }
        for run in runs
        if not math.isnan(number := run.value(value))
    ]
    rows.sort(key=lambda row: row["task"])
    return Scores.from_rows(rows, value) if rows else None


def selected(tables: Mapping[str, Table], method: Method = by_model) -> list[Run]:
    """The runs with the best of what was swept."""
    return best_settings(read_runs(tables, method))[0]


def summarise(tables: Mapping[str, Table], method: Method = by_model) -> dict[str, list[dict]]:
    """Scores by method and horizon, and what was selected from a sweep."""
    runs, selection = best_settings(read_runs(tables, method))
    return {"scores": score_rows(runs), "selection": selection}


def score_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Interquartile means with 95% intervals: one row a preset, method and horizon."""
    rows = []
    for preset in unique(runs, "preset"):
        for method in unique(pick(runs, preset=preset), "method"):
            for horizon in sorted(unique(pick(runs, preset=preset, method=method), "horizon")):
                group = pick(runs, preset=preset, method=method, horizon=horizon)
                scores, paper = to_scores(group), to_scores(group, "paper_score")
                if scores is None:
                    continue
                low, high = bootstrap_interval(scores)
                rows.append(
                    {"preset": preset, "method": method, "horizon": horizon, "iqm": interquartile_mean(scores),
                     "low": low, "high": high, "tasks": len(scores.tasks), "seeds": len(scores.runs),
                     "paper_iqm": None if paper is None else interquartile_mean(paper),
                     "num_floored": sum(run.num_floored for run in group)}
                )  # fmt: skip
    return rows
