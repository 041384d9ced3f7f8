"""Backbones of the user's own, named on a command line as `FILE.py:NAME` or `history-FILE.py:NAME`."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..core import user_code as user_files
from ..core.types import OF_USERS, one_line, UsageError
from . import EMBEDDING_SIZE
from .backbones import AbstractBackbone, CreateBackbone


# What may stand before a backbone, built in or from a file: the method that has it inside.
FAMILIES = ("history-", "actions-")
# By file, its content and name: the same class is the same object, so that what was compiled is found again.
_loaded: dict[tuple[str, str, str], Any] = {}


def split_family(model: str) -> tuple[str, str]:
    """`history-` or `actions-`, or nothing, and the backbone: a name, or `FILE.py:NAME`.

    A file whose own name begins with one of these is that file.
    """
    for family in FAMILIES:
        backbone = model.removeprefix(family)
        if backbone != model and not user_files.exists(model.rpartition(":")[0]):
            return family, backbone
    return "", model


def short_name(model: str) -> str:
    """The model as it was named, but for a folder of the user's."""
    family, backbone = split_family(model)
    return family + user_files.short_name(backbone)


def load_definition(model: str) -> Any:
    """Runs the file and takes NAME from it. Only ever called for what the user typed just now.

    Args:
        model: `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        UsageError: the file cannot be run, or has no such name.
    """
    key = user_files.identity("model", model)
    if key not in _loaded:
        _loaded[key] = user_files.define("model", model, is_backbone)
    return _loaded[key]


def is_backbone(value: object) -> bool:
    """Whether it is a class of backbones."""
    return inspect.isclass(value) and issubclass(value, AbstractBackbone) and value is not AbstractBackbone


def check_backbone(option: str, name: str, create: CreateBackbone) -> None:
    """Traces everything a backbone has to do on a short sequence, so that a mistake in it is one line, and early."""
    length = 3

    def run(xs: Any) -> tuple[Any, ...]:
        backbone = create(EMBEDDING_SIZE, length, dropout=0.0, key=jax.random.key(0))
        if not isinstance(backbone, AbstractBackbone):
            raise TypeError(f"it makes a {type(backbone).__name__}, not a backbone")
        if backbone.input_size != EMBEDDING_SIZE:
            raise ValueError(f"its input_size is {backbone.input_size} where it was given {EMBEDDING_SIZE}")
        carry = backbone.init()
        return carry, backbone.step(carry, xs[0]), backbone.predict(xs), jnp.zeros(backbone.output_size)

    try:
        carry, (new_carry, output), outputs, expected = eqx.filter_eval_shape(
            run, jnp.zeros((length, EMBEDDING_SIZE))
        )
        if output.shape != expected.shape or outputs.shape != (length, *expected.shape):
            raise ValueError(
                f"for output_size {expected.shape[0]}, step gives the shape {output.shape} and predict {outputs.shape}"
            )
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (carry, new_carry)]
        if shapes[0] != shapes[1]:
            raise ValueError("step gives back a carry of another shape or type than init")
    except OF_USERS as error:  # whatever the user's class raises, the message names it
        raise UsageError(f"{option}: {name} raised {one_line(error)}") from error
