"""README.md says what the stored results say, and everything it points to is there."""

import re

import numpy as np
import pytest

from asmpg.statistics import iqm
from asmpg.tasks import MYRIAD_TASKS
from quoting import benchmark, ROOT, rows, says, script, span, steps_to


if not (ROOT / "benchmarks" / "readme.py").exists():
    pytest.skip("only where the repository is", allow_module_level=True)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
DOCUMENTS += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
readme, pages = script("readme"), script("pages")


def test_readme_and_results_are_those_of_the_stored_results():
    text, contents = (ROOT / "README.md").read_text(), readme.read()
    assert pages.filled(text, "claims", readme.claims_part(contents)) == text, (
        "results/ has changed: make readme"
    )
    page = (ROOT / "docs" / "results.md").read_text()
    assert readme.page(contents) == page, "results/ has changed: make readme"
    for content in contents:
        whole = content["verdicts"]
        content["verdicts"] = [{**whole[0], "verdict": "turned round"}, *whole[1:]]
        assert readme.page(contents) != page
        # README counts what holds under our settings.
        changed = pages.filled(text, "claims", readme.claims_part(contents)) != text
        assert changed != whole[0]["id"].endswith(readme.PAPER)
        content["verdicts"] = whole


def test_every_claim_has_a_line_and_every_picture_is_shown():
    contents = readme.read()
    page = readme.page(contents)
    for content in contents:
        for verdict in content["verdicts"]:
            assert f"(`{verdict['id'].removesuffix(readme.PAPER)}`)" in page
        for picture in content["folder"].glob("*.png"):
            assert f"results/{picture.relative_to(ROOT / 'results').as_posix()})" in page


def test_a_reason_is_given_only_for_the_verdict_that_it_explains():
    (myriad,) = [content for content in readme.read() if content["experiment"] == "myriad"]
    id, (expected, why) = "myriad.fall.one_step", readme.WHY["myriad.fall.one_step"]
    verdicts = {verdict["id"]: verdict for verdict in myriad["verdicts"]}
    for outcome in readme.WORDS:
        changed = {**myriad, "verdicts": [{**verdicts[id], "verdict": outcome}]}
        assert (why in readme.claims_table([changed])) == (outcome == expected)


def test_both_presets_stand_side_by_side():
    (myriad,) = [content for content in readme.read() if content["experiment"] == "myriad"]
    ours = next(verdict for verdict in myriad["verdicts"] if verdict["id"] == "myriad.fall.rnn")
    theirs = {**ours, "id": f"{ours['id']}{readme.PAPER}", "verdict": "undecided"}
    table = readme.claims_table([{**myriad, "verdicts": [ours, theirs]}])
    assert "(`myriad.fall.rnn`) | undecided | **holds** |" in table
    assert "(`myriad.fall.rnn`) | not run | **holds** |" in readme.claims_table(
        [{**myriad, "verdicts": [ours]}]
    )


def test_a_table_names_what_was_not_run_and_what_is_missing():
    row = {
        "preset": "default",
        "method": "lstm",
        "horizon": 20,
        "iqm": 0.5,
        "low": 0.25,
        "high": 0.75,
        "tasks": 3,
    }
    row |= {"seeds": 3, "num_floored": 0}
    other = row | {"method": "sac", "horizon": 100, "tasks": 1}
    items = {"total": 9, "done": 4, "failed": 0, "left": 5}
    protocol = {"tasks": ["a", "b", "c"], "seeds": 3, "items": items}
    assert "4 done, 5 left of 9" in readme.told({"scale": "cpu", "protocol": protocol})
    table = readme.scores_table({"scores": [row, other]})
    assert "| lstm | 0.500 [0.250, 0.750] | not run |" in table
    assert "| sac | not run | 0.500 [0.250, 0.750] (1 of 3 tasks) |" in table


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing
    assert links or document != "README.md"


# Numbers that are written by hand, from the tables that they are quoted from.


def test_steps_of_both_models_are_those_of_the_benchmark():
    ratios = {}
    for horizon in (50, 100, 500):
        for task in MYRIAD_TASKS:
            lstm, one_step = (steps_to(f"{model}-{horizon}", task) for model in ("lstm", "one-step"))
            ratios[task, horizon] = lstm / one_step
    *usual, worst = sorted(ratios.values())
    assert len(ratios) == 24 and ratios["timber_harvest", 500] == worst
    quoted = f"{usual[0]:.2f} to {usual[-1]:.1f} times"
    says("README.md", quoted, f"{worst:.1f} in one case of 24")
    says("docs/when.md", quoted, f"{worst:.1f} in one case of 24")


def test_scores_of_rough_tasks_are_those_of_the_picture():
    items = benchmark("why")
    final = {}
    for item in sorted(items, key=lambda item: item["seed"]):
        final.setdefault((item["task"], item["model"]), []).append(item["score"][-1])
    ball, putt = (
        {m: final[task, m] for m in ("lstm", "one-step", "simulator")} for task in ("contacts", "chaos")
    )
    assert min(ball["lstm"]) >= 0.99
    says(
        "README.md",
        f"LSTM at least 0.99; one-step at most {max(ball['one-step']):.2f}; gradients of the true simulator "
        + ", ".join(f"{x:.2f}" for x in sorted(ball["simulator"])),
        f"LSTM {span(putt['lstm'])}; one-step {span(putt['one-step'])}; gradients of the true simulator "
        + ", ".join(f"{x:.2f}" for x in sorted(putt["simulator"])),
    )
    says("docs/when.md", *(", ".join(f"{x:.3f}" for x in scores["lstm"]) for scores in (ball, putt)))


def test_cosines_are_those_of_figure_2():
    table = rows("toy_offline/toy_offline")

    def at(model, horizon):
        return table.select(model=model, horizon=horizon).values("cosine")

    assert min(at("transformer", 200)) >= 0.99
    says(
        "README.md",
        f"LSTM {span(at('lstm', 200))}",
        f"one-step {span(at('one-step', 200))}, {span(at('one-step with flag', 200))} if an input",
    )
    lowest = min(at("transformer", 500))
    assert min(at("transformer", 100)) >= 0.99 and f"{lowest:.2f}" == "0.95"
    says(
        "docs/when.md",
        f"({span(at('lstm', 100))}; at 200 {span(at('lstm', 200))}",
        f"({span(at('one-step', 100))}; {span(at('one-step', 200))} at 200)",
        f"({span(at('one-step with flag', 100))}, and {span(at('one-step with flag', 200))})",
    )


def test_errors_and_gradients_are_those_of_figures_3_and_5():
    contents = {content["experiment"]: content for content in readme.read()}
    numbers = {
        verdict["id"]: verdict["numbers"]["reason"]
        for name in ("bounce", "pendulum")
        for verdict in contents[name]["verdicts"]
    }
    low, high = (100 * float(x) for x in re.findall(r"0\.0\d+", numbers["bounce.asm"]))
    flag = re.search(r"with flag model leaves ([\d.]+)", numbers["bounce.one_step"])
    grows = r"changes by a factor ([\d.]+) to ([\d.]+), the true one by (\d+)"
    least, most, truth = re.findall(grows, numbers["pendulum.transformer"])[0]
    says(
        "docs/when.md",
        f"action-sequence model {low:.0f} to {high:.0f}%",
        f"({100 * float(flag[1]):.0f}% with one of three seeds",
        f"of {least} to {most} up to H = 100, where the true one changes by {truth}",
    )


def test_scores_of_units_and_decays_are_those_of_the_table():
    table = rows("one_step/runs")
    last = [row for row in table if row["steps"] == max(table.values("steps")) and row["horizon"] == 500]

    def mean(unit, decay):
        scores = [
            r["score"] for r in last if (r["difference_unit"], r["state_gradient_decay"]) == (unit, decay)
        ]
        assert len(scores) == 6
        return float(iqm(np.array(scores).reshape(3, 2)))

    says(
        "docs/when.md",
        f"it scores {mean('typical', 1.0):.3f} at H = 500",
        f"it scores {mean('state', 1.0):.3f}, and in typical units {mean('typical', 0.99):.3f} if its gradient is",
    )
