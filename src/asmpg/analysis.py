"""What a model does to gradients: Jacobians of predicted states."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .models import AbstractDynamicsModel


def action_jacobian(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
    *,
    chunk_size: int = 32,
) -> Float[Array, "horizon state horizon action"]:
    """All derivatives `ds_{t+1}/da_k`, at [t, :, k, :]; zero for k > t (section 3.2).

    Args:
        model: predicts the states.
        initial_state: `s_0`.
        actions: where to differentiate.
        chunk_size: backward passes taken together; bounds the memory, not the result.
    """
    states, pullback = jax.vjp(lambda actions: model.predict(initial_state, actions), actions)
    basis = jnp.eye(states.size, dtype=states.dtype).reshape(-1, *states.shape)
    rows = jax.lax.map(lambda cotangent: pullback(cotangent)[0], basis, batch_size=chunk_size)
    return rows.reshape(*states.shape, *actions.shape)
