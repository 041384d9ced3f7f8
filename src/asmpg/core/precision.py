"""In what precision a run computes."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp


Precision = Literal["auto", "float32", "float64", "bfloat16-matmul"]


def resolve_precision(precision: Precision) -> Precision:
    """What "auto" stands for: float64 where JAX has it enabled, else float32."""
    if precision != "auto":
        return precision
    return "float64" if jnp.result_type(float) == jnp.float64 else "float32"


@contextlib.contextmanager
def using(precision: Precision) -> Iterator[None]:
    """Sets the precision of all that is traced, compiled and run inside, in this thread only.

    "bfloat16-matmul" rounds the factors of every matrix product to bfloat16 and sums in float32; all other numbers,
    parameters and optimisers included, stay float32.
    """
    with contextlib.ExitStack() as stack:
        precision = resolve_precision(precision)
        stack.enter_context(jax.enable_x64(precision == "float64"))
        if precision == "bfloat16-matmul":
            stack.enter_context(jax.default_matmul_precision("BF16_BF16_F32"))
        yield
