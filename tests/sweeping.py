"""A suite of tiny items that learn nothing, and tasks that misbehave, for tests of everything around them."""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import time

import jax
import numpy as np

from asmpg.sweeps import load_suite, run_sweep, Suite, work
from asmpg.sweeps.engines import AbstractEngine, InProcess, Local
from asmpg.training.runs import Progress, Result
from asmpg.training.runs.folder import METRICS, RunFolder
from asmpg.training.runs.records import History
from asmpg.training.runs.scores import Reference
from wanderer import Wanderer


# Runs in every process that does an item.
TASK_FILE = f"""
import functools, pathlib, sys
if {str(pathlib.Path(__file__).parent)!r} not in sys.path:
    sys.path.append({str(pathlib.Path(__file__).parent)!r})
import sweeping
from probes import RewardIsState

sweeping.compile_quickly()
names = ("probe", "faulty", "deadly")
Probe, faulty, deadly = (functools.partial(RewardIsState, name=name) for name in names)

def learner(env, settings):
    return sweeping.learner(env, settings, pathlib.Path(__file__).parent)
"""

NUM_ITEMS, NUM_SEEDS, STEPS = 3, 2, 160
SUITE = f"""
name = "tiny"
tasks = ["task.py:Probe"]
horizons = [4]
models = ["task.py:learner"]
steps = {STEPS}
chunk_steps = 8
seeds = {NUM_SEEDS}
[settings]
warmup_steps = 12
model_batch_size = 2
entropy = [0.1, 0.01, 0.001]
"""


def compile_quickly() -> None:
    """Programs are compiled quickly rather than well."""
    jax.config.update("jax_disable_most_optimizations", True)


def learner(env, settings, folder: pathlib.Path) -> Wanderer:
    """One that notes beside the task's file what it does."""
    return Wanderer(env, settings, functools.partial(note, folder, env.name, env.horizon, settings.entropy))


def note(folder: pathlib.Path, name: str, horizon: int, entropy: float) -> None:
    """Leaves a line for each seed; one task fails without its cure, one ends the process it is trained in."""
    with (folder / "log").open("a") as file:
        file.write(f"{os.getpid()} {name} {horizon} {entropy}\n")
    if name == "faulty" and not (folder / "cure").exists():
        raise RuntimeError("out of order")
    if name == "deadly" and multiprocessing.parent_process() is not None:
        os._exit(3)


def pretend(config, report, stop=lambda: False) -> Result:
    """In place of a training, at once: numbers that depend on the configuration alone."""
    for _ in range(config.num_seeds):
        place = pathlib.Path(str(config.task)).parent
        note(place, config.world().name, config.horizon, config.overrides["entropy"])
    folder, history = RunFolder(config.out), History()
    folder.make()
    for record in range(5):
        steps = record * config.steps // 4
        returns = np.array(
            [config.overrides["entropy"] / 3 + record * seed for seed in range(config.num_seeds)]
        )
        history.add(steps, steps // config.horizon, {"return": returns})
        report(Progress("training", steps=steps, total_steps=config.steps, seconds=float(record)))
        if stop():
            break
    folder.write(METRICS, history.lines)
    known = {"returns": returns, "metrics": history.metrics(), "steps": steps, "seconds": 4.0}
    known |= {"config": config, "env": config.environment(), "finished": steps == config.steps}
    return Result(**{field.name: known.get(field.name) for field in dataclasses.fields(Result)})


@contextlib.contextmanager
def pretending(monkeypatch):
    """No item is trained in this process."""
    with monkeypatch.context() as patch:
        patch.setattr(work, "start", pretend)
        yield


def write_suite(folder: pathlib.Path, content: str = SUITE) -> pathlib.Path:
    """The suite's file, its task's beside it."""
    (folder / "task.py").write_text(TASK_FILE)
    (folder / "suite.toml").write_text(content)
    return folder / "suite.toml"


def load(file: pathlib.Path) -> Suite:
    return load_suite(str(file), "cpu", {})


@functools.cache
def loaded(file: pathlib.Path, *changed: int) -> Suite:
    """Loads a suite once for as long as its files stay as they are: trying out its tasks takes most of a sweep here."""
    return load(file)


def trainings(file: pathlib.Path) -> list[str]:
    """What was begun so far, in any process: one line an item, or only one for all seeds of one that failed."""
    log = file.parent / "log"
    lines = sorted(log.read_text().splitlines()) if log.exists() else []
    return [line for line in lines if " faulty " in line] + [
        line for line in lines if " faulty " not in line
    ][::NUM_SEEDS]


def sweep(file: pathlib.Path, out: pathlib.Path | str, engine: AbstractEngine | None = None, **options):
    """Runs the suite, by default in this process."""
    files = (file, file.parent / "task.py")
    suite = loaded(file, *(path.stat().st_mtime_ns for path in files))
    return run_sweep(suite, str(out), engine or InProcess(options.get("stop", lambda: False)), **options)


def in_another_process(file: str, out: str, workers: int, together=None) -> None:
    """Runs the suite there, at once or when the other is ready too; the target of a process."""
    if together is not None:
        together.wait(60)
    sweep(pathlib.Path(file), out, Local(workers) if workers else InProcess())


def table(out: pathlib.Path) -> bytes:
    """The tidy table as it is on disk."""
    return next(path for path in sorted(out.iterdir()) if path.stem == "tiny-cpu").read_bytes()


def wait_for(condition, seconds: float = 120.0) -> None:
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.005)


def quick_scores(config, report, stop=lambda: False) -> Result:
    """In place of a training, at once: scores that rise with the steps, of any method and task."""
    folder, history = RunFolder(config.out), History()
    folder.make()
    for steps in np.linspace(0, config.steps, 5).astype(int).tolist():
        returns = np.array([steps / config.steps - 0.01 * seed for seed in range(config.num_seeds)])
        history.add(steps, steps // config.horizon, {"return": returns, "score": returns})
        report(Progress("training", steps=steps, total_steps=config.steps, seconds=1.0))
    folder.write(METRICS, history.lines)
    known = {"returns": returns, "scores": returns, "metrics": history.metrics(), "steps": config.steps}
    known |= {"seconds": 1.0, "config": config, "env": config.environment(), "finished": True}
    known["reference"] = Reference(0.0, 1.0)
    return Result(**{field.name: known.get(field.name) for field in dataclasses.fields(Result)})
