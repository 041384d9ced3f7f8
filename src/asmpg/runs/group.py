"""Runs that differ in a few numbers only, trained as one program: what one GPU has room for side by side."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final, TypeVar

import jax
import jax.numpy as jnp

from ..learner import AbstractLearner
from ..training import AbstractTrainer, Schedule, SeedState, Trainer
from ..types import Metrics


T = TypeVar("T")


class DisbandedError(Exception):
    """The group cannot go on together; each of its runs still can, alone, from its last checkpoint."""


@dataclasses.dataclass
class _Request:
    """What one member wants next, and what came of it.

    Attributes:
        place: (first episode, number of episodes) of a chunk; the warm-up comes before all of them.
        state: of its seeds; None for the warm-up.
        answer: the state after it, and metrics.
    """

    place: tuple[int, int]
    state: SeedState | None
    answer: tuple[SeedState, Metrics] | None = None


_WARMUP = (-1, 0)


class Group:
    """Where the members of a group meet.

    Each member is a run of its own, in a thread of its own, with its own folder and records. Only the computing is
    done together: a chunk begins once every member waits for one. Members that are behind, because they were begun
    anew or their last checkpoint is older, go first until they have caught up.
    """

    def __init__(self, numbers: Mapping[str, Sequence[float]], stop: Callable[[], bool] = lambda: False):
        """A group that has not begun.

        Args:
            numbers: settings in which the members differ, by name (see `asmpg.settings.MAY_DIFFER`); one value each.
            stop: whether all members are to stop after their record.
        """
        self._stop = stop
        self._numbers = {name: tuple(values) for name, values in numbers.items()}
        self._present = set(range(len(next(iter(self._numbers.values())))))
        self._requests: dict[int, _Request] = {}
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._alone: Trainer | None = None
        self._trainers: dict[tuple[int, ...], Trainer] = {}

    def leave(self, member: int) -> None:
        """The others go on without this one."""
        with self._changed:
            self._present.discard(member)
            if self._stop() and self._error is None:
                # Who has asked for one more chunk already need not have it.
                self._error = InterruptedError("stopped")
            self._advance_if_all_wait()

    def trainer(self, learner: AbstractLearner, schedule: Schedule, seeds: Sequence[int]) -> Trainer:
        """The program of one run alone, for what all members have in common: the shapes of its state."""
        with self._changed:
            if self._alone is None:
                self._alone = Trainer(learner, schedule, seeds)
            return self._alone

    def ask(self, member: int, place: tuple[int, int], state: SeedState | None) -> tuple[SeedState, Metrics]:
        """Waits until this chunk of the member's is under way.

        Raises:
            DisbandedError: training together has failed.
        """
        request = _Request(place, state)
        with self._changed:
            self._requests[member] = request
            self._advance_if_all_wait()
            self._changed.wait_for(lambda: request.answer is not None or self._error is not None)
            if request.answer is None:
                raise DisbandedError(str(self._error)) from self._error
            return request.answer

    def _advance_if_all_wait(self) -> None:
        """Does what the last members want, if nobody is still to be waited for."""
        waiting = self._present & self._requests.keys()
        if waiting and waiting == self._present and self._error is None:
            place = min(self._requests[member].place for member in waiting)
            members = tuple(m for m in sorted(waiting) if self._requests[m].place == place)
            try:
                self._answer(members, place)
            except Exception as error:  # too little memory, most likely, which is no fault of any member's
                self._error = error
        self._changed.notify_all()

    def _answer(self, members: tuple[int, ...], place: tuple[int, int]) -> None:
        """One chunk, or the warm-up, of these members at once."""
        trainer = self._trainer_of(members)
        if place == _WARMUP:
            state, metrics = trainer.init(), {}
        else:
            states = [self._requests[member].state for member in members]
            state, metrics = trainer.advance(jax.tree.map(_join, *states), *place)
        num_seeds = len(trainer.seeds) // len(members)
        for index, member in enumerate(members):
            own = slice(index * num_seeds, (index + 1) * num_seeds)
            self._requests.pop(member).answer = jax.tree.map(lambda x, own=own: x[own], (state, metrics))

    def _trainer_of(self, members: tuple[int, ...]) -> Trainer:
        """The program of these members; it is compiled when it is first called."""
        if members not in self._trainers:
            assert self._alone is not None
            alone, num_seeds = self._alone, len(self._alone.seeds)
            numbers = {
                name: [values[member] for member in members for _ in range(num_seeds)]
                for name, values in self._numbers.items()
            }
            self._trainers[members] = Trainer(
                alone.learner, alone.schedule, alone.seeds * len(members), numbers
            )
        return self._trainers[members]


def _join(*arrays: jax.Array) -> jax.Array:
    return jnp.concatenate(arrays)


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
        self.shapes = self._alone.shapes

    def compile(self, state: SeedState) -> None:
        """The first chunk compiles it."""

    def init(self) -> SeedState:
        """All seeds after their warm-up."""
        return self._group.ask(self._index, _WARMUP, None)[0]

    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        """Runs a chunk."""
        return self._group.ask(self._index, (first_episode, num_episodes), state)

    def memory(self) -> int | None:
        """Not known: it depends on who is there."""

    def combine(self, state: Any) -> SeedState:
        """The state with its non-array parts."""
        return self._alone.combine(state)


def run_together(
    numbers: Mapping[str, Sequence[float]],
    run: Callable[[int, Callable[..., Member]], T],
    stop: Callable[[], bool],
) -> list[T | None]:
    """Runs all members of a group, each in a thread of its own.

    Args:
        numbers: settings in which the members differ, one value each.
        run: from a member's index and what makes its trainer to what comes of it.
        stop: whether to stop after the record at hand.

    Returns:
        What came of each; None where it ended with the group, after `stop` or because the group could not go on.
    """
    group = Group(numbers, stop)

    def member(index: int) -> T | None:
        try:
            return run(index, functools.partial(Member, group, index))
        except DisbandedError:
            return None
        finally:
            group.leave(index)

    number = len(next(iter(numbers.values())))
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(member, range(number)))
