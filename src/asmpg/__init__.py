"""Policies trained by differentiating their return through action-sequence models.

Everything public is imported when it is first used: `import asmpg` itself takes milliseconds, not JAX's second.
"""

import importlib
from importlib import metadata
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from .core.types import Trajectory as Trajectory
    from .core.types import UsageError as UsageError
    from .gradients.analysis import action_jacobian as action_jacobian
    from .gradients.analysis import cosine_similarity as cosine_similarity
    from .gradients.analysis import estimator_error as estimator_error
    from .gradients.analysis import gradient_norm_profile as gradient_norm_profile
    from .gradients.analysis import growth_fit as growth_fit
    from .gradients.analysis import locate_nonfinite as locate_nonfinite
    from .gradients.analysis import reach as reach
    from .gradients.analysis import return_landscape as return_landscape
    from .gradients.analysis import theorem1_bound as theorem1_bound
    from .gradients.policies import AbstractPolicy as AbstractPolicy
    from .gradients.policies import ActionSequence as ActionSequence
    from .gradients.policies import TanhGaussianPolicy as TanhGaussianPolicy
    from .gradients.policy_gradient import action_gradient as action_gradient
    from .gradients.policy_gradient import policy_gradient as policy_gradient
    from .learners.base import AbstractLearner as AbstractLearner
    from .learners.base import Explorer as Explorer
    from .learners.odt import DecisionTransformerSettings as DecisionTransformerSettings
    from .learners.replay import ReplayBuffer as ReplayBuffer
    from .learners.sac import SoftActorCriticSettings as SoftActorCriticSettings
    from .learners.settings import Settings as Settings
    from .models import AbstractDynamicsModel as AbstractDynamicsModel
    from .models import ActionSequenceModel as ActionSequenceModel
    from .models import HistoryModel as HistoryModel
    from .models import OneStepModel as OneStepModel
    from .models import Simulator as Simulator
    from .models.backbones import AbstractBackbone as AbstractBackbone
    from .models.backbones import BACKBONES as BACKBONES
    from .models.backbones import SelfAttention as SelfAttention
    from .models.backbones import SimpleRNN as SimpleRNN
    from .models.reward import LearnedReward as LearnedReward
    from .statistics import area_under_curve as area_under_curve
    from .statistics import bootstrap_interval as bootstrap_interval
    from .statistics import difference_interval as difference_interval
    from .statistics import improvement_interval as improvement_interval
    from .statistics import interquartile_mean as interquartile_mean
    from .statistics import performance_profile as performance_profile
    from .statistics import probability_of_improvement as probability_of_improvement
    from .statistics import Scores as Scores
    from .statistics import steps_to_score as steps_to_score
    from .tasks import from_ode as from_ode
    from .tasks import make as make
    from .tasks import TASKS as TASKS
    from .tasks.brax import from_brax as from_brax
    from .tasks.brax import from_mjx as from_mjx
    from .tasks.context import with_context as with_context
    from .tasks.data import Episodes as Episodes
    from .tasks.data_files import load_episodes as load_episodes
    from .tasks.data_files import save_episodes as save_episodes
    from .tasks.environment import AbstractEnvironment as AbstractEnvironment
    from .tasks.environment import AbstractReward as AbstractReward
    from .tasks.environment import rollout as rollout
    from .tasks.gymnasium import from_gymnasium as from_gymnasium
    from .tasks.gymnax import from_gymnax as from_gymnax
    from .tasks.host import HostEnvironment as HostEnvironment
    from .tasks.observed import observe as observe
    from .tasks.optimum import best_constant_return as best_constant_return
    from .tasks.optimum import check_gradient as check_gradient
    from .tasks.optimum import optimal as optimal
    from .tasks.optimum import random_return as random_return
    from .tasks.optimum import score as score
    from .tasks.simulator import AbstractSimulator as AbstractSimulator
    from .training.callbacks import Callback as Callback
    from .training.callbacks import CSVLog as CSVLog
    from .training.callbacks import TensorBoard as TensorBoard
    from .training.callbacks import WeightsAndBiases as WeightsAndBiases
    from .training.config import TrainConfig as TrainConfig
    from .training.door import train as train
    from .training.export import ExportedPolicy as ExportedPolicy
    from .training.export import load_policy as load_policy
    from .training.fit import Fit as Fit
    from .training.fit import fit as fit
    from .training.methods import Method as Method
    from .training.methods import MODELS as MODELS
    from .training.runs import load as load
    from .training.runs import Result as Result
    from .training.runs import resume as resume

    __version__: str


_MODULES = {
    "gradients.analysis": (
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
    "models.backbones": ("AbstractBackbone", "BACKBONES", "SelfAttention", "SimpleRNN"),
    "learners.odt": ("DecisionTransformerSettings",),
    "learners.replay": ("ReplayBuffer",),
    "learners.sac": ("SoftActorCriticSettings",),
    "training.callbacks": ("Callback", "CSVLog", "TensorBoard", "WeightsAndBiases"),
    "training.config": ("TrainConfig",),
    "training.export": ("ExportedPolicy", "load_policy"),
    "training.door": ("train",),
    "training.methods": ("Method", "MODELS"),
    "training.fit": ("Fit", "fit"),
    "tasks.data": ("Episodes",),
    "tasks.data_files": ("load_episodes", "save_episodes"),
    "tasks.environment": ("AbstractEnvironment", "AbstractReward", "rollout"),
    "tasks": ("from_ode", "make", "TASKS"),
    "gradients.policy_gradient": ("action_gradient", "policy_gradient"),
    "models": ("AbstractDynamicsModel", "ActionSequenceModel", "HistoryModel", "OneStepModel", "Simulator"),
    "tasks.optimum": ("best_constant_return", "check_gradient", "optimal", "random_return", "score"),
    "gradients.policies": ("AbstractPolicy", "ActionSequence", "TanhGaussianPolicy"),
    "models.reward": ("LearnedReward",),
    "training.runs": ("load", "Result", "resume"),
    "learners.settings": ("Settings",),
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
    "tasks.brax": ("from_brax", "from_mjx"),
    "tasks.gymnasium": ("from_gymnasium",),
    "tasks.gymnax": ("from_gymnax",),
    "tasks.host": ("HostEnvironment",),
    "tasks.context": ("with_context",),
    "tasks.observed": ("observe",),
    "tasks.simulator": ("AbstractSimulator",),
    "learners.base": ("AbstractLearner", "Explorer"),
    "core.types": ("Trajectory", "UsageError"),
}
_ROOMS = frozenset({"experiments", *(name.split(".")[0] for name in _MODULES)})
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BACKBONES",
    "MODELS",
    "TASKS",
    "AbstractBackbone",
    "AbstractDynamicsModel",
    "AbstractEnvironment",
    "AbstractLearner",
    "AbstractPolicy",
    "AbstractReward",
    "AbstractSimulator",
    "ActionSequence",
    "ActionSequenceModel",
    "CSVLog",
    "Callback",
    "DecisionTransformerSettings",
    "Episodes",
    "Explorer",
    "ExportedPolicy",
    "Fit",
    "HistoryModel",
    "HostEnvironment",
    "LearnedReward",
    "Method",
    "OneStepModel",
    "ReplayBuffer",
    "Result",
    "Scores",
    "SelfAttention",
    "Settings",
    "SimpleRNN",
    "Simulator",
    "SoftActorCriticSettings",
    "TanhGaussianPolicy",
    "TensorBoard",
    "TrainConfig",
    "Trajectory",
    "UsageError",
    "WeightsAndBiases",
    "action_gradient",
    "action_jacobian",
    "area_under_curve",
    "best_constant_return",
    "bootstrap_interval",
    "check_gradient",
    "cosine_similarity",
    "difference_interval",
    "estimator_error",
    "fit",
    "from_brax",
    "from_gymnasium",
    "from_gymnax",
    "from_mjx",
    "from_ode",
    "gradient_norm_profile",
    "growth_fit",
    "improvement_interval",
    "interquartile_mean",
    "load",
    "load_episodes",
    "load_policy",
    "locate_nonfinite",
    "make",
    "observe",
    "optimal",
    "performance_profile",
    "policy_gradient",
    "probability_of_improvement",
    "random_return",
    "reach",
    "resume",
    "return_landscape",
    "rollout",
    "save_episodes",
    "score",
    "steps_to_score",
    "theorem1_bound",
    "train",
    "with_context",
]


if not TYPE_CHECKING:  # or any misspelt name would be a public one to a type checker

    def __getattr__(name: str) -> Any:
        """A public name, one of the modules they live in, or the version, which stands in the metadata alone."""
        if name == "__version__":
            return metadata.version("asmpg")
        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
