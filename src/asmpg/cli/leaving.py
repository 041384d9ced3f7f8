"""`asmpg export` and `asmpg fit`: what leaves a run, and what comes from elsewhere."""

import pathlib
import sys

from ..core.checks import check_choice
from ..tasks.data_files import load_episodes
from ..training.export import FORMATS
from ..training.fit import fit
from ..training.runs import load
from ..training.runs.fitted import save_fit
from .machine import keep_compiled
from .options import Export, Fit
from .output import print_json, print_next


def run_export(options: Export) -> int:
    """`asmpg export`."""
    check_choice("format", options.format, FORMATS)
    keep_compiled()
    run = load(options.run, task=options.task, model=options.model, optimizer=options.optimizer)
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


def run_fit(options: Fit) -> int:
    """`asmpg fit`."""
    keep_compiled()
    data = load_episodes(options.file, horizon=options.horizon)
    fitted = fit(data, options.model, options.steps, seed=options.seed)
    if options.out is not None:
        save_fit(options.out, fitted)
    if options.json:
        content = {"model": options.model, "seed": options.seed, "out": options.out}
        return print_json(fitted.summary() | content)
    kept = "" if options.out is None else f"; the model is in {options.out}"
    sys.stdout.write(f"{fitted!r}{kept}\n")
    print_next(["train", "--data", options.file, "--model", options.model])
    return 0
