"""The one way in which this package writes and reads files of its own, keeps others out, and seals what it writes."""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from .types import UsageError


# Larger files than this are not ours, whatever they are called.
LARGEST = 1 << 32
_UNFINISHED = ".tmp"


class StorageError(Exception):
    """The disk refused: full, read-only or gone. One line that says where and why."""


class DamagedError(Exception):
    """A file that is not what was written, or was written by another version; the message is half a sentence."""


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    return error.strerror or type(error).__name__


def write(path: pathlib.Path, data: bytes) -> None:
    """A whole file in place of what was there, confirmed by the disk; never seen half written.

    It is written beside its place under a name that nobody can foresee, so that it follows no link, and renamed.

    Raises:
        StorageError: the disk refused; what was there is still there.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        try:
            write_new(beside, data)
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {reason(error)}") from error


def write_new(path: pathlib.Path, data: bytes) -> None:
    """A file that was not there, confirmed by the disk.

    Raises:
        OSError: it is there already, if only as a link, or the disk refused.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append(path: pathlib.Path, data: bytes) -> None:
    """Writes behind what is in a file, without waiting for the disk to confirm it.

    Raises:
        OSError: the disk refused, or something else than a plain file has this name.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | _NO_SURPRISES
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        _check_plain(file.fileno())
        file.seek(0, os.SEEK_END)
        file.write(data)


def read(path: pathlib.Path, largest: int = LARGEST) -> bytes:
    """A file's content.

    Raises:
        OSError: it cannot be read, is no plain file but a link, a pipe or a device, or is larger than this.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | _NO_SURPRISES), "rb") as file:
        size = _check_plain(file.fileno())
        if size > largest:
            raise OSError(0, f"it is larger than {largest} bytes")
        return file.read(size)


# A link is not followed, and a pipe without a writer is not waited for.
_NO_SURPRISES = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _check_plain(descriptor: int) -> int:
    """The size of a file that was opened; raises an OSError unless it is a plain one."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is not a plain file")
    return status.st_size


def sync_folder(folder: pathlib.Path) -> None:
    """Has the disk confirm what was renamed in a folder, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: pathlib.Path) -> None:
    """Removes a file, if it is there.

    Raises:
        StorageError: the disk refused.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {reason(error)}") from error


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what a process that was killed left half written; for who alone may write in the folder."""
    for entry in folder.glob(f".*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            entry.unlink()


def make_folder(option: str, folder: pathlib.Path) -> None:
    """Makes a folder and those above it, if they are not there.

    Raises:
        UsageError: it cannot be made; names the option.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            folder.stat()  # a name that is too long is refused before any part of it is made
        # One after another: `parents=True` calls itself for each part of a path.
        for part in reversed([folder, *folder.parents]):
            if not part.is_dir():
                part.mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        words = reason(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"{option}: cannot make the folder {folder}: {words}") from error


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[bool]:
    """Whether a lock is ours while the context lasts. The system lifts it when this process ends, however it ends.

    The file stays: a lock on a file that is removed would keep nobody out.

    Raises:
        StorageError: the file cannot be written, or its file system has no locks.
    """
    import filelock

    lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        # Refused here and now: the lock takes some refusals for a holder, and makes folders.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | _NO_SURPRISES, 0o666))
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise StorageError(f"cannot lock {path}: {reason(error)}") from error
    try:
        yield True
    finally:
        lock.release()


def cache_folder() -> pathlib.Path | None:
    """`$ASMPG_CACHE`, or the user's cache folder of this system; None where there is no home directory."""
    if os.environ.get("ASMPG_CACHE"):
        return pathlib.Path(os.environ["ASMPG_CACHE"])
    import platformdirs

    try:
        return platformdirs.user_cache_path("asmpg", appauthor=False)
    except (RuntimeError, OSError):
        return None


def seal(content: Mapping[str, Any]) -> bytes:
    """JSON with a checksum over the rest, so that an edit or a cut shows."""
    body = dict(content)
    return (json.dumps(body | {"checksum": _checksum(body)}, indent=1, allow_nan=False) + "\n").encode()


def unseal(data: bytes) -> dict[str, Any]:
    """What was sealed.

    Raises:
        DamagedError: it was cut off or edited.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError("is cut off or is not JSON") from error
    if not isinstance(content, dict) or content.pop("checksum", None) != _checksum(content):
        raise DamagedError("was edited: its checksum does not fit")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def to_line(content: Mapping[str, Any]) -> bytes:
    """One line of a `.jsonl` file."""
    return (json.dumps(content, allow_nan=False) + "\n").encode()


def from_lines(data: bytes, skip: bool = False) -> list[dict[str, Any]]:
    """The whole lines of a `.jsonl` file: up to the first that is no object of plain JSON, or without those."""
    lines = []
    for line in data.split(b"\n")[:-1]:
        try:
            content = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            lines.append(content)
        elif not skip:
            break
    return lines


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
