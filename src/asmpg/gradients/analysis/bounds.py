"""The bound of Theorem 1 on the norm of the policy gradient, with its constants estimated where the policy goes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.arguments import a_count, of, takes
from ...core.types import Given, Scalar, Step
from ...models import AbstractDynamicsModel
from ...tasks.environment import AbstractEnvironment
from ...tasks.fits import check_initial_state
from ..fits import check_fits
from ..policies import AbstractPolicy
from ..policy_gradient import imagine, policy_gradient
from .comparison import gradient_norm
from .jacobian import jacobian_norms


class GradientBound(eqx.Module):
    """Theorem 1 in numbers. All norms are 2-norms, those of matrices operator norms.

    Attributes:
        gradient_norm: of the open-loop policy gradient.
        reward_lipschitz: `L_r`, the largest `|dr/ds|` at the states `s_1 .. s_H`, the terminal reward's included.
        policy_lipschitz: `L_pi`, the largest `|d pi_theta(s) / d theta|` at the states `s_0 .. s_{H-1}`: Lipschitz in
            the *parameters*, which is what the proof uses.
        jacobian_sum: the sum of `|ds_t/da_k|` over `k < t <= H`.
        action_sum: the sum of `|dr/da_t|`, of which the theorem knows nothing: its reward reads the state alone.
    """

    gradient_norm: Scalar
    reward_lipschitz: Scalar
    policy_lipschitz: Scalar
    jacobian_sum: Scalar
    action_sum: Scalar

    @property
    def paper_bound(self) -> Scalar:
        """`L_r L_pi sum |ds_t/da_k|`, the theorem as printed: for rewards that read the state alone."""
        return self.reward_lipschitz * self.policy_lipschitz * self.jacobian_sum

    @property
    def bound(self) -> Scalar:
        """The same and `L_pi sum |dr/da_t|`: for every reward."""
        return self.paper_bound + self.policy_lipschitz * self.action_sum

    @property
    def ratio(self) -> Scalar:
        """The gradient's norm in units of the bound: at most 1."""
        return self.gradient_norm / self.bound


def parameter_jacobian_norm(policy: AbstractPolicy, state: Float[Array, " state"], step: Step) -> Scalar:
    """The operator norm of `d pi_theta(s, t) / d theta` for the deterministic policy.

    Args:
        policy: the policy.
        state: where.
        step: when.
    """
    arrays, static = eqx.partition(policy, eqx.is_inexact_array)
    action, pullback = jax.vjp(lambda arrays: eqx.combine(arrays, static).mode(state, step), arrays)
    rows = jax.vmap(lambda cotangent: pullback(cotangent)[0])(jnp.eye(action.size, dtype=action.dtype))
    flat = [leaf.reshape(action.size, -1) for leaf in jax.tree.leaves(rows)]
    # The Gram matrix is as small as the action; the parameters may be millions.
    gram = sum((leaf @ leaf.T for leaf in flat), start=jnp.zeros((action.size, action.size)))
    return jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1])


@takes(
    policy=of(AbstractPolicy),
    model=of(AbstractDynamicsModel),
    env=of(AbstractEnvironment),
    chunk_size=a_count,
)
def theorem1_bound(
    policy: Given[AbstractPolicy],
    model: Given[AbstractDynamicsModel],
    env: Given[AbstractEnvironment],
    initial_state: Given[Float[Array, " state"]],
    *,
    chunk_size: int = 32,
) -> GradientBound:
    """The norm of the deterministic policy's open-loop gradient, and Theorem 1's bound on it.

    The theorem's suprema are taken over the states the policy visits in the model, which is all the proof needs.

    Args:
        policy: the policy.
        model: predicts the states.
        env: gives the rewards.
        initial_state: `s_0`.
        chunk_size: see `action_jacobian`.

    Raises:
        UsageError: model or state are not of this task and horizon.
    """
    check_fits(model, env)
    initial_state = check_initial_state("theorem1_bound", env, initial_state)
    noise = jnp.zeros((env.horizon, env.action_size), initial_state.dtype)
    visited = imagine(policy, model, initial_state, noise)
    states, actions, steps = visited.states, visited.actions, jnp.arange(env.horizon)
    by_state, by_action = jax.vmap(jax.grad(env.reward, argnums=(0, 1)))(states[:-1], actions, steps)
    at_end = jax.grad(env.terminal_reward)(states[-1])
    # Nothing moves s_0, so the reward's slope there does not count.
    slopes = jnp.concatenate([by_state[1:], at_end[None]])
    grads = policy_gradient(policy, model, env, initial_state)[1]
    return GradientBound(
        gradient_norm=gradient_norm(grads),
        reward_lipschitz=jnp.linalg.norm(slopes, axis=-1).max(),
        policy_lipschitz=jax.vmap(lambda s, t: parameter_jacobian_norm(policy, s, t))(
            states[:-1], steps
        ).max(),
        jacobian_sum=jacobian_norms(model, initial_state, actions, chunk_size=chunk_size).sum(),
        action_sum=jnp.linalg.norm(by_action, axis=-1).sum(),
    )
