"""One optimiser step, and what is kept about it: Adam, clipping, micro-batches, skipped updates."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PyTree

from ..core.types import global_norm, Metrics, Scalar, Trajectory
from ..gradients.policies import AbstractTanhGaussianPolicy
from .settings import AbstractSettings


# A batch of sequences leaves a CPU core's cache. For 64 sequences of 100 steps, eight at a time take half as long; of
# 500 steps, four at a time are best for recurrent networks, two for the transformer.
CPU_MICRO_BATCH_SIZE = 8
CPU_MICRO_BATCH_STEPS = 2_048

Network = TypeVar("Network")
State = TypeVar("State", bound=Any)
Part = Literal["model", "reward", "value", "policy", "critic"]
OwnOptimiser = Callable[[AbstractSettings, Part], optax.GradientTransformation]
"""The user's own: from a learner's settings, whose rates may be traced, and which network it is for."""


class UpdateStatistics(eqx.Module):
    """Sums over the policy updates since the last record, and the run's count of skipped updates."""

    num_updates: Int[Array, ""]
    gradient_norm: Scalar
    entropy: Scalar
    num_nonfinite: Int[Array, ""]

    @classmethod
    def zero(cls) -> "UpdateStatistics":
        """Nothing seen yet."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, jnp.zeros(()), jnp.zeros(()), zero)

    def add(self, gradient_norm: Scalar, entropy: Scalar) -> "UpdateStatistics":
        """One policy update more; a non-finite one is left out of the sums (it is counted by `add_outcome`)."""
        ok = jnp.isfinite(gradient_norm) & jnp.isfinite(entropy)
        return UpdateStatistics(
            self.num_updates + ok,
            self.gradient_norm + jnp.where(ok, gradient_norm, 0.0),
            self.entropy + jnp.where(ok, entropy, 0.0),
            self.num_nonfinite,
        )

    def add_outcome(self, applied: Array) -> "UpdateStatistics":
        """Counts an update that was skipped because its gradient was not finite."""
        return eqx.tree_at(lambda s: s.num_nonfinite, self, self.num_nonfinite + ~applied)

    def metrics(self, scale: Scalar | float = 1.0) -> Metrics:
        """Mean gradient norm, with `scale` as its unit, mean entropy, and the count of skipped updates."""
        updates = jnp.maximum(self.num_updates, 1)
        means = {"gradient_norm": self.gradient_norm / updates * scale, "entropy": self.entropy / updates}
        return {**means, "num_nonfinite": self.num_nonfinite}

    def reset(self) -> "UpdateStatistics":
        """As after a record: only the count goes on."""
        return eqx.tree_at(lambda s: s.num_nonfinite, UpdateStatistics.zero(), self.num_nonfinite)


def policy_std(policy: AbstractTanhGaussianPolicy, episode: Trajectory) -> Scalar:
    """The mean standard deviation of a policy before the squashing, over the states of an episode."""
    steps = jnp.arange(episode.actions.shape[0])
    return jax.vmap(lambda s, t: policy.distribution(s, t).scale)(episode.states[:-1], steps).mean()


def optimiser(
    learning_rate: float | Scalar,
    decay: int,
    gradient_clip: float | Scalar,
    *,
    kind: Literal["adam", "lamb"] = "adam",
    weight_decay: float = 0.0,
    warmup: int = 0,
) -> optax.GradientTransformation:
    """Adam behind a global-norm clip (Appendix E), or LAMB (You et al., 2020; Zheng et al., 2022).

    Args:
        learning_rate: of the first update.
        decay: update n uses `learning_rate / sqrt(1 + n / decay)`; 0 keeps it constant.
        gradient_clip: largest global norm.
        kind: "adam" or "lamb".
        weight_decay: decoupled from the gradient.
        warmup: updates over which the rate rises linearly; 0 for none.
    """

    def rate(num_updates: ArrayLike) -> Array:
        factor = jnp.minimum((num_updates + 1.0) / warmup, 1.0) if warmup else 1.0
        return factor * learning_rate / jnp.sqrt(1.0 + num_updates / decay if decay else 1.0)

    used = rate if decay or warmup else learning_rate
    if kind == "lamb":
        method = optax.lamb(used, eps=1e-8, weight_decay=weight_decay)
    else:
        method = optax.adamw(used, weight_decay=weight_decay) if weight_decay else optax.adam(used)
    return optax.chain(optax.clip_by_global_norm(gradient_clip), method)


def optimiser_of(
    part: Part,
    settings: AbstractSettings,
    learning_rate: float | Scalar,
    own: OwnOptimiser | None = None,
    *,
    factor: float = 1.0,
) -> optax.GradientTransformation:
    """The optimiser of one network of a learner: the user's own, or Adam as the settings say.

    Args:
        part: which network.
        settings: of the learner.
        learning_rate: the setting that is this network's.
        own: the user's own, where there is one.
        factor: by which the steps of this network are longer, see `AbstractTanhGaussianPolicy`.
    """
    if own is None:
        return optimiser(factor * learning_rate, settings.learning_rate_decay, settings.gradient_clip)
    made = own(settings, part)
    return made if factor == 1.0 else optax.chain(made, optax.scale(factor))


def apply_gradient(
    transformation: optax.GradientTransformation,
    network: PyTree,
    optimiser_state: optax.OptState,
    grads: PyTree,
) -> tuple[Any, optax.OptState, Array]:
    """One descent step, skipped as a whole if the gradient or its norm is not finite.

    Returns:
        The network, the optimiser state, and whether the step was applied.
    """
    # Finite numbers whose norm overflows count too: the clip would turn them into zeros.
    applied = jnp.isfinite(global_norm(grads))
    parameters = eqx.filter(network, eqx.is_inexact_array)
    updates, new_state = transformation.update(grads, optimiser_state, parameters)
    new_network = eqx.apply_updates(network, updates)

    def keep(new: PyTree, old: PyTree) -> Any:
        return jnp.where(applied, new, old) if eqx.is_array(new) else new

    return jax.tree.map(keep, new_network, network), jax.tree.map(keep, new_state, optimiser_state), applied


def descend(
    state: State, network: str, optimiser: str, transformation: optax.GradientTransformation, grads: PyTree
) -> tuple[State, Array]:
    """A learner's state after one `apply_gradient` of a network in it, counted in its statistics; and the last result.

    Args:
        state: of a learner.
        network: name of the network in it.
        optimiser: name of its optimiser's state.
        transformation: its optimiser.
        grads: of the network.
    """
    new, optimiser_state, applied = apply_gradient(
        transformation, getattr(state, network), getattr(state, optimiser), grads
    )
    statistics = state.statistics.add_outcome(applied)
    changes = {network: new, optimiser: optimiser_state, "statistics": statistics}
    return dataclasses.replace(state, **changes), applied


def polyak_average(slow: Network, fast: Network, rate: Scalar | float) -> Network:
    """The slow parameters moved by a share of the way to the fast ones."""

    def move(slow: PyTree, fast: object) -> Any:
        return slow + rate * (fast - slow) if eqx.is_inexact_array(slow) else slow

    return jax.tree.map(move, slow, fast)


def micro_batch_size(size: int, length: int, least: int = 1) -> int:
    """How many of `size` sequences to work off at once: a divisor of the batch, on a GPU the whole of it.

    On a CPU as many as fit the cache, but at least `least`, a power of two.
    """
    if jax.default_backend() != "cpu" or size % CPU_MICRO_BATCH_SIZE:
        return size
    micro = CPU_MICRO_BATCH_SIZE
    while micro > least and micro * length > CPU_MICRO_BATCH_STEPS:
        micro //= 2
    return micro


def mean_gradient(
    loss: Callable[[Any, Any], tuple[Scalar, PyTree[Array]]],
    network: PyTree,
    batch: PyTree[Array],
    *,
    micro: int | None = None,
    least: int = 1,
) -> tuple[Any, PyTree[Array]]:
    """The gradient of a loss averaged over a batch, and the average of what else the loss returns.

    Args:
        loss: from the network and one unbatched example to the loss and any further numbers.
        network: the module to differentiate.
        batch: examples along the leading axis; on a CPU it is worked off in micro-batches that fit the cache.
        micro: how many examples at once; by default what suits sequences on this device.
        least: the fewest that the default may be, see `AbstractBackbone.least_batch`.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if micro is None:
        length = max(x.shape[1] for x in jax.tree.leaves(batch) if x.ndim > 1)
        micro = micro_batch_size(size, length, least)

    def total(network: PyTree, examples: PyTree) -> tuple[Scalar, PyTree[Array]]:
        values, others = jax.vmap(lambda example: loss(network, example))(examples)
        return values.sum() / size, jax.tree.map(lambda x: x.sum(axis=0) / size, others)

    gradient = eqx.filter_grad(total, has_aux=True)
    if micro == size:
        return gradient(network, batch)
    batches = jax.tree.map(lambda x: x.reshape(size // micro, micro, *x.shape[1:]), batch)

    def body(sums: object, examples: PyTree) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient(network, examples)), None

    shapes = eqx.filter_eval_shape(gradient, network, jax.tree.map(lambda x: x[0], batches))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(body, zeros, batches)[0]
