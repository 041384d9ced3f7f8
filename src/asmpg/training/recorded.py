"""What recorded episodes mean for a configuration: whether they fit the task, and what cannot be had without one."""

import pathlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ..core.types import Trajectory, UsageError, vector_text
from ..learners.settings import AbstractSettings, Settings
from ..tasks.context import recorded_with_context
from ..tasks.data import Episodes
from ..tasks.data_files import load_episodes
from ..tasks.recording import Recording
from ..tasks.spec import ends_early, Spec
from ..tasks.stack import stack_of
from .methods import Method


if TYPE_CHECKING:
    from .config import TrainConfig


# Weight of the distance to the recorded actions where there is nothing but recorded episodes.
CLONING = 1.0
# Fields that ask for a task, and what for.
_NEED_TASK = {
    "record_cosine": "the derivatives of a task",
    "optimum": "a task with an optimum",
    "stop_score": "a score, and so the optimum of a task",
}


def find_data(data: object) -> Episodes | Recording | None:
    """The episodes that were given, read from their file if need be.

    Raises:
        UsageError: they are none, or the file holds none.
    """
    if isinstance(data, str | pathlib.Path):
        return load_episodes(data)
    if data is not None and not isinstance(data, Episodes | Recording):
        raise UsageError(
            f"data: must be asmpg.Episodes or the name of a file of them, got a {type(data).__name__}"
        )
    return data


def recording_of(data: Episodes | Recording) -> Recording:
    """What is known of episodes without them."""
    return data.recording if isinstance(data, Episodes) else data


def as_seen(data: Episodes | Recording, env: Spec) -> Episodes | Recording:
    """The episodes with the context of the world's observations, if they have none of their own."""
    stack = stack_of(env)
    return data if stack is None or recording_of(data).context else recorded_with_context(data, stack.length)


def check_fits_task(data: Episodes | Recording, env: Spec, settings: AbstractSettings) -> None:
    """Raises a UsageError that says what of the episodes is not of the task's size, or in other units."""
    known, stack = recording_of(data), stack_of(env)
    size = env.state_size - ends_early(env) if stack is None or known.context else stack.size
    named = {"horizon": ("steps an episode", known.horizon, env.horizon)}
    named["observation"] = ("components of an observation", known.observation_size, size)
    named["action"] = ("components of an action", known.action_size, env.action_size)
    for name, (what, got, wanted) in named.items():
        if got != wanted:
            longer = name == "horizon" and got > wanted
            hint = f"; load_episodes(FILE, horizon={wanted}) cuts them" if longer else ""
            raise UsageError(f"data: {known.name} has {got} {what}, {env.name} has {wanted}{hint}")
    if known.ends_early and not ends_early(env):
        raise UsageError(
            f"data: {known.name} has episodes that end before the horizon, those of {env.name} never do"
        )
    _check_range(known, env)
    room = -(-settings.replay_capacity // env.horizon)
    if known.num_episodes >= room:
        raise UsageError(
            f"replay_capacity: must be more than the {known.num_episodes * env.horizon} recorded steps of "
            f"{known.name}, got {settings.replay_capacity}"
        )


def _check_range(known: Recording, env: Spec) -> None:
    """The bounds of the action, where the task names its own."""
    for name in ("action_low", "action_high"):
        own, got = getattr(env, name, None), np.asarray(getattr(known, name))
        if own is not None and not np.allclose(got, np.ravel(own), rtol=1e-5):
            raise UsageError(
                f"data: {known.name} has the {name} {vector_text(got)}, {env.name} {vector_text(np.ravel(own))}; "
                "load_episodes(FILE, action_bounds=(low, high)) names the range"
            )


def settle_alone(
    config: "TrainConfig", known: Recording, method: Method, settings: AbstractSettings
) -> AbstractSettings:
    """The settings of a run on recorded episodes alone, whose policy stays near them unless they say otherwise.

    Raises:
        UsageError: something is asked for that only a task can give.
    """
    if not method.imagines or method.name == "simulator" or not isinstance(settings, Settings):
        raise UsageError(
            f"model: {method.name} has no dynamics model that could be fitted on recorded episodes"
        )
    for name, need in _NEED_TASK.items():
        if getattr(config, name):
            raise UsageError(f"{name}: needs {need}, and there are recorded episodes alone")
    if known.num_episodes < 2:
        raise UsageError(f"data: {known.name} has one episode, at least 2 are needed: one judges the policy")
    return settings if "cloning" in config.overrides else settings.replace(cloning=CLONING)


def what_networks_see(data: Episodes | Recording | None, env: Spec) -> Trajectory | None:
    """The episodes as a task's networks see them (leading axis); their shapes, if no more is known."""
    if data is None:
        return None
    if isinstance(data, Episodes):
        return data.trajectories(ends_early(env))
    number, horizon = data.num_episodes, data.horizon

    def zeros() -> Trajectory:
        return Trajectory(
            jnp.zeros((number, horizon + 1, env.state_size)),
            jnp.zeros((number, horizon, env.action_size)),
            jnp.zeros((number, horizon)),
        )

    return jax.eval_shape(zeros)
