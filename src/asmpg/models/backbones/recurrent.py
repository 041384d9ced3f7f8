"""Recurrent backbones: the stacked tanh RNN and the LSTM of Appendix E.1."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.linear import Linear, multiply
from ...core.types import PRNGKey
from .base import AbstractBackbone, dropout


def shift(sequence: Float[Array, "length features"]) -> Float[Array, "length features"]:
    """The sequence one step later, zeros first."""
    return jnp.concatenate([jnp.zeros_like(sequence[:1]), sequence[:-1]])


# The scans below come with a derivative written by hand, reverse mode only. The forward scan runs on constants; what is
# differentiated is the preactivation of all steps at once, `projected + shift(hidden) @ recurrent`, whose value is
# known by then and never computed. The recurrent weight's gradient is thus one matrix product over time and batch,
# taken by JAX itself, where the derivative of a scan has a small one in every step.


def transpose(weight: Float[Array, "n m"]) -> Float[Array, "m n"]:
    """The transpose laid out as such, once, for a product in every step of a scan."""
    return jax.lax.optimization_barrier(weight.T)


@jax.custom_vjp
def _rnn_outputs(preactivation: Array, recurrent: Array, hidden: Array) -> Array:
    return hidden


def _rnn_forward(preactivation: Array, recurrent: Array, hidden: Array) -> tuple[Array, tuple[Array, Array]]:
    return hidden, (recurrent, hidden)


def _rnn_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None]:
    recurrent, hidden = residuals
    transposed = transpose(recurrent)

    def body(later: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        from_output, slope = x
        preactivation = (later + from_output) * slope
        return preactivation @ transposed, preactivation

    start = jnp.zeros_like(cotangent[0])
    return jax.lax.scan(body, start, (cotangent, 1.0 - hidden**2), reverse=True)[1], None, None


_rnn_outputs.defvjp(_rnn_forward, _rnn_backward)


def rnn_scan(recurrent: Float[Array, "n n"], projected: Float[Array, "length n"]) -> Float[Array, "length n"]:
    """All hidden states of a tanh RNN, given its input projections."""
    weight = jax.lax.stop_gradient(recurrent)

    def body(hidden: Array, x: Array) -> tuple[Array, Array]:
        hidden = jnp.tanh(x + hidden @ weight)
        return hidden, hidden

    hidden = jax.lax.scan(body, jnp.zeros_like(projected[0]), jax.lax.stop_gradient(projected))[1]
    return _rnn_outputs(projected + multiply(shift(hidden), recurrent), weight, hidden)


# Steps in one turn of a loop: 53 instead of 61 ms a model update of batch 16 at horizon 500 on one CPU core, 36 instead
# of 39 of batch 64 at 100. More steps are slower again, and so is any number but 1 for the RNN and the GRU.
LSTM_UNROLL = 4


def lstm_gates(preactivation: Float[Array, " gates"]) -> Float[Array, " gates"]:
    """Input gate, forget gate, candidate, output gate, side by side.

    Written with one tanh, since `sigmoid(x) = (1 + tanh(x / 2)) / 2`: one pass over all four.
    """
    quarter = preactivation.shape[-1] // 4
    half, one = jnp.full(quarter, 0.5), jnp.ones(quarter)
    scale = jnp.concatenate([half, half, one, half])
    return scale * jnp.tanh(scale * preactivation) + (1.0 - scale)


@jax.custom_vjp
def _lstm_outputs(preactivation: Array, recurrent: Array, hidden: Array, cell: Array, gates: Array) -> Array:
    return hidden


def _lstm_forward(
    preactivation: Array, recurrent: Array, hidden: Array, cell: Array, gates: Array
) -> tuple[Array, tuple[Array, ...]]:
    return hidden, (recurrent, cell, gates)


def _lstm_backward(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, None, None, None, None]:
    recurrent, cell, gates = residuals
    transposed = transpose(recurrent)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    squashed = jnp.tanh(cell)
    # Everything that does not depend on later steps is computed for all of them at once.
    to_cell = o * (1.0 - squashed**2)
    slopes = [g * i * (1.0 - i), shift(cell) * f * (1.0 - f), i * (1.0 - g**2), squashed * o * (1.0 - o)]

    def body(later: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        d_hidden, d_cell = later
        from_output, to_cell, slopes, f = x
        d_hidden = d_hidden + from_output
        d_cell = d_cell + d_hidden * to_cell
        preactivation = jnp.concatenate([d_cell, d_cell, d_cell, d_hidden]) * slopes
        return (preactivation @ transposed, d_cell * f), preactivation

    start = jnp.zeros_like(cotangent[0])
    sequences = (cotangent, to_cell, jnp.concatenate(slopes, axis=-1), f)
    preactivation = jax.lax.scan(body, (start, start), sequences, reverse=True, unroll=LSTM_UNROLL)[1]
    return preactivation, None, None, None, None


_lstm_outputs.defvjp(_lstm_forward, _lstm_backward)


def lstm_scan(
    recurrent: Float[Array, "n 4*n"], projected: Float[Array, "length 4*n"]
) -> Float[Array, "length n"]:
    """All hidden states of an LSTM, given its input projections."""
    weight = jax.lax.stop_gradient(recurrent)

    def body(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        hidden, cell = carry
        gates = lstm_gates(x + hidden @ weight)
        i, f, g, o = jnp.split(gates, 4)
        cell = f * cell + i * g
        hidden = o * jnp.tanh(cell)
        return (hidden, cell), (hidden, cell, gates)

    start = jnp.zeros(recurrent.shape[0], projected.dtype)
    constant = jax.lax.stop_gradient(projected)
    states = jax.lax.scan(body, (start, start), constant, unroll=LSTM_UNROLL)[1]
    return _lstm_outputs(projected + multiply(shift(states[0]), recurrent), weight, *states)


def chrono_bias(size: int, horizon: int, *, key: PRNGKey) -> Float[Array, " size"]:
    """`log U(1, horizon - 1)` for a gate that keeps: time scales spread from one step to the whole horizon.

    With a zero bias the gradient over 500 steps underflows to exactly 0 in float32. Tallec & Ollivier (2018), "Can
    recurrent neural networks warp time?", section 2.
    """
    return jnp.log(jax.random.uniform(key, (size,), minval=1.0, maxval=max(horizon - 1.0, 2.0)))


class RNNCell(eqx.Module):
    """`h' = tanh(x W + h U + b)`."""

    inputs: Linear
    recurrent: Float[Array, "hidden hidden"]

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKey):
        """Uniform recurrent weights in +-1/sqrt(hidden), the usual initialisation of a plain RNN."""
        input_key, recurrent_key = jax.random.split(key)
        bound = hidden_size**-0.5
        self.inputs = Linear(input_size, hidden_size, key=input_key)
        self.recurrent = jax.random.uniform(
            recurrent_key, (hidden_size, hidden_size), minval=-bound, maxval=bound
        )

    def init(self) -> Float[Array, " hidden"]:
        """The zero carry."""
        return jnp.zeros(self.recurrent.shape[0])

    def step(
        self, hidden: Float[Array, " hidden"], projected: Float[Array, " hidden"]
    ) -> tuple[Float[Array, " hidden"], Float[Array, " hidden"]]:
        """Advances by one element whose input projection `x W + b` is given."""
        hidden = jnp.tanh(projected + hidden @ self.recurrent)
        return hidden, hidden

    def unroll(self, projected: Float[Array, "length hidden"]) -> Float[Array, "length hidden"]:
        """All outputs, given all input projections."""
        return rnn_scan(self.recurrent, projected)


class LSTMCell(eqx.Module):
    """The long short-term memory cell; gates in the order input, forget, candidate, output."""

    inputs: Linear
    recurrent: Float[Array, "hidden gates"]

    def __init__(self, input_size: int, hidden_size: int, horizon: int, *, key: PRNGKey):
        """Chrono initialisation, see `chrono_bias`: input biases are the negatives of the forget biases."""
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        bound = hidden_size**-0.5
        inputs = Linear(input_size, 4 * hidden_size, key=input_key)
        memory = chrono_bias(hidden_size, horizon, key=bias_key)
        bias = jnp.concatenate([-memory, memory, jnp.zeros(2 * hidden_size)])
        self.inputs = eqx.tree_at(lambda linear: linear.bias, inputs, bias)
        self.recurrent = jax.random.uniform(
            recurrent_key, (hidden_size, 4 * hidden_size), minval=-bound, maxval=bound
        )

    def init(self) -> tuple[Float[Array, " hidden"], Float[Array, " hidden"]]:
        """The zero carry (hidden, cell)."""
        zeros = jnp.zeros(self.recurrent.shape[0])
        return zeros, zeros

    def step(
        self,
        carry: tuple[Float[Array, " hidden"], Float[Array, " hidden"]],
        projected: Float[Array, " gates"],
    ) -> tuple[tuple[Float[Array, " hidden"], Float[Array, " hidden"]], Float[Array, " hidden"]]:
        """Advances by one element whose input projection `x W + b` is given."""
        hidden, cell = carry
        i, f, g, o = jnp.split(lstm_gates(projected + hidden @ self.recurrent), 4)
        cell = f * cell + i * g
        hidden = o * jnp.tanh(cell)
        return (hidden, cell), hidden

    def unroll(self, projected: Float[Array, "length gates"]) -> Float[Array, "length hidden"]:
        """All outputs, given all input projections."""
        return lstm_scan(self.recurrent, projected)


class AbstractRecurrent(AbstractBackbone):
    """A stack of recurrent cells, each fed with the whole output sequence of the one below.

    The input projections of a layer are one matrix product for all time steps; only the recurrence is scanned.
    """

    cells: eqx.AbstractVar[tuple[Any, ...]]
    dropout_rate: eqx.AbstractVar[float]

    @property
    def input_layer(self) -> Linear:
        return self.cells[0].inputs

    @property
    def input_size(self) -> int:
        """Features of one element, read off the lowest cell."""
        return self.input_layer.weight.shape[0]

    @property
    def output_size(self) -> int:
        """Features of one output, read off the highest cell."""
        return self.cells[-1].recurrent.shape[0]

    def init(self) -> tuple[Any, ...]:
        return tuple(cell.init() for cell in self.cells)

    def step(
        self, carry: tuple[Any, ...], x: Float[Array, " input"]
    ) -> tuple[tuple[Any, ...], Float[Array, " output"]]:
        carries = []
        for cell, cell_carry in zip(self.cells, carry, strict=True):
            cell_carry, x = cell.step(cell_carry, cell.inputs(x))
            carries.append(cell_carry)
        return tuple(carries), x

    def predict(
        self, xs: Float[Array, "length input"], *, key: PRNGKey | None = None
    ) -> Float[Array, "length output"]:
        """Layer by layer over the whole sequence; dropout between the layers."""
        keys = [None] * len(self.cells) if key is None else list(jax.random.split(key, len(self.cells)))
        for index, (cell, cell_key) in enumerate(zip(self.cells, keys, strict=True)):
            xs = xs if index == 0 else dropout(xs, self.dropout_rate, cell_key)
            xs = cell.unroll(cell.inputs(xs))
        return xs


def stack(
    make_cell: Callable[..., Any], input_size: int, width: int, num_layers: int, *args: int, key: PRNGKey
) -> tuple[Any, ...]:
    """Cells of one width on top of each other."""
    keys = jax.random.split(key, num_layers)
    return tuple(make_cell(width if i else input_size, width, *args, key=k) for i, k in enumerate(keys))


class RNN(AbstractRecurrent):
    """Two layers of 64 tanh units (Appendix E.1)."""

    cells: tuple[RNNCell, ...]
    dropout_rate: float = eqx.field(static=True, default=0.0)

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
    ) -> "RNN":
        """Layers of `width` units."""
        return cls(stack(RNNCell, input_size, width, num_layers, key=key), dropout)


class LSTM(AbstractRecurrent):
    """Two layers of 64 LSTM cells (Appendix E.1)."""

    cells: tuple[LSTMCell, ...]
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
    ) -> "LSTM":
        """Layers of `width` cells, chrono-initialised for the horizon."""
        return cls(stack(LSTMCell, input_size, width, num_layers, horizon, key=key), dropout)
