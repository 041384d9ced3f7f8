"""Whether what a public function was given fits the task: one line that names the argument and what is allowed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..core.arguments import as_numbers
from ..core.types import one_line, Trajectory, UsageError
from .spec import Spec
from .validation import check_task


# Actions of float32 arithmetic may pass the bounds by a few roundings.
_SLACK = 1e-5
_METHODS = ("initial_state", "transition", "reward", "terminal_reward")


def check_env(function: str, env: Any) -> None:
    """Raises a UsageError unless this is a task: an environment with all its methods, see `check_task`."""
    if hasattr(env, "observation_size") and not isinstance(env, type):
        raise UsageError(
            f"{function}: {env.name} is a simulator, and this needs a task, an asmpg.AbstractEnvironment: of a "
            "simulator no optimum and no derivatives are known"
        )
    if isinstance(env, type) or not all(callable(getattr(env, name, None)) for name in _METHODS):
        kind = f"the class {env.__name__}" if isinstance(env, type) else f"a {type(env).__name__}"
        raise UsageError(f"{function}: env: must be an asmpg.AbstractEnvironment, got {kind}")
    check_task(env)


def check_actions(
    function: str, env: Spec, actions: object, *, bounded: bool = True
) -> Float[Array, "horizon action"]:
    """The actions as a floating-point array: lists, NumPy arrays and integers are taken too.

    Args:
        function: what messages begin with.
        env: the task.
        actions: what was given; within a transformation of JAX's only its shape and kind can be seen.
        bounded: whether they have to be within [-1, 1].

    Raises:
        UsageError: not numbers of shape [horizon, action], not finite, or out of bounds.
    """
    wanted = (env.horizon, env.action_size)
    array = as_numbers(function, "actions", actions, wanted, f"{env.name} needs {wanted}")
    if not isinstance(array, jax.core.Tracer) and bounded:
        largest = float(np.abs(np.asarray(array)).max(initial=0.0))
        if largest > 1 + _SLACK:
            raise UsageError(
                f"{function}: actions: must be within [-1, 1], the largest has size {largest:.4g}"
            )
    return array


def check_actions_taken(function: str, env: Spec, trajectory: Trajectory) -> Trajectory:
    """The trajectory, once it is known that the policy's actions are within [-1, 1] where their numbers are.

    Raises:
        UsageError: names the first step at which they are not.
    """
    if not isinstance(trajectory.actions, jax.core.Tracer):
        sizes = np.abs(np.asarray(trajectory.actions)).max(axis=-1)
        if (sizes > 1 + _SLACK).any():
            step = int((sizes > 1 + _SLACK).argmax())
            raise UsageError(
                f"{function}: policy: actions must be within [-1, 1], at step {step} of {env.name} one has size "
                f"{sizes[step]:.4g}"
            )
    return trajectory


def check_initial_state(function: str, env: Spec, state: PyTree) -> Float[Array, " state"]:
    """The initial state as a floating-point array: lists, NumPy arrays and integers are taken too.

    Raises:
        UsageError: not finite numbers of shape [state].
    """
    wanted = (env.state_size,)
    return as_numbers(function, "initial_state", state, wanted, f"{env.name} needs {wanted}")


def check_made_for(argument: str, thing: object, env: Spec) -> None:
    """Raises a UsageError for a network of ours that was made for another task or horizon, though its sizes may fit.

    What was made for a task of the same name with other parameters fits: how a policy does there is worth knowing.
    """
    made_for = getattr(thing, "made_for", None)
    if not isinstance(made_for, str):
        return
    if made_for not in ("", env.name):
        raise UsageError(f"{argument}: is of the task {made_for}, not of {env.name}")
    horizon = getattr(thing, "horizon", env.horizon) if getattr(thing, "observe_time", True) else env.horizon
    means = getattr(thing, "means", None)
    horizon = horizon if means is None else means.shape[-2]
    if horizon != env.horizon:
        raise UsageError(f"{argument}: is of horizon {horizon}, {env.name} has horizon {env.horizon}")


def check_action_of(function: str, env: Spec, act: Callable[[Any], Any], state: Array) -> None:
    """Raises a UsageError unless a policy, called with a state, gives an action of the task.

    Args:
        function: what messages begin with.
        env: the task.
        act: the policy at step 0.
        state: a state.
    """
    try:
        shape = jax.eval_shape(act, state).shape
    except Exception as error:  # whatever the shapes break, what the user did is give another policy
        raise UsageError(
            f"{function}: policy: does not take the states of {env.name} ({one_line(error)}); the policy of a run has "
            "a seed axis, result.policy_of(seed) is one of them"
        ) from error
    if shape != (env.action_size,):
        raise UsageError(
            f"{function}: policy: gives actions of shape {shape}, {env.name} needs {(env.action_size,)}"
        )
