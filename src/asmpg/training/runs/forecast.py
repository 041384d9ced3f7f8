"""How long a run will take and how much memory, from its compiled loop and a moment of training."""

import dataclasses
import time
from typing import Any

import jax

from ...core.precision import using
from ..config import TrainConfig
from .session import Session


# Episodes are trained for at least so many seconds before their mean time counts.
WATCHED_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run is expected to take on this machine, as it is now.

    Attributes:
        num_chunks: records after the warm-up, unless the run stops early.
        chunk_steps: environment steps in a chunk, per seed.
        compile_seconds: for compiling the loop and going through the warm-up.
        chunk_seconds: for a chunk, of all seeds.
        seconds: in all. A task whose optimum is not known yet is solved beside the first chunk.
        memory_bytes: for the arrays of all seeds and the scratch space of the loop, on an accelerator those of one
            device; None where it is not known.
    """

    num_chunks: int
    chunk_steps: int
    compile_seconds: float
    chunk_seconds: float
    seconds: float
    memory_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)


def forecast(config: TrainConfig) -> Forecast:
    """Compiles the loop and trains for a moment. Writes nothing.

    Args:
        config: checked.

    Raises:
        UsageError: the configuration cannot be run.
    """
    with using(config.precision):
        trainer = Session(config, lambda progress: None).trainer
        start = time.monotonic()
        memory = trainer.memory()
        state = trainer.init()
        schedule = trainer.schedule
        state, _ = jax.block_until_ready(trainer.advance(state, schedule.warmup_episodes, 0))
        compiled = time.monotonic()
        episodes = 0
        while time.monotonic() - compiled < WATCHED_SECONDS or episodes == 0:
            # Rounds, where episodes end early, have to go on: the steps of one before have been made.
            first = schedule.warmup_episodes + episodes
            state, _ = jax.block_until_ready(trainer.advance(state, first, 1))
            episodes += 1
        per_episode = (time.monotonic() - compiled) / episodes
    left = schedule.num_episodes - schedule.warmup_episodes
    num_chunks = -(-left // schedule.chunk_episodes)
    return Forecast(
        num_chunks=num_chunks,
        chunk_steps=schedule.chunk_episodes * schedule.round_steps,
        compile_seconds=compiled - start,
        chunk_seconds=per_episode * min(schedule.chunk_episodes, max(left, 1)),
        seconds=compiled - start + per_episode * left,
        memory_bytes=memory,
    )
