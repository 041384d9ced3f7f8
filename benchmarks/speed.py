"""Time and memory at the paper's sizes (`make bench`): model batch 64 every 2 steps, policy batch 16 every 16.

Runs `updates.py` under pytest-benchmark, one process pinned to one core, CPU time; then ten seeds against one, on all
cores, both in turn in one process. Writes `benchmarks/results/speed.json` and the same as Markdown: milliseconds of a
model update, a policy update and an environment step, each one's share of the rate at which this core multiplies large
matrices, memory, compile time, and how the cost grows with the horizon and with the number of seeds.

On an accelerator (`make bench-gpu`) ten seeds are updated at once, wall clock counts, and the share of the matrix rate
is the utilisation.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from pages import fill, replace


HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
SEEDS_HORIZON = 100
MODELS = ["one-step", "rnn", "lstm", "transformer", "lru"]
PARTS = {"model": "model update", "policy": "policy update", "step": "environment step"}


def matrix_rate() -> float:
    """Operations a second of a product of two large float32 matrices, on this process's cores or device."""
    import jax
    import jax.numpy as jnp

    cpu = jax.default_backend() == "cpu"
    size = 1024 if cpu else 8192
    clock = time.process_time if cpu else time.perf_counter
    factor = jnp.ones((size, size))
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(factor, factor))
    times = []
    for _ in range(9):
        begin = clock()
        jax.block_until_ready(multiply(factor, factor))
        times.append(clock() - begin)
    return 2 * size**3 / min(times)


def seeds_ratio(model: str, num_seeds: int, repeats: int) -> dict[str, Any]:
    """Wall clock of an episode of all seeds against one, in turn, on all cores. In a process of its own."""
    script = f"""
import json, statistics, time, jax
from updates import make_config
from asmpg.training.loop import Schedule
from asmpg.training.trainer import Trainer
def make(n):
    horizon = {SEEDS_HORIZON}
    trainer = Trainer(make_config("{model}", horizon).learner(),
                      Schedule.create(40 * horizon, 4 * horizon, horizon, horizon), range(n))
    return trainer, jax.block_until_ready(trainer.advance(trainer.init(), 5, 1)[0])
def episode(pair):
    begin = time.perf_counter()
    state = jax.block_until_ready(pair[0].advance(pair[1], 5, 1)[0])
    return time.perf_counter() - begin, (pair[0], state)
one, many = make(1), make({num_seeds})
ratios, singles = [], []
for _ in range({repeats}):
    a, one = episode(one); b, many = episode(many)
    ratios.append(b / a); singles.append(a)
print(json.dumps([ratios, singles]))
"""
    cores = os.cpu_count() or 1
    flags = f"--xla_force_host_platform_device_count={cores}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": _path()}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    ratios, singles = json.loads(out.stdout.splitlines()[-1])
    return {
        "model": model,
        "num_seeds": num_seeds,
        "cores": cores,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "one_seed_ms_per_step": 1e3 * statistics.median(singles) / SEEDS_HORIZON,
    }


@contextlib.contextmanager
def _pinned(pin: bool) -> Iterator[None]:
    """One core for this process and those it starts, where the system can; XLA counts the cores when it starts."""
    if not (pin and hasattr(os, "sched_setaffinity")):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _path() -> str:
    return os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))


def run_updates(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case of `updates.py`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "times.json"
        command = [sys.executable, "-m", "pytest", str(HERE / "updates.py"), "-c", os.devnull, "-q"]
        command += ["-p", "no:cacheprovider", f"--rootdir={HERE}", f"--benchmark-json={path}"]
        command += [
            "--benchmark-timer=time.perf_counter" if arguments.gpu else "--benchmark-timer=time.process_time"
        ]
        command += ["-k", arguments.only] if arguments.only else []
        seeds = str(arguments.seeds) if arguments.gpu else "1"
        environment = os.environ | {"ASMPG_BENCH_SEEDS": seeds, "ASMPG_BENCH_DROPOUT": str(arguments.dropout)}
        if not arguments.gpu:
            environment["JAX_PLATFORMS"] = "cpu"
        with _pinned(not arguments.gpu):
            subprocess.run(command, env=environment | {"PYTHONPATH": _path()}, check=True)
        measured = json.loads(path.read_text())["benchmarks"]
    rows = []
    for case in measured:
        info, stats = case["extra_info"], case["stats"]
        rows.append(
            info
            | {name: stats[name] / info["steps"] for name in ("median", "min", "max")}
            | {"rounds": stats["rounds"]}
        )
    return rows


def exponent(rows: list[dict[str, Any]], model: str, part: str, least: int = 100) -> float | None:
    """The slope of log time against log horizon, from a horizon on at which constant costs hardly count."""
    points = [
        (math.log(row["horizon"]), math.log(row["median"]))
        for row in rows
        if (row["model"], row["part"]) == (model, part) and row["horizon"] >= least
    ]
    if len(points) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def seeds_exponent(rows: list[dict[str, Any]], model: str) -> float | None:
    """The slope of log time against the log of the number of seeds."""
    points = [(math.log(row["num_seeds"]), math.log(row["ratio"])) for row in rows if row["model"] == model]
    return statistics.linear_regression(*zip((0.0, 0.0), *points, strict=True)).slope if points else None


def table(content: dict[str, Any]) -> str:
    """Markdown."""
    rows, rate = content["updates"], content["matrix_rate"]
    lines = [
        f"{content['hardware']}; {content['num_seeds']} seed(s) at once, dropout {content['dropout']}; a large matrix "
        f"product runs at {rate / 1e9:,.0f} GFLOP/s.",
        "",
        "| what | model | H | ms, median | ms, least | share of that rate | MB | compile, s |",
        "|---" * 8 + "|",
    ]
    order = {part: index for index, part in enumerate(PARTS)}
    for row in sorted(rows, key=lambda row: (order[row["part"]], row["horizon"], row["model"])):
        share, memory = "", ""
        if row["operations"]:
            share = f"{row['operations'] / row['median'] / rate:.0%}"
        if row["memory_bytes"]:
            memory = f"{row['memory_bytes'] / 2**20:,.0f}"
        lines.append(
            f"| {PARTS[row['part']]} | {row['model']} | {row['horizon']:,} | {1e3 * row['median']:,.1f} "
            f"| {1e3 * row['min']:,.1f} | {share} | {memory} | {row['compile_seconds']:.0f} |"
        )
    lines += ["", "Exponent of the horizon in an update's time, fitted from H = 100 on:", ""]
    lines += ["| model | model update | policy update |", "|---|---|---|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        slopes = [exponent(rows, model, part) for part in ("model", "policy")]
        cells = ["" if slope is None else f"{slope:.2f}" for slope in slopes]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    if content["seeds"]:
        lines += ["", f"Many seeds against one, H = {SEEDS_HORIZON}, wall clock of an episode, in turn:", ""]
        lines += [
            "| model | seeds | cores | times one seed (range) | one seed, ms a step |",
            "|---|---|---|---|---|",
        ]
    for row in content["seeds"]:
        low, high = row["ratio_range"]
        lines.append(
            f"| {row['model']} | {row['num_seeds']} | {row['cores']} | {row['ratio']:.1f} ({low:.1f} .. {high:.1f}) "
            f"| {row['one_seed_ms_per_step']:.1f} |"
        )
    slopes = {row["model"]: seeds_exponent(content["seeds"], row["model"]) for row in content["seeds"]}
    if slopes:
        shown = ", ".join(f"{model} {slope:.2f}" for model, slope in slopes.items())
        lines += ["", f"Exponent of the number of seeds: {shown}."]
    return "\n".join(lines)


# Milliseconds of an environment step at H = 100: what was to be reached, and what the authors' published code takes.
LOOP = {"one-step": ("6", "16"), "lstm": ("25", "44"), "transformer": ("100, 60", "170")}
# Milliseconds of a part at H = 100 and 500 that were to be reached.
GOALS = {
    ("transformer", "model"): (100, 1_000),
    ("transformer", "policy"): (50, 700),
    ("transformer", "step"): (60, 600),
    ("lstm", "model"): (30, 150),
    ("lstm", "policy"): (8, 40),
}


def loop_part() -> str:
    """Markdown: an environment step, and many seeds against one."""
    content = json.loads((RESULTS / "speed.json").read_text())
    steps = {
        row["model"]: row for row in content["updates"] if (row["part"], row["horizon"]) == ("step", 100)
    }
    most = {row["model"]: row for row in content["seeds"] if row["num_seeds"] == 10}
    heads = ("model", "ms per environment step", "to reach", "published code", "ten seeds take (range)")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model, (goal, published) in LOOP.items():
        seeds, (low, high) = most[model]["ratio"], most[model]["ratio_range"]
        lines.append(
            f"| {model} | {1e3 * steps[model]['median']:.1f} | {goal} | {published} "
            f"| {seeds:.1f} times one ({low:.1f} to {high:.1f}) |"
        )
    return "\n".join(lines)


def goals_part() -> str:
    """Markdown: what was to be reached and what was; bold is what falls short."""
    content = json.loads((RESULTS / "speed.json").read_text())
    rows = {(row["model"], row["part"], row["horizon"]): row for row in content["updates"]}
    lines = ["| what, H = 100 / 500 | to reach, ms | measured, ms |", "|---|---|---|"]
    for (model, part), goals in GOALS.items():
        times = [1e3 * rows[model, part, horizon]["median"] for horizon in (100, 500)]
        told = [
            f"{time:.0f}" if time <= goal else f"**{time:.0f}**"
            for time, goal in zip(times, goals, strict=True)
        ]
        lines.append(f"| {model}, {PARTS[part]} | {goals[0]} / {goals[1]:,} | {' / '.join(told)} |")
    return "\n".join(lines)


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Adds the rows of an older table that a new one of the same kind lacks."""
    assert all(old[name] == new[name] for name in ("hardware", "num_seeds", "dropout"))
    for name, keys in (("updates", ("model", "part", "horizon")), ("seeds", ("model", "num_seeds"))):
        measured = {tuple(row[key] for key in keys) for row in new[name]}
        new[name] += [row for row in old[name] if tuple(row[key] for key in keys) not in measured]
        new[name].sort(key=lambda row: [MODELS.index(row["model"]), *(row[key] for key in keys[1:])])


def main() -> None:
    """Times everything, writes JSON and Markdown, prints the latter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true", help="an accelerator, all seeds at once, wall clock")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--only", help="an expression that pytest's -k understands, such as 'lstm and 100'")
    parser.add_argument("--merge", action="store_true", help="keep what the file has and is not measured now")
    parser.add_argument("--no-seeds", action="store_true", help="without many seeds against one")
    parser.add_argument("--only-seeds", action="store_true", help="nothing but many seeds against one")
    parser.add_argument("--seed-counts", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--seed-models", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="speed", help="of the files in benchmarks/results")
    arguments = parser.parse_args()
    # It counts the cores that this process may use: before anything is pinned.
    from asmpg.core.hardware import processor

    content: dict[str, Any] = {
        "hardware": processor(),
        "num_seeds": arguments.seeds if arguments.gpu else 1,
        "dropout": arguments.dropout,
        "updates": [] if arguments.only_seeds else run_updates(arguments),
        "seeds": [],
    }
    if not arguments.gpu and not arguments.no_seeds:
        for model in arguments.seed_models:
            content["seeds"] += [
                seeds_ratio(model, count, arguments.repeats) for count in arguments.seed_counts
            ]
    if arguments.gpu:
        import jax

        content["hardware"] = jax.devices()[0].device_kind
    with _pinned(not arguments.gpu):
        content["matrix_rate"] = matrix_rate()
    if arguments.merge:
        merge(json.loads((RESULTS / f"{arguments.name}.json").read_text()), content)
    replace(RESULTS / f"{arguments.name}.json", json.dumps(content, indent=1) + "\n")
    replace(RESULTS / f"{arguments.name}.md", table(content) + "\n")
    if arguments.name == "speed":
        fill("benchmarks/README.md", "loop", loop_part())
        fill("benchmarks/README.md", "goals", goals_part())
    print(table(content))


if __name__ == "__main__":
    main()
