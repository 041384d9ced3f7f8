"""Checks of a user's task before anything is trained or solved on it."""

import contextlib
import dataclasses
import functools
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..core.checks import check_integer, MAX_HORIZON
from ..core.types import is_out_of_memory, one_line, PRNGKey, UsageError, vector_text
from .functions import check_reproducible, check_run, returned_shape
from .spec import Spec


def check_horizon(horizon: object) -> int:
    """The horizon as an int.

    Raises:
        UsageError: it is not an integer, or not from 2 to a million.
    """
    return check_integer("horizon", horizon, 2, MAX_HORIZON)


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


def episode_numbers(env: Spec) -> int:
    """Numbers in one episode."""
    return math.prod((env.horizon + 1, env.state_size + env.action_size + 1))


_checked: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def check_task(env: Any) -> None:
    """Checks, the first time for this very object, what the functions of a user's own task are.

    Their shapes and types at any step, whether they are the same each time they are traced, and their indices in an
    episode. Within a transformation of JAX's, where there are no numbers, the last is left out.

    Raises:
        UsageError: one line that names the function.
    """
    if _checked.get(id(env)) is env or env.identity() is not None:
        return
    _check_sizes(env)
    dtype, integer = jnp.result_type(float), jnp.asarray(0).dtype
    state, action = (jax.ShapeDtypeStruct((size,), dtype) for size in (env.state_size, env.action_size))
    step, key = jax.ShapeDtypeStruct((), integer), jax.random.key(0)
    start: Callable[..., Any] = lambda key: env.initial_state(key=key)  # noqa: E731
    at = f"of {env.name}, at steps 0 to {env.horizon - 1}"
    for label, shape, function, *arguments in (
        (f"initial_state of {env.name}", state.shape, start, key),
        (f"transition {at}", state.shape, env.transition, state, action, step),
        (f"reward {at}", (), env.reward, state, action, step),
        (f"terminal_reward of {env.name}", (), env.terminal_reward, state),
    ):
        returned_shape(label, function, *arguments, shape=shape)
        check_reproducible(label.split(",")[0], function, *arguments)
    known, wanted = env.known_actions(), (env.horizon, env.action_size)
    if known is not None and np.shape(known) != wanted:
        raise UsageError(f"known_actions of {env.name}: must have the shape {wanted}, got {np.shape(known)}")
    if not is_traced(env) and not isinstance(jnp.zeros(()) + 0, jax.core.Tracer):
        check_run(env.name, functools.partial(_play, env), key, _random_actions(env, 1)[0])
        with contextlib.suppress(TypeError):  # a class without weak references
            _checked[id(env)] = env


def _check_sizes(env: Any) -> None:
    if not isinstance(env.name, str):
        raise UsageError(f"name of {type(env).__name__}: must be a string, got {env.name!r}")
    check_horizon(env.horizon)
    for attribute in ("state_size", "action_size"):
        size = getattr(env, attribute)
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise UsageError(f"{attribute} of {env.name}: must be an integer >= 1, got {size!r}")
    for attribute in ("horizon", "state_size", "action_size"):
        if isinstance(vars(env).get(attribute), np.integer):
            # The same number, as what is hashed, compared and written to files.
            object.__setattr__(env, attribute, int(getattr(env, attribute)))
    for name in [field.name for field in dataclasses.fields(env) if field.metadata.get("static")]:
        if isinstance(getattr(env, name, None), np.ndarray | jax.Array):
            raise UsageError(
                f"{name} of {env.name}: an array in a static field cannot be compared; leave out static=True"
            )
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
            stacklevel=4,
        )


def validate(env: object) -> tuple[np.ndarray, np.ndarray] | None:
    """`check_task`, and a few random episodes in which nothing may be infinite or NaN.

    Returns:
        Their states and actions; None of a task whose parameters only a running program knows.

    Raises:
        UsageError: one line that names the function, the step and the value.
    """
    check_task(env)
    return None if is_traced(env) else _try_episodes(env)


def is_traced(env: object) -> bool:
    """Whether some parameter of a task is known to a running program only, as inside of `jax.jit`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(env))


def _play(env: Any, key: PRNGKey, actions: Array) -> tuple[Array, Array, Array]:
    """States, rewards without the terminal one, and the terminal one of an episode, or of its first steps."""

    def body(state: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        return jnp.asarray(env.transition(state, *x), state.dtype), (state, env.reward(state, *x))

    start = jnp.asarray(env.initial_state(key=key), float)
    last, (states, rewards) = jax.lax.scan(body, start, (actions, jnp.arange(len(actions))))
    return jnp.concatenate([states, last[None]]), rewards, env.terminal_reward(last)


def _random_actions(env: Any, num: int) -> Array:
    actions = np.random.default_rng(0).uniform(-1, 1, (num, env.horizon, env.action_size))
    return jnp.asarray(actions, float)


def _try_episodes(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """States and actions of a few random episodes; names the first number in them that is not finite."""
    num_tried = int(np.clip(_MAX_TRIED_NUMBERS // episode_numbers(env), 1, NUM_TRIED))
    keys, actions = jax.random.split(jax.random.key(0), num_tried), _random_actions(env, num_tried)
    try:
        tried = jax.jit(jax.vmap(functools.partial(_play, env)))(keys, actions)
        jax.block_until_ready(tried)
    except Exception as error:  # whatever a user's function does when it runs
        if is_out_of_memory(error):
            raise
        raise UsageError(f"{env.name}: an episode raised {one_line(error)}") from error
    states, rewards, terminal = map(np.asarray, tried)
    totals = sum(leaf.reshape(num_tried, -1).sum(axis=1) for leaf in (states, rewards, terminal))
    for i in np.flatnonzero(~np.isfinite(totals)):
        _check_finite(env, states[i], np.asarray(actions[i]), rewards[i], terminal[i])
    return states, np.asarray(actions)


def _check_finite(env: Any, states: PyTree, actions: Any, rewards: Any, terminal: Any) -> None:
    """Names the first function, in the order of time, that returned a value that is not finite."""
    if not np.isfinite(states[0]).all():
        raise UsageError(f"initial_state of {env.name}: must be finite, got {vector_text(states[0])}")
    for step in range(env.horizon):
        where = f"for state {vector_text(states[step])}, action {vector_text(actions[step])}"
        if not np.isfinite(rewards[step]):
            raise UsageError(f"reward of {env.name}: returned {rewards[step]} at step {step} {where}")
        if not np.isfinite(states[step + 1]).all():
            value = vector_text(states[step + 1])
            raise UsageError(f"transition of {env.name}: returned {value} at step {step} {where}")
    if not np.isfinite(terminal):
        where = f"after step {env.horizon - 1} for state {vector_text(states[-1])}"
        raise UsageError(f"terminal_reward of {env.name}: returned {terminal} {where}")
