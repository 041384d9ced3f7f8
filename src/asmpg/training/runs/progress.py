"""How far long work is: what a run tells, and a display, which is a live bar or plain lines."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

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


class Display:
    """How far long work is, on standard error: a bar on a terminal, some lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, interval: float = 2.0):
        """Nothing is shown before it is entered.

        Args:
            stream: a text stream, by default standard error.
            interval: seconds between two lines.
        """
        self._stream = sys.stderr if stream is None else stream
        self._interval, self._last = interval, -float("inf")
        self._bars: Any = None

    def __enter__(self) -> "Display":
        """Starts the bar, if there is a terminal to draw it on."""
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
            from rich.progress import Progress as Bars

            texts = [TextColumn("{task.description}"), TextColumn("{task.fields[words]}")]
            columns = (SpinnerColumn(), texts[0], BarColumn(bar_width=24), MofNCompleteColumn(), texts[1])
            self._bars = Bars(*columns, console=Console(file=self._stream), refresh_per_second=8)
            self._task = self._bars.add_task("starting", total=None, words="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the last state of the bar standing."""
        if self._bars is not None:
            self._bars.stop()

    @property
    def has_bar(self) -> bool:
        """Whether a bar is drawn rather than lines."""
        return self._bars is not None

    def bar(self, label: str, words: str = "", done: int | None = None, total: int | None = None) -> None:
        """Changes the bar, if there is one.

        Args:
            label: before it.
            words: behind it.
            done: of the total; both stay as they are without it.
            total: length of the bar.
        """
        if self._bars is not None:
            lengths = {} if done is None else {"completed": done, "total": total}
            self._bars.update(self._task, description=label, words=words, **lengths)

    def line(self, text: str, at_once: bool = True) -> None:
        """Writes a line: above the bar, or where lines are all there is, if it is to be at once or it is time."""
        if self._bars is not None:
            self._bars.console.out(text, highlight=False)
            return
        now = time.monotonic()
        if at_once or now - self._last >= self._interval:
            self._last = now
            self._stream.write(f"{text}\n")
            self._stream.flush()


class RunDisplay:
    """Shows what a run tells: steps, steps a second, score, time left."""

    def __init__(self, display: Display, label: str = ""):
        """Shows it on a display, with a label before it."""
        self._display, self._label = display, label

    def __call__(self, progress: Progress) -> None:
        """Shows one report."""
        if not self._display.has_bar:
            label = f"{self._label}: " if self._label else ""
            last = progress.stage != "training" or progress.steps >= progress.total_steps
            self._display.line(f"{label}{describe(progress)}", at_once=last)
        elif progress.stage == "starting":
            self._display.bar(" ".join(filter(None, [self._label, progress.message])))
        else:
            words = "  ".join(filter(None, [speed(progress), progress.result(), left(progress)]))
            self._display.bar(self._label or "steps", words, progress.steps, progress.total_steps)


def speed(progress: Progress) -> str:
    """Steps a second, where they are known."""
    return f"{progress.steps_per_second:.0f} steps/s" if progress.steps_per_second else ""


def left(progress: Progress) -> str:
    """The time left, where it is known."""
    return "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"


def describe(progress: Progress) -> str:
    """One line of text."""
    if progress.stage == "starting":
        return progress.message
    parts = [f"{progress.steps}/{progress.total_steps} steps", progress.result()]
    if progress.stage == "done":
        return ", ".join(
            [*filter(None, parts), f"{duration(progress.seconds)}", *filter(None, [progress.message])]
        )
    parts += [speed(progress), left(progress)]
    return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextlib.contextmanager
def terminal(stream: TextIO | None = None, label: str = "") -> Iterator[RunDisplay]:
    """A bar where the stream (by default stderr) is a terminal, lines elsewhere."""
    with Display(stream) as display:
        yield RunDisplay(display, label)


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
