"""Experiments of the paper: tables, the figures drawn from them, and verdicts on its claims."""

from . import attention, bounce, learned_reward, myriad, odt, pendulum, pendulum_training, theory, toy_offline
from .experiment import Experiment as Experiment
from .experiment import redraw as redraw
from .experiment import reproduce as reproduce
from .experiment import SCALES as SCALES
from .training import StoppedError as StoppedError
from .training import Sweeping as Sweeping


# By what is typed. Figures that share a table are made together, whichever of them is asked for.
EXPERIMENTS: dict[str, Experiment] = {
    "2": toy_offline.EXPERIMENT,
    "3": bounce.EXPERIMENT,
    "4": pendulum_training.EXPERIMENT,
    "5": pendulum.EXPERIMENT,
    "6": myriad.EXPERIMENT,
    "7": myriad.EXPERIMENT,
    "8": learned_reward.EXPERIMENT,
    "9": attention.EXPERIMENT,
    "10": pendulum_training.EXPERIMENT,
    "11": odt.EXPERIMENT,
    "12": odt.EXPERIMENT,
    "13": myriad.EXPERIMENT,
    "14": myriad.EXPERIMENT,
    "theory": theory.EXPERIMENT,
}
