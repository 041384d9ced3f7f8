"""What the command line does with the machine: one device a core, a cache of compiled programs, and signals."""

import contextlib
import hashlib
import os
import pathlib
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import jax

from ..core.files import cache_folder


INTERRUPTED = 130


def use_cores(num_seeds: int) -> None:
    """Makes one CPU device per core, but not more than keep the number of seeds on the busiest one least.

    Has to come before JAX is first used, and does nothing after that; nor if the user has said how many.
    """
    said_so = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if said_so or getattr(jax.config, "jax_num_cpu_devices", 0) > 0:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seeds_per_core = -(-num_seeds // cores)
    with contextlib.suppress(RuntimeError):  # JAX is in use already
        jax.config.update("jax_num_cpu_devices", -(-num_seeds // seeds_per_core))


def keep_compiled() -> None:
    """Keeps compiled programs on disk, so that a second start is quick; the user's own choice goes first."""
    directory = cache_folder()
    if directory is None or getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(directory / f"xla-{_processor()}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _processor() -> str:
    """A short name for this kind of processor: a program compiled for another may not run on it."""
    description = [platform.machine(), platform.processor(), jax.__version__]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        description += [
            line for line in dict.fromkeys(lines) if line.startswith(("model name", "flags", "Features"))
        ]
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:8]


class Interrupts:
    """Ctrl-C and SIGTERM during training: the first asks the run to stop after its chunk, the second ends it at once.

    While a chunk runs the interpreter cannot react, so a thread of its own waits for signals. Ending at once is
    harmless: what is lost is the chunk in flight.

    Attributes:
        requested: whether the run was asked to stop.
        patient: whether there is anything that is worth waiting for; before, the first signal ends at once too.
    """

    def __init__(self, describe: Callable[[], str]):
        """Installs nothing yet.

        Args:
            describe: the line that says how to go on, shown when ending at once.
        """
        self.requested, self.patient = False, False
        self._describe = describe

    def __enter__(self) -> "Interrupts":
        """Takes over both signals, if this is the main thread."""
        self._old: dict[int, object] = {}
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            if (
                signal.getsignal(number) is signal.SIG_IGN
            ):  # the shell of a script in the background wants it so
                continue
            self._old[number] = signal.signal(number, self._ignore)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the signals back."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._old_descriptor)
        self._writer.close()  # ends the thread

    def _ignore(self, number: int, frame: FrameType | None) -> None:
        """The thread has been told by the system; there is nothing to do here."""

    def _watch(self) -> None:
        while number := self._reader.recv(1):
            if number[0] not in self._old:
                continue
            if self.requested or not self.patient:
                self._end()
            self.requested = True
            _say("stopping after this chunk; once more to stop at once")
        self._reader.close()

    def _end(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the bar hides the cursor
        _say(self._describe())
        os._exit(INTERRUPTED)


def _say(message: str) -> None:
    # The reader of standard error may have been ended by the same Ctrl-C; that must not keep this process alive.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"\nasmpg: {message}\n")
        sys.stderr.flush()
