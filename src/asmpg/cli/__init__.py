"""The command line: from what was typed to what is carried out, and from mistakes to one line."""

import dataclasses
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

from ..core.types import UsageError
from ..tasks import DiscretisationWarning
from ..training.runs import RunWarning, StorageError
from . import options
from .machine import INTERRUPTED


# Where each is carried out, imported when it is: experiments and sweeps take a while to import.
_COMMANDS = {
    options.Train: ("commands", "run_train"),
    options.Evaluate: ("commands", "run_evaluate"),
    options.Optimal: ("commands", "run_optimal"),
    options.List: ("commands", "run_list"),
    options.Diagnose: ("laboratory", "run_diagnose"),
    options.Reproduce: ("laboratory", "run_reproduce"),
    options.Report: ("laboratory", "run_report"),
    options.Export: ("leaving", "run_export"),
    options.Fit: ("leaving", "run_fit"),
    options.Sweep: ("sweep", "run_sweep_command"),
}
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
    return guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        sys.stdout.write(f"asmpg {metadata.version('asmpg')}\n")
        return 0
    try:
        command = options.parse(arguments or ["--help"])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    module, function = _COMMANDS[type(command)]
    run = getattr(importlib.import_module(f".{module}", __name__), function)
    _refuse_empty(command)
    if not isinstance(command, options.Train):
        gc.enable()
    return run(command)


def _refuse_empty(command: Any) -> None:
    """An empty name would be taken as none given, or as this folder."""
    for name in ("out", "resume", "run", "sweep"):
        if getattr(command, name, None) == "":
            raise UsageError(f"{name}: must not be empty, it names a folder or a file")


def guarded(run: Callable[[], int]) -> int:
    """Runs something; whatever the user or the machine did wrong becomes one line and an exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = _show_warning(warnings.showwarning)
        try:
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
            # Whoever reads has enough. What is still buffered must not raise once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


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
    return status


def _show_warning(default: Any) -> Any:
    """Our own warnings as one line; all others as usual."""

    def show(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if issubclass(category, RunWarning | DiscretisationWarning):
            sys.stderr.write(f"asmpg: {message}\n")
        else:
            default(message, category, filename, lineno, *rest)

    return show
