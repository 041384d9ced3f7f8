"""Where jobs run: in this process, in a pool of processes on this machine, or on a Ray cluster."""

import abc
import contextlib
import dataclasses
import importlib
import importlib.util
import multiprocessing
import os
import pathlib
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, cast, final

import jax

from ..config import check_integer
from ..runs import RunWarning, StorageError
from ..types import UsageError
from .store import open_store
from .timing import Calibration, measure
from .work import do, Job, Outcome, record_failure


ENGINES = ("local", "ray")
# A job whose process ended so many times is not tried again: it may be what ends it.
NUM_TRIES = 3


class AbstractEngine(abc.ABC):
    """Runs jobs, as many at once as there is room for. A context: what is left of it ends with it."""

    @abc.abstractmethod
    def num_free(self) -> int:
        """How many jobs more may be submitted now."""

    @abc.abstractmethod
    def submit(self, job: Job | Calibration) -> None:
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


def execute(job: Job | Calibration, stop: Callable[[], bool]) -> Outcome:
    """Runs a job; what it warns of comes back with the outcome."""
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
        """One, unless something was not polled yet."""
        return 0 if self._outcomes else 1

    def submit(self, job: Job | Calibration) -> None:
        """Runs the job, and returns when it is done."""
        self._outcomes.append(execute(job, self._stop))

    def poll(self, seconds: float) -> list[Outcome]:
        """What became of the last job."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def ask_to_stop(self) -> None:
        """Nothing runs while anyone could ask."""

    def num_workers(self) -> int:
        """One."""
        return 1

    def __exit__(self, *_: object) -> None:
        """Nothing is left."""


@dataclasses.dataclass
class _Worker:
    """A process and what it does."""

    process: Any
    pipe: Any
    job: Job | Calibration | None = None


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
        """The size of the pool."""
        return self._num_workers

    def num_free(self) -> int:
        """Workers without a job."""
        return self._num_workers - sum(worker.job is not None for worker in self._workers.values())

    def submit(self, job: Job | Calibration) -> None:
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
            except (EOFError, ConnectionResetError):
                outcomes += self._bury(index)
        return outcomes

    def ask_to_stop(self) -> None:
        """Running jobs stop after their chunk."""
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

    def _bury(self, index: int) -> list[Outcome]:
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
        return [
            give_up(job, f"its process ended with status {worker.process.exitcode}", self._deaths[job.id])
        ]


def give_up(job: Job | Calibration, reason: str, times: int) -> Outcome:
    """The outcome of a job whose processes died, recorded like any failure."""
    error = RuntimeError(f"{reason}, {times} times")
    if isinstance(job, Job):
        record_failure(open_store(job.url), job.id, error)
    return Outcome(job.id, "failed", str(error))


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


def use_one_core() -> None:
    """Keeps XLA to one thread on a CPU, as long as it has not begun: jobs side by side do not help one another."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


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


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        self._ray, self._deaths = ray, Counter[str]()
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UsageError(f"address: no Ray cluster at {address}: {error}") from error
        options = {"num_cpus": 1, "num_gpus": gpus_per_job, "max_retries": NUM_TRIES}
        self._execute = ray.remote(scheduling_strategy="SPREAD", **options)(_execute_one)
        self._jobs: dict[Any, Job | Calibration] = {}

    def num_workers(self) -> int:
        """The cores of the cluster as it is now."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def num_free(self) -> int:
        """Without end: Ray keeps the queue, and may add machines because of it."""
        return 1

    def submit(self, job: Job | Calibration) -> None:
        """Makes a task of it."""
        self._jobs[self._execute.remote(job)] = job

    def poll(self, seconds: float) -> list[Outcome]:
        """Outcomes that arrived; tasks that were lost are submitted again."""
        if not self._jobs:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        return [outcome for task in ready for outcome in self._collect(task)]

    def _collect(self, task: Any) -> list[Outcome]:
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


def _execute_one(job: Job | Calibration) -> Outcome:
    use_one_core()
    jax.clear_caches()
    return execute(job, lambda: False)


def make_engine(
    name: str,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus_per_job: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> AbstractEngine:
    """An engine by name.

    Args:
        name: "local" or "ray".
        workers: local: jobs at once; 0 runs them in this process.
        address: ray: of the cluster.
        gpus_per_job: ray: share of a GPU that a job asks for.
        stop: whether to stop, for jobs in this process.

    Raises:
        UsageError: an unknown name, or an option of the other engine.
    """
    if name not in ENGINES:
        raise UsageError(f"engine: {name!r} is not one of {', '.join(ENGINES)}")
    if name == "local" and (address is not None or gpus_per_job):
        raise UsageError(f"{'gpus_per_job' if gpus_per_job else 'address'}: is only for --engine ray")
    if name == "ray" and workers is not None:
        raise UsageError("workers: is only for --engine local; Ray knows its machines")
    if name == "ray":
        return Ray(address, gpus_per_job)
    return InProcess(stop) if workers == 0 else Local(workers)
