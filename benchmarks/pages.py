"""Files that are written beside and renamed, and parts of pages that are written from stored results.

Measurements are kept item by item in `benchmarks/results/NAME.json`. A part of a page stands between
`<!-- begin NAME: written by FILE -->` and `<!-- end NAME -->`.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any


HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parent


def replace(path: pathlib.Path, content: str | bytes) -> None:
    """Writes beside the place and renames."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(path)


def filled(text: str, name: str, part: str) -> str:
    """A page with the part of that name replaced; a page without such a part is a mistake."""
    pattern = rf"(<!-- begin {name}: [^>]*-->\n).*?(<!-- end {name} -->)"
    new, count = re.subn(pattern, lambda marks: f"{marks[1]}\n{part.strip()}\n\n{marks[2]}", text, flags=re.S)
    if count != 1:
        raise ValueError(f"{count} parts {name!r} instead of one")
    return new


def fill(page: str, name: str, part: str) -> None:
    """Writes a part of a page of the repository, such as "docs/ablations.md"."""
    path = ROOT / page
    replace(path, filled(path.read_text(), name, part))


def names(text: str) -> list[str]:
    """The parts of a page."""
    return re.findall(r"<!-- begin ([\w-]+): ", text)


def stored(name: str) -> dict[str, Any]:
    """The items that are finished, by name; see `keep`."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep(name: str, item: str, measure: Callable[[], Any]) -> Any:
    """A measurement that is kept in `benchmarks/results/NAME.json`; what is there already is not measured again."""
    if item not in stored(name):
        found = measure()
        # Read again: another process may have finished an item.
        replace(RESULTS / f"{name}.json", json.dumps(stored(name) | {item: found}, indent=1) + "\n")
        print(name, item, found, flush=True)
    return stored(name)[item]


def markdown(heads: Iterable[object], lines: Iterable[Iterable[object]]) -> str:
    """A table."""
    rows = [[str(cell) for cell in line] for line in (heads, *lines)]
    told = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([told[0], "|---" * len(rows[0]) + "|", *told[1:]])
