"""Policies trained by differentiating their return through action-sequence models."""

from .analysis import action_jacobian as action_jacobian
from .backbones import AbstractBackbone as AbstractBackbone
from .backbones import BACKBONES as BACKBONES
from .config import MODELS as MODELS
from .config import TrainConfig as TrainConfig
from .environment import AbstractEnvironment as AbstractEnvironment
from .environment import rollout as rollout
from .envs import from_ode as from_ode
from .envs import make as make
from .envs import TASKS as TASKS
from .gradients import action_gradient as action_gradient
from .gradients import policy_gradient as policy_gradient
from .models import AbstractDynamicsModel as AbstractDynamicsModel
from .models import ActionSequenceModel as ActionSequenceModel
from .models import OneStepModel as OneStepModel
from .models import Simulator as Simulator
from .optimal_control import best_constant_return as best_constant_return
from .optimal_control import optimal as optimal
from .optimal_control import random_return as random_return
from .optimal_control import score as score
from .policies import AbstractPolicy as AbstractPolicy
from .policies import TanhGaussianPolicy as TanhGaussianPolicy
from .runs import load as load
from .runs import Result as Result
from .runs import resume as resume
from .runs import train as train
from .settings import Settings as Settings
from .types import Trajectory as Trajectory
from .types import UsageError as UsageError


__all__ = [
    "BACKBONES",
    "MODELS",
    "TASKS",
    "AbstractBackbone",
    "AbstractDynamicsModel",
    "AbstractEnvironment",
    "AbstractPolicy",
    "ActionSequenceModel",
    "OneStepModel",
    "Result",
    "Settings",
    "Simulator",
    "TanhGaussianPolicy",
    "TrainConfig",
    "Trajectory",
    "UsageError",
    "action_gradient",
    "action_jacobian",
    "best_constant_return",
    "from_ode",
    "load",
    "make",
    "optimal",
    "policy_gradient",
    "random_return",
    "resume",
    "rollout",
    "score",
    "train",
]
