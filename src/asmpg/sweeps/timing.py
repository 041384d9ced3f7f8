"""How long items take: from those that are finished, or from a short trial of their kind."""

import dataclasses
import heapq
import math
import platform
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..training.config import TrainConfig
from ..training.loop import Trainer
from ..training.runs import Progress
from ..training.runs.group import run_together
from ..training.runs.lifecycle import start
from ..training.runs.session import MakeTrainer
from ..training.stored_config import to_json
from .suite import Item
from .together import numbers_of, solve_once
from .work import describe, Outcome


# Seconds of training that a trial watches, after its first chunk.
TRIAL_SECONDS = 4.0
# Settings that change how much is done at first or kept, not how fast a step is; real numbers never do.
_NO_MATTER = {"warmup_steps", "replay_capacity", "learning_rate_decay"}


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast items of a kind are.

    Attributes:
        seconds_per_step: of one seed's environment step.
        starting_seconds: before the first chunk: compiling, and solving the task.
    """

    seconds_per_step: float
    starting_seconds: float


Kind = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A short trial of an item, to learn its speed.

    Attributes:
        id: of the item.
        config: of the item.
        others: of items that would be trained as one with it.
    """

    id: str
    config: TrainConfig
    others: tuple[TrainConfig, ...] = ()


def kind_of(content: Mapping[str, Any]) -> Kind:
    """What makes items equally fast, but for the horizon and, of lesser weight, the task.

    Args:
        content: a complete configuration as plain JSON.
    """
    sizes = {
        name: value
        for name, value in content["settings"].items()
        if not isinstance(value, float) and name not in _NO_MATTER
    }
    options = [content.get(name) for name in ("model", "loop", "record_cosine", "learned_reward")]
    return (*options, *sorted(sizes.items()))


class Speeds:
    """What is known about speeds."""

    def __init__(self):
        """Nothing yet."""
        self._known: dict[Kind, dict[int, list[Speed]]] = {}

    def add(self, content: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Learns from an item that is finished."""
        seconds = 1.0 / max(timing["steps_per_second"] * content["num_seeds"], 1e-9)
        speed = Speed(seconds, timing["starting_seconds"])
        self._known.setdefault(kind_of(content), {}).setdefault(content["horizon"], []).append(speed)

    def seconds(self, config: TrainConfig, steps: int = 0) -> float | None:
        """How long an item takes from this step on; None where nothing like it is known.

        Between and beyond the horizons that are known, a step's time is taken to be a power of the horizon.
        """
        horizons = self._known.get(kind_of(to_json(config)))
        if not horizons:
            return None
        known = sorted(horizons)
        per_step = [np.median([speed.seconds_per_step for speed in horizons[h]]) for h in known]
        starting = np.median([speed.starting_seconds for h in known for speed in horizons[h]])
        left = (math.ceil(config.steps / config.horizon) * config.horizon - steps) * config.num_seeds
        return float(_power_law(config.horizon, known, per_step) * left + starting)

    def lacking(self, items: Iterable[Item]) -> list[Item]:
        """Items whose trial would tell most: of every unknown kind one at the least and one at the largest horizon."""
        chosen: dict[tuple[Kind, int], Item] = {}
        kinds: dict[Kind, list[Item]] = {}
        for item in items:
            kinds.setdefault(kind_of(to_json(item.config)), []).append(item)
        for kind, group in kinds.items():
            known = self._known.get(kind, {})
            for choose in (min, max):
                item = choose(group, key=lambda item: item.config.horizon)
                if item.config.horizon not in known:
                    chosen.setdefault((kind, item.config.horizon), item)
        return list(chosen.values())


def _power_law(horizon: int, known: Sequence[int], values: Sequence[Any]) -> float:
    """A value at a horizon from those at others: linear between neighbours in logarithms, and beyond the last two."""
    if len(known) == 1:
        # One horizon tells no power; most of a step's time is a batch of whole episodes.
        return float(values[0]) * max(horizon / known[0], 1.0)
    place = int(np.clip(np.searchsorted(known, horizon), 1, len(known) - 1))
    x, y = np.log(known[place - 1 : place + 1]), np.log(values[place - 1 : place + 1])
    return float(np.exp(y[0] + (y[1] - y[0]) * (np.log(horizon) - x[0]) / (x[1] - x[0])))


def measure(trial: Calibration) -> Outcome:
    """Trains for a few seconds, and tells how fast that was."""
    configs = [_shortened(config) for config in (trial.config, *trial.others)]
    try:
        timing = _time_of(configs) or _time_of(configs[:1])
    except Exception as error:  # the item itself will say so when it is run
        return Outcome(trial.id, "failed", describe(error))
    return Outcome(trial.id, "done", timing=timing)


def _time_of(configs: Sequence[TrainConfig]) -> dict[str, Any] | None:
    """Of the first of these, its share of the time if they are trained together; None if that is not possible."""
    seen, begin, ended = list[Progress](), time.monotonic(), threading.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == "training":
            seen.append(progress)

    def ignore(progress: Progress) -> None:
        """The others are as far as the first."""

    def enough() -> bool:
        # The first record has no steps, and the first chunk waits for the optimum.
        return ended.is_set() or (len(seen) > 3 and seen[-1].seconds - seen[1].seconds > TRIAL_SECONDS)

    def run(index: int, make_trainer: MakeTrainer) -> Any:
        try:
            return start(configs[index].checked(), ignore if index else watch, enough, make_trainer)
        finally:
            if index == 0:
                ended.set()

    if len(configs) == 1:
        run(0, Trainer)
    elif len(jax.local_devices()) > 1:
        return None
    else:
        solve_once(configs[0])
        outcomes, _ = run_together(numbers_of(configs), run, enough)
        if outcomes[0] is None:
            return None
    first = min(1, len(seen) - 2)
    steps = seen[-1].steps - seen[first].steps
    seconds = max(seen[-1].seconds - seen[first].seconds, 1e-9)
    starting = max(0.0, time.monotonic() - begin - seen[-1].steps * seconds / max(steps, 1))
    return {
        "steps_per_second": steps / seconds * len(configs),
        "starting_seconds": starting / len(configs),
        "machine": platform.node(),
    }


def _shortened(config: TrainConfig) -> TrainConfig:
    """The same work from the first episodes on, recorded after every few."""
    overrides = {**config.overrides, "warmup_steps": 4 * config.horizon}
    few = max(config.horizon, min(config.chunk_steps, 50))
    return dataclasses.replace(config, chunk_steps=few, overrides=overrides, stop_score=None)


def makespan(seconds: Iterable[float], num_workers: int) -> float:
    """When the last of these jobs is done, if each begins as soon as a worker is free."""
    ends = [0.0] * num_workers
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)
