"""How far a run is: what the training tells, and two ways to show it, a live bar and plain lines."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it.

    Attributes:
        stage: "starting" (solving the task, compiling), "training" (one more record) or "done".
        message: what is going on, half a sentence.
        steps: environment steps done, per seed.
        total_steps: environment steps in all, per seed.
        seconds: spent on training so far.
        steps_per_second: environment steps per second over the last chunk, of each of the seeds.
        seconds_left: until the end, at that pace.
        score: the mean score over seeds, where the optimum is known.
        episode_return: the mean return over seeds.
    """

    stage: Literal["starting", "training", "done"]
    message: str = ""
    steps: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    steps_per_second: float | None = None
    seconds_left: float | None = None
    score: float | None = None
    episode_return: float | None = None

    def result(self) -> str:
        """The score or, where there is none, the return; empty before the first record."""
        if self.score is not None:
            return f"score {self.score:.3f}"
        return "" if self.episode_return is None else f"return {self.episode_return:.5g}"


ProgressCallback = Callable[[Progress], Any]


class PlainProgress:
    """Lines for a pipe or a log: one a record, but not more often than every other second."""

    def __init__(self, stream: Any, label: str = "", interval: float = 2.0):
        """Writes to a text stream, with a label before each line."""
        self.stream, self.label, self.interval = stream, f"{label}: " if label else "", interval
        self._last = -float("inf")

    def __enter__(self) -> "PlainProgress":
        """Nothing to open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def __call__(self, progress: Progress) -> None:
        """Shows one report."""
        now = time.monotonic()
        if (
            progress.stage == "training"
            and now - self._last < self.interval
            and progress.steps < progress.total_steps
        ):
            return
        self._last = now
        self.stream.write(f"{self.label}{describe(progress)}\n")
        self.stream.flush()


class LiveProgress:
    """A bar on a terminal: steps, steps a second, score, time left."""

    def __init__(self, stream: Any, label: str = ""):
        """Draws on a text stream, with a label before the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bars

        texts = [TextColumn(f"{{task.fields[{name}]}}") for name in ("speed", "result", "left")]
        columns = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *texts,
        ]
        self._bars = Bars(*columns, console=Console(file=stream), refresh_per_second=8)
        self._label = label
        self._task = self._bars.add_task(label or "starting", total=None, speed="", result="", left="")

    def __enter__(self) -> "LiveProgress":
        """Starts drawing."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the last state of the bar standing."""
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Shows one report."""
        if progress.stage == "starting":
            self._bars.update(self._task, description=" ".join(filter(None, [self._label, progress.message])))
            return
        speed = "" if progress.steps_per_second is None else f"{progress.steps_per_second:.0f} steps/s"
        self._bars.update(
            self._task,
            description=self._label or "steps",
            completed=progress.steps,
            total=progress.total_steps,
            speed=speed,
            result=progress.result(),
            left="" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left",
        )


def describe(progress: Progress) -> str:
    """One line of text."""
    if progress.stage == "starting":
        return progress.message
    parts = [f"{progress.steps}/{progress.total_steps} steps", progress.result()]
    if progress.stage == "done":
        return ", ".join(
            [*filter(None, parts), f"{duration(progress.seconds)}", *filter(None, [progress.message])]
        )
    if progress.steps_per_second:
        parts.append(f"{progress.steps_per_second:.0f} steps/s")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def terminal(stream: Any = None, label: str = "") -> PlainProgress | LiveProgress:
    """A bar where the stream (by default stderr) is a terminal, plain lines elsewhere."""
    where = sys.stderr if stream is None else stream
    return LiveProgress(where, label) if where.isatty() else PlainProgress(where, label)


@contextlib.contextmanager
def reporting(progress: bool | ProgressCallback) -> Iterator[ProgressCallback]:
    """The function to report to."""
    if callable(progress):
        yield progress
    elif progress:
        with terminal() as shown:
            yield shown
    else:
        yield lambda progress: None
