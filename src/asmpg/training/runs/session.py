"""One run in progress: the compiled loop, its records, and what of it is on disk."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ...core.files import to_line
from ...core.precision import Precision, using
from ...learners.base import AbstractLearner
from ...tasks.host import HostEnvironment
from ...tasks.recording import Recording
from ...tasks.world import scored_task
from ..callbacks import Callback
from ..config import TrainConfig
from ..host_loop import HostTrainer
from ..loop import round_steps, Schedule
from ..offline import OfflineTrainer
from ..recorded import what_networks_see
from ..trainer import AbstractTrainer, placed, Trainer
from . import checkpoint, health, replay
from . import folder as files
from .best import Best
from .checkpoint import Checkpoint
from .folder import RunFolder, RunWarning
from .journal import Episodes
from .progress import Progress, ProgressCallback
from .records import History, peak_memory
from .results import Result
from .scores import Reference, reference_of


class Session:
    """A run that can be begun or taken up from a checkpoint, and then driven to its end.

    Attributes:
        config: checked.
        trainer: the compiled loop.
        history: the records so far.
        reference: what scores are measured by; None where the optimum is not asked for.
        best: the policies of the best records.
        seconds: spent on training so far, earlier sessions included.
        episodes: episodes done, per seed; 0 before the warm-up.
    """

    def __init__(
        self,
        config: TrainConfig,
        report: ProgressCallback,
        folder: RunFolder | None = None,
        content: Mapping[str, Any] | None = None,
    ):
        """Prepares the loop; compiles and writes nothing.

        Args:
            config: checked.
            report: is told how far the run is.
            folder: where records and checkpoints go, if anywhere.
            content: the configuration as it is in the folder; every checkpoint has a copy.
        """
        self.config, self.folder, self._content = config, folder, content
        self.env = config.world()
        if config.settings().needs_optimum:
            report(Progress("starting", f"solving {self.env.name} for the return to ask for"))
        learner = config.learner()
        warmup_steps, stride = learner.settings.warmup_steps, round_steps(self.env)
        schedule = Schedule.create(config.steps, warmup_steps, config.chunk_steps, stride)
        seeds = range(config.seed, config.seed + config.num_seeds)
        self.trainer = make_trainer(config, learner, schedule, seeds)
        self.history, self.reference = History(), None
        self.seconds, self.episodes, self.best = 0.0, 0, Best()
        self._state: Any = None
        self._warned = False
        self._callbacks: Sequence[Callback] = ()
        self._stopped = False
        self._report = report
        self._clock = time.monotonic()

    @property
    def steps(self) -> int:
        """Environment steps done, per seed."""
        return self.episodes * self.trainer.schedule.round_steps

    @property
    def total_steps(self) -> int:
        """Environment steps in all, per seed: whole episodes."""
        return self.trainer.schedule.num_episodes * self.trainer.schedule.round_steps

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.episodes >= self.trainer.schedule.num_episodes or self.history.held(
            self.config.stop_score
        )

    def result(self) -> Result:
        """The run as of its last record."""
        whole = self.trainer.combine(self._state)
        state = whole.learner
        metrics, policy = self.history.metrics(), self.trainer.learner.evaluated(state)
        return Result(
            scores=metrics["score"][-1] if "score" in metrics else None,
            returns=metrics["return"][-1],
            policy=policy,
            best_policy=policy if self.best.returns is None else self.best.policy(policy),
            best_returns=self.best.returns,
            model=getattr(state, "model", None),
            metrics=metrics,
            steps=self.steps,
            seconds=self.seconds,
            config=self.config,
            env=self.env,
            reference=self.reference,
            finished=self.finished,
            path=None if self.folder is None else self.folder.path,
            replay=whole.replay,
        )

    def restore(self, saved: Checkpoint, to_go_on: bool = True) -> None:
        """Takes up a checkpoint.

        Args:
            saved: the checkpoint.
            to_go_on: whether episodes will be added, for which there must be room.

        Raises:
            DamagedError: its arrays do not fit.
        """
        shapes, whole = self.trainer.shapes, replay.joined(saved, self.trainer.shapes, to_go_on)
        whole = self.best.restore(whole)
        self._state = checkpoint.unflatten(replay.with_rows_of(whole, shapes), whole)
        self.history = History(saved.records)
        self.episodes, self.seconds = saved.meta["episodes"], saved.meta["seconds"]
        known = saved.meta["reference"]
        self.reference = Reference(**known | {"doubts": tuple(known.get("doubts", ()))}) if known else None

    def drive(self, stop: Callable[[], bool] = lambda: False, callbacks: Sequence[Callback] = ()) -> None:
        """Trains to the end, or until `stop()` holds, or a callback says so, after a record and its checkpoint."""
        self._callbacks = callbacks
        self._clock = time.monotonic() - self.seconds
        if self.finished:
            return
        schedule = self.trainer.schedule
        if schedule.num_episodes <= schedule.warmup_episodes:
            warnings.warn(
                f"all {self.total_steps} steps are warm-up, and the policy stays untrained: steps must be more than "
                f"warmup_steps, {self.trainer.learner.settings.warmup_steps}",
                RunWarning,
                stacklevel=2,
            )
        # A thread beside this one; precision is a setting of each.
        pool = ThreadPoolExecutor(1)
        in_thread = functools.partial(pool.submit, _in_precision, self.config.precision)
        try:
            self._compile(in_thread)
            chunks = self.trainer.schedule.chunks(self.episodes)
            if not self.history.records:
                self._first_record(chunks, stop, in_thread)
            for first, number in chunks:
                if stop() or self._stopped or self.finished:
                    break
                self._record(self._collect(self._launch(first, number)))
            for callback in callbacks:
                callback.on_end(self._copied_result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _compile(self, in_thread: Callable[..., Future[Any]]) -> None:
        """Compiles the loop and, unless the run has begun already, goes through the warm-up at the same time."""
        self._report(Progress("starting", f"compiling {self.config.model_name}"))
        for notice in health.notices(self.config, len(jax.local_devices()), jax.default_backend()):
            self._report(Progress("starting", notice))
        compiling = in_thread(self._compile_loop)
        if self._state is None:
            self._state = placed(self.trainer.init(), self.config.num_seeds)
            self.episodes = self.trainer.schedule.warmup_episodes
        else:
            self._state = placed(self._state, self.config.num_seeds)
        compiling.result()

    def _first_record(
        self,
        chunks: Iterator[tuple[int, int]],
        stop: Callable[[], bool],
        in_thread: Callable[..., Future[Any]],
    ) -> None:
        """The record after the warm-up.

        It may have to wait for the optimum, which can take a while. The first chunk of training need not.
        """
        done, ahead = self._collect(self._launch(self.episodes, 0)), None
        task = scored_task(self.env, self.config.optimum)
        if task is not None:
            self._report(Progress("starting", f"solving {task.name} for its optimum"))
            solving = in_thread(lambda: reference_of(task))
            # A callback sees the policy of the record, which a chunk launched ahead would have changed.
            following = None if stop() or self._callbacks else next(chunks, None)
            ahead = None if following is None else self._launch(*following)
            self.reference = solving.result()
            for doubt in self.reference.doubts:
                self._report(Progress("starting", f"score: {doubt}"))
        self._record(done)
        if ahead is not None:
            self._record(self._collect(ahead))

    def _compile_loop(self) -> None:
        self.trainer.compile(lambda: placed(checkpoint.zeros(self.trainer.shapes), self.config.num_seeds))

    def _launch(self, first: int, number: int) -> "_Chunk":
        """Begins a chunk, and may return before it is done."""
        start = time.monotonic()
        self._state, metrics = self.trainer.advance(self._state, first, number)
        return _Chunk(first + number, number, start, metrics, dict(self.trainer.timings))

    def _collect(self, chunk: "_Chunk") -> "_Chunk":
        """Waits for the chunk launched last. Its arrays are copies, since the next chunk works in the same memory."""
        chunk.metrics = {name: np.asarray(value) for name, value in jax.device_get(chunk.metrics).items()}
        now = time.monotonic()
        chunk.seconds, chunk.chunk_seconds = now - self._clock, now - chunk.start
        self.trainer.check(self._state)
        state = self.trainer.combine(self._state).learner
        self.best.add(chunk.metrics["return"], self.trainer.learner.evaluated(state))
        if self.folder is not None:
            arrays, chunk.new_episodes = self.folder.split_replay(checkpoint.flatten(self._state))
            chunk.arrays = arrays | self.best.arrays
        return chunk

    def _record(self, done: "_Chunk") -> None:
        """The record of a chunk and its checkpoint."""
        self.episodes, self.seconds = done.episodes, done.seconds
        metrics = done.metrics
        if self.reference is not None:
            metrics = {"score": self.reference.score(metrics["return"]), **metrics}
        line = self.history.add(self.steps, self.episodes, metrics)
        self._say_what_is_wrong()
        speed = done.number * self.trainer.schedule.round_steps / done.chunk_seconds
        if self.folder is not None:
            self._save(self.folder, line, done, speed)
        self._report(
            Progress(
                "training",
                steps=self.steps,
                total_steps=self.total_steps,
                seconds=self.seconds,
                steps_per_second=speed if done.number else None,
                seconds_left=(self.total_steps - self.steps) / speed if done.number else None,
                score=None if self.reference is None else float(np.mean(metrics["score"])),
                episode_return=float(np.mean(metrics["return"])),
            )
        )

        record = (
            {name: values[-1] for name, values in self.history.metrics().items()} if self._callbacks else {}
        )
        for callback in self._callbacks:
            self._stopped |= bool(callback.on_record(record, self._copied_result()))

    def _copied_result(self) -> Result:
        """The run so far, with networks that stay when the next chunk works in the memory of these."""
        result = self.result()
        policy, model = jax.tree.map(
            lambda x: x.copy() if eqx.is_array(x) else x, (result.policy, result.model)
        )
        return dataclasses.replace(result, policy=policy, model=model, replay=None)

    def _say_what_is_wrong(self) -> None:
        """Warns, once, of seeds that do not learn."""
        recent = self.history.metrics(2)
        if len(recent["return"]) < 2 or self._warned:
            return
        state = self.trainer.combine(self._state).learner
        wrong = health.not_learning(recent, self.trainer.learner, state, self.config.seed)
        if wrong:
            self._warned = True
            warnings.warn(f"up to step {self.steps}, {wrong}", RunWarning, stacklevel=2)

    def _save(self, folder: RunFolder, line: bytes, done: "_Chunk", speed: float) -> None:
        """The record, its time and the checkpoint, in an order that a kill in between can do no harm."""
        timing = {
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "chunk_seconds": round(done.chunk_seconds, 3),
            "steps_per_second": round(speed, 2),
            **done.timings,
            "peak_memory_bytes": peak_memory(),
        }
        folder.append(files.METRICS, line)
        folder.append(files.TIMINGS, to_line(timing))
        meta = {
            "episodes": self.episodes,
            "warmup_episodes": self.trainer.schedule.warmup_episodes,
            "records": len(self.history.records),
            "seconds": self.seconds,
            "reference": None if self.reference is None else dataclasses.asdict(self.reference),
            "config": self._content,
        }
        folder.write_checkpoint(self.steps, done.arrays, meta, self.history.lines, done.new_episodes)


def make_trainer(
    config: TrainConfig, learner: AbstractLearner, schedule: Schedule, seeds: Sequence[int]
) -> AbstractTrainer:
    """The loop for a configuration's world."""
    env, data = config.world(), config.resolve().data
    if isinstance(env, Recording):
        assert data is not None
        return OfflineTrainer(learner, schedule, seeds, data)
    kind = HostTrainer if isinstance(env, HostEnvironment) else Trainer
    return kind(learner, schedule, seeds, recorded=what_networks_see(data, env))


@dataclasses.dataclass
class _Chunk:
    """A chunk under way and, once it is collected, everything that its record and its checkpoint need.

    Attributes:
        episodes: done by its end, per seed.
        number: of its own episodes.
        start: when it began.
        metrics: to be.
        timings: of its parts.
        seconds: of the run by its end.
        chunk_seconds: its own.
        arrays: of the state, without the replayed episodes.
        new_episodes: that the next checkpoint lacks.
    """

    episodes: int
    number: int
    start: float
    metrics: Any
    timings: dict[str, float]
    seconds: float = 0.0
    chunk_seconds: float = 0.0
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    new_episodes: Episodes = replay.NONE


def _in_precision(precision: Precision, function: Callable[[], Any]) -> Any:
    with using(precision):
        return function()
