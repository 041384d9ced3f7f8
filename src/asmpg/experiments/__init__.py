"""Experiments: tables, the figures drawn from them, and verdicts on claims; those of the paper, and yours."""

from ..drawing.charts import Chart as Chart
from ..drawing.charts import Panel as Panel
from ..drawing.charts import Series as Series
from ..sweeps import SCALES as SCALES
from . import (
    attention,
    bounce,
    learned_reward,
    myriad,
    odt,
    one_step,
    paper_preset,
    pendulum,
    pendulum_training,
    theory,
    toy_offline,
)
from .experiment import AbstractExperiment as AbstractExperiment
from .experiment import find_experiment as find_experiment
from .experiment import Text as Text
from .results import read_earlier as read_earlier
from .results import redraw as redraw
from .results import reproduce as reproduce
from .table import Table as Table
from .training import AbstractSweepExperiment as AbstractSweepExperiment
from .training import StoppedError as StoppedError
from .training import Sweeping as Sweeping
from .verdicts import decide as decide
from .verdicts import Verdict as Verdict


_ALL: tuple[AbstractExperiment, ...] = (
    toy_offline.EXPERIMENT,
    bounce.EXPERIMENT,
    pendulum_training.EXPERIMENT,
    pendulum.EXPERIMENT,
    myriad.EXPERIMENT,
    learned_reward.EXPERIMENT,
    attention.EXPERIMENT,
    odt.EXPERIMENT,
    one_step.EXPERIMENT,
    paper_preset.EXPERIMENT,
    theory.EXPERIMENT,
)


def _place(figure: str) -> tuple[int, str]:
    return (int(figure), "") if figure.isdigit() else (10**6, figure)


# By what is typed. Figures that share a table are made together, whichever of them is asked for.
_FIGURES = {figure: experiment for experiment in _ALL for figure in experiment.texts}
EXPERIMENTS: dict[str, AbstractExperiment] = {name: _FIGURES[name] for name in sorted(_FIGURES, key=_place)}

# What `asmpg sweep` knows by name: the grids of a scale.
SUITES = {one.suite_name or one.name: one.grids for one in _ALL if isinstance(one, AbstractSweepExperiment)}
