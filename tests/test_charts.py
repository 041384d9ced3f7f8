"""What matplotlib makes of a chart."""

import itertools
import math

import pytest

from asmpg.drawing.charts import Chart, Panel, render, Series


def drawn(*series, **options):
    """The axes of the one panel of a chart."""
    figure = render(Chart("0", "chart", "a chart", [Panel("panel", "x", "y", series, **options)]), "cpu")
    figure.draw_without_rendering()
    return figure.axes[0]


@pytest.mark.parametrize("y", [[1.0], [math.nan, 1.0], [1.0, math.nan, math.nan]])
def test_a_point_by_itself_is_seen(y):
    line = Series("lstm", [20, 100, 500][: len(y)], y)
    (seen,) = drawn(line, x_log=True).lines
    assert seen.get_marker() == "o"


def test_a_line_of_two_ends_or_of_many_points_has_no_marks():
    ends = Series("optimum", [0, 100], [1.0, 1.0])
    many = Series("lstm", list(range(40)), [0.5] * 40)
    assert {line.get_marker() for line in drawn(ends, many).lines} == {""}


def test_numbers_along_an_axis_do_not_run_into_each_other():
    steps = [200_000 * i / 39 for i in range(40)]
    axes = drawn(Series("lstm", steps, steps))
    texts = [label for label in axes.get_xticklabels() if axes.viewLim.x0 <= label.get_position()[0]]
    boxes = sorted((label.get_window_extent() for label in texts), key=lambda box: box.x0)
    assert "100,000" in {label.get_text() for label in texts}
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
