"""Charts as data: what a figure shows, drawn with matplotlib here and by the browser in the report."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.plain import plain
from .figures import finish, panels
from .looks import Look, looks_of


Number = float | int
# Inches that an entry of a legend takes.
_ENTRY = 1.4


@dataclasses.dataclass(frozen=True)
class Series:
    """One line, with a band around it if both bounds are given.

    Attributes:
        name: of the method; the same name has the same colour everywhere.
        x: increasing.
        y: as many numbers; NaN leaves a gap.
        low: lower bounds of the band.
        high: upper bounds of the band.
    """

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what distinguishes it from the other panels.
        x_label: quantity and unit.
        y_label: quantity and unit.
        series: the lines.
        x_log: whether x is drawn logarithmically at first.
        y_log: the same for y.
        y_limits: what is shown at first where lines may leave for infinity or, on a logarithmic axis, for nothing; None
            for everything.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_log: bool = False
    y_limits: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        figure: its number in the paper, or its name.
        name: of its files, without suffix.
        title: above everything.
        panels: from left to right, then from top to bottom.
        columns: panels in a row.
    """

    figure: str
    name: str
    title: str
    panels: Sequence[Panel]
    columns: int = 3

    def as_json(self) -> dict[str, Any]:
        """Plain JSON with the look of every method, numbers to five digits, null for what is not finite."""
        content = _short(plain(dataclasses.asdict(self)))
        looks = {name: look._asdict() for name, look in self.looks().items()}
        for look in looks.values():
            del look["width"]  # of pictures; the page has its own
        return content | {"looks": looks}

    def looks(self) -> dict[str, Look]:
        """How each method looks."""
        return _looks(self.panels)


def _looks(panels: Iterable[Panel]) -> dict[str, Look]:
    return looks_of(dict.fromkeys(series.name for panel in panels for series in panel.series))


def measured(charts: Iterable[Chart]) -> list[Chart]:
    """The charts without panels of what was not measured, and without those that have no panel left."""
    whole = [
        dataclasses.replace(chart, panels=[panel for panel in chart.panels if panel.series])
        for chart in charts
    ]
    return [chart for chart in whole if chart.panels]


def _short(value: object) -> Any:
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def render(chart: Chart, scale: str) -> Any:
    """The chart as a matplotlib figure."""
    columns = min(chart.columns, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    size = (4.6, 3.6) if len(chart.panels) <= 6 else (3.0, 2.3)
    figure, axes = panels(rows, columns, _title(chart), scale, size)
    places = list(axes.flat)
    for place, panel in zip(places, chart.panels, strict=False):
        draw_panel(place, panel, chart.looks())
    for place in places[len(chart.panels) :]:
        place.set_axis_off()
    _one_legend(figure, places[: len(chart.panels)])
    return figure


def _title(chart: Chart) -> str:
    number = f"Figure {chart.figure}: " if chart.figure.isdigit() else ""
    return f"{number}{chart.title}"


def draw_panel(place: Any, panel: Panel, looks: Mapping[str, Look] | None = None) -> None:
    """One panel on matplotlib's axes; the looks are those of its own lines unless it is one of several."""
    looks = _looks([panel]) if looks is None else looks
    named = set()
    for series in panel.series:
        own = looks[series.name]
        style = (0, own.dashes) if own.dashes else "-"
        place.plot(series.x, series.y, linestyle=style, color=own.light, linewidth=own.width, markersize=3,
                   marker="o" if _is_marked(series) else "",
                   label=series.name if series.name not in named else None)  # fmt: skip
        named.add(series.name)
        if len(series.low):
            place.fill_between(series.x, series.low, series.high, color=own.light, alpha=0.15, linewidth=0)
    scales = {"xscale": "log" if panel.x_log else "linear", "yscale": "log" if panel.y_log else "linear"}
    labels = {"xlabel": panel.x_label, "ylabel": panel.y_label, "title": panel.title}
    finish(place, **scales, **labels, **({"ylim": panel.y_limits} if panel.y_limits else {}))
    values = sorted({x for series in panel.series for x in series.x})
    if not panel.x_log and values and values[-1] >= 10_000:
        place.xaxis.set_major_formatter("{x:,.0f}")
        place.locator_params(axis="x", nbins=5)
    if len(values) < 8:
        place.set_xticks(values, [f"{value:g}" for value in values])
        place.minorticks_off()


def _is_marked(series: Series) -> bool:
    """Few points are marked; two make a line by themselves, one would not be seen."""
    finite = sum(math.isfinite(y) for y in series.y)
    return finite == 1 or 2 < len(series.x) < 12


def _one_legend(figure: Any, places: Sequence[Any]) -> None:
    """One legend for all panels, below them, in place of one in each."""
    handles: dict[str, Any] = {}
    for place in places:
        if place.get_legend() is not None:
            place.get_legend().remove()
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = max(1, min(len(handles), 7, int(figure.get_figwidth() / _ENTRY)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False,
                  fontsize=8)  # fmt: skip
