"""Returns in other people's simulators: the `default` preset, and SBX's SAC with its own defaults beside it.

    python benchmarks/world_returns.py --tasks Pendulum-v1 --models one-step lstm
    python benchmarks/world_returns.py --models sac --interpreter sbx-env/bin/python

SBX needs an environment of its own, since it is no dependency of the project: `pip install sbx-rl gymnasium[mujoco]`
(`brax` too for the tasks `brax:NAME`) and a build of PyTorch without CUDA. Both are scored by the mean return of the
deterministic policy over ten episodes from ten fixed starts. Nothing depends on the task but what its declaration
says: whether episodes end early, and its limit of steps. Steps are those of training, warm-up included. Every (task,
model, seed) is one item, kept in `benchmarks/results/world_returns.json` and not run again; the table beside it is
written from all of them.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np

from pages import fill, replace


RESULTS = pathlib.Path(__file__).parent / "results"
ITEMS, TABLE = RESULTS / "world_returns.json", RESULTS / "world_returns.md"
# id: whether its episodes end early, training steps, steps between records.
TASKS = {
    "Pendulum-v1": (False, 20_000, 400),
    "InvertedPendulum-v5": (True, 10_000, 1_000),
    "Reacher-v5": (False, 10_000, 500),
    "MountainCarContinuous-v0": (True, 20_000, 2_000),
    "HalfCheetah-v5": (False, 50_000, 5_000),
    "Hopper-v5": (True, 50_000, 5_000),
    "brax:inverted_pendulum": (True, 20_000, 2_000),
    "brax:reacher": (False, 20_000, 2_000),
}
MODELS = ("one-step", "lstm", "sac")
EPISODES, FIRST_START = 10, 10_000
BRAX, BRAX_HORIZON = "brax:", 200


def train_here(task: str, model: str, seed: int, steps: int) -> dict[str, Any]:
    """One seed of this project's learner; evaluated on its own ten fixed starts."""
    import asmpg

    ends_early, _, interval = TASKS[task]
    if task.startswith(BRAX):
        env = asmpg.from_brax(brax_task(task), BRAX_HORIZON, ends_early=ends_early, num_evaluations=EPISODES)
    else:
        env = asmpg.from_gymnasium(task)
        env.ends_early, env.num_evaluations = ends_early, EPISODES
    config = asmpg.TrainConfig(env, model=model, steps=steps, seed=seed, chunk_steps=interval)
    metrics = asmpg.train(config).metrics
    return {"steps": metrics["steps"][:, 0].tolist(), "returns": metrics["return"][:, 0].tolist()}


def brax_task(task: str) -> Any:
    """A task of Brax on its quickest backend for one copy."""
    import brax.envs

    return brax.envs.get_environment(task.removeprefix(BRAX), backend="spring")


def gymnasium_of(task: str) -> Any:
    """What SBX trains in."""
    import gymnasium

    if not task.startswith(BRAX):
        return gymnasium.make(task)
    return gymnasium.wrappers.TimeLimit(_brax_as_gymnasium(task), BRAX_HORIZON)


def _brax_as_gymnasium(task: str) -> Any:
    import gymnasium
    import jax

    inner = brax_task(task)
    begin, move = jax.jit(inner.reset), jax.jit(inner.step)

    class Brax(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (inner.observation_size,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (inner.action_size,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.state = begin(jax.random.key(int(self.np_random.integers(2**31))))
            return np.asarray(self.state.obs), {}

        def step(self, action: Any) -> Any:
            self.state = move(self.state, action)
            return np.asarray(self.state.obs), float(self.state.reward), bool(self.state.done), False, {}

    return Brax()


def train_sbx(task: str, seed: int, steps: int) -> dict[str, Any]:
    """One seed of SBX's SAC with its defaults."""
    import sbx  # pyright: ignore[reportMissingImports] (of the other environment)

    interval = TASKS[task][2]
    agent = sbx.SAC("MlpPolicy", gymnasium_of(task), seed=seed, verbose=0)
    copy, records, returns = gymnasium_of(task), [], []
    for number in range(interval, steps + 1, interval):
        agent.learn(interval, reset_num_timesteps=number == interval)
        records.append(number)
        returns.append(float(np.mean([episode(agent, copy, FIRST_START + i) for i in range(EPISODES)])))
    return {"steps": records, "returns": returns}


def episode(agent: Any, env: Any, start: int) -> float:
    """The return of an agent's deterministic policy."""
    observation, over, total = env.reset(seed=start)[0], False, 0.0
    while not over:
        observation, reward, terminated, truncated, _ = env.step(
            agent.predict(observation, deterministic=True)[0]
        )
        total, over = total + float(reward), terminated or truncated
    return total


def run_item(task: str, model: str, seed: int, steps: int) -> dict[str, Any]:
    """One item, with the seconds of CPU time that it took."""
    begin = time.process_time()
    found = train_sbx(task, seed, steps) if model == "sac" else train_here(task, model, seed, steps)
    seconds = round(time.process_time() - begin)
    return {"task": task, "model": model, "seed": seed, "seconds": seconds, **found}


def run_apart(interpreter: str, item: tuple[str, str, int, int]) -> dict[str, Any]:
    """An item in a process of its own, whose last line is what was found."""
    command = [interpreter, __file__, "--item", json.dumps(item)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def read() -> list[dict[str, Any]]:
    """What is finished."""
    return json.loads(ITEMS.read_text()) if ITEMS.exists() else []


def _marks(steps: int) -> list[int]:
    return [steps // 10, steps // 5, 2 * steps // 5, 3 * steps // 5, 4 * steps // 5, steps]


def table(items: list[dict[str, Any]]) -> str:
    """A table for each task: returns of every seed at some steps."""
    lines = []
    for task, (_, steps, interval) in TASKS.items():
        marks = sorted({max(interval, mark // interval * interval) for mark in _marks(steps)})
        rows = []
        for model in MODELS:
            own = sorted(
                (i for i in items if (i["task"], i["model"]) == (task, model)), key=lambda i: i["seed"]
            )
            if own:
                cells = [", ".join(_at(item, mark) for item in own) for mark in marks]
                seconds = sum(item["seconds"] for item in own) / len(own)
                name = "SBX's SAC" if model == "sac" else model
                rows.append("| " + " | ".join([name, *cells, f"{seconds:.0f}"]) + " |")
        if rows:
            heads = ["steps", *(f"{mark:,}" for mark in marks), "CPU s a seed"]
            lines += [
                f"### {task}",
                "",
                "| " + " | ".join(heads) + " |",
                "|---" * len(heads) + "|",
                *rows,
                "",
            ]
    return "\n".join(lines)


def _at(item: dict[str, Any], mark: int) -> str:
    if mark > item["steps"][-1]:
        return "not run"
    # The first record after the warm-up counts for what comes before it.
    index = max((i for i, done in enumerate(item["steps"]) if done <= mark), default=0)
    value = item["returns"][index]
    return f"{value:.1f}" if abs(value) < 20 else f"{value:.0f}"


def part() -> str:
    """What worlds.md shows."""
    return table(read())


def save(items: list[dict[str, Any]]) -> None:
    """Writes items and tables, the latter in worlds.md too."""
    replace(ITEMS, json.dumps(items) + "\n")
    replace(TABLE, table(items))
    fill("benchmarks/worlds.md", "returns", part())


def main() -> None:
    """Runs what is missing, one item after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--models", nargs="+", default=["one-step", "lstm"], choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="fewer than the task's own")
    parser.add_argument("--interpreter", default=sys.executable, help="python that trains")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--item", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.item:
        print(json.dumps(run_item(*json.loads(arguments.item))))
        return
    for seed in arguments.seeds:
        for task in arguments.tasks:
            for model in arguments.models:
                if arguments.table or (task, model, seed) in {
                    (i["task"], i["model"], i["seed"]) for i in read()
                }:
                    continue
                steps = arguments.steps or TASKS[task][1]
                item = run_apart(arguments.interpreter, (task, model, seed, steps))
                # Read again: another process may have finished an item.
                save([*read(), item])
                print(task, model, seed, [round(value, 1) for value in item["returns"]], flush=True)
    save(read())


if __name__ == "__main__":
    main()
