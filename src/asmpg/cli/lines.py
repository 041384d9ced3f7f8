"""How far an experiment or a sweep is, on standard error."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from ..sweeps import Watch
from ..training.runs.progress import Display, duration


@contextlib.contextmanager
def part_lines(stream: TextIO | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """Shows so many of an experiment's parts as done, and what is next: a line every five seconds at most."""
    begin, part = time.monotonic(), -1

    def show(done: int, total: int, message: str) -> None:
        nonlocal part
        gone = duration(time.monotonic() - begin)
        if display.has_bar:
            display.bar(gone, message, done, total)
        else:
            display.line(f"[{min(done + 1, total)}/{total}, {gone}] {message}", at_once=done != part)
        part = done

    with Display(stream, interval=5.0) as display:
        yield show


@contextlib.contextmanager
def sweep_lines(stream: TextIO | None = None) -> Iterator[Callable[[Watch], None]]:
    """Shows a sweep's items and the time left: a line every ten seconds, and one for every message."""

    def show(watch: Watch) -> None:
        left = "" if watch.seconds_left is None else f", {duration(watch.seconds_left)} left"
        failed = f", {watch.failed} failed" if watch.failed else ""
        if not display.has_bar:
            words = f"[{watch.done}/{watch.total}{failed}{left}] {watch.message or watch.under_way()}"
            return display.line(words, at_once=bool(watch.message))
        if watch.message:
            display.line(watch.message)
        return display.bar("items", f"{watch.under_way()}{failed}{left}", watch.done, watch.total)

    with Display(stream, interval=10.0) as display:
        yield show
