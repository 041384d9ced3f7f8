"""What was really done for a table: sizes, seeds and hours, read from the table itself, and hardware."""

import collections
from collections.abc import Sequence
from typing import Any

from ..core.hardware import hardware as this_hardware
from .table import Table


# Columns that say what was done, by what they are called in the protocol.
_NAMED = {
    "tasks": ("task",),
    "horizons": ("horizon",),
    "methods": ("model",),
    "presets": ("preset",),
    "updates": ("updates",),
}


def protocol(
    tables: dict[str, Table], seconds: float, hardware: Sequence[str] | None = None
) -> dict[str, Any]:
    """Tasks, horizons, methods, seeds, steps, hours and hardware, as far as the tables know them.

    Args:
        tables: of an experiment, as they are stored.
        seconds: how long it took to make them, where no sweep did.
        hardware: on which they were made; by default that of their items, or without items this machine.
    """
    content: dict[str, Any] = {
        name: values for name, columns in _NAMED.items() if (values := _unique(tables, columns[0]))
    }
    seeds = _unique(tables, "seed")
    if seeds:
        content["seeds"] = len(seeds)
    if "items" in tables:
        return content | _of_sweep(tables, hardware)
    where = [this_hardware()] if hardware is None else list(hardware)
    return content | {"hours": seconds / 3600, "hardware": where}


def _unique(tables: dict[str, Table], column: str) -> list[Any]:
    found = dict.fromkeys(value for table in tables.values() for value in table.unique(column))
    values = list(found)
    return sorted(values) if values and not isinstance(values[0], str) else values


def _of_sweep(tables: dict[str, Table], hardware: Sequence[str] | None) -> dict[str, Any]:
    """Of a table of trained policies: hours are those of all items together, one core or GPU each.

    Steps are those of a run, or a list where runs differ in length.
    """
    items, runs = tables["items"], tables["runs"]
    states = collections.Counter(row["state"] for row in items)
    done = items.select(state="done")
    lengths = sorted(done.unique("steps"))
    return {
        "steps": lengths if len(lengths) > 1 else int(runs.values("steps").max(initial=0)),
        "items": {"total": len(items), **{name: states[name] for name in ("done", "failed", "left")}},
        "code": done.unique("code"),
        "hours": float(done.values("seconds").sum()) / 3600,
        "hardware": done.unique("device") if hardware is None else list(hardware),
    }
