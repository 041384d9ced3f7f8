"""Jobs in a pool of processes on this machine."""

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from collections import Counter
from multiprocessing import connection
from typing import Any, final

import jax

from ...core.checks import check_integer
from ...core.hardware import num_cores
from ..work import Outcome
from .base import AbstractEngine, execute, give_up, NUM_TRIES, Task, use_one_core


@dataclasses.dataclass
class _Worker:
    """A process and what it does."""

    process: Any
    pipe: Any
    job: Task | None = None


@final
class Local(AbstractEngine):
    """A pool of processes on this machine: one core a job or, where JAX has GPUs, one GPU.

    A process that dies takes nothing with it: its job is taken up by another one.
    """

    def __init__(self, workers: int | None = None):
        """Processes are started as they are needed.

        Args:
            workers: jobs at once; by default as many as there are GPUs or, without any, cores. More than one a GPU
                share its memory.
        """
        if workers is not None:
            check_integer("workers", workers, 1)
        self._num_workers = workers or len(gpus()) or num_cores()
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._workers: dict[int, _Worker] = {}
        self._deaths: Counter[str] = Counter()

    def num_workers(self) -> int:
        return self._num_workers

    def num_free(self) -> int:
        return self._num_workers - sum(worker.job is not None for worker in self._workers.values())

    def submit(self, job: Task) -> None:
        """Gives the job to a process that has none, or to a new one."""
        for index in range(self._num_workers):
            if index not in self._workers:
                self._workers[index] = self._start(index)
            if self._workers[index].job is None:
                self._workers[index].job = job
                with contextlib.suppress(BrokenPipeError):  # it died meanwhile, which poll sees
                    self._workers[index].pipe.send(job)
                return
        raise AssertionError("more jobs than workers")

    def poll(self, seconds: float) -> list[Outcome]:
        """Outcomes that arrived, and what became of the jobs of processes that died."""
        waiting = [worker.pipe for worker in self._workers.values()]
        outcomes = []
        if not waiting:
            time.sleep(seconds)
        for pipe in connection.wait(waiting, seconds) if waiting else []:
            index, worker = next(entry for entry in self._workers.items() if entry[1].pipe is pipe)
            try:
                outcomes.append(worker.pipe.recv())
                worker.job = None
            except (EOFError, OSError):  # it died, perhaps in the middle of a message
                outcomes += self._take_over(index)
        return outcomes

    def ask_to_stop(self) -> None:
        self._stop.set()

    def __exit__(self, *_: object) -> None:
        """Idle processes end by themselves; a busy one is ended, and loses its chunk."""
        for worker in self._workers.values():
            if worker.job is not None:
                worker.process.kill()
            worker.pipe.close()
        for worker in self._workers.values():
            worker.process.join(5.0)
            if worker.process.exitcode is None:
                worker.process.kill()
        self._workers.clear()

    def _start(self, index: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._stop, index, self._num_workers), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _take_over(self, index: int) -> list[Outcome]:
        """Takes up the job of a process that died, or gives it up."""
        worker = self._workers.pop(index)
        worker.process.join()
        worker.pipe.close()
        job = worker.job
        if job is None:
            return []
        if self._stop.is_set():
            return [Outcome(job.id, "stopped")]
        self._deaths[job.id] += 1
        if self._deaths[job.id] < NUM_TRIES:
            self.submit(job)
            return []
        reason = f"its process ended with status {worker.process.exitcode}"
        return [give_up(job, reason, self._deaths[job.id])]


def _serve(pipe: Any, stop: Any, index: int, num_workers: int) -> None:
    """A worker: one job after another, until nobody is there to send any."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the one who started us is told too, and asks us to stop
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_one_core()
    use_one_gpu(index, num_workers)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(execute(job, stop.is_set))
        jax.clear_caches()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that came about."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def use_one_gpu(index: int, num_workers: int) -> None:
    """Shows JAX, as long as it has not begun, one GPU only, and no more of its memory than its users can share."""
    available = gpus()
    if available:
        sharing = -(-num_workers // len(available))
        os.environ["CUDA_VISIBLE_DEVICES"] = available[index % len(available)]
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / sharing:.3f}")


def gpus() -> list[str]:
    """The numbers of the GPUs that JAX would use, found without waking it up."""
    plugins = [name for name in ("jax_cuda12_plugin", "jax_cuda13_plugin") if importlib.util.find_spec(name)]
    if not plugins or "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number]
    return [path.name.removeprefix("nvidia") for path in sorted(pathlib.Path("/dev").glob("nvidia[0-9]*"))]
