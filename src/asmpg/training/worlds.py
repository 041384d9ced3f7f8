"""What a simulator means for a configuration: what is implied, and what cannot be had."""

import dataclasses
from typing import TYPE_CHECKING

from ..core.types import UsageError
from ..learners.settings import AbstractSettings, Settings
from ..learners.window_value import window_of
from ..tasks.host import check_world, HostEnvironment
from ..tasks.known import check_known_reward, depends_on_step
from ..tasks.simulator import AbstractSimulator, check_simulator
from ..tasks.world import scored_task
from .methods import Method


if TYPE_CHECKING:
    from .config import TrainConfig


# Fields that ask for the derivatives or the optimum of the task, and what they need.
_OF_SCORES = {
    "optimum": "an optimum, which is found by the derivatives of the task",
    "stop_score": "a score, and so the optimum of the task",
}
_NEED_TASK = {"record_cosine": "the derivatives of the task", **_OF_SCORES}


def settle(
    config: "TrainConfig",
    env: HostEnvironment | AbstractSimulator,
    method: Method,
    settings: AbstractSettings,
) -> "TrainConfig":
    """The configuration of a run in a simulator, whose reward is learned unless it says what it is.

    Raises:
        UsageError: the simulator does not declare what it has to, or something is asked for that it cannot give.
    """
    if isinstance(env, HostEnvironment):
        check_world(env)
    else:
        check_simulator(env)
    if env.known_reward is not None:
        check_known_reward(env)
    place = "outside JAX" if isinstance(env, HostEnvironment) else "a simulator"
    if method.name == "simulator":
        raise UsageError(f"model: simulator needs a task written in JAX, and {env.name} is {place}")
    for name, need in _NEED_TASK.items():
        scored = name in _OF_SCORES and scored_task(env, asked=True) is not None
        if getattr(config, name) and not scored:
            raise UsageError(f"{name}: needs {need}, and {env.name} is {place}")
    if not method.imagines:
        return config
    if env.known_reward is None:
        return dataclasses.replace(config, learned_reward=True)
    in_windows = isinstance(settings, Settings) and window_of(env, settings) is not None
    if in_windows and not config.learned_reward and depends_on_step(env):
        raise UsageError(
            f"known_reward of {env.name}: depends on the step, which windows of an episode do not know; "
            f"imagine whole episodes (window={env.horizon}), or learn the reward (learned_reward)"
        )
    return config
