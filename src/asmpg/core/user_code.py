"""Code of the user's own, named as `FILE.py:NAME` or `package.module:NAME`: which file, its hash, what NAME is in it.

A file runs only when the user has just typed its name. What a run folder says is never run. Packages that are installed
may add names of their own as entry points, see `installed`.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

from .types import OF_USERS, one_line, UsageError


def is_file(text: str) -> bool:
    """Whether a text is meant as `FILE.py:NAME` or `package.module:NAME`."""
    return ".py:" in text or text.endswith(".py") or _is_module(text)


def _is_module(text: str) -> bool:
    return re.fullmatch(r"[\w.]+:\w+", text) is not None and not text.rpartition(":")[0].endswith(".py")


@functools.cache
def installed(group: str) -> dict[str, metadata.EntryPoint]:
    """What installed packages add, by name.

    Args:
        group: "asmpg.tasks" or "asmpg.backbones".
    """
    return {point.name: point for point in metadata.entry_points(group=group)}


def load_installed(option: str, point: metadata.EntryPoint) -> Any:
    """What an entry point stands for.

    Raises:
        UsageError: its package cannot be imported, or has no such name.
    """
    try:
        return point.load()
    except OF_USERS as error:  # whatever that package raises
        raise UsageError(f"{option}: loading {point.value} raised {one_line(error)}") from error


def split(option: str, text: str) -> tuple[pathlib.Path, str]:
    """File and name.

    Args:
        option: what the message names, "task" or "model".
        text: `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        UsageError: there is no such file or module, or no name after the colon.
    """
    file, _, name = text.rpartition(":")
    if _is_module(text):
        return _module_file(option, file), name
    if not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"{option}: {text!r} must be FILE.py:NAME, with the name of a {option} in that file")
    if not exists(file):
        raise UsageError(f"{option}: there is no file {file}")
    return pathlib.Path(file).expanduser(), name


def _module_file(option: str, module: str) -> pathlib.Path:
    """Where a module is, from this folder as for `python -m`; to find one in a package imports the package."""
    sys.path.insert(0, str(pathlib.Path.cwd()))
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except OF_USERS as error:  # whatever the package raises
        raise UsageError(f"{option}: importing {module} raised {one_line(error)}") from error
    finally:
        sys.path.pop(0)
    if spec is None or spec.origin is None or not exists(spec.origin):
        raise UsageError(f"{option}: there is no module {module}")
    return pathlib.Path(spec.origin)


def exists(file: str) -> bool:
    """Whether there is such a file that can be reached."""
    try:
        return pathlib.Path(file).expanduser().is_file()
    except (OSError, RuntimeError):  # a name that is too long, a folder that is closed, a user without a home
        return False


def short_name(text: str) -> str:
    """`FILE.py:NAME` without its folder."""
    return pathlib.PurePath(text).name if is_file(text) and not _is_module(text) else text


def sha256(option: str, text: str) -> str:
    """The hash of the file's content."""
    path, _ = split(option, text)
    return hashlib.sha256(_content(option, path)).hexdigest()


def identity(option: str, text: str) -> tuple[str, str, str]:
    """File, hash of its content, and name: equal only if the same would be defined again."""
    path, name = split(option, text)
    return str(path.resolve()), hashlib.sha256(_content(option, path)).hexdigest(), name


def define(option: str, text: str, is_meant: Callable[[Any], bool]) -> Any:
    """Runs the file and returns what it calls NAME.

    Args:
        option: what the message names, "task" or "model".
        text: `FILE.py:NAME`.
        is_meant: whether a value of the file could be meant; for the message where NAME is none.

    Raises:
        UsageError: the file cannot be run, or has no such name.
    """
    path, name = split(option, text)
    module = _import(option, text.rpartition(":")[0]) if _is_module(text) else run(option, path)
    if not hasattr(module, name):
        known = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and (is_meant(value) or _defined_in(module, value))
        ]
        raise UsageError(f"{option}: {path} has no {name!r}, it has {', '.join(known) or f'no {option}'}")
    return getattr(module, name)


def _import(option: str, name: str) -> ModuleType:
    sys.path.insert(0, str(pathlib.Path.cwd()))
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's module raises, the message names it
        raise UsageError(f"{option}: importing {name} raised {one_line(error)}") from error
    finally:
        sys.path.pop(0)


def run(option: str, path: pathlib.Path) -> ModuleType:
    """Runs a file as a module of its own.

    Args:
        option: what the message names.
        path: the file.

    Raises:
        UsageError: it is no Python file, or it raises an error.
    """
    spec = importlib.util.spec_from_file_location(f"_asmpg_{option.lower()}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{option}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # What a dataclass needs to resolve its annotations, and what `import neighbour` needs to find the file beside it.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's file raises, the message names the file
        raise UsageError(f"{option}: running {path} raised {one_line(error)}") from error
    finally:
        sys.path.pop(0)
    return module


def _content(option: str, path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {error.strerror}") from error


def _defined_in(module: Any, value: Any) -> bool:
    """Whether a function or a class is the module's own, not imported into it."""
    own = getattr(value, "__module__", None) == module.__name__
    return own and (inspect.isfunction(value) or inspect.isclass(value))
