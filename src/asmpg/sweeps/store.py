"""Where a sweep keeps its results: a folder, or an object store by its URL. No file is ever seen half written."""

import abc
import contextlib
import importlib
import io
import itertools
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from typing import final

from ..core import files
from ..core.files import DamagedError, StorageError
from ..core.types import UsageError
from ..training.runs.checkpoint import newest_files
from ..training.runs.folder import CHECKPOINTS, CONFIG, METRICS, TIMINGS


RESULTS, FAILURES, PROGRESS, ASIDE = "results", "failures", "progress", "aside"
_LOCKS, _WORK = "locks", "work"


class AbstractStore(abc.ABC):
    """Small files by name, a claim on each item, and the run folder of an item that is under way.

    Attributes:
        url: the folder or URL, which `open_store` opens again, on another machine too.
    """

    url: str

    @abc.abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""

    @abc.abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """A whole file, in place of what was there.

        Raises:
            StorageError: it cannot be written.
        """

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

    @abc.abstractmethod
    def names(self, folder: str) -> list[str]:
        """The files of a folder, sorted, without their folder."""

    @abc.abstractmethod
    def claim(self, item: str) -> contextlib.AbstractContextManager[bool]:
        """Whether the item is ours while the context lasts; False if another process has it."""

    @abc.abstractmethod
    def is_claimed(self, item: str) -> bool | None:
        """Whether any process has the item now; None where the store cannot tell."""

    @abc.abstractmethod
    def working(self, item: str) -> contextlib.AbstractContextManager[pathlib.Path]:
        """The local path of the item's run folder, as its last `keep` left it; or of where it is to be."""

    @abc.abstractmethod
    def keep(self, item: str, path: pathlib.Path) -> None:
        """Keeps what the run folder holds now, so that the item can be taken up from there."""

    @abc.abstractmethod
    def forget(self, item: str, path: pathlib.Path) -> None:
        """Removes the item's run folder."""

    def set_aside(self, name: str) -> str:
        """Moves a file that is no good out of the way, and says where to."""
        data, folder = self.read(name) or b"", set(self.names(ASIDE))
        stem = name.rpartition("/")[2]
        new = next(new for number in itertools.count(1) if (new := f"{stem}.{number}") not in folder)
        self.write(f"{ASIDE}/{new}", data)
        self.remove(name)
        return f"{ASIDE}/{new}"


def open_store(url: str) -> AbstractStore:
    """The store at a folder or URL; nothing is made yet.

    Raises:
        UsageError: it is a file, or a URL of a kind that is not known here.
    """
    for kind in ("file://", "local://"):
        url = url.removeprefix(kind)
    return ObjectStore(url) if "://" in url else FolderStore(url)


@final
class FolderStore(AbstractStore):
    """A folder that every process sees as its own: claims are locks of the system, lifted when a process ends."""

    def __init__(self, path: str):
        """Raises a UsageError if the path is a file."""
        try:
            self._path = pathlib.Path(path).expanduser().resolve()
            is_file = self._path.exists() and not self._path.is_dir()
        except (
            OSError,
            RuntimeError,
            ValueError,
        ) as error:  # too long a name, a user without a home, a null byte
            raise UsageError(f"out: {path} cannot be a folder: {error}") from error
        self.url = str(self._path)
        if is_file:
            raise UsageError(f"out: {path} is a file, it must be a folder or not exist yet")

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path / name}: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> None:
        """Written beside its place, then renamed."""
        path = self._path / name
        self._make(path.parent)
        files.write(path, data)

    def _make(self, folder: pathlib.Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {files.reason(error)}") from error

    def remove(self, name: str) -> None:
        files.remove(self._path / name)

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(
                entry.name for entry in (self._path / folder).iterdir() if not entry.name.startswith(".")
            )
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextlib.contextmanager
    def claim(self, item: str) -> Iterator[bool]:
        """A lock on a file that is never removed, since a lock on a removed file would keep nobody out."""
        path = self._path / _LOCKS / item
        self._make(path.parent)
        with files.locked(path) as ours:
            yield ours

    def is_claimed(self, item: str) -> bool | None:
        """Whether the lock is held. Looking takes it for an instant; a process that finds it taken then tries again."""
        path = self._path / _LOCKS / item
        if not path.exists():
            return False
        try:
            with files.locked(path) as ours:
                return not ours
        except StorageError:  # a folder that may only be read
            return None

    @contextlib.contextmanager
    def working(self, item: str) -> Iterator[pathlib.Path]:
        """The run folder is in the results folder itself."""
        yield self._path / _WORK / item

    def keep(self, item: str, path: pathlib.Path) -> None:
        """It is there already."""

    def forget(self, item: str, path: pathlib.Path) -> None:
        shutil.rmtree(path, ignore_errors=True)


@final
class ObjectStore(AbstractStore):
    """Any URL that fsspec knows. It has no locks: two processes may do an item twice, with the same result.

    The run folder is on the local disk; after every record its newest checkpoint is kept in the store: the pieces that
    are new, then all the rest in one file.
    """

    def __init__(self, url: str):
        """Raises a UsageError if fsspec, or what it needs for this kind of URL, is not there."""
        try:
            self._system, root = importlib.import_module("fsspec.core").url_to_fs(url)
        except ImportError as error:
            raise UsageError(
                f"out: {url} needs fsspec: pip install 'asmpg[experiments]' ({error})"
            ) from error
        except Exception as error:  # what is missing, each kind says in its own way
            raise UsageError(f"out: {url}: {_one_line(error)}") from error
        self.url, self._root = url, root.rstrip("/")
        # By item: the pieces that the store has.
        self._pieces: dict[str, set[str]] = {}

    def read(self, name: str) -> bytes | None:
        with self._refused("read", name), contextlib.suppress(FileNotFoundError):
            return self._system.cat_file(f"{self._root}/{name}")
        return None

    def write(self, name: str, data: bytes) -> None:
        """As a whole or not at all in an object store; what another kind of URL leaves half written is set aside."""
        path = f"{self._root}/{name}"
        with self._refused("write", name):
            try:
                self._system.pipe_file(path, data)
            except FileNotFoundError:  # it has folders
                self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._system.pipe_file(path, data)

    def remove(self, name: str) -> None:
        with self._refused("remove", name), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{name}")

    def names(self, folder: str) -> list[str]:
        entries = []
        with self._refused("list", folder), contextlib.suppress(FileNotFoundError):
            self._system.invalidate_cache()
            entries = self._system.ls(f"{self._root}/{folder}", detail=False)
        return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)

    @contextlib.contextmanager
    def _refused(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every kind of store has errors of its own
            raise StorageError(f"cannot {verb} {self.url}/{name}: {_one_line(error)}") from error

    @contextlib.contextmanager
    def claim(self, item: str) -> Iterator[bool]:
        yield True

    def is_claimed(self, item: str) -> bool | None:
        return None

    @contextlib.contextmanager
    def working(self, item: str) -> Iterator[pathlib.Path]:
        """A folder on the local disk that is there as long as the context."""
        with tempfile.TemporaryDirectory(prefix="asmpg-", ignore_cleanup_errors=True) as local:
            path, kept = pathlib.Path(local) / item, self.read(f"{_WORK}/{item}.zip")
            self._pieces[item] = set(self.names(f"{_WORK}/{item}"))
            if kept is not None:
                with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(kept)) as archive:
                    archive.extractall(path)
                with contextlib.suppress(DamagedError):  # of another version
                    for piece in newest_files(path / CHECKPOINTS)[1]:
                        files.write_new(piece, self.read(f"{_WORK}/{item}/{piece.name}") or b"")
            yield path

    def keep(self, item: str, path: pathlib.Path) -> None:
        """The configuration, the records and the newest checkpoint."""
        newest, pieces = newest_files(path / CHECKPOINTS)
        there = self._pieces.setdefault(item, set())
        for piece in pieces:
            if piece.name not in there:
                self.write(f"{_WORK}/{item}/{piece.name}", piece.read_bytes())
                there.add(piece.name)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for file in (path / CONFIG, path / METRICS, path / TIMINGS, *newest):
                if file.exists():
                    archive.write(file, file.relative_to(path))
        self.write(f"{_WORK}/{item}.zip", stream.getvalue())
        for name in [name for name in there if not (path / CHECKPOINTS / name).exists()]:
            self.remove(f"{_WORK}/{item}/{name}")
            there.remove(name)

    def forget(self, item: str, path: pathlib.Path) -> None:
        self.remove(f"{_WORK}/{item}.zip")
        for name in self.names(f"{_WORK}/{item}"):
            self.remove(f"{_WORK}/{item}/{name}")
        self._pieces.pop(item, None)
        shutil.rmtree(path, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
