"""Jobs on a Ray cluster."""

import importlib
import time
from collections import Counter
from typing import Any, cast, final

import jax

from ...core.types import UsageError
from ..work import Outcome
from .base import AbstractEngine, execute, give_up, NUM_TRIES, Task, use_one_core


@final
class Ray(AbstractEngine):
    """Jobs as tasks of a Ray cluster. Where a node is lost, its jobs are taken up on another from their checkpoints."""

    def __init__(self, address: str | None = None, gpus_per_job: float = 0.0):
        """Connects to the cluster.

        Args:
            address: of the cluster; by default `$RAY_ADDRESS` or, without one, a cluster of this machine alone.
            gpus_per_job: share of a GPU that a job asks for.

        Raises:
            UsageError: Ray is not installed, or there is no cluster at the address.
        """
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise UsageError("engine: ray needs pip install 'asmpg[cluster]'") from error
        self._ray, self._deaths, self._gpus_per_job = ray, Counter[str](), gpus_per_job
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UsageError(f"address: no Ray cluster at {address}: {error}") from error
        options = {"num_cpus": 1, "num_gpus": gpus_per_job, "max_retries": NUM_TRIES}
        self._execute = ray.remote(scheduling_strategy="SPREAD", **options)(_execute_one)
        self._jobs: dict[Any, Task] = {}

    def num_workers(self) -> int:
        """The cores of the cluster as it is now, or how many shares its GPUs have."""
        found = self._ray.cluster_resources()
        cores, shares = found.get("CPU", 1), found.get("GPU", 0) / (self._gpus_per_job or 1.0)
        return max(1, int(min(cores, shares) if self._gpus_per_job else cores))

    def num_free(self) -> int:
        """Without end: Ray keeps the queue, and may add machines because of it."""
        return 1

    def submit(self, job: Task) -> None:
        self._jobs[self._execute.remote(job)] = job

    def poll(self, seconds: float) -> list[Outcome]:
        """Outcomes that arrived; tasks that were lost are submitted again."""
        if not self._jobs:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        return [outcome for task in ready for outcome in self._collect(task)]

    def _collect(self, task: object) -> list[Outcome]:
        job, errors = self._jobs.pop(task), self._ray.exceptions
        try:
            return [cast(Outcome, self._ray.get(task))]
        except (errors.TaskCancelledError, KeyboardInterrupt):
            return [Outcome(job.id, "stopped")]
        except errors.RayError as error:
            if isinstance(getattr(error, "cause", None), KeyboardInterrupt):
                return [Outcome(job.id, "stopped")]
            self._deaths[job.id] += 1
            if self._deaths[job.id] < NUM_TRIES:
                self.submit(job)
                return []
            return [give_up(job, f"{type(error).__name__}: {error}", self._deaths[job.id])]

    def ask_to_stop(self) -> None:
        """Cancels all tasks; a running one loses its chunk."""
        for task in self._jobs:
            self._ray.cancel(task)

    def __exit__(self, *_: object) -> None:
        """Cancels what is left and disconnects."""
        self.ask_to_stop()
        if self._mine:
            self._ray.shutdown()


def _execute_one(job: Task) -> Outcome:
    use_one_core()
    jax.clear_caches()
    return execute(job, lambda: False)
