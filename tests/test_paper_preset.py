"""Verdicts under the paper's own preset: by its own unit of the one-step model, and by runs of equal length alone."""

import pytest

from asmpg.experiments.paper_preset import EXPERIMENT, LONG_RUN, METHODS, TYPICAL
from asmpg.experiments.protocol import protocol
from asmpg.experiments.rules import rule_of
from asmpg.experiments.table import Table
from asmpg.report.page import in_words


STEPS = 30_000


def tables(scores, left=()):
    """Runs at H = 100 and 500: by method the score at either; and items that are not finished."""
    rows = []
    for method, ends in scores.items():
        for horizon, end in zip((100, 500), ends, strict=True):
            steps = 200_000 if method == LONG_RUN else STEPS
            for seed in range(3):
                common = {
                    "item": f"{method} {horizon}",
                    "task": "harvest",
                    "horizon": horizon,
                    "model": "one-step" if method in (TYPICAL, LONG_RUN) else method,
                    "preset": "paper",
                    "difference_unit": "typical" if method == TYPICAL else "state",
                    "seed": seed,
                }
                rows += [
                    {**common, "steps": at, "score": end + 0.001 * seed} for at in (500, steps // 2, steps)
                ]
    items = [
        {
            "item": name,
            "state": state,
            "preset": "paper",
            "model": "one-step" if name in (TYPICAL, LONG_RUN) else name,
            "horizon": 500,
            "difference_unit": "typical" if name == TYPICAL else "state",
            "steps": 200_000 if name == LONG_RUN else STEPS,
        }
        for names, state in ((left, "left"), (scores, "done"))
        for name in names
    ]
    return {"runs": Table(rows), "items": Table(items)}


def outcomes(*arguments, **options):
    verdicts = EXPERIMENT.judge(tables(*arguments, **options))
    assert all(rule_of(verdict.id) is not None for verdict in verdicts)
    assert all(verdict.id.endswith(".paper_preset") for verdict in verdicts)
    return {
        verdict.id.removesuffix(".paper_preset").removeprefix("myriad."): verdict.verdict
        for verdict in verdicts
    }


def test_the_unit_of_the_paper_decides_and_no_longer_run():
    fallen = {"one-step": (0.9, 0.1), TYPICAL: (0.99, 0.99), LONG_RUN: (0.99, 0.99), "lstm": (0.9, 0.9)}
    found = outcomes(fallen)
    assert found["fall.one_step"] == found["one_step_below_lstm"] == found["hold.lstm"] == "holds"
    held = {"one-step": (0.9, 0.95), TYPICAL: (0.1, 0.1), LONG_RUN: (0.1, 0.1), "lstm": (0.9, 0.3)}
    found = outcomes(held)
    assert found["fall.one_step"] == found["one_step_below_lstm"] == found["hold.lstm"] == "does not hold"


def test_what_is_not_finished_decides_nothing():
    scores = {"one-step": (0.9, 0.1), "lstm": (0.9, 0.9)}
    found = outcomes(scores, left=("one-step",))
    assert found["fall.one_step"] == found["one_step_below_lstm"] == "undecided"
    assert found["hold.lstm"] == "holds"


@pytest.mark.parametrize("other", [TYPICAL, LONG_RUN, "sac"])
def test_what_is_judged_waits_for_items_of_its_own_unit_and_length_alone(other):
    found = outcomes({"one-step": (0.9, 0.1), "lstm": (0.9, 0.9)}, left=(other,))
    assert found["fall.one_step"] == found["one_step_below_lstm"] == "holds"


def test_runs_of_another_length_are_told_apart_in_the_scores_and_on_every_figure():
    made_up = tables({"one-step": (0.9, 0.1), LONG_RUN: (0.99, 0.98)})
    rows = EXPERIMENT.summarise(made_up)["scores"]
    found = {(row["method"], row["horizon"]): round(row["iqm"], 2) for row in rows}
    assert found == {
        ("one-step", 100): 0.9,
        ("one-step", 500): 0.1,
        (LONG_RUN, 100): 0.99,
        (LONG_RUN, 500): 0.98,
    }
    assert all("30,000 steps (the paper: 200,000)" in chart.title for chart in EXPERIMENT.charts(made_up))


def test_the_protocol_tells_every_length_of_the_runs_that_are_finished():
    made_up = tables({"one-step": (0.9, 0.1), "sac": (0.9, 0.1)}, left=(LONG_RUN,))
    made_up["items"] = Table(row | {"seconds": 1.0, "device": "cpu", "code": "1"} for row in made_up["items"])
    assert protocol(made_up, 0.0)["steps"] == STEPS
    made_up = {name: Table(row | {"state": "done"} for row in table) for name, table in made_up.items()}
    assert in_words(protocol(made_up, 0.0), "cpu")["Environment steps"] == "30,000 or 200,000"


def test_every_method_is_a_line():
    charts = EXPERIMENT.charts(tables(dict.fromkeys(METHODS, (0.9, 0.8))))
    final, curves = charts
    assert {line.name for line in final.panels[0].series} == set(METHODS) - {LONG_RUN}
    assert len(curves.panels) == 4
    shown = [{line.name for line in panel.series} for panel in curves.panels]
    assert shown == [set(METHODS) - {LONG_RUN}] * 2 + [set(METHODS)] * 2


def test_curves_are_means_over_the_same_tasks():
    """What is trained on fewer tasks has a panel of these alone, or none."""
    made_up = tables(dict.fromkeys(("one-step", "lstm", "sac", LONG_RUN), (0.9, 0.8)))
    both = [f"{method} {horizon}" for method in ("one-step", "lstm") for horizon in (100, 500)]
    second = [
        row | {"task": "timber_harvest", "item": f"{row['item']} too"}
        for row in made_up["runs"]
        if row["item"] in both
    ]
    made_up["runs"] = Table([*made_up["runs"], *second])
    curves = EXPERIMENT.charts(made_up)[1]
    shown = {panel.title: {line.name for line in panel.series} for panel in curves.panels}
    assert shown["H = 100"] == shown["H = 500"] == {"one-step", "lstm"}
    assert shown["H = 100, harvest alone"] == {"one-step", "lstm", "sac", LONG_RUN}


@pytest.mark.parametrize(("scale", "count"), [("smoke", 2), ("cpu", 58), ("paper", 51)])
def test_the_grid_is_the_preset_to_the_letter_with_the_unit_alone_changed(scale, count):
    items = EXPERIMENT.suite(scale).items
    assert len(items) == count
    assert {item.config.preset for item in items} == {"paper"}
    for item in items:
        other = {"difference_unit", "warmup_steps", "model_batch_size", "policy_batch_size"}
        assert set(item.config.overrides) <= (other if scale == "smoke" else {"difference_unit"})
