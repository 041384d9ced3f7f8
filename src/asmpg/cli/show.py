"""What `asmpg show` does, and the table and curves at the end of a sweep."""

import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import files
from ..core.files import DamagedError, StorageError
from ..core.types import UsageError
from ..core.user_code import is_file
from ..report.own import interval, Own, OwnRun, read_own, read_run, read_sweep, shown
from ..sweeps import open_store
from ..sweeps.store import FAILURES, PROGRESS, RESULTS
from ..sweeps.work import read_failures, read_progress
from ..training.runs import RunWarning
from ..training.runs.folder import LOCK, RunFolder, SUMMARY
from ..training.runs.progress import duration
from .options import Show
from .output import print_json, print_next, print_table


# Lines of a curve, and characters of its bars.
_LINES, _BAR = 10, 30
CURVES = "curves.png"


def run_show(options: Show) -> int:
    """`asmpg show`."""
    root, folder = pathlib.Path(options.run), RunFolder(options.run)
    if not root.is_dir():
        raise UsageError(f"run: {folder.refusal()}")
    if folder.is_run():
        return _show_run(folder, options.json)
    groups = read_own(root)
    sweeps = sorted(
        {path.parent for name in (RESULTS, PROGRESS, FAILURES) for path in root.rglob(name) if path.is_dir()}
    )
    if not groups and not sweeps:
        raise UsageError(f"run: there is no run and no sweep in {root}")
    under_way = [line for sweep in sweeps for line in _under_way(str(sweep))]
    if options.json:
        return print_json(
            {
                "out": str(root),
                "runs": [row for group in groups for row in group.rows],
                "under_way": under_way,
            }
        )
    for group in groups:
        print_own(group)
    if under_way:
        print_table("", ("",), [(line,) for line in under_way])
    print_next(["report", str(root)])
    return 0


def _under_way(url: str) -> list[str]:
    """A line for each item of a sweep that is begun or failed."""
    store = open_store(url)
    failed = read_failures(store)
    lines = [f"failed   {item}: {error}" for item, error in failed.items()]
    for name in store.names(PROGRESS):
        item = name.removesuffix(".json")
        progress = read_progress(store, item) or {}
        state = {True: "running", False: "stopped", None: "begun  "}[store.is_claimed(item)]
        if item not in failed:
            lines.append(
                f"{state}  {item}: {progress.get('steps', 0)}/{progress.get('total_steps', '?')} steps"
            )
    return lines


def print_own(group: Own) -> None:
    """A table with one line a run, or a method of a sweep."""
    rows = [
        (
            row["task"],
            str(row["horizon"]),
            row["score"] if row["score"] != "-" else row["return"],
            str(row["seeds"]),
            f"{row['steps']:,}",
            row["method"],
        )
        for row in group.rows
    ]
    with_scores = any(row["score"] != "-" for row in group.rows)
    note = "Mean over seeds and, with more than one, its 95% interval" + "; of the score, where it is known."
    head = ("TASK", "H", "SCORE" if with_scores else "RETURN", "SEEDS", "STEPS", "METHOD")
    print_table(group.title, head, rows, note if with_scores else note.partition(";")[0] + ".")


def finish_sweep(out: str) -> tuple[Own | None, str | None]:
    """What is finished of a sweep, and where its curves are now; none where there is no matplotlib."""
    group = read_sweep(out)
    if group is None:
        return None, None
    try:
        from ..drawing.charts import render
        from ..drawing.figures import encode

        open_store(out).write(CURVES, encode(render(group.chart, "cpu"), "png"))
    except ImportError:
        warnings.warn(
            f"no {CURVES}, which needs matplotlib: pip install 'asmpg[plot]'", RunWarning, stacklevel=2
        )
        return group, None
    return group, f"{out.rstrip('/')}/{CURVES}"


def _show_run(folder: RunFolder, as_json: bool) -> int:
    """One run."""
    try:
        run = read_run(folder.path, folder.path.resolve().name)
    except (DamagedError, KeyError, ValueError) as error:
        raise UsageError(f"run: the configuration of {folder.path} cannot be read: {error}") from error
    content = _content(folder, run)
    if as_json:
        return print_json(content)
    seeds = f"seeds {content['seed']} to {content['seed'] + content['num_seeds'] - 1}"
    seeds = seeds if content["num_seeds"] > 1 else f"seed {content['seed']}"
    task, model = content["task"], content["model"]
    overrides = ", ".join(f"{name} = {value}" for name, value in sorted(content["overrides"].items()))
    rows = [
        ("settings", f"preset {content['preset']}" + (f", {overrides}" if overrides else "")),
        ("steps", f"{content['steps']:,} of {content['total_steps']:,}, {content['state']}"),
        ("time", duration(run.seconds)),
        *((name, shown(run.metrics[name][-1])) for name in ("score", "return") if name in run.metrics),
        ("folder", str(folder.path)),
    ]
    print_table(f"{task}, H = {content['horizon']}, {model}, {seeds}", ("", ""), rows)
    if run.metrics:
        steps = run.metrics["steps"][:, 0]
        print_table("curve", ("STEPS", run.quantity.upper(), ""), _curve(steps, run.metrics[run.quantity]))
    print_next(*_what_next(content, folder))
    return 0


def _content(folder: RunFolder, run: OwnRun) -> dict[str, Any]:
    """A run as plain JSON."""
    config, horizon = run.config, run.config["horizon"]
    total = -(-config["steps"] // horizon) * horizon
    steps = int(run.metrics["steps"][-1, 0]) if run.metrics else 0
    running = _is_written(folder)
    state = "still running" if running else "finished" if folder.read(SUMMARY) else "stopped"
    curve = {name: run.metrics[name].tolist() for name in ("score", "return") if name in run.metrics}
    curve = {name: [[_finite(x) for x in row] for row in rows] for name, rows in curve.items()}
    return {
        **{name: config[name] for name in ("task", "horizon", "model", "preset", "seed", "num_seeds")},
        "overrides": dict(config.get("overrides", {})),
        "settings": dict(config["settings"]),
        "steps": steps,
        "total_steps": total,
        "state": state,
        "seconds": round(run.seconds, 3),
        **{name: [_finite(x) for x in interval(run.metrics[name][-1])] for name in curve},
        "curve": {"steps": run.metrics["steps"][:, 0].tolist() if run.metrics else [], **curve},
        "out": str(folder.path),
    }


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _is_written(folder: RunFolder) -> bool:
    """Whether a process is at the run now."""
    if not (folder.path / LOCK).exists():
        return False
    try:
        with files.locked(folder.path / LOCK) as ours:
            return not ours
    except StorageError:  # a folder that may only be read
        return False


def _curve(steps: np.ndarray, values: np.ndarray) -> list[Sequence[str]]:
    """Some of the records, with bars: of a score from 0 to 1, of a return from its least to its largest."""
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(_LINES, len(steps))).astype(int))
    means = values[chosen].mean(axis=1)
    known = means[np.isfinite(means)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    shares = np.nan_to_num((means - low) / (high - low if high > low else 1.0))
    return [
        (f"{int(steps[index]):,}", shown(values[index]), "#" * round(_BAR * float(share)))
        for index, share in zip(chosen, shares, strict=True)
    ]


def _what_next(content: Mapping[str, Any], folder: RunFolder) -> list[list[str]]:
    """What may be done with a run."""
    path, task, model = str(folder.path), str(content["task"]), str(content["model"])
    # Code of the user's own has to be given again.
    again = [task] * is_file(task) + ["--model", model] * is_file(model)
    if content["state"] == "still running":
        return [["show", path]]
    if content["state"] == "stopped":
        return [["train", *again, "--resume", path]]
    return [
        ["train", *again, "--resume", path, "--steps", str(2 * content["total_steps"])],
        ["diagnose", task, *(["--model", model] * is_file(model)), "--run", path],
        ["report", path],
    ]
