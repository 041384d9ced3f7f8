"""What an experiment is: a table that is measured, and the verdicts and figures that are made from it."""

import abc
import dataclasses
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core import user_code
from ..core.types import one_line, UsageError
from ..drawing.charts import Chart
from ..sweeps import Scale
from .table import Table
from .verdicts import Verdict


Tables = dict[str, Table]

# Told how far an experiment is: `report(done, total, message)`, so many of its parts are done and what is next.
Report = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Text:
    """What is said about one figure.

    Attributes:
        title: what it shows.
        claim: what the paper, or who made the experiment, says about it.
    """

    title: str
    claim: str = ""


class AbstractExperiment(abc.ABC):
    """One table and everything that is made from it; a subclass of your own goes to `asmpg reproduce FILE.py:NAME`.

    Attributes:
        name: of the table, a word.
        title: in a few words.
        texts: what is said about each figure, by the figure's number or name. Without any, the class's docstring is.
    """

    name: str = ""
    title: str = ""
    texts: Mapping[str, Text] = {}

    @abc.abstractmethod
    def measure(self, scale: Scale, report: Report) -> Tables:
        """Measures the tables.

        Args:
            scale: "smoke" (seconds), "cpu" (reduced) or "paper" (everything).
            report: told how far it is.

        Returns:
            Tables by name, each with at least one row.
        """

    @abc.abstractmethod
    def judge(self, tables: Tables) -> Sequence[Verdict]:
        """The verdicts, from the tables as they are stored."""

    def charts(self, tables: Tables) -> Sequence[Chart]:
        """Line figures as data, which are drawn as PNG and SVG and by the report."""
        return ()

    def pictures(self, tables: Tables, scale: Scale) -> Mapping[str, Any]:
        """Matplotlib figures by file name, of what is no line figure."""
        return {}

    def summarise(self, tables: Tables) -> dict[str, list[dict[str, Any]]]:
        """What else the report shows: `scores` by method and horizon, `selection` from swept settings."""
        return {}

    def described(self) -> dict[str, Text]:
        """The texts; of an experiment that has none, its title and its docstring, so that it is shown all the same."""
        own = inspect.getdoc(type(self)) if "__doc__" in vars(type(self)) else ""
        return dict(self.texts) or {self.name: Text(self.title or self.name, own or "")}


def find_experiment(figure: str, known: Mapping[str, AbstractExperiment]) -> AbstractExperiment:
    """A built-in experiment by the number of a figure, or one of the user's own.

    Args:
        figure: a key of `known`, `FILE.py:NAME` or `package.module:NAME`: a subclass of `AbstractExperiment`, or one
            already made.
        known: the built-in ones.

    Raises:
        UsageError: there is no such figure, or NAME is no experiment, or it lacks something.
    """
    if figure in known:
        return known[figure]
    if ":" not in figure:
        names = ", ".join(known)
        raise UsageError(
            f"figure: must be one of {names}, FILE.py:NAME or package.module:NAME, got {figure!r}"
        )
    made = _defined(figure)
    if inspect.isclass(made) and issubclass(made, AbstractExperiment):
        made = _make(figure, made)
    if not isinstance(made, AbstractExperiment):
        kind = made.__name__ if inspect.isclass(made) else type(made).__name__
        raise UsageError(f"figure: {figure} is a {kind}, not an asmpg.experiments.AbstractExperiment")
    if not isinstance(made.name, str) or not made.name.replace("_", "a").isalnum():
        raise UsageError(f"figure: {figure} must have a name of letters, digits and '_', got {made.name!r}")
    return made


def _defined(figure: str) -> Any:
    if ".py:" in figure:
        return user_code.define("figure", figure, lambda value: isinstance(value, AbstractExperiment))
    module, _, name = figure.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever importing the user's package raises, the message names it
        raise UsageError(f"figure: {figure}: {one_line(error)}") from error


def _make(figure: str, kind: type[AbstractExperiment]) -> AbstractExperiment:
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise UsageError(f"figure: {figure} has no method {' and no method '.join(missing)}")
    try:
        return kind()
    except Exception as error:  # whatever the user's code raises, the message names it
        raise UsageError(f"figure: {figure} raised {one_line(error)}") from error


def short_figure(figure: str) -> str:
    """The figure without a folder of the user's."""
    return pathlib.PurePath(figure).name if ".py:" in figure else figure
