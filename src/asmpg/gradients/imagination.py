"""Episodes rolled out through a model: step by step, or in two passes."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..core.loops import scan
from ..core.types import Scalar
from ..models import AbstractDynamicsModel
from .policies import AbstractPolicy


Loop = Literal["open", "closed"]

# A carry that grows is given more room every so many steps, since a transformer attends over what there is room for: at
# horizon 500, 570 ms an update instead of 735. Every block is compiled by itself.
MIN_BLOCK_SIZE, MAX_BLOCKS = 128, 8
# Numbers of such carries that a derivative step by step keeps of one episode at most (16 MiB), before it goes through
# chunks twice. A transformer reaches that at horizon 120; at 500, 189 MiB become 35.
MAX_KEPT = 4_194_304


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
    chunk: int | None = None,
) -> Imagined:
    """Rolls the policy out through the model, step by step.

    Args:
        policy: the policy.
        model: predicts the states.
        initial_state: `s_0`.
        noise: standard normal numbers, one row a step.
        loop: "open" feeds the policy constant states, so that a derivative of the result is the open-loop one;
            "closed" differentiates through the policy's inputs too.
        chunk: steps between two carries that a derivative keeps, see `asmpg.core.loops`.

    Raises:
        UsageError: a chunk of no step.
    """

    def body(carry: tuple[Any, Array], x: tuple[Array, Array]) -> tuple[tuple[Any, Array], tuple[Array, ...]]:
        model_carry, state = carry
        step, step_noise = x
        seen = jax.lax.stop_gradient(state) if loop == "open" else state
        action, log_prob = policy.sample_and_log_prob(seen, step, step_noise)
        carry = model.step(model_carry, state, action, step)
        return carry, (carry[1], action, log_prob)

    horizon = noise.shape[0]
    carry, parts = (model.init(initial_state), initial_state), []
    size = horizon
    if _grows(model, carry[0]):
        size = max(MIN_BLOCK_SIZE, -(-horizon // MAX_BLOCKS))
        chunk = _chunk_of(model.resize(carry[0], horizon), horizon) if chunk is None else chunk
    for first in range(0, horizon, size):
        last = min(first + size, horizon)
        carry = (model.resize(carry[0], last), carry[1])
        carry, part = scan(body, carry, (jnp.arange(first, last), noise[first:last]), chunk=chunk)
        parts.append(part)
    states, actions, log_probs = (jnp.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return Imagined(jnp.concatenate([initial_state[None], states]), actions, log_probs)


def _chunk_of(carry: PyTree, horizon: int) -> int | None:
    """Steps between two kept carries of this size: about the square root if all of them would take too much."""
    numbers = sum(jnp.size(leaf) for leaf in jax.tree.leaves(carry))
    return math.ceil(horizon**0.5) if numbers * horizon > MAX_KEPT else None


def _grows(model: AbstractDynamicsModel, carry: PyTree) -> bool:
    """Whether a carry takes more room for more steps."""
    return jax.tree.map(jnp.shape, model.resize(carry, 1)) != jax.tree.map(jnp.shape, carry)


def imagine_in_two_passes(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
) -> Imagined:
    """The same numbers and the same open-loop derivative as `imagine(..., loop="open")`, in two passes.

    The first pass finds the states, without a gradient. The second holds them constant, so that all actions come
    from one batched call of the policy and all states from one `predict`: nothing is differentiated step by step, a
    parallel backbone stays parallel and a recurrent one uses its hand-written derivative.

    Args:
        policy: the policy.
        model: predicts the states.
        initial_state: `s_0`.
        noise: standard normal numbers, one row a step.
    """
    visited = jax.lax.stop_gradient(imagine(policy, model, initial_state, noise).states)
    steps = jnp.arange(noise.shape[0])
    actions, log_probs = jax.vmap(policy.sample_and_log_prob)(visited[:-1], steps, noise)
    states = model.predict(initial_state, actions)
    return Imagined(jnp.concatenate([initial_state[None], states]), actions, log_probs)
