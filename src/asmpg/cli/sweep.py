"""What `asmpg sweep` does."""

import json
import os
import pathlib
import shlex
import sys
import time
from typing import Any

import jax

from ..checks import check_integer
from ..runs.progress import duration
from ..sweeps import BUILT_IN, calibrate, load_suite, look, make_engine, open_store, run_sweep
from ..sweeps.engines import AbstractEngine
from ..sweeps.state import predict, State, summary
from ..sweeps.sweep import table_name, Watch
from ..types import UsageError
from .machine import INTERRUPTED, Interrupts, keep_compiled
from .options import Sweep


# Seconds between two lines about the same.
_INTERVAL = 10.0


def run_sweep_command(options: Sweep) -> int:
    """`asmpg sweep`."""
    if sum((options.status, options.dry_run, options.retry_failed)) > 1:
        raise UsageError("status: give only one of --status, --dry-run and --retry-failed")
    if options.together is not None:
        check_integer("together", options.together, 1)
    stay_on_cpu()
    share_compiled()
    suite = load_suite(options.suite, options.scale, BUILT_IN)
    out = options.out or str(pathlib.Path("sweeps") / f"{suite.name}-{suite.scale}")
    again = f"go on with: asmpg {shlex.join(sys.argv[1:])}"
    if options.status:
        return _show(look(suite, open_store(out)), _workers(options), out, options.json)
    with Interrupts(lambda: again) as interrupts:
        engine = make_engine(
            options.engine,
            workers=options.workers,
            address=options.address,
            gpus_per_job=options.gpus_per_job,
            stop=lambda: interrupts.requested,
        )
        if options.dry_run:
            return _predict(look(suite, open_store(out)), engine, options, lambda: interrupts.requested)
        interrupts.patient = True
        with Lines() as lines:
            state = run_sweep(
                suite,
                out,
                engine,
                retry_failed=options.retry_failed,
                mix_versions=options.mix_versions,
                together=options.together,
                watch=lines,
                stop=lambda: interrupts.requested,
            )
    _show(state, engine.num_workers() if options.engine == "local" else 1, out, options.json)
    if interrupts.requested and state.left():
        sys.stderr.write(f"asmpg: stopped with {len(state.left())} items left; {again}\n")
        return INTERRUPTED
    return 1 if state.failed or state.left() else 0


def stay_on_cpu() -> None:
    """This process only hands out work; the accelerators are for those who do it, unless that is this process."""
    if getattr(jax.config, "jax_platforms", None) is None and "--workers" not in sys.argv:
        jax.config.update("jax_platforms", "cpu")


def share_compiled() -> None:
    """Workers find what others have compiled."""
    keep_compiled()
    directory = getattr(jax.config, "jax_compilation_cache_dir", None)
    if directory:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", directory)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _workers(options: Sweep) -> int:
    """How many jobs would run at once, without starting any."""
    return make_engine("local", workers=options.workers).num_workers()


def _show(state: State, num_workers: int, out: str, as_json: bool) -> int:
    """Where a sweep stands."""
    content = summary(state, num_workers) | {"out": out, "table": table_name(state.suite)}
    if as_json:
        sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
        return 0
    left = state.seconds_left(num_workers)
    lines = [
        f"{content['suite']} at scale {content['scale']}: {content['items']} items, {content['done']} done, "
        f"{len(state.running)} running, {len(state.failed)} failed, {content['left']} left"
    ]
    if content["left"]:
        lines.append(f"  about {duration(left)} left" if left is not None else "  time left: not known yet")
    lines += [
        f"  running  {item}: {progress.get('steps', 0)}/{progress.get('total_steps', '?')} steps"
        for item, progress in state.running.items()
    ]
    lines += [f"  failed   {item}: {error}" for item, error in state.failed.items()]
    lines += [
        f"  damaged  {item}: {error}; computed again by the next run" for item, error in state.damaged.items()
    ]
    lines += [f"  {number} results are of other code: {code}" for code, number in state.other_codes().items()]
    sys.stdout.write("\n".join([*lines, f"  folder   {out}"]) + "\n")
    return 0


def _predict(state: State, engine: AbstractEngine, options: Sweep, stop: Any) -> int:
    """How long what is left will take."""
    num_workers, left = engine.num_workers(), state.left()
    with Lines() as lines:
        failed = calibrate(state, engine, options.together, lines, stop)
    known = [item for item in left if state.speeds.seconds(item.config) is not None]
    seconds = predict(known, state.speeds, num_workers)
    content = {
        "suite": state.suite.name,
        "scale": state.suite.scale,
        "items": len(state.suite.items),
        "left": len(left),
        "predicted": len(known),
        "seconds": seconds,
        "workers": num_workers,
        "failed": failed,
    }
    if options.json:
        sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    else:
        head = f"{len(known)} items with {num_workers} at once: about {duration(seconds or 0.0)}"
        rest = [f"  {item}: its trial failed: {error}" for item, error in failed.items()]
        sys.stdout.write("\n".join([head, *rest]) + "\n")
    return INTERRUPTED if stop() else 0


class Lines:
    """How far a sweep is: a bar on a terminal, plain lines elsewhere, on standard error."""

    def __init__(self, stream: Any = None):
        """Draws on a text stream, by default standard error."""
        self._stream = sys.stderr if stream is None else stream
        self._bars: Any = None
        self._last = -float("inf")

    def __enter__(self) -> "Lines":
        """Starts the bar, if there is a terminal to draw it on."""
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bars = Progress(*columns, console=Console(file=self._stream))
            self._task = self._bars.add_task("", total=None)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the last state of the bar standing."""
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, watch: Watch) -> None:
        """Shows how far it is."""
        left = "" if watch.seconds_left is None else f", {duration(watch.seconds_left)} left"
        failed = f", {watch.failed} failed" if watch.failed else ""
        if self._bars is not None:
            if watch.message:
                self._bars.console.print(watch.message, highlight=False)
            description = f"{_running(watch)}{failed}{left}"
            self._bars.update(self._task, completed=watch.done, total=watch.total, description=description)
            return
        now = time.monotonic()
        if not watch.message and now - self._last < _INTERVAL:
            return
        self._last = now
        what = watch.message or _running(watch)
        self._stream.write(f"[{watch.done}/{watch.total}{failed}{left}] {what}\n")
        self._stream.flush()


def _running(watch: Watch) -> str:
    """The items under way, in short."""
    parts = [
        f"{item.rpartition('-')[0]} {progress.get('steps', 0)}/{progress.get('total_steps', '?')}"
        for item, progress in watch.running.items()
    ]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
