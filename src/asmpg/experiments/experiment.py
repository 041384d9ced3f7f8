"""What an experiment is: tables that are measured, verdicts and figures that are made from them."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, Literal

from ..config import check_choice
from ..runs import StorageError
from ..types import UsageError
from .drawing import encode
from .table import Table
from .verdicts import Verdict


Scale = Literal["smoke", "cpu", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "cpu", "paper")
Tables = dict[str, Table]


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
        measure: `measure(scale, report)` gives the tables.
        judge: the verdicts, from the tables as they are stored.
        draw: `draw(tables, scale)` gives figures by file name, also from what is stored.
    """

    name: str
    title: str
    measure: Callable[[Scale, Report], Tables]
    judge: Callable[[Tables], Sequence[Verdict]]
    draw: Callable[[Tables, Scale], Mapping[str, Any]]


def reproduce(
    experiment: Experiment, figure: str, scale: str, out: str | pathlib.Path, report: Report = silent
) -> dict[str, Any]:
    """Measures, stores the tables, and makes verdicts and figures from what was stored.

    Args:
        experiment: which.
        figure: what it is called on the command line.
        scale: "smoke" (seconds), "cpu" (reduced) or "paper" (the paper's numbers).
        out: the folder for tables (CSV), figures (PNG and SVG) and `verdicts.json`; made if need be.
        report: is told how far it is.

    Returns:
        What `verdicts.json` holds: figure, scale, verdicts, out, seconds.

    Raises:
        UsageError: an unknown scale, or `out` cannot be a folder.
        StorageError: the disk refused.
    """
    check_choice("scale", scale, SCALES)
    known = cast(Scale, scale)
    folder = make_folder(out)
    begin = time.monotonic()
    measured = experiment.measure(known, report)
    tables = {}
    for name, table in measured.items():
        data = table.to_csv()
        write(folder / f"{name}.csv", data)
        tables[name] = Table.from_csv(data)
    content = {
        "figure": figure,
        "scale": scale,
        "verdicts": [verdict.as_json() for verdict in experiment.judge(tables)],
        "out": str(folder),
        "seconds": round(time.monotonic() - begin, 1),
    }
    for name, drawn in experiment.draw(tables, known).items():
        for suffix in ("png", "svg"):
            write(folder / f"{name}.{suffix}", encode(drawn, suffix))
    write(folder / "verdicts.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return content


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
