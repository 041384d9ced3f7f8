"""A sweep: every item of a suite done once, whatever is interrupted; where it stands; how long it will take."""

import collections
import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ..training.stored_config import to_json
from . import tidy
from .code import code_version
from .engines import AbstractEngine
from .state import check_versions, look, predict, State
from .store import AbstractStore, FAILURES, open_store, PROGRESS, RESULTS
from .suite import Suite
from .timing import Calibration
from .work import Job, Outcome, read_progress, read_result, warn


# Seconds between two looks at an item that another process has.
BUSY_WAIT = 2.0


@dataclasses.dataclass
class Watch:
    """How far a sweep is.

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

    def under_way(self) -> str:
        """The running items, in short."""
        parts = [
            f"{item.rpartition('-')[0]} {progress.get('steps', 0)}/{progress.get('total_steps', '?')}"
            for item, progress in self.running.items()
        ]
        return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")


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
    tidy.check_tables()
    store = open_store(out)
    state = look(suite, store)
    check_versions(state, mix_versions)
    for name in state.strange:
        warn(f"{out}: {RESULTS}/{name} is no result; it is left alone")
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
        self._speeds = state.speeds
        self._items = {item.id: item for item in state.left()}
        self._waiting = collections.deque(
            Job(item.id, item.config, store.url, code_version(item.config.model_name), mix_versions)
            for item in self._items.values()
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
            warn(message)
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

    Args:
        state: where the sweep stands.
        engine: where the trials run, and everything would.
        watch: is told how far this is.
        stop: whether to stop.

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
