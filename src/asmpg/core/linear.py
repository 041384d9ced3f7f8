"""The affine map that every network is made of, with a derivative that stays one matrix product under `vmap`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, PyTree

from .types import PRNGKey


# For a batch of sequences, the weight's derivative sums over two axes, batch and time. JAX's own transpose of `x @ w`
# leaves both to the compiler, which on a CPU copies the operands into another layout first: half the speed of the
# same sum over one axis. Only an operation that sees the whole batch can merge the axes, hence a primitive.
_multiply_p = Primitive("multiply")


def multiply(
    x: Float[Array, "*batch input"], w: Float[Array, "input output"]
) -> Float[Array, "*batch output"]:
    """`x @ w` over the last axis; equal to it under every transformation."""
    return _multiply_p.bind(x, w)


def _multiply(x: Array, w: Array) -> Array:
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def _shape(x: ShapedArray, w: ShapedArray) -> ShapedArray:
    if x.shape[-1] != w.shape[0]:
        raise TypeError(f"multiply needs {w.shape[0]} numbers, got {x.shape[-1]}")
    return ShapedArray((*x.shape[:-1], w.shape[1]), x.dtype)


def _jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, w), (dx, dw) = primals, tangents
    terms = [] if type(dx) is ad.Zero else [multiply(dx, w)]
    terms += [] if type(dw) is ad.Zero else [multiply(x, dw)]
    return multiply(x, w), sum(terms[1:], start=terms[0])


def _transpose(cotangent: PyTree, x: Any, w: Any) -> tuple[Any, Any]:
    if ad.is_undefined_primal(x):
        return ad.Zero(x.aval) if type(cotangent) is ad.Zero else multiply(cotangent, w.T), None
    if type(cotangent) is ad.Zero:
        return None, ad.Zero(w.aval)
    return None, x.reshape(-1, x.shape[-1]).T @ cotangent.reshape(-1, cotangent.shape[-1])


def _batch(arguments: tuple[Array, Array], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
    x, w = arguments
    if axes[1] is not None:
        return jax.vmap(_multiply, axes)(x, w), 0
    if axes[0] is None or axes[0] == x.ndim - 1:
        return multiply(jnp.moveaxis(x, -1, 0), w), 0
    return multiply(x, w), axes[0]


_multiply_p.def_impl(jax.jit(_multiply))
_multiply_p.def_abstract_eval(_shape)
mlir.register_lowering(_multiply_p, mlir.lower_fun(_multiply, multiple_results=False))
ad.primitive_jvps[_multiply_p] = _jvp
ad.primitive_transposes[_multiply_p] = _transpose
batching.primitive_batchers[_multiply_p] = _batch


class Linear(eqx.Module):
    """An affine map. The weight is stored [input, output], the layout in which a batch multiplies fastest."""

    weight: Float[Array, "input output"]
    bias: Float[Array, " output"]

    def __init__(self, input_size: int, output_size: int, *, key: PRNGKey, scale: float | None = None):
        """Draws the weight from N(0, scale^2), by default with scale = 1/sqrt(input size); the bias is zero."""
        deviation = input_size**-0.5 if scale is None else scale
        self.weight = deviation * jax.random.normal(key, (input_size, output_size))
        self.bias = jnp.zeros(output_size)

    def __call__(self, x: Float[Array, "*batch input"]) -> Float[Array, "*batch output"]:
        """`x W + b` over the last axis."""
        return multiply(x, self.weight) + self.bias

    def then(self, other: "Linear") -> "Linear":
        """One map that does what this one and then the other do."""
        weights = (multiply(self.weight, other.weight), other(self.bias))
        return eqx.tree_at(lambda linear: (linear.weight, linear.bias), self, weights)


Layers = tuple[Linear, ...]


def network(
    input_size: int, width: int, num_hidden: int, output_size: int, *, keys: Any, last: float | None = None
) -> Layers:
    """The layers of a network whose hidden ones are followed by a rectifier, with He et al.'s (2015) scale.

    Args:
        input_size: number of features.
        width: of every hidden layer.
        num_hidden: number of hidden layers.
        output_size: of the last layer.
        keys: one for each layer.
        last: standard deviation of the last layer's weights, by default 1/sqrt(its input size).
    """
    sizes = [input_size, *[width] * num_hidden]
    hidden = [
        Linear(n, width, key=key, scale=(2 / n) ** 0.5) for n, key in zip(sizes[:-1], keys[:-1], strict=True)
    ]
    return (*hidden, Linear(sizes[-1], output_size, key=keys[-1], scale=last))


def run_network(
    layers: Layers, x: Float[Array, "*batch input"], activation: Callable[[Array], Array] = jax.nn.relu
) -> Float[Array, "*batch output"]:
    """The output of a network: the activation follows every layer but the last."""
    for layer in layers[:-1]:
        x = activation(layer(x))
    return layers[-1](x)
