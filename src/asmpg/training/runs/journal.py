"""What a run only ever adds to, its records and its replayed episodes, in pieces: files that are written once.

A checkpoint has the pieces of the checkpoint before last and one of its own, so that the last two share no file that
could be damaged, and each writes only what is new.
"""

import dataclasses
import hashlib
import pathlib
import re
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ...core import files
from ...core.files import DamagedError


# Checkpoints begin again with one piece when they have so many, or when most of what is in them is out of date.
MOST_PIECES = 64
_RECORDS = "records"
# An array beside the episodes, where seeds have different numbers of them: the index of each, -1 where there is none.
INDEX = ".replay.index"
_NAME = re.compile(r"^piece\.[0-9]{9,18}\.[0-9a-f]{8}$")
_Name = Annotated[str, Meta(pattern=_NAME.pattern)]


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
    def counts(self) -> tuple[int, ...] | None:
        """How many each seed has had by then, of seeds that go at their own pace."""
        return (
            tuple((self.arrays[INDEX].max(axis=1, initial=-1) + 1).tolist()) if INDEX in self.arrays else None
        )

    def since(self, index: int) -> "Episodes":
        """Those from an index on."""
        start = max(index - self.first, 0)
        return Episodes(self.first + start, {name: array[:, start:] for name, array in self.arrays.items()})


@dataclasses.dataclass(frozen=True)
class Journal:
    """What a checkpoint has of records and episodes.

    Attributes:
        pieces: names of the files in their order, in which there is a part of their hash, and the hash of each.
        size: bytes of the records.
        first: the index of the first episode.
        end: the index of the episode that would come next.
        counts: how many each seed has had by then, of seeds that go at their own pace.
    """

    pieces: tuple[tuple[_Name, str], ...] = ()
    size: int = 0
    first: Annotated[int, Meta(ge=0)] = 0
    end: int = 0
    counts: tuple[int, ...] | None = None

    @property
    def names(self) -> list[str]:
        """Of its files."""
        return [name for name, _ in self.pieces]

    def wants(self, capacity: int) -> int:
        """The index of the first episode that it does not have; 0, for all, where it is to begin again."""
        full = self.end - self.first >= 2 * capacity or len(self.pieces) >= MOST_PIECES
        return 0 if full else self.end

    def wants_of_each(self, capacity: int) -> tuple[int, tuple[int, ...] | None]:
        """Where the next episodes stand, and how many of each seed's it has; a place of their own if it wants all."""
        return (self.end, self.counts) if self.wants(capacity) == self.end else (self.end + 1, None)

    def extend(self, folder: pathlib.Path, steps: int, records: bytes, episodes: Episodes) -> "Journal":
        """Writes what is new as one more piece.

        Args:
            folder: of the pieces.
            steps: of the checkpoint.
            records: all records so far.
            episodes: from the one that `wants` named, or from the oldest that is left, to the last.

        Raises:
            StorageError: the disk refused.
        """
        before = self if episodes.first == self.end else Journal(first=episodes.first)
        new = np.frombuffer(records[before.size :], np.uint8)
        arrays = {name: np.ascontiguousarray(array) for name, array in episodes.arrays.items()}
        data = save({_RECORDS: new, **arrays})
        digest = hashlib.sha256(data).hexdigest()
        name = f"piece.{steps:09d}.{digest[:8]}"
        files.write(folder / name, data)
        counts = episodes.counts
        if counts is not None and before.counts is not None:
            counts = tuple(map(max, counts, before.counts))
        pieces = (*before.pieces, (name, digest))
        return Journal(pieces, len(records), before.first, episodes.end, counts)


def journal_of(content: object) -> Journal:
    """What a checkpoint says of itself.

    Raises:
        DamagedError: it is none.
    """
    try:
        return msgspec.convert(content, Journal)
    except msgspec.ValidationError as error:
        raise DamagedError("does not say what it has of its records and episodes") from error


def read_journal(folder: pathlib.Path, known: Journal) -> tuple[bytes, Episodes]:
    """The records and the episodes of a checkpoint.

    Raises:
        DamagedError: they are not whole.
    """
    try:
        pieces = [_read_piece(folder / name, digest) for name, digest in known.pieces]
        records = b"".join(piece.pop(_RECORDS).tobytes() for piece in pieces)
        names = pieces[0] if pieces else {}
        arrays = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in names}
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedError("holds no readable episodes") from error
    episodes = Episodes(known.first, arrays)
    if (len(records), episodes.end, episodes.counts) != (known.size, known.end, known.counts):
        raise DamagedError("does not have the records and episodes that it says")
    return records, episodes


def _read_piece(path: pathlib.Path, digest: str) -> dict[str, Any]:
    try:
        data = files.read(path)
    except OSError as error:
        raise DamagedError(f"needs {path.name}, which cannot be read: {files.reason(error)}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedError(f"is cut off or was edited: the checksum of {path.name} does not fit")
    return load(data)


def remove_others(folder: pathlib.Path, needed: set[str]) -> None:
    """Removes the pieces that no checkpoint needs any more.

    Raises:
        OSError: the disk refused.
    """
    for entry in folder.iterdir():
        if _NAME.match(entry.name) and entry.name not in needed:
            entry.unlink(missing_ok=True)
