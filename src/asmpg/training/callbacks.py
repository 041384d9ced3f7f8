"""What watches a run: `Callback`, and those for TensorBoard, Weights & Biases and CSV files."""

import abc
import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from ..core import files
from ..core.arguments import a_path
from ..core.extras import require
from ..core.types import Given


if TYPE_CHECKING:
    from .runs.results import Result

Record = Mapping[str, Shaped[np.ndarray, " num_seeds"]]


class Callback(abc.ABC):
    """Is told of every record of a run, and may stop it. Give instances to `asmpg.train(..., callbacks=[...])`."""

    @abc.abstractmethod
    def on_record(self, record: Record, result: "Result") -> bool | None:
        """Called after every record, once it is on disk where the run has a folder.

        Args:
            record: every metric with one value a seed, `steps` and `episodes` among them.
            result: the run so far. Its policy and model are copies, to keep if you like; it has no replay.

        Returns:
            True to stop the run after this record, as Ctrl-C does: it can be taken up again.
        """

    def on_end(self, result: "Result") -> None:
        """Called once when the training returns, finished or stopped; not after an error."""
        return


class CSVLog(Callback):
    """Every record as one row a seed, for a spreadsheet. The file is whole after every record."""

    def __init__(self, path: Given[str | pathlib.Path]):
        """Writes nothing yet.

        Args:
            path: the file, which is replaced.
        """
        self.path = pathlib.Path(a_path("CSVLog: path", path))

    def on_record(self, record: Record, result: "Result") -> None:
        """Writes all rows so far, those of the run before it was resumed too."""
        first, metrics = result.config.seed, result.metrics
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["seed", *metrics])
        for row in range(len(metrics["steps"])):
            for seed in range(result.config.num_seeds):
                writer.writerow([first + seed, *(values[row, seed].item() for values in metrics.values())])
        files.write(self.path, text.getvalue().encode())


class TensorBoard(Callback):
    """Scalars for TensorBoard, one run a seed (extra `tensorboard`)."""

    def __init__(self, folder: str | pathlib.Path):
        """Begins to write with the first record.

        Args:
            folder: of the event files; each seed has one below it, `seed0`, `seed1`, ...

        Raises:
            UsageError: tensorboardX is not installed.
        """
        self.folder = pathlib.Path(folder)
        self._make = require("tensorboardX", "tensorboard", "TensorBoard").SummaryWriter
        self._writers: list[Any] = []

    def on_record(self, record: Record, result: "Result") -> None:
        if not self._writers:
            self._writers = [self._make(str(self.folder / f"seed{seed}")) for seed in _seeds(result)]
        for index, writer in enumerate(self._writers):
            for name, values in record.items():
                if name != "steps":
                    writer.add_scalar(name, values[index].item(), int(record["steps"][index]))
            writer.flush()

    def on_end(self, result: "Result") -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []


class WeightsAndBiases(Callback):
    """Metrics of a run at Weights & Biases (extra `wandb`): the mean over seeds, and each seed beside it."""

    def __init__(self, project: str = "asmpg", **options: object):
        """Begins with the first record.

        Args:
            project: its project.
            **options: of `wandb.init`, such as `name`, `group`, `dir`, or `mode="offline"`.

        Raises:
            UsageError: wandb is not installed.
        """
        self._wandb = require("wandb", "wandb", "WeightsAndBiases")
        self._options = {"project": project, **options}
        self._run: Any = None

    def on_record(self, record: Record, result: "Result") -> None:
        if self._run is None:
            self._run = self._wandb.init(config=_described(result), **self._options)
        content: dict[str, float] = {}
        for name, values in record.items():
            content[name] = float(values.mean())
            if len(values) > 1 and name not in ("steps", "episodes"):
                content |= {
                    f"{name}/seed{seed}": float(v) for seed, v in zip(_seeds(result), values, strict=True)
                }
        self._run.log(content, step=int(record["steps"][0]))

    def on_end(self, result: "Result") -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def _seeds(result: "Result") -> Sequence[int]:
    return range(result.config.seed, result.config.seed + result.config.num_seeds)


def _described(result: "Result") -> dict[str, Any]:
    """What was run, without what came out."""
    told = ("task", "horizon", "model", "preset", "loop", "learned_reward", "seed", "num_seeds")
    content = {key: value for key, value in result.summary().items() if key in told}
    return content | {"settings": {name: str(value) for name, value in result.config.overrides.items()}}
