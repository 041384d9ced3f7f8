"""How long items take: the mean of those of their kind that are finished, or a forecast of one that is compiled."""

import dataclasses
import heapq
import math
import platform
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from ..training.config import TrainConfig
from ..training.runs.forecast import forecast
from ..training.stored_config import to_json
from .suite import Item
from .work import describe, Outcome


# Settings that change how much is done at first or kept, not how fast a step is; real numbers never do.
_NO_MATTER = {"warmup_steps", "replay_capacity", "learning_rate_decay"}

Kind = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A short trial of an item, to learn its speed."""

    id: str
    config: TrainConfig


def kind_of(content: Mapping[str, Any]) -> Kind:
    """What makes items about equally fast, but for the task.

    Args:
        content: a complete configuration as plain JSON.
    """
    sizes = {
        name: value
        for name, value in content["settings"].items()
        if not isinstance(value, float) and name not in _NO_MATTER
    }
    options = [content.get(name) for name in ("model", "horizon", "loop", "record_cosine", "learned_reward")]
    return (*options, *sorted(sizes.items()))


class Speeds:
    """What is known about speeds."""

    def __init__(self):
        """Nothing yet."""
        self._known: dict[Kind, list[tuple[float, float]]] = {}

    def add(self, content: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Learns from an item that is finished."""
        per_step = 1.0 / max(timing["steps_per_second"] * content["num_seeds"], 1e-9)
        self._known.setdefault(kind_of(content), []).append((per_step, timing["starting_seconds"]))

    def seconds(self, config: TrainConfig, steps: int = 0) -> float | None:
        """How long an item takes from this step on; None where nothing of its kind is known."""
        known = self._known.get(kind_of(to_json(config)))
        if not known:
            return None
        per_step, starting = (statistics.fmean(values) for values in zip(*known, strict=True))
        left = (math.ceil(config.steps / config.horizon) * config.horizon - steps) * config.num_seeds
        return per_step * left + starting

    def lacking(self, items: Iterable[Item]) -> list[Item]:
        """One item of every unknown kind, of which a trial would tell."""
        kinds = {kind_of(to_json(item.config)): item for item in items}
        return [item for kind, item in kinds.items() if kind not in self._known]


def measure(trial: Calibration) -> Outcome:
    """Trains for a few seconds, and tells how fast that was."""
    try:
        expected = forecast(trial.config.checked())
    except Exception as error:  # the item itself will say so when it is run
        return Outcome(trial.id, "failed", describe(error))
    timing = {
        "steps_per_second": expected.chunk_steps / max(expected.chunk_seconds, 1e-9),
        "starting_seconds": expected.compile_seconds,
        "machine": platform.node(),
    }
    return Outcome(trial.id, "done", timing=timing)


def makespan(seconds: Iterable[float], num_workers: int) -> float:
    """When the last of these jobs is done, if each begins as soon as a worker is free."""
    ends = [0.0] * num_workers
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)
