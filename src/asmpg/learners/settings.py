"""Sizes, rates and intervals of a run: what every method has, and those of the model-based ones.

A setting's type, bounds, meaning and default stand at its field. The default is the paper's value, so that the preset
`paper` is the class as it is, and another preset says what differs.
"""

import abc
import dataclasses
import functools
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import jax
from msgspec import Meta

from ..core.checks import (
    about,
    check,
    check_choice,
    Count,
    Dropout,
    field_types,
    MAX_LAYERS,
    MAX_WIDTH,
    NotNegative,
    Number,
    NumLayers,
    Positive,
    Share,
    Width,
)


Preset = Literal["default", "paper"]
OfKind = TypeVar("OfKind", bound="AbstractSettings")


class _Number:
    """Marks a number that neither shapes nor branches the program: `vmap` can go over several values of it."""


NUMBER = _Number()
Batch = Annotated[int, Meta(ge=1, le=1_000_000)]
Rate = Annotated[Positive, NUMBER]
Weight = Annotated[NotNegative, NUMBER]

# Of more than one method.
TargetEntropy = Annotated[
    Number,
    NUMBER,
    about(
        "entropy per action component that a tuned temperature aims at, in nats; uniform actions have log 2 = 0.69"
    ),
]
TemperatureRate = Annotated[Rate, about("of the temperature's Adam, on its logarithm")]
PolicyRate = Annotated[Rate, about("of the policy's Adam")]
TransitionBatch = Annotated[Batch, about("transitions (odt: sub-sequences) per update")]
FittingDropout = Annotated[Dropout, about("rate inside the backbone while fitting")]
PolicyInterval = Annotated[Count, about("environment steps per policy update")]
PolicyWidth = Annotated[
    Width, about("of the hidden layers of the policy's network (odt: of its transformer)")
]
PolicyLayers = Annotated[NumLayers, about("hidden layers of the policy's network (odt: of its transformer)")]
NormaliseReturn = Annotated[
    bool,
    about(
        "whether the policy's objective counts returns in units of their spread over the warm-up episodes, so that the "
        "entropy weight means the same for every task"
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractSettings(abc.ABC):
    """What the loop and the optimisers of every method need. Each method's own settings add to it.

    A pytree, whose leaves are the numbers that do not shape the program.
    """

    warmup_steps: Annotated[
        Count, about("environment steps before the first update, rounded up to whole episodes")
    ] = 1500
    gradient_clip: Annotated[Rate, about("largest global norm of a gradient")] = 100.0
    replay_capacity: Annotated[Count, about("environment steps kept, whole episodes")] = 1_000_000
    learning_rate_decay: Annotated[
        int,
        Meta(ge=0, le=1_000_000_000),
        about(
            "number of updates n_0 after which the learning rates fall noticeably: update n uses "
            "rate / sqrt(1 + n / n_0), which needs no knowledge of the end; 0 keeps them constant"
        ),
    ] = 0
    exploration: Annotated[
        Literal["white", "correlated"],
        about(
            "noise of the policy: white is independent at every step; correlated is first-order autoregressive with a "
            "correlation length drawn log-uniformly from 1 to the horizon, once an episode"
        ),
    ] = "white"
    exploration_amplitude: Annotated[
        Weight,
        about(
            "largest standard deviation of further noise of that kind, added to the action itself (and clipped to the "
            "bounds) outside of imagination; drawn log-uniformly over a factor of 16, once an episode. Without it, a "
            "policy at a bound gathers no data on what leaving the bound would do"
        ),
    ] = 0.0

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten, lambda fixed, numbers: _unflatten(cls, fixed, numbers)
        )

    @classmethod
    def paper(cls: type[OfKind], horizon: int) -> OfKind:
        """The paper's values at a horizon."""
        return cls()

    @classmethod
    @abc.abstractmethod
    def default(cls: type[OfKind], horizon: int) -> OfKind:
        """Ours at a horizon."""

    @classmethod
    def preset(cls: type[OfKind], name: str, horizon: int) -> OfKind:
        """The values of a preset at a horizon.

        Raises:
            UsageError: there is no such preset.
        """
        check_choice("preset", name, typing.get_args(Preset))
        return cls.paper(horizon) if name == "paper" else cls.default(horizon)

    def replace(self: OfKind, **changes: object) -> OfKind:
        """The same but for some settings.

        Raises:
            UsageError: there is no such setting, or a value is not allowed.
        """
        return dataclasses.replace(
            self, **{name: self.checked(name, value) for name, value in changes.items()}
        )

    @classmethod
    def checked(cls, name: str, value: object) -> Any:
        """One setting's value, as its type says.

        Raises:
            UsageError: there is no such setting, or the value is not allowed.
        """
        kinds = field_types(cls)
        check_choice("setting", name, kinds)
        return check(name, value, kinds[name])

    @property
    def problem(self) -> str | None:
        """Why values that are allowed one by one do not fit together; None where they do."""
        return None

    @property
    def needs_optimum(self) -> bool:
        """Whether the method cannot begin before the task is solved."""
        return False


@functools.cache
def number_names(settings: type[AbstractSettings]) -> tuple[str, ...]:
    """The settings that do not shape the program."""
    return tuple(name for name, kind in field_types(settings).items() if NUMBER in typing.get_args(kind))


def _flatten(settings: AbstractSettings) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    numbers = number_names(type(settings))
    fixed = tuple((name, value) for name, value in vars(settings).items() if name not in numbers)
    return [(jax.tree_util.GetAttrKey(name), getattr(settings, name)) for name in numbers], fixed


def _unflatten(kind: type[AbstractSettings], fixed: tuple[Any, ...], numbers: Iterable[Any]) -> Any:
    """Not by the constructor: inside of a program the numbers are arrays, or whatever else a leaf may be."""
    settings = object.__new__(kind)
    vars(settings).update(fixed, **dict(zip(number_names(kind), numbers, strict=True)))
    return settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(AbstractSettings):
    """Of the model-based methods (Table 1, Appendix E.1). Intervals and sizes count what their names say."""

    model_update_every: Annotated[Count, about("environment steps per model update")] = 2
    policy_update_every: PolicyInterval = 16
    model_batch_size: Annotated[Batch, about("episodes per model update")] = 64
    policy_batch_size: Annotated[Batch, about("imagined episodes per policy update")] = 16
    model_learning_rate: Annotated[Rate, about("of the model's Adam")] = 1e-3
    policy_learning_rate: PolicyRate = 1e-4
    # The middle one of the three that Appendix E.1 sweeps.
    entropy: Annotated[Weight, about("weight of the policy's entropy in its objective")] = 0.01
    entropy_over: Annotated[
        Literal["step", "episode"],
        about("what that entropy is: its mean per step, or its sum over the episode, H times as much"),
    ] = "step"
    policy_average: Annotated[
        int,
        Meta(ge=0, le=1_000_000_000),
        about(
            "about how many updates' policies are averaged, in their parameters, into the one that is evaluated and "
            "kept (Polyak's average); exploration and updates go on from the last. 0 keeps the last one"
        ),
    ] = 0
    dropout: FittingDropout = 0.1
    decoder: Annotated[
        Literal["hidden", "linear"],
        about("how a backbone's output becomes a state: through a hidden layer, or linear (Equation 2)"),
    ] = "hidden"
    difference_loss: Annotated[
        NotNegative,
        about(
            "of an action-sequence model: weight of the error of the differences of successive predictions, in units "
            "of the typical difference, beside that of the states"
        ),
    ] = 0.0
    decoder_output: Annotated[
        Literal["states", "differences", "gated"],
        about(
            "what the decoder of an action-sequence model gives: states, differences of states that are summed, or a "
            "gated mixture of both, which can hold and add up as well as start over"
        ),
    ] = "states"
    difference_unit: Annotated[
        Literal["typical", "state"],
        about(
            "what one-step and history models count the difference of two successive states in, in their output and in "
            "their loss: the typical difference of one step, or the spread of the state (Equation 1)"
        ),
    ] = "state"
    state_gradient_decay: Annotated[
        Share,
        about(
            "of the one-step model: what the gradient through the state is multiplied by at every imagined step; 1 is "
            "the true derivative"
        ),
    ] = 1.0
    policy_width: PolicyWidth = 64
    num_policy_layers: PolicyLayers = 2
    model_width: Annotated[
        int,
        Meta(ge=0, le=MAX_WIDTH),
        about(
            "of the layers of the backbone, or the hidden layers of the one-step network; 0 is the standard, 64 or 72"
        ),
    ] = 0
    num_model_layers: Annotated[
        int, Meta(ge=0, le=MAX_LAYERS), about("how many of these there are; 0 is the standard, 2")
    ] = 0
    decoder_width: Annotated[Width, about("of the decoder's hidden layer")] = 64
    normalise_return: NormaliseReturn = False
    predicted_state_share: Annotated[
        Share,
        about(
            "weight of the states that the model predicts in a learned reward's fit; the rest is that of the "
            "true states"
        ),
    ] = 0.0
    cut_state_gradient: Annotated[
        bool,
        about(
            "whether a history model's own states are constants to the policy gradient, so that it runs through the "
            "backbone's paths from the actions only"
        ),
    ] = False
    cloning: Annotated[
        NotNegative,
        about(
            "weight of the mean squared distance between the policy's deterministic actions and the replayed ones, "
            "against returns in units of their spread; with recorded episodes alone it is 1 unless it is given"
        ),
    ] = 0.0
    window: Annotated[
        int,
        Meta(ge=0, le=1_000_000_000),
        about(
            "steps of what is imagined, from any replayed observation on, with a learned reward; 0 is the whole "
            "episode, or for long episodes from random states 20: of a task, if its reward is learned and has no "
            "terminal part. In windows, the preset `default` has a policy learning rate of 0.001 and a warm-up of at "
            "most 1,000 steps"
        ),
    ] = 0
    discount: Annotated[Share, NUMBER, about("of one step, in windows")] = 0.97
    target_rate: Annotated[
        Annotated[float, Meta(gt=0, le=1)],
        NUMBER,
        about("the share of the way that the slow copy of a window's value goes after every policy update"),
    ] = 0.02

    def in_windows(self) -> "Settings":
        """The preset `default` where windows of an episode are imagined.

        A step of 3e-3, right for whole episodes, makes a policy fall again that balances a pole (benchmarks/worlds.md);
        and random episodes that fill the replay buffer hide those of a policy that has got further.
        """
        return self.replace(policy_learning_rate=1e-3, warmup_steps=min(self.warmup_steps, 1000))

    @classmethod
    def default(cls, horizon: int) -> "Settings":
        """Ours: a given score in few environment steps and little time.

        Against the table's values: small and frequent updates; a larger, decaying learning rate for the model, made
        safe by a tight clip (the first episodes of an improved policy are far from the warm-up's and give gradients
        that would dominate Adam's second moment for a thousand updates); noise on the action as well as in the policy.
        An action-sequence model is fitted on differences too, and its decoder mixes states and sums of differences:
        the ablation is in docs/ablations.md. The evaluated policy is averaged over a few dozen updates, since late in
        training the last one swings across a ridge of the return.
        """
        check("horizon", horizon, Count)
        return cls(
            warmup_steps=max(500, 4 * horizon),
            model_update_every=1,
            policy_update_every=2,
            model_batch_size=16,
            policy_batch_size=8,
            model_learning_rate=4e-3,
            policy_learning_rate=3e-3,
            entropy=0.02,
            gradient_clip=1.0,
            dropout=0.0,
            difference_loss=1.0,
            decoder_output="gated",
            policy_average=30,
            difference_unit="typical",
            learning_rate_decay=1000,
            exploration="correlated",
            exploration_amplitude=1.0,
            normalise_return=True,
            predicted_state_share=0.5,
        )
