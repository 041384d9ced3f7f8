"""Whether models and policies fit a task: one line that names the argument and what is allowed."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..core.types import Given, one_line, UsageError
from ..models import AbstractDynamicsModel, Simulator
from ..tasks.environment import AbstractEnvironment
from ..tasks.fits import check_action_of, check_made_for
from ..tasks.spec import Spec
from .policies import AbstractPolicy


_SEED_AXIS = "what a run gives has a seed axis: index its arrays, or use result.policy_of(seed)"


def check_fits(model: Given[AbstractDynamicsModel], env: Given[Spec]) -> None:
    """Raises a UsageError unless the model is one of this task at this horizon.

    Args:
        model: the model.
        env: the task, or its sizes.
    """
    if not isinstance(model, AbstractDynamicsModel):
        raise UsageError(f"model: must be an asmpg.AbstractDynamicsModel, got a {type(model).__name__}")
    check_made_for("model", model, env)
    horizon = getattr(model, "horizon", env.horizon)
    if isinstance(model, Simulator):
        if model.env.name != env.name:
            raise UsageError(f"model: is of the task {model.env.name}, not of {env.name}")
        horizon = model.env.horizon
    if horizon != env.horizon:
        raise UsageError(f"model: is of horizon {horizon}, {env.name} has horizon {env.horizon}")
    shape = predicted_shape(model, (env.state_size,), (env.horizon, env.action_size), env.name)
    if shape != (env.horizon, env.state_size):
        wanted = (env.horizon, env.state_size)
        raise UsageError(f"model: predicts states of shape {shape}, {env.name} has {wanted}")


def predicted_shape(
    model: AbstractDynamicsModel, state: tuple[int, ...], actions: tuple[int, ...], what: str
) -> tuple[int, ...]:
    """The shape of the states that a model predicts, or a UsageError where it does not take these shapes."""
    dtype = jnp.result_type(float)
    try:
        given = [jax.ShapeDtypeStruct(shape, dtype) for shape in (state, actions)]
        return eqx.filter_eval_shape(model.predict, *given).shape
    except Exception as error:  # whatever the shapes break, what the user did is give a model of another task
        raise UsageError(
            f"model: does not take the states and actions of {what} ({one_line(error)}); {_SEED_AXIS}"
        ) from error


def check_policy_fits(policy: object, env: AbstractEnvironment, state: Array) -> None:
    """Raises a UsageError unless the policy is one of this task at this horizon.

    Args:
        policy: the policy.
        env: the task.
        state: a state of the task.
    """
    if not isinstance(policy, AbstractPolicy):
        raise UsageError(f"policy: must be an asmpg.AbstractPolicy, got a {type(policy).__name__}")
    check_made_for("policy", policy, env)
    noise = jnp.zeros(env.action_size, state.dtype)
    check_action_of(
        "policy_gradient",
        env,
        lambda state: policy.sample_and_log_prob(state, jnp.asarray(0), noise)[0],
        state,
    )
