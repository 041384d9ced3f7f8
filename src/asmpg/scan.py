"""`lax.scan` for long sequences: a derivative keeps the carries between chunks and goes through every chunk again."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

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
    def step(carry: Carry, x: Any) -> tuple[Carry, Any]:
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
