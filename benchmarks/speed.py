"""Time of the whole training loop per environment step, at the paper's sizes (`make bench`).

Model batch 64 every 2 steps, policy batch 16 every 16, dropout off, H = 100. Each model is timed in a process pinned to
one core (the setting of the published figures), then ten seeds against one on all cores. Prints a Markdown table and
writes `benchmarks/results/speed.json`.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import statistics
import time


RESULTS = pathlib.Path(__file__).parent / "results" / "speed.json"
HORIZON = 100


def loop_times(model: str, num_seeds: int, cores: list[int], repeats: int) -> dict:
    """Seconds of wall clock per environment step of all seeds, once per episode after the first."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={min(len(cores), num_seeds)}"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    import jax

    import asmpg
    from asmpg.training import Schedule, Trainer

    config = asmpg.TrainConfig(
        "timber_harvest",
        horizon=HORIZON,
        model=model,
        preset="paper",
        overrides={"dropout": 0.0, "warmup_steps": 400},
    )
    trainer = Trainer(config.learner(), Schedule.create(20_000, 400, HORIZON, HORIZON), range(num_seeds))
    start = time.perf_counter()
    state = trainer.init()
    state, metrics = trainer.advance(state, 4, 1)
    jax.block_until_ready(metrics)
    startup = time.perf_counter() - start
    times = []
    for episode in range(5, 5 + repeats):
        start = time.perf_counter()
        state, metrics = trainer.advance(state, episode, 1)
        jax.block_until_ready(metrics)
        times.append((time.perf_counter() - start) / HORIZON)
    median = statistics.median(times)
    return {
        "model": model,
        "num_seeds": num_seeds,
        "cores": len(cores),
        "ms_per_step": round(1e3 * median, 3),
        "spread_ms": [round(1e3 * min(times), 3), round(1e3 * max(times), 3)],
        "startup_seconds": round(startup, 1),
    }


def main() -> None:
    """Times every model alone, then ten seeds on all cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["one-step", "rnn", "lstm", "transformer"])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    jobs = [(model, 1, cores[:1]) for model in arguments.models]
    jobs += [(model, seeds, cores) for model in arguments.models for seeds in (1, 10)]
    rows = []
    context = multiprocessing.get_context("spawn")
    print(
        "| model | seeds | cores | ms per environment step (min .. max) | first episode, s |\n|---|---|---|---|---|"
    )
    with concurrent.futures.ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for job in jobs:
            row = pool.submit(loop_times, *job, arguments.repeats).result()
            rows.append(row)
            low, high = row["spread_ms"]
            print(
                f"| {row['model']} | {row['num_seeds']} | {row['cores']} | {row['ms_per_step']:.2f} "
                f"({low:.2f} .. {high:.2f}) | {row['startup_seconds']} |",
                flush=True,
            )
    RESULTS.parent.mkdir(exist_ok=True)
    beside = RESULTS.with_suffix(".new")
    beside.write_text(json.dumps(rows, indent=1) + "\n")
    beside.replace(RESULTS)


if __name__ == "__main__":
    main()
