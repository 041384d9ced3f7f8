"""The replayed episodes of a training state: taken out of it for a checkpoint, and put back in their places."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ...core.files import DamagedError
from .checkpoint import Checkpoint
from .journal import Episodes


# Where they are in the state, one row an episode behind the axis of seeds, and how many were ever added.
_ROWS, _COUNT = ".replay.episodes.", ".replay.count"
NONE = Episodes(0, {})

Arrays = dict[str, np.ndarray]


def capacity(arrays: Mapping[str, Any]) -> int:
    """The number of rows, of arrays or of their shapes."""
    return next((array.shape[1] for name, array in arrays.items() if name.startswith(_ROWS)), 0)


def split(arrays: Mapping[str, np.ndarray], since: int) -> tuple[Arrays, Episodes]:
    """Copies of everything but the episodes, and of those from an index on that are still there, in order."""
    count, room = int(arrays[_COUNT].max()) if _COUNT in arrays else 0, capacity(arrays)
    first = max(since, count - room)
    rows = np.arange(first, count) % max(room, 1)
    others = {name: np.array(array) for name, array in arrays.items() if not name.startswith(_ROWS)}
    episodes = {name: array[:, rows] for name, array in arrays.items() if name.startswith(_ROWS)}
    return others, Episodes(first, episodes)


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


def with_rows_of(arrays: Mapping[str, np.ndarray], shapes: PyTree[Any]) -> PyTree[Any]:
    """The shapes of a state with as many rows of episodes as these arrays have."""

    def fit(path: Any, wanted: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if not name.startswith(_ROWS) or name not in arrays or arrays[name].ndim < 2:
            return wanted
        shape = (wanted.shape[0], arrays[name].shape[1], *wanted.shape[2:])
        return jax.ShapeDtypeStruct(shape, wanted.dtype)

    return jax.tree_util.tree_map_with_path(fit, shapes)
