"""Recurrent backbones: the stacked tanh RNN and the LSTM of Appendix E.1."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import PRNGKey
from .base import AbstractBackbone, dropout, Linear


def shift(sequence: Float[Array, "length features"]) -> Float[Array, "length features"]:
    """The sequence one step later, zeros first."""
    return jnp.concatenate([jnp.zeros_like(sequence[:1]), sequence[:-1]])


@jax.custom_vjp
def rnn_scan(recurrent: Float[Array, "n n"], projected: Float[Array, "length n"]) -> Float[Array, "length n"]:
    """All hidden states of a tanh RNN, given its input projections.

    The hand-written derivative accumulates the recurrent weight's gradient in one matrix product after the
    backward scan instead of one small one a step. Reverse mode only.
    """

    def body(hidden: Array, x: Array) -> tuple[Array, Array]:
        hidden = jnp.tanh(x + hidden @ recurrent)
        return hidden, hidden

    return jax.lax.scan(body, jnp.zeros_like(projected[0]), projected)[1]


def _rnn_forward(recurrent: Array, projected: Array) -> tuple[Array, tuple[Array, Array]]:
    hidden = rnn_scan(recurrent, projected)
    return hidden, (recurrent, hidden)


def _rnn_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    recurrent, hidden = residuals

    def body(later: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        from_output, hidden = x
        preactivation = (later + from_output) * (1.0 - hidden**2)
        return preactivation @ recurrent.T, preactivation

    start = jnp.zeros_like(cotangent[0])
    _, preactivations = jax.lax.scan(body, start, (cotangent, hidden), reverse=True)
    return shift(hidden).T @ preactivations, preactivations


rnn_scan.defvjp(_rnn_forward, _rnn_backward)


def lstm_gates(preactivation: Float[Array, " gates"]) -> tuple[Array, Array, Array, Array]:
    """Input gate, forget gate, candidate, output gate."""
    i, f, g, o = jnp.split(preactivation, 4)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def _lstm_forward(recurrent: Array, projected: Array) -> tuple[Array, tuple[Array, ...]]:
    def body(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        hidden, cell = carry
        i, f, g, o = lstm_gates(x + hidden @ recurrent)
        cell = f * cell + i * g
        squashed = jnp.tanh(cell)
        hidden = o * squashed
        return (hidden, cell), (hidden, cell, squashed, i, f, g, o)

    start = jnp.zeros(recurrent.shape[0], projected.dtype)
    _, (hidden, *residuals) = jax.lax.scan(body, (start, start), projected)
    return hidden, (recurrent, hidden, *residuals)


def _lstm_backward(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array]:
    recurrent, hidden, cell, *saved = residuals

    def body(later: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        d_hidden, d_cell = later
        from_output, previous_cell, squashed, i, f, g, o = x
        d_hidden = d_hidden + from_output
        d_cell = d_cell + d_hidden * o * (1.0 - squashed**2)
        preactivation = jnp.concatenate(
            [
                d_cell * g * i * (1.0 - i),
                d_cell * previous_cell * f * (1.0 - f),
                d_cell * i * (1.0 - g**2),
                d_hidden * squashed * o * (1.0 - o),
            ]
        )
        return (preactivation @ recurrent.T, d_cell * f), preactivation

    start = jnp.zeros_like(cotangent[0])
    sequences = (cotangent, shift(cell), *saved)
    _, preactivations = jax.lax.scan(body, (start, start), sequences, reverse=True)
    return shift(hidden).T @ preactivations, preactivations


@jax.custom_vjp
def lstm_scan(
    recurrent: Float[Array, "n 4*n"], projected: Float[Array, "length 4*n"]
) -> Float[Array, "length n"]:
    """All hidden states of an LSTM, given its input projections; derivative as in `rnn_scan`."""
    return _lstm_forward(recurrent, projected)[0]


lstm_scan.defvjp(_lstm_forward, _lstm_backward)


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
        i, f, g, o = lstm_gates(projected + hidden @ self.recurrent)
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
    def input_size(self) -> int:
        """Features of one element, read off the lowest cell."""
        return self.cells[0].inputs.weight.shape[0]

    @property
    def output_size(self) -> int:
        """Features of one output, read off the highest cell."""
        return self.cells[-1].recurrent.shape[0]

    def init(self) -> tuple[Any, ...]:
        """Every cell's zero carry."""
        return tuple(cell.init() for cell in self.cells)

    def step(
        self, carry: tuple[Any, ...], x: Float[Array, " input"]
    ) -> tuple[tuple[Any, ...], Float[Array, " output"]]:
        """Advances every layer by one element."""
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


class RNN(AbstractRecurrent):
    """Two layers of 64 tanh units (Appendix E.1)."""

    cells: tuple[RNNCell, ...]
    dropout_rate: float = eqx.field(static=True, default=0.0)

    @classmethod
    def create(cls, input_size: int, horizon: int, *, dropout: float = 0.0, key: PRNGKey) -> "RNN":
        """Cells of 64 and 64 units."""
        keys = jax.random.split(key)
        return cls((RNNCell(input_size, 64, key=keys[0]), RNNCell(64, 64, key=keys[1])), dropout)


class LSTM(AbstractRecurrent):
    """Two layers of 64 LSTM cells (Appendix E.1)."""

    cells: tuple[LSTMCell, ...]
    dropout_rate: float = eqx.field(static=True, default=0.0)

    @classmethod
    def create(cls, input_size: int, horizon: int, *, dropout: float = 0.0, key: PRNGKey) -> "LSTM":
        """Cells of 64 and 64 units, chrono-initialised for the horizon."""
        keys = jax.random.split(key)
        cells = (LSTMCell(input_size, 64, horizon, key=keys[0]), LSTMCell(64, 64, horizon, key=keys[1]))
        return cls(cells, dropout)
