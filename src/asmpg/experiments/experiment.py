"""What an experiment is: tables that are measured, verdicts and figures that are made from them."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ..core.checks import check_choice
from ..core.plain import plain
from ..core.types import UsageError
from ..drawing.charts import Chart, render_all
from ..drawing.figures import encode
from ..sweeps import Scale, SCALES, tidy
from ..training.runs import StorageError
from .protocol import protocol
from .table import Table
from .training import measure_suite, Sweeping, Training
from .verdicts import Verdict


Tables = dict[str, Table]
VERDICTS = "verdicts.json"


# Who is told how far an experiment is: `report(done, total, message)`, so many of its parts are done and what is next.
Report = Callable[[int, int, str], None]


def silent(done: int, total: int, message: str) -> None:
    """Tells nobody."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One table of section 4 and what is made from it.

    Attributes:
        name: of the table.
        title: in a few words.
        measure: `measure(scale, report)` gives the tables; or the sweep that they come from.
        judge: the verdicts, from the tables as they are stored.
        draw: `draw(tables, scale)` gives figures by file name, from what is stored, for what is no chart.
        charts: figures as data, which are drawn here and by the report.
        summarise: what else the report shows: `scores` by method and horizon, `selection` from swept settings.
    """

    name: str
    title: str
    measure: Callable[[Scale, Report], Tables] | Training
    judge: Callable[[Tables], Sequence[Verdict]]
    draw: Callable[[Tables, Scale], Mapping[str, Any]] = lambda tables, scale: {}
    charts: Callable[[Tables], Sequence[Chart]] = lambda tables: ()
    summarise: Callable[[Tables], dict[str, list[dict]]] = lambda tables: {}


def reproduce(
    experiment: Experiment,
    figure: str,
    scale: str,
    out: str | pathlib.Path,
    report: Report = silent,
    *,
    sweeping: Sweeping | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Measures, stores the tables, and makes verdicts and figures from what was stored.

    Args:
        experiment: which.
        figure: what it is called on the command line.
        scale: "smoke" (seconds), "cpu" (reduced) or "paper" (the paper's numbers).
        out: the folder for tables (Parquet; CSV without pyarrow), figures (PNG and SVG) and `verdicts.json`; made if
            need be.
        report: is told how far it is.
        sweeping: how a table of trained policies is swept; by default in this process.
        command: what was typed.

    Returns:
        What `verdicts.json` holds: figure, scale, verdicts, out, seconds; experiment, protocol, command and what
        `summarise` gives.

    Raises:
        UsageError: an unknown scale, or `out` cannot be a folder.
        StorageError: the disk refused.
        StoppedError: a sweep was asked to stop; nothing was written to `out`.
    """
    check_choice("scale", scale, SCALES)
    known = cast(Scale, scale)
    folder = make_folder(out)
    begin = time.monotonic()
    if isinstance(experiment.measure, Training):
        measured = measure_suite(experiment.measure.suite, known, report, sweeping or Sweeping())
    else:
        measured = experiment.measure(known, report)
    tables = {name: write_table(folder, name, table) for name, table in measured.items()}
    seconds = time.monotonic() - begin
    return conclude(experiment, figure, known, folder, tables, seconds=seconds, command=command)


def redraw(
    experiment: Experiment, figure: str, scale: str, out: str | pathlib.Path, *, command: str | None = None
) -> dict[str, Any]:
    """Makes verdicts and figures anew from the tables of a folder; measures nothing.

    Args:
        experiment: which.
        figure: what it is called on the command line.
        scale: at which the tables were made.
        out: the folder.
        command: what was typed.

    Returns:
        As for `reproduce`; seconds and hardware are those of the measurement.

    Raises:
        UsageError: an unknown scale, or the folder does not hold this experiment at this scale.
        StorageError: the disk refused.
    """
    check_choice("scale", scale, SCALES)
    folder = pathlib.Path(out)
    try:
        before = json.loads((folder / VERDICTS).read_text())
        seconds, named = float(before["seconds"]), (before["figure"], before["scale"])
        hardware = [str(name) for name in before["protocol"]["hardware"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"out: {folder} holds no results to make verdicts and figures of anew") from error
    if named != (figure, scale):
        raise UsageError(
            f"out: {folder} holds figure {named[0]} at scale {named[1]}, not {figure} at {scale}"
        )
    tables = read_tables(folder)
    command = before.get("command") or command
    made = {"seconds": seconds, "hardware": hardware, "command": command}
    return conclude(experiment, figure, cast(Scale, scale), folder, tables, **made)


def conclude(
    experiment: Experiment,
    figure: str,
    scale: Scale,
    folder: pathlib.Path,
    tables: Tables,
    *,
    seconds: float,
    command: str | None,
    hardware: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Verdicts and figures, written beside the tables they are made from."""
    seconds = round(seconds, 1)  # what is written is what is read back
    content = {
        "figure": figure,
        "experiment": experiment.name,
        "title": experiment.title,
        "scale": scale,
        "verdicts": [verdict.as_json() for verdict in experiment.judge(tables)],
        "out": str(folder),
        "seconds": seconds,
        "protocol": protocol(tables, seconds, hardware),
        "command": command or f"asmpg reproduce {figure} --scale {scale} --out {folder}",
        **plain(experiment.summarise(tables)),
    }
    drawn = {**experiment.draw(tables, scale), **render_all(experiment.charts(tables), scale)}
    for name, picture in drawn.items():
        for suffix in ("png", "svg"):
            write(folder / f"{name}.{suffix}", encode(picture, suffix))
    write(folder / VERDICTS, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return content


def write_table(folder: pathlib.Path, name: str, table: Table) -> Table:
    """Stores a table, and gives it as it will be read back."""
    parquet, csv = folder / f"{name}.parquet", folder / f"{name}.csv"
    if importlib.util.find_spec("pyarrow") is None:
        write(csv, table.to_csv())
        parquet.unlink(missing_ok=True)
    else:
        write(parquet, tidy.to_parquet(table.columns()))
        csv.unlink(missing_ok=True)
    return read_table(parquet if parquet.exists() else csv)


def read_table(path: pathlib.Path) -> Table:
    """A table that `write_table` wrote."""
    data = path.read_bytes()
    return Table.from_csv(data) if path.suffix == ".csv" else Table.from_columns(tidy.from_parquet(data))


def read_tables(folder: pathlib.Path) -> Tables:
    """All tables of a folder, by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".csv"))
    return {path.stem: read_table(path) for path in paths}


def make_folder(out: str | pathlib.Path) -> pathlib.Path:
    """Makes the folder that results go to.

    Raises:
        UsageError: it cannot be made.
    """
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out: cannot make the folder {folder}: {error.strerror}") from error
    return folder


def write(path: pathlib.Path, data: bytes) -> None:
    """A whole file, written beside its place and renamed.

    Raises:
        StorageError: the disk refused.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or type(error).__name__}") from error
