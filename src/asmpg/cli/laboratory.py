"""What `asmpg reproduce`, `asmpg report` and `asmpg diagnose` do."""

import pathlib
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from ..core.checks import check_choice
from ..core.types import UsageError
from ..diagnose.diagnosis import diagnose
from ..diagnose.subjects import fresh_subjects, parse_horizons, trained_subjects
from ..experiments import (
    AbstractSweepExperiment,
    EXPERIMENTS,
    find_experiment,
    read_earlier,
    redraw,
    reproduce,
    SCALES,
    StoppedError,
    Sweeping,
)
from ..report import build_report
from ..sweeps import make_engine
from ..training.runs.progress import duration
from .lines import part_lines
from .machine import INTERRUPTED, Interrupts, keep_compiled, use_cores
from .options import Diagnose, Report, Reproduce
from .output import print_json, print_next
from .sweep import share_compiled, stay_on_cpu


def run_reproduce(options: Reproduce) -> int:
    """`asmpg reproduce`."""
    check_choice("scale", options.scale, SCALES)
    if options.preset is not None:
        check_choice("preset", options.preset, ("default", "paper"))
    experiment = find_experiment(options.figure, EXPERIMENTS)
    out = options.out or str(pathlib.Path("figures") / _default_name(options, experiment.name))
    if options.redraw:
        _refuse_sweeping(options, "--redraw trains nothing")
        command = typed_command(options, out)
        return _print_verdicts(
            redraw(experiment, options.figure, options.scale, out, command=command), options.json
        )
    trains = isinstance(experiment, AbstractSweepExperiment)
    again = f"{'go on' if trains else 'begin again'} with: asmpg {shlex.join(sys.argv[1:])}"
    if trains:
        if options.workers != 0:
            stay_on_cpu()
        share_compiled()
    else:
        _refuse_sweeping(options, f"{options.figure} has none")
        use_cores(10)
        keep_compiled()
    with Interrupts(lambda: again) as interrupts, part_lines() as report:
        interrupts.patient = trains
        sweeping = Sweeping(
            options.sweep,
            lambda: make_engine("local", workers=options.workers, stop=lambda: interrupts.requested),
            options.only_finished,
            options.mix_versions,
            lambda: interrupts.requested,
            options.preset,
            None
            if options.earlier is None
            else read_earlier(options.earlier, experiment.name, options.scale),
        )
        try:
            content = reproduce(
                experiment, options.figure, options.scale, out, report,
                sweeping=sweeping, command=typed_command(options, out),
            )  # fmt: skip
        except StoppedError as error:
            sys.stderr.write(f"asmpg: {error}; {again}\n")
            return INTERRUPTED
    return _print_verdicts(content, options.json)


def _default_name(options: Reproduce, name: str) -> str:
    """The folder's name: figure, or the name of an experiment of the user's own; scale, and preset if it was given."""
    figure = options.figure if options.figure in EXPERIMENTS else name
    return "-".join([figure, options.scale, *([options.preset] if options.preset else [])])


def _print_verdicts(content: Mapping[str, Any], as_json: bool) -> int:
    """A line and a reason for each; the exit status."""
    status = 1 if content["protocol"].get("items", {}).get("failed") else 0
    if as_json:
        print_json(content)
        return status
    for verdict in content["verdicts"]:
        sys.stdout.write(f"{verdict['verdict']:14} {verdict['id']}: {verdict['claim']}\n")
        sys.stdout.write(f"{'':14} {verdict['numbers']['reason']}\n")
    sys.stdout.write(f"{duration(content['seconds'])}, everything is in {content['out']}\n")
    print_next(["report", content["out"]])
    return status


def _refuse_sweeping(options: Reproduce, why: str) -> None:
    """Options of a sweep mean nothing to a figure that has none."""
    for name in ("sweep", "workers", "earlier", "only_finished", "mix_versions", "preset"):
        if getattr(options, name) not in (None, False):
            raise UsageError(f"{name}: is only for figures of trained policies, and {why}")


def typed_command(options: Reproduce, out: str) -> str:
    """The command that makes the same table and figures."""
    words = ["asmpg", "reproduce", options.figure, "--scale", options.scale, "--out", out]
    words += ["--preset", options.preset] * (options.preset is not None)
    words += ["--sweep", options.sweep] * (options.sweep is not None)
    words += ["--earlier", options.earlier] * (options.earlier is not None)
    words += ["--only-finished"] * options.only_finished + ["--mix-versions"] * options.mix_versions
    return shlex.join(words)


def run_report(options: Report) -> int:
    """`asmpg report`."""
    content = build_report(options.results, options.out)
    if options.json:
        return print_json(content)
    words = ", ".join(f"{number} {word}" for word, number in content["verdicts"].items())
    sys.stdout.write(f"{len(content['results'])} tables: {words or 'no verdicts'}\n")
    sys.stdout.write(f"{content['out']}, {content['bytes'] / 1e6:.1f} MB\n")
    return 0


def run_diagnose(options: Diagnose) -> int:
    """`asmpg diagnose`."""
    keep_compiled()
    horizons = None if options.horizons is None else parse_horizons(options.horizons)
    for name in ("data", "optimizer"):
        if options.run is None and getattr(options, name) is not None:
            raise UsageError(f"{name}: is only for --run, the run of which it is")
    if options.run is not None:
        given = trained_subjects(
            *(
                options.run,
                options.task,
                options.model,
                horizons,
                options.seed,
                options.data,
                options.optimizer,
            )
        )
    elif options.task is None:
        raise UsageError("task: is missing; give TASK for a fresh model, or --run RUN for a trained one")
    else:
        model = "lstm" if options.model is None else options.model
        given = fresh_subjects(options.task, model, horizons or [20, 50, 100], options.seed or 0)
    # A trained model's figures do not replace a fresh one's.
    run = "" if options.run is None else f"-{pathlib.Path(options.run).resolve().name}"
    default = re.sub(r"[^\w.-]+", "_", f"diagnose-{given.task}-{given.model}{run}")
    out = options.out or str(pathlib.Path("figures") / default)
    with part_lines() as report:
        content = diagnose(given.subjects, given.horizons, given.model, out, report)
    if options.json:
        return print_json(content)
    _print_diagnosis(content)
    return 0


def _print_diagnosis(content: Mapping[str, Any]) -> None:
    """A table with one line a horizon, and the finding."""
    head = ("H", "|ds_H/da_0|, mean", "median", "reach", "true reach", "cosine")
    norms = content["gradient_norm"]
    columns = (content["horizons"], norms["mean"], norms["median"])
    columns += (content["reach"], content["true_reach"], content["cosine"])
    lines = [
        head,
        *(tuple("-" if x is None else f"{x:.3g}" for x in row) for row in zip(*columns, strict=True)),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        sys.stdout.write(
            "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) + "\n"
        )
    sys.stdout.write(f"{content['finding']}\nThe figure is in {content['out']}\n{content['advice']}\n")
