"""The tidy table of a sweep: one row for every item, seed and record; and the timings, in a table of their own."""

import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.types import UsageError
from .store import AbstractStore
from .suite import Item, Suite
from .work import Finished


Columns = dict[str, list[Any]]


def collect(suite: Suite, finished: Mapping[str, Finished]) -> Columns:
    """The table of everything that is finished.

    Columns: `item`, `task`, `horizon`, `model`, `preset`, what else the suite's grids chose (settings as they are,
    options of `TrainConfig` by their name), `code`, `seed`, `steps`, `episodes`, `return`, `score` where the optimum is
    known, then every other metric by its name, or as `measured_NAME` where a grid chose a setting of that name. What an
    item does not have is None; so is a number that is not finite.

    Args:
        suite: gives the order of the items and the columns.
        finished: results by item.
    """
    names = list(dict.fromkeys(name for item in suite.items for name in item.choices))
    names = ["preset", *(name for name in names if name not in ("preset", "steps", "chunk_steps"))]
    rows = [
        row for item in suite.items if item.id in finished for row in _rows(item, finished[item.id], names)
    ]
    leading = (
        "item",
        "task",
        "horizon",
        "model",
        *names,
        "code",
        "seed",
        "steps",
        "episodes",
        "return",
        "score",
    )
    columns = dict.fromkeys([*leading, *(name for row in rows for name in row)])
    return {column: [row.get(column) for row in rows] for column in columns}


def _rows(item: Item, result: Finished, names: Sequence[str]) -> list[dict[str, Any]]:
    constants = result.config["task_source"].get("parameters", {})
    known = {**constants, **result.config["settings"], **result.config}
    fixed = {
        "item": item.id,
        "task": known["task"],
        "horizon": known["horizon"],
        "model": known["model"],
        **{name: known.get(name) for name in names},
        "code": result.code,
    }
    rows = []
    for record in result.history.records:
        series = {name: values for name, values in record.items() if name not in ("steps", "episodes")}
        for index in range(known["num_seeds"]):
            numbers = {
                f"measured_{name}" if name in fixed else name: values[index]
                for name, values in series.items()
            }
            counts = {name: record[name] for name in ("steps", "episodes")}
            rows.append({**fixed, "seed": known["seed"] + index, **counts, **numbers})
    return rows


def timings(suite: Suite, finished: Mapping[str, Finished]) -> Columns:
    """One row an item: how long it took and where."""
    rows = [
        {
            "item": item.id,
            "task": finished[item.id].config["task"],
            "horizon": item.config.horizon,
            "model": item.config.model_name,
            "num_seeds": item.config.num_seeds,
            **finished[item.id].timing,
        }
        for item in suite.items
        if item.id in finished
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    return {column: [row.get(column) for row in rows] for column in columns}


def check_tables() -> None:
    """Raises a UsageError where there is nothing to write tables with."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("tables: Parquet needs pip install 'asmpg[experiments]'")


def write_table(store: AbstractStore, name: str, columns: Columns) -> str:
    """Writes a table as Parquet; returns the name of the file."""
    store.write(f"{name}.parquet", to_parquet(columns))
    return f"{name}.parquet"


def read_table(store: AbstractStore, name: str) -> Columns | None:
    """The table that `write_table` wrote; None if there is none."""
    data = store.read(f"{name}.parquet")
    return None if data is None else from_parquet(data)


def to_parquet(columns: Columns) -> bytes:
    """A Parquet file."""
    arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    arrays = {name: arrow.array(_one_type(values)) for name, values in columns.items()}
    stream = io.BytesIO()
    parquet.write_table(arrow.table(arrays), stream, compression="zstd")
    return stream.getvalue()


def from_parquet(data: bytes) -> Columns:
    """What `to_parquet` wrote.

    Raises:
        UsageError: pyarrow is not installed.
    """
    check_tables()
    # Without threads: those that read from memory may abort a process that ends soon after.
    module = importlib.import_module("pyarrow.parquet")
    return module.read_table(io.BytesIO(data), use_threads=False, pre_buffer=False).to_pydict()


def _one_type(values: list[Any]) -> list[Any]:
    """Numbers of both kinds as real ones; anything else that is mixed as words."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    convert = float if kinds <= {int, float} else str
    return [None if value is None else convert(value) for value in values]
