"""The two bare equations the theory is about: the simple RNN (Equation 2) and self-attention (Equation 3)."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ...core.types import PRNGKey
from .base import AbstractBackbone


class SimpleRNN(AbstractBackbone):
    """`x_t = sigma(W_x x_{t-1}) + W_a a_{t-1} + b`, output `W_o x_t` (Equation 2), from `x_0 = 0`.

    Corollary 1.1 is about this network: the norm of `dx_t / da_k` is at most `|W_a| (|W_x| / beta)^(t-k-1)`, where
    `1 / beta` bounds the derivative of sigma. Nothing is added to the equation, dropout neither.

    Attributes:
        w_x: recurrent weights.
        w_a: input weights.
        bias: added to every element.
        w_o: output weights; None is the identity.
        activation: sigma, applied to every component.
    """

    w_x: Float[Array, "hidden hidden"]
    w_a: Float[Array, "hidden input"]
    bias: Float[Array, " hidden"]
    w_o: Float[Array, "output hidden"] | None = None
    activation: Callable[[Array], Array] = eqx.field(static=True, default=jnp.tanh)

    @property
    def input_size(self) -> int:
        """Features of one element."""
        return self.w_a.shape[1]

    @property
    def output_size(self) -> int:
        """Features of one output."""
        return self.w_x.shape[0] if self.w_o is None else self.w_o.shape[0]

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        width: int = 64,
        key: PRNGKey,
    ) -> "SimpleRNN":
        """Tanh units, uniform recurrent weights in +-1/sqrt(width); what decodes the output is the W_o."""
        recurrent_key, input_key = jax.random.split(key)
        bound = width**-0.5
        return cls(
            w_x=jax.random.uniform(recurrent_key, (width, width), minval=-bound, maxval=bound),
            w_a=input_size**-0.5 * jax.random.normal(input_key, (width, input_size)),
            bias=jnp.zeros(width),
        )

    def init(self) -> Float[Array, " hidden"]:
        """`x_0 = 0`."""
        return jnp.zeros_like(self.bias)

    def _advance(self, hidden: Array, projected: Array) -> Array:
        """`x_t` from `x_{t-1}` and `W_a a_{t-1} + b`."""
        return self.activation(self.w_x @ hidden) + projected

    def _read(self, hidden: Array) -> Array:
        return hidden if self.w_o is None else hidden @ self.w_o.T

    def step(
        self, carry: Float[Array, " hidden"], x: Float[Array, " input"]
    ) -> tuple[Float[Array, " hidden"], Float[Array, " output"]]:
        hidden = self._advance(carry, self.w_a @ x + self.bias)
        return hidden, self._read(hidden)

    def predict(
        self, xs: Float[Array, "length input"], *, key: PRNGKey | None = None
    ) -> Float[Array, "length output"]:
        """All outputs; only the recurrence is scanned."""

        def body(hidden: Array, projected: Array) -> tuple[Array, Array]:
            hidden = self._advance(hidden, projected)
            return hidden, hidden

        return self._read(jax.lax.scan(body, self.init(), xs @ self.w_a.T + self.bias)[1])


class SelfAttention(AbstractBackbone):
    """`softmax(a_{t-1} W_q^T (a_{1:t-1} W_k^T)^T) a_{1:t-1} W_v^T` (Equation 3).

    Corollary 1.2 is about this layer: one head, no positions, no scale `1/sqrt(d)`, no residual stream. Nothing is
    added to the equation, dropout neither.

    Attributes:
        w_q: query weights.
        w_k: key weights.
        w_v: value weights.
        horizon: the most elements that `step` can look back on; `predict` takes any number.
    """

    w_q: Float[Array, "score input"]
    w_k: Float[Array, "score input"]
    w_v: Float[Array, "output input"]
    horizon: int = eqx.field(static=True)

    @property
    def input_size(self) -> int:
        """Features of one element."""
        return self.w_q.shape[1]

    @property
    def output_size(self) -> int:
        """Features of one output."""
        return self.w_v.shape[0]

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        width: int = 72,
        key: PRNGKey,
    ) -> "SelfAttention":
        """The initial W_q is 1/sqrt(width) of the usual one, so that scores start with variance 1."""
        weights = input_size**-0.5 * jax.random.normal(key, (3, width, input_size))
        return cls(width**-0.5 * weights[0], weights[1], weights[2], horizon)

    def init(self) -> tuple[Float[Array, "horizon score"], Float[Array, "horizon output"], Int[Array, ""]]:
        """Room for the keys and values of the whole horizon, and the position of the next element."""
        keys = jnp.zeros((self.horizon, self.w_k.shape[0]), self.w_k.dtype)
        return keys, jnp.zeros((self.horizon, self.output_size), self.w_v.dtype), jnp.zeros((), jnp.int32)

    def step(
        self, carry: tuple[Array, Array, Int[Array, ""]], x: Float[Array, " input"]
    ) -> tuple[tuple[Array, Array, Int[Array, ""]], Float[Array, " output"]]:
        """Appends one element's key and value, then attends over what is there."""
        keys, values, position = carry
        keys, values = keys.at[position].set(self.w_k @ x), values.at[position].set(self.w_v @ x)
        scores = jnp.where(jnp.arange(self.horizon) <= position, keys @ (self.w_q @ x), -jnp.inf)
        return (keys, values, position + 1), jax.nn.softmax(scores) @ values

    def predict(
        self, xs: Float[Array, "length input"], *, key: PRNGKey | None = None
    ) -> Float[Array, "length output"]:
        scores = (xs @ self.w_q.T) @ (xs @ self.w_k.T).T
        causal = jnp.tri(xs.shape[0], dtype=bool)
        return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1) @ (xs @ self.w_v.T)
