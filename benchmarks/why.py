"""Where an action-sequence model is needed, and where none is: the picture at the top of README.md.

Rugged: a return that is a smooth bowl with dozens of ripples on it (the double pendulum placed at `180 a_0` radians,
as published code has it), which the true derivative and a faithful one-step model follow. Then a contact, and a smooth
task, on which everything works. Two more tasks stand in the table only (`rough_tasks.py`): a chaotic one, and several
contacts in a row. Every (task, model, seed) is one item, trained with the preset `default` to the same
number of steps in a process of its own; finished items are kept in `benchmarks/results/why.json` and are not run again.
Writes `why.md` and `why.png` beside it; `--table` only does that.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import pathlib

import numpy as np

from pages import replace


RESULTS = pathlib.Path(__file__).parent / "results"
ITEMS, TABLE, PICTURE = RESULTS / "why.json", RESULTS / "why.md", RESULTS / "why.png"
HORIZON, STEPS, INTERVAL = 50, 5_000, 250
# Name of the task or class in `rough_tasks`, its constants, its title.
TASKS = {
    "rugged": ("double_pendulum", {"amplitude": 180.0}, "rugged: a double pendulum, dozens of local maxima"),
    "contact": ("one_bounce", {}, "one contact: a ball and a wall"),
    "smooth": ("timber_harvest", {}, "smooth: timber harvest"),
    "chaos": ("RippledGreen", {}, "chaos: a putt over a rippled green"),
    "contacts": ("BouncingBall", {}, "three contacts: a bouncing ball"),
}
PICTURED = ("chaos", "contacts", "smooth")
MODELS = ("lstm", "one-step", "simulator")


def run_item(task: str, model: str, seed: int) -> dict:
    """Trains one item and returns its records."""
    import asmpg
    import rough_tasks

    name, constants, _ = TASKS[task]
    rough = getattr(rough_tasks, name, None)
    env = rough(HORIZON, **constants) if rough else asmpg.make(name, horizon=HORIZON, **constants)
    config = asmpg.TrainConfig(
        env, model=model, steps=STEPS, seed=seed, chunk_steps=INTERVAL, optimum=rough is None
    )
    metrics = asmpg.train(config).metrics
    if rough:
        # Of a squared distance that can be brought to nothing.
        score = 1 - np.asarray(metrics["return"]) / asmpg.random_return(env)
    else:
        score = np.asarray(metrics["score"])
    return {
        "task": task,
        "model": model,
        "seed": seed,
        "version": asmpg.__version__,
        "steps": np.asarray(metrics["steps"])[:, 0].astype(float).tolist(),
        "score": score[:, 0].astype(float).tolist(),
    }


def read() -> list[dict]:
    """What is finished."""
    return json.loads(ITEMS.read_text()) if ITEMS.exists() else []


def table(items: list[dict]) -> str:
    """Scores at the end, every seed."""
    lines = [
        f"Scores after {STEPS:,} steps, H = {HORIZON}, preset `default`, one number a seed (0 random, 1 optimal):",
        "",
        "| task | " + " | ".join(MODELS) + " |",
        "|---" * (len(MODELS) + 1) + "|",
    ]
    for task, (_, _, title) in TASKS.items():
        cells = []
        for model in MODELS:
            own = sorted(
                (i for i in items if (i["task"], i["model"]) == (task, model)), key=lambda i: i["seed"]
            )
            cells.append(", ".join(f"{item['score'][-1]:.3f}" for item in own) or "-")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(items: list[dict]) -> bytes:
    """One panel a task: the median of the seeds, and all of them as a band."""
    from asmpg.drawing.charts import Chart, Panel, render, Series
    from asmpg.drawing.figures import encode

    panels = []
    for task in PICTURED:
        lines, title = [], TASKS[task][2]
        for model in MODELS:
            own = [i for i in items if (i["task"], i["model"]) == (task, model)]
            if own:
                scores = np.array([item["score"] for item in own])
                low, middle, high = scores.min(0), np.median(scores, axis=0), scores.max(0)
                lines.append(Series(model, own[0]["steps"], *(x.tolist() for x in (middle, low, high))))
        if lines:
            panels.append(Panel(title, "environment steps", "score", lines))
    title = "The gradient through a sequence model, through a one-step model and through the true simulator"
    return encode(render(Chart("why", "why", title, panels), "default"), "png")


def save(items: list[dict]) -> None:
    """Writes beside the places and renames."""
    files = {
        ITEMS: json.dumps(items, indent=1).encode() + b"\n",
        TABLE: table(items).encode(),
        PICTURE: draw(items),
    }
    for path, content in files.items():
        replace(path, content)


def main() -> None:
    """Runs what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only write table and picture")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    items = read()
    done = {(item["task"], item["model"], item["seed"]) for item in items}
    wanted = [
        (task, model, seed)
        for seed in arguments.seeds
        for task in arguments.tasks
        for model in arguments.models
        if (task, model, seed) not in done
    ]
    if not arguments.table:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            arguments.workers, context, max_tasks_per_child=1
        ) as pool:
            for future in concurrent.futures.as_completed([pool.submit(run_item, *item) for item in wanted]):
                items.append(future.result())
                save(items)
                last = items[-1]
                print(
                    last["task"],
                    last["model"],
                    last["seed"],
                    [round(x, 3) for x in last["score"][::4]],
                    flush=True,
                )
    save(items)


if __name__ == "__main__":
    main()
