"""The folder of a run: who may write in it, and its files, none of which is ever seen half written."""

import contextlib
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from ...core import files
from ...core.files import DamagedError, from_lines, seal, StorageError, to_line, unseal
from ...core.types import UsageError
from . import checkpoint
from .checkpoint import Checkpoint


FORMAT = 1
CONFIG, METRICS, TIMINGS, SUMMARY = "config.json", "metrics.jsonl", "timings.jsonl", "summary.json"
CURVE, CHECKPOINTS, LOCK = "learning_curve.png", "checkpoint", ".lock"


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
        except OSError as error:
            return f"{self.path} is not a run folder: {error.strerror}"
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
            yield

    def write(self, name: str, data: bytes) -> None:
        """A whole file, written beside its place and renamed."""
        try:
            files.write(self.path / name, data)
        except StorageError as error:
            raise self.storage_error(name, error) from error

    def append(self, name: str, line: bytes) -> None:
        """One line more."""
        try:
            files.append(self.path / name, line)
        except OSError as error:
            raise self.storage_error(name, error) from error

    def read(self, name: str) -> bytes:
        """A file's content; nothing where there is none."""
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return b""

    def write_config(self, content: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """`config.json`, sealed."""
        self.write(CONFIG, seal({"format": FORMAT, "versions": dict(versions), "config": dict(content)}))

    def read_config(self) -> dict[str, Any]:
        """The configuration in `config.json`.

        Raises:
            DamagedError: it is missing, cut off, edited, of another version or not a configuration.
        """
        try:
            data = (self.path / CONFIG).read_bytes()
        except FileNotFoundError as error:
            raise DamagedError("is missing") from error
        except OSError as error:
            raise DamagedError(f"cannot be read: {error.strerror}") from error
        content = unseal(data)
        if content.get("format") != FORMAT:
            made_by = content.get("versions", {})
            raise DamagedError(
                f"has the format {content.get('format')!r}, this version reads {FORMAT}; made by {made_by}"
            )
        if not _is_config(content.get("config")):
            raise DamagedError("holds no configuration of a run")
        return content["config"]

    def write_checkpoint(self, steps: int, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """A checkpoint of the state after this many steps."""
        try:
            checkpoint.write(self.path / CHECKPOINTS, f"{steps:09d}", arrays, meta)
        except OSError as error:
            raise self.storage_error(f"the checkpoint at step {steps}", error) from error

    def read_checkpoints(self) -> tuple[list[Checkpoint], list[str]]:
        """All whole checkpoints, the newest first, and a line about each of the others.

        Raises:
            UsageError: their folder cannot be read.
        """
        try:
            whole, problems = checkpoint.read_all(self.path / CHECKPOINTS)
        except OSError as error:
            raise UsageError(f"run: cannot read {self.path / CHECKPOINTS}: {error.strerror}") from error
        foreign = {saved.path.name: entry for saved in whole if (entry := _missing_of_run(saved)) is not None}
        problems += [f"checkpoint {name} is not one of a run: it has no {foreign[name]}" for name in foreign]
        return [saved for saved in whole if saved.path.name not in foreign], problems

    def go_back(self, saved: Checkpoint | None, lines: bytes) -> None:
        """Makes every file what it was when a checkpoint was written, or at the beginning if there is none.

        Args:
            saved: the checkpoint.
            lines: `metrics.jsonl` as it was then.
        """
        metrics, timings = self.read(METRICS), self.read(TIMINGS)
        if not metrics.startswith(lines):
            message = f"{self.path}: {METRICS} was cut off or edited; it is restored from the checkpoint"
            warnings.warn(message, RunWarning, stacklevel=2)
        if metrics != lines:
            self.write(METRICS, lines)
        steps = -1 if saved is None else saved.meta["steps"]
        kept = b"".join(
            to_line(line) for line in from_lines(timings) if line.get("steps", steps + 1) <= steps
        )
        if kept != timings:
            self.write(TIMINGS, kept)
        try:
            checkpoint.remove_after(self.path / CHECKPOINTS, "" if saved is None else saved.path.name)
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


def _is_config(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("settings"), dict)


def _missing_of_run(saved: Checkpoint) -> str | None:
    """The first entry that every checkpoint of a run has and this one lacks, or has with another type."""
    numbers = {name: _is_number(saved.meta.get(name)) for name in ("steps", "episodes", "warmup_episodes")}
    lines = saved.arrays.get(METRICS)
    right = numbers | {
        "config": _is_config(saved.meta.get("config")),
        "seconds": _is_number(saved.meta.get("seconds"), float),
        "reference": _is_reference(saved.meta.get("reference", 0)),
        METRICS: lines is not None and lines.dtype == "uint8",
    }
    return next((name for name in right if not right[name]), None)


def _is_number(value: Any, kind: type = int) -> bool:
    return isinstance(value, int | kind) and not isinstance(value, bool)


def _is_reference(value: Any) -> bool:
    """Whether this is what scores are measured by, or the null of a run without scores."""
    if not isinstance(value, dict):
        return value is None
    names = {"random_return", "optimal_return"}
    texts = [value.get("message", ""), *value.get("doubts", [])]
    numbers = [value.get(name) for name in names] + [value.get("best_constant_return") or 0.0]
    known = {*names, "best_constant_return", "message", "doubts"}
    plain = all(_is_number(number, float) for number in numbers) and all(isinstance(t, str) for t in texts)
    return names <= value.keys() <= known and plain
