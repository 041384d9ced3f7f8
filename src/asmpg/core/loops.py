"""Loops: `scan` for long sequences, whose derivative keeps few carries; a counted loop and a condition over states."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from .types import UsageError


Carry = TypeVar("Carry")
# Up to here everything is kept: a carry of a thousand numbers takes two megabytes, and going through a step twice costs
# a third of the derivative's time.
SHORT = 512


def default_chunk(length: int) -> int:
    """Steps in a chunk: all of a short sequence, the square root of a long one's, where memory is least."""
    return max(1, length) if length <= SHORT else math.ceil(length**0.5)


def scan(
    body: Callable[[Carry, Any], tuple[Carry, Any]],
    start: Carry,
    xs: PyTree,
    *,
    chunk: int | None = None,
) -> tuple[Carry, Any]:
    """The same numbers and derivatives as `jax.lax.scan(body, start, xs)`, with less memory for the derivative.

    With chunks of c steps, the derivative of a sequence of H steps keeps H / c carries and the insides of c steps,
    instead of the insides of H steps. It goes through every step forward a second time.

    Args:
        body: from (carry, x) to (carry, output).
        start: the first carry.
        xs: inputs along the leading axis.
        chunk: steps in a chunk; by default all of up to 512 steps, else about the square root of their number.

    Raises:
        UsageError: a chunk of no step.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    size = default_chunk(length) if chunk is None else chunk
    if size < 1:
        raise UsageError(f"chunk: must have at least one step, got {size}")
    num_chunks = length // size
    whole = num_chunks * size

    # A function of its own, since JAX hashes what it is given, and a module's method holds arrays.
    def step(carry: Carry, x: PyTree) -> tuple[Carry, Any]:
        return body(carry, x)

    if num_chunks <= 1:
        return jax.lax.scan(step, start, xs)

    @jax.checkpoint
    def through_chunk(carry: Carry, xs: PyTree) -> tuple[Carry, Any]:
        return jax.lax.scan(step, carry, xs)

    chunks = jax.tree.map(lambda x: x[:whole].reshape(num_chunks, size, *x.shape[1:]), xs)
    carry, outputs = jax.lax.scan(through_chunk, start, chunks)
    outputs = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), outputs)
    if whole == length:
        return carry, outputs
    carry, rest = through_chunk(carry, jax.tree.map(lambda x: x[whole:], xs))
    return carry, jax.tree.map(lambda y, r: jax.numpy.concatenate([y, r]), outputs, rest)


def repeat(condition: Array, update: object, state: PyTree) -> Any:
    """Applies `update` if the condition holds.

    A loop of zero or one turns: unlike `lax.cond` it leaves the state where it is in memory when nothing happens.
    """
    return loop(0, condition.astype(jnp.int32), lambda _, s: update(s), state)


def loop(first: ArrayLike, last: ArrayLike, body: Callable[[Array, Any], Any], state: PyTree) -> Any:
    """`lax.fori_loop` over the arrays of a state; what else it holds, a task's name for one, stays outside."""
    arrays, static = eqx.partition(state, eqx.is_array)

    def arrays_body(index: Array, arrays: PyTree) -> Any:
        return eqx.filter(body(index, eqx.combine(arrays, static)), eqx.is_array)

    return eqx.combine(jax.lax.fori_loop(first, last, arrays_body, arrays), static)


def while_loop(goes_on: Callable[[Any], Array], body: Callable[[Any], Any], state: PyTree) -> Any:
    """`lax.while_loop` over the arrays of a state, as `loop` is of `lax.fori_loop`."""
    arrays, static = eqx.partition(state, eqx.is_array)

    def arrays_body(arrays: PyTree) -> Any:
        return eqx.filter(body(eqx.combine(arrays, static)), eqx.is_array)

    found = jax.lax.while_loop(lambda x: goes_on(eqx.combine(x, static)), arrays_body, arrays)
    return eqx.combine(found, static)
