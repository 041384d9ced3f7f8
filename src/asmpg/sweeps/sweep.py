"""A sweep: every item of a suite done once, whatever is interrupted; where it stands; how long it will take."""

import collections
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..runs import RunWarning
from ..runs.checkpoint import DamagedError
from ..stored_config import to_json
from ..types import UsageError
from . import tidy
from .code import code_version
from .engines import AbstractEngine
from .store import AbstractStore, FAILURES, open_store, PROGRESS, RESULTS
from .suite import Item, Suite
from .timing import Calibration, makespan, Speeds
from .work import Finished, Job, Outcome, read_failures, read_progress, read_result


# Where a claim cannot be seen, an item runs if it has said something in so many seconds.
FRESH = 900.0
# Seconds between two looks at an item that another process has.
BUSY_WAIT = 2.0


@dataclasses.dataclass(frozen=True)
class State:
    """Where a sweep stands.

    Attributes:
        suite: what is to be done.
        finished: results by item.
        running: by item, how far it is.
        failed: by item, why.
        damaged: by item, what is wrong with its result, which will be set aside.
        strange: files among the results that are no results.
        speeds: as learnt from what is finished.
    """

    suite: Suite
    finished: dict[str, Finished]
    running: dict[str, dict[str, Any]]
    failed: dict[str, str]
    damaged: dict[str, str]
    strange: tuple[str, ...]
    speeds: Speeds

    def left(self) -> list[Item]:
        """The items that are neither finished nor failed, in order."""
        return [
            item for item in self.suite.items if item.id not in self.finished and item.id not in self.failed
        ]

    def seconds_left(self, num_workers: int) -> float | None:
        """How long what is left will take; None while nothing is known about some of it."""
        return predict(self.left(), self.speeds, num_workers, self.running)

    def other_codes(self) -> dict[str, int]:
        """How many results there are of every code version but this one."""
        codes = collections.Counter(result.code for result in self.finished.values())
        return {code: number for code, number in codes.items() if code != code_version()}


def predict(
    items: Sequence[Item],
    speeds: Speeds,
    num_workers: int,
    running: dict[str, dict[str, Any]] | None = None,
) -> float | None:
    """Seconds until the last of these items is done; None if nothing is known about some of them."""
    begun = running or {}
    seconds = [speeds.seconds(item.config, begun.get(item.id, {}).get("steps", 0)) for item in items]
    known = [one for one in seconds if one is not None]
    return makespan(known, num_workers) if len(known) == len(seconds) else None


def look(suite: Suite, store: AbstractStore) -> State:
    """Reads where a sweep stands; changes nothing."""
    finished, damaged, running, speeds = {}, {}, {}, Speeds()
    there = set(store.names(RESULTS))
    failures = read_failures(store)
    begun = set(store.names(PROGRESS))
    for item in suite.items:
        if f"{item.id}.json" in there:
            try:
                result = read_result(store, item.id)
            except DamagedError as error:
                damaged[item.id] = str(error)
                continue
            if result is not None:
                finished[item.id] = result
                speeds.add(result.config, result.timing)
        elif f"{item.id}.json" in begun and (progress := _running(store, item.id)) is not None:
            running[item.id] = progress
    failed = {item.id: failures[item.id] for item in suite.items if item.id in failures}
    failed = {item: error for item, error in failed.items() if item not in finished and item not in running}
    known = {f"{item.id}.json" for item in suite.items}
    strange = tuple(name for name in sorted(there - known) if not _is_result(store, name))
    return State(suite, finished, running, failed, damaged, strange, speeds)


def _running(store: AbstractStore, item: str) -> dict[str, Any] | None:
    claimed, progress = store.is_claimed(item), read_progress(store, item) or {}
    if claimed is None:
        claimed = time.time() - progress.get("time", 0.0) < FRESH
    return progress if claimed else None


def _is_result(store: AbstractStore, name: str) -> bool:
    """Whether a file is the result of an item of another suite."""
    try:
        return name.endswith(".json") and read_result(store, name.removesuffix(".json")) is not None
    except DamagedError:
        return False


@dataclasses.dataclass
class Watch:
    """What a sweep tells whoever watches it.

    Attributes:
        done: items finished.
        failed: items failed.
        total: items of the suite.
        running: items under way here, with what is known of how far they are.
        seconds_left: until all is done, if that can be told.
        message: what has just happened.
    """

    done: int = 0
    failed: int = 0
    total: int = 0
    running: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    seconds_left: float | None = None
    message: str = ""


def run_sweep(
    suite: Suite,
    out: str,
    engine: AbstractEngine,
    *,
    retry_failed: bool = False,
    mix_versions: bool = False,
    watch: Callable[[Watch], Any] = lambda watch: None,
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Does every item of a suite that is not done, then writes the table of those that are.

    Args:
        suite: what to do.
        out: the folder or URL of the results; shared with other suites and other processes, if need be.
        engine: where.
        retry_failed: whether items that failed are tried again.
        mix_versions: whether results of another code version are kept beside new ones.
        watch: is told how far the sweep is.
        stop: whether to stop; what is done until then is kept, and the next call goes on from there.

    Returns:
        Where the sweep stands then.

    Raises:
        UsageError: there are results of another code version; nothing was done.
        StorageError: the results cannot be written.
    """
    store = open_store(out)
    state = look(suite, store)
    check_versions(state, mix_versions)
    for name in state.strange:
        _warn(f"{out}: {RESULTS}/{name} is no result; it is left alone")
    _tidy_up(state, store)
    if retry_failed:
        for item in state.failed:
            store.remove(f"{FAILURES}/{item}.json")
        state = dataclasses.replace(state, failed={})
    with engine:
        _Scheduler(state, store, engine, mix_versions, watch, stop).run()
    state = look(suite, store)
    write_tables(state, store)
    return state


def _tidy_up(state: State, store: AbstractStore) -> None:
    """Removes what a process that was killed just after it had written a result left behind."""
    for name in store.names(PROGRESS):
        item = name.removesuffix(".json")
        if item in state.finished and not store.is_claimed(item):
            with store.working(item) as path:
                store.forget(item, path)
            store.remove(f"{PROGRESS}/{name}")


def check_versions(state: State, mix_versions: bool) -> None:
    """Raises a UsageError if there are results of another code version, unless they may be mixed."""
    others = state.other_codes()
    if others and not mix_versions:
        listed = ", ".join(f"{number} of {code}" for code, number in others.items())
        raise UsageError(
            f"mix_versions: {sum(others.values())} of {len(state.finished)} results are of another code version "
            f"({listed}; this is {code_version()}); keep them with --mix-versions, or give another --out"
        )


def write_tables(state: State, store: AbstractStore) -> str:
    """Writes the tidy table of what is finished, and the timings; returns the name of the former."""
    name = table_name(state.suite)
    tidy.write_table(store, f"{name}-timings", tidy.timings(state.suite, state.finished))
    return tidy.write_table(store, name, tidy.collect(state.suite, state.finished))


def table_name(suite: Suite) -> str:
    """The name of a suite's table in its folder, without suffix."""
    return f"{suite.name}-{suite.scale}"


class _Scheduler:
    """Hands items to an engine until all are done."""

    def __init__(
        self,
        state: State,
        store: AbstractStore,
        engine: AbstractEngine,
        mix_versions: bool,
        watch: Callable[[Watch], Any],
        stop: Callable[[], bool],
    ):
        self._store, self._engine, self._watch, self._stop = store, engine, watch, stop
        self._speeds, code = state.speeds, code_version()
        self._items = {item.id: item for item in state.left()}
        self._waiting = collections.deque(
            Job(item.id, item.config, store.url, code, mix_versions) for item in self._items.values()
        )
        self._active: dict[str, Job] = {}
        # Items that another process has: when to look again.
        self._busy: list[tuple[float, Job]] = []
        self._seen = Watch(len(state.finished), len(state.failed), len(state.suite.items))
        self._last_look = -float("inf")

    def run(self) -> None:
        """Returns when nothing is left, or when everything has stopped after it was asked to."""
        stopping = False
        self._tell(f"{self._seen.done} of {self._seen.total} items are done")
        while self._active or (not stopping and (self._waiting or self._busy)):
            if not stopping and self._stop():
                stopping = True
                self._engine.ask_to_stop()
            now = time.monotonic()
            self._waiting.extend(job for due, job in self._busy if due <= now)
            self._busy = [(due, job) for due, job in self._busy if due > now]
            while self._waiting and not stopping and self._engine.num_free() > 0:
                job = self._waiting.popleft()
                self._active[job.id] = job
                self._engine.submit(job)
            for outcome in self._engine.poll(0.1):
                self._take(outcome)
            self._tell("")

    def _take(self, outcome: Outcome) -> None:
        job = self._active.pop(outcome.id)
        for message in outcome.warnings:
            _warn(message)
        if outcome.kind == "busy":
            self._busy.append((time.monotonic() + BUSY_WAIT, job))
        elif outcome.kind == "done":
            self._seen.done += 1
            result = read_result(self._store, job.id)
            if result is not None:
                self._speeds.add(result.config, result.timing)
            self._tell(f"{job.id} is done")
        elif outcome.kind == "failed":
            self._seen.failed += 1
            self._tell(f"{job.id} failed: {outcome.message}")

    def _tell(self, message: str) -> None:
        """Tells what has happened at once, and how far everything is every other second."""
        now = time.monotonic()
        if not message and now - self._last_look < 2.0:
            return
        self._last_look = now
        known = {item: read_progress(self._store, item) for item in self._active}
        self._seen.running = {item: progress for item, progress in known.items() if progress is not None}
        left = [self._items[job.id] for job in (*self._active.values(), *self._waiting)]
        num_workers = self._engine.num_workers()
        self._seen.seconds_left = predict(left, self._speeds, num_workers, self._seen.running)
        self._seen.message = message
        self._watch(self._seen)


def calibrate(
    state: State,
    engine: AbstractEngine,
    watch: Callable[[Watch], Any] = lambda watch: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, str]:
    """Learns the speeds that are lacking for what is left, from trials of a few seconds; writes nothing.

    Returns:
        By item, why its trial failed.
    """
    chosen = state.speeds.lacking(state.left())
    waiting = collections.deque(chosen)
    seen, failed = Watch(total=len(chosen)), {}
    with engine:
        while seen.done + seen.failed < len(chosen) and not stop():
            while waiting and engine.num_free() > 0:
                item = waiting.popleft()
                seen.message = f"trying {item.id}"
                watch(seen)
                engine.submit(Calibration(item.id, item.config))
            for outcome in engine.poll(0.1):
                if outcome.timing is None:
                    seen.failed += 1
                    failed[outcome.id] = outcome.message
                    continue
                seen.done += 1
                config = next(item.config for item in chosen if item.id == outcome.id)
                state.speeds.add(to_json(config), outcome.timing)
    return failed


def summary(state: State, num_workers: int) -> dict[str, Any]:
    """Where a sweep stands, as plain JSON."""
    left = state.seconds_left(num_workers)
    return {
        "suite": state.suite.name,
        "scale": state.suite.scale,
        "items": len(state.suite.items),
        "done": len(state.finished),
        "running": {
            item: {name: progress.get(name) for name in ("steps", "total_steps", "score", "machine")}
            for item, progress in state.running.items()
        },
        "failed": state.failed,
        "damaged": state.damaged,
        "left": len(state.left()),
        "seconds_left": None if left is None else round(left, 1),
        "workers": num_workers,
        "code": code_version(),
        "other_codes": state.other_codes(),
    }


def _warn(message: str) -> None:
    warnings.warn(message, RunWarning, stacklevel=3)
