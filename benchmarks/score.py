"""Score against environment steps and seconds: the `default` preset on the eight Myriad tasks (`make bench-score`).

Every (model, horizon, task) is one item: all its seeds in one process pinned to one core, stopped once every seed held
0.99 for three records (with `--seeds 1 --first-seed K` each seed for itself, as the long suite is run: the table joins
what is there). Seconds are CPU time of that process per seed, compilation included: what an idle core would
take, whatever else the machine is doing. Finished items are kept in `benchmarks/results/score.json` with the settings
they were run with and are not run again; delete the file to start over. The table is printed and written as Markdown
beside it.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import time

from pages import fill, markdown, replace


HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "score.json"
TABLE = HERE / "results" / "score.md"
PICTURE = HERE / "results" / "score.png"
LEVELS = (0.9, 0.95, 0.99)
# name: model, horizon, steps, record interval.
SUITES = {
    "lstm-50": ("lstm", 50, 10_000, 250),
    "transformer-50": ("transformer", 50, 10_000, 250),
    "lstm-100": ("lstm", 100, 10_000, 500),
    "lstm-500": ("lstm", 500, 20_000, 500),
    "one-step-50": ("one-step", 50, 10_000, 250),
    "one-step-100": ("one-step", 100, 10_000, 500),
    "one-step-500": ("one-step", 500, 20_000, 500),
    # A record an episode, where the others leave the ratio of their steps undecided.
    "lstm-100-fine": ("lstm", 100, 2_000, 100),
    "one-step-100-fine": ("one-step", 100, 2_000, 100),
}


def run_item(suite: str, task: str, seed: int, num_seeds: int, core: int | None) -> dict:
    """Trains one item and returns its records."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    import asmpg

    model, horizon, steps, interval = SUITES[suite]
    clock: list[float] = []
    config = asmpg.TrainConfig(
        task,
        horizon=horizon,
        model=model,
        steps=steps,
        seed=seed,
        num_seeds=num_seeds,
        chunk_steps=interval,
        stop_score=0.99,
    )
    start = time.process_time()
    result = asmpg.train(config, progress=lambda report: clock.append(time.process_time() - start))
    records = len(result.metrics["score"])
    return {
        "suite": suite,
        "task": task,
        "first_seed": seed,
        "num_seeds": num_seeds,
        "clock": "cpu",
        "settings": dataclasses.asdict(config.settings()),
        "steps": result.metrics["steps"][:, 0].tolist(),
        "seconds": [round(seconds / num_seeds, 2) for seconds in clock[-records - 1 : -1]],
        "scores": result.metrics["score"].round(4).tolist(),
    }


def join(items: list[dict]) -> list[dict]:
    """One item for each suite and task, of all its seeds; a run that stopped early counts with its last record."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for item in items:
        groups.setdefault((item["suite"], item["task"]), []).append(item)
    return [_join(sorted(group, key=lambda item: item.get("first_seed", 0))) for group in groups.values()]


def _join(parts: list[dict]) -> dict:
    if len(parts) == 1:
        return parts[0]
    steps = max((part["steps"] for part in parts), key=len)
    num_seeds = sum(part["num_seeds"] for part in parts)

    def at(part: dict, name: str, index: int) -> list:
        return part[name][min(index, len(part[name]) - 1)]

    indices = range(len(steps))
    seconds = [sum(part["num_seeds"] * at(part, "seconds", i) for part in parts) / num_seeds for i in indices]
    scores = [[score for part in parts for score in at(part, "scores", i)] for i in indices]
    return {**parts[0], "num_seeds": num_seeds, "steps": steps, "seconds": seconds, "scores": scores}


def reached(item: dict, level: float) -> tuple[float, float] | None:
    """Steps and seconds per seed after which every seed had reached a level at least once."""
    best = [float("-inf")] * item["num_seeds"]
    for steps, seconds, scores in zip(item["steps"], item["seconds"], item["scores"], strict=True):
        best = [max(pair) for pair in zip(best, scores, strict=True)]
        if min(best) >= level:
            return steps, seconds
    return None


def score_at(item: dict, steps: int) -> list[float]:
    """Every seed's score at a number of steps; a run that stopped early counts with its last record."""
    index = max(i for i, done in enumerate(item["steps"]) if done <= max(steps, item["steps"][0]))
    return item["scores"][index]


def interquartile_mean(values: list[float]) -> float:
    """The mean of the middle half."""
    values, cut = sorted(values), len(values) // 4
    middle = values[cut : len(values) - cut]
    return sum(middle) / len(middle)


def table(items: list[dict]) -> str:
    """One Markdown table a suite."""
    items = join(items)
    lines = [
        f"Hardware: {platform.processor() or platform.machine()}, one core an item; seconds of CPU time per seed.",
        "",
    ]
    for suite, (model, horizon, steps, _) in SUITES.items():
        rows = [item for item in items if item["suite"] == suite]
        if not rows:
            continue
        marks = [mark for mark in (2_000, 5_000, 10_000, 20_000) if mark <= steps][-3:]
        seeds = " or ".join(str(number) for number in sorted({row["num_seeds"] for row in rows}))
        plural = "" if seeds == "1" else "s"
        former = ["decoder_output" not in row["settings"] for row in rows]
        old = ", preset of 0.1.0" if all(former) else ""
        fine = ", a record an episode" * suite.endswith("fine")
        lines += [f"### {model}, H = {horizon}, {seeds} seed{plural} (minimum over seeds){fine}{old}", ""]
        head = ["task", *(f"at {mark:,}" for mark in marks), *(f"{level}: steps / s" for level in LEVELS)]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for item, is_former in zip(rows, former, strict=True):
            name = item["task"] + " (preset of 0.1.0)" * (is_former and not old)
            cells = [name, *(f"{min(score_at(item, mark)):.3f}" for mark in marks)]
            note = "" if item.get("clock") == "cpu" else " (wall)"
            for level in LEVELS:
                hit = reached(item, level)
                cells.append("not reached" if hit is None else f"{hit[0]:,.0f} / {hit[1]:.0f}{note}")
            lines.append("| " + " | ".join(cells) + " |")
        means = [interquartile_mean([s for item in rows for s in score_at(item, mark)]) for mark in marks]
        lines += [
            "",
            "Interquartile mean: "
            + ", ".join(f"{mean:.4f} at {mark:,}" for mean, mark in zip(means, marks, strict=True))
            + " steps.",
            "",
        ]
    return "\n".join([*lines, ratios(items)])


def part() -> str:
    """What README.md shows: the table without its first line."""
    return table(read()).partition("\n\n")[2]


# What README.md has a line of.
SHOWN = ("lstm-50", "lstm-100", "lstm-500", "transformer-50", "one-step-50", "one-step-100", "one-step-500")


def summary_part() -> str:
    """What README.md shows: steps until the worst seed of the worst task has 0.95, and scores at 10,000 steps."""
    items, lines = join(read()), []
    for suite in SHOWN:
        rows = [item for item in items if item["suite"] == suite]
        hits = [reached(item, 0.95) for item in rows]
        steps = "not reached" if None in hits else f"{max(hit[0] for hit in hits if hit):,.0f} steps"
        scores = [score for item in rows for score in score_at(item, 10_000)]
        name = suite.rpartition("-")[0].replace("lstm", "LSTM")
        lines.append(
            (
                f"{name}, H = {SUITES[suite][1]}",
                steps,
                f"{interquartile_mean(scores):.3f}",
                f"{min(scores):.3f}",
            )
        )
    heads = ("model, horizon", "all tasks above 0.95 after", "interquartile mean at 10,000 steps")
    return markdown((*heads, "lowest score at 10,000 steps"), lines)


def ratios(items: list[dict]) -> str:
    """Steps after which every seed had reached 0.95: the LSTM's over the one-step model's, a column a horizon."""
    today = [item for item in items if "decoder_output" in item["settings"]]
    steps = {(item["suite"], item["task"]): reached(item, 0.95) for item in join(today)}
    horizons = [50, 100, 500]
    tasks = sorted({task for suite, task in steps if suite.startswith("one-step") and "fine" not in suite})
    lines = ["### Steps to 0.95: the LSTM's over the one-step model's (worst of the seeds of each)", ""]
    lines += ["| task | " + " | ".join(f"H = {h}" for h in horizons) + " |", "|---" * 4 + "|"]
    for task in tasks:
        cells = []
        for horizon in horizons:
            names = [(f"{model}-{horizon}", task) for model in ("lstm", "one-step")]
            fine = [(f"{suite}-fine", name) for suite, name in names]
            names = fine if all(name in steps for name in fine) else names
            hits = [steps.get(name) for name in names]
            told = [
                f"{hit[0]:,.0f}" if hit else "never" if name in steps else "not run"
                for name, hit in zip(names, hits, strict=True)
            ]
            lstm, one_step = hits
            cells.append(" / ".join(told) + (f" = {lstm[0] / one_step[0]:.2f}" if lstm and one_step else ""))
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read() -> list[dict]:
    """What is finished."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def save(items: list[dict]) -> None:
    """Writes results and table, the latter in README.md too."""
    replace(RESULTS, json.dumps(items, indent=1) + "\n")
    replace(TABLE, table(items) + "\n")
    fill("benchmarks/README.md", "score", part())
    fill("README.md", "scores", summary_part())


def draw(items: list[dict], suite: str) -> None:
    """The README's picture: score against environment steps, one panel a task, every seed a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [item for item in join(items) if item["suite"] == suite]
    model, horizon, _, _ = SUITES[suite]
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.6), sharey=True, layout="constrained")
    for panel, item in zip(axes.flat, sorted(rows, key=lambda item: item["task"]), strict=False):
        panel.axhline(1.0, color="0.6", linewidth=0.8, linestyle="--")
        panel.plot(item["steps"], item["scores"], color="#1f6fb4", linewidth=1.3)
        panel.set_title(item["task"].replace("_", " "), fontsize=10)
        panel.set_ylim(-0.05, 1.08)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    figure.suptitle(
        f"Score (0 random, 1 optimal) of three seeds: {model} action-sequence model, H = {horizon}",
        fontsize=11,
    )
    figure.supxlabel("environment steps (a run stops once every seed held 0.99)", fontsize=9)
    figure.savefig(PICTURE, dpi=140)
    plt.close(figure)


def main() -> None:
    """Runs what is missing, `--workers` items at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", type=int, default=3, help="of one item")
    parser.add_argument("--first-seed", type=int, default=0)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    parser.add_argument("--workers", type=int, default=len(cores))
    arguments = parser.parse_args()
    from asmpg.tasks import MYRIAD_TASKS

    items = read()
    done = {
        (item["suite"], item["task"], seed)
        for item in items
        for seed in range(item.get("first_seed", 0), item.get("first_seed", 0) + item["num_seeds"])
    }
    first = arguments.first_seed
    wanted = [(suite, task, first) for suite in arguments.suites for task in arguments.tasks or MYRIAD_TASKS]
    wanted = [item for item in wanted if item not in done]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.workers, context, max_tasks_per_child=1) as pool:
        futures = [
            pool.submit(run_item, *item, arguments.seeds, cores[index % len(cores)])
            for index, item in enumerate(wanted)
        ]
        for future in concurrent.futures.as_completed(futures):
            # Read again: another process may have finished an item.
            item, items = future.result(), read()
            items.append(item)
            save(items)
            print(
                item["suite"],
                item["task"],
                item["steps"][-1],
                item["scores"][-1],
                item["seconds"][-1],
                flush=True,
            )
    draw(items, "lstm-50")
    print(table(items))


if __name__ == "__main__":
    main()
