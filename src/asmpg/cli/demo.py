"""`python -m asmpg.cli.demo`: an LSTM and a transformer action-sequence model learn one task in a minute."""

import itertools
import pathlib
import sys

from ..training.config import TrainConfig
from ..training.runs import Result
from ..training.runs.folder import CURVE
from ..training.runs.lifecycle import start
from ..training.runs.progress import duration
from . import guarded
from .commands import how_to_resume, run_interruptibly
from .machine import INTERRUPTED, keep_compiled, use_cores


TASK, HORIZON, STEPS = "harvest", 50, 1000
MODELS = ("lstm", "transformer")


def main() -> int:
    """Trains both and prints a table.

    Returns:
        The exit status, as for `asmpg train`.
    """
    return guarded(run)


def run() -> int:
    """`main`, without looking after errors."""
    use_cores(1)
    keep_compiled()
    _say(f"{TASK}, {HORIZON} steps per episode. A score of 0 is that of random actions, 1 the optimum.")
    results = []
    for model in MODELS:
        out = str(_fresh(pathlib.Path("runs") / f"demo-{model}"))
        config = TrainConfig(TASK, HORIZON, model, STEPS, out=out).checked()
        how = how_to_resume(pathlib.Path(out))
        result = run_interruptibly(lambda *watch, config=config: start(config, *watch), how, label=model)
        if not result.finished:
            _say(f"stopped at step {result.steps}; {how}")
            return INTERRUPTED
        results.append(result)
    _show(results)
    return 0


def _fresh(path: pathlib.Path) -> pathlib.Path:
    """The path, or the first of path-2, path-3, ... that does not exist: no earlier run is touched."""
    names = itertools.chain([path], (path.with_name(f"{path.name}-{i}") for i in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _show(results: list[Result]) -> None:
    """A small table, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    table = Table("policy", "score", "return", "steps", "time")
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        table.add_row(
            f"{result.config.model} model",
            "" if result.scores is None else f"{result.scores[0]:.3f}",
            f"{result.returns[0]:.1f}",
            str(result.steps),
            duration(result.seconds),
        )
    reference = results[-1].reference
    if reference is not None:
        table.add_row("optimum", "1.000", f"{reference.optimal_return:.1f}")
        table.add_row("random", "0.000", f"{reference.random_return:.1f}")
    console = Console()
    console.print(table)
    for result in results:
        if result.path is not None:
            curve = result.path / CURVE
            console.print(str(curve if curve.exists() else result.path), highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
