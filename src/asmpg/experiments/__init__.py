"""Experiments of the paper: tables, the figures drawn from them, and verdicts on its claims."""

from . import attention, bounce, pendulum, theory, toy_offline
from .experiment import Experiment as Experiment
from .experiment import reproduce as reproduce
from .experiment import SCALES as SCALES


EXPERIMENTS: dict[str, Experiment] = {
    "2": toy_offline.EXPERIMENT,
    "3": bounce.EXPERIMENT,
    "5": pendulum.EXPERIMENT,
    "9": attention.EXPERIMENT,
    "theory": theory.EXPERIMENT,
}
