"""What a world outside JAX means for a configuration: what is implied, and what cannot be had."""

import dataclasses
from typing import TYPE_CHECKING

from ..core.types import UsageError
from ..tasks.host import check_world, HostEnvironment
from .methods import Method


if TYPE_CHECKING:
    from .config import TrainConfig


# Fields that ask for the derivatives or the optimum of the task, and what they need.
_NEED_JAX = {
    "record_cosine": "the derivatives of the task",
    "optimum": "an optimum, which is found by the derivatives of the task",
    "stop_score": "a score, and so the optimum of the task",
}


def settle(config: "TrainConfig", env: HostEnvironment, method: Method) -> "TrainConfig":
    """The configuration of a run in a world outside JAX, whose reward is always learned.

    Raises:
        UsageError: the world does not declare what it has to, or something is asked for that it cannot give.
    """
    check_world(env)
    if method.name == "simulator":
        raise UsageError(f"model: simulator needs a task written in JAX, and {env.name} is outside it")
    for name, need in _NEED_JAX.items():
        if getattr(config, name):
            raise UsageError(f"{name}: needs {need}, and {env.name} is outside JAX")
    return dataclasses.replace(config, learned_reward=True) if method.imagines else config
