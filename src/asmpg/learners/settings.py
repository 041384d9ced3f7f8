"""Sizes, rates and intervals of a run: what every method has, and the presets of the model-based ones."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import jax

from ..core.types import UsageError


# Numbers that neither shape nor branch the program: they are the leaves of the settings, and may be traced. Seeds that
# differ in nothing else share one program.
MAY_DIFFER = frozenset(
    {
        *("model_learning_rate", "policy_learning_rate", "critic_learning_rate", "temperature_learning_rate"),
        *("entropy", "temperature", "target_entropy", "discount", "target_rate"),
        *("gradient_clip", "exploration_amplitude"),
    }
)


Class = TypeVar("Class", bound=type)


def with_rates_as_leaves(cls: Class) -> Class:
    """Makes a frozen dataclass of settings a pytree whose leaves are its rates; all else is static."""
    names = [field.name for field in dataclasses.fields(cls)]
    rates = [name for name in names if name in MAY_DIFFER]
    others = [name for name in names if name not in MAY_DIFFER]

    def flatten(settings: Any) -> tuple[list[tuple[jax.tree_util.GetAttrKey, Any]], tuple[Any, ...]]:
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(settings, name)) for name in rates]
        return leaves, tuple(getattr(settings, name) for name in others)

    def unflatten(static: tuple[Any, ...], leaves: Iterable[Any]) -> Any:
        # Past the constructor and its checks: between two programs a rate may be an array, or anything at all.
        settings = object.__new__(cls)
        settings.__dict__.update(zip(others, static, strict=True), **dict(zip(rates, leaves, strict=True)))
        return settings

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@with_rates_as_leaves
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


@with_rates_as_leaves
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
        entropy: weight of the policy's entropy in its objective.
        policy_average: about how many updates' policies are averaged, in their parameters, into the one that is
            evaluated and kept (Polyak's average); exploration and updates go on from the last. 0 keeps the last one.
        entropy_over: what that entropy is: its mean per "step", or its sum over the "episode", H times as much.
        dropout: rate inside the backbone while fitting.
        decoder: how a backbone's output becomes a state: through a "hidden" layer of 64, or "linear" (Equation 2).
        difference_loss: of an action-sequence model: weight of the error of the differences of successive predictions,
            in units of the typical difference, beside that of the states.
        summed_differences: whether an action-sequence model's decoder gives differences of states, which are summed.
        difference_unit: what one-step and history models count the difference of two successive states in, in their
            output and in their loss: the "typical" difference of one step, or the spread of the "state" (Equation 1).
        state_gradient_decay: of the one-step model: what the gradient through the state is multiplied by at every
            imagined step; 1 is the true derivative.
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
    entropy_over: Literal["step", "episode"]
    policy_average: int
    dropout: float
    decoder: Literal["hidden", "linear"]
    difference_loss: float
    summed_differences: bool
    difference_unit: Literal["typical", "state"]
    state_gradient_decay: float
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
        entropy_over="step",
        policy_average=0,
        gradient_clip=100.0,
        replay_capacity=1_000_000,
        dropout=0.1,
        decoder="hidden",
        difference_loss=0.0,
        summed_differences=False,
        difference_unit="state",
        state_gradient_decay=1.0,
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
        entropy_over="step",
        policy_average=0,
        gradient_clip=1.0,
        replay_capacity=1_000_000,
        dropout=0.0,
        decoder="hidden",
        difference_loss=0.0,
        summed_differences=False,
        difference_unit="typical",
        state_gradient_decay=1.0,
        learning_rate_decay=1000,
        exploration="correlated",
        exploration_amplitude=1.0,
        normalise_return=True,
        predicted_state_share=0.5,
        cut_state_gradient=False,
    )


def paper_recurrent(horizon: int) -> Settings:
    """`paper` for a backbone other than the transformer: dropout is GPT-2's alone, and Equation 2's output linear."""
    return dataclasses.replace(paper(horizon), dropout=0.0, decoder="linear")


PRESETS = {"default": default, "paper": paper}
RECURRENT_PRESETS = {"default": default, "paper": paper_recurrent}


def preset(name: str, horizon: int) -> Settings:
    """The model-based settings of a preset at a horizon.

    Raises:
        UsageError: an unknown preset.
    """
    if name not in PRESETS:
        raise UsageError(f"preset: {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name](horizon)
