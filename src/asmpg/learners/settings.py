"""Sizes, rates and intervals of a run: what every method has, and the presets of the model-based ones."""

import dataclasses
from typing import Literal

from ..core.types import UsageError


# Numbers that neither shape nor branch the program: seeds that differ in nothing else can share one.
MAY_DIFFER = frozenset(
    {
        *("model_learning_rate", "policy_learning_rate", "critic_learning_rate", "temperature_learning_rate"),
        *("entropy", "temperature", "target_entropy", "discount", "target_rate"),
        *("gradient_clip", "exploration_amplitude"),
    }
)


@dataclasses.dataclass(frozen=True)
class AbstractSettings:
    """What the loop and the optimisers of every method need. Each method's own settings add to it.

    Attributes:
        warmup_steps: environment steps before the first update, rounded up to whole episodes.
        gradient_clip: largest global norm of a gradient.
        replay_capacity: environment steps kept, whole episodes.
        learning_rate_decay: number of updates n_0 after which the learning rates fall noticeably: update n uses
            rate / sqrt(1 + n / n_0), which needs no knowledge of the end; 0 keeps them constant.
        exploration: "white": independent noise at every step; "correlated": first-order autoregressive noise
            whose correlation length is drawn log-uniformly from 1 to the horizon, once an episode.
        exploration_amplitude: largest standard deviation of further noise of that kind, added to the action itself
            (and clipped to the bounds) outside of imagination; drawn log-uniformly over a factor of 16, once an
            episode. Without it, a policy at a bound gathers no data on what leaving the bound would do.
    """

    warmup_steps: int
    gradient_clip: float
    replay_capacity: int
    learning_rate_decay: int
    exploration: Literal["white", "correlated"]
    exploration_amplitude: float

    @property
    def needs_optimum(self) -> bool:
        """Whether the method cannot begin before the task is solved."""
        return False


@dataclasses.dataclass(frozen=True)
class Settings(AbstractSettings):
    """What a preset of the model-based methods fixes. Intervals and sizes count steps, updates or episodes as named.

    Attributes:
        model_update_every: environment steps per model update.
        policy_update_every: environment steps per policy update.
        model_batch_size: episodes per model update.
        policy_batch_size: imagined episodes per policy update.
        model_learning_rate: of Adam.
        policy_learning_rate: of Adam.
        entropy: weight of the policy's mean entropy per step in its objective.
        dropout: rate inside the backbone while fitting.
        normalise_return: whether the policy's objective counts returns in units of their spread over the warm-up
            episodes, so that the entropy weight means the same for every task.
        predicted_state_share: weight, from 0 to 1, of the states that the model predicts in a learned reward's fit;
            the rest is that of the true states.
        cut_state_gradient: whether a history model's own states are constants to the policy gradient, so that it
            runs through the backbone's paths from the actions only.
    """

    model_update_every: int
    policy_update_every: int
    model_batch_size: int
    policy_batch_size: int
    model_learning_rate: float
    policy_learning_rate: float
    entropy: float
    dropout: float
    normalise_return: bool
    predicted_state_share: float
    cut_state_gradient: bool


def paper(horizon: int) -> Settings:
    """Table 1 and Appendix E.1, with the middle one of the three entropy weights swept there."""
    return Settings(
        warmup_steps=1500,
        model_update_every=2,
        policy_update_every=16,
        model_batch_size=64,
        policy_batch_size=16,
        model_learning_rate=1e-3,
        policy_learning_rate=1e-4,
        entropy=0.01,
        gradient_clip=100.0,
        replay_capacity=1_000_000,
        dropout=0.1,
        learning_rate_decay=0,
        exploration="white",
        exploration_amplitude=0.0,
        normalise_return=False,
        predicted_state_share=0.0,
        cut_state_gradient=False,
    )


def default(horizon: int) -> Settings:
    """Ours: a given score in few environment steps and little time.

    Against the table's values: small and frequent updates; a larger, decaying learning rate for the model, made safe
    by a tight clip (the first episodes of an improved policy are far from the warm-up's and give gradients that would
    dominate Adam's second moment for a thousand updates); noise on the action as well as in the policy.
    """
    return Settings(
        warmup_steps=max(500, 4 * horizon),
        model_update_every=1,
        policy_update_every=2,
        model_batch_size=16,
        policy_batch_size=8,
        model_learning_rate=4e-3,
        policy_learning_rate=3e-3,
        entropy=0.02,
        gradient_clip=1.0,
        replay_capacity=1_000_000,
        dropout=0.0,
        learning_rate_decay=1000,
        exploration="correlated",
        exploration_amplitude=1.0,
        normalise_return=True,
        predicted_state_share=0.5,
        cut_state_gradient=False,
    )


PRESETS = {"default": default, "paper": paper}


def preset(name: str, horizon: int) -> Settings:
    """The model-based settings of a preset at a horizon.

    Raises:
        UsageError: an unknown preset.
    """
    if name not in PRESETS:
        raise UsageError(f"preset: {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name](horizon)
