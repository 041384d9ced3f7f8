"""The folder of a run: who may write in it, and its files, none of which is ever seen half written."""

import contextlib
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...core import files
from ...core.files import DamagedError, from_lines, seal, StorageError, to_line, unseal
from ...core.types import UsageError
from . import checkpoint, replay
from .checkpoint import Checkpoint
from .contents import is_config, missing_of_run
from .journal import Episodes


FORMAT = 2
CONFIG, METRICS, TIMINGS, SUMMARY = "config.json", "metrics.jsonl", "timings.jsonl", "summary.json"
CURVE, CHECKPOINTS, LOCK = "learning_curve.png", "checkpoint", ".lock"
_LARGEST_CONFIG = 1 << 26


class RunWarning(UserWarning):
    """Something about a run folder that the user should know."""


class RunFolder:
    """A run's files. Reading needs no lock; writing does.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | pathlib.Path):
        """Nothing is looked at or made yet."""
        self.path = pathlib.Path(path)
        self._checkpoints = checkpoint.Checkpoints(self.path / CHECKPOINTS)
        self._locked: tuple[int, int] | None = None

    def is_run(self) -> bool:
        """Whether a run was ever begun here."""
        try:
            return (self.path / CONFIG).exists() or (self.path / CHECKPOINTS).is_dir()
        except OSError:  # a name that is too long, or a folder that is closed
            return False

    def refusal(self) -> str:
        """What to tell the user where a run should be and there is none."""
        try:
            self.path.stat()
            (self.path / CONFIG).lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.path.is_dir():
                return f"{self.path} is not a run folder: {error.strerror}"
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"
        return f"{self.path} is not a run folder"

    def check_usable(self) -> None:
        """Raises a UsageError unless a new run may begin here: nothing there, or an empty folder."""
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UsageError(f"out: {self.path} is a file, it must be a run folder or not exist yet")
            names = [entry.name for entry in self.path.iterdir()]
        except OSError as error:
            raise UsageError(f"out: cannot use the folder {self.path}: {error.strerror}") from error
        if any(name != LOCK and not name.endswith(".tmp") for name in names):
            raise UsageError(
                f"out: {self.path} has files in it but is not a run, choose a folder that does not exist"
            )

    def make(self) -> None:
        """Makes the folder.

        Raises:
            UsageError: it cannot be made.
        """
        files.make_folder("out", self.path)

    @contextlib.contextmanager
    def writing(self) -> Any:
        """Keeps every other writer out; the system lifts the lock when this process ends, however it ends.

        Raises:
            UsageError: another process is writing, or the folder cannot be written.
        """
        with contextlib.ExitStack() as held:
            try:
                ours = held.enter_context(files.locked(self.path / LOCK))
            except StorageError as error:
                raise UsageError(f"out: {error}") from error
            if not ours:
                raise UsageError(f"out: another process is writing the run {self.path}; wait for it")
            files.remove_unfinished(self.path)
            self._locked = self._identity()
            try:
                yield
            finally:
                self._locked = None

    def _identity(self) -> tuple[int, int] | None:
        """Of the lock that has this folder's name now."""
        try:
            status = (self.path / LOCK).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check_same(self) -> None:
        """Raises a StorageError if the folder was renamed, removed or exchanged since `writing` began."""
        if self._locked is not None and self._identity() != self._locked:
            raise StorageError(
                f"{self.path} was renamed, removed or exchanged while the run was writing in it; "
                "--resume with the folder that holds it continues from its last checkpoint"
            )

    def write(self, name: str, data: bytes) -> None:
        """A whole file, written beside its place and renamed."""
        self.check_same()
        try:
            files.write(self.path / name, data)
        except StorageError as error:
            raise self.storage_error(name, error) from error

    def append(self, name: str, line: bytes) -> None:
        """One line more, of what can be made again from a checkpoint."""
        self.check_same()
        try:
            files.append(self.path / name, line)
        except OSError as error:
            raise self.storage_error(name, error) from error

    def remove(self, *names: str) -> None:
        """Removes files, if they are there."""
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self.storage_error(name, error) from error

    def read(self, name: str) -> bytes:
        """A file's content; nothing where there is no plain file of this name."""
        try:
            return files.read(self.path / name)
        except OSError:
            return b""

    def _is_plain(self, name: str) -> bool:
        return (self.path / name).is_file() and not (self.path / name).is_symlink()

    def write_config(self, content: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """`config.json`, sealed."""
        self.write(CONFIG, seal({"format": FORMAT, "versions": dict(versions), "config": dict(content)}))

    def read_config(self) -> dict[str, Any]:
        """The configuration in `config.json`.

        Raises:
            DamagedError: it is missing, cut off, edited, of another version or not a configuration.
        """
        try:
            data = files.read(self.path / CONFIG, _LARGEST_CONFIG)
        except FileNotFoundError as error:
            raise DamagedError("is missing") from error
        except OSError as error:
            raise DamagedError(f"cannot be read: {files.reason(error)}") from error
        content = unseal(data)
        if content.get("format") != FORMAT:
            made_by = content.get("versions", {})
            raise DamagedError(
                f"has the format {content.get('format')!r}, this version reads {FORMAT}; made by {made_by}"
            )
        if not is_config(content.get("config")):
            raise DamagedError("holds no configuration of a run")
        return content["config"]

    def split_replay(self, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], Episodes]:
        """What the next checkpoint has to be given: all arrays but the replayed episodes, and those that are new."""
        return replay.split(arrays, self._checkpoints)

    def write_checkpoint(
        self,
        steps: int,
        arrays: Mapping[str, Any],
        meta: Mapping[str, Any],
        records: bytes,
        episodes: Episodes,
    ) -> None:
        """A checkpoint of the state after this many steps; see `Checkpoints.write`."""
        self.check_same()
        try:
            self._checkpoints.write(steps, arrays, meta, records, episodes)
        except (OSError, StorageError) as error:
            self.check_same()
            raise self.storage_error(f"the checkpoint at step {steps}", error) from error

    def read_checkpoints(self) -> tuple[list[Checkpoint], dict[str, str]]:
        """All whole checkpoints, the newest first, and by name what is wrong with each of the others.

        Raises:
            UsageError: their folder cannot be read.
        """
        try:
            whole, problems = checkpoint.read_all(self.path / CHECKPOINTS)
        except OSError as error:
            raise UsageError(f"run: cannot read {self.path / CHECKPOINTS}: {error.strerror}") from error
        foreign = {saved.path.name: entry for saved in whole if (entry := missing_of_run(saved)) is not None}
        problems |= {name: f"is not one of a run: it has no {entry}" for name, entry in foreign.items()}
        return [saved for saved in whole if saved.path.name not in foreign], problems

    def go_back(self, saved: Sequence[Checkpoint]) -> None:
        """Makes every file what it was when the first of these was written, or at the beginning if there is none."""
        metrics, timings = self.read(METRICS), self.read(TIMINGS)
        lines = saved[0].records if saved else b""
        if not metrics.startswith(lines):
            self.warn(f"{METRICS} was cut off or edited; it is restored from the checkpoint")
        if metrics != lines or not self._is_plain(METRICS):
            self.write(METRICS, lines)
        steps = saved[0].meta["steps"] if saved else -1
        kept = b"".join(to_line(line) for line in from_lines(timings, skip=True) if _up_to(line, steps))
        if kept != timings or not self._is_plain(TIMINGS):
            self.write(TIMINGS, kept)
        try:
            self._checkpoints.take_up(saved)
        except OSError as error:
            raise self.storage_error("an old checkpoint", error) from error

    def warn(self, message: str) -> None:
        """Says something about the folder that the user should know."""
        warnings.warn(f"{self.path}: {message}", RunWarning, stacklevel=3)

    def storage_error(self, what: str, error: Exception) -> StorageError:
        """What to tell the user when a file cannot be written."""
        try:
            whole = self.read_checkpoints()[0]
        except UsageError:
            whole = []
        safe = (
            f"the checkpoint at step {whole[0].meta['steps']} is whole"
            if whole
            else "no checkpoint was written yet"
        )
        words = files.reason(error) if isinstance(error, OSError) else str(error).rpartition(": ")[2]
        return StorageError(
            f"cannot write {what} in {self.path}: {words}; {safe}, --resume continues from there"
        )


def _up_to(line: Mapping[str, Any], steps: int) -> bool:
    """Whether a line is about no later step; what says nothing that can be compared is of no use."""
    known = line.get("steps")
    return isinstance(known, int) and known <= steps
