"""Methods: what the training loop asks of one, Algorithm 1, and for comparison methods without a dynamics model."""

from .base import AbstractLearner as AbstractLearner
from .model_based import ModelBasedLearner as ModelBasedLearner
from .odt import DecisionTransformer as DecisionTransformer
from .odt import DecisionTransformerSettings as DecisionTransformerSettings
from .replay import ReplayBuffer as ReplayBuffer
from .sac import SoftActorCritic as SoftActorCritic
from .sac import SoftActorCriticSettings as SoftActorCriticSettings
from .settings import AbstractSettings as AbstractSettings
from .settings import Settings as Settings
