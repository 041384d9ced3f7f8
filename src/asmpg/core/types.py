"""Shared data types: trajectories, annotated array aliases and the error a user's mistake raises."""

from typing import Annotated, Any, TYPE_CHECKING, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32


# A legacy key is a pair of uint32 numbers, a typed key a scalar of a key dtype.
PRNGKey = Key[Array, ""] | UInt32[Array, "2"]
Step = int | Int[Array, ""]
Scalar = Float[Array, ""]
Metrics = dict[str, Float[Array, "..."]]


T = TypeVar("T")
if TYPE_CHECKING:
    Given = Annotated[T, "what a user gives"]
else:

    class Given:
        """`Given[int]` is an int to an editor; at run time anything: the function itself says what is wrong."""

        def __class_getitem__(cls, kind: object) -> Any:
            return Any


class UsageError(ValueError):
    """A mistake of the user's: one line that names the option or function and what is allowed."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()) if "\n" in message else message)


def vector_text(vector: np.ndarray) -> str:
    """The first eight numbers of an array, on one line."""
    shown = ", ".join(f"{number:.4g}" for number in np.ravel(vector)[:8])
    return f"[{shown}{', ...' if np.size(vector) > 8 else ''}]"


# What to do about the errors that functions written for Python's or NumPy's numbers raise when JAX traces them.
_REMEDIES = (
    (jax.errors.TracerBoolConversionError, "use jnp.where instead of if, and, or, min, max"),
    (
        jax.errors.TracerArrayConversionError,
        "use jax.numpy instead of numpy, and jnp.asarray(x)[i] to index an array",
    ),
    (jax.errors.TracerIntegerConversionError, "use jnp.asarray(x)[i] to index a list or an array"),
    (jax.errors.ConcretizationTypeError, "use jax.numpy instead of int, float and math"),
)


def one_line(error: BaseException) -> str:
    """An error as its type and the first line of its message, with what to do about it where that is known."""
    try:
        text = str(error).strip()
    except Exception:  # whatever a user's exception does there
        text = ""
    reason = (text or "no reason given").splitlines()[0]
    remedy = next((f"; {remedy}" for kind, remedy in _REMEDIES if isinstance(error, kind)), "")
    return f"{type(error).__name__}: {reason}{remedy}"


OF_USERS = (Exception, SystemExit, GeneratorExit)
"""What code of the user's own may raise, which is its fault and not the program's end. Not an interrupt."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was lacking, in Python or on a device: no fault of what was being tried."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in words)
    )


class Trajectory(eqx.Module):
    """One episode.

    Attributes:
        states: `s_0 .. s_H`, in environment units.
        actions: `a_0 .. a_{H-1}`, normalised to [-1, 1].
        rewards: one reward a step; the last one includes the terminal reward, so that `rewards.sum()` is the
            return.
    """

    states: Float[Array, "*batch horizon_plus_1 state"]
    actions: Float[Array, "*batch horizon action"]
    rewards: Float[Array, "*batch horizon"]

    @property
    def episode_return(self) -> Float[Array, "*batch"]:
        """The undiscounted sum of rewards."""
        return self.rewards.sum(axis=-1)


def all_finite(tree: PyTree[Any]) -> Bool[Array, ""]:
    """Whether every number of every floating-point leaf is finite."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.stack(leaves).all() if leaves else jnp.array(True)


def global_norm(tree: PyTree[Any]) -> Scalar:
    """The 2-norm of all floating-point leaves taken as one vector."""
    leaves = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.sqrt(sum(leaves, start=jnp.zeros(())))
