"""Time and memory of the gradient laboratory (`make bench-laboratory`); each part in a process of its own.

The full Jacobian of a transformer model at H = 200 with one state, and of three kinds at H = 500; the profile of
gradient norms over six horizons and fifty actions. Wall clock and CPU time (of all cores together; on one core the two
are equal, unless it is shared). Writes `benchmarks/results/laboratory.json` and the table of README.md; `--parts`
without numbers only the latter.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
import resource
import time

from pages import fill, replace


RESULTS = pathlib.Path(__file__).parent / "results" / "laboratory.json"
HORIZONS = (10, 20, 50, 100, 150, 200)


def peak_memory() -> int:
    """The most memory this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def jacobian(task: str, backbone: str, horizon: int, repeats: int) -> dict:
    """Seconds of the whole Jacobian after compilation, and memory with and without it."""
    import equinox as eqx
    import jax

    import asmpg
    from asmpg.tasks.environment import uniform_actions

    env = asmpg.make(task, horizon)
    model = asmpg.ActionSequenceModel(env, backbone, key=jax.random.key(0))
    actions = uniform_actions(env, key=jax.random.key(1))
    start = env.initial_state()
    jax.block_until_ready(eqx.filter_jit(model.predict)(start, actions))
    before = peak_memory()
    begin = time.perf_counter()
    compiled = eqx.filter_jit(asmpg.action_jacobian).lower(model, start, actions).compile()
    compilation = time.perf_counter() - begin
    times, cpu_times = [], []
    for _ in range(repeats):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(model, start, actions))
        times.append(time.perf_counter() - begin)
        cpu_times.append(time.process_time() - cpu_begin)
    return {
        "what": "action_jacobian",
        "task": task,
        "model": backbone,
        "horizon": horizon,
        "state_size": env.state_size,
        "seconds": round(min(times), 3),
        "slowest": round(max(times), 3),
        "cpu_seconds": round(min(cpu_times), 3),
        "compilation_seconds": round(compilation, 1),
        "peak_MiB": peak_memory(),
        "peak_before_MiB": before,
    }


def profile(task: str, backbone: str) -> dict:
    """Seconds of `gradient_norm_profile` over six horizons and fifty actions, compilation included."""
    import jax

    import asmpg

    problems = []
    for horizon in HORIZONS:
        env = asmpg.make(task, horizon)
        problems.append((env, asmpg.ActionSequenceModel(env, backbone, key=jax.random.key(0))))
    begin, cpu_begin = time.perf_counter(), time.process_time()
    result = asmpg.gradient_norm_profile(problems, key=jax.random.key(1), num_samples=50)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    assert result.state_norms.shape == (len(HORIZONS), 50)
    return {
        "what": "gradient_norm_profile",
        "task": task,
        "model": backbone,
        "horizons": HORIZONS,
        "samples": 50,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_MiB": peak_memory(),
    }


# What was to be reached, in the order of the rows.
GOALS = ("1 s, 1,024 MiB", *["2,048 MiB"] * 3, "60 s", "60 s")


def part() -> str:
    """Markdown."""
    rows = json.loads(RESULTS.read_text())
    heads = ("what", "task", "model", "seconds", "compilation", "peak MiB", "to reach")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row, goal in zip(rows, GOALS, strict=True):
        if row["what"] == "action_jacobian":
            what = f"whole Jacobian, H = {row['horizon']}, n = {row['state_size']}"
        else:
            what = f"profile: horizons {', '.join(map(str, row['horizons']))}, {row['samples']} actions"
        compilation = row.get("compilation_seconds", "included")
        cells = (what, f"`{row['task']}`", row["model"], row["seconds"], compilation, row["peak_MiB"], goal)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs every part and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--parts", type=int, nargs="*", help="only these, counted from 0; the others' rows are kept"
    )
    options = parser.parse_args()
    repeats = options.repeats
    jobs = [functools.partial(jacobian, "timber_harvest", "transformer", 200, repeats)]
    for name in ("transformer", "lstm", "rnn"):
        jobs.append(functools.partial(jacobian, "double_pendulum", name, 500, repeats))
    jobs += [functools.partial(profile, "double_pendulum", name) for name in ("transformer", "lstm")]
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows += [None] * (len(jobs) - len(rows))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for part in range(len(jobs)) if options.parts is None else options.parts:
            rows[part] = pool.submit(jobs[part]).result()
            print(json.dumps(rows[part]), flush=True)
            replace(RESULTS, json.dumps(rows, indent=1) + "\n")
    fill("benchmarks/README.md", "laboratory", part())


if __name__ == "__main__":
    main()
