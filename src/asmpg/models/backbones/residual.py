"""A residual stack for mixers that are linear in time: each behind a norm, each with a gate of its own."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...core.linear import Linear
from ...core.types import PRNGKey
from .base import AbstractBackbone, dropout, LayerNorm


class AbstractMixer(eqx.Module):
    """Mixes a sequence causally over time; `unroll` is `step` over a whole sequence."""

    @abc.abstractmethod
    def init(self) -> Any:
        """The carry before the first element."""

    @abc.abstractmethod
    def step(self, carry: PyTree, x: Float[Array, " width"]) -> tuple[Any, Float[Array, " width"]]:
        """Advances by one element."""

    @abc.abstractmethod
    def unroll(self, xs: Float[Array, "length width"]) -> Float[Array, "length width"]:
        """All outputs at once."""


class GatedLinear(eqx.Module):
    """`(x V + c) * sigmoid(x W + b)`, the gated linear unit of Dauphin et al. (2017)."""

    linear: Linear

    def __init__(self, input_size: int, output_size: int, *, key: PRNGKey):
        """Random weights, zero biases."""
        self.linear = Linear(input_size, 2 * output_size, key=key)

    def __call__(self, x: Float[Array, "*length input"]) -> Float[Array, "*length output"]:
        """Of every element."""
        value, gate = jnp.split(self.linear(x), 2, axis=-1)
        return value * jax.nn.sigmoid(gate)


class Block(eqx.Module):
    """A mixer behind a norm, added to the stream it reads."""

    norm: LayerNorm
    mixer: AbstractMixer


def stack(
    make_mixer: Callable[..., AbstractMixer],
    input_size: int,
    width: int,
    num_layers: int,
    *args: int,
    key: PRNGKey,
) -> tuple[Linear, tuple[Block, ...], LayerNorm]:
    """Embedding, blocks around `make_mixer(width, *args, key=key)`, and last norm."""
    embed_key, *keys = jax.random.split(key, 1 + num_layers)
    blocks = tuple(Block(LayerNorm(width), make_mixer(width, *args, key=one)) for one in keys)
    return Linear(input_size, width, key=embed_key), blocks, LayerNorm(width)


class AbstractResidual(AbstractBackbone):
    """An embedding, a stack of blocks and a last norm. What mixes over time is the subclass's.

    There is no feed-forward layer between the mixers: an update took 20 to 40% longer with one, and the fit was not
    clearly better (docs/backbones.md).
    """

    embed: eqx.AbstractVar[Linear]
    blocks: eqx.AbstractVar[tuple[Block, ...]]
    final_norm: eqx.AbstractVar[LayerNorm]
    dropout_rate: eqx.AbstractVar[float]

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

    def init(self) -> tuple[Any, ...]:
        return tuple(block.mixer.init() for block in self.blocks)

    def step(
        self, carry: tuple[Any, ...], x: Float[Array, " input"]
    ) -> tuple[tuple[Any, ...], Float[Array, " output"]]:
        x = self.embed(x)
        carries = []
        for block, block_carry in zip(self.blocks, carry, strict=True):
            block_carry, update = block.mixer.step(block_carry, block.norm(x))
            carries.append(block_carry)
            x = x + update
        return tuple(carries), self.final_norm(x)

    def predict(
        self, xs: Float[Array, "length input"], *, key: PRNGKey | None = None
    ) -> Float[Array, "length output"]:
        """Layer by layer over the whole sequence; dropout on every update of the stream."""
        keys = [None] * len(self.blocks) if key is None else list(jax.random.split(key, len(self.blocks)))
        xs = self.embed(xs)
        for block, block_key in zip(self.blocks, keys, strict=True):
            xs = xs + dropout(block.mixer.unroll(block.norm(xs)), self.dropout_rate, block_key)
        return self.final_norm(xs)
