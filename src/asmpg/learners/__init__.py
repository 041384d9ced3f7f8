"""Methods without a dynamics model, for comparison: learners on the same loop as Algorithm 1."""

from .odt import DecisionTransformer as DecisionTransformer
from .odt import DecisionTransformerSettings as DecisionTransformerSettings
from .sac import SoftActorCritic as SoftActorCritic
from .sac import SoftActorCriticSettings as SoftActorCriticSettings
