"""The replayed episodes of a training state: taken out of it for a checkpoint, and put back in their places."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ...core.files import DamagedError
from .checkpoint import Checkpoint, Checkpoints
from .journal import Episodes, INDEX


# Where they are in the state, one row an episode behind the axis of seeds, and how many were ever added; the second is
# there where seeds may differ in that.
_ROWS, _COUNT, _OWN_PACE = ".replay.episodes.", ".replay.count", ".counts.training"
NONE = Episodes(0, {})

Arrays = dict[str, np.ndarray]


def capacity(arrays: Mapping[str, Any]) -> int:
    """The number of rows, of arrays or of their shapes."""
    return next((array.shape[1] for name, array in arrays.items() if name.startswith(_ROWS)), 0)


def split(arrays: Mapping[str, np.ndarray], written: Checkpoints) -> tuple[Arrays, Episodes]:
    """Copies of everything but the episodes, and of those that the next checkpoint lacks and that are still there."""
    others = {name: np.array(array) for name, array in arrays.items() if not name.startswith(_ROWS)}
    episodes = {name: np.asarray(array) for name, array in arrays.items() if name.startswith(_ROWS)}
    room = capacity(episodes)
    if _COUNT in arrays and _OWN_PACE in arrays:
        return others, _new_of_each(episodes, others[_COUNT].astype(int), room, *written.wants_of_each(room))
    count = int(others[_COUNT].max()) if _COUNT in arrays else 0
    first = max(written.wants(room), count - room)
    rows = np.arange(first, count) % max(room, 1)
    return others, Episodes(first, {name: array[:, rows] for name, array in episodes.items()})


def _new_of_each(
    episodes: Arrays, counts: np.ndarray, room: int, slot: int, since: tuple[int, ...] | None
) -> Episodes:
    """Those of seeds that go at their own pace: each one's new ones, beside those of the others.

    Args:
        episodes: rows of all seeds.
        counts: how many each seed has had.
        room: rows of a seed.
        slot: where the first of them stand in the journal.
        since: how many of each seed's it has; None for none.
    """
    firsts = np.maximum(0 if since is None else since, counts - room)
    index = firsts[:, None] + np.arange((counts - firsts).max())
    index = np.where(index < counts[:, None], index, -1)
    seeds, rows = np.arange(len(counts))[:, None], np.maximum(index, 0) % max(room, 1)
    new = {name: array[seeds, rows] for name, array in episodes.items()}
    return Episodes(slot, new | {INDEX: index.astype(np.int32)})


def joined(saved: Checkpoint, shapes: PyTree[Any], to_go_on: bool) -> Arrays:
    """All arrays of a checkpoint, with each episode in its row.

    Args:
        saved: the checkpoint.
        shapes: of the state of this run, whose capacity is larger where a run is extended.
        to_go_on: whether there is room for all episodes to come, or only for those that there are.

    Raises:
        DamagedError: episodes are lacking.
    """
    wanted = jax.tree_util.tree_leaves_with_path(shapes)
    room = capacity({jax.tree_util.keystr(path): leaf for path, leaf in wanted})
    if INDEX in saved.episodes.arrays:
        return saved.arrays | _placed(saved, room, to_go_on)
    count = int(saved.arrays[_COUNT].max()) if _COUNT in saved.arrays else 0
    kept = min(count, room)
    if saved.episodes.end != count or saved.episodes.first > count - kept:
        raise DamagedError("does not fit this configuration or version: episodes are lacking")
    episodes = saved.episodes.since(count - kept)
    rows = np.arange(count - kept, count) % max(room, 1)
    placed = {}
    for name, array in episodes.arrays.items():
        placed[name] = np.zeros((array.shape[0], room if to_go_on else kept, *array.shape[2:]), array.dtype)
        placed[name][:, rows] = array
    return saved.arrays | placed


def _placed(saved: Checkpoint, room: int, to_go_on: bool) -> Arrays:
    """The episodes of seeds that go at their own pace, each in its row; arguments as for `joined`."""
    arrays = dict(saved.episodes.arrays)
    index, counts = arrays.pop(INDEX), saved.arrays[_COUNT].astype(int)
    kept = np.minimum(counts, room)
    number = room if to_go_on else int(kept.max())
    placed = {name: np.zeros((len(x), number, *x.shape[2:]), x.dtype) for name, x in arrays.items()}
    for seed, own in enumerate(index):
        slots = np.flatnonzero((own >= counts[seed] - kept[seed]) & (own < counts[seed]) & (own >= 0))
        if len(np.unique(own[slots])) != kept[seed]:
            raise DamagedError("does not fit this configuration or version: episodes are lacking")
        for name, array in arrays.items():
            placed[name][seed, own[slots] % max(room, 1)] = array[seed, slots]
    return placed


def with_rows_of(arrays: Mapping[str, np.ndarray], shapes: PyTree[Any]) -> PyTree[Any]:
    """The shapes of a state with as many rows of episodes as these arrays have."""

    def fit(path: tuple[object, ...], wanted: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path)
        if not name.startswith(_ROWS) or name not in arrays or arrays[name].ndim < 2:
            return wanted
        shape = (wanted.shape[0], arrays[name].shape[1], *wanted.shape[2:])
        return jax.ShapeDtypeStruct(shape, wanted.dtype)

    return jax.tree_util.tree_map_with_path(fit, shapes)
