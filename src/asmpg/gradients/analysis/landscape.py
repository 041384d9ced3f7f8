"""Return landscapes: the return along one or two directions in the space of actions or of parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...core.arguments import a_count, a_function, a_tree, numbers, several, shown, takes
from ...core.types import Given, global_norm, one_line, PRNGKey, Scalar, UsageError
from ...models import AbstractDynamicsModel
from ...models.normalisation import Normaliser
from ...tasks.environment import AbstractEnvironment, trajectory_rewards
from ..policies import AbstractPolicy
from ..policy_gradient import imagined_return


def action_return(
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
) -> Scalar:
    """The return of an action sequence, according to a model.

    Args:
        model: predicts the states.
        env: gives the rewards.
        initial_state: `s_0`.
        actions: `a_0 .. a_{H-1}`.
    """
    states = jnp.concatenate([initial_state[None], model.predict(initial_state, actions)])
    return trajectory_rewards(env, states, actions).sum()


def policy_return(
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    initial_state: Float[Array, " state"],
    policy: AbstractPolicy,
) -> Scalar:
    """The return of a deterministic policy, according to a model.

    Args:
        model: predicts the states.
        env: gives the rewards.
        initial_state: `s_0`.
        policy: the policy.
    """
    noise = jnp.zeros((env.horizon, env.action_size), initial_state.dtype)
    return imagined_return(policy, model, env, initial_state, noise, loop="closed")[0]


def random_direction(like: PyTree[Any], *, key: PRNGKey) -> PyTree[Any]:
    """A random direction of length 1 in the space of a network's parameters, or of actions.

    Args:
        like: the network or array. Its frozen statistics are no parameters and stay where they are.
        key: draws the direction.

    Returns:
        The same structure, with None for what is no floating-point array.
    """

    def is_normaliser(node: object) -> bool:
        return isinstance(node, Normaliser)

    leaves, structure = jax.tree.flatten(eqx.filter(like, eqx.is_inexact_array))
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for leaf, k in zip(leaves, keys, strict=True)]
    direction = jax.tree.map(
        lambda node: jax.tree.map(jnp.zeros_like, node) if is_normaliser(node) else node,
        jax.tree.unflatten(structure, drawn),
        is_leaf=is_normaliser,
    )
    return jax.tree.map(lambda leaf: leaf / global_norm(direction), direction)


@takes(objective=a_function, centre=a_tree, directions=several(a_tree), offsets=numbers(), chunk_size=a_count)
def return_landscape(
    objective: Given[Callable[[Any], Scalar]],
    centre: PyTree[Any],
    directions: Given[Sequence[PyTree[Any]]],
    offsets: Given[Float[Array, " offsets"]],
    *,
    chunk_size: int = 64,
) -> Float[Array, "*grid"]:
    """The objective at `centre + sum_i offset_i * direction_i`, on a grid of offsets (Figure 5c).

    Args:
        objective: from what is moved to a number, for one: `functools.partial(action_return, model, env, start)`.
        centre: an action sequence or a policy.
        directions: one or two, each of the structure of `centre`; see `random_direction`.
        offsets: how far to go along each of them, in units of its length.
        chunk_size: evaluations taken together; bounds the memory, not the result.

    Returns:
        [offsets] for one direction, [offsets, offsets] for two, the first direction along the first axis.

    Raises:
        UsageError: neither one direction nor two, one of another structure, or an objective that gives no number.
    """
    if len(directions) not in (1, 2):
        raise UsageError(f"return_landscape: needs one direction or two, got {len(directions)}")
    offsets = jnp.asarray(offsets, float).ravel()
    arrays, static = eqx.partition(centre, eqx.is_array)

    def value(coordinates: Array) -> Scalar:
        moved = eqx.combine(arrays, static)
        for coordinate, direction in zip(coordinates, directions, strict=True):
            moved = eqx.apply_updates(moved, jax.tree.map(lambda x, c=coordinate: c * x, direction))
        return objective(moved)

    try:
        first = jax.eval_shape(value, jnp.zeros(len(directions)))
    except Exception as error:  # whatever the user's objective raises, or the trees that do not match
        raise UsageError(f"return_landscape: moving the centre raised {one_line(error)}") from error
    if getattr(first, "shape", None) != ():
        raise UsageError(f"return_landscape: objective: must give a number, got {shown(first)}")
    grid = jnp.stack(jnp.meshgrid(*[offsets] * len(directions), indexing="ij"), axis=-1)
    values = jax.lax.map(value, grid.reshape(-1, len(directions)), batch_size=chunk_size)
    return values.reshape(grid.shape[:-1])
