"""What a run only ever adds to, its records and its replayed episodes, in files that grow at their ends.

Checkpoints take turns between two sets of such files, so that the last two share nothing that could be damaged. What
is added to a file lies behind all that an older checkpoint has of it, so that a kill meanwhile harms none.
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core import files
from ...core.files import DamagedError


SIDES = ("a", "b")
# An array beside the episodes, where seeds have different numbers of them: the index of each, -1 where there is none.
INDEX = ".replay.index"
_NAME = re.compile(r"([ab])\.(records|episodes\.\d+)")


class GrowingFile:
    """A file, as far as one side has it; what lies behind that is of a process that was killed.

    Attributes:
        path: the file.
        size: bytes that count.
    """

    def __init__(self, path: pathlib.Path, content: bytes = b""):
        """A file that begins with this content, which is there already."""
        self.path, self.size = path, len(content)
        self._hash = hashlib.sha256(content)

    def extend(self, data: bytes) -> None:
        """Writes more.

        Raises:
            OSError: the disk refused; what was there is still there.
        """
        files.append(self.path, data, at=self.size)
        if self.size == 0:
            files.sync_folder(self.path.parent)
        self.size += len(data)
        self._hash.update(data)

    def extent(self) -> dict[str, Any]:
        """What a checkpoint has to know to read it again."""
        return {"file": self.path.name, "size": self.size, "sha256": self._hash.hexdigest()}


def read_extent(folder: pathlib.Path, extent: Any) -> bytes:
    """What a checkpoint has of a file.

    Raises:
        DamagedError: the file is missing, cut off or edited, or the extent is none.
    """
    name, size = (extent.get(key) for key in ("file", "size")) if isinstance(extent, dict) else ("", 0)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(size, int) or size < 0:
        raise DamagedError("does not say what it has of its records and episodes")
    try:
        data = files.read(folder / name)[:size]
    except OSError as error:
        raise DamagedError(f"needs {name}, which cannot be read: {files.reason(error)}") from error
    if len(data) < size or hashlib.sha256(data).hexdigest() != extent.get("sha256"):
        raise DamagedError(f"is cut off or was edited: the checksum of {name} does not fit")
    return data


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Replayed episodes, one after the other.

    Attributes:
        first: the index of the first of them in the run.
        arrays: by name, each `[num_seeds, num_episodes, ...]`.
    """

    first: int
    arrays: dict[str, np.ndarray]

    @property
    def end(self) -> int:
        """The index of the episode that would come next."""
        return self.first + next((array.shape[1] for array in self.arrays.values()), 0)

    @property
    def counts(self) -> np.ndarray | None:
        """How many each seed has had by then, of seeds that go at their own pace."""
        return self.arrays[INDEX].max(axis=1, initial=-1) + 1 if INDEX in self.arrays else None

    def since(self, index: int) -> "Episodes":
        """Those from an index on."""
        start = max(index - self.first, 0)
        return Episodes(self.first + start, {name: array[:, start:] for name, array in self.arrays.items()})

    def layout(self) -> list[list[Any]]:
        """Name, type and shape of what there is of one episode."""
        return [
            [name, array.dtype.str, [array.shape[0], *array.shape[2:]]]
            for name, array in sorted(self.arrays.items())
        ]

    def to_bytes(self) -> bytes:
        """One episode after the other."""
        rows = []
        for _, array in sorted(self.arrays.items()):
            by_episode = np.ascontiguousarray(np.moveaxis(array, 1, 0))
            rows.append(by_episode.reshape(len(by_episode), -1).view(np.uint8))
        return np.concatenate(rows, axis=1).tobytes() if rows else b""

    @classmethod
    def from_bytes(cls, first: int, layout: list[list[Any]], data: bytes) -> "Episodes":
        """What `to_bytes` wrote.

        Raises:
            DamagedError: the layout is none, or that of other data.
        """
        try:
            kinds = [(name, np.dtype(kind), tuple(shape)) for name, kind, shape in layout]
            widths = [kind.itemsize * int(np.prod(shape, dtype=np.int64)) for _, kind, shape in kinds]
            rows = (
                np.frombuffer(data, np.uint8).reshape(-1, sum(widths))
                if widths
                else np.zeros((0, 0), np.uint8)
            )
            parts = np.split(rows, np.cumsum(widths)[:-1], axis=1) if widths else []
            arrays = {
                name: np.moveaxis(np.ascontiguousarray(part).view(kind).reshape(len(rows), *shape), 0, 1)
                for (name, kind, shape), part in zip(kinds, parts, strict=True)
            }
        except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise DamagedError("holds no readable episodes") from error
        return cls(first, arrays)


class Side:
    """The files of every other checkpoint."""

    def __init__(self, folder: pathlib.Path, name: str):
        """Nothing yet; what is in its files is of no checkpoint any more."""
        self._folder, self._name = folder, name
        self._records = GrowingFile(folder / f"{name}.records")
        self._episodes: GrowingFile | None = None
        self._first = self._end = 0
        self._counts: np.ndarray | None = None

    @classmethod
    def of(cls, folder: pathlib.Path, name: str, records: bytes, episodes: Episodes) -> "Side":
        """As a checkpoint has it."""
        side = cls(folder, name)
        side._records = GrowingFile(side._records.path, records)
        side._episodes = GrowingFile(side._path(episodes.first), episodes.to_bytes())
        side._first, side._end, side._counts = episodes.first, episodes.end, episodes.counts
        return side

    def _path(self, first: int) -> pathlib.Path:
        return self._folder / f"{self._name}.episodes.{first:09d}"

    def names(self) -> set[str]:
        """Its files."""
        return set() if self._episodes is None else {self._records.path.name, self._episodes.path.name}

    def wants(self, capacity: int) -> int:
        """The index of the first episode that it does not have; 0, for all, where most that it has is out of date."""
        return 0 if self._end - self._first >= 2 * capacity else self._end

    def wants_of_each(self, capacity: int) -> tuple[int, np.ndarray | None]:
        """Where the next episodes stand, and how many of each seed's it has; a place of their own if it wants all."""
        end = self._end
        return (end, self._counts) if self.wants(capacity) == end else (end + 1, None)

    def extend(self, records: bytes, episodes: Episodes) -> dict[str, Any]:
        """Adds what is new; returns what a checkpoint has to know.

        Args:
            records: all records so far.
            episodes: from the one that `wants` named, or from the oldest that is left, to the last.

        Raises:
            OSError: the disk refused; what was there is still there.
        """
        if self._episodes is None or episodes.first != self._end:
            self._episodes, self._first = GrowingFile(self._path(episodes.first)), episodes.first
        self._records.extend(records[self._records.size :])
        self._episodes.extend(episodes.to_bytes())
        self._end = episodes.end
        if (counts := episodes.counts) is not None:
            self._counts = counts if self._counts is None else np.maximum(counts, self._counts)
        extents = {"records": self._records.extent(), "episodes": self._episodes.extent()}
        return {"side": self._name, **extents, "first": self._first, "layout": episodes.layout()}


def read_side(folder: pathlib.Path, content: object) -> tuple[bytes, Episodes]:
    """The records and the episodes of a checkpoint.

    Raises:
        DamagedError: they are not whole.
    """
    known = content if isinstance(content, Mapping) else {}
    first, layout = known.get("first"), known.get("layout")
    if (
        known.get("side") not in SIDES
        or not isinstance(first, int)
        or first < 0
        or not isinstance(layout, list)
    ):
        raise DamagedError("does not say what it has of its records and episodes")
    records, data = (read_extent(folder, known.get(name)) for name in ("records", "episodes"))
    return records, Episodes.from_bytes(first, layout, data)


def remove_others(folder: pathlib.Path, needed: set[str]) -> None:
    """Removes the files that no checkpoint needs any more.

    Raises:
        OSError: the disk refused.
    """
    for entry in folder.iterdir():
        if _NAME.fullmatch(entry.name) and entry.name not in needed:
            entry.unlink(missing_ok=True)
