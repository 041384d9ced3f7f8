"""Checks of a user's task before anything is trained or solved on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.checks import check_integer, MAX_HORIZON
from ..core.types import one_line, PRNGKey, Trajectory, UsageError, vector_text
from .environment import AbstractEnvironment, rollout


def check_horizon(horizon: Any) -> int:
    """The horizon as an int.

    Raises:
        UsageError: it is not an integer, or not from 2 to a million.
    """
    return check_integer("horizon", horizon, 2, MAX_HORIZON)


def returned_shape(label: str, function: Callable[..., Any], *arguments: Any, shape: tuple[int, ...]) -> None:
    """Checks, without running it, that a user's function returns floating-point numbers of a shape.

    Args:
        label: how messages name the function.
        function: the function.
        *arguments: arrays, or `jax.ShapeDtypeStruct`s in their place.
        shape: the shape that is wanted.

    Raises:
        UsageError: it raises an error, or returns something else.
    """
    try:
        out = jax.eval_shape(function, *arguments)
    except (
        Exception,
        SystemExit,
    ) as error:  # whatever the user's code raises, the message names the function
        raise UsageError(f"{label}: raised {one_line(error)}") from error
    wanted = f"must return floating-point numbers of shape {shape}"
    if not hasattr(out, "shape"):
        raise UsageError(f"{label}: {wanted}, got a {type(out).__name__}")
    if out.shape != shape or not jnp.issubdtype(out.dtype, jnp.floating):
        raise UsageError(f"{label}: {wanted}, got shape {out.shape}, dtype {out.dtype}")


# Random episodes in which a user's task may return nothing that is not finite.
NUM_TRIED = 64


def validate(env: AbstractEnvironment) -> None:
    """Checks what a task's functions return: shapes and dtypes at any step, and a few random episodes for NaN.

    Raises:
        UsageError: one line that names the function, the step and the value.
    """
    check_horizon(env.horizon)
    for attribute in ("state_size", "action_size"):
        size = getattr(env, attribute)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{attribute} of {env.name}: must be an integer >= 1, got {size!r}")
    step = jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)
    state, action = (
        jax.ShapeDtypeStruct((size,), jnp.result_type(float)) for size in (env.state_size, env.action_size)
    )
    start = functools.partial(_start, env)
    returned_shape(f"initial_state of {env.name}", start, jax.random.key(0), shape=state.shape)
    at = f"of {env.name}, at steps 0 to {env.horizon - 1}"
    returned_shape(f"transition {at}", env.transition, state, action, step, shape=state.shape)
    returned_shape(f"reward {at}", env.reward, state, action, step, shape=())
    returned_shape(f"terminal_reward of {env.name}", env.terminal_reward, state, shape=())

    actions = np.random.default_rng(0).uniform(-1, 1, (NUM_TRIED, env.horizon, env.action_size))

    def episode(key: PRNGKey, actions: Array) -> tuple[Trajectory, Array]:
        trajectory = rollout(env, actions, key=key)
        return trajectory, env.terminal_reward(trajectory.states[-1])

    tried = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), NUM_TRIED), actions)
    trajectories, terminal = jax.tree.map(np.asarray, tried)
    totals = sum(
        leaf.reshape(NUM_TRIED, -1).sum(axis=1) for leaf in jax.tree.leaves((trajectories, terminal))
    )
    for i in np.flatnonzero(~np.isfinite(totals)):
        _check_finite(env, jax.tree.map(lambda leaf, i=i: leaf[i], trajectories), terminal[i])


def _start(env: AbstractEnvironment, key: PRNGKey) -> Array:
    return env.initial_state(key=key)


def _check_finite(env: AbstractEnvironment, trajectory: Any, terminal: Any) -> None:
    """Names the first function, in the order of time, that returned a value that is not finite."""
    states, actions, rewards = trajectory.states, trajectory.actions, trajectory.rewards
    if not np.isfinite(states[0]).all():
        raise UsageError(f"initial_state of {env.name}: must be finite, got {vector_text(states[0])}")
    for step in range(env.horizon):
        where = f"for state {vector_text(states[step])}, action {vector_text(actions[step])}"
        last = step == env.horizon - 1
        if not (np.isfinite(rewards[step]) or (last and not np.isfinite(terminal))):
            raise UsageError(f"reward of {env.name}: returned {rewards[step]} at step {step} {where}")
        if not np.isfinite(states[step + 1]).all():
            value = vector_text(states[step + 1])
            raise UsageError(f"transition of {env.name}: returned {value} at step {step} {where}")
    if not np.isfinite(terminal):
        where = f"after step {env.horizon - 1} for state {vector_text(states[-1])}"
        raise UsageError(f"terminal_reward of {env.name}: returned {terminal} {where}")
