"""Where jobs run: in this process, in a pool of processes on this machine, or on a Ray cluster."""

from collections.abc import Callable

from ...core.types import UsageError
from .base import AbstractEngine as AbstractEngine
from .base import InProcess as InProcess
from .local import Local as Local
from .ray import Ray as Ray


ENGINES = ("local", "ray")


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
