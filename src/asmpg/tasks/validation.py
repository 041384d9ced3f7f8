"""Checks of a user's task before anything is trained or solved on it."""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.checks import check_integer, MAX_HORIZON
from ..core.types import one_line, PRNGKey, Trajectory, UsageError, vector_text
from .environment import AbstractEnvironment, rollout
from .fits import episode_numbers


def check_horizon(horizon: object) -> int:
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
    _check_indices(label, function, *arguments)


def _check_indices(label: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Traces a function with NumPy arrays, which refuse an index beyond their size; JAX takes the nearest one."""

    def example(argument: object) -> Any:
        if not isinstance(argument, jax.ShapeDtypeStruct):
            return argument
        return np.full(
            argument.shape, 0.5 if jnp.issubdtype(argument.dtype, jnp.floating) else 0, argument.dtype
        )

    examples = [example(argument) for argument in arguments]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            jax.eval_shape(lambda: function(*examples))
        except IndexError as error:
            raise UsageError(f"{label}: {error}; JAX would silently take the nearest one") from error
        except Exception:
            pass


def check_reproducible(label: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Checks that a function is the same each time it is traced: one that draws from NumPy, or reads a clock, is not.

    Raises:
        UsageError: two traces differ.
    """

    def trace() -> tuple[str, list[np.ndarray]]:
        program = jax.make_jaxpr(lambda *given: function(*given))(*arguments)
        # Addresses of functions say nothing.
        constants = [np.asarray(value) for value in program.consts if not isinstance(value, jax.core.Tracer)]
        return re.sub("0x[0-9a-f]+", "", str(program)), constants

    (text, constants), (other_text, others) = trace(), trace()
    same = all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(constants, others, strict=False)
    )
    if text != other_text or not same:
        raise UsageError(
            f"{label}: is another function each time it is traced, and traced once: random numbers come from the key "
            "of initial_state, not from numpy.random or random"
        )


# Random episodes in which a user's task may return nothing that is not finite; fewer where they are large.
NUM_TRIED = 64
_MAX_TRIED_NUMBERS = 2**24
# Numbers of one episode: 4 GiB in float32, which nothing that follows could hold several of.
MAX_EPISODE_NUMBERS = 2**30
# Methods of other interfaces that a task in JAX does not have.
_NEVER_CALLED = (
    "done",
    "is_done",
    "terminated",
    "is_terminal",
    "observe",
    "observation",
    "get_obs",
    "step",
    "reset",
)


class TaskWarning(UserWarning):
    """A task defines something that is never used."""


def validate(env: AbstractEnvironment) -> None:
    """Checks what a task's functions return: shapes and dtypes at any step, and a few random episodes for NaN.

    Raises:
        UsageError: one line that names the function, the step and the value.
    """
    check_horizon(env.horizon)
    for attribute in ("state_size", "action_size"):
        size = getattr(env, attribute)
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise UsageError(f"{attribute} of {env.name}: must be an integer >= 1, got {size!r}")
    numbers = episode_numbers(env)
    if numbers > MAX_EPISODE_NUMBERS:
        raise UsageError(
            f"{env.name}: an episode has {numbers:.3g} numbers, from its horizon and its sizes; at most "
            f"{MAX_EPISODE_NUMBERS:.3g} can be worked with"
        )
    unused = [name for name in _NEVER_CALLED if callable(getattr(env, name, None))]
    if unused:
        warnings.warn(
            f"{env.name}: {', '.join(unused)} is never called: episodes last the whole horizon and states are observed "
            "whole; what ends early or is observed in part is a world of another kind",
            TaskWarning,
            stacklevel=2,
        )
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
    check_reproducible(f"initial_state of {env.name}", start, jax.random.key(0))
    check_reproducible(f"transition of {env.name}", env.transition, state, action, step)
    check_reproducible(f"reward of {env.name}", env.reward, state, action, step)
    check_reproducible(f"terminal_reward of {env.name}", env.terminal_reward, state)
    # Of a task whose parameters only a running program knows, there are no numbers to look at.
    if not is_traced(env):
        _try_episodes(env, numbers)


def is_traced(env: AbstractEnvironment) -> bool:
    """Whether some parameter of a task is known to a running program only, as inside of `jax.jit`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(env))


def _try_episodes(env: AbstractEnvironment, numbers: int) -> None:
    """Names the first number that is not finite in a few random episodes."""
    num_tried = int(np.clip(_MAX_TRIED_NUMBERS // numbers, 1, NUM_TRIED))
    actions = np.random.default_rng(0).uniform(-1, 1, (num_tried, env.horizon, env.action_size))

    def episode(key: PRNGKey, actions: Array) -> tuple[Trajectory, Array]:
        trajectory = rollout(env, actions, key=key)
        return trajectory, env.terminal_reward(trajectory.states[-1])

    tried = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), num_tried), actions)
    jax.block_until_ready(tried)
    trajectories, terminal = jax.tree.map(np.asarray, tried)
    totals = sum(
        leaf.reshape(num_tried, -1).sum(axis=1) for leaf in jax.tree.leaves((trajectories, terminal))
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
