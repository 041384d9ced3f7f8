"""Items that differ in a few numbers only, trained as one program on one GPU."""

import contextlib
import dataclasses
import gc
import json
import warnings
from collections.abc import Callable, Sequence

import jax

from ..tasks.optimum import optimal, random_return
from ..training.config import TrainConfig
from ..training.methods import MAY_DIFFER
from ..training.runs import RunWarning, StorageError
from ..training.runs.group import run_together
from ..training.runs.session import MakeTrainer
from ..training.stored_config import to_json
from .work import do, Job, Outcome


@dataclasses.dataclass(frozen=True)
class JobGroup:
    """Jobs for one worker, to be done together.

    Attributes:
        jobs: that agree in everything but numbers that may differ.
    """

    jobs: tuple[Job, ...]

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


def do_together(group: JobGroup, stop: Callable[[], bool]) -> list[Outcome]:
    """Does jobs together, each with its own claim, folder, records and result.

    Those for which that is not possible, for want of memory for one, are still to be done, each apart.
    """
    jobs = group.jobs
    if len(jax.local_devices()) > 1:
        return [Outcome(job.id, "apart") for job in jobs]
    solve_once(jobs[0].config)

    def run(index: int, make_trainer: MakeTrainer) -> Outcome:
        try:
            return do(jobs[index], stop, make_trainer)
        except StorageError as error:  # nothing can be recorded
            return Outcome(jobs[index].id, "failed", str(error))

    outcomes, reason = run_together(numbers_of([job.config for job in jobs]), run, stop)
    left = sum(outcome is None for outcome in outcomes)
    if stop():
        return [outcome or Outcome(job.id, "stopped") for job, outcome in zip(jobs, outcomes, strict=True)]
    if left:
        message = f"{left} items cannot be trained together and are done one by one: {reason}"
        warnings.warn(message, RunWarning, stacklevel=2)
    gc.collect()
    return [outcome or Outcome(job.id, "apart") for job, outcome in zip(jobs, outcomes, strict=True)]


def solve_once(config: TrainConfig) -> None:
    """Finds the references of a built-in task, which are kept, before every member looks for them."""
    with contextlib.suppress(Exception):  # whatever it is, each item will say so itself
        env = config.environment()
        if env.identity() is not None:
            optimal(env)
            random_return(env)
