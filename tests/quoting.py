"""What pages say, and the stored results that they say it of."""

import importlib
import json
import pathlib
import sys

from asmpg.experiments.results import read_table


ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))


def script(name):
    """A module of `benchmarks/`."""
    return importlib.import_module(name)


def benchmark(name):
    """Stored results of a benchmark."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def rows(table):
    """A stored table of `results/cpu`."""
    return read_table(ROOT / "results" / "cpu" / f"{table}.parquet")


def span(values, digits=2):
    """From the least to the largest."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def says(page, *quotes):
    """Wherever lines are broken."""
    text = " ".join((ROOT / page).read_text().split())
    for quote in quotes:
        assert quote in text, f"{page} does not say: {quote}"


def runs(suite, task):
    """A list of (steps, scores) of every seed in the score benchmark, from records an episode where there are such."""
    items = [item for item in benchmark("score") if item["task"] == task]
    fine = [item for item in items if item["suite"] == f"{suite}-fine"]
    return [
        (part["steps"], [record[seed] for record in part["scores"]], part)
        for part in fine or [item for item in items if item["suite"] == suite]
        for seed in range(part["num_seeds"])
    ]


def steps_to(suite, task, level=0.95):
    """The first record at which the worst seed has the score."""
    return max(
        next(step for step, score in zip(steps, scores, strict=True) if score >= level)
        for steps, scores, _ in runs(suite, task)
    )
