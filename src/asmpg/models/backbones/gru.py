"""The gated recurrent unit, with a hand-written derivative of its scan like the LSTM's."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.linear import Linear, multiply
from ...core.types import PRNGKey
from .recurrent import AbstractRecurrent, chrono_bias, shift, stack, transpose


def gru_gates(projected: Float[Array, " gates"], recurrent: Float[Array, " gates"]) -> tuple[Array, ...]:
    """Update gate, reset gate, candidate, and the recurrent part of the candidate before the reset gate."""
    z, r, n = jnp.split(projected, 3)
    recurrent_z, recurrent_r, recurrent_n = jnp.split(recurrent, 3)
    z, r = jax.nn.sigmoid(z + recurrent_z), jax.nn.sigmoid(r + recurrent_r)
    return z, r, jnp.tanh(n + r * recurrent_n), recurrent_n


# The derivative is written by hand as in `recurrent`: the recurrent products of all steps, whose values are known by
# then, are what the recurrent weight's gradient is taken through.


@jax.custom_vjp
def _gru_outputs(projected: Array, recurrent: Array, weight: Array, hidden: Array, *saved: Array) -> Array:
    return hidden


def _forward(
    projected: Array, recurrent: Array, weight: Array, hidden: Array, *saved: Array
) -> tuple[Array, tuple[Array, ...]]:
    return hidden, (weight, hidden, *saved)


def _backward(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array | None, ...]:
    weight, hidden, z, r, n, recurrent_n = residuals
    transposed, previous = transpose(weight), shift(hidden)
    # By the cotangent of the hidden state; everything here is known for all steps at once.
    to_n = (1.0 - z) * (1.0 - n**2)
    slopes = [(previous - n) * z * (1.0 - z), to_n * recurrent_n * r * (1.0 - r), to_n * r]

    def body(later: Array, x: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        from_output, slopes, z = x
        d_hidden = later + from_output
        d_recurrent = jnp.tile(d_hidden, 3) * slopes
        return d_hidden * z + d_recurrent @ transposed, (d_hidden, d_recurrent)

    start = jnp.zeros_like(cotangent[0])
    sequences = (cotangent, jnp.concatenate(slopes, axis=-1), z)
    d_hidden, d_recurrent = jax.lax.scan(body, start, sequences, reverse=True)[1]
    size = hidden.shape[-1]
    d_projected = jnp.concatenate([d_recurrent[:, : 2 * size], d_hidden * to_n], axis=-1)
    return d_projected, d_recurrent, *[None] * 6


_gru_outputs.defvjp(_forward, _backward)


def gru_scan(
    recurrent: Float[Array, "n 3*n"], projected: Float[Array, "length 3*n"]
) -> Float[Array, "length n"]:
    """All hidden states of a GRU, given its input projections."""
    weight = jax.lax.stop_gradient(recurrent)

    def body(hidden: Array, x: Array) -> tuple[Array, tuple[Array, ...]]:
        z, r, n, recurrent_n = gru_gates(x, hidden @ weight)
        hidden = n + z * (hidden - n)
        return hidden, (hidden, z, r, n, recurrent_n)

    start = jnp.zeros(recurrent.shape[0], projected.dtype)
    states = jax.lax.scan(body, start, jax.lax.stop_gradient(projected))[1]
    return _gru_outputs(projected, multiply(shift(states[0]), recurrent), weight, *states)


class GRUCell(eqx.Module):
    """`h' = (1 - z) n + z h`, `n = tanh(x W_n + b_n + r (h U_n))`; gates in the order update, reset, candidate.

    Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", with the reset gate behind the
    recurrent product, so that one matrix product serves all three gates, and with z as the share that is kept.
    """

    inputs: Linear
    recurrent: Float[Array, "hidden gates"]

    def __init__(self, input_size: int, hidden_size: int, horizon: int, *, key: PRNGKey):
        """Chrono initialisation of the update gate, see `chrono_bias`."""
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        inputs = Linear(input_size, 3 * hidden_size, key=input_key)
        memory = chrono_bias(hidden_size, horizon, key=bias_key)
        bias = jnp.concatenate([memory, jnp.zeros(2 * hidden_size)])
        self.inputs = eqx.tree_at(lambda linear: linear.bias, inputs, bias)
        bound = hidden_size**-0.5
        self.recurrent = jax.random.uniform(
            recurrent_key, (hidden_size, 3 * hidden_size), minval=-bound, maxval=bound
        )

    def init(self) -> Float[Array, " hidden"]:
        """The zero carry."""
        return jnp.zeros(self.recurrent.shape[0])

    def step(
        self, hidden: Float[Array, " hidden"], projected: Float[Array, " gates"]
    ) -> tuple[Float[Array, " hidden"], Float[Array, " hidden"]]:
        """Advances by one element whose input projection `x W + b` is given."""
        z, _, n, _ = gru_gates(projected, hidden @ self.recurrent)
        hidden = n + z * (hidden - n)
        return hidden, hidden

    def unroll(self, projected: Float[Array, "length gates"]) -> Float[Array, "length hidden"]:
        """All outputs, given all input projections."""
        return gru_scan(self.recurrent, projected)


class GRU(AbstractRecurrent):
    """Two layers of 64 gated recurrent units, with a long-memory initialisation."""

    cells: tuple[GRUCell, ...]
    dropout_rate: float = eqx.field(static=True, default=0.0)
    least_batch: ClassVar[int] = 4

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        width: int = 64,
        num_layers: int = 2,
        key: PRNGKey,
    ) -> "GRU":
        """Layers of `width` units, chrono-initialised for the horizon."""
        return cls(stack(GRUCell, input_size, width, num_layers, horizon, key=key), dropout)
