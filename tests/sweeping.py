"""A suite of tiny items that learn nothing, and two tasks that misbehave, for tests of everything around them."""

import pathlib
import textwrap
import time

from asmpg.sweeps import load_suite, run_sweep, Suite
from asmpg.sweeps.engines import AbstractEngine, InProcess, Local


# Runs in every process that does an item: there, too, every method is a `Wanderer`, and each training leaves a line.
TASK_FILE = """
import functools, multiprocessing, os, sys
sys.path.insert(0, {tests!r})
import asmpg, jax
from probes import RewardIsState
from wanderer import Wanderer

def learner(self):
    env = self.environment()
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{env.name}} {{self.horizon}} {{self.overrides}}\\n")
    if env.name == "faulty" and not os.path.exists({cure!r}):
        raise RuntimeError("out of order")
    if env.name == "deadly" and multiprocessing.parent_process() is not None:
        os._exit(3)
    return Wanderer(env, self.settings())

asmpg.TrainConfig.learner = learner
jax.config.update("jax_disable_most_optimizations", True)
Probe = functools.partial(RewardIsState, name="probe")
faulty, deadly = (functools.partial(RewardIsState, name=name) for name in ("faulty", "deadly"))
"""

SUITE = """
name = "tiny"
tasks = ["task.py:Probe"]
horizons = [4, 6]
models = ["one-step"]
steps = 240
chunk_steps = 12
seeds = 2
[settings]
warmup_steps = 12
model_batch_size = 2
entropy = [0.1, 0.01]
"""


def write_suite(folder: pathlib.Path, content: str = SUITE) -> pathlib.Path:
    """The suite's file, its task's beside it."""
    names = {
        "tests": str(pathlib.Path(__file__).parent),
        "log": str(folder / "log"),
        "cure": str(folder / "cure"),
    }
    (folder / "task.py").write_text(textwrap.dedent(TASK_FILE).format(**names))
    (folder / "suite.toml").write_text(content)
    return folder / "suite.toml"


def load(file: pathlib.Path) -> Suite:
    return load_suite(str(file), "cpu", {})


def trainings(file: pathlib.Path) -> list[str]:
    """What was trained so far, in any process: one line a session."""
    log = file.parent / "log"
    return log.read_text().splitlines() if log.exists() else []


def sweep(file: pathlib.Path, out: pathlib.Path | str, engine: AbstractEngine | None = None, **options):
    """Runs the suite, by default in this process."""
    return run_sweep(load(file), str(out), engine or InProcess(options.get("stop", lambda: False)), **options)


def in_another_process(file: str, out: str, workers: int) -> None:
    """Runs the suite there; the target of a process."""
    sweep(pathlib.Path(file), out, Local(workers) if workers else InProcess())


def table(out: pathlib.Path) -> bytes:
    """The tidy table as it is on disk."""
    return next(path for path in sorted(out.iterdir()) if path.stem == "tiny-cpu").read_bytes()


def wait_for(condition, seconds: float = 120.0) -> None:
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.005)
