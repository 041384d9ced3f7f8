"""Verdicts on what makes the one-step model fall: on tables made up so that each is true, false and undecidable."""

import pytest

from asmpg.experiments.one_step import DECAYED, EXPERIMENT, LARGEST, PLAIN, product, STATE
from asmpg.experiments.rules import rule_of
from asmpg.experiments.table import Table
from asmpg.sweeps import make_suite


COMBINATIONS = {PLAIN: ("typical", 1.0), STATE: ("state", 1.0), DECAYED: ("typical", 0.99)}
# By name: the score at H = 500, the cosine there, and the growth a step at H = 100 and at H = 500.
TRUE = {PLAIN: (0.99, 0.99, 1.01, 1.002), STATE: (0.1, 0.0, 1.05, 1.05), DECAYED: (0.2, -0.3, 1.0, 1.0)}
FALSE = {PLAIN: (0.2, 0.1, 1.01, 1.02), STATE: (0.99, 0.99, 1.01, 1.002), DECAYED: (0.99, 0.99, 1.0, 1.0)}
IDS = ("unit", "decay", "growth", "cosine.kept", "cosine.lost.state", "cosine.lost.decay")


def tables(numbers, steps=5000, horizons=(100, 500)):
    rows = []
    for name, (score, cosine, long, longest) in numbers.items():
        unit, decay = COMBINATIONS[name]
        for horizon in horizons:
            for seed in range(3):
                common = {
                    "item": f"{name}{horizon}",
                    "task": "harvest",
                    "horizon": horizon,
                    "model": "one-step",
                    "preset": "default",
                    "difference_unit": unit,
                    "state_gradient_decay": decay,
                    "seed": seed,
                    "cosine": cosine if horizon == 500 else 0.9,
                    "state_growth": longest if horizon == 500 else long,
                }
                end = score if horizon == 500 else 0.95
                rows += [
                    {**common, "steps": at, "score": end + 0.001 * seed} for at in (500, steps // 2, steps)
                ]
    return {"runs": Table(rows), "items": Table([])}


def outcomes(*arguments, **options):
    verdicts = EXPERIMENT.judge(tables(*arguments, **options))
    assert all(rule_of(verdict.id) is not None for verdict in verdicts)
    return {verdict.id.removeprefix("one_step."): verdict.verdict for verdict in verdicts}


def test_what_makes_it_fall_is_found():
    assert outcomes(TRUE) == dict.fromkeys(IDS, "holds")
    assert outcomes(FALSE) == dict.fromkeys(IDS, "does not hold")


@pytest.mark.parametrize("options", [{"steps": 1000}, {"horizons": (100,)}])
def test_too_little_decides_nothing(options):
    """Runs too short, or none at the longest horizon."""
    assert outcomes(TRUE, **options) == dict.fromkeys(IDS, "undecided")


def test_what_leaves_single_precision_is_the_largest_number():
    assert product({"horizon": 500, "state_growth": None}) == LARGEST
    assert product({"horizon": 500, "state_growth": float("inf")}) == LARGEST
    assert product({"horizon": 500, "state_growth": 0.0}) == -LARGEST
    assert product({"horizon": 2, "state_growth": 10.0}) == pytest.approx(2)


def test_every_combination_is_a_line_of_every_panel():
    (chart,) = EXPERIMENT.charts(tables(TRUE))
    assert len(chart.panels) == 3
    for panel in chart.panels:
        assert {line.name for line in panel.series} == set(TRUE)


def test_the_grid_at_every_scale():
    """Two tasks at three horizons, in both units with and without a decay."""
    assert len(EXPERIMENT.suite("cpu").items) == 2 * 3 * 2 * 2
    assert len(make_suite("one_step", "smoke", EXPERIMENT.grids("smoke")).items) == 2
    assert all(item.config.record_cosine for item in EXPERIMENT.suite("cpu").items)
