"""One item: claimed, trained or taken up, and its result kept. What every engine runs, wherever it runs."""

import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from ..core.files import DamagedError, from_lines, seal, to_line, unseal
from ..core.hardware import hardware
from ..core.types import UsageError
from ..training.config import TrainConfig
from ..training.runs import Progress, Result, RunWarning
from ..training.runs.contents import are_records, is_config, is_reference
from ..training.runs.folder import RunFolder, TIMINGS
from ..training.runs.lifecycle import start, versions
from ..training.runs.records import History
from .code import code_version
from .store import AbstractStore, FAILURES, open_store, PROGRESS, RESULTS
from .suite import complete


FORMAT = 1
# Seconds between two notes of how far an item is.
PROGRESS_INTERVAL = 1.0


@dataclasses.dataclass(frozen=True)
class Job:
    """An item to do, and where.

    Attributes:
        id: of the item.
        config: of the item.
        url: of the store.
        code: the version of the code that is to do it.
        mix_versions: whether another version may do it, or go on with what another has begun.
    """

    id: str
    config: TrainConfig
    url: str
    code: str
    mix_versions: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        id: of the item.
        kind: "done", "failed", "stopped" on request, or "busy": another process has the item.
        message: why it failed.
        warnings: what the user should know besides.
        timing: of a trial: how fast it was.
    """

    id: str
    kind: Literal["done", "failed", "stopped", "busy"]
    message: str = ""
    warnings: tuple[str, ...] = ()
    timing: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Finished:
    """The result of an item.

    Attributes:
        item: its id.
        config: complete, as plain JSON.
        code: the code version, or with commas between them all that had a part in it.
        history: all records.
        reference: the returns of random actions and of the optimum, where they are known.
        timing: seconds, steps, steps_per_second of each seed, starting_seconds and machine.
    """

    item: str
    config: dict[str, Any]
    code: str
    history: History
    reference: dict[str, float] | None
    timing: dict[str, Any]


def result_name(item: str) -> str:
    """The file of an item's result."""
    return f"{RESULTS}/{item}.json"


def read_result(store: AbstractStore, item: str) -> Finished | None:
    """The result of an item; None if there is none yet.

    Raises:
        DamagedError: what is there is cut off, edited, of another format or not of this item.
    """
    data = store.read(result_name(item))
    if data is None:
        return None
    content = unseal(data)
    if content.get("format") != FORMAT:
        raise DamagedError(f"has the format {content.get('format')!r}, this version reads {FORMAT}")
    if content.get("item") != item:
        raise DamagedError(f"is of another item, {content.get('item')!r}")
    lacking = _lacking(content)
    if lacking is not None:
        raise DamagedError(f"is no result of a run: it has no {lacking}")
    history = History(content["records"].encode())
    return Finished(
        item, content["config"], content["code"], history, content["reference"], content["timing"]
    )


def _lacking(content: Mapping[str, Any]) -> str | None:
    """The first entry that a result of this format has and this one lacks, or has of another kind."""
    config: Any = content.get("config")
    timing: Any = content.get("timing")
    numbers = ("seconds", "steps", "steps_per_second", "starting_seconds")
    right = {
        "code": isinstance(content.get("code"), str),
        "config": is_config(config) and {"task", "horizon", "model", "seed", "num_seeds"} <= config.keys(),
        "timing": isinstance(timing, dict)
        and all(isinstance(timing.get(name), int | float) for name in numbers),
        "reference": is_reference(content.get("reference", 0)),
        "records": isinstance(content.get("records"), str),
    }
    right["readable records"] = all(right.values()) and are_records(
        content["records"].encode(), None, config["num_seeds"]
    )
    return next((name for name in right if not right[name]), None)


def write_result(store: AbstractStore, item: str, result: Result, folder: RunFolder, code: str) -> None:
    """The result of an item, in one piece, from its run, the folder of the run and the code that did it."""
    content = {
        "format": FORMAT,
        "item": item,
        "code": code,
        "versions": versions(),
        "config": complete(result.config),
        "reference": None if result.reference is None else dataclasses.asdict(result.reference),
        # Not from the file of the run, which may be gone or refused by now.
        "records": History.of(result.metrics).lines.decode(),
        "timing": {**timing(result, folder), "machine": platform.node()},
    }
    store.write(result_name(item), seal(content))


def timing(result: Result, folder: RunFolder) -> dict[str, Any]:
    """Seconds in all, environment steps and steps a second of each seed, and the seconds that went by otherwise."""
    lines = from_lines(folder.read(TIMINGS), skip=True)
    known = [line.get("steps_per_second") for line in lines]
    speeds = [speed for speed in known if isinstance(speed, int | float)]
    # The first record has no steps, the first chunk waits for the optimum.
    speed = float(np.median(speeds[2:] or speeds or [0.0]))
    seconds = result.seconds
    speed = speed if speed > 0 else result.steps / max(seconds, 1e-9)
    return {
        "seconds": seconds,
        "steps": result.steps,
        "steps_per_second": speed,
        "starting_seconds": max(0.0, seconds - result.steps / speed),
        "device": hardware(),
    }


def do(job: Job, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Does a job, unless it is done or another process is at it.

    An error of the item's is recorded and returned, not raised.

    Args:
        job: what to do.
        stop: is asked after every record whether to stop there; what is done until then is kept.
    """
    store, code = open_store(job.url), code_version(job.config.model_name)
    with store.claim(job.id) as ours:
        if not ours:
            return Outcome(job.id, "busy")
        try:
            if _is_done(store, job.id):
                return Outcome(job.id, "done")
            # Another process may have failed at it meanwhile; to try again is for the user to ask.
            error = read_failures(store).get(job.id)
            if error is not None:
                return Outcome(job.id, "failed", error)
            if code != job.code and not job.mix_versions:
                raise RuntimeError(f"{platform.node()} has the code {code}, not {job.code}")
            with store.working(job.id) as path:
                return _train(store, job, path, stop)
        except Exception as error:  # whatever it is, the other items go on
            record_failure(store, job.id, error)
            return Outcome(job.id, "failed", describe(error))
        finally:
            gc.collect()


def _is_done(store: AbstractStore, item: str) -> bool:
    try:
        return read_result(store, item) is not None
    except DamagedError as error:
        place = store.set_aside(result_name(item))
        warn(f"{result_name(item)} {error}; it is now {place}, and the item is computed again")
        return False


def _train(store: AbstractStore, job: Job, path: pathlib.Path, stop: Callable[[], bool]) -> Outcome:
    """Takes the run up, or begins it."""
    code = code_version(job.config.model_name)
    follow = _Follower(store, job.id, path, code)
    begun_with = follow.begun_with() if path.exists() else None
    if path.exists() and not job.mix_versions and begun_with != code:
        warn(f"{job.id} was begun by another code version and begins again")
        store.forget(job.id, path)
    elif begun_with:
        follow.code = ", ".join(dict.fromkeys([*begun_with.split(", "), follow.code]))
    follow.write(Progress("starting"))
    config = dataclasses.replace(job.config, out=str(path)).checked()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        result = start(config, follow, stop)
    except UsageError as error:
        if not RunFolder(path).is_run():
            raise
        warn(f"{job.id} begins again: {error}")
        store.forget(job.id, path)
        follow.code = code
        result = start(config, follow, stop)
    if not result.finished:
        return Outcome(job.id, "stopped")
    write_result(store, job.id, result, RunFolder(path), follow.code)
    store.forget(job.id, path)
    store.remove(f"{PROGRESS}/{job.id}.json")
    store.remove(f"{FAILURES}/{job.id}.json")
    return Outcome(job.id, "done")


class _Follower:
    """Is told how far the run is: keeps what it has done, and says so in a small file.

    Attributes:
        code: the code versions that have had a part in the run, in order, with commas between them.
    """

    def __init__(self, store: AbstractStore, item: str, path: pathlib.Path, code: str):
        self._store, self._item, self._path = store, item, path
        self.code = code
        self._last_write = -float("inf")

    def begun_with(self) -> str | None:
        """The code versions that have had a part in what is there of the run."""
        known = (read_progress(self._store, self._item) or {}).get("code")
        return known if isinstance(known, str) else None

    def __call__(self, progress: Progress) -> None:
        if progress.stage != "training":
            return
        self._store.keep(self._item, self._path)
        if time.monotonic() - self._last_write >= PROGRESS_INTERVAL:
            self.write(progress)

    def write(self, progress: Progress) -> None:
        self._last_write = time.monotonic()
        content = {
            "code": self.code,
            "machine": platform.node(),
            "process": os.getpid(),
            "time": time.time(),
            "steps": progress.steps,
            "total_steps": progress.total_steps,
            "seconds": progress.seconds,
            "seconds_left": progress.seconds_left,
            "score": progress.score,
        }
        self._store.write(f"{PROGRESS}/{self._item}.json", to_line(content))


def read_progress(store: AbstractStore, item: str) -> dict[str, Any] | None:
    """How far an item that was begun is; None where there is nothing readable."""
    data = store.read(f"{PROGRESS}/{item}.json")
    with contextlib.suppress(ValueError, RecursionError):
        content = None if data is None else json.loads(data)
        return content if isinstance(content, dict) else None
    return None


def record_failure(store: AbstractStore, item: str, error: BaseException) -> None:
    """Keeps why an item failed, for `--status`."""
    content = {
        "item": item,
        "error": describe(error),
        "traceback": "".join(traceback.format_exception(error)),
        "machine": platform.node(),
    }
    store.write(f"{FAILURES}/{item}.json", to_line(content))


def read_failures(store: AbstractStore) -> dict[str, str]:
    """The error of every item that failed, in one line."""
    errors = {}
    for name in store.names(FAILURES):
        try:
            content = json.loads(store.read(f"{FAILURES}/{name}") or b"{}")
        except (ValueError, RecursionError):
            content = {}
        known = content if isinstance(content, dict) else {}
        errors[name.removesuffix(".json")] = str(known.get("error", "of unknown reason"))
    return errors


def describe(error: BaseException) -> str:
    """An error in one line."""
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def warn(message: str) -> None:
    """A `RunWarning` for the user of the sweep."""
    warnings.warn(message, RunWarning, stacklevel=3)
