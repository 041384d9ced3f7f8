"""What a sequence architecture is: one unbatched sequence in, one out, whole or step by step."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...core.linear import Linear
from ...core.loops import scan
from ...core.types import PRNGKey


class AbstractBackbone(eqx.Module):
    """Mixes a sequence causally: output `t` depends on inputs `0 .. t` only.

    `predict` treats the whole sequence at once, `step` one element with a carry; both give the same numbers. A
    subclass names its sizes, so that an encoder and a decoder of the right shape can be put around it.

    Attributes:
        input_size: number of features of one sequence element.
        output_size: number of features of one output.
        least_batch: fewest sequences, a power of two, that long horizons leave in a micro-batch on a CPU. A step of a
            recurrence costs nearly the same for one sequence and for a few; measured at H = 2,000.
    """

    input_size: eqx.AbstractVar[int]
    output_size: eqx.AbstractVar[int]
    least_batch: ClassVar[int] = 1

    @property
    def input_layer(self) -> Linear | None:
        """The affine map that `predict` and `step` apply to their input before anything else, if there is one.

        Two affine maps in a row make one: an encoder can be multiplied into it, once for a whole sequence.
        """
        return None

    @classmethod
    @abc.abstractmethod
    def create(
        cls, input_size: int, horizon: int, *, dropout: float = 0.0, key: PRNGKey
    ) -> "AbstractBackbone":
        """The backbone at its standard size (Appendix E.1), or at another where it takes `width` and `num_layers` too.

        Args:
            input_size: size of a sequence element.
            horizon: elements of the longest sequence.
            dropout: the rate while fitting, for a backbone that has any.
            key: for the initial parameters.
        """

    @abc.abstractmethod
    def init(self) -> Any:
        """The carry before the first element."""

    def resize(self, carry: PyTree, length: int) -> Any:
        """The carry with room for more elements, for backbones whose carry grows with what it has seen.

        Args:
            carry: of `init` or `step`.
            length: elements of the whole sequence that it has to have room for.
        """
        return carry

    @abc.abstractmethod
    def step(self, carry: PyTree, x: Float[Array, " input"]) -> tuple[Any, Float[Array, " output"]]:
        """Advances by one element.

        Args:
            carry: of `init`, or of the last step.
            x: the element.

        Returns:
            The next carry, of the same shapes and types, and the output.
        """

    @abc.abstractmethod
    def predict(
        self, xs: Float[Array, "length input"], *, key: PRNGKey | None = None
    ) -> Float[Array, "length output"]:
        """All outputs at once, the same as `step` gives one after another; none may depend on a later element.

        Args:
            xs: the whole sequence.
            key: for dropout; without one there is none.
        """


def num_heads_of(width: int) -> int:
    """How many heads of equal size a width has: as many as leave each an even number of features, at least 24."""
    return max(n for n in range(1, max(width // 24, 1) + 1) if n == 1 or width % (2 * n) == 0)


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


def scan_step(backbone: AbstractBackbone, xs: Float[Array, "length input"]) -> Float[Array, "length output"]:
    """`predict` by repeated `step`: the reference every faster `predict` is tested against."""
    return scan(backbone.step, backbone.init(), xs)[1]


def dropout(x: Float[Array, "..."], rate: float, key: PRNGKey | None) -> Float[Array, "..."]:
    """Zeroes a share `rate` of the entries and rescales the rest; does nothing without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)
