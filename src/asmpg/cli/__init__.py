"""The command line: from what was typed to what is carried out, and from mistakes to one line."""

import contextlib
import dataclasses
import gc
import importlib
import io
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

from ..core.types import is_out_of_memory, one_line, UsageError
from ..tasks import DiscretisationWarning
from ..tasks.optimum import GradientWarning, ScoreWarning
from ..training.runs import RunWarning, StorageError
from . import options, parsing
from .machine import INTERRUPTED
from .output import PatientStream


# Where each is carried out, imported when it is: experiments and sweeps take a while to import.
_COMMANDS = {
    options.Train: ("commands", "run_train"),
    options.Evaluate: ("commands", "run_evaluate"),
    options.Optimal: ("commands", "run_optimal"),
    options.List: ("listing", "run_list"),
    options.Show: ("show", "run_show"),
    options.Diagnose: ("laboratory", "run_diagnose"),
    options.Reproduce: ("laboratory", "run_reproduce"),
    options.Report: ("laboratory", "run_report"),
    options.Export: ("leaving", "run_export"),
    options.Fit: ("leaving", "run_fit"),
    options.Completion: ("completion", "run_completion"),
    options.Sweep: ("sweep", "run_sweep_command"),
}
_READING = (options.List, options.Show, options.Report, options.Completion)
# In bytes; what usual systems allow.
_LONGEST_NAME, _LONGEST_PATH = 255, 3000
OUT_OF_MEMORY = (
    "out of memory; fewer --seeds, smaller batches (--model-batch-size, --policy-batch-size, --batch-size), a shorter "
    "--horizon or a smaller --scan-chunk need less, and --dry-run says how much a run needs"
)
# Fields of the configuration that are typed by another name.
_TYPED = {"num_seeds": "--seeds", "task": "TASK", "run": "RUN", "figure": "FIGURE"}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: what was typed after `asmpg`; by default the arguments of this process.

    Returns:
        The exit status: 0 done, 2 the input was wrong, 130 interrupted, 1 anything else.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the terminal's encoding cannot say
            stream.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stderr(PatientStream(sys.stderr)):
        return guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        sys.stdout.write(f"asmpg {metadata.version('asmpg')}\n")
        return 0
    try:
        command = parsing.parse(arguments)
    except SystemExit:  # the help has been printed
        return 0
    module, function = _COMMANDS[type(command)]
    run = getattr(importlib.import_module(f".{module}", __name__), function)
    command = _with_paths(command)
    if not isinstance(command, _READING):
        _check_jax()
    if not isinstance(command, options.Train):
        gc.enable()
    return run(command)


def _check_jax() -> None:
    """Raises a UsageError where the environment asks JAX for what it cannot do here."""
    import jax

    if getattr(jax.config, "jax_disable_jit", False):
        raise UsageError(
            "JAX_DISABLE_JIT: the command line runs compiled programs alone; unset it, or debug from Python"
        )
    platforms = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices() if platforms else None
    except (RuntimeError, AssertionError) as error:  # the latter where there is no such device
        reason = str(error).partition("(")[0].strip() or "JAX finds no such device here"
        raise UsageError(f"JAX_PLATFORMS: {platforms!r}: {reason}") from error


def _with_paths(command: Any) -> Any:
    """The command with `~` expanded in what names a folder or a file.

    Raises:
        UsageError: a name is empty, which would be taken as none given, or longer than any system allows.
    """
    paths = {}
    for name in ("out", "resume", "run", "results"):
        path = getattr(command, name, None)
        if path is None:
            continue
        if path == "" or "\0" in path:
            raise UsageError(f"{name}: must be the name of a folder or a file, got {path!r}")
        try:
            paths[name] = str(pathlib.Path(path).expanduser()) if path.startswith("~") else path
        except RuntimeError as error:
            raise UsageError(f"{name}: there is no such user's folder, {path}") from error
        longest = max(len(os.fsencode(part)) for part in [*pathlib.PurePath(path).parts, ""])
        if longest > _LONGEST_NAME or len(os.fsencode(path)) > _LONGEST_PATH:
            raise UsageError(
                f"{name}: is too long, a name has at most {_LONGEST_NAME} bytes, got {path[:40]}..."
            )
    if getattr(command, "sweep", None) == "":
        raise UsageError("sweep: must not be empty, it names a folder or a URL")
    return dataclasses.replace(command, **paths)


def guarded(run: Callable[[], int]) -> int:
    """Runs something; whatever the user or the machine did wrong becomes one line and an exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = _show_warning(warnings.showwarning)
        try:
            if sys.stdout is None:
                return _fail("standard output is closed", 1)
            status = run()
            sys.stdout.flush()
            return status
        except UsageError as error:
            return _fail(_in_words_typed(str(error)), 2)
        except StorageError as error:
            return _fail(str(error), 1)
        except KeyboardInterrupt:
            return _fail("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # The reader has enough. What is still buffered must not raise once more at the end.
            if sys.stdout is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return _fail_of_system(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _fail(OUT_OF_MEMORY, 1)
        except (Exception, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # nothing but a user's code raises one
            return _fail(f"code of your own raised {one_line(error)}", 2)


def _in_words_typed(message: str) -> str:
    """The message with the field it names as the option that was typed."""
    name, colon, rest = message.partition(":")
    parts = (options.Train, options.SettingOptions, options.Diagnose, options.Reproduce, options.Sweep)
    names = {field.name for part in parts for field in dataclasses.fields(part)}
    if name in _TYPED:
        return _TYPED[name] + colon + rest
    return f"--{name.replace('_', '-')}{colon}{rest}" if colon and name in names else message


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"asmpg: {line}\n")
    sys.stderr.flush()
    return status


def _fail_of_system(error: OSError) -> int:
    """What the system refused, such as a full disk behind standard output."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    place = "" if error.filename is None else f"{error.filename}: "
    return _fail(f"{place}{error.strerror or error}", 1)


def _show_warning(default: object) -> Any:
    """Our own warnings as one line; all others as usual."""

    def show(message: object, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
        if issubclass(category, RunWarning | DiscretisationWarning | GradientWarning | ScoreWarning):
            sys.stderr.write(f"asmpg: {message}\n")
        else:
            default(message, category, filename, lineno, *rest)

    return show
