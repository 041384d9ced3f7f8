"""Policies trained by differentiating their return through action-sequence models.

Everything public is imported when it is first used: `import asmpg` itself takes milliseconds, not JAX's second.
"""

import importlib
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from .analysis import action_jacobian as action_jacobian
    from .backbones import AbstractBackbone as AbstractBackbone
    from .backbones import BACKBONES as BACKBONES
    from .baselines import DecisionTransformerSettings as DecisionTransformerSettings
    from .baselines import SoftActorCriticSettings as SoftActorCriticSettings
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


_MODULES = {
    "analysis": ("action_jacobian",),
    "backbones": ("AbstractBackbone", "BACKBONES"),
    "baselines": ("DecisionTransformerSettings", "SoftActorCriticSettings"),
    "config": ("MODELS", "TrainConfig"),
    "environment": ("AbstractEnvironment", "rollout"),
    "envs": ("from_ode", "make", "TASKS"),
    "gradients": ("action_gradient", "policy_gradient"),
    "models": ("AbstractDynamicsModel", "ActionSequenceModel", "OneStepModel", "Simulator"),
    "optimal_control": ("best_constant_return", "optimal", "random_return", "score"),
    "policies": ("AbstractPolicy", "TanhGaussianPolicy"),
    "runs": ("load", "Result", "resume", "train"),
    "settings": ("Settings",),
    "types": ("Trajectory", "UsageError"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BACKBONES",
    "MODELS",
    "TASKS",
    "AbstractBackbone",
    "AbstractDynamicsModel",
    "AbstractEnvironment",
    "AbstractPolicy",
    "ActionSequenceModel",
    "DecisionTransformerSettings",
    "OneStepModel",
    "Result",
    "Settings",
    "Simulator",
    "SoftActorCriticSettings",
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


def __getattr__(name: str) -> Any:
    """A public name, or one of the modules they live in."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
