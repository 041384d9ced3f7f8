"""Finds what was reproduced, trained and swept, and writes the page about it."""

import collections
import dataclasses
import datetime
import importlib.util
import json
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..core import files
from ..core.types import UsageError
from ..experiments.results import CHARTS, VERDICTS
from ..training.runs import RunWarning
from ..training.runs.lifecycle import versions
from .own import find_own, Own, read_own
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
_NEEDED = {"figure", "figures", "experiment", "scale", "verdicts", "rules", "protocol", "command"}


@dataclasses.dataclass(frozen=True)
class Section:
    """One table: what was measured together.

    Attributes:
        anchor: its name on the page.
        content: of its `verdicts.json`.
        figures: the figures made from it: number, title, claim, ids of charts, pictures.
        charts: by id, as plain JSON.
        scores: tables of scores by method and horizon, one a preset.
        protocol: what was really done, in words.
    """

    anchor: str
    content: dict[str, Any]
    figures: list[dict[str, Any]]
    charts: dict[str, Any]
    scores: list[dict[str, Any]]
    protocol: list[tuple[str, str]]

    @property
    def title(self) -> str:
        """What it is called in the contents."""
        return self.content.get("title") or self.content["experiment"]


def build_report(results: str | pathlib.Path, out: str | pathlib.Path) -> dict[str, Any]:
    """Writes one page about everything that `reproduce`, `train` and `sweep` left in or below a folder.

    Args:
        results: the folder.
        out: the file of the page.

    Returns:
        `out`, its size in `bytes`, the folders it is about: `results` of reproduce, `runs` and `sweeps`; what was
        `left_out`, and how often each verdict was given.

    Raises:
        UsageError: there is nothing to report, `out` is a folder, or what the extra `report` brings is missing.
        StorageError: the disk refused.
    """
    root, path = pathlib.Path(results), pathlib.Path(out)
    if not root.is_dir():
        raise UsageError(f"RESULTS: there is no folder {root}")
    if importlib.util.find_spec("jinja2") is None:
        raise UsageError("report: needs pip install 'asmpg[report]'")
    if path.is_dir():
        raise UsageError(f"out: {path} is a folder, it must be a file")
    sections, left_out = read_sections(root)
    own = read_own(root)
    if not sections and not own and not left_out:
        raise UsageError(
            f"RESULTS: nothing in {root} was made by asmpg reproduce, train or sweep: there is no {VERDICTS}, no run "
            "and no sweep"
        )
    data = render(sections, own, left_out).encode()
    if len(data) > LIMIT:
        warnings.warn(
            f"{path} has {len(data) / 1e6:.1f} MB; report fewer results at once", RunWarning, stacklevel=2
        )
    files.make_folder("out", path.parent)
    files.write(path, data)
    runs, sweeps = find_own(root)
    return {
        "out": str(path),
        "bytes": len(data),
        "results": [section.content["folder"] for section in sections],
        "runs": [folder.relative_to(root).as_posix() for folder in runs],
        "sweeps": [folder.relative_to(root).as_posix() for folder in sweeps],
        "left_out": [name for name, _ in left_out],
        "verdicts": dict(counts(sections)),
    }


def read_sections(root: pathlib.Path) -> tuple[list[Section], list[tuple[str, str]]]:
    """What `reproduce` left, in the order of figures; and the folders that cannot be shown, with the reason."""
    sections, left_out = [], []
    for folder in sorted(path.parent for path in root.rglob(VERDICTS)):
        try:
            section = _section(folder, root)
            render([section], [], [])
            sections.append(section)
        except Exception as error:  # whatever is wrong with one, the others are shown
            reason = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
            warnings.warn(f"{folder / VERDICTS} is left out: {reason}", RunWarning, stacklevel=3)
            left_out.append((folder.relative_to(root).as_posix(), reason))
    sections.sort(key=lambda section: (_place(section.content["figure"]), section.content["scale"]))
    return sections, left_out


def _section(folder: pathlib.Path, root: pathlib.Path) -> Section:
    content = json.loads((folder / VERDICTS).read_text(encoding="utf-8"))
    content["folder"] = folder.relative_to(root).as_posix()
    if not content.keys() >= _NEEDED or not (folder / CHARTS).exists():
        raise UsageError(
            "it is of another version; asmpg reproduce FIGURE --scale SCALE --redraw --out FOLDER mends that"
        )
    charts = {chart["name"]: chart for chart in json.loads((folder / CHARTS).read_text(encoding="utf-8"))}
    name = "-".join(("table", content["experiment"], content["scale"], content["folder"]))
    anchor = re.sub(r"[^\w-]+", "-", name)
    identified = {f"{anchor}-{name}": chart for name, chart in charts.items()}
    numbers = list(content["figures"])
    found = pictures_by_figure(folder, numbers)
    pictures = {n: [path for path in found[n] if path.stem not in charts] for n in numbers}
    return Section(
        anchor,
        content,
        [_figure(number, content["figures"][number], identified, pictures[number]) for number in numbers],
        identified,
        score_tables(content.get("scores", [])),
        list(in_words(content["protocol"], content["scale"]).items()),
    )


def _figure(
    number: str,
    text: Mapping[str, str],
    identified: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[pathlib.Path],
) -> dict[str, Any]:
    """One figure: its text, its charts, and pictures of what is no chart."""
    return {
        "number": number,
        "title": text["title"],
        "claim": text["claim"],
        "charts": [id for id, chart in identified.items() if chart["figure"] == number],
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
            if name == "steps" and isinstance(value, list):
                shown = " or ".join(f"{length:,}" for length in value)
            words[{"seeds": "Seeds", "steps": "Environment steps"}.get(name, name.capitalize())] = shown
    if "items" in protocol:
        items = protocol["items"]
        states = ", ".join(f"{items[name]} {name}" for name in ("done", "failed", "left") if items[name])
        words["Training runs"] = f"{states} of {items['total']}"
    words["Time, all processes together"] = time_in_words(protocol.get("hours", 0.0))
    return words


def time_in_words(hours: float) -> str:
    """Hours, or minutes where that is more readable."""
    return f"{hours:.2f} h" if hours >= 0.1 else f"{60 * hours:.1f} min"


def summary(sections: Sequence[Section], own: Sequence[Own]) -> list[tuple[str, str]]:
    """What stands before the first table: how much there is, from where, and of which versions."""
    hardware = dict.fromkeys(
        name for section in sections for name in section.content["protocol"].get("hardware", [])
    )
    hardware |= dict.fromkeys(name for group in own for name in group.hardware)
    hours = sum(section.content["protocol"].get("hours", 0.0) for section in sections)
    hours += sum(group.hours for group in own)
    parts = [f"{len(sections)} reproduced table{'s' * (len(sections) != 1)}"] * bool(sections)
    number = sum(len(group.rows) for group in own)
    parts += [f"{number} run{'s' * (number != 1)} of your own"] * bool(own)
    code = dict.fromkeys(code for section in sections for code in section.content["protocol"].get("code", []))
    code |= dict.fromkeys(version for group in own for version in group.versions)
    return [
        ("What", ", ".join(parts) or "nothing that can be shown"),
        ("Time, all processes together", time_in_words(hours)),
        ("Measured on", "; ".join(hardware) or "not recorded"),
        ("Measured by", ", ".join(f"asmpg {name}" for name in code) or "not recorded"),
        (
            "This page",
            f"asmpg {versions()['asmpg']}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        ),
    ]


def render(sections: Sequence[Section], own: Sequence[Own], left_out: Sequence[tuple[str, str]]) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    charts = {id: chart for section in sections for id, chart in section.charts.items()}
    charts |= {id: chart for group in own for id, chart in group.charts.items()}
    return environment.get_template("report.html.jinja").render(
        sections=sections,
        own=own,
        left_out=left_out,
        summary=summary(sections, own),
        time_in_words=time_in_words,
        counts=counts(sections),
        # No "<" inside, so that nothing in it can end the element that holds it.
        charts=json.dumps(charts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        styles=[(_HERE / name).read_text(encoding="utf-8") for name in _STYLES],
        scripts=[(_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS],
    )
