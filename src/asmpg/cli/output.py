"""What goes to standard output: one JSON object, or tables."""

import json
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


# Characters of a line of a table, whatever the terminal has.
WIDTH = 80


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
