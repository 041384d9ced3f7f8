"""Linear attention with the gated delta rule, in chunks: a matrix memory that is corrected, not only added to."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.linear import Linear
from ...core.types import PRNGKey
from .base import LayerNorm, num_heads_of
from .residual import AbstractMixer, AbstractResidual, Block, stack


CHUNK_SIZE = 16


class Reads(NamedTuple):
    """What one head does with its memory, [..., length, size] or [..., length]."""

    queries: Array
    keys: Array
    values: Array
    log_decays: Array
    strengths: Array


def delta_step(
    memory: Float[Array, "*heads value key"], x: Reads
) -> tuple[Float[Array, "*heads value key"], Float[Array, "*heads value"]]:
    """`S' = a S (I - b k k^T) + b v k^T`, read as `S' q`: one element of every head."""
    memory = jnp.exp(x.log_decays)[..., None, None] * memory
    error = x.values - jnp.einsum("...vk,...k->...v", memory, x.keys)
    memory = memory + jnp.einsum("...,...v,...k->...vk", x.strengths, error, x.keys)
    return memory, jnp.einsum("...vk,...k->...v", memory, x.queries)


@jax.custom_vjp
def unit_lower_inverse(below: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
    """The inverse of a lower triangular matrix with a unit diagonal, of which only what is below it is read.

    By halves, `[[A, 0], [C, B]]^-1 = [[A^-1, 0], [-B^-1 C A^-1, B^-1]]`: matrix products only, where substitution would
    run row by row. n is a power of two.
    """
    if below.shape[-1] == 1:
        return jnp.ones_like(below)
    half = below.shape[-1] // 2
    blocks = jnp.stack([below[..., :half, :half], below[..., half:, half:]])
    first, second = unit_lower_inverse(blocks)
    corner = -second @ below[..., half:, :half] @ first
    return jnp.block([[first, jnp.zeros_like(first)], [corner, second]])


def _inverse_forward(below: Array) -> tuple[Array, Array]:
    inverse = unit_lower_inverse(below)
    return inverse, inverse


def _inverse_backward(inverse: Array, cotangent: Array) -> tuple[Array]:
    transposed = inverse.mT
    return (-jnp.tril(transposed @ cotangent @ transposed, -1),)


unit_lower_inverse.defvjp(_inverse_forward, _inverse_backward)


def delta_chunks(x: Reads, chunk_size: int = CHUNK_SIZE) -> Float[Array, "heads length value"]:
    """`delta_step` over whole sequences [heads, length, ...], a chunk at a time from an empty memory.

    Within a chunk with memory S before it, the corrections `u_t = b_t (v_t - a_t S_{t-1} k_t)` solve the unit lower
    triangular system `u_t + b_t sum_{i<t} c_{ti} (k_t . k_i) u_i = b_t (v_t - c_t S k_t)`, where `c_{ti}` is the decay
    from i to t and `c_t` that from the chunk's start. Everything but the carried memory is computed for all chunks at
    once. Yang et al. (2024), "Parallelizing linear transformers with the delta rule over sequence length".
    """
    num_heads, length, _ = x.keys.shape
    size = chunk_size
    num_chunks = -(-length // size)

    def chunks(sequence: Array) -> Array:
        """[chunks, heads, size, ...]; what is added at the end decays nothing and writes nothing."""
        padding = ((0, 0), (0, num_chunks * size - length)) + ((0, 0),) * (sequence.ndim - 2)
        sequence = jnp.pad(sequence, padding)
        return jnp.moveaxis(sequence.reshape(num_heads, num_chunks, size, *sequence.shape[2:]), 1, 0)

    queries, keys, values, log_decays, strengths = map(chunks, x)
    since_start = jnp.cumsum(log_decays, axis=-1)
    exponents = since_start[..., :, None] - since_start[..., None, :]
    causal = jnp.tri(size, dtype=bool)
    decays = jnp.where(causal, jnp.exp(jnp.where(causal, exponents, 0.0)), 0.0)
    similar = jnp.einsum("...tk,...ik->...ti", keys, keys)
    solution = unit_lower_inverse(strengths[..., None] * decays * similar)
    decayed_keys = jnp.exp(since_start)[..., None] * keys
    new = solution @ (strengths[..., None] * values)
    old = solution @ (strengths[..., None] * decayed_keys)
    attention = decays * jnp.einsum("...tk,...ik->...ti", queries, keys)
    decayed_queries = jnp.exp(since_start)[..., None] * queries
    kept_keys = jnp.exp(since_start[..., -1:] - since_start)[..., None] * keys
    kept = jnp.exp(since_start[..., -1])

    def body(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        new, old, attention, queries, keys, kept = chunk
        corrections = new - jnp.einsum("htk,hvk->htv", old, memory)
        outputs = jnp.einsum("htk,hvk->htv", queries, memory) + attention @ corrections
        memory = kept[:, None, None] * memory + jnp.einsum("htv,htk->hvk", corrections, keys)
        return memory, outputs

    start = jnp.zeros((num_heads, values.shape[-1], keys.shape[-1]), keys.dtype)
    sequences = (new, old, attention, decayed_queries, kept_keys, kept)
    outputs = jax.lax.scan(body, start, sequences)[1]
    return jnp.moveaxis(outputs, 0, 1).reshape(num_heads, num_chunks * size, -1)[:, :length]


class GatedDeltaMixer(AbstractMixer):
    """Heads with a matrix memory each, under the gated delta rule, then an output gate.

    Yang et al. (2025), "Gated delta networks: improving Mamba2 with delta rule"; without its short convolution, and
    without its norm before the gate, which hides the size of what was read: it fitted worse (docs/backbones.md).
    """

    query_key_value_gate: Linear
    rates: Linear
    log_rate: Float[Array, " heads"]
    output: Linear

    def __init__(self, width: int, horizon: int, *, key: PRNGKey):
        """Memories of the horizon's roots up to all of it, spread evenly (in the logarithm) over the heads.

        A head that is to remember for n steps must also write weakly: a key of unit length in d dimensions overwrites
        a share b / d of the memory in every step, so that b starts at d / n.
        """
        keys = jax.random.split(key, 3)
        self.query_key_value_gate = Linear(width, 4 * width, key=keys[0])
        num_heads = num_heads_of(width)
        memory = horizon ** (jnp.arange(1, num_heads + 1) / num_heads)
        strength = jnp.minimum(0.5, width / num_heads / memory)
        rates = Linear(width, 2 * num_heads, key=keys[1], scale=0.1 * width**-0.5)
        bias = jnp.concatenate([jnp.log(strength) - jnp.log1p(-strength), jnp.zeros(num_heads)])
        self.rates = eqx.tree_at(lambda linear: linear.bias, rates, bias)
        self.log_rate = -jnp.log(memory * math.log(2.0))
        self.output = Linear(width, width, key=keys[2])

    def _reads(self, x: Array) -> tuple[Reads, Array]:
        """What every head does [..., heads, size], and the output gate [..., width]."""
        *projected, gate = jnp.split(self.query_key_value_gate(x), 4, axis=-1)
        queries, keys, values = (p.reshape(*p.shape[:-1], *self.log_rate.shape, -1) for p in projected)
        strengths, rates = jnp.split(self.rates(x), 2, axis=-1)
        log_decays = -jnp.exp(self.log_rate) * jax.nn.softplus(rates)
        queries, keys = _unit(jax.nn.silu(queries)), _unit(jax.nn.silu(keys))
        return Reads(queries, keys, jax.nn.silu(values), log_decays, jax.nn.sigmoid(strengths)), gate

    def _write(self, outputs: Array, gate: Array) -> Array:
        return self.output(outputs.reshape(gate.shape) * jax.nn.silu(gate))

    def init(self) -> Float[Array, "heads value key"]:
        num_heads = self.log_rate.shape[0]
        size = self.output.weight.shape[0] // num_heads
        return jnp.zeros((num_heads, size, size))

    def step(
        self, carry: Float[Array, "heads value key"], x: Float[Array, " width"]
    ) -> tuple[Float[Array, "heads value key"], Float[Array, " width"]]:
        reads, gate = self._reads(x)
        carry, outputs = delta_step(carry, reads)
        return carry, self._write(outputs, gate)

    def unroll(self, xs: Float[Array, "length width"]) -> Float[Array, "length width"]:
        reads, gate = self._reads(xs)
        outputs = delta_chunks(Reads(*(jnp.moveaxis(sequence, 1, 0) for sequence in reads)))
        return self._write(jnp.moveaxis(outputs, 0, 1), gate)


def _unit(x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
    """Scaled to length 1; a zero vector stays one."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


class GatedDelta(AbstractResidual):
    """Two blocks of linear attention with the gated delta rule, three heads of 24 (Yang et al. 2025)."""

    embed: Linear
    blocks: tuple[Block, ...]
    final_norm: LayerNorm
    dropout_rate: float = eqx.field(static=True, default=0.0)

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        width: int = 72,
        num_layers: int = 2,
        key: PRNGKey,
    ) -> "GatedDelta":
        """Heads of 24 features or more, which remember up to the horizon."""
        return cls(*stack(GatedDeltaMixer, input_size, width, num_layers, horizon, key=key), dropout)
