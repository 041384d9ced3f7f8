"""Dynamics models: from an initial state and a sequence of actions to all states (sections 2, 3 and 4.3)."""

from .base import AbstractDynamicsModel as AbstractDynamicsModel
from .base import free_run as free_run
from .markov import OneStepModel as OneStepModel
from .markov import Simulator as Simulator
from .sequence import ActionSequenceModel as ActionSequenceModel
from .sequence import EMBEDDING_SIZE as EMBEDDING_SIZE
from .sequence import HistoryModel as HistoryModel
