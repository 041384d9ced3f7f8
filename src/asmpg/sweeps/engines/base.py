"""What an engine is, the one that runs jobs in this process, and what all of them do with a job."""

import abc
import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any, final

from ...training.runs import RunWarning, StorageError
from ..store import open_store
from ..timing import Calibration, measure
from ..work import do, Job, Outcome, record_failure


# What an engine is given to do.
Task = Job | Calibration
# A job whose process ended so many times is not tried again: it may be what ends it.
NUM_TRIES = 3


class AbstractEngine(abc.ABC):
    """Runs jobs, as many at once as there is room for. A context: what is left of it ends with it."""

    @abc.abstractmethod
    def num_free(self) -> int:
        """How many jobs more may be submitted now."""

    @abc.abstractmethod
    def submit(self, job: Task) -> None:
        """Takes a job."""

    @abc.abstractmethod
    def poll(self, seconds: float) -> list[Outcome]:
        """What became of jobs since the last time; waits so long for the first."""

    @abc.abstractmethod
    def ask_to_stop(self) -> None:
        """Has running jobs stop where it is convenient, and says "stopped" for those that have not begun."""

    @abc.abstractmethod
    def num_workers(self) -> int:
        """How many jobs run at once."""

    def __enter__(self) -> Any:
        """The engine."""
        return self

    @abc.abstractmethod
    def __exit__(self, *_: object) -> None:
        """Ends what still runs."""


def execute(job: Task, stop: Callable[[], bool]) -> Outcome:
    """Runs a job; what it warns of comes back with its outcome."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RunWarning)
        try:
            outcome = do(job, stop) if isinstance(job, Job) else measure(job)
        except StorageError as error:  # nothing can be recorded
            outcome = Outcome(job.id, "failed", str(error))
    said = [str(warning.message) for warning in caught if issubclass(warning.category, RunWarning)]
    return dataclasses.replace(outcome, warnings=tuple(dict.fromkeys(said)))


@final
class InProcess(AbstractEngine):
    """One job after another in this process."""

    def __init__(self, stop: Callable[[], bool] = lambda: False):
        """`stop` is asked after every record."""
        self._stop, self._outcomes = stop, list[Outcome]()

    def num_free(self) -> int:
        return 0 if self._outcomes else 1

    def submit(self, job: Task) -> None:
        """Runs the job, and returns when it is done."""
        self._outcomes.append(execute(job, self._stop))

    def poll(self, seconds: float) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def ask_to_stop(self) -> None:
        """Nothing runs while anyone could ask."""

    def num_workers(self) -> int:
        return 1

    def __exit__(self, *_: object) -> None:
        """Nothing is left."""


def give_up(job: Task, reason: str, times: int) -> Outcome:
    """The outcome of a job whose processes died, recorded like any failure."""
    error = RuntimeError(f"{reason}, {times} times")
    if isinstance(job, Job):
        record_failure(open_store(job.url), job.id, error)
    return Outcome(job.id, "failed", str(error))


def use_one_core() -> None:
    """Keeps XLA to one thread on a CPU, as long as it has not begun: jobs side by side do not help one another."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
