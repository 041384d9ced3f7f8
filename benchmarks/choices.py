"""What `--model auto` measures and takes on tasks whose best model is known (`python benchmarks/choices.py`).

Held-out errors of both models after 300 updates on the warm-up's episodes, two seeds a task. Whatever is finished is
kept in `benchmarks/results/choices.json` and not run again; the table of docs/when.md is written from it.
"""

import dataclasses
from typing import Any
from unittest import mock

import numpy as np

import asmpg
from asmpg.training import choice
from asmpg.training.fit import Fit
from pages import fill, keep, markdown, stored


# A task and its horizon.
TASKS = {
    "timber_harvest": 100,
    "invasive_plant": 100,
    "one_bounce": 100,
    "credit_assignment": 100,
    "double_pendulum": 50,
}
SEEDS = (0, 1)


def measure(task: str, seed: int) -> dict[str, Any]:
    """Mean held-out error of both models, and the model that is taken."""
    fits: list[Fit] = []

    def watched(*given: Fit) -> choice.Choice:
        fits.extend(given)
        return compare(*given)

    compare = choice.compare
    with mock.patch.object(choice, "compare", watched):
        config = asmpg.TrainConfig(task, horizon=TASKS[task], steps=5000, seed=seed)
        taken = choice.choose_model(config)
    errors = [float(np.mean(each.error)) for each in fits]
    return dataclasses.asdict(taken) | {"errors": errors}


def part() -> str:
    """Markdown."""
    found, lines = stored("choices"), []
    for task in TASKS:
        own = [found[f"{task}, {seed}"] for seed in SEEDS]
        errors = (", ".join(f"{item['errors'][index]:.2g}" for item in own) for index in (0, 1))
        taken = " or ".join(dict.fromkeys(item["model"] for item in own))
        lines.append((f"`{task}`", *errors, taken))
    return markdown(("task", "one-step", "lstm", "taken"), lines)


def main() -> None:
    """Measures what is missing."""
    for task in TASKS:
        for seed in SEEDS:
            keep("choices", f"{task}, {seed}", lambda: measure(task, seed))  # noqa: B023
    fill("docs/when.md", "choices", part())


if __name__ == "__main__":
    main()
