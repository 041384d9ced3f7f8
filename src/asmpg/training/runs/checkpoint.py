"""Checkpoints: a tree of arrays and a few facts in a folder of their own, whole or not there at all."""

import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...core import files
from ...core.files import DamagedError, seal, unseal


FORMAT = 1
ARRAYS, META = "arrays.safetensors", "meta.json"
NUM_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What one folder holds.

    Attributes:
        path: the folder.
        arrays: by name.
        meta: plain JSON.
    """

    path: pathlib.Path
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def flatten(tree: PyTree[Any]) -> dict[str, np.ndarray]:
    """The arrays of a tree by their place in it; keys as the numbers they consist of."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(_plain(leaf)) for path, leaf in leaves}


def unflatten(shapes: PyTree[Any], arrays: Mapping[str, np.ndarray]) -> PyTree[Any]:
    """A tree of the given shapes and types from the arrays of `flatten`.

    Raises:
        DamagedError: an array is missing, left over, or of another shape or type.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if set(names) != arrays.keys():
        other = sorted(set(names) ^ arrays.keys())[0]
        raise DamagedError(f"does not fit this configuration or version: {other} is on one side only")
    values = []
    for name, (_, wanted) in zip(names, leaves, strict=True):
        array = arrays[name]
        plain = jax.eval_shape(_plain, wanted)
        if array.shape != plain.shape or array.dtype != plain.dtype:
            raise DamagedError(
                f"does not fit this configuration or version: {name} is {array.dtype}{list(array.shape)}, "
                f"not {plain.dtype}{list(plain.shape)}"
            )
        # A copy: JAX may use the memory of a NumPy array as its own, and this one is a view of the file.
        values.append(_restore(jnp.array(array, copy=True), wanted))
    return jax.tree_util.tree_unflatten(structure, values)


def zeros(shapes: PyTree[Any]) -> PyTree[Any]:
    """A tree of the given shapes and types, all zero."""

    def zero(wanted: Any) -> Any:
        plain = jax.eval_shape(_plain, wanted)
        return _restore(jnp.asarray(np.zeros(plain.shape, plain.dtype)), wanted)

    return jax.tree.map(zero, shapes)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _restore(plain: jax.Array, wanted: Any) -> Any:
    return jax.random.wrap_key_data(plain) if _is_key(wanted) else plain


def write(folder: pathlib.Path, name: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint beside its place, then renames it there, then removes all but the last two.

    Args:
        folder: holds all checkpoints of a run.
        name: of this one; names sort by age.
        arrays: what changes.
        meta: plain JSON.

    Raises:
        OSError: the disk is full or read-only; the earlier checkpoints are still there.
    """
    beside = folder / f".{name}.tmp"
    folder.mkdir(exist_ok=True)
    _remove_unfinished(folder)
    beside.mkdir()
    data = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    digest = hashlib.sha256(data).hexdigest()
    files.write_new(beside / ARRAYS, data)
    files.write_new(beside / META, seal({"format": FORMAT, "sha256": digest, **meta}))
    os.replace(beside, folder / name)
    files.sync_folder(folder)
    for old in _names(folder)[:-NUM_KEPT]:
        os.replace(folder / old, folder / f".{old}.tmp")
    _remove_unfinished(folder)


def read(path: pathlib.Path) -> Checkpoint:
    """One checkpoint, checked.

    Raises:
        DamagedError: it is not whole, or of another version.
    """
    try:
        meta = unseal((path / META).read_bytes())
        if meta.get("format") != FORMAT:
            raise DamagedError(f"has the format {meta.get('format')!r}, this version of asmpg reads {FORMAT}")
        data = (path / ARRAYS).read_bytes()
    except OSError as error:
        raise DamagedError(f"cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != meta.get("sha256"):
        raise DamagedError("is cut off or was edited: the checksum of its arrays does not fit")
    try:
        return Checkpoint(path, load(data), meta)
    except SafetensorError as error:
        raise DamagedError("holds no readable arrays") from error


def read_all(folder: pathlib.Path) -> tuple[list[Checkpoint], list[str]]:
    """All whole checkpoints, the newest first, and a line about each of the others."""
    whole, problems = [], []
    for name in reversed(_names(folder)):
        try:
            whole.append(read(folder / name))
        except DamagedError as error:
            # One that is gone was only too old: a run that goes on has removed it meanwhile.
            if (folder / name).exists():
                problems.append(f"checkpoint {name} {error}")
    return whole, problems


def remove_after(folder: pathlib.Path, name: str) -> None:
    """Removes what a run that goes back to checkpoint `name` leaves behind."""
    for later in _names(folder):
        if later > name:
            os.replace(folder / later, folder / f".{later}.tmp")
    if folder.is_dir():
        _remove_unfinished(folder)


def _names(folder: pathlib.Path) -> list[str]:
    """The finished checkpoints, the oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _remove_unfinished(folder: pathlib.Path) -> None:
    for entry in folder.iterdir():
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            shutil.rmtree(entry, ignore_errors=True)
