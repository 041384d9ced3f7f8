"""Episodes rolled out through a model: step by step, in two passes, or as a fixed point of whole sequences."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..core.loops import loop as turns
from ..core.loops import scan
from ..core.types import Scalar, UsageError
from ..models import AbstractDynamicsModel, ActionSequenceModel
from .policies import AbstractPolicy


Loop = Literal["open", "closed"]
Imagine = Literal["auto", "sequential", "parallel"]

# A sweep that changes no state by more than this share of the component's largest value is the last one. In units of
# the rounding error: about 1e-5 in single precision.
TOLERANCE = 100.0
# After as many sweeps, going through the episode step by step is cheaper on any device.
MAX_SWEEPS = 32


# A carry that grows is given more room every so many steps, since a transformer attends over what there is room for: at
# horizon 500, 570 ms an update instead of 735. Every block is compiled by itself.
MIN_BLOCK_SIZE, MAX_BLOCKS = 128, 8
# Numbers of such carries that a derivative step by step keeps of one episode at most (16 MiB), before it goes through
# chunks twice. A transformer reaches that at horizon 120; at 500, 189 MiB become 35.
MAX_KEPT = 4_194_304


class Sweeps(eqx.Module):
    """How a fixed point was found.

    Attributes:
        number: sweeps made.
        converged: whether the last one changed nothing any more; else the episode was rolled out step by step.
    """

    number: Int[Array, ""]
    converged: Bool[Array, ""]


class Imagined(eqx.Module):
    """One episode imagined through a model.

    Attributes:
        states: `s_0 .. s_H`, environment units.
        actions: `a_0 .. a_{H-1}`.
        log_probs: of the actions; the negative mean estimates the policy's entropy per step.
        sweeps: how the states were found, where that was not step by step.
    """

    states: Float[Array, "horizon_plus_1 state"]
    actions: Float[Array, "horizon action"]
    log_probs: Float[Array, " horizon"]
    sweeps: Sweeps | None = None

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


def _chunk_of(carry: Any, horizon: int) -> int | None:
    """Steps between two kept carries of this size: about the square root if all of them would take too much."""
    numbers = sum(jnp.size(leaf) for leaf in jax.tree.leaves(carry))
    return math.ceil(horizon**0.5) if numbers * horizon > MAX_KEPT else None


def _grows(model: AbstractDynamicsModel, carry: Any) -> bool:
    """Whether a carry takes more room for more steps."""
    return jax.tree.map(jnp.shape, model.resize(carry, 1)) != jax.tree.map(jnp.shape, carry)


def find_states(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
    guess: Float[Array, "horizon_plus_1 state"] | None = None,
    *,
    tolerance: float | None = None,
    max_sweeps: int = MAX_SWEEPS,
) -> tuple[Float[Array, "horizon_plus_1 state"], Sweeps]:
    """The states of an episode as a fixed point: all actions from all states, all states from all actions.

    A sweep is one batched call of the policy and one `predict`. Since `s_t` depends on earlier actions only, and
    these on earlier states, the first k states are exact after k sweeps, whatever the guess; a policy that hardly
    minds the state needs two or three. Without a gradient.

    Args:
        policy: the policy.
        model: predicts the states.
        initial_state: `s_0`.
        noise: standard normal numbers, one row a step.
        guess: states to begin with, such as those of a similar policy; by default `s_0` throughout.
        tolerance: the largest change of a state, as a share of the component's largest value, that ends the search; by
            default `TOLERANCE` rounding errors.
        max_sweeps: after as many without agreement the episode is rolled out step by step.
    """
    horizon = noise.shape[0]
    steps = jnp.arange(horizon)
    policy, model = jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, (policy, model)
    )
    if tolerance is None:
        tolerance = TOLERANCE * float(jnp.finfo(initial_state.dtype).eps)

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        states, number, _ = carry
        actions = jax.vmap(policy.sample_and_log_prob)(states[:-1], steps, noise)[0]
        found = jnp.concatenate([initial_state[None], model.predict(initial_state, actions)])
        change = jnp.abs(found - states).max(axis=0)
        agreed = jnp.all(change <= tolerance * jnp.abs(found).max(axis=0))
        return found, number + 1, agreed | (number + 1 >= horizon)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return ~carry[2] & (carry[1] < max_sweeps)

    first = jnp.broadcast_to(initial_state, (horizon + 1, initial_state.shape[0]))
    states = first if guess is None else guess.at[0].set(initial_state)
    start = (states, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    states, number, converged = jax.lax.while_loop(unfinished, sweep, start)

    def step_by_step(_: Array, states: Array) -> Array:
        return imagine(policy, model, initial_state, noise).states

    # A loop of zero or one turns: of a batch, `lax.cond` would work out both branches.
    states = turns(0, 1 - converged.astype(jnp.int32), step_by_step, states)
    return states, Sweeps(number, converged)


def imagine_in_two_passes(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    noise: Float[Array, "horizon action"],
    *,
    guess: Float[Array, "horizon_plus_1 state"] | None = None,
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
        guess: makes the first pass a fixed point that begins here (`find_states`), instead of step by step.
    """
    sweeps = None
    if guess is not None:
        visited, sweeps = find_states(policy, model, initial_state, noise, guess)
    else:
        visited = imagine(policy, model, initial_state, noise).states
    visited = jax.lax.stop_gradient(visited)
    steps = jnp.arange(noise.shape[0])
    actions, log_probs = jax.vmap(policy.sample_and_log_prob)(visited[:-1], steps, noise)
    states = model.predict(initial_state, actions)
    return Imagined(jnp.concatenate([initial_state[None], states]), actions, log_probs, sweeps)


def resolve(how: Imagine, model: AbstractDynamicsModel, loop: Loop) -> bool:
    """Whether the first pass is to be a fixed point.

    The one place where "auto" is decided. On a CPU step by step wins for every backbone and horizon measured (see
    benchmarks/README.md), since all sweeps together multiply more than one pass over the steps. On an accelerator,
    where it has not been measured yet, a step should cost its launches and not its multiplications, so that a backbone
    that is parallel over time gains.

    Raises:
        UsageError: "parallel" where there is nothing to gain or no open-loop gradient.
    """
    sequence = isinstance(model, ActionSequenceModel)
    if how == "parallel":
        check_parallel(sequence, loop)
        return True
    if how == "sequential" or not sequence or loop == "closed":
        return False
    return jax.default_backend() != "cpu" and type(model.backbone).parallel


def check_parallel(sequence: bool, loop: Loop) -> None:
    """Raises a UsageError where imagination as a fixed point has no meaning.

    Args:
        sequence: whether the model is an action-sequence model.
        loop: which policy gradient.
    """
    if loop == "closed":
        raise UsageError("imagine: parallel is for the open-loop gradient only, not with loop closed")
    if not sequence:
        raise UsageError("imagine: parallel needs an action-sequence model, whose predict reads no state")
