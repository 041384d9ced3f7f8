"""What this process computes on, in words that are stored with what it has computed."""

import contextlib
import os
import pathlib
import platform

import jax


def hardware() -> str:
    """The accelerator; without one "cpu" and the processor."""
    device = jax.local_devices()[0].device_kind
    if device != "cpu":
        return device
    return f"cpu, {processor()}"


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor, and how many cores of it this process may use."""
    cores = num_cores()
    return f"{_name()}, {cores} core{'s' * (cores > 1)}"


def _name() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
