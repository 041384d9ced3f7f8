"""What `asmpg sweep` does."""

import os
import pathlib
import shlex
import sys
from typing import Any

import jax

from ..core.types import UsageError
from ..experiments import SUITES
from ..sweeps import calibrate, load_suite, look, make_engine, open_store, run_sweep
from ..sweeps.engines import AbstractEngine
from ..sweeps.state import predict, State, summary
from ..sweeps.sweep import table_name
from ..training.runs.progress import duration
from .lines import sweep_lines
from .machine import INTERRUPTED, Interrupts, keep_compiled
from .options import Sweep
from .output import print_json, print_next
from .show import finish_sweep, print_own


def run_sweep_command(options: Sweep) -> int:
    """`asmpg sweep`."""
    if sum((options.status, options.dry_run, options.retry_failed)) > 1:
        raise UsageError("status: give only one of --status, --dry-run and --retry-failed")
    if options.engine != "local" or options.workers != 0:
        stay_on_cpu()
    share_compiled()
    suite = load_suite(options.suite, options.scale, SUITES)
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
        with sweep_lines() as lines:
            state = run_sweep(
                suite,
                out,
                engine,
                retry_failed=options.retry_failed,
                mix_versions=options.mix_versions,
                watch=lines,
                stop=lambda: interrupts.requested,
            )
    group, curves = finish_sweep(out)
    _show(state, engine.num_workers() if options.engine == "local" else 1, out, options.json, curves)
    if group is not None and not options.json:
        sys.stdout.write(f"  curves   {curves}\n\n" if curves else "\n")
        print_own(group)
        print_next(["report", out])
    if interrupts.requested and state.left():
        sys.stderr.write(f"asmpg: stopped with {len(state.left())} items left; {again}\n")
        return INTERRUPTED
    return 1 if state.failed or state.left() else 0


def stay_on_cpu() -> None:
    """For a process that only hands out work: the accelerators are for those who do it."""
    if getattr(jax.config, "jax_platforms", None) is None:
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


def _show(state: State, num_workers: int, out: str, as_json: bool, curves: str | None = None) -> int:
    """Where a sweep stands."""
    content = summary(state, num_workers) | {"out": out, "table": table_name(state.suite), "curves": curves}
    if as_json:
        return print_json(content)
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
    with sweep_lines() as lines:
        failed = calibrate(state, engine, lines, stop)
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
        print_json(content)
    else:
        head = f"{len(known)} items with {num_workers} at once: about {duration(seconds or 0.0)}"
        rest = [f"  {item}: its trial failed: {error}" for item, error in failed.items()]
        sys.stdout.write("\n".join([head, *rest]) + "\n")
    return INTERRUPTED if stop() else 0
