"""The gated recurrent unit, with a hand-written derivative of its scan like the LSTM's."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import PRNGKey
from .base import Linear
from .recurrent import AbstractRecurrent, chrono_bias, shift


def gru_gates(projected: Float[Array, " gates"], recurrent: Float[Array, " gates"]) -> tuple[Array, ...]:
    """Update gate, reset gate, candidate, and the recurrent part of the candidate before the reset gate."""
    z, r, n = jnp.split(projected, 3)
    recurrent_z, recurrent_r, recurrent_n = jnp.split(recurrent, 3)
    z, r = jax.nn.sigmoid(z + recurrent_z), jax.nn.sigmoid(r + recurrent_r)
    return z, r, jnp.tanh(n + r * recurrent_n), recurrent_n


def _forward(recurrent: Array, projected: Array) -> tuple[Array, tuple[Array, ...]]:
    def body(hidden: Array, x: Array) -> tuple[Array, tuple[Array, ...]]:
        z, r, n, recurrent_n = gru_gates(x, hidden @ recurrent)
        hidden = n + z * (hidden - n)
        return hidden, (hidden, z, r, n, recurrent_n)

    start = jnp.zeros(recurrent.shape[0], projected.dtype)
    _, (hidden, *residuals) = jax.lax.scan(body, start, projected)
    return hidden, (recurrent, hidden, *residuals)


def _backward(residuals: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array]:
    recurrent, hidden, *saved = residuals
    previous = shift(hidden)

    def body(later: Array, x: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        from_output, previous, z, r, n, recurrent_n = x
        d_hidden = later + from_output
        d_z = d_hidden * (previous - n) * z * (1.0 - z)
        d_n = d_hidden * (1.0 - z) * (1.0 - n**2)
        d_r = d_n * recurrent_n * r * (1.0 - r)
        d_recurrent = jnp.concatenate([d_z, d_r, d_n * r])
        return d_hidden * z + d_recurrent @ recurrent.T, (jnp.concatenate([d_z, d_r, d_n]), d_recurrent)

    start = jnp.zeros_like(cotangent[0])
    _, (d_projected, d_recurrent) = jax.lax.scan(body, start, (cotangent, previous, *saved), reverse=True)
    return previous.T @ d_recurrent, d_projected


@jax.custom_vjp
def gru_scan(
    recurrent: Float[Array, "n 3*n"], projected: Float[Array, "length 3*n"]
) -> Float[Array, "length n"]:
    """All hidden states of a GRU, given its input projections; derivative as in `rnn_scan`."""
    return _forward(recurrent, projected)[0]


gru_scan.defvjp(_forward, _backward)


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

    @classmethod
    def create(cls, input_size: int, horizon: int, *, dropout: float = 0.0, key: PRNGKey) -> "GRU":
        """Cells of 64 and 64 units, chrono-initialised for the horizon."""
        keys = jax.random.split(key)
        return cls(
            (GRUCell(input_size, 64, horizon, key=keys[0]), GRUCell(64, 64, horizon, key=keys[1])), dropout
        )
