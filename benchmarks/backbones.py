"""Every backbone side by side (`make bench-backbones`): what it costs and, with `--scores`, what it learns.

Cost: one model update and one policy update of the `default` preset on timber_harvest, each (backbone, horizon) in a
process of its own pinned to one core. Scores: the `default` preset at H = 100, stopped once every seed held 0.99 for
three records. Times are CPU times, so that another busy core does not count. Whatever is finished is kept in
`benchmarks/results/backbones.json` and not run again; delete an entry, or the file, to run it again. The tables are
printed and written as Markdown beside it; `--table` runs nothing and only does that. Where the score benchmark has made
the same runs, their rows come from there.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import time
from typing import Any

from pages import fill, keep, markdown, replace, stored
from score import reached, score_at, SUITES


RESULTS = pathlib.Path(__file__).parent / "results" / "backbones.json"
TASKS = ("timber_harvest", "harvest", "hiv_treatment")
SCORE_HORIZON, SCORE_STEPS, SCORE_INTERVAL = 100, 10_000, 500
MARKS = (5_000, 10_000)
NEVER = 10**9
# Backbones that need more than a name to make.
OTHERS = {"rotary_transformer": f"{pathlib.Path(__file__).parent / 'rotary.py'}:rotary_transformer"}


def pin(core: int | None) -> None:
    """Keeps this process on one core."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def time_update(model: str, horizon: int, which: str, repeats: int) -> dict:
    """CPU milliseconds and memory of one compiled update, "model" or "policy"."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import asmpg
    from asmpg.learners.replay import ReplayBuffer
    from asmpg.models.normalisation import Normaliser

    other = "policy" if which == "model" else "model"
    overrides = {f"{which}_update_every": 1, f"{other}_update_every": NEVER}
    config = asmpg.TrainConfig("timber_harvest", horizon, OTHERS.get(model, model), overrides=overrides)
    learner = config.learner()
    env = config.environment()
    actions = jax.random.uniform(jax.random.key(0), (16, horizon, env.action_size), minval=-1.0)
    episodes = jax.jit(jax.vmap(lambda actions: asmpg.rollout(env, actions)))(actions)
    replay = eqx.tree_at(
        lambda r: (r.episodes, r.count), ReplayBuffer.create(env, 16), (episodes, jnp.asarray(16))
    )
    state = learner.observe_warmup(
        learner.init(Normaliser.unknown(env.state_size), key=jax.random.key(1)), episodes
    )
    arrays, static = eqx.partition(state, eqx.is_array)

    def update(arrays: Any, key: Any) -> Any:
        return eqx.filter(
            learner.update(eqx.combine(arrays, static), replay, jnp.asarray(1), key=key), eqx.is_array
        )

    begin = time.process_time()
    compiled = jax.jit(update).lower(arrays, jax.random.key(2)).compile()
    compile_seconds = time.process_time() - begin
    memory: Any = compiled.memory_analysis()
    times = []
    for seed in range(repeats + 1):
        begin = time.process_time()
        arrays = jax.block_until_ready(compiled(arrays, jax.random.key(seed)))
        times.append(time.process_time() - begin)
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {
        f"{which}_update_ms": round(1e3 * statistics.median(times[1:]), 2),
        f"{which}_update_mb": round(peak / 2**20, 1),
        f"{which}_compile_seconds": round(compile_seconds, 1),
    }


def cost(model: str, horizon: int, repeats: int, core: int | None) -> dict:
    """One row of the first table."""
    pin(core)
    import equinox as eqx
    import jax

    from asmpg.models import EMBEDDING_SIZE
    from asmpg.models.backbones import create_backbone
    from asmpg.models.files import load_definition
    from asmpg.training.own import backbone_of

    create = (backbone_of(load_definition(OTHERS[model])) if model in OTHERS else None) or model
    backbone = create_backbone(create, EMBEDDING_SIZE, horizon, key=jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(backbone) if eqx.is_inexact_array(leaf))
    row = {"model": model, "horizon": horizon, "parameters": parameters}
    return (
        row | time_update(model, horizon, "model", repeats) | time_update(model, horizon, "policy", repeats)
    )


def learn(model: str, task: str, num_seeds: int, core: int | None) -> dict:
    """The records of one training run."""
    pin(core)
    import asmpg

    clock: list[float] = []
    config = asmpg.TrainConfig(
        task,
        horizon=SCORE_HORIZON,
        model=OTHERS.get(model, model),
        steps=SCORE_STEPS,
        num_seeds=num_seeds,
        chunk_steps=SCORE_INTERVAL,
        stop_score=0.99,
    )
    start = time.process_time()
    result = asmpg.train(config, progress=lambda report: clock.append(time.process_time() - start))
    records = len(result.metrics["score"])
    return {
        "model": model,
        "task": task,
        "num_seeds": num_seeds,
        "steps": result.metrics["steps"][:, 0].tolist(),
        "seconds": [round(seconds / num_seeds, 2) for seconds in clock[-records - 1 : -1]],
        "scores": result.metrics["score"].round(4).tolist(),
    }


def long(task: str) -> dict:
    """The records of a plain RNN at H = 500, one seed."""
    import asmpg

    config = asmpg.TrainConfig(
        task, horizon=500, model="rnn", steps=SCORE_STEPS, chunk_steps=SCORE_INTERVAL, stop_score=0.99
    )
    metrics = asmpg.train(config, progress=False).metrics
    return {name: metrics[name][:, 0].round(3).tolist() for name in ("steps", "score")}


def cost_table(rows: list[dict]) -> str:
    """Markdown."""
    head = "| backbone | H | parameters | model update, ms | MB | policy update, ms | MB | compile, s |"
    lines = [head, "|---" * 8 + "|"]
    for row in sorted(rows, key=lambda row: row["horizon"]):
        lines.append(
            f"| {row['model']} | {row['horizon']} | {row['parameters']:,} "
            f"| {row['model_update_ms']:.1f} | {row['model_update_mb']:.0f} "
            f"| {row['policy_update_ms']:.1f} | {row['policy_update_mb']:.0f} "
            f"| {row['model_compile_seconds'] + row['policy_compile_seconds']:.0f} |"
        )
    return "\n".join(lines)


def score_table(items: list[dict]) -> str:
    """Markdown; the worst of the seeds."""
    head = [
        "backbone",
        "task",
        "seeds",
        *(f"at {mark:,}" for mark in MARKS),
        "0.95: steps / s",
        "0.99: steps / s",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for item in sorted(items, key=lambda item: TASKS.index(item["task"])):
        cells = [item["model"], item["task"], str(item["num_seeds"])]
        cells += [f"{min(score_at(item, mark)):.3f}" for mark in MARKS]
        for level in (0.95, 0.99):
            hit = reached(item, level)
            cells.append("not reached" if hit is None else f"{hit[0]:,.0f} / {hit[1]:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cost_part() -> str:
    """Both horizons of a backbone in one line: milliseconds of both updates, MiB of the larger one."""
    rows = read()["cost"]
    head = "| | H = 100: model, ms | policy, ms | MiB | H = 500: model, ms | policy, ms | MiB |"
    lines = [head, "|---" * 7 + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = []
        for horizon in (100, 500):
            for row in (row for row in rows if (row["model"], row["horizon"]) == (model, horizon)):
                memory = max(row["model_update_mb"], row["policy_update_mb"])
                times = (row[f"{which}_update_ms"] for which in ("model", "policy"))
                cells += [*(f"{time:.1f}" for time in times), f"{memory:.0f}"]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scores_part() -> str:
    """All tasks of a backbone in one line: the worst seed's scores, and steps and seconds to 0.95."""
    items = [*already_scored(), *read()["scores"]]
    heads = [head for task in TASKS for head in (f"`{task}`", "to 0.95")]
    lines = [f"| H = {SCORE_HORIZON} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for model in dict.fromkeys(item["model"] for item in items):
        cells = []
        for task in TASKS:
            own = [item for item in items if (item["model"], item["task"]) == (model, task)]
            if not own:
                cells += ["not run", ""]
                continue
            hit = reached(own[0], 0.95)
            cells.append(" / ".join(f"{min(score_at(own[0], mark)):.3f}" for mark in MARKS))
            cells.append("-" if hit is None else f"{hit[0]:,.0f} / {hit[1]:.0f}")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reach_part() -> str:
    """Sizes and reach of every untrained backbone."""
    heads = ("backbone", "parameters", "state size", "reach", "reach with gates")
    lines = [
        (
            name,
            f"{one['num_parameters']:,}",
            f"{one['state_size']:,}",
            f"{one['reach']:.0e}" if one["reach"] else "0",
            f"{stored('reach_gated')[name]:.0e}",
        )
        for name, one in stored("reach").items()
    ]
    return markdown(heads, lines)


def gated_reach(name: str) -> float:
    """The median of five draws, as in the catalogue."""
    import jax

    import asmpg
    from asmpg.diagnose import catalogue

    env = asmpg.make(catalogue.TASK, catalogue.HORIZON)

    def measure(key: Any) -> Any:
        model_key, action_key = jax.random.split(key)
        model = asmpg.ActionSequenceModel(env, name, decoder_output="gated", key=model_key)
        actions = jax.random.uniform(action_key, (env.horizon, env.action_size), minval=-1.0)
        return asmpg.reach(model, env.initial_state(), actions)

    keys = jax.random.split(jax.random.key(0), catalogue.NUM_DRAWS)
    return statistics.median(jax.jit(jax.vmap(measure))(keys).tolist())


def measure_reach() -> None:
    """What `asmpg list --models` measures, and the same with the decoder of the preset `default`."""
    from asmpg.diagnose import catalogue

    for name in catalogue.BACKBONES:
        keep("reach_gated", name, lambda: gated_reach(name))  # noqa: B023
    for name, found in catalogue.all_properties(lambda name: None).items():
        keep("reach", name, lambda: dataclasses.asdict(found))  # noqa: B023


def read() -> dict[str, list[dict]]:
    """What is finished."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cost": [], "scores": []}


def already_scored() -> list[dict]:
    """What the score benchmark has measured of the very same runs."""
    path = RESULTS.with_name("score.json")
    same = {
        f"{model}-{horizon}": model
        for model, horizon, *rest in SUITES.values()
        if (horizon, *rest) == (SCORE_HORIZON, SCORE_STEPS, SCORE_INTERVAL)
    }
    items = json.loads(path.read_text()) if path.exists() else []
    return [
        item | {"model": same[item["suite"]]}
        for item in items
        if item["suite"] in same and item["task"] in TASKS
    ]


def save(results: dict[str, list[dict]]) -> str:
    """Writes results and tables, here and in the page of the documentation; gives the tables."""
    text = f"Hardware: {platform.processor() or platform.machine()}, one core an item.\n"
    text += f"\n{cost_table(results['cost'])}\n" if results["cost"] else ""
    scores = [*already_scored(), *results["scores"]]
    text += f"\n{score_table(scores)}\n" if scores else ""
    replace(RESULTS, json.dumps(results, indent=1) + "\n")
    replace(RESULTS.with_suffix(".md"), text)
    for name, part in (("cost", cost_part), ("scores", scores_part), ("reach", reach_part)):
        fill("docs/backbones.md", name, part())
    return text


def key(row: dict) -> tuple:
    """What tells one item from another."""
    return tuple(row[name] for name in ("model", "horizon", "task", "num_seeds") if name in row)


def main() -> None:
    """Runs what is missing, `--workers` items at a time."""
    from asmpg import BACKBONES

    names = [*BACKBONES, *OTHERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", action="store_true", help="train too: minutes an item")
    parser.add_argument(
        "--table", action="store_true", help="write the tables of what is finished, run nothing"
    )
    parser.add_argument("--long", action="store_true", help="only the plain RNN at H = 500")
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    parser.add_argument(
        "--horizons", nargs="*", type=int, default=[100, 500], help="of the cost; none: no cost"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.long:
        for task in TASKS:
            keep("backbones_long", task, lambda: long(task))  # noqa: B023
        return
    if not arguments.table:
        measure_reach()
    results = read()
    if arguments.table:
        print(save(results))
        return
    done = {key(row) for rows in results.values() for row in rows}
    done |= {(row["model"], row["task"], arguments.seeds) for row in already_scored()}
    jobs: list[tuple] = [
        ("cost", cost, (model, horizon), (arguments.repeats,))
        for horizon in arguments.horizons
        for model in arguments.models
    ]
    if arguments.scores:
        jobs += [
            ("scores", learn, (model, task, arguments.seeds), ())
            for model in arguments.models
            for task in arguments.tasks
        ]
    jobs = [job for job in jobs if job[2] not in done]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.workers, context, max_tasks_per_child=1) as pool:
        futures = {
            pool.submit(run, *what, *more, cores[index % arguments.workers % len(cores)]): kind
            for index, (kind, run, what, more) in enumerate(jobs)
        }
        for future in concurrent.futures.as_completed(futures):
            # Read again: another process may have finished an item.
            results = read()
            results[futures[future]].append(future.result())
            save(results)
            print(*future.result().values(), flush=True)
    print(save(read()))


if __name__ == "__main__":
    main()
