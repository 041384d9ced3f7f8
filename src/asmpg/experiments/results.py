"""Measuring an experiment, storing its tables, and making verdicts, figures and charts from what is stored."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from ..core import files
from ..core.checks import check_choice
from ..core.files import write
from ..core.plain import plain
from ..core.types import one_line, UsageError
from ..drawing.charts import measured, render
from ..drawing.figures import encode
from ..sweeps import Scale, SCALES, tidy
from .experiment import AbstractExperiment, Report, short_figure, Tables
from .protocol import protocol
from .rules import rule_of
from .table import Table
from .training import AbstractSweepExperiment, Sweeping
from .verdicts import check_verdicts


VERDICTS, CHARTS = "verdicts.json", "charts.json"


def silent(done: int, total: int, message: str) -> None:
    """Tells nobody."""


def reproduce(
    experiment: AbstractExperiment,
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
        out: the folder for tables, figures (PNG and SVG), `charts.json` and `verdicts.json`; made if need be.
        report: told how far it is.
        sweeping: how a table of trained policies is swept; by default in this process.
        command: what was typed.

    Returns:
        What `verdicts.json` holds: figure, scale, verdicts, out, seconds; experiment, texts, rules, protocol, command
        and what `summarise` gives.

    Raises:
        UsageError: an unknown scale, or `out` cannot be a folder, or the experiment measures or judges nothing sound.
        StorageError: the disk refused.
        StoppedError: a sweep was asked to stop; nothing was written to `out`.
    """
    check_choice("scale", scale, SCALES)
    known = cast(Scale, scale)
    folder = pathlib.Path(out)
    files.make_folder("out", folder)
    begin = time.monotonic()
    if isinstance(experiment, AbstractSweepExperiment):
        found = experiment.sweep(known, report, sweeping or Sweeping())
    else:
        found = experiment.measure(known, report)
    _check_tables(found, figure)
    tables = {name: write_table(folder, name, table) for name, table in found.items()}
    seconds = time.monotonic() - begin
    return conclude(experiment, figure, known, folder, tables, seconds=seconds, command=command)


def redraw(
    experiment: AbstractExperiment,
    figure: str,
    scale: str,
    out: str | pathlib.Path,
    *,
    command: str | None = None,
) -> dict[str, Any]:
    """Makes verdicts and figures again from the tables of a folder; measures nothing.

    Args:
        experiment: which.
        figure: what it is called on the command line.
        scale: at which the tables were made.
        out: the folder.
        command: what was typed.

    Returns:
        As for `reproduce`; seconds and hardware are those of the measurement.

    Raises:
        UsageError: an unknown scale, the folder does not hold this experiment at this scale, or a table of it is
            missing or damaged.
        StorageError: the disk refused.
    """
    check_choice("scale", scale, SCALES)
    folder = pathlib.Path(out)
    try:
        before = json.loads((folder / VERDICTS).read_text(encoding="utf-8"))
        seconds, named = float(before["seconds"]), (before["figure"], before["scale"])
        hardware = [str(name) for name in before["protocol"]["hardware"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"out: {folder} holds no results to make verdicts and figures of again") from error
    if named != (short_figure(figure), scale):
        raise UsageError(
            f"out: {folder} holds figure {named[0]} at scale {named[1]}, not {figure} at {scale}"
        )
    tables = read_tables(folder)
    made = {"seconds": seconds, "hardware": hardware, "command": before.get("command") or command}
    with _tables_are_sound(folder):
        return conclude(experiment, figure, cast(Scale, scale), folder, tables, **made)


@contextlib.contextmanager
def _tables_are_sound(folder: pathlib.Path) -> Iterator[None]:
    """What a table without a column, a row or a whole table without the others raises is the folder's fault."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, UsageError):
            raise
        what = f"has no {error.args[0]}" if isinstance(error, KeyError) else one_line(error)
        raise UsageError(f"out: a table in {folder} is missing or damaged: {what}") from error


def conclude(
    experiment: AbstractExperiment,
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
    verdicts = check_verdicts(experiment.judge(tables), figure)
    texts = experiment.described()
    content = {
        "figure": short_figure(figure),
        "experiment": experiment.name,
        "title": experiment.title,
        "figures": {name: {"title": text.title, "claim": text.claim} for name, text in texts.items()},
        "scale": scale,
        "verdicts": [verdict.as_json() for verdict in verdicts],
        "rules": {verdict.id: rule.as_json() for verdict in verdicts if (rule := rule_of(verdict.id))},
        "out": str(folder),
        "seconds": seconds,
        "protocol": protocol(tables, seconds, hardware),
        "command": command or f"asmpg reproduce {figure} --scale {scale} --out {folder}",
        **plain(experiment.summarise(tables)),
    }
    charts = measured(experiment.charts(tables))
    drawn = {**experiment.pictures(tables, scale), **{chart.name: render(chart, scale) for chart in charts}}
    for name, picture in drawn.items():
        for suffix in ("png", "svg"):
            write(folder / f"{name}.{suffix}", encode(picture, suffix))
    write_json(folder / CHARTS, [chart.as_json() for chart in charts], indent=None)
    write_json(folder / VERDICTS, content)
    return content


def _check_tables(found: object, figure: str) -> None:
    """Raises a UsageError unless an experiment measured tables by name."""
    sound = isinstance(found, Mapping) and all(isinstance(table, Table) for table in found.values())
    if not sound or not found:
        raise UsageError(
            f"figure: measure of {figure} must give tables by name, a dict of asmpg.experiments.Table"
        )


def write_table(folder: pathlib.Path, name: str, table: Table) -> Table:
    """Stores a table, and gives it as it will be read back."""
    tidy.check_tables()
    parquet = folder / f"{name}.parquet"
    write(parquet, tidy.to_parquet(table.columns()))
    return read_table(parquet)


def read_table(path: pathlib.Path) -> Table:
    """A table that `write_table` wrote.

    Raises:
        UsageError: it is damaged, or needs pyarrow.
    """
    try:
        return Table.from_columns(tidy.from_parquet(path.read_bytes()))
    except UsageError:
        raise
    except Exception as error:  # pyarrow's errors are of many kinds
        raise UsageError(f"out: the table {path} is damaged: {one_line(error)}") from error


def read_tables(folder: pathlib.Path) -> Tables:
    """All tables of a folder, by name."""
    return {path.stem: read_table(path) for path in sorted(folder.glob("*.parquet"))}


def read_earlier(path: str | pathlib.Path, experiment: str, scale: str) -> Tables:
    """The tables of an earlier measurement.

    Raises:
        UsageError: the folder does not hold this experiment at this scale, or a table of it is damaged.
    """
    folder = pathlib.Path(path)
    try:
        content = json.loads((folder / VERDICTS).read_text(encoding="utf-8"))
        named = (content["experiment"], content["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"earlier: {folder} holds no results") from error
    if named != (experiment, scale):
        raise UsageError(
            f"earlier: {folder} holds {named[0]} at scale {named[1]}, not {experiment} at {scale}"
        )
    return read_tables(folder)


def write_json(path: pathlib.Path, content: object, indent: int | None = 1) -> None:
    """Plain JSON, in which every number is finite, in a file."""
    write(path, (json.dumps(content, indent=indent, allow_nan=False) + "\n").encode())
