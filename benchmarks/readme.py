"""Writes the tables of README.md that come from stored results, between their markers: `make readme`.

README.md shows what `asmpg reproduce` left in results/cpu, and a test compares the two.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from asmpg.experiments import EXPERIMENTS
from asmpg.report.page import in_words, score_tables


ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "results" / "cpu"
BEGIN, END = "<!-- {name}: written by make readme -->", "<!-- end of {name} -->"


def read(results: pathlib.Path = RESULTS) -> list[dict[str, Any]]:
    """The verdict files of a folder, in the order of the paper's figures."""
    contents = [json.loads(path.read_text()) for path in sorted(results.glob("*/verdicts.json"))]
    names = list(dict.fromkeys(experiment.name for experiment in EXPERIMENTS.values()))
    return sorted(contents, key=lambda content: names.index(content["experiment"]))


def figures(content: Mapping[str, Any]) -> str:
    """The figures that an experiment draws, in words."""
    wanted = EXPERIMENTS[content["figure"]]
    numbers = [number for number, experiment in EXPERIMENTS.items() if experiment is wanted]
    return "Theory" if numbers == ["theory"] else f"Figure{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def verdict_table(contents: Sequence[Mapping[str, Any]]) -> str:
    """One row a claim; the theory's statements in one row if all of them have one verdict."""
    lines = ["| figure | claim | verdict | numbers |", "| --- | --- | --- | --- |"]
    for content in contents:
        verdicts = content["verdicts"]
        kinds = {verdict["verdict"] for verdict in verdicts}
        if content["experiment"] == "theory" and len(kinds) == 1:
            names = ", ".join(f"`{verdict['id']}`" for verdict in verdicts)
            lines.append(
                f"| Theory | {names} | {kinds.pop()} | with slips in the printed proofs, [listed](docs/theory.md) |"
            )
            continue
        for verdict in verdicts:
            reason = verdict["numbers"].get("reason", "")
            cells = (figures(content), verdict["claim"], verdict["verdict"], reason)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def scores_table(content: Mapping[str, Any]) -> str:
    """A row a method, a column a horizon: interquartile mean and 95% interval; and what was run, above."""
    words = in_words(content["protocol"], content["scale"])
    names = (
        "Scale",
        "Tasks",
        "Seeds",
        "Environment steps",
        "Training runs",
        "Time, all processes together",
        "Hardware",
    )
    told = "; ".join(f"{name.lower()}: {words[name]}" for name in names if name in words)
    blocks = [f"{told[0].upper()}{told[1:]}."]
    for table in score_tables(content["scores"]):
        horizons = table["horizons"]
        most = max(cell["tasks"] for line in table["lines"].values() for cell in line if cell)
        blocks.append(
            "\n".join(
                [
                    f"| method, `{table['preset']}` preset | "
                    + " | ".join(f"H = {h}" for h in horizons)
                    + " |",
                    "| --- |" + " --- |" * len(horizons),
                    *(
                        f"| {method} | " + " | ".join(_cell(cell, most) for cell in line) + " |"
                        for method, line in table["lines"].items()
                    ),
                ]
            )
        )
    return "\n\n".join(blocks)


def _cell(cell: Mapping[str, Any] | None, most: int) -> str:
    if cell is None:
        return "not run"
    few = f" ({cell['tasks']} of {most} tasks)" if cell["tasks"] < most else ""
    return f"{cell['iqm']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]{few}"


def blocks(contents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What is between the markers, by name."""
    found = {"verdicts": verdict_table(contents)}
    for content in contents:
        if content["experiment"] == "myriad":
            found["scores"] = scores_table(content)
    return found


def fill(text: str, contents: Sequence[Mapping[str, Any]]) -> str:
    """The text with everything between markers written anew."""
    for name, block in blocks(contents).items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        if begin not in text or end not in text:
            raise SystemExit(f"README.md has no markers {begin} ... {end}")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n\n{block}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), read()))
    print(f"wrote {readme.name}")
