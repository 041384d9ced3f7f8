"""Tasks by their names: built in, of an installed package, `FILE.py:NAME` or `gymnasium:ID`."""

import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import Any

from ..core import user_code as user_files
from ..core.checks import check_choice
from ..core.types import one_line, UsageError
from . import make, TASKS
from .environment import AbstractEnvironment
from .gymnasium import from_gymnasium
from .validation import check_horizon
from .world import inside, World


_DEFAULT_HORIZON = 100
# By file, its content, name and horizon: the same task is the same object, so that what was compiled is found again.
_loaded: dict[tuple[tuple[str, str, str], int | None], World] = {}
# What stands before the id of a Gymnasium environment.
GYMNASIUM = "gymnasium:"


def is_task_file(task: str) -> bool:
    """Whether a task is given as `FILE.py:NAME`."""
    return user_files.is_file(task)


def split(task: str) -> tuple[pathlib.Path, str]:
    """File and name.

    Raises:
        UsageError: there is no such file, or no name after the colon.
    """
    return user_files.split("task", task)


def sha256(task: str) -> str:
    """The hash of the file's content."""
    return user_files.sha256("task", task)


def is_gymnasium(task: str) -> bool:
    """Whether a task is given as `gymnasium:ID`."""
    return task.startswith(GYMNASIUM)


def find_task(task: str, horizon: object) -> World:
    """The task of a name, or of the user's own code.

    Raises:
        UsageError: there is none, or not of this horizon.
    """
    horizon = check_horizon(horizon)
    if is_task_file(task) or is_gymnasium(task):
        return load_world(task, horizon)
    if task not in TASKS and task in user_files.installed("asmpg.tasks"):
        return load_added(task, horizon)
    check_choice("task", task, TASKS, *user_files.installed("asmpg.tasks"), "FILE.py:NAME")
    return make(task, horizon)


def load_task(task: str, horizon: int | None = None) -> AbstractEnvironment:
    """`load_world` for a task that has to be one that is written in JAX."""
    return inside(load_world(task, horizon))


def load_world(task: str, horizon: int | None = None) -> World:
    """Runs the file and takes the task from it. Only ever called for what the user typed just now.

    Args:
        task: `gymnasium:ID`, or `FILE.py:NAME`, where NAME is an environment, a class of environments, or a function
            of the horizon or of nothing that returns one.
        horizon: the horizon; by default the task's own, or 100 for a function of the horizon.

    Raises:
        UsageError: the file cannot be run, has no such name, or the name gives no environment of that horizon.
    """
    known = is_gymnasium(task)
    key = ((task, "", "") if known else user_files.identity("task", task), horizon)
    if key not in _loaded:
        if known:
            _loaded[key] = from_gymnasium(task.removeprefix(GYMNASIUM), horizon, name=task)
        else:
            definition = user_files.define("task", task, lambda value: isinstance(value, World))
            _loaded[key] = build(task, definition, horizon)
    return _loaded[key]


@functools.lru_cache(maxsize=128)
def load_added(name: str, horizon: int) -> World:
    """The task that an installed package adds by an entry point `asmpg.tasks`; the same arguments give the same object.

    Raises:
        UsageError: it cannot be loaded, or gives no environment of that horizon.
    """
    point = user_files.installed("asmpg.tasks")[name]
    return build(name, user_files.load_installed("task", point), horizon)


def build(task: str, definition: object, horizon: int | None) -> World:
    """The environment that a definition is or makes.

    Args:
        task: how messages name it.
        definition: an environment, a class of environments, or a function of the horizon or of nothing.
        horizon: the horizon; by default the task's own, or 100 for a function of the horizon.

    Raises:
        UsageError: it gives no environment of that horizon.
    """
    env = definition
    if not isinstance(env, World):
        if not callable(definition):
            raise UsageError(
                f"task: {task} is a {type(definition).__name__}, not an environment or what makes one"
            )
        env = _call(task, definition, horizon)
    if not isinstance(env, World):
        wanted = "not an asmpg.AbstractEnvironment, AbstractSimulator or HostEnvironment"
        raise UsageError(f"task: {task} gives a {type(env).__name__}, {wanted}")
    try:
        _, _, _, found = env.name, env.state_size, env.action_size, env.horizon
    except Exception as error:
        raise UsageError(f"task: the sizes of {task} raised {one_line(error)}") from error
    if horizon is not None and found != horizon:
        raise UsageError(f"horizon: {task} has the horizon {found}, got {horizon}")
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
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(f"task: {task} raised {one_line(error)}") from error
