"""Gradient norms against the horizon (Figure 5b)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt32

from ...core.arguments import a_count, a_key, several, shown, takes
from ...core.types import Given, PRNGKey, UsageError
from ...models import AbstractDynamicsModel
from ...tasks.environment import AbstractEnvironment, uniform_actions
from ..fits import check_fits
from ..policies import AbstractPolicy
from ..policy_gradient import policy_gradient
from .comparison import gradient_norm
from .jacobian import final_state_jacobian, operator_norm


def gradient_norms(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "samples horizon action"],
    *,
    chunk_size: int = 8,
) -> Float[Array, " samples"]:
    """`|ds_H/da_0|` for several action sequences.

    Args:
        model: predicts the states.
        initial_state: `s_0`.
        actions: where to differentiate.
        chunk_size: sequences taken together; bounds the memory, not the result.
    """
    return jax.lax.map(
        lambda one: operator_norm(final_state_jacobian(model, initial_state, one)[:, 0]),
        actions,
        batch_size=chunk_size,
    )


def policy_gradient_norms(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    initial_state: Float[Array, " state"],
    *,
    keys: Key[Array, " samples"] | UInt32[Array, "samples 2"],
    chunk_size: int = 8,
) -> Float[Array, " samples"]:
    """Norms of the open-loop policy gradient, one a draw of the policy's noise.

    Args:
        policy: a stochastic policy.
        model: predicts the states.
        env: gives the rewards.
        initial_state: `s_0`.
        keys: one a sample.
        chunk_size: samples taken together.
    """

    def one(key: PRNGKey) -> Array:
        return gradient_norm(policy_gradient(policy, model, env, initial_state, key=key)[1])

    return jax.lax.map(one, keys, batch_size=chunk_size)


@dataclasses.dataclass(frozen=True)
class GradientNormProfile:
    """Norms against the horizon. Statistics leave out what is not finite, and `num_nonfinite` counts it.

    Attributes:
        horizons: in the order given.
        state_norms: `|ds_H/da_0|`, one a random action sequence.
        policy_norms: norms of the policy gradient, one a draw of the policy's noise; None without policies.
    """

    horizons: tuple[int, ...]
    state_norms: Float[np.ndarray, "horizons samples"]
    policy_norms: Float[np.ndarray, "horizons samples"] | None = None

    @property
    def num_nonfinite(self) -> int:
        """How many of all norms are not finite."""
        return sum(
            int((~np.isfinite(norms)).sum())
            for norms in (self.state_norms, self.policy_norms)
            if norms is not None
        )

    def statistics(
        self, which: str = "state_norms", quantiles: Sequence[float] = (0.1, 0.9)
    ) -> dict[str, Any]:
        """Mean, median and quantiles over the samples, each [horizons]; NaN where no sample is finite.

        Args:
            which: "state_norms" or "policy_norms".
            quantiles: which quantiles.
        """
        norms = getattr(self, which)
        kept = [row[np.isfinite(row)] for row in norms]
        kept = [row if row.size else np.array([np.nan]) for row in kept]
        names = {f"quantile_{level:g}": level for level in quantiles}
        return {
            "mean": np.array([row.mean() for row in kept]),
            "median": np.array([np.median(row) for row in kept]),
            **{name: np.array([np.quantile(row, level) for row in kept]) for name, level in names.items()},
        }


def _a_problem(about: str, value: Any) -> Any:
    """A task and a model."""
    try:
        env, model = value
    except (TypeError, ValueError):
        env = model = None
    if not isinstance(env, AbstractEnvironment) or not isinstance(model, AbstractDynamicsModel):
        raise UsageError(f"{about}: must be a task and a dynamics model, got {shown(value)}")
    return env, model


@takes(problems=several(_a_problem), key=a_key, num_samples=a_count, chunk_size=a_count)
def gradient_norm_profile(
    problems: Given[Sequence[tuple[AbstractEnvironment, AbstractDynamicsModel]]],
    *,
    key: PRNGKey,
    policies: Sequence[AbstractPolicy] | None = None,
    num_samples: int = 50,
    chunk_size: int = 8,
) -> GradientNormProfile:
    """Norms of `ds_H/da_0` over uniform random actions and, if policies are given, of the policy gradient.

    Args:
        problems: the task and the model at every horizon.
        key: draws the actions and the policies' noise.
        policies: a policy for every problem.
        num_samples: samples at every horizon.
        chunk_size: samples taken together.

    Raises:
        UsageError: a horizon twice, a model of another task or horizon, or not one policy a problem.
    """
    horizons = tuple(env.horizon for env, _ in problems)
    if len(set(horizons)) < len(horizons):
        raise UsageError(f"horizons: must differ, got {', '.join(map(str, horizons))}")
    if policies is not None and len(policies) != len(problems):
        raise UsageError(f"policies: needs one a problem, got {len(policies)} for {len(problems)}")
    state_norms, policy_norms = [], []
    norms, policy_gradients = eqx.filter_jit(gradient_norms), eqx.filter_jit(policy_gradient_norms)
    for index, (env, model) in enumerate(problems):
        check_fits(model, env)
        start_key, action_key, noise_key = jax.random.split(jax.random.fold_in(key, env.horizon), 3)
        start = env.initial_state(key=start_key)
        keys = jax.random.split(action_key, num_samples)
        actions = jax.vmap(lambda one, env=env: uniform_actions(env, key=one))(keys)
        state_norms.append(np.asarray(norms(model, start, actions, chunk_size=chunk_size)))
        if policies is not None:
            noise_keys = jax.random.split(noise_key, num_samples)
            drawn = policy_gradients(
                policies[index], model, env, start, keys=noise_keys, chunk_size=chunk_size
            )
            policy_norms.append(np.asarray(drawn))
    return GradientNormProfile(horizons, np.stack(state_norms), np.stack(policy_norms) if policies else None)
