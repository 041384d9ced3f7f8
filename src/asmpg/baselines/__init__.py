"""Methods without a dynamics model, for comparison: learners on the same loop as Algorithm 1."""

from .decision_transformer import DecisionTransformer as DecisionTransformer
from .decision_transformer import DecisionTransformerSettings as DecisionTransformerSettings
from .sac import SoftActorCritic as SoftActorCritic
from .sac import SoftActorCriticSettings as SoftActorCriticSettings
