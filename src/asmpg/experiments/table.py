"""Tidy tables: one row a measurement, one column a name, kept as CSV beside the figure they are drawn in."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np


Value = float | int | str | bool | None


class Table:
    """Rows of named values. Rows may lack columns; what they lack is None.

    Attributes:
        rows: the measurements.
    """

    def __init__(self, rows: Iterable[Mapping[str, Value]] = ()):
        """Takes the rows over."""
        self.rows: list[dict[str, Value]] = [dict(row) for row in rows]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Value]]:
        """The rows."""
        return iter(self.rows)

    def add(self, **values: Any) -> None:
        """One row more; numbers of NumPy and JAX become Python's."""
        self.rows.append({name: _plain(value) for name, value in values.items()})

    def select(self, **wanted: Value) -> "Table":
        """The rows that have these values."""
        return Table(
            row for row in self.rows if all(row.get(name) == value for name, value in wanted.items())
        )

    def values(self, column: str) -> np.ndarray:
        """A column of numbers; NaN where a row lacks it."""
        return np.array([np.nan if row.get(column) is None else row[column] for row in self.rows], np.float64)

    def unique(self, column: str) -> list[Any]:
        """What occurs in a column, in the order of first occurrence."""
        return list(dict.fromkeys(row[column] for row in self.rows if row.get(column) is not None))

    def mean(self, column: str, **wanted: Value) -> float:
        """The mean of a column over the rows that have these values; NaN where there is none."""
        values = self.select(**wanted).values(column)
        return float(values.mean()) if values.size else float("nan")

    def columns(self) -> dict[str, list[Any]]:
        """Every column in the order of first occurrence, None where a row lacks it."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [row.get(name) for row in self.rows] for name in names}

    @classmethod
    def from_columns(cls, columns: Mapping[str, list[Any]]) -> "Table":
        """The table that `columns` took apart."""
        rows = zip(*columns.values(), strict=True)
        return cls(
            {name: value for name, value in zip(columns, row, strict=True) if value is not None}
            for row in rows
        )

    def to_csv(self) -> bytes:
        """The table as it is stored. Numbers survive the way there and back bit for bit."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_to_text(row.get(name)) for name in columns] for row in self.rows)
        return stream.getvalue().encode()

    @classmethod
    def from_csv(cls, data: bytes) -> "Table":
        """The table that `to_csv` wrote."""
        lines = list(csv.reader(io.StringIO(data.decode())))
        columns = lines[0] if lines else []
        return cls(
            {
                name: value
                for name, text in zip(columns, line, strict=True)
                if (value := _from_text(text)) is not None
            }
            for line in lines[1:]
        )


def _plain(value: Any) -> Value:
    return value.item() if hasattr(value, "item") else value


def _to_text(value: Value) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _from_text(text: str) -> Value:
    if text == "":
        return None
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
