"""Checkpoints: a tree of arrays and a few facts in a folder of their own, whole or not there at all.

What only grows, records and replayed episodes, is beside them in the pieces of `journal`.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...core import files
from ...core.files import DamagedError, seal, unseal
from . import journal
from .journal import Episodes, Journal, journal_of


FORMAT = 3
ARRAYS, META = "arrays.safetensors", "meta.json"
NUM_KEPT = 2
# No facts about a run are larger.
_LARGEST_META = 1 << 26


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What one folder holds, and the pieces that it names.

    Attributes:
        path: the folder.
        arrays: by name.
        meta: plain JSON.
        records: the lines of all records.
        episodes: the replayed episodes.
        journal: where these are.
    """

    path: pathlib.Path
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    records: bytes
    episodes: Episodes
    journal: Journal


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
        values.append(_restore(jax.device_put(array.copy()), wanted))
    return jax.tree_util.tree_unflatten(structure, values)


def zeros(shapes: PyTree[Any]) -> PyTree[Any]:
    """A tree of the given shapes and types, all zero."""

    def zero(wanted: object) -> Any:
        plain = jax.eval_shape(_plain, wanted)
        return _restore(jax.device_put(np.zeros(plain.shape, plain.dtype)), wanted)

    return jax.tree.map(zero, shapes)


def _is_key(leaf: PyTree) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: PyTree) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _restore(plain: jax.Array, wanted: object) -> Any:
    return jax.random.wrap_key_data(plain) if _is_key(wanted) else plain


class Checkpoints:
    """Those of one run, for the one process that writes them."""

    def __init__(self, folder: pathlib.Path):
        """Nothing is read or written yet; `take_up` says what there is."""
        self._folder = folder
        # Of the checkpoint before last and of the last.
        self._journals = (Journal(), Journal())

    def take_up(self, saved: Sequence[Checkpoint]) -> None:
        """Goes on from the first of these, or from the beginning; what came after it is removed.

        Args:
            saved: whole checkpoints, the newest first.

        Raises:
            OSError: the disk refused.
        """
        last, before, *_ = [*(one.journal for one in saved), Journal(), Journal()]
        self._journals = (before, last)
        last = int(saved[0].path.name) if saved else -1
        for name in _names(self._folder):
            if int(name) > last:
                _remove(self._folder, name)
        if self._folder.is_dir():
            self._tidy_up()

    def wants(self, capacity: int) -> int:
        """The index of the first episode that the next checkpoint has to be given; see `Journal.wants`."""
        return self._journals[0].wants(capacity)

    def wants_of_each(self, capacity: int) -> tuple[int, tuple[int, ...] | None]:
        """The same of seeds that go at their own pace; see `Journal.wants_of_each`."""
        return self._journals[0].wants_of_each(capacity)

    def write(
        self,
        steps: int,
        arrays: Mapping[str, np.ndarray],
        meta: Mapping[str, Any],
        records: bytes,
        episodes: Episodes,
    ) -> None:
        """Writes a checkpoint beside its place, then renames it there, then removes all but the last two.

        Args:
            steps: environment steps done, by which it is named.
            arrays: what changes.
            meta: plain JSON.
            records: all of them.
            episodes: from the one that `wants` names on.

        Raises:
            OSError, StorageError: the disk refused; the earlier checkpoints are still there.
        """
        self._folder.mkdir(exist_ok=True)
        beside, name = self._folder / f".{secrets.token_hex(8)}.tmp", f"{steps:09d}"
        before, last = self._journals
        grown = before.extend(self._folder, steps, records, episodes)
        beside.mkdir()
        data = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        digest = hashlib.sha256(data).hexdigest()
        files.write_new(beside / ARRAYS, data)
        content = {"format": FORMAT, "sha256": digest, **meta, "steps": steps}
        content["journal"] = dataclasses.asdict(grown)
        files.write_new(beside / META, seal(content))
        files.sync_folder(beside)
        if (self._folder / name).exists():
            _put_aside(self._folder, name)
        os.replace(beside, self._folder / name)
        self._journals = (last, grown)
        files.sync_folder(self._folder)
        for old in [known for known in _names(self._folder) if int(known) <= steps][:-NUM_KEPT]:
            _remove(self._folder, old)
        self._tidy_up()

    def _tidy_up(self) -> None:
        """Removes what was left unfinished, and what no checkpoint needs."""
        for entry in self._folder.iterdir():
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        journal.remove_others(self._folder, {name for one in self._journals for name in one.names})


def read(path: pathlib.Path) -> Checkpoint:
    """One checkpoint, checked.

    Raises:
        DamagedError: it is not whole, or of another version.
    """
    try:
        meta = unseal(files.read(path / META, _LARGEST_META))
        if meta.get("format") != FORMAT:
            raise DamagedError(f"has the format {meta.get('format')!r}, this version of asmpg reads {FORMAT}")
        if meta.get("steps") != int(path.name):
            raise DamagedError(f"is a copy: its content is that of step {meta.get('steps')}")
        data = files.read(path / ARRAYS)
    except OSError as error:
        raise DamagedError(f"cannot be read: {files.reason(error)}") from error
    if hashlib.sha256(data).hexdigest() != meta.get("sha256"):
        raise DamagedError("is cut off or was edited: the checksum of its arrays does not fit")
    known = journal_of(meta.get("journal"))
    records, episodes = journal.read_journal(path.parent, known)
    try:
        return Checkpoint(path, load(data), meta, records, episodes, known)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # KeyError: a type that NumPy lacks
        raise DamagedError("holds no readable arrays") from error


def read_all(folder: pathlib.Path) -> tuple[list[Checkpoint], dict[str, str]]:
    """All whole checkpoints, the newest first; and of each of the others, by name, what is wrong with it."""
    whole, problems = [], {}
    for name in reversed(_names(folder)):
        try:
            whole.append(read(folder / name))
        except DamagedError as error:
            # One that is gone was only too old: a run that goes on has removed it meanwhile.
            if (folder / name).exists():
                problems[name] = str(error)
    return whole, problems


def newest_files(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The files of the newest checkpoint, and the pieces that it names, of which none is ever changed."""
    for name in _names(folder)[-1:]:
        grown = journal_of(unseal(files.read(folder / name / META, _LARGEST_META)).get("journal"))
        return [folder / name / META, folder / name / ARRAYS], [folder / piece for piece in grown.names]
    return [], []


def _names(folder: pathlib.Path) -> list[str]:
    """The finished checkpoints, the oldest first. What is called otherwise is somebody else's and left alone."""
    if not folder.is_dir():
        return []
    found = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return sorted(filter(re.compile(r"[0-9]{9,18}").fullmatch, found), key=int)


def _remove(folder: pathlib.Path, name: str) -> None:
    """Removes a checkpoint; one that somebody has copied to this name is only put aside."""
    with contextlib.suppress(DamagedError, OSError):
        if unseal(files.read(folder / name / META, _LARGEST_META)).get("steps") != int(name):
            _put_aside(folder, name)
            return
    os.replace(folder / name, folder / f".{secrets.token_hex(8)}.tmp")


def _put_aside(folder: pathlib.Path, name: str) -> None:
    os.replace(folder / name, folder / f"{name}.{secrets.token_hex(4)}.aside")
