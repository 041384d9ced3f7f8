"""Recorded episodes: a log of a plant or of another program, checked once, when the value is made."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..core.arguments import shown
from ..core.types import Trajectory, UsageError, vector_text
from .recording import Recording
from .stack import Stack


# Rounding of a program that wrote its actions in single precision.
_BOUND_TOLERANCE = 1e-5
_NUMBERS = "biuf"


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Episodes:
    """Episodes that somebody recorded, in the units they were recorded in. Immutable.

    An episode that ended before the horizon is padded: the last observation stays, rewards are 0 and the actions are
    the middle of their range, whatever was given there.

    Attributes:
        observations: `s_0 .. s_H` of every episode.
        actions: `a_0 .. a_{H-1}`, between `action_low` and `action_high`.
        rewards: one a step; the last one includes whatever the end of the episode was worth.
        lengths: number of actions until the episode ended; the horizon where it did not end before.
        action_low: lower bounds of the action's components, which networks see as -1.
        action_high: upper bounds, which networks see as 1.
        ends_early: whether some episode of the recording ended before the horizon: networks see one more component
            then, `alive`. A part of a recording keeps what holds for the whole.
        name: what messages call them.
        context: pairs of a former observation and a former action that are part of an observation, see `with_context`.
    """

    observations: Float[np.ndarray, "episodes horizon_plus_1 observation"]
    actions: Float[np.ndarray, "episodes horizon action"]
    rewards: Float[np.ndarray, "episodes horizon"]
    lengths: Int[np.ndarray, " episodes"]
    action_low: Float[np.ndarray, " action"]
    action_high: Float[np.ndarray, " action"]
    ends_early: bool
    name: str
    context: int = 0

    def __init__(
        self,
        observations: object,
        actions: object,
        rewards: object,
        lengths: object = None,
        *,
        action_bounds: tuple[Any, Any] | None = None,
        name: str = "episodes",
    ):
        """Checks and copies what is given; anything that NumPy makes an array of.

        Args:
            observations: [episodes, horizon + 1, observation size].
            actions: [episodes, horizon, action size].
            rewards: [episodes, horizon].
            lengths: [episodes]; by default no episode ended before the horizon.
            action_bounds: lower and upper bounds, one number or one a component; by default -1 and 1.
            name: what messages call them.

        Raises:
            UsageError: one line that names the array: sizes that do not fit, numbers that are not finite, actions out
                of bounds.
        """
        observations, actions, rewards = (
            _numbers(name, key, value, ndim)
            for key, value, ndim in (
                ("observations", observations, 3),
                ("actions", actions, 3),
                ("rewards", rewards, 2),
            )
        )
        num_episodes, horizon = _check_sizes(name, observations, actions, rewards)
        lengths = _lengths(name, lengths, num_episodes, horizon)
        low, high = _bounds(name, action_bounds, actions.shape[2])
        past_end = np.arange(horizon) >= lengths[:, None]
        rewards[past_end] = 0.0
        actions[past_end] = (low + high) / 2
        last = observations[np.arange(num_episodes), lengths]
        ended = np.arange(horizon + 1) > lengths[:, None]
        observations = np.where(ended[..., None], last[:, None], observations)
        for key, value in {"observations": observations, "actions": actions, "rewards": rewards}.items():
            _check_finite(name, key, value)
        _check_bounds(name, actions, low, high)
        object.__setattr__(self, "ends_early", bool((lengths < horizon).any()))
        values = (observations, actions, rewards, lengths, low, high)
        for field, value in zip(dataclasses.fields(self), values, strict=False):
            value.flags.writeable = False
            object.__setattr__(self, field.name, value)
        object.__setattr__(self, "name", name)

    def __len__(self) -> int:
        """The number of episodes."""
        return self.rewards.shape[0]

    def __repr__(self) -> str:
        """What they are, on one line."""
        ends = int((self.lengths < self.horizon).sum())
        sizes = f"{self.observations.shape[2]} observation and {self.actions.shape[2]} action components"
        early = f", {ends} end early" if ends else ""
        return f"Episodes({self.name!r}, {len(self)} of {self.horizon} steps, {sizes}{early})"

    @property
    def horizon(self) -> int:
        """Actions in an episode, padding included."""
        return self.rewards.shape[1]

    @functools.cached_property
    def recording(self) -> Recording:
        """What is known of them without the episodes: their sizes, their units and their digest."""
        arrays = (
            self.observations,
            self.actions,
            self.rewards,
            self.lengths,
            self.action_low,
            self.action_high,
        )
        hashed = hashlib.sha256(repr((self.ends_early, *(x.shape for x in arrays))).encode())
        for array in arrays:
            hashed.update(np.ascontiguousarray(array, np.float64).data)
        returns = self.episode_returns
        return Recording(
            name=self.name,
            digest=hashed.hexdigest(),
            num_episodes=len(self),
            horizon=self.horizon,
            observation_size=self.observations.shape[2],
            action_size=self.actions.shape[2],
            ends_early=self.ends_early,
            action_low=tuple(self.action_low.tolist()),
            action_high=tuple(self.action_high.tolist()),
            mean_return=float(returns.mean()),
            return_spread=float(returns.std()),
            fixed_start=bool((self.observations[:, 0] == self.observations[0, 0]).all()),
            context=self.context,
        )

    @property
    def alive(self) -> Bool[np.ndarray, "episodes horizon_plus_1"]:
        """Where the episode has not ended yet; true to the last where it did not end before the horizon."""
        steps = np.arange(self.horizon + 1)
        return (steps < self.lengths[:, None]) | (self.lengths == self.horizon)[:, None]

    @property
    def episode_returns(self) -> Float[np.ndarray, " episodes"]:
        """The sum of every episode's rewards."""
        return self.rewards.sum(axis=1)

    def normalised_actions(self) -> Float[np.ndarray, "episodes horizon action"]:
        """The actions, mapped from their range to [-1, 1]."""
        unit = 2 * (self.actions - self.action_low) / (self.action_high - self.action_low) - 1
        return np.clip(unit, -1.0, 1.0)

    def trajectories(self, with_alive: bool | None = None) -> Trajectory:
        """What networks see: normalised actions, and `alive` as the last state component.

        Args:
            with_alive: whether there is that component; by default if some episodes end early.
        """
        import jax.numpy as jnp

        states = self.observations
        if self.ends_early if with_alive is None else with_alive:
            states = np.concatenate([states, self.alive[..., None]], axis=-1)
        dtype = jnp.result_type(float)
        arrays = (states, self.normalised_actions(), self.rewards)
        return Trajectory(*(jnp.asarray(array, dtype) for array in arrays))

    def take(self, indices: Sequence[int] | Int[np.ndarray, " chosen"]) -> "Episodes":
        """Some of the episodes, in this order."""
        chosen = np.asarray(indices, int)
        return self._with(*(x[chosen] for x in (self.observations, self.actions, self.rewards, self.lengths)))

    def first_steps(self, horizon: int) -> "Episodes":
        """Every episode cut after its first `horizon` steps.

        Raises:
            UsageError: the horizon is not between 1 and the episodes'.
        """
        if not 1 <= horizon <= self.horizon:
            raise UsageError(
                f"horizon: {self.name} has episodes of {self.horizon} steps, got horizon {horizon}"
            )
        lengths = np.minimum(self.lengths, horizon)
        return self._with(
            self.observations[:, : horizon + 1], self.actions[:, :horizon], self.rewards[:, :horizon], lengths
        )

    def split(self, num_held_out: int, *, seed: int = 0) -> tuple["Episodes", "Episodes"]:
        """All but some episodes, and those: drawn without replacement, each part in the order of recording."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[num_held_out:])), self.take(np.sort(order[:num_held_out]))

    def _with(self, *arrays: np.ndarray) -> "Episodes":
        part = Episodes(*arrays, action_bounds=(self.action_low, self.action_high), name=self.name)
        object.__setattr__(part, "ends_early", self.ends_early)
        object.__setattr__(part, "context", self.context)
        return part

    def with_context(self, length: int) -> "Episodes":
        """The same episodes, of which every observation has so many former observations and actions beside it."""
        recording = self.recording
        stack = Stack(recording.observation_size, recording.action_size, length)
        seen, actions = [stack.begin(self.observations[:, 0])], self.normalised_actions()
        for step in range(self.horizon):
            seen.append(stack.follow(seen[-1], actions[:, step], self.observations[:, step + 1]))
        part = self._with(np.stack(seen, axis=1), self.actions, self.rewards, self.lengths)
        object.__setattr__(part, "context", length)
        return part


def _numbers(name: str, key: str, value: object, ndim: int) -> np.ndarray:
    """A copy in float64, or in float32 where that is what was given."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # NumPy's own word for rows of different lengths
        raise UsageError(f"data: {name}: {key} is ragged: {str(error).splitlines()[0]}") from error
    except TypeError as error:
        raise UsageError(f"data: {name}: {key} must hold numbers, got {shown(value)}") from error
    if array.dtype.kind not in _NUMBERS:
        raise UsageError(f"data: {name}: {key} must hold numbers, it has the type {array.dtype}")
    if array.ndim != ndim:
        wanted = {2: "[episodes, horizon]", 3: "[episodes, horizon (+ 1), components]"}[ndim]
        raise UsageError(f"data: {name}: {key} must have {ndim} axes, {wanted}, it has shape {array.shape}")
    if 0 in array.shape:
        raise UsageError(f"data: {name}: {key} is empty, of shape {array.shape}")
    return np.array(array, np.float32 if array.dtype == np.float32 else np.float64)


def _check_sizes(
    name: str, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray
) -> tuple[int, int]:
    """Episodes and horizon."""
    num_episodes, horizon = rewards.shape
    for key, array, length in (("observations", observations, horizon + 1), ("actions", actions, horizon)):
        if array.shape[:2] != (num_episodes, length):
            raise UsageError(
                f"data: {name}: {key} must begin with {(num_episodes, length)} to fit rewards of shape "
                f"{rewards.shape}, it has shape {array.shape}"
            )
    if horizon < 2:
        raise UsageError(f"data: {name}: rewards must have at least 2 steps an episode, got {rewards.shape}")
    return num_episodes, horizon


def _lengths(name: str, lengths: object, num_episodes: int, horizon: int) -> np.ndarray:
    if lengths is None:
        return np.full(num_episodes, horizon)
    try:
        given = np.asarray(lengths)
    except (TypeError, ValueError) as error:
        raise UsageError(f"data: {name}: lengths must be integers, one an episode") from error
    if given.shape != (num_episodes,) or given.dtype.kind not in "iu":
        raise UsageError(
            f"data: {name}: lengths must be {num_episodes} integers, one an episode, "
            f"got shape {given.shape} of type {given.dtype}"
        )
    wrong = given[(given < 1) | (given > horizon)]
    if len(wrong):
        raise UsageError(f"data: {name}: lengths must be from 1 to {horizon}, got {wrong[0]}")
    return given.astype(int)


def _bounds(name: str, bounds: tuple[Any, Any] | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (-1.0, 1.0) if bounds is None else bounds
        low, high = (np.array(np.broadcast_to(np.asarray(bound, float), (size,))) for bound in (low, high))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"data: {name}: action_bounds must be (low, high), each one number or {size}, got {bounds!r}"
        ) from error
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise UsageError(
            f"data: {name}: action_bounds must be finite with low < high, "
            f"got {vector_text(low)} and {vector_text(high)}"
        )
    return low, high


def _check_finite(name: str, key: str, array: np.ndarray) -> None:
    """In single precision too, in which networks see it."""
    with np.errstate(over="ignore"):
        wrong = np.argwhere(~np.isfinite(array.astype(np.float32)))
    if len(wrong):
        first = tuple(int(index) for index in wrong[0])
        where = f"episode {first[0]}, step {first[1]}" + (f", component {first[2]}" if len(first) > 2 else "")
        raise UsageError(
            f"data: {name}: {key} must be finite in single precision, got {array[first]} at {where} "
            f"({len(wrong)} such numbers)"
        )


def _check_bounds(name: str, actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    slack = _BOUND_TOLERANCE * (high - low)
    outside = np.argwhere((actions < low - slack) | (actions > high + slack))
    if len(outside):
        episode, step, component = (int(index) for index in outside[0])
        found = actions[..., component]
        raise UsageError(
            f"data: {name}: actions must be from {low[component]:g} to {high[component]:g}, component {component} goes "
            f"from {found.min():.4g} to {found.max():.4g} (first at episode {episode}, step {step}); "
            "action_bounds=(low, high) names another range"
        )
