"""How far long work is, on standard error: a bar on a terminal, plain lines elsewhere."""

import abc
import sys
import time
from typing import Any, final, TextIO

from ..sweeps import Watch
from ..training.runs.progress import duration


class AbstractLines(abc.ABC):
    """A bar while it is entered, if there is a terminal to draw it on; a subclass says what is reported."""

    def __init__(self, stream: TextIO | None = None):
        """Draws on a text stream, by default standard error."""
        self._stream = sys.stderr if stream is None else stream
        self._bars: Any = None

    def __enter__(self) -> Any:
        """Starts the bar."""
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (BarColumn(bar_width=24), MofNCompleteColumn(), *self.columns())
            console = Console(file=self._stream)
            self._bars = Progress(*columns, TextColumn("{task.description}"), console=console)
            self._task = self._bars.add_task("starting", total=None)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the last state of the bar standing."""
        if self._bars is not None:
            self._bars.stop()

    @abc.abstractmethod
    def columns(self) -> tuple[Any, ...]:
        """What the bar shows between the numbers and the words."""

    def _update(self, done: int, total: int, words: str) -> None:
        self._bars.update(self._task, completed=done, total=total, description=words)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


@final
class PartLines(AbstractLines):
    """An experiment: so many of its parts are done, and what is next. A line every five seconds at most."""

    def __init__(self, stream: TextIO | None = None):
        """Draws on a text stream, by default standard error."""
        super().__init__(stream)
        self._begin, self._last, self._part = time.monotonic(), -float("inf"), -1

    def columns(self) -> tuple[Any, ...]:
        """The time gone by."""
        from rich.progress import TimeElapsedColumn

        return (TimeElapsedColumn(),)

    def __call__(self, done: int, total: int, message: str) -> None:
        """Shows one report."""
        if self._bars is not None:
            self._update(done, total, message)
            return
        now = time.monotonic()
        if done == self._part and now - self._last < 5.0:
            return
        self._last, self._part = now, done
        self._write(f"[{min(done + 1, total)}/{total}, {duration(now - self._begin)}] {message}")


@final
class SweepLines(AbstractLines):
    """A sweep: items done and under way, the time left. A line every ten seconds, and one for every message."""

    def __init__(self, stream: TextIO | None = None):
        """Draws on a text stream, by default standard error."""
        super().__init__(stream)
        self._last = -float("inf")

    def columns(self) -> tuple[Any, ...]:
        """Nothing: a sweep's time is in its words."""
        return ()

    def __call__(self, watch: Watch) -> None:
        """Shows how far it is."""
        left = "" if watch.seconds_left is None else f", {duration(watch.seconds_left)} left"
        failed = f", {watch.failed} failed" if watch.failed else ""
        if self._bars is not None:
            if watch.message:
                self._bars.console.print(watch.message, highlight=False)
            self._update(watch.done, watch.total, f"{watch.under_way()}{failed}{left}")
            return
        now = time.monotonic()
        if not watch.message and now - self._last < 10.0:
            return
        self._last = now
        self._write(f"[{watch.done}/{watch.total}{failed}{left}] {watch.message or watch.under_way()}")
