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


def test_its_tables_are_those_of_the_stored_results():
    text = (ROOT / "README.md").read_text()
    contents = readme.read()
    assert readme.fill(text, contents) == text, "results/cpu has changed: make readme"
    for content in contents:
        for verdict in content["verdicts"]:
            content["verdicts"] = [{**verdict, "verdict": "turned round"}]
            assert readme.fill(text, contents) != text


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
    protocol = {
        "tasks": ["a", "b", "c"],
        "seeds": 3,
        "items": {"total": 9, "done": 4, "failed": 0, "left": 5},
    }
    table = readme.scores_table({"scale": "cpu", "protocol": protocol, "scores": [row, other]})
    assert "4 done, 5 left of 9" in table
    assert "| lstm | 0.500 [0.250, 0.750] | not run |" in table
    assert "| sac | not run | 0.500 [0.250, 0.750] (1 of 3 tasks) |" in table


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing
    assert links or document != "README.md"
