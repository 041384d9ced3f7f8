"""What public functions are given: one line that names the function, its argument, and what is allowed."""

import functools
import inspect
import os
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .checks import MAX_COUNT
from .types import one_line, UsageError


Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
# Takes what messages begin with ("reach: model"), and the argument; gives it as the function wants it.
Kind = Callable[[str, Any], Any]


def takes(**kinds: Kind) -> Callable[[Callable[Parameters, Returned]], Callable[Parameters, Returned]]:
    """Decorates a public function whose arguments of these names are of these kinds."""

    def decorate(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*arguments: Parameters.args, **options: Parameters.kwargs) -> Returned:
            given = signature.bind(*arguments, **options)
            for name in given.arguments.keys() & kinds.keys():
                about = f"{function.__name__}: {name}"
                given.arguments[name] = kinds[name](about, given.arguments[name])
            return function(*given.args, **given.kwargs)

        return checked

    return decorate


def of(*classes: type) -> Kind:
    """An object of one of these classes, not the class itself."""

    def check(about: str, value: object) -> Any:
        if not isinstance(value, classes):
            names = " or ".join(f"asmpg.{each.__name__}" for each in classes)
            raise UsageError(f"{about}: must be an {names}, got {shown(value)}")
        return value

    return check


def a_function(about: str, value: object) -> Any:
    """Something to call."""
    if not callable(value) or isinstance(value, type):
        raise UsageError(f"{about}: must be a function, got {shown(value)}")
    return value


def a_text(about: str, value: Any) -> str:
    """A word or more."""
    if not isinstance(value, str):
        raise UsageError(f"{about}: must be a string, got {shown(value)}")
    return value


def or_none(kind: Kind) -> Kind:
    """Of a kind, or None."""
    return lambda about, value: None if value is None else kind(about, value)


def a_path(about: str, value: object) -> Any:
    """The name of a file or a folder."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise UsageError(f"{about}: must be the name of a file or folder, got {shown(value)}")
    return value


def a_count(about: str, value: object) -> int:
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= MAX_COUNT:
        raise UsageError(f"{about}: must be an integer from 1 to {MAX_COUNT:,}, got {shown(value)}")
    return int(value)


def between(low: float, high: float) -> Kind:
    """A number strictly between two others."""

    def check(about: str, value: Any) -> Any:
        real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not real or not low < value < high:
            raise UsageError(f"{about}: must be a number between {low:g} and {high:g}, got {shown(value)}")
        return value

    return check


def a_key(about: str, value: object) -> Any:
    """A PRNG key, or None for the usual one."""
    check_key(about.partition(":")[0], value)
    return value


def numbers(*, finite: bool = True, least: int = 0, axes: int | None = None) -> Kind:
    """An array of real numbers, or lists of such, with at least so many along the first axis, as a NumPy array.

    Within a transformation of JAX's there are no numbers to look at.
    """

    def check(about: str, value: object) -> Any:
        if isinstance(value, jax.core.Tracer):
            return value
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"{about}: must be numbers, got {shown(value)}") from error
        if array.ndim == 0 or len(array) < least or isinstance(value, str):
            raise UsageError(
                f"{about}: must be at least {max(least, 1)} numbers in a row, got {shown(value)}"
            )
        if axes is not None and array.ndim != axes:
            raise UsageError(f"{about}: must have {axes} axes, got shape {array.shape}")
        if finite and not np.isfinite(array).all():
            raise UsageError(f"{about}: must be finite, {_where(array)}")
        return array

    return check


def several(kind: Kind) -> Kind:
    """A list, a tuple or the like of at least one thing of a kind."""

    def check(about: str, value: object) -> list[Any]:
        if isinstance(value, str | dict | jax.Array) or not isinstance(value, Collection) or not len(value):
            raise UsageError(f"{about}: must be a list of at least one, got {shown(value)}")
        return [kind(f"{about}: [{i}]", each) for i, each in enumerate(value)]

    return check


def a_tree(about: str, value: object) -> Any:
    """A pytree with arrays of floating-point numbers in it."""
    leaves = [leaf for leaf in jax.tree.leaves(value) if hasattr(leaf, "dtype")]
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size for leaf in leaves):
        raise UsageError(f"{about}: must have arrays of numbers in it, got {shown(value)}")
    return value


def check_numbers(function: str, argument: str, value: Any, ndim: int) -> Array:
    """A value as a floating-point array of a number of axes.

    Raises:
        UsageError: it is not one of finite numbers.
    """
    try:
        shape = value.shape if isinstance(value, jax.Array) else np.shape(value)
    except ValueError as error:  # a ragged list
        raise UsageError(f"{function}: {argument}: must be numbers, got {shown(value)}") from error
    if len(shape) != ndim or 0 in shape:
        raise UsageError(
            f"{function}: {argument}: must have {ndim} axes and numbers in it, got shape {shape}"
        )
    return as_numbers(function, argument, value, shape, "")


def check_key(function: str, key: Any) -> None:
    """Raises a UsageError unless this is one PRNG key, typed or legacy, or None."""
    if key is None:
        return
    try:
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
        legacy = key.dtype == jnp.uint32 and key.shape == (2,)
    except (AttributeError, TypeError):
        typed = legacy = False
    if not (typed or legacy):
        raise UsageError(
            f"{function}: key: must be a JAX PRNG key such as jax.random.key(0), got {shown(key)}"
        )


def as_numbers(function: str, argument: str, value: Any, shape: tuple[int, ...], wanted: str) -> Array:
    """A value as an array of finite floating-point numbers of a shape; `wanted` says of which, where it is not.

    Raises:
        UsageError: it is none.
    """
    array = value
    if not isinstance(value, jax.core.Tracer | jax.Array):
        try:
            array = np.asarray(value)
        except Exception as error:  # whatever a user's object does when it is made an array
            raise UsageError(f"{function}: {argument}: must be numbers, got {one_line(error)}") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        what = f"dtype {array.dtype}" if array.dtype != object else shown(value)
        raise UsageError(f"{function}: {argument}: must be real numbers, got {what}")
    if array.shape != shape:
        raise UsageError(
            f"{function}: {argument} have shape {tuple(array.shape)}, {wanted}".replace(
                "initial_state have", "initial_state has"
            )
        )
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(np.asarray(array, np.float64)).all():
        raise UsageError(f"{function}: {argument}: must be finite, {_where(np.asarray(array))}")
    return jnp.asarray(array, jnp.result_type(array, float))


def _where(array: np.ndarray) -> str:
    """The first number that is not finite, and its place."""
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(array, np.float64)))[0])
    return f"got {array[place]} at {place[0] if len(place) == 1 else place}"


def shown(value: object) -> str:
    """A value on one short line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a user's object does there
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
