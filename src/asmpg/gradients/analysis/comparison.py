"""One gradient against another: direction, bias and variance."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ...core.arguments import a_tree, takes
from ...core.types import Scalar, UsageError
from ...models import AbstractDynamicsModel, Simulator
from ...tasks.environment import AbstractEnvironment, AbstractReward
from ..policies import AbstractPolicy
from ..policy_gradient import policy_gradient


def _leaves(tree: PyTree[Any]) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]


def _unit(tree: PyTree[Any]) -> tuple[list[Array], Scalar]:
    """All numbers divided by the largest, and the largest: squares of tiny gradients would underflow."""
    leaves = _leaves(tree)
    largest = jnp.stack([jnp.abs(leaf).max() for leaf in leaves]).max()
    return [leaf / jnp.where(largest > 0, largest, 1.0) for leaf in leaves], largest


def _norm(leaves: list[Array]) -> Scalar:
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), start=jnp.zeros(())))


def _shapes(tree: PyTree[Any]) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in _leaves(tree)]


def _check_shapes(about: str, given: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> None:
    if given != wanted:
        raise UsageError(f"{about}: must have arrays of the shapes {wanted}, as the truth has, got {given}")


def gradient_norm(gradient: PyTree[Any]) -> Scalar:
    """The 2-norm of a gradient taken as one vector; unlike a plain one it does not underflow."""
    unit, largest = _unit(gradient)
    return largest * _norm(unit)


@takes(estimate=a_tree, truth=a_tree)
def cosine_similarity(estimate: PyTree[Any], truth: PyTree[Any]) -> Scalar:
    """Cosine of the angle between two gradients, each taken as one vector; NaN where one of them is zero.

    Args:
        estimate: any tree of arrays; leaves that are not floating-point arrays are ignored.
        truth: a tree of the same structure.

    Raises:
        UsageError: there are no floating-point arrays in one of them, or others than in the other.
    """
    _check_shapes("cosine_similarity: estimate", _shapes(estimate), _shapes(truth))
    (one, _), (other, _) = _unit(estimate), _unit(truth)
    product = sum((jnp.sum(a * b) for a, b in zip(one, other, strict=True)), start=jnp.zeros(()))
    return product / (_norm(one) * _norm(other))


def gradient_cosine(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    start: Float[Array, " state"],
    reward: AbstractReward | None = None,
) -> Scalar:
    """Cosine between the deterministic policy's open-loop gradients through the model and through the task itself.

    Args:
        policy: the policy.
        model: predicts the states.
        env: the task.
        start: `s_0`.
        reward: in the model's imagination; by default the task's.
    """
    estimate = policy_gradient(policy, model, env, start, reward=reward)[1]
    truth = policy_gradient(policy, Simulator(env), env, start)[1]
    return cosine_similarity(estimate, truth)


class EstimatorError(eqx.Module):
    """How far several estimates of one gradient are from it; all but the cosine in units of its norm.

    Attributes:
        bias: distance of their mean from the truth.
        deviation: root mean square distance of the estimates from their mean.
        error: root mean square distance of the estimates from the truth; `error^2 = bias^2 + deviation^2`.
        cosine: of their mean and the truth.
        num_nonfinite: estimates left out because a number in them is not finite.
    """

    bias: Scalar
    deviation: Scalar
    error: Scalar
    cosine: Scalar
    num_nonfinite: Int[Array, ""]


@takes(estimates=a_tree, truth=a_tree)
def estimator_error(estimates: PyTree[Any], truth: PyTree[Any]) -> EstimatorError:
    """Bias and variance of a gradient estimator.

    Args:
        estimates: one gradient a seed (of the model's fit, or of the policy's noise) along the leading axis.
        truth: the gradient they estimate.

    Raises:
        UsageError: there are no floating-point arrays in one of them, or others than in the other.
    """
    given_shapes = _shapes(estimates)
    if not all(given_shapes):
        raise UsageError("estimator_error: estimates: must have one gradient a seed along the leading axis")
    _check_shapes("estimator_error: estimates", [shape[1:] for shape in given_shapes], _shapes(truth))
    unit, scale = _unit(truth)
    given = [leaf / jnp.where(scale > 0, scale, 1.0) for leaf in _leaves(estimates)]
    finite = jnp.stack([jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1) for leaf in given]).all(
        axis=0
    )
    count = finite.sum()

    def mean(leaf: Array) -> Array:
        mask = finite.reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.where(mask, leaf, 0.0).sum(axis=0) / count

    means, norm = [mean(leaf) for leaf in given], _norm(unit)
    pairs = list(zip(given, means, unit, strict=True))
    spread = sum((mean(jnp.square(leaf - centre)).sum() for leaf, centre, _ in pairs), start=jnp.zeros(()))
    error = sum((mean(jnp.square(leaf - true)).sum() for leaf, _, true in pairs), start=jnp.zeros(()))
    return EstimatorError(
        bias=_norm([centre - true for _, centre, true in pairs]) / norm,
        deviation=jnp.sqrt(spread) / norm,
        error=jnp.sqrt(error) / norm,
        cosine=cosine_similarity(means, unit),
        num_nonfinite=finite.size - count,
    )
