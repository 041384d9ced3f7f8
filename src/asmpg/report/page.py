"""Finds what was reproduced, and writes the page."""

import collections
import dataclasses
import importlib.util
import json
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.types import UsageError
from ..experiments.reproduce import make_folder, VERDICTS, write
from ..training.runs import RunWarning
from .pictures import data_url


# Bytes that a page should not exceed.
LIMIT = 5_000_000
_HERE = pathlib.Path(__file__).parent
# uPlot (MIT, its licence beside it) draws the curves: at 51 kB a hundredth of plotly's bundle, so that the
# page is small; one canvas a panel, so that a hundred panels are quick; maintained, without dependencies,
# and with log axes and bands. A canvas says nothing to a screen reader: so every panel has a line that
# reads out what the arrow keys point at, and every figure a table of its numbers. Copied here because no
# package on PyPI has the bundle alone.
_SCRIPTS = ("vendor/uPlot.iife.min.js", "report.js")
_STYLES = ("vendor/uPlot.min.css", "report.css")
_NEEDED = {"folder", "figure", "experiment", "scale", "verdicts", "protocol", "command"}


@dataclasses.dataclass(frozen=True)
class Section:
    """One table: what was measured together.

    Attributes:
        anchor: its name on the page.
        content: of its `verdicts.json`.
        figures: the figures made from it: number, title, the paper's claim, ids of charts, pictures.
        charts: by id.
        scores: tables of scores by method and horizon, one a preset.
        protocol: what was really done, in words.
    """

    anchor: str
    content: dict[str, Any]
    figures: list[dict[str, Any]]
    charts: dict[str, Chart]
    scores: list[dict[str, Any]]
    protocol: list[tuple[str, str]]


def build_report(results: str | pathlib.Path, out: str | pathlib.Path) -> dict[str, Any]:
    """Writes one page about everything that `reproduce` left in or below a folder.

    Args:
        results: the folder.
        out: the file of the page.

    Returns:
        `out`, its size in `bytes`, the `results` it is about, and how often each verdict was given.

    Raises:
        UsageError: there is nothing to report, `out` is a folder, or what the extra `report` brings is missing.
        StorageError: the disk refused.
    """
    root, path = pathlib.Path(results), pathlib.Path(out)
    if not root.is_dir():
        raise UsageError(f"RESULTS: there is no folder {root}")
    needed = ("jinja2", "pyarrow") if any(root.rglob("*.parquet")) else ("jinja2",)
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise UsageError("report: needs pip install 'asmpg[report]'")
    if path.is_dir():
        raise UsageError(f"out: {path} is a folder, it must be a file")
    sections = [section for folder in find(root) if (section := read_section(folder, root)) is not None]
    if not sections:
        raise UsageError(f"RESULTS: nothing in {root} was made by asmpg reproduce: there is no {VERDICTS}")
    sections.sort(key=lambda section: (_place(section.content["figure"]), section.content["scale"]))
    data = render(sections).encode()
    if len(data) > LIMIT:
        warnings.warn(
            f"{path} has {len(data) / 1e6:.1f} MB; report fewer results at once", RunWarning, stacklevel=2
        )
    make_folder(path.parent)
    write(path, data)
    return {
        "out": str(path),
        "bytes": len(data),
        "results": [section.content["folder"] for section in sections],
        "verdicts": dict(counts(sections)),
    }


def find(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders with results, in or below this one."""
    return sorted(path.parent for path in root.rglob(VERDICTS))


def read_section(folder: pathlib.Path, root: pathlib.Path) -> Section | None:
    """What is in a folder; None, with a warning, if it is no result of `reproduce`."""
    try:
        section = _section(folder, root)
        render([section])
        return section
    except Exception as error:  # whatever is wrong with one, the others are shown
        warnings.warn(
            f"{folder / VERDICTS} is left out: {type(error).__name__}: {error}", RunWarning, stacklevel=3
        )
        return None


def _section(folder: pathlib.Path, root: pathlib.Path) -> Section:
    content = json.loads((folder / VERDICTS).read_text(encoding="utf-8"))
    content["folder"] = folder.relative_to(root).as_posix()
    if not content.keys() >= _NEEDED or content["figure"] not in EXPERIMENTS:
        raise ValueError("it is of another version")
    charts = {chart.name: chart for chart in charts_of(content["figure"], read_tables(folder))}
    anchor = "table-" + "-".join((content["experiment"], content["scale"], content["folder"])).replace(
        "/", "-"
    )
    identified = {f"{anchor}-{name}": chart for name, chart in charts.items()}
    numbers = [number for number, one in EXPERIMENTS.items() if one is EXPERIMENTS[content["figure"]]]
    pictures = {
        number: [path for path in paths if path.stem not in charts]
        for number, paths in pictures_by_figure(folder, numbers).items()
    }
    return Section(
        anchor,
        content,
        [_figure(number, identified, pictures[number]) for number in numbers],
        identified,
        score_tables(content.get("scores", [])),
        list(in_words(content["protocol"], content["scale"]).items()),
    )


def charts_of(figure: str, tables: Tables) -> list[Chart]:
    """The charts of an experiment, with those that only the report has."""
    return measured([*EXPERIMENTS[figure].charts(tables), *offline_charts(tables)])


def _figure(number: str, identified: Mapping[str, Chart], pictures: Sequence[pathlib.Path]) -> dict[str, Any]:
    """One figure: its text, its charts, and pictures of what is no chart."""
    return {
        "number": number,
        "text": TEXTS[number],
        "charts": [id for id, chart in identified.items() if chart.figure == number],
        "pictures": [{"name": path.stem.replace("_", " "), "url": data_url(path)} for path in pictures],
    }


def pictures_by_figure(folder: pathlib.Path, numbers: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """The pictures of a folder by the number in their name; those without one belong to the first figure."""
    found: dict[str, list[pathlib.Path]] = {number: [] for number in numbers}
    for path in sorted(folder.glob("*.png")):
        match = re.match(r"figure_(\d+)", path.stem)
        found[match[1] if match and match[1] in found else numbers[0]].append(path)
    return found


def _place(figure: str) -> tuple[int, str]:
    return (int(figure), "") if figure.isdigit() else (10**6, figure)


def counts(sections: Sequence[Section]) -> collections.Counter[str]:
    """How often each verdict was given."""
    return collections.Counter(v["verdict"] for section in sections for v in section.content["verdicts"])


def score_tables(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table a preset: a row a method, a column a horizon."""
    tables = []
    for preset in dict.fromkeys(row["preset"] for row in rows):
        own = [row for row in rows if row["preset"] == preset]
        cells = {(row["method"], row["horizon"]): row for row in own}
        horizons = sorted({row["horizon"] for row in own})
        lines = {method: [cells.get((method, h)) for h in horizons] for method, _ in cells}
        floored = sum(row["num_floored"] for row in own)
        tables.append({"preset": preset, "horizons": horizons, "lines": lines, "num_floored": floored})
    return tables


def in_words(protocol: Mapping[str, Any], scale: str) -> dict[str, str]:
    """The protocol as what is shown of it."""
    words = {"Scale": scale + ("" if scale == "paper" else " (reduced)")}
    for name in ("tasks", "horizons", "methods", "presets", "seeds", "steps", "updates", "code", "hardware"):
        value = protocol.get(name)
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"
            words[{"seeds": "Seeds", "steps": "Environment steps"}.get(name, name.capitalize())] = shown
    if "items" in protocol:
        items = protocol["items"]
        states = ", ".join(f"{items[name]} {name}" for name in ("done", "failed", "left") if items[name])
        words["Training runs"] = f"{states} of {items['total']}"
    hours = protocol.get("hours", 0.0)
    words["Time, all processes together"] = f"{hours:.2f} h" if hours >= 0.1 else f"{60 * hours:.1f} min"
    return words


def render(sections: Sequence[Section]) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    charts = {id: chart.as_json() for section in sections for id, chart in section.charts.items()}
    return environment.get_template("report.html.jinja").render(
        sections=sections,
        counts=counts(sections),
        # No "<" inside, so that nothing in it can end the element that holds it.
        charts=json.dumps(charts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        styles=[(_HERE / name).read_text(encoding="utf-8") for name in _STYLES],
        scripts=[(_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS],
    )
