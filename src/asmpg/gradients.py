"""Policy gradients through a dynamics model: Definitions 1 and 2 (open loop) and Appendix B (closed loop)."""

from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .environment import AbstractEnvironment, AbstractReward, trajectory_rewards
from .models import AbstractDynamicsModel
from .policies import AbstractPolicy
from .types import PRNGKey, Scalar, UsageError


Loop = Literal["open", "closed"]
Policy = TypeVar("Policy", bound=AbstractPolicy)


class Imagined(eqx.Module):
    """One episode imagined through a model.

    Attributes:
        states: `s_0 .. s_H`, environment units.
        actions: `a_0 .. a_{H-1}`.
        log_probs: of the actions; the negative mean estimates the policy's entropy per step.
    """

    states: Float[Array, "horizon_plus_1 state"]
    actions: Float[Array, "horizon action"]
    log_probs: Float[Array, " horizon"]

    @property
    def entropy(self) -> Scalar:
        """A one-sample estimate of the policy's entropy per step."""
        return -self.log_probs.mean()


def imagine(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
    *,
    loop: Loop = "closed",
) -> Imagined:
    """Rolls the policy out through the model, step by step.

    Args:
        policy: the policy.
        model: predicts the states.
        initial_state: `s_0`.
        noise: standard normal numbers, one row a step.
        loop: "open" feeds the policy constant states, so that a derivative of the result is the open-loop one;
            "closed" differentiates through the policy's inputs too.
    """

    def body(carry: tuple[Any, Array], x: tuple[Array, Array]) -> tuple[tuple[Any, Array], tuple[Array, ...]]:
        model_carry, state = carry
        step, step_noise = x
        seen = jax.lax.stop_gradient(state) if loop == "open" else state
        action, log_prob = policy.sample_and_log_prob(seen, step, step_noise)
        carry = model.step(model_carry, state, action, step)
        return carry, (carry[1], action, log_prob)

    start = (model.init(initial_state), initial_state)
    _, (states, actions, log_probs) = jax.lax.scan(body, start, (jnp.arange(noise.shape[0]), noise))
    return Imagined(jnp.concatenate([initial_state[None], states]), actions, log_probs)


def imagine_in_two_passes(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
) -> Imagined:
    """The same numbers and the same open-loop derivative as `imagine(..., loop="open")`, in two passes.

    The first pass runs step by step without a gradient. The second holds its states constant, so that all actions
    come from one batched call of the policy and all states from one `predict`: nothing is differentiated step by
    step, a parallel backbone stays parallel and a recurrent one uses its hand-written derivative.
    """
    visited = jax.lax.stop_gradient(imagine(policy, model, initial_state, noise).states)
    steps = jnp.arange(noise.shape[0])
    actions, log_probs = jax.vmap(policy.sample_and_log_prob)(visited[:-1], steps, noise)
    states = model.predict(initial_state, actions)
    return Imagined(jnp.concatenate([initial_state[None], states]), actions, log_probs)


def imagined_return(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    reward: AbstractReward,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
    *,
    loop: Loop = "open",
    two_pass: bool | None = None,
) -> tuple[Scalar, Imagined]:
    """The return of one imagined episode; its derivative in the policy's parameters is the policy gradient.

    Args:
        policy: the policy to differentiate.
        model: predicts the states.
        reward: what pays: the task, or a learned reward.
        initial_state: `s_0`.
        noise: standard normal numbers, one row a step; zeros make the policy deterministic.
        loop: "open" (Definitions 1 and 2) or "closed" (Appendix B).
        two_pass: whether to take the open-loop gradient in two passes; by default where that is faster, see the model.

    Raises:
        UsageError: a loop other than these two, or two passes asked of the closed loop.
    """
    if loop not in ("open", "closed"):
        raise UsageError(f"loop: {loop!r} is not one of open, closed")
    if two_pass and loop == "closed":
        raise UsageError("two_pass: only the open-loop gradient can be taken in two passes")
    if loop == "open" and (model.two_pass if two_pass is None else two_pass):
        imagined = imagine_in_two_passes(policy, model, initial_state, noise)
    else:
        imagined = imagine(policy, model, initial_state, noise, loop=loop)
    return trajectory_rewards(reward, imagined.states, imagined.actions).sum(), imagined


def policy_gradient(
    policy: Policy,
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    initial_state: Float[Array, " state"],
    *,
    key: PRNGKey | None = None,
    loop: Loop = "open",
    two_pass: bool | None = None,
    reward: AbstractReward | None = None,
) -> tuple[Scalar, Policy]:
    """The return of one imagined episode and its gradient in the policy's parameters.

    Args:
        policy: the policy.
        model: predicts the states; `Simulator(env)` gives the true gradient.
        env: gives the horizon, and the rewards unless `reward` is given.
        initial_state: `s_0`.
        key: draws the policy's noise; without a key the policy is deterministic.
        loop: "open": states fed to the policy are constants (Definitions 1 and 2); "closed": full derivative
            (Appendix B).
        two_pass: see `imagined_return`.
        reward: what pays instead of the task.

    Returns:
        The return and an ascent direction, shaped like the policy with `None` for what is not a parameter.

    Raises:
        UsageError: an unknown loop.
    """
    shape = (env.horizon, env.action_size)
    noise = jnp.zeros(shape) if key is None else jax.random.normal(key, shape)
    reward = env if reward is None else reward

    def objective(policy: Policy) -> Scalar:
        return imagined_return(policy, model, reward, initial_state, noise, loop=loop, two_pass=two_pass)[0]

    return eqx.filter_value_and_grad(objective)(policy)


def action_gradient(
    model: AbstractDynamicsModel,
    env: AbstractReward,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
) -> tuple[Scalar, Float[Array, "horizon action"]]:
    """The return of an action sequence under the model and `dJ/da`, an ascent direction.

    Args:
        model: predicts the states.
        env: what pays: the task, or a learned reward.
        initial_state: `s_0`.
        actions: the sequence.
    """

    def objective(actions: Array) -> Scalar:
        states = model.predict(initial_state, actions)
        return trajectory_rewards(env, jnp.concatenate([initial_state[None], states]), actions).sum()

    return jax.value_and_grad(objective)(actions)
