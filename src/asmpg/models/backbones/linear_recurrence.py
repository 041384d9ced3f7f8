"""Diagonal linear recurrences `h_t = d_t h_{t-1} + x_t` in real arithmetic, and the minimal GRU, which is one."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.linear import Linear
from ...core.types import PRNGKey
from .base import LayerNorm
from .recurrent import chrono_bias
from .residual import AbstractMixer, AbstractResidual, Block, GatedLinear, stack


# Real numbers as (x,), complex ones as (real, imaginary): parameters, optimiser and files hold real numbers only.
Numbers = tuple[Float[Array, "..."], ...]


def product(a: Numbers, b: Numbers) -> Numbers:
    """Element by element, of real or of complex numbers."""
    if len(a) == 1:
        return (a[0] * b[0],)
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def add(a: Numbers, b: Numbers) -> Numbers:
    """Element by element."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def conjugate(a: Numbers) -> Numbers:
    """Complex conjugates; real numbers are their own."""
    return a[:1] + tuple(-x for x in a[1:])


def sequential(decay: Numbers, inputs: Numbers, reverse: bool = False) -> Numbers:
    """All h_t, one after another."""

    def body(hidden: Numbers, x: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
        hidden = add(product(x[0], hidden), x[1])
        return hidden, hidden

    start = tuple(jnp.zeros_like(x[0]) for x in inputs)
    return jax.lax.scan(body, start, (decay, inputs), reverse=reverse)[1]


def associative(decay: Numbers, inputs: Numbers, reverse: bool = False) -> Numbers:
    """All h_t by a parallel prefix sum: Blelloch (1990), "Prefix sums and their applications"."""

    def combine(first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
        return product(second[0], first[0]), add(product(second[0], first[1]), second[1])

    return jax.lax.associative_scan(combine, (decay, inputs), reverse=reverse)[1]


# One core of an AMD EPYC, 64 complex numbers, a batch of 8 (what one micro-batch is), milliseconds of CPU time for the
# gradient: one after another 0.3 at H = 100 and 2.1 at H = 500 (JAX's own derivative of that: 0.5 and 3.2), the prefix
# sum 0.6 and 5.3; a batch of 16 gives the same order. Elsewhere the number of dependent steps counts, not that of
# products; an accelerator was not measured.
def _run(decay: Numbers, inputs: Numbers, reverse: bool = False) -> Numbers:
    run = sequential if jax.default_backend() == "cpu" else associative
    return run(decay, inputs, reverse)


@jax.custom_vjp
def linear_recurrence(decay: Numbers, inputs: Numbers) -> Numbers:
    """`h_t = d_t h_{t-1} + x_t` from 0, element by element [length, n].

    The derivative is the same recurrence backwards in time, hand-written. Reverse mode only.
    """
    return _run(decay, inputs)


def _forward(decay: Numbers, inputs: Numbers) -> tuple[Numbers, tuple[Numbers, Numbers]]:
    hidden = _run(decay, inputs)
    return hidden, (decay, hidden)


def _backward(residuals: tuple[Numbers, Numbers], cotangent: Numbers) -> tuple[Numbers, Numbers]:
    decay, hidden = residuals
    later = tuple(jnp.concatenate([x[1:], jnp.zeros_like(x[:1])]) for x in conjugate(decay))
    d_inputs = _run(later, cotangent, reverse=True)
    previous = tuple(jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]]) for x in hidden)
    return product(conjugate(previous), d_inputs), d_inputs


linear_recurrence.defvjp(_forward, _backward)


class MinGRUMixer(AbstractMixer):
    """`h_t = z_t h_{t-1} + (1 - z_t) n_t`: a GRU whose gate and candidate see the input alone."""

    inputs: Linear
    output: GatedLinear

    def __init__(self, width: int, hidden_size: int, horizon: int, *, key: PRNGKey):
        """Chrono initialisation of the gate, see `chrono_bias`."""
        input_key, output_key, bias_key = jax.random.split(key, 3)
        inputs = Linear(width, 2 * hidden_size, key=input_key)
        bias = jnp.concatenate([chrono_bias(hidden_size, horizon, key=bias_key), jnp.zeros(hidden_size)])
        self.inputs = eqx.tree_at(lambda linear: linear.bias, inputs, bias)
        self.output = GatedLinear(hidden_size, width, key=output_key)

    def _gate_and_input(self, x: Array) -> tuple[Array, Array]:
        gate, candidate = jnp.split(self.inputs(x), 2, axis=-1)
        # sigmoid(-x) and not 1 - sigmoid(x), which rounds what a gate that keeps nearly everything lets in.
        return jax.nn.sigmoid(gate), jax.nn.sigmoid(-gate) * candidate

    def init(self) -> Float[Array, " hidden"]:
        return jnp.zeros(self.output.linear.weight.shape[0])

    def step(
        self, carry: Float[Array, " hidden"], x: Float[Array, " width"]
    ) -> tuple[Float[Array, " hidden"], Float[Array, " width"]]:
        gate, new = self._gate_and_input(x)
        hidden = gate * carry + new
        return hidden, self.output(hidden)

    def unroll(self, xs: Float[Array, "length width"]) -> Float[Array, "length width"]:
        gate, new = self._gate_and_input(xs)
        (hidden,) = linear_recurrence((gate,), (new,))
        return self.output(hidden)


class MinGRU(AbstractResidual):
    """Two blocks of a minimal GRU of 128 units, a gated linear recurrence (Feng et al. 2024)."""

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
    ) -> "MinGRU":
        """Chrono-initialised for the horizon; 128 units for a width of 72."""
        return cls(
            *stack(MinGRUMixer, input_size, width, num_layers, 16 * width // 9, horizon, key=key), dropout
        )
