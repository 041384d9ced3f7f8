"""What functions of a user's own are: of the right shapes, within their arrays, the same each time they are traced."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from ..core.types import OF_USERS, one_line, UsageError


# Traces that are compared: what is drawn from a few values may be the same in two of them.
_NUM_TRACES = 4


def returned_shape(
    label: str, function: Callable[..., Any], *arguments: object, shape: tuple[int, ...]
) -> None:
    """Checks, without running it, that a user's function returns floating-point numbers of a shape.

    Args:
        label: how messages name the function.
        function: the function.
        *arguments: arrays, or `jax.ShapeDtypeStruct`s in their place.
        shape: the shape that is wanted.

    Raises:
        UsageError: it raises an error, or returns something else.
    """
    try:
        out = jax.eval_shape(function, *arguments)
    except OF_USERS as error:  # whatever the user's code raises, the message names the function
        raise UsageError(f"{label}: raised {one_line(error)}") from error
    wanted = f"must return floating-point numbers of shape {shape}"
    if not hasattr(out, "shape"):
        raise UsageError(f"{label}: {wanted}, got a {type(out).__name__}")
    if out.shape != shape or not jnp.issubdtype(out.dtype, jnp.floating):
        raise UsageError(f"{label}: {wanted}, got shape {out.shape}, dtype {out.dtype}")
    check_indices(label, function, *arguments)


def check_indices(label: str, function: Callable[..., Any], *arguments: object) -> None:
    """Traces a function with NumPy arrays, which refuse an index beyond their size; JAX takes the nearest one."""

    def example(argument: object) -> Any:
        if not isinstance(argument, jax.ShapeDtypeStruct):
            return argument
        return np.full(
            argument.shape, 0.5 if jnp.issubdtype(argument.dtype, jnp.floating) else 0, argument.dtype
        )

    examples = [example(argument) for argument in arguments]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            jax.eval_shape(lambda: function(*examples))
        except IndexError as error:
            raise UsageError(f"{label}: {error}; JAX would silently take the nearest one") from error
        except Exception:
            pass


def check_reproducible(label: str, function: Callable[..., Any], *arguments: object) -> None:
    """Checks that a function is the same each time it is traced: one that draws from NumPy, or reads a clock, is not.

    Raises:
        UsageError: two traces differ, or one draws from NumPy's generator.
    """

    def trace() -> tuple[str, list[np.ndarray]]:
        program = jax.make_jaxpr(lambda *given: function(*given))(*arguments)
        # Addresses of functions say nothing.
        constants = [np.asarray(value) for value in program.consts if not isinstance(value, jax.core.Tracer)]
        return re.sub("0x[0-9a-f]+", "", str(program)), constants

    before = str(np.random.get_state())  # noqa: NPY002
    text, constants = trace()
    same = str(np.random.get_state()) == before  # noqa: NPY002
    for _ in range(_NUM_TRACES - 1):
        if same:
            other, others = trace()
            same = text == other and all(map(_equal, constants, others))
    if not same:
        raise UsageError(
            f"{label}: is another function each time it is traced, and traced once: random numbers come from the key "
            "of initial_state, not from numpy.random, random or a clock"
        )


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def check_run(label: str, function: Callable[..., Any], *arguments: object) -> None:
    """Runs a function with every index of the user's own code looked at, also those that only numbers tell.

    Raises:
        UsageError: one is beyond its array, which JAX would not say.
    """
    try:
        program = jax.jit(checkify.checkify(function, errors=checkify.index_checks))
        # It runs once: compiled for speed of compilation.
        options: Any = {"xla_backend_optimization_level": 0}
        with jax.disable_jit(False):
            error = program.lower(*arguments).compile(options)(*arguments)[0].get_exception()
    except Exception:  # what cannot be looked at in this way is not known to be wrong
        return
    place = "" if error is None else _own_place(str(getattr(error, "traceback_info", "")))
    if place:
        raise UsageError(
            f"{label}: {str(error).strip().rstrip('.')}, at {place}; JAX would silently take the nearest element, or "
            "leave the update out: use jnp.clip on the index where that is meant"
        )


def _own_place(trace: str) -> str:
    """The first place outside of JAX, if it is in the user's own code rather than in an installed package."""
    for line in trace.splitlines():
        place = line.split(" (")[0]
        if "/jax/" not in place.replace("\\", "/"):
            return "" if "site-packages" in place or "dist-packages" in place else place
    return ""
