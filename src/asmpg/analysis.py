"""What a model does to gradients: Jacobians of predicted states, and how far back they reach."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .models import AbstractDynamicsModel
from .types import Scalar


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


def reach(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
) -> Scalar:
    """How far back the gradient reaches: `|ds_H/da_0|` in units of `|ds_H/da_{H-1}|`.

    About 1 where the first action counts as much as the last, 0 where its gradient has vanished. The norm is the
    largest singular value; one backward pass a state component.

    Args:
        model: predicts the states.
        initial_state: `s_0`.
        actions: where to differentiate.
    """
    final, pullback = jax.vjp(lambda actions: model.predict(initial_state, actions)[-1], actions)
    rows = jax.vmap(lambda cotangent: pullback(cotangent)[0])(jnp.eye(final.size, dtype=final.dtype))
    blocks = jnp.stack([rows[:, 0], rows[:, -1]])
    # Scaled first: the squares of a vanishing gradient would underflow long before it does.
    largest = jnp.abs(blocks).max(axis=(1, 2))
    scaled = blocks / jnp.where(largest > 0, largest, 1.0)[:, None, None]
    first, last = largest * jnp.linalg.norm(scaled, ord=2, axis=(1, 2))
    return first / last
