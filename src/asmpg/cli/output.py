"""What goes to standard output, one JSON object or tables, and a standard error that may be out of order."""

import contextlib
import io
import json
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


# Characters of a line of a table, whatever the terminal has.
WIDTH = 80


class PatientStream(io.TextIOBase):
    """Standard error, which may be closed, full, or read by nobody: what cannot be said is no reason to stop a run."""

    def __init__(self, stream: Any):
        """Writes to a text stream, or to nothing where that is None."""
        self._stream = stream

    @property
    def encoding(self) -> str:
        """The stream's, which a bar asks for."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Sends on what was written."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor, or that of standard error."""
        return 2 if self._stream is None else self._stream.fileno()


def print_json(content: Mapping[str, Any]) -> int:
    """One object on one line; exit status 0. A number that is not finite is an error here: it has to be null."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    return 0


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> None:
    """`table` on standard output, below a title and above a note, and an empty line after it where it has a title."""
    lines = [title] * bool(title) + table(head, rows, 2 * bool(title))
    lines += textwrap.wrap(note, WIDTH) + [""] * bool(title)
    sys.stdout.write("\n".join(lines) + "\n")


def print_next(*commands: Sequence[str]) -> None:
    """What may be done next, one command of `asmpg` a line."""
    for index, words in enumerate(commands):
        sys.stdout.write(f"{'next:' if index == 0 else '':6} {shlex.join(['asmpg', *words])}\n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], indent: int = 0) -> list[str]:
    """Columns as wide as need be, numbers to the right; the last one is broken where it does not fit.

    Args:
        head: what stands above the columns; no line where all of it is empty.
        rows: a text for every column.
        indent: spaces before each line.
    """
    rows = [tuple(row) for row in rows]
    lines = [tuple(head)] * any(head) + rows
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [
        all(text[:1] in "0123456789-+." for text in column[any(head) :])
        for column in zip(*lines, strict=True)
    ]
    left = indent + sum(width + 2 for width in widths[:-1])
    found = []
    for row in lines:
        cells = [
            text.rjust(width) if numbers else text.ljust(width)
            for text, width, numbers in zip(row, widths, right, strict=True)
        ]
        last, *more = textwrap.wrap(row[-1], max(24, WIDTH - left)) or [""]
        last = last.rjust(widths[-1]) if right[-1] else last
        found.append((" " * indent + "  ".join([*cells[:-1], last])).rstrip())
        found += [" " * left + line for line in more]
    return found
