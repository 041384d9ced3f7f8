"""What makes an action-sequence model good: one change at a time against a loss on states alone.

Every (variant, model, horizon, task, seed) is one item, run in a process of its own, with the cosine to the true policy
gradient at every record. Finished items are kept in `benchmarks/results/ablations.json` with their settings and are not
run again; `--table` only writes `benchmarks/results/ablations.md` from what is there. Run it again to go on.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
from typing import Literal

import numpy as np

from pages import fill, replace


HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "ablations.json"
TABLE = HERE / "results" / "ablations.md"
# What all variants begin with, said outright: the preset may have changed since.
BASE = {"difference_loss": 0.0, "decoder_output": "states", "policy_average": 0, "policy_update_every": 2}
VARIANTS = {
    "states": {},
    "difference_loss": {"difference_loss": 1.0},
    "difference_loss+average": {"difference_loss": 1.0, "policy_average": 100},
    "difference_loss+slower_policy": {"difference_loss": 1.0, "policy_update_every": 5},
    "summed+loss": {"difference_loss": 1.0, "decoder_output": "differences"},
    "gated+loss": {"difference_loss": 1.0, "decoder_output": "gated"},
    "gated+loss+average": {"difference_loss": 1.0, "decoder_output": "gated", "policy_average": 30},
    "gated": {"decoder_output": "gated"},
    "summed": {"decoder_output": "differences"},
    "average": {"policy_average": 100},
}
# Ideas of `prototypes.py`, on top of the best.
IDEAS = ("growth_units", "short_tails_1", "short_tails_2", "move_limit", "ensemble", "varied_warmup")
VARIANTS |= dict.fromkeys(IDEAS, VARIANTS["gated+loss+average"])
TASKS = ("timber_harvest", "invasive_plant", "bacteria", "harvest")
# Steps and interval of records at a horizon.
LENGTHS = {50: (5_000, 250), 100: (5_000, 500), 500: (10_000, 500)}
# A score that was lost later by more than this is a dip.
DIP = 0.05


def run_item(
    variant: str,
    model: str,
    horizon: int,
    task: str,
    seed: int,
    preset: Literal["default", "paper"],
    core: int | None,
) -> dict:
    """Trains one item and returns its records."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    import asmpg
    from prototypes import PROTOTYPES

    steps, interval = LENGTHS[horizon]
    idea = PROTOTYPES[variant]() if variant in IDEAS else {}
    env = asmpg.make(task, horizon=horizon)
    config = asmpg.TrainConfig(
        idea.get("wrap", lambda env: env)(env),
        model=idea.get("model", model),
        steps=steps,
        seed=seed,
        preset=preset,
        chunk_steps=interval,
        record_cosine=True,
        overrides=BASE | VARIANTS[variant] | idea.get("overrides", {}),
    )
    result = asmpg.train(config, progress=False)
    if "score" not in result.metrics:
        result.metrics["score"] = np.vectorize(lambda value: asmpg.score(env, value))(
            result.metrics["return"]
        )
    kept = ("steps", "score", "cosine", "model_loss_on_policy", "state_growth")
    metrics = {
        name: np.asarray(values)[:, 0].astype(float).round(5).tolist()
        for name, values in result.metrics.items()
        if name in kept
    }
    return {
        **{"variant": variant, "model": model, "horizon": horizon, "task": task, "seed": seed},
        "code": asmpg.__version__,
        "settings": dataclasses.asdict(config.settings()),
        "metrics": metrics,
    }


def read() -> list[dict]:
    """What is finished."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def name_of(item: dict) -> tuple:
    """What an item is."""
    return tuple(item[name] for name in ("variant", "model", "horizon", "task", "seed"))


def reached(metrics: dict, level: float) -> str:
    """Steps to a score, or a dash."""
    hit = [steps for steps, score in zip(metrics["steps"], metrics["score"], strict=True) if score >= level]
    return f"{hit[0]:,.0f}" if hit else "-"


def lost(metrics: dict) -> float:
    """The most that was lost of a score once reached, after the first 0.95."""
    best, worst, good = float("-inf"), 0.0, False
    for score in metrics["score"]:
        best = max(best, score)
        good = good or score >= 0.95
        worst = max(worst, best - score) if good else worst
    return worst


def row(item: dict) -> str:
    """One item's line of the table."""
    metrics = item["metrics"]
    cosine = np.asarray(metrics["cosine"], float)
    cells = [
        *(item["variant"], item["model"], item["horizon"], item["task"], item["seed"]),
        *(f"{score_at(metrics, steps):.3f}" for steps in (1_000, 2_000, 5_000)),
        f"{metrics['score'][-1]:.3f} at {metrics['steps'][-1]:,.0f}",
        *(reached(metrics, 0.95), reached(metrics, 0.99)),
        f"{lost(metrics):.2f}",
        f"{np.nanmedian(cosine):.2f}, {int((cosine < 0).sum())} of {len(cosine)}",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def score_at(metrics: dict, steps: int) -> float:
    """The score of the last record up to a number of steps, or of the first."""
    index = max([i for i, done in enumerate(metrics["steps"]) if done <= steps], default=0)
    return metrics["score"][index]


def table(items: list[dict]) -> str:
    """All items in Markdown, variants of the same item below each other."""
    head = "| variant | model | H | task | seed | at 1,000 | at 2,000 | at 5,000 | end "
    head += "| steps to 0.95 | to 0.99 | lost after 0.95 | cosine: median, records below 0 |"
    order = sorted(
        items,
        key=lambda i: (i["model"], i["horizon"], i["task"], i["seed"], list(VARIANTS).index(i["variant"])),
    )
    return "\n".join([head, "|---" * 13 + "|", *(row(item) for item in order)]) + "\n"


def summary(items: list[dict]) -> str:
    """For the page: steps to 0.95 and the score at the end, seeds side by side, by variant and task."""
    lines = []
    for model, horizon in sorted({(item["model"], item["horizon"]) for item in items}):
        own = [item for item in items if (item["model"], item["horizon"]) == (model, horizon)]
        tasks = [task for task in TASKS if any(item["task"] == task for item in own)]
        variants = [name for name in VARIANTS if any(item["variant"] == name for item in own)]
        lines += [f"{model}, H = {horizon}: steps to 0.95, score after {LENGTHS[horizon][0]:,}", ""]
        lines += ["| variant | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
        for variant in variants:
            cells = [_cell(own, variant, task) for task in tasks]
            lines.append(f"| `{variant}` | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(items: list[dict], variant: str, task: str) -> str:
    found = [item["metrics"] for item in items if (item["variant"], item["task"]) == (variant, task)]
    steps = ", ".join(reached(metrics, 0.95) for metrics in found)
    scores = ", ".join(f"{metrics['score'][-1]:.3f}" for metrics in found)
    return f"{steps}; {scores}" if found else ""


def part() -> str:
    """What the page shows."""
    return summary(read())


def write_tables(items: list[dict]) -> None:
    """The whole table, and what the page shows of it."""
    replace(TABLE, table(items))
    fill("docs/ablations.md", "ablations", part())


def main() -> None:
    """Runs what is missing, `--workers` items at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--models", nargs="+", default=["lstm"])
    parser.add_argument("--horizons", nargs="+", type=int, default=[100], choices=list(LENGTHS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--preset", default="default", help="of all other settings")
    parser.add_argument("--table", action="store_true", help="only write the table")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    parser.add_argument("--workers", type=int, default=len(cores))
    arguments = parser.parse_args()
    done = {name_of(item) for item in read()}
    wanted = [
        item
        for horizon in arguments.horizons
        for model in arguments.models
        for seed in arguments.seeds
        for task in arguments.tasks
        for variant in arguments.variants
        if (item := (variant, model, horizon, task, seed)) not in done
    ]
    context = multiprocessing.get_context("spawn")
    if wanted and not arguments.table:
        with concurrent.futures.ProcessPoolExecutor(
            arguments.workers, context, max_tasks_per_child=1
        ) as pool:
            futures = [
                pool.submit(
                    run_item,
                    *item,
                    arguments.preset,
                    cores[i % len(cores)] if arguments.workers > 1 else None,
                )
                for i, item in enumerate(wanted)
            ]
            for future in concurrent.futures.as_completed(futures):
                # Read again: another process may have finished an item.
                item, items = future.result(), read()
                replace(RESULTS, json.dumps([*items, item], indent=1) + "\n")
                print(*name_of(item), item["metrics"]["score"], flush=True)
    write_tables(read())


if __name__ == "__main__":
    main()
