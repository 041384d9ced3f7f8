"""Where two values of soft actor-critic's preset `default` come from (`python benchmarks/sac_choices.py`).

The rate of the slow critics and the target entropy, on timber_harvest at H = 50; then the chosen values on three tasks.
Whatever is finished is kept in `benchmarks/results/sac_choices.json` and not run again; the tables of docs/methods.md
are written from it.
"""

import argparse
from typing import Any

import asmpg
from pages import fill, keep, markdown, stored


HORIZON, STEPS, MARKS = 50, 8_000, (2_500, 5_000, 8_000)
# On timber_harvest, one seed each; the last are what `default` has, and that with one critic.
VARIANTS: dict[str, dict[str, Any]] = {
    "0.01, -1": {"target_rate": 0.01, "target_entropy": -1.0},
    "0.01, -3": {"target_rate": 0.01, "target_entropy": -3.0},
    "0.03, -3": {"target_rate": 0.03, "target_entropy": -3.0},
    "0.1, -3": {"target_rate": 0.1, "target_entropy": -3.0},
    "0.05, -3": {"target_rate": 0.05, "target_entropy": -3.0},
    "0.05, -3, one critic": {"target_rate": 0.05, "target_entropy": -3.0, "num_critics": 1},
}
TASKS = ("timber_harvest", "harvest", "hiv_treatment")


def scores(task: str, seeds: int, overrides: dict[str, Any]) -> list[list[float]]:
    """Of every seed, at the marks."""
    result = asmpg.train(
        task, horizon=HORIZON, model="sac", steps=STEPS, num_seeds=seeds, chunk_steps=500, overrides=overrides
    )
    steps = result.metrics["steps"][:, 0].tolist()
    return [sorted(result.metrics["score"][steps.index(mark)].round(4).tolist()) for mark in MARKS]


def _cells(found: list[list[float]]) -> list[str]:
    return [", ".join(f"{score:.2f}" for score in row) for row in found]


def values_part() -> str:
    """Markdown."""
    found = stored("sac_choices")
    heads = ("slow critics, entropy", *(f"at {mark:,}" for mark in MARKS))
    return markdown(heads, [(name, *_cells(found[name])) for name in VARIANTS])


def tasks_part() -> str:
    """Markdown."""
    found = stored("sac_choices")
    heads = ("task", *(f"at {mark:,}" for mark in MARKS))
    return markdown(heads, [(f"`{task}`", *_cells(found[task])) for task in TASKS])


def main() -> None:
    """Measures what is missing."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for name, overrides in VARIANTS.items():
        keep("sac_choices", name, lambda: scores("timber_harvest", 1, overrides))  # noqa: B023
    for task in TASKS:
        keep("sac_choices", task, lambda: scores(task, 3, {}))  # noqa: B023
    fill("docs/methods.md", "sac-values", values_part())
    fill("docs/methods.md", "sac-tasks", tasks_part())


if __name__ == "__main__":
    main()
