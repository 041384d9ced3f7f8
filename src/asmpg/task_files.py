"""Tasks of the user's own, named on a command line as `FILE.py:NAME`."""

import hashlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from .environment import AbstractEnvironment
from .types import UsageError


_DEFAULT_HORIZON = 100
# By file, its content, name and horizon: the same task is the same object, so that what was compiled is found again.
_loaded: dict[tuple[str, str, str, int | None], AbstractEnvironment] = {}


def is_task_file(task: str) -> bool:
    """Whether a task is given as `FILE.py:NAME`."""
    return ".py:" in task or task.endswith(".py")


def split(task: str) -> tuple[pathlib.Path, str]:
    """File and name.

    Raises:
        UsageError: there is no such file, or no name after the colon.
    """
    file, _, name = task.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"task: {task!r} must be FILE.py:NAME, with the name of a task in that file")
    path = pathlib.Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"task: there is no file {file}")
    return path, name


def sha256(task: str) -> str:
    """The hash of the file's content."""
    path, _ = split(task)
    return hashlib.sha256(_content(path)).hexdigest()


def load_definition(text: str) -> Any:
    """Whatever a file calls NAME. Runs the file; only ever called for what the user typed just now.

    Args:
        text: `FILE.py:NAME`.

    Raises:
        UsageError: the file cannot be run, or has no such name.
    """
    return _definition(*split(text))


def load_task(task: str, horizon: int | None = None) -> AbstractEnvironment:
    """Runs the file and takes the task from it. Only ever called for what the user typed just now.

    Args:
        task: `FILE.py:NAME`, where NAME is an environment, a class of environments, or a function of the horizon or
            of nothing that returns one.
        horizon: the horizon; by default the task's own, or 100 for a function of the horizon.

    Raises:
        UsageError: the file cannot be run, has no such name, or the name gives no environment of that horizon.
    """
    path, name = split(task)
    key = (str(path.resolve()), hashlib.sha256(_content(path)).hexdigest(), name, horizon)
    if key not in _loaded:
        _loaded[key] = _build(task, _definition(path, name), horizon)
    return _loaded[key]


def _content(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"task: cannot read {path}: {error.strerror}") from error


def _definition(path: pathlib.Path, name: str) -> Any:
    """What the file calls `name`."""
    spec = importlib.util.spec_from_file_location(f"_asmpg_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"task: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # What a dataclass needs to resolve its annotations, and what `import neighbour` needs to find the file beside it.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises, the message names the file
        raise UsageError(f"task: running {path} raised {_one_line(error)}") from error
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if _defines_task(module, key, value)]
        raise UsageError(f"task: {path} has no {name!r}, it has {', '.join(known) or 'no task'}")
    return getattr(module, name)


def _defines_task(module: Any, key: str, value: Any) -> bool:
    """Whether a name of the module may be meant as a task, for the message."""
    if key.startswith("_"):
        return False
    own = getattr(value, "__module__", None) == module.__name__
    return isinstance(value, AbstractEnvironment) or (
        own and (inspect.isfunction(value) or inspect.isclass(value))
    )


def _build(task: str, definition: Any, horizon: int | None) -> AbstractEnvironment:
    env = definition
    if not isinstance(env, AbstractEnvironment):
        if not callable(definition):
            raise UsageError(
                f"task: {task} is a {type(definition).__name__}, not an environment or what makes one"
            )
        env = _call(task, definition, horizon)
    if not isinstance(env, AbstractEnvironment):
        raise UsageError(f"task: {task} gives a {type(env).__name__}, not an asmpg.AbstractEnvironment")
    if horizon is not None and env.horizon != horizon:
        raise UsageError(f"horizon: {task} has the horizon {env.horizon}, got {horizon}")
    return env


def _call(task: str, definition: Callable[..., Any], horizon: int | None) -> Any:
    """The environment that a class or a function makes, of this horizon where it takes one."""
    try:
        parameters = list(inspect.signature(definition).parameters.values())
        required = [
            p
            for p in parameters
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if any(parameter.name == "horizon" for parameter in parameters):
            if horizon is None and not any(parameter.name == "horizon" for parameter in required):
                return definition()
            return definition(horizon=_DEFAULT_HORIZON if horizon is None else horizon)
        if len(required) == 1:
            return definition(_DEFAULT_HORIZON if horizon is None else horizon)
        return definition()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"task: {task} raised {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {reason}"
