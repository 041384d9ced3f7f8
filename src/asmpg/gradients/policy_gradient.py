"""Policy gradients through a dynamics model: Definitions 1 and 2 (open loop) and Appendix B (closed loop)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..core.arguments import check_key
from ..core.checks import check_choice
from ..core.types import Given, PRNGKey, Scalar, UsageError
from ..models import AbstractDynamicsModel
from ..tasks.environment import AbstractEnvironment, AbstractReward, trajectory_rewards
from ..tasks.fits import check_actions, check_env, check_initial_state
from .fits import check_fits, check_policy_fits
from .imagination import imagine, imagine_in_two_passes, Imagined, Loop
from .policies import AbstractPolicy


def imagined_return(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    reward: AbstractReward,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
    *,
    loop: Loop = "open",
    two_pass: bool | None = None,
    chunk: int | None = None,
) -> tuple[Scalar, Imagined]:
    """The return of one imagined episode; its derivative in the policy's parameters is the policy gradient.

    Args:
        policy: the policy to differentiate.
        model: predicts the states.
        reward: the task, or a learned reward.
        initial_state: `s_0`.
        noise: standard normal numbers, one row a step; zeros make the policy deterministic.
        loop: "open" (Definitions 1 and 2) or "closed" (Appendix B).
        two_pass: whether to take the open-loop gradient in two passes; by default where that is faster, see the model.
        chunk: with one pass, the steps between two carries that the derivative keeps, see `asmpg.core.loops`.

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
        imagined = imagine(policy, model, initial_state, noise, loop=loop, chunk=chunk)
    return trajectory_rewards(reward, imagined.states, imagined.actions).sum(), imagined


def policy_gradient(
    policy: Given[AbstractPolicy],
    model: Given[AbstractDynamicsModel],
    env: Given[AbstractEnvironment],
    initial_state: Given[Float[ArrayLike, " state"]],
    *,
    key: Given[PRNGKey | None] = None,
    loop: Given[Loop] = "open",
    two_pass: bool | None = None,
    reward: AbstractReward | None = None,
) -> tuple[Scalar, Any]:
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
        reward: instead of the task's.

    Returns:
        The return and an ascent direction, shaped like the policy with `None` for what is not a parameter.

    Raises:
        UsageError: a model, a policy or a state of another task or horizon, an unknown loop, or two passes asked of
            the closed one.
    """
    check_choice("loop", loop, ("open", "closed"))
    check_env("policy_gradient", env)
    check_fits(model, env)
    check_key("policy_gradient", key)
    initial_state = check_initial_state("policy_gradient", env, initial_state)
    check_policy_fits(policy, env, initial_state)
    shape = (env.horizon, env.action_size)
    noise = jnp.zeros(shape) if key is None else jax.random.normal(key, shape)
    rewards: AbstractReward = env if reward is None else reward

    def objective(policy: Any) -> Scalar:
        return imagined_return(policy, model, rewards, initial_state, noise, loop=loop, two_pass=two_pass)[0]

    return eqx.filter_value_and_grad(objective)(policy)


def action_gradient(
    model: Given[AbstractDynamicsModel],
    env: Given[AbstractReward],
    initial_state: Given[Float[ArrayLike, " state"]],
    actions: Given[Float[ArrayLike, "horizon action"]],
) -> tuple[Scalar, Float[Array, "horizon action"]]:
    """The return of an action sequence under the model and `dJ/da`, an ascent direction.

    Args:
        model: predicts the states.
        env: gives the reward: the task, or a learned reward.
        initial_state: `s_0`.
        actions: the sequence.

    Raises:
        UsageError: a model, a state or actions of another task or horizon, or numbers that are not finite.
    """
    if isinstance(env, AbstractEnvironment):
        check_fits(model, env)
        start = check_initial_state("action_gradient", env, initial_state)
        sequence = check_actions("action_gradient", env, actions, bounded=False)
    elif isinstance(env, AbstractReward):
        start, sequence = jnp.asarray(initial_state), jnp.asarray(actions)
    else:
        raise UsageError(f"action_gradient: env: must be an asmpg.AbstractReward, got a {type(env).__name__}")

    def objective(actions: Array) -> Scalar:
        states = model.predict(start, actions)
        return trajectory_rewards(env, jnp.concatenate([start[None], states]), actions).sum()

    return jax.value_and_grad(objective)(sequence)
