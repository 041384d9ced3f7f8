"""Policies trained by differentiating their return through action-sequence models.

Everything public is imported when it is first used: `import asmpg` itself takes milliseconds, not JAX's second.
"""

import importlib
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from .analysis import action_jacobian as action_jacobian
    from .analysis import cosine_similarity as cosine_similarity
    from .analysis import estimator_error as estimator_error
    from .analysis import gradient_norm_profile as gradient_norm_profile
    from .analysis import growth_fit as growth_fit
    from .analysis import locate_nonfinite as locate_nonfinite
    from .analysis import reach as reach
    from .analysis import return_landscape as return_landscape
    from .analysis import theorem1_bound as theorem1_bound
    from .backbones import AbstractBackbone as AbstractBackbone
    from .backbones import BACKBONES as BACKBONES
    from .backbones import SelfAttention as SelfAttention
    from .backbones import SimpleRNN as SimpleRNN
    from .baselines import DecisionTransformerSettings as DecisionTransformerSettings
    from .baselines import SoftActorCriticSettings as SoftActorCriticSettings
    from .config import TrainConfig as TrainConfig
    from .environment import AbstractEnvironment as AbstractEnvironment
    from .environment import AbstractReward as AbstractReward
    from .environment import rollout as rollout
    from .envs import from_ode as from_ode
    from .envs import make as make
    from .envs import TASKS as TASKS
    from .gradients import action_gradient as action_gradient
    from .gradients import policy_gradient as policy_gradient
    from .methods import MODELS as MODELS
    from .models import AbstractDynamicsModel as AbstractDynamicsModel
    from .models import ActionSequenceModel as ActionSequenceModel
    from .models import HistoryModel as HistoryModel
    from .models import OneStepModel as OneStepModel
    from .models import Simulator as Simulator
    from .optimal_control import best_constant_return as best_constant_return
    from .optimal_control import optimal as optimal
    from .optimal_control import random_return as random_return
    from .optimal_control import score as score
    from .policies import AbstractPolicy as AbstractPolicy
    from .policies import ActionSequence as ActionSequence
    from .policies import TanhGaussianPolicy as TanhGaussianPolicy
    from .rewards import LearnedReward as LearnedReward
    from .runs import load as load
    from .runs import Result as Result
    from .runs import resume as resume
    from .runs import train as train
    from .settings import Settings as Settings
    from .statistics import area_under_curve as area_under_curve
    from .statistics import bootstrap_interval as bootstrap_interval
    from .statistics import difference_interval as difference_interval
    from .statistics import improvement_interval as improvement_interval
    from .statistics import interquartile_mean as interquartile_mean
    from .statistics import performance_profile as performance_profile
    from .statistics import probability_of_improvement as probability_of_improvement
    from .statistics import Scores as Scores
    from .statistics import steps_to_score as steps_to_score
    from .types import Trajectory as Trajectory
    from .types import UsageError as UsageError


_MODULES = {
    "analysis": (
        "action_jacobian",
        "cosine_similarity",
        "estimator_error",
        "gradient_norm_profile",
        "growth_fit",
        "locate_nonfinite",
        "reach",
        "return_landscape",
        "theorem1_bound",
    ),
    "backbones": ("AbstractBackbone", "BACKBONES", "SelfAttention", "SimpleRNN"),
    "baselines": ("DecisionTransformerSettings", "SoftActorCriticSettings"),
    "config": ("TrainConfig",),
    "methods": ("MODELS",),
    "environment": ("AbstractEnvironment", "AbstractReward", "rollout"),
    "envs": ("from_ode", "make", "TASKS"),
    "gradients": ("action_gradient", "policy_gradient"),
    "models": ("AbstractDynamicsModel", "ActionSequenceModel", "HistoryModel", "OneStepModel", "Simulator"),
    "optimal_control": ("best_constant_return", "optimal", "random_return", "score"),
    "policies": ("AbstractPolicy", "ActionSequence", "TanhGaussianPolicy"),
    "rewards": ("LearnedReward",),
    "runs": ("load", "Result", "resume", "train"),
    "settings": ("Settings",),
    "statistics": (
        "area_under_curve",
        "bootstrap_interval",
        "difference_interval",
        "improvement_interval",
        "interquartile_mean",
        "performance_profile",
        "probability_of_improvement",
        "Scores",
        "steps_to_score",
    ),
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
    "AbstractReward",
    "ActionSequence",
    "ActionSequenceModel",
    "DecisionTransformerSettings",
    "HistoryModel",
    "LearnedReward",
    "OneStepModel",
    "Result",
    "Scores",
    "SelfAttention",
    "Settings",
    "SimpleRNN",
    "Simulator",
    "SoftActorCriticSettings",
    "TanhGaussianPolicy",
    "TrainConfig",
    "Trajectory",
    "UsageError",
    "action_gradient",
    "action_jacobian",
    "area_under_curve",
    "best_constant_return",
    "bootstrap_interval",
    "cosine_similarity",
    "difference_interval",
    "estimator_error",
    "from_ode",
    "gradient_norm_profile",
    "growth_fit",
    "improvement_interval",
    "interquartile_mean",
    "load",
    "locate_nonfinite",
    "make",
    "optimal",
    "performance_profile",
    "policy_gradient",
    "probability_of_improvement",
    "random_return",
    "reach",
    "resume",
    "return_landscape",
    "rollout",
    "score",
    "steps_to_score",
    "theorem1_bound",
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
