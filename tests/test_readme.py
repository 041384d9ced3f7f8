"""README.md says what the stored results say, and everything it points to is there."""

import pathlib
import re
import runpy
import types

import pytest


ROOT = pathlib.Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "readme.py").exists():
    pytest.skip("only where the repository is", allow_module_level=True)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
DOCUMENTS += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
readme = types.SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "readme.py")))


def test_readme_and_results_are_those_of_the_stored_results():
    text, contents = (ROOT / "README.md").read_text(), readme.read()
    assert readme.fill(text, contents) == text, "results/ has changed: make readme"
    page = (ROOT / "docs" / "results.md").read_text()
    assert readme.page(contents) == page, "results/ has changed: make readme"
    for content in contents:
        whole = content["verdicts"]
        content["verdicts"] = [{**whole[0], "verdict": "turned round"}, *whole[1:]]
        assert readme.page(contents) != page
        # README counts what holds under our settings.
        assert (readme.fill(text, contents) != text) != whole[0]["id"].endswith(readme.PAPER)
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
