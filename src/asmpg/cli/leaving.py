"""`asmpg export`: what leaves a run."""

import pathlib
import sys

from ..core.checks import check_choice
from ..training.export import FORMATS
from ..training.runs import load
from .machine import keep_compiled
from .options import Export
from .output import print_json


def run_export(options: Export) -> int:
    """`asmpg export`."""
    check_choice("format", options.format, FORMATS)
    keep_compiled()
    run = load(options.run, task=options.task, model=options.model)
    out = pathlib.Path(options.out or pathlib.Path(options.run) / f"policy.{options.format}")
    seed = run.best_seed if options.seed is None else options.seed
    path = run.export(out, seed=seed, format=options.format)
    if options.json:
        return print_json(
            {"task": run.env.name, "model": run.config.model_name, "format": options.format}
            | {"seed": seed, "out": str(path)}
        )
    sys.stdout.write(f"{path}: the policy of seed {seed}; read it with asmpg.load_policy({str(path)!r})\n")
    return 0
