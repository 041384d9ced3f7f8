"""Tables of runs that were never trained: finished at a given score, for the verdicts and figures made from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asmpg.experiments.table import Table


TASKS = ("harvest", "timber_harvest", "mould_fungicide")


def fake_tables(
    finals: Mapping[str, Mapping[int, float]],
    tasks: Sequence[str] = TASKS,
    *,
    noise: float = 0.002,
    seeds: int = 3,
    steps: int = 8_000,
    rise: Mapping[str, float] | None = None,
    **choices: Any,
) -> dict[str, Table]:
    """The tables `runs` and `items`.

    Args:
        finals: by method and horizon, the final score; a method is a model, or a model and a choice, "odt|expert".
        tasks: on each of which the scores are the same.
        noise: how far seeds are from one another.
        seeds: how many.
        steps: of the last record.
        rise: by method, the share of all steps after which the final score is reached.
        choices: other columns, the same in every row.
    """
    tables = {"runs": Table(), "items": Table()}
    for method, by_horizon in finals.items():
        model, _, choice = method.partition("|")
        for horizon, final in by_horizon.items():
            for task in tasks:
                names = {"item": f"{task}-{horizon}-{method}-{len(choices)}{sorted(choices.items())}"}
                names |= {"task": task, "horizon": horizon, "model": model, "preset": "default"}
                names |= choice_of(choice) | choices
                done = {"state": "done", "seconds": 36.0, "steps": steps, "device": "cpu", "code": "1"}
                tables["items"].add(**names, num_seeds=seeds, **done)
                for seed in range(seeds):
                    last = final + noise * (seed - (seeds - 1) / 2)
                    for share in np.linspace(0.0, 1.0, 9):
                        score = last * min(1.0, share / (rise or {}).get(method, 0.5))
                        row = {"code": "1", "seed": seed, "steps": int(share * steps)}
                        row |= {"return": 10 * score, "score": score, "random_return": 0.0}
                        tables["runs"].add(**names, **row, optimal_return=10.0)
    return tables


def choice_of(word: str) -> dict[str, Any]:
    """What stands behind the bar of a method's name."""
    if word in ("expert", "overshot"):
        return {"return_target": word}
    return {"learned_reward": word == "learned"} if word in ("learned", "known") else {}


def merge(*parts: Mapping[str, Table]) -> dict[str, Table]:
    """One table below the other."""
    return {name: Table(row for part in parts for row in part[name]) for name in parts[0]}
