"""Runs that differ in a few numbers only, trained as one program: what one GPU has room for side by side."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, final, TypeVar

import jax
import jax.numpy as jnp

from ...core.types import Metrics
from ...learners.base import AbstractLearner
from ..loop import AbstractTrainer, Schedule, SeedState, Trainer


T = TypeVar("T")

# (first episode, number of episodes) of a chunk; the warm-up comes before all of them.
Chunk = tuple[int, int]
_WARMUP = (-1, 0)
# Seconds between two looks whether whoever waits for a group was interrupted.
_PATIENCE = 0.5


class DisbandedError(Exception):
    """The group cannot go on together; each of its runs still can, alone, from its last checkpoint."""


@dataclasses.dataclass
class _Request:
    """What one member wants next, and what came of it.

    Attributes:
        chunk: which.
        state: of its seeds; None for the warm-up, and once it has been used.
        answer: the state after it, and metrics.
        num_together: of how many members it was computed at once.
    """

    chunk: Chunk
    state: SeedState | None
    answer: tuple[SeedState, Metrics] | None = None
    num_together: int = 1


class Group:
    """Where the members of a group meet.

    Each member is a run of its own, in a thread of its own, with its own folder and records. Only the computing is
    done together: a chunk begins once every member waits for one. Members that are behind, because they were begun
    anew or their last checkpoint is older, go first until they have caught up. Who computes is one of those who wait,
    since precision is a setting of each thread and whoever leaves has put his back.
    """

    def __init__(self, numbers: Mapping[str, Sequence[float]], stop: Callable[[], bool] = lambda: False):
        """A group that has not begun.

        Args:
            numbers: settings in which the members differ, by name (see `methods.MAY_DIFFER`); one value each.
            stop: whether all members are to stop after their record.
        """
        self._stop = stop
        self._numbers = {name: tuple(values) for name, values in numbers.items()}
        self._present = set(range(len(next(iter(self._numbers.values())))))
        self._requests: dict[int, _Request] = {}
        self._changed = threading.Condition()
        self._alone: Trainer | None = None
        self._trainers: dict[tuple[int, ...], Trainer] = {}
        self.reason: str | None = None

    def leave(self, member: int) -> None:
        """The others go on without this one, unless all are to stop."""
        with self._changed:
            self._present.discard(member)
            if self._stop():
                # Who has asked for one more chunk already need not have it.
                self._disband("stopped")
            self._changed.notify_all()

    def disband(self, reason: str) -> None:
        """Ends the group: every member that waits, or would, gets a DisbandedError."""
        with self._changed:
            self._disband(reason)
            self._changed.notify_all()

    def _disband(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._requests.clear()
        self._trainers.clear()

    def trainer(self, learner: AbstractLearner, schedule: Schedule, seeds: Sequence[int]) -> Trainer:
        """The program of one run alone, for what all members have in common: the shapes of its state.

        Raises:
            DisbandedError: this run imagines in another way than the others, since it was begun on another device.
        """
        with self._changed:
            if self._alone is None:
                self._alone = Trainer(learner, schedule, seeds)
            own, others = (getattr(one, "imagine", None) for one in (learner, self._alone.learner))
            if own != others:
                raise DisbandedError(f"one imagines {own}, the others {others}")
            return self._alone

    def ask(self, member: int, chunk: Chunk, state: SeedState | None) -> _Request:
        """Waits until this chunk of the member's is done, and computes it if nobody else does.

        Raises:
            DisbandedError: training together has failed.
        """
        request = _Request(chunk, state)
        with self._changed:
            self._requests[member] = request
            self._changed.notify_all()
            while request.answer is None:
                if self.reason is not None:
                    raise DisbandedError(self.reason)
                if self._present <= self._requests.keys():
                    self._compute_next()
                    self._changed.notify_all()
                else:
                    self._changed.wait()
        return request

    def _compute_next(self) -> None:
        """The first chunk that anyone waits for, for all who wait for it."""
        chunk = min(self._requests[member].chunk for member in self._present)
        members = tuple(m for m in sorted(self._present) if self._requests[m].chunk == chunk)
        try:
            self._compute(members, chunk)
        except Exception as error:  # too little memory, most likely, which is no fault of any member's
            self._disband(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _compute(self, members: tuple[int, ...], chunk: Chunk) -> None:
        trainer = self._trainer_of(members)
        if chunk == _WARMUP:
            results = trainer.init(), {}
        else:
            states = [self._requests[member].state for member in members]
            for member in members:
                self._requests[member].state = None
            results = trainer.advance(_join(states), *chunk)
        # Only what has been computed did fit into memory.
        parts = jax.block_until_ready(_split(results, len(members)))
        for member, part in zip(members, parts, strict=True):
            request = self._requests.pop(member)
            request.answer, request.num_together = part, len(members)

    def _trainer_of(self, members: tuple[int, ...]) -> Trainer:
        """The program of these members; it is compiled when it is first called."""
        if members not in self._trainers:
            assert self._alone is not None
            alone = self._alone
            settings = [
                dataclasses.replace(
                    alone.learner.settings, **{name: values[i] for name, values in self._numbers.items()}
                )
                for i in members
            ]
            self._trainers[members] = Trainer(alone.learner, alone.schedule, alone.seeds, settings)
        return self._trainers[members]


@jax.jit
def _join(states: list[Any]) -> Any:
    """All members' seeds, one member's after the other's."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *states)


@functools.partial(jax.jit, static_argnums=1)
def _split(results: Any, number: int) -> list[Any]:
    """Each member's part of states and metrics."""
    return [jax.tree.map(lambda x, i=i: jnp.split(x, number)[i], results) for i in range(number)]


@final
class Member(AbstractTrainer):
    """One run's part of a group: to the run, a trainer like any other."""

    def __init__(
        self, group: Group, index: int, learner: AbstractLearner, schedule: Schedule, seeds: Sequence[int]
    ):
        """The member `index` of a group, from 0; all members have the same schedule, seeds and shapes."""
        self.learner, self.schedule, self.seeds = learner, schedule, tuple(seeds)
        self._group, self._index = group, index
        self._alone = group.trainer(learner, schedule, seeds)
        self.shapes, self.num_together = self._alone.shapes, 1
        self.num_rows = len(self.seeds)

    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """The first chunk compiles it."""

    def init(self) -> SeedState:
        """All seeds after their warm-up."""
        return self._ask(_WARMUP, None)[0]

    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        """Runs a chunk."""
        return self._ask((first_episode, num_episodes), state)

    def _ask(self, chunk: Chunk, state: SeedState | None) -> tuple[SeedState, Metrics]:
        request = self._group.ask(self._index, chunk, state)
        assert request.answer is not None
        self.num_together = request.num_together
        return request.answer

    def memory(self) -> int | None:
        """Not known: it depends on who is there."""

    def combine(self, state: Any) -> SeedState:
        """The state with its non-array parts."""
        return self._alone.combine(state)


def run_together(
    numbers: Mapping[str, Sequence[float]],
    run: Callable[[int, Callable[..., Member]], T],
    stop: Callable[[], bool],
) -> tuple[list[T | None], str | None]:
    """Runs all members of a group, each in a thread of its own.

    Args:
        numbers: settings in which the members differ, one value each.
        run: from a member's index and what makes its trainer to what comes of it.
        stop: whether to stop after the record at hand.

    Returns:
        What came of each, None where it ended with the group; and why the group ended before all of them had.
    """
    group = Group(numbers, stop)

    def member(index: int) -> T | None:
        try:
            return run(index, functools.partial(Member, group, index))
        except DisbandedError as error:
            group.reason = group.reason or str(error)
            return None
        finally:
            group.leave(index)

    number = len(next(iter(numbers.values())))
    with ThreadPoolExecutor(number) as pool:
        futures = [pool.submit(member, index) for index in range(number)]
        try:
            while wait(futures, _PATIENCE).not_done:
                pass
        except BaseException:
            # The pool waits for its threads: for the chunk in flight, not for the whole training.
            group.disband("interrupted")
            raise
        return [future.result() for future in futures], group.reason
