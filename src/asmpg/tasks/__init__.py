"""The eleven built-in tasks, by name, and `from_ode` for a user's own."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from types import MappingProxyType

from ..core.arguments import shown
from ..core.types import Given, UsageError
from ..core.user_code import installed
from . import mechanics, myriad, toy
from .control import OdeEnvironment
from .environment import AbstractEnvironment
from .mechanics import DoublePendulum, OneBounce
from .ode import from_ode
from .stability import DiscretisationWarning
from .toy import CreditAssignment
from .validation import check_horizon
from .world import inside


__all__ = [
    "MYRIAD_TASKS",
    "TASKS",
    "CreditAssignment",
    "DiscretisationWarning",
    "DoublePendulum",
    "OdeEnvironment",
    "OneBounce",
    "from_ode",
    "make",
]

# Every built-in task: a function of the horizon and of keyword parameters, all with defaults.
TASKS: MappingProxyType[str, Callable[..., AbstractEnvironment]] = MappingProxyType(
    {
        "cancer_treatment": myriad.cancer_treatment,
        "bioreactor": myriad.bioreactor,
        "mould_fungicide": myriad.mould_fungicide,
        "bacteria": myriad.bacteria,
        "harvest": myriad.harvest,
        "invasive_plant": myriad.invasive_plant,
        "hiv_treatment": myriad.hiv_treatment,
        "timber_harvest": myriad.timber_harvest,
        "credit_assignment": toy.credit_assignment,
        "one_bounce": mechanics.one_bounce,
        "double_pendulum": mechanics.double_pendulum,
    }
)
MYRIAD_TASKS = tuple(TASKS)[:8]


def make(name: Given[str], horizon: Given[int] = 100, **parameters: Given[float]) -> AbstractEnvironment:
    """A built-in task, or one that an installed package adds (entry points `asmpg.tasks`).

    The same arguments give the same object, so that what JAX compiled for it is found again.

    Args:
        name: one of `TASKS`, or of an installed package.
        horizon: number of actions in an episode, an integer of at least 2.
        **parameters: constants of the task to change, by their names in its function.

    Raises:
        UsageError: an unknown task or parameter, a value that is not allowed, or a task that is outside JAX.

    Examples:
        >>> env = make("harvest", horizon=50)
        >>> env.horizon, env.state_size, env.action_size
        (50, 1, 1)
    """
    if not isinstance(name, str):
        raise UsageError(f"name: must be one of {', '.join(TASKS)}, got {shown(name)}")
    horizon = check_horizon(horizon)
    added = installed("asmpg.tasks")
    if name not in TASKS and name in added:
        from .files import load_added  # which imports this module

        if parameters:
            raise UsageError(
                f"{name}: the task of an installed package takes no parameters here, got {parameters}"
            )
        return inside(load_added(name, horizon))
    if name not in TASKS:
        raise UsageError(f"task: unknown name {name!r}, known are {', '.join([*TASKS, *added])}")
    known = [parameter for parameter in inspect.signature(TASKS[name]).parameters if parameter != "horizon"]
    for parameter, value in parameters.items():
        if parameter not in known:
            allowed = ", ".join(known) if known else "none"
            raise UsageError(f"{name}: unknown parameter {parameter!r}, known are {allowed}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"{name}: {parameter} must be a finite number, got {value!r}")
    return _make(name, horizon, tuple(sorted((key, float(value)) for key, value in parameters.items())))


@functools.lru_cache(maxsize=128)
def _make(name: str, horizon: int, parameters: tuple[tuple[str, float], ...]) -> AbstractEnvironment:
    env = TASKS[name](horizon=horizon, **dict(parameters))
    return dataclasses.replace(env, parameters=parameters)
