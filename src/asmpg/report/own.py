"""Runs and sweeps of the user's own as sections of the report: curves, final scores with intervals, settings."""

import dataclasses
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.files import DamagedError, from_lines, unseal
from ..core.user_code import short_name
from ..drawing.charts import Chart, Panel, Series
from ..experiments.curves import score_limits
from ..statistics import bootstrap_interval, Scores
from ..sweeps import open_store
from ..sweeps.store import RESULTS
from ..sweeps.work import read_result
from ..training.runs import RunWarning
from ..training.runs.folder import CONFIG, METRICS, RunFolder, TIMINGS
from ..training.runs.records import History


# Points of a curve, and resamples of the bootstrap at each.
_POINTS, _RESAMPLES = 60, 300
_NOT_SETTINGS = {"task", "horizon", "model", "out", "overrides", "settings", "task_source", "model_source"}


@dataclasses.dataclass(frozen=True)
class OwnRun:
    """One run, of one or more seeds.

    Attributes:
        name: its folder, or its item in a sweep.
        config: complete, as plain JSON.
        metrics: every metric [records, num_seeds].
        seconds: wall clock.
        device: on which it was made, where that is recorded.
        version: of the code, where that is recorded.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]
    seconds: float
    device: str = ""
    version: str = ""

    def settings(self) -> dict[str, Any]:
        """Every setting and option that a label may name."""
        options = {key: value for key, value in self.config.items() if key not in _NOT_SETTINGS}
        return {**self.config["settings"], **options}

    @property
    def place(self) -> tuple[str, int]:
        """Task, without a folder of the user's, and horizon."""
        return short_name(self.config["task"]), self.config["horizon"]

    @property
    def quantity(self) -> str:
        """What is shown of it."""
        return "score" if "score" in self.metrics else "return"


@dataclasses.dataclass(frozen=True)
class Own:
    """Runs that are shown together: those of one sweep, or all others.

    Attributes:
        anchor: its name on the page.
        title: in words.
        rows: a line a run: task, horizon, method, seeds, steps, score and return with their intervals, hours.
        chart: their learning curves.
        settings: by label, what was set beyond the preset.
        hours: of all together.
        hardware: on which they were made.
        versions: of the code.
    """

    anchor: str
    title: str
    rows: list[dict[str, Any]]
    chart: Chart
    settings: list[tuple[str, str]]
    hours: float
    hardware: list[str]
    versions: list[str]

    @property
    def charts(self) -> dict[str, Any]:
        """The chart by its id, as plain JSON."""
        return {self.chart.name: self.chart.as_json()}


def find_own(root: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The run folders and the sweeps in or below a folder; a run that a sweep is at is not one of its own."""
    sweeps = sorted({path.parent.parent for path in root.rglob(f"{RESULTS}/*.json")})
    runs = sorted(path.parent for path in root.rglob(CONFIG) if (path.parent / METRICS).exists())
    return [run for run in runs if not any(sweep in run.parents for sweep in sweeps)], sweeps


def read_own(root: pathlib.Path) -> list[Own]:
    """The sections of runs and sweeps; what is damaged is left out with a warning."""
    runs, sweeps = find_own(root)
    groups = [(f"sweep {_name(sweep, root)}", _sweep(str(sweep))) for sweep in sweeps]
    groups.append(("runs", _readable(runs, lambda path: read_run(path, _name(path, root)))))
    return [_group(title, found) for title, found in groups if found]


def read_sweep(url: str) -> Own | None:
    """What is finished of the sweep in a folder or at a URL; None while nothing is."""
    found = _sweep(url)
    return _group(f"sweep {url.rstrip('/').rpartition('/')[2]}", found) if found else None


def _name(path: pathlib.Path, root: pathlib.Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.resolve().name


def _readable(names: Iterable[Any], read: Callable[[Any], OwnRun | None]) -> list[OwnRun]:
    found = []
    for name in names:
        try:
            run = read(name)
        except (DamagedError, KeyError, ValueError, TypeError, IndexError) as error:
            warnings.warn(f"{name} is left out: {error}", RunWarning, stacklevel=4)
            continue
        found += [run] if run is not None and len(run.metrics) else []
    return found


def read_run(path: pathlib.Path, name: str) -> OwnRun:
    """The run in a folder; it has no metrics before its first record.

    Raises:
        DamagedError: its configuration cannot be read.
    """
    folder = RunFolder(path)
    lines = from_lines(folder.read(TIMINGS))
    seconds = float(lines[-1].get("seconds", 0.0)) if lines else 0.0
    config, metrics = folder.read_config(), History(folder.read(METRICS)).metrics()
    made = unseal(folder.read(CONFIG)).get("versions", {})
    return OwnRun(name, config, metrics, seconds, made.get("device", ""), made.get("asmpg", ""))


def _sweep(url: str) -> list[OwnRun]:
    store = open_store(url)

    def read(item: str) -> OwnRun | None:
        done = read_result(store, item)
        if done is None:
            return None
        timing = done.timing
        return OwnRun(
            item, done.config, done.history.metrics(), timing["seconds"], timing.get("device", ""), done.code
        )

    names = (name.removesuffix(".json") for name in store.names(RESULTS))
    return _readable(sorted(names), read)


def _group(title: str, runs: Sequence[OwnRun]) -> Own:
    labels = label(runs)
    anchor = "own-" + re.sub(r"[^\w-]+", "-", title)
    named = sorted(zip(labels, runs, strict=True), key=lambda pair: (pair[1].place, pair[0]))
    chart = _chart(anchor, named)
    return Own(
        anchor,
        title,
        [_row(text, run) for text, run in named],
        chart,
        [(text, _beyond(run)) for text, run in named],
        sum(run.seconds for run in runs) / 3600,
        sorted({run.device for run in runs if run.device}),
        sorted({run.version for run in runs if run.version}),
    )


def label(runs: Sequence[OwnRun]) -> list[str]:
    """A name for every run: its model, how it differs from others of the model, and else its folder."""
    texts = []
    for run in runs:
        rivals = [
            one for one in runs if one.place == run.place and one.config["model"] == run.config["model"]
        ]
        own = run.settings()
        varying = [
            name
            for name, value in own.items()
            if name not in ("seed", "num_seeds", "steps")
            and any(one.settings().get(name) != value for one in rivals)
        ]
        parts = [f"{name}={own[name]}" for name in sorted(varying)[:4]]
        texts.append(", ".join([run.config["model"], *parts]))
    places = [(text, run.place) for text, run in zip(texts, runs, strict=True)]
    return [
        f"{text} ({run.name})" if places.count((text, run.place)) > 1 else text
        for text, run in zip(texts, runs, strict=True)
    ]


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(-2, -1))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval; no interval of a single seed or where one is not finite."""
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return mean, mean, mean
    scores = Scores(np.asarray(values)[:, None], ("all",), tuple(range(len(values))))
    return (mean, *bootstrap_interval(scores, _mean, num_resamples=_RESAMPLES))


def _chart(anchor: str, named: Sequence[tuple[str, OwnRun]]) -> Chart:
    """One panel a task and horizon, one line a run."""
    panels = []
    for task, horizon in dict.fromkeys(run.place for _, run in named):
        own = [(text, run) for text, run in named if run.place == (task, horizon)]
        quantity = "score" if all(run.quantity == "score" for _, run in own) else "return"
        lines = [_curve(text, run, quantity) for text, run in own]
        limits = score_limits(lines) if quantity == "score" else None
        panels.append(Panel(f"{task}, H = {horizon}", "environment steps", quantity, lines, y_limits=limits))
    return Chart(anchor, f"{anchor}-curves", "Mean over seeds and its 95% interval", panels)


def _curve(text: str, run: OwnRun, quantity: str) -> Series:
    steps, values = run.metrics["steps"][:, 0], run.metrics[quantity]
    shown = np.unique(np.linspace(0, len(steps) - 1, min(_POINTS, len(steps))).astype(int))
    middle, low, high = zip(*(interval(values[index]) for index in shown), strict=True)
    band = (list(low), list(high)) if values.shape[1] > 1 else ()
    return Series(text, steps[shown].tolist(), list(middle), *band)


def _row(text: str, run: OwnRun) -> dict[str, Any]:
    task, horizon = run.place
    values = {name: run.metrics[name][-1] for name in ("score", "return") if name in run.metrics}
    return {
        "task": task,
        "horizon": horizon,
        "method": text,
        "preset": run.config.get("preset", ""),
        "seeds": run.metrics["return"].shape[1],
        "steps": int(run.metrics["steps"][-1, 0]),
        "minutes": run.seconds / 60,
        "num_null": int(run.metrics.get("num_null", np.zeros((1, 1))).sum()),
        "score": shown(values.get("score")),
        "return": shown(values["return"]),
    }


def shown(values: np.ndarray | None) -> str:
    """A mean with its interval, in words."""
    if values is None:
        return "-"
    mean, low, high = interval(values)
    return f"{mean:.4g}" if low == high else f"{mean:.4g} [{low:.4g}, {high:.4g}]"


def _beyond(run: OwnRun) -> str:
    """The preset, and what was set beyond it."""
    beyond = [f"{name} = {value}" for name, value in sorted(run.config.get("overrides", {}).items())]
    return ", ".join([f"preset {run.config.get('preset', '-')}", *beyond])
