"""Tidy tables: one row a measurement, one column a name."""

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

    def add(self, **values: object) -> None:
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
        """The table from its `columns`."""
        rows = zip(*columns.values(), strict=True)
        return cls(
            {name: value for name, value in zip(columns, row, strict=True) if value is not None}
            for row in rows
        )


def _plain(value: Any) -> Value:
    return value.item() if hasattr(value, "item") else value
