"""A GPT-2 style transformer backbone on one page (Appendix E.1): pre-norm blocks, positions, GELU."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...core.linear import Linear
from ...core.types import PRNGKey, UsageError
from .base import AbstractBackbone, dropout, LayerNorm, num_heads_of


class Block(eqx.Module):
    """Causal self-attention and a feed-forward layer, each added to the stream it reads."""

    attention_norm: LayerNorm
    query_key_value: Linear
    projection: Linear
    feed_forward_norm: LayerNorm
    expand: Linear
    contract: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, width: int, num_heads: int, num_blocks: int, *, key: PRNGKey):
        """GPT-2's scales: 0.02, and 0.02 / sqrt(2 * blocks) for the two maps that write to the stream."""
        keys = jax.random.split(key, 4)
        residual_scale = 0.02 / (2 * num_blocks) ** 0.5
        self.attention_norm = LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width, key=keys[0], scale=0.02)
        self.projection = Linear(width, width, key=keys[1], scale=residual_scale)
        self.feed_forward_norm = LayerNorm(width)
        self.expand = Linear(width, 4 * width, key=keys[2], scale=0.02)
        self.contract = Linear(4 * width, width, key=keys[3], scale=residual_scale)
        self.num_heads = num_heads

    def heads(self, x: Float[Array, "*length width"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values, each [..., heads, head]."""
        projected = self.query_key_value(self.attention_norm(x))
        projected = projected.reshape(*x.shape[:-1], 3, self.num_heads, x.shape[-1] // self.num_heads)
        return projected[..., 0, :, :], projected[..., 1, :, :], projected[..., 2, :, :]

    def feed_forward(self, x: Float[Array, "*length width"]) -> Float[Array, "*length width"]:
        """The per-element update of the stream."""
        return self.contract(jax.nn.gelu(self.expand(self.feed_forward_norm(x))))


# Beyond this length all weights would be too much to keep: 5.6 MiB a sequence and layer at 500, 295 at 4,000.
LONG, FEW = 1_024, 64


def attention_weights(
    queries: Float[Array, "last heads head"], keys: Float[Array, "length heads head"]
) -> Float[Array, "heads last length"]:
    """Causal softmax attention of a sequence's last elements, or of all: what is later gets exactly 0."""
    return masked_weights(queries, keys, jnp.arange(keys.shape[0])[-queries.shape[0] :])


def masked_weights(
    queries: Float[Array, "some heads head"],
    keys: Float[Array, "length heads head"],
    positions: Int[Array, " some"],
) -> Float[Array, "heads some length"]:
    """The same of elements at any positions."""
    scores = jnp.einsum("qhd,khd->hqk", queries, keys) / queries.shape[-1] ** 0.5
    causal = positions[:, None] >= jnp.arange(keys.shape[0])[None, :]
    return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)


def attend(
    queries: Float[Array, "length heads head"],
    keys: Float[Array, "length heads head"],
    values: Float[Array, "length heads head"],
    *,
    dropout_rate: float = 0.0,
    key: PRNGKey | None = None,
    block_size: int | None = None,
) -> Float[Array, "length heads head"]:
    """The values mixed by their attention weights, with dropout on these.

    Elements are taken in blocks, each with nothing but what it may look back on: at length 500 that leaves out four
    ninths of all weights.

    Args:
        queries: what each element looks for.
        keys: what it can be found by.
        values: what it tells.
        dropout_rate: the share of weights that is dropped.
        key: for dropout; without one there is none.
        block_size: elements a block, by default 64 or an eighth of the length, whichever is more; beyond `LONG`
            elements, the derivative computes the weights again, a few rows at once, so that memory grows like the
            length.
    """
    length = queries.shape[0]
    size = max(64, -(-length // 8)) if block_size is None else block_size
    starts = range(0, length, size)
    block_keys = [None] * len(starts) if key is None else list(jax.random.split(key, len(starts)))
    mixed = []
    for start, block_key in zip(starts, block_keys, strict=True):
        end = min(start + size, length)
        mix = _mix if block_size is not None or length <= LONG else _mix_few_rows_at_once
        mixed.append(
            mix(queries[start:end], keys[:end], values[:end], jnp.arange(start, end), dropout_rate, block_key)
        )
    return jnp.concatenate(mixed)


def _mix(
    queries: Array, keys: Array, values: Array, positions: Array, dropout_rate: float, key: PRNGKey | None
) -> Array:
    weights = dropout(masked_weights(queries, keys, positions), dropout_rate, key)
    return jnp.einsum("hqk,khd->qhd", weights, values)


def _mix_few_rows_at_once(
    queries: Array, keys: Array, values: Array, positions: Array, dropout_rate: float, key: PRNGKey | None
) -> Array:
    """`_mix` in a loop that keeps nothing for the derivative."""
    num_rows = queries.shape[0]
    num_blocks = -(-num_rows // FEW)
    missing = num_blocks * FEW - num_rows
    rows = jnp.pad(queries, ((0, missing), (0, 0), (0, 0))).reshape(num_blocks, FEW, *queries.shape[1:])
    block_positions = jnp.pad(positions, (0, missing)).reshape(num_blocks, FEW)
    keys_of_blocks = None if key is None else jax.random.split(key, num_blocks)

    @jax.checkpoint
    def block(x: tuple[Array, Array, PRNGKey | None]) -> Array:
        return _mix(x[0], keys, values, x[1], dropout_rate, x[2])

    mixed = jax.lax.map(block, (rows, block_positions, keys_of_blocks))
    return mixed.reshape(-1, *mixed.shape[2:])[:num_rows]


def rotate(
    x: Float[Array, "*length heads head"], positions: Int[Array, "*length"]
) -> Float[Array, "*length heads head"]:
    """Turns pairs of components by angles proportional to the position, so that scores see distances alone.

    Su et al. (2021), "RoFormer: enhanced transformer with rotary position embedding", section 3.2.
    """
    first, second = jnp.split(x, 2, axis=-1)
    frequencies = 10_000.0 ** (-jnp.arange(first.shape[-1]) / first.shape[-1])
    angles = positions[..., None, None] * frequencies.astype(x.dtype)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


Carry = tuple[
    Float[Array, "blocks length heads head"], Float[Array, "blocks length heads head"], Int[Array, ""]
]


class Transformer(AbstractBackbone):
    """Two blocks of three heads of 24, width 72, feed-forward 4 x 72, learned positions.

    Attributes:
        positions: added to the embedding, or None where queries and keys are rotated by their position instead.
        embed: from an element to the stream.
        blocks: the attention and feed-forward layers.
        final_norm: the last norm.
        horizon: the most elements that `step` can look back on.
        dropout_rate: the share that is dropped.
    """

    positions: Float[Array, "horizon width"] | None
    embed: Linear
    blocks: tuple[Block, ...]
    final_norm: LayerNorm
    horizon: int = eqx.field(static=True)
    dropout_rate: float = eqx.field(static=True, default=0.0)

    @property
    def input_layer(self) -> Linear:
        return self.embed

    @property
    def input_size(self) -> int:
        """Features of one element."""
        return self.embed.weight.shape[0]

    @property
    def output_size(self) -> int:
        """The width of the stream."""
        return self.embed.weight.shape[1]

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        positions: Literal["learned", "rotary"] = "learned",
        width: int = 72,
        num_layers: int = 2,
        key: PRNGKey,
    ) -> "Transformer":
        """Blocks with heads of 24 features or more, for sequences of up to `horizon` elements.

        Raises:
            UsageError: positions other than these two.
        """
        if positions not in ("learned", "rotary"):
            raise UsageError(f"positions: {positions!r} is not one of learned, rotary")
        num_heads = num_heads_of(width)
        position_key, embed_key, *keys = jax.random.split(key, 2 + num_layers)
        learned = 0.02 * jax.random.normal(position_key, (horizon, width)) if positions == "learned" else None
        return cls(
            positions=learned,
            embed=Linear(input_size, width, key=embed_key),
            blocks=tuple(Block(width, num_heads, num_layers, key=block_key) for block_key in keys),
            final_norm=LayerNorm(width),
            horizon=horizon,
            dropout_rate=dropout,
        )

    def stream(
        self, x: Float[Array, "*length input"], positions: Int[Array, "*length"]
    ) -> Float[Array, "*length width"]:
        """What the first block reads: the embedding, with the learned positions if there are any."""
        return self.embed(x) if self.positions is None else self.embed(x) + self.positions[positions]

    def heads(self, block: Block, x: Array, positions: Int[Array, "..."]) -> tuple[Array, Array, Array]:
        """Queries, keys and values, rotated where that is how positions are told."""
        queries, keys, values = block.heads(x)
        if self.positions is not None:
            return queries, keys, values
        return rotate(queries, positions), rotate(keys, positions), values

    def init(self) -> Carry:
        """Empty keys and values for the whole horizon, and the position of the next element."""
        num_heads = self.blocks[0].num_heads
        shape = (len(self.blocks), self.horizon, num_heads, self.output_size // num_heads)
        return jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), jnp.int32)

    def resize(self, carry: Carry, length: int) -> tuple[Array, Array, Int[Array, ""]]:
        """Room for that many elements: cut off, or filled up with zeros that no element sees yet."""
        keys, values, position = carry
        missing = max(0, length - keys.shape[1])

        def fit(x: Array) -> Array:
            return jnp.pad(x[:, :length], ((0, 0), (0, missing), (0, 0), (0, 0)))

        return fit(keys), fit(values), position

    def step(self, carry: Carry, x: Float[Array, " input"]) -> tuple[Carry, Float[Array, " output"]]:
        """Appends one element's keys and values, then attends over what is there."""
        keys, values, position = carry
        x = self.stream(x, position)
        visible = jnp.arange(keys.shape[1]) <= position
        for index, block in enumerate(self.blocks):
            query, new_key, new_value = self.heads(block, x, position)
            keys = keys.at[index, position].set(new_key)
            values = values.at[index, position].set(new_value)
            scores = jnp.einsum("hd,khd->hk", query, keys[index]) / query.shape[-1] ** 0.5
            weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
            x = x + block.projection(jnp.einsum("hk,khd->hd", weights, values[index]).reshape(-1))
            x = x + block.feed_forward(x)
        return (keys, values, position + 1), self.final_norm(x)

    def predict(
        self, xs: Float[Array, "length input"], *, key: PRNGKey | None = None
    ) -> Float[Array, "length output"]:
        """The whole sequence in parallel. Dropout as in GPT-2: embedding, attention weights, both updates."""
        dropout_keys = [None] * (1 + 3 * len(self.blocks))
        if key is not None:
            dropout_keys = list(jax.random.split(key, len(dropout_keys)))
        positions = jnp.arange(xs.shape[0])
        x = dropout(self.stream(xs, positions), self.dropout_rate, dropout_keys.pop())
        for block in self.blocks:
            mixed = attend(
                *self.heads(block, x, positions), dropout_rate=self.dropout_rate, key=dropout_keys.pop()
            )
            update = block.projection(mixed.reshape(x.shape))
            x = x + dropout(update, self.dropout_rate, dropout_keys.pop())
            x = x + dropout(block.feed_forward(x), self.dropout_rate, dropout_keys.pop())
        return self.final_norm(x)
