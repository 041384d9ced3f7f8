"""Items that differ in a few numbers only, trained as one program on one GPU."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence

import jax

from ..config import TrainConfig
from ..optimal_control import optimal
from ..runs.group import run_together
from ..runs.session import MakeTrainer
from ..settings import MAY_DIFFER
from ..stored_config import to_json
from .work import do, Job, Outcome


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Jobs for one worker, to be done as one.

    Attributes:
        jobs: that agree in everything but numbers that may differ.
        apart: whether to do them one after another after all.
    """

    jobs: tuple[Job, ...]
    apart: bool = False

    @property
    def id(self) -> str:
        """Of the first of them."""
        return self.jobs[0].id


def kin(config: TrainConfig) -> str:
    """What items that can be trained as one have in common: everything but the numbers that may differ."""
    content = to_json(config)
    settings = {name: value for name, value in content["settings"].items() if name not in MAY_DIFFER}
    return json.dumps({**content, "settings": settings, "overrides": None, "out": None}, sort_keys=True)


def numbers_of(configs: Sequence[TrainConfig]) -> dict[str, list[float]]:
    """The settings in which these configurations differ, by name, one value each."""
    all_settings = [dataclasses.asdict(config.settings()) for config in configs]
    names = sorted(MAY_DIFFER & all_settings[0].keys())
    values = {name: [float(settings[name]) for settings in all_settings] for name in names}
    return {name: several for name, several in values.items() if len(set(several)) > 1}


def do_together(jobs: Jobs, stop: Callable[[], bool]) -> list[Outcome]:
    """Does jobs as one, each with its own claim, folder, records and result.

    If that fails, for want of memory for one, they are done one after another, from where they are then.
    """
    numbers = numbers_of([job.config for job in jobs.jobs])
    if jobs.apart or not numbers or len(jax.local_devices()) > 1:
        return [do(job, stop) for job in jobs.jobs]
    solve_once(jobs.jobs[0].config)
    number = len(jobs.jobs)

    def run(index: int, make_trainer: MakeTrainer) -> Outcome:
        return do(jobs.jobs[index], stop, make_trainer, number)

    def rest(job: Job) -> Outcome:
        return Outcome(job.id, "stopped") if stop() else do(job, stop)

    outcomes = run_together(numbers, run, stop)
    return [outcome or rest(job) for job, outcome in zip(jobs.jobs, outcomes, strict=True)]


def solve_once(config: TrainConfig) -> None:
    """Finds the optimum of a built-in task, which is kept, before every member looks for it."""
    with contextlib.suppress(Exception):  # whatever it is, each item will say so itself
        env = config.environment()
        if env.identity() is not None:
            optimal(env)
