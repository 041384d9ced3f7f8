"""Where a sweep stands: what is finished, running, failed and left, and how long that will take."""

import collections
import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

from ..core.files import DamagedError, StorageError
from ..core.types import UsageError
from .code import code_version
from .store import AbstractStore, PROGRESS, RESULTS
from .suite import Item, Suite
from .timing import makespan, Speeds
from .work import Finished, read_failures, read_progress, read_result


# Where a claim cannot be seen, an item runs if it has said something in so many seconds.
FRESH = 900.0


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

    def own_codes(self) -> str:
        """The versions of this code, as far as the models of the suite depend on it."""
        return ", ".join(dict.fromkeys(code_version(item.config.model_name) for item in self.suite.items))

    def other_codes(self) -> dict[str, int]:
        """How many results there are of every code version but this one."""
        results = self.finished.values()
        others = [one.code for one in results if one.code != code_version(one.config["model"])]
        return dict(collections.Counter(others))


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
        elif f"{item.id}.json" in begun and (progress := _running(store, item.id, failures)) is not None:
            running[item.id] = progress
    failed = {item.id: failures[item.id] for item in suite.items if item.id in failures}
    failed = {item: error for item, error in failed.items() if item not in finished and item not in running}
    known = {f"{item.id}.json" for item in suite.items}
    strange = tuple(name for name in sorted(there - known) if not _is_result(store, name))
    return State(suite, finished, running, failed, damaged, strange, speeds)


def _running(store: AbstractStore, item: str, failures: Collection[str]) -> dict[str, Any] | None:
    claimed, progress = store.is_claimed(item), read_progress(store, item) or {}
    if claimed is None:
        # Nobody knows: it runs if it said so lately, and has not failed since.
        claimed = item not in failures and time.time() - progress.get("time", 0.0) < FRESH
    return progress if claimed else None


def _is_result(store: AbstractStore, name: str) -> bool:
    """Whether a file is the result of an item of another suite."""
    try:
        return name.endswith(".json") and read_result(store, name.removesuffix(".json")) is not None
    except (DamagedError, StorageError):
        return False


def check_versions(state: State, mix_versions: bool) -> None:
    """Raises a UsageError if there are results of another code version, unless they may be mixed."""
    others = state.other_codes()
    if others and not mix_versions:
        listed = ", ".join(f"{number} of {code}" for code, number in others.items())
        raise UsageError(
            f"mix_versions: {sum(others.values())} of {len(state.finished)} results are of another code version "
            f"({listed}; this is {state.own_codes()}); keep them with --mix-versions, or give another --out"
        )


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
        "code": state.own_codes(),
        "other_codes": state.other_codes(),
    }
