"""A GPT-2 style transformer backbone on one page (Appendix E.1): pre-norm blocks, learned positions, GELU."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..linear import Linear
from ..types import PRNGKey
from .base import AbstractBackbone, dropout


class LayerNorm(eqx.Module):
    """Normalises the last axis to mean 0 and variance 1, then scales and shifts it."""

    weight: Float[Array, " width"]
    bias: Float[Array, " width"]

    def __init__(self, width: int):
        """Starts as the plain normalisation."""
        self.weight, self.bias = jnp.ones(width), jnp.zeros(width)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """The normalised x."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-5) * self.weight + self.bias


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


def attention_weights(
    queries: Float[Array, "length heads head"], keys: Float[Array, "length heads head"]
) -> Float[Array, "heads length length"]:
    """Causal softmax attention: row t weighs elements 0 .. t, later ones get exactly 0."""
    scores = jnp.einsum("qhd,khd->hqk", queries, keys) / queries.shape[-1] ** 0.5
    length = queries.shape[0]
    causal = jnp.arange(length)[:, None] >= jnp.arange(length)[None, :]
    return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)


Carry = tuple[
    Float[Array, "blocks length heads head"], Float[Array, "blocks length heads head"], Int[Array, ""]
]


class Transformer(AbstractBackbone):
    """Two blocks of three heads of 24, width 72, feed-forward 4 x 72, learned positions."""

    positions: Float[Array, "horizon width"]
    embed: Linear
    blocks: tuple[Block, ...]
    final_norm: LayerNorm
    dropout_rate: float = eqx.field(static=True, default=0.0)
    parallel: ClassVar[bool] = True

    @property
    def input_layer(self) -> Linear:
        """The embedding."""
        return self.embed

    @property
    def input_size(self) -> int:
        """Features of one element."""
        return self.embed.weight.shape[0]

    @property
    def output_size(self) -> int:
        """The width of the stream."""
        return self.positions.shape[1]

    @classmethod
    def create(cls, input_size: int, horizon: int, *, dropout: float = 0.0, key: PRNGKey) -> "Transformer":
        """The sizes of the class, for sequences of up to `horizon` elements."""
        width, num_heads, num_blocks = 72, 3, 2
        position_key, embed_key, *keys = jax.random.split(key, 2 + num_blocks)
        return cls(
            positions=0.02 * jax.random.normal(position_key, (horizon, width)),
            embed=Linear(input_size, width, key=embed_key),
            blocks=tuple(Block(width, num_heads, num_blocks, key=block_key) for block_key in keys),
            final_norm=LayerNorm(width),
            dropout_rate=dropout,
        )

    def init(self) -> Carry:
        """Empty keys and values for the whole horizon, and the position of the next element."""
        num_heads = self.blocks[0].num_heads
        horizon, width = self.positions.shape
        shape = (len(self.blocks), horizon, num_heads, width // num_heads)
        return jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), jnp.int32)

    def step(self, carry: Carry, x: Float[Array, " input"]) -> tuple[Carry, Float[Array, " output"]]:
        """Appends one element's keys and values, then attends over what is there."""
        keys, values, position = carry
        x = self.embed(x) + self.positions[position]
        visible = jnp.arange(keys.shape[1]) <= position
        for index, block in enumerate(self.blocks):
            query, new_key, new_value = block.heads(x)
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
        x = dropout(self.embed(xs) + self.positions[: xs.shape[0]], self.dropout_rate, dropout_keys.pop())
        for block in self.blocks:
            queries, keys, values = block.heads(x)
            weights = dropout(attention_weights(queries, keys), self.dropout_rate, dropout_keys.pop())
            mixed = jnp.einsum("hqk,khd->qhd", weights, values).reshape(x.shape)
            x = x + dropout(block.projection(mixed), self.dropout_rate, dropout_keys.pop())
            x = x + dropout(block.feed_forward(x), self.dropout_rate, dropout_keys.pop())
        return self.final_norm(x)
