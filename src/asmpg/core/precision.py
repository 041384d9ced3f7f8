"""In what precision a run computes, and how precisions change within one process."""

import contextlib
import functools
import weakref
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np


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
    parameters and optimisers included, stay float32. A CPU multiplies in float32, whatever is asked of it, or refuses.
    """
    with contextlib.ExitStack() as stack:
        precision = resolve_precision(precision)
        stack.enter_context(double(precision == "float64"))
        if precision == "bfloat16-matmul" and jax.default_backend() != "cpu":
            stack.enter_context(jax.default_matmul_precision("BF16_BF16_F32"))
        yield


@contextlib.contextmanager
def double(enabled: bool = True) -> Iterator[None]:
    """float64 (or float32, if not enabled) inside, in this thread only; safe for tasks that hold NumPy arrays."""
    separate_numpy_constants()
    with jax.enable_x64(enabled):
        yield


@functools.cache
def separate_numpy_constants() -> bool:
    """Makes JAX keep the constants that it makes of a NumPy array separate by precision; returns whether it does now.

    JAX remembers, for every NumPy array that a traced function uses, the constant it made of it, for as long as
    any program holds that constant, and looks at the array alone. A task that was traced in one precision and then in
    the other would meet the constant of the first one: "Cannot lower jaxpr with verifier errors", or a program whose
    types are not what they say. Nothing public reaches that memory, so it is replaced by one that knows the precision.
    """
    if _constants_follow_the_precision():
        return True
    try:
        from jax._src import dtypes
        from jax._src.literals import TypedNdArray
    except ImportError:  # pragma: no cover (another JAX)
        return False
    made: dict[tuple[int, np.dtype[Any]], tuple[weakref.ref[Any], weakref.ref[Any]]] = {}

    def constant(array: np.ndarray) -> Any:
        dtype = dtypes.canonicalize_dtype(array.dtype)
        key = (id(array), dtype)
        source, value = made.get(key, (None, None))
        if source is not None and value is not None and source() is array and (known := value()) is not None:
            return known
        found = TypedNdArray(np.asarray(array, dtype))
        made[key] = weakref.ref(array), weakref.ref(found, lambda _: made.pop(key, None))
        return found

    dtypes.register_canonicalize_value_handler(np.ndarray, constant)
    return _constants_follow_the_precision()


def _constants_follow_the_precision() -> bool:
    """Whether one NumPy array becomes a constant of either precision while the other one is in use."""
    array = np.array([0.5, 0.25])
    programs = []
    for enabled in (True, False):
        with jax.enable_x64(enabled):
            programs.append(jax.make_jaxpr(lambda: array)())
    return [str(program.consts[0].dtype) for program in programs] == ["float64", "float32"]
