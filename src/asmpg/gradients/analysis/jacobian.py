"""Derivatives of predicted states in the actions, and their norms."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ...core.arguments import a_count, check_numbers, of, takes
from ...core.types import Given, Scalar, UsageError
from ...models import AbstractDynamicsModel, free_run
from ..fits import predicted_shape


@takes(model=of(AbstractDynamicsModel), chunk_size=a_count)
def action_jacobian(
    model: Given[AbstractDynamicsModel],
    initial_state: Given[Float[ArrayLike, " state"]],
    actions: Given[Float[ArrayLike, "horizon action"]],
    *,
    chunk_size: int = 32,
) -> Float[Array, "horizon state horizon action"]:
    """All derivatives `ds_{t+1}/da_k`, at [t, :, k, :]; zero for k > t (section 3.2).

    Args:
        model: predicts the states.
        initial_state: `s_0`.
        actions: where to differentiate.
        chunk_size: backward passes taken together; bounds the memory, not the result.

    Raises:
        UsageError: the model does not take such a state and such actions, or they are not finite numbers.
    """
    initial_state, actions = _checked("action_jacobian", model, initial_state, actions)
    states, pullback = jax.vjp(lambda actions: model.predict(initial_state, actions), actions)
    basis = jnp.eye(states.size, dtype=states.dtype).reshape(-1, *states.shape)
    rows = jax.lax.map(lambda cotangent: pullback(cotangent)[0], basis, batch_size=chunk_size)
    return rows.reshape(*states.shape, *actions.shape)


def _checked(
    function: str, model: AbstractDynamicsModel, initial_state: object, actions: object
) -> tuple[Array, Array]:
    """State and actions as arrays that the model takes."""
    state = check_numbers(function, "initial_state", initial_state, 1)
    numbers = check_numbers(function, "actions", actions, 2)
    horizon = getattr(model, "horizon", len(numbers))
    if horizon != len(numbers):
        raise UsageError(f"model: is of horizon {horizon}, the actions have horizon {len(numbers)}")
    predicted = predicted_shape(model, state.shape, numbers.shape, "these shapes")
    if predicted != (horizon, *state.shape):
        raise UsageError(
            f"{function}: model: predicts states of shape {predicted[1:]}, s_0 has {state.shape}"
        )
    return state, numbers


def final_state_jacobian(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
) -> Float[Array, "state horizon action"]:
    """The last block row of `action_jacobian`, `ds_H/da_k` at [:, k, :]: one backward pass a state component."""
    final, pullback = jax.vjp(lambda actions: model.predict(initial_state, actions)[-1], actions)
    return jax.vmap(lambda cotangent: pullback(cotangent)[0])(jnp.eye(final.size, dtype=final.dtype))


def first_action_jacobian(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
) -> Float[Array, "horizon state action"]:
    """The first block column of `action_jacobian`, `ds_{t+1}/da_0` at [t].

    In forward mode through the model's `step`, one pass an action component: cheap at any horizon.
    """

    def states(first: Array) -> Array:
        return free_run(model, initial_state, actions.at[0].set(first))

    tangents = jax.vmap(lambda tangent: jax.jvp(states, (actions[0],), (tangent,))[1])(
        jnp.eye(actions.shape[1], dtype=actions.dtype)
    )
    return jnp.moveaxis(tangents, 0, -1)


def operator_norm(matrix: Float[Array, "*batch rows columns"]) -> Float[Array, "*batch"]:
    """The largest singular value of every matrix.

    Entries are scaled before they are squared: in single precision the squares of anything below 1e-19 would
    underflow, and vanishing gradients are what this is for.
    """
    largest = jnp.abs(matrix).max(axis=(-2, -1), keepdims=True)
    scaled = matrix / jnp.where(largest > 0, largest, 1.0)
    if min(matrix.shape[-2:]) == 1:
        norm = jnp.sqrt(jnp.square(scaled).sum(axis=(-2, -1)))
    else:
        wide = scaled if matrix.shape[-2] <= matrix.shape[-1] else jnp.swapaxes(scaled, -2, -1)
        gram = jnp.einsum("...ij,...kj->...ik", wide, wide)
        norm = jnp.sqrt(jnp.linalg.eigvalsh(gram)[..., -1])
    return largest[..., 0, 0] * norm


def jacobian_norms(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
    *,
    chunk_size: int = 32,
) -> Float[Array, "horizon horizon"]:
    """The operator norms `|ds_{t+1}/da_k|` at [t, k]: how much of each action every state depends on.

    Unlike attention weights, this can be drawn for every model.

    Args:
        model: predicts the states.
        initial_state: `s_0`.
        actions: where to differentiate.
        chunk_size: see `action_jacobian`.
    """
    blocks = action_jacobian(model, initial_state, actions, chunk_size=chunk_size)
    return operator_norm(jnp.swapaxes(blocks, 1, 2))


@takes(model=of(AbstractDynamicsModel))
def reach(
    model: Given[AbstractDynamicsModel],
    initial_state: Given[Float[ArrayLike, " state"]],
    actions: Given[Float[ArrayLike, "horizon action"]],
) -> Scalar:
    """How far back the gradient reaches: `|ds_H/da_0|` in units of `|ds_H/da_{H-1}|`.

    About 1 where the first action counts as much as the last, 0 where its gradient has vanished, infinite where the
    last action has no effect on the last state at all (the toy task, the bounce and the pendulum are like this).

    Args:
        model: predicts the states.
        initial_state: `s_0`.
        actions: where to differentiate.

    Raises:
        UsageError: the model does not take such a state and such actions, or they are not finite numbers.
    """
    initial_state, actions = _checked("reach", model, initial_state, actions)
    final = final_state_jacobian(model, initial_state, actions)
    return operator_norm(final[:, 0]) / operator_norm(final[:, -1])


def state_growth(
    model: AbstractDynamicsModel,
    states: Float[Array, "horizon_plus_1 state"],
    actions: Float[Array, "horizon action"],
) -> Scalar:
    """The growth a step of the product of the Jacobians `ds_{t+1}/ds_t` (Corollary 1.1), a geometric mean.

    To the power of the horizon, it is the norm of the whole product, which itself might overflow.

    Args:
        model: with the state as its only memory.
        states: where to differentiate.
        actions: the actions taken there.
    """

    def body(carry: tuple[Array, Scalar], x: tuple[Array, ...]) -> tuple[tuple[Array, Scalar], None]:
        product, logarithm = carry
        jacobian = jax.jacrev(lambda state: model.step(model.init(state), state, *x[1:])[1])(x[0])
        product = jacobian @ product
        norm = jnp.linalg.norm(product)
        return (product / jnp.where(norm > 0, norm, 1.0), logarithm + jnp.log(norm)), None

    horizon, size = actions.shape[0], states.shape[1]
    start = (jnp.eye(size, dtype=states.dtype) / size**0.5, jnp.zeros((), states.dtype))
    (_, logarithm), _ = jax.lax.scan(body, start, (states[:-1], actions, jnp.arange(horizon)))
    return jnp.exp(logarithm / horizon)
