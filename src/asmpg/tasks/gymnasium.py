"""Gymnasium environments as worlds outside JAX."""

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from jaxtyping import Float

from ..core.extras import require
from ..core.types import one_line, UsageError
from .host import HostEnvironment
from .ranges import action_range_of


def from_gymnasium(
    environment: str | Callable[[], Any],
    horizon: int | None = None,
    *,
    name: str | None = None,
    action_range: tuple[Any, Any] | None = None,
    num_evaluations: int = 10,
    time_limit: float = 60.0,
    **arguments: object,
) -> "GymnasiumEnvironment":
    """A Gymnasium environment, one copy for each seed and each evaluated episode.

    Actions in [-1, 1] are mapped to the bounds of the environment's box. Observations are flattened, dictionaries and
    tuples too. A termination ends an episode; a truncation by the time limit, which is the horizon, does not.

    Args:
        environment: an id that `gymnasium.make` knows, or a function without arguments that makes an environment.
        horizon: number of actions in an episode; by default the id's own limit of steps.
        name: short name; by default the id, or the function's name.
        action_range: lowest and highest actions that are used, numbers or one a component; needed where the box has no
            bounds.
        num_evaluations: episodes that a policy is evaluated on.
        time_limit: seconds that one call may take.
        **arguments: of `gymnasium.make`.

    Raises:
        UsageError: Gymnasium is missing, there is no such environment, or its spaces are not boxes.
    """
    gymnasium = require("gymnasium", "gymnasium", "from_gymnasium")
    if isinstance(environment, str):
        limit = _limit(gymnasium, environment) if horizon is None else horizon

        def make() -> Any:
            return gymnasium.make(environment, max_episode_steps=limit, **arguments)

        shown = environment if name is None else name
    else:
        if horizon is None:
            raise UsageError("horizon: must be given for an environment that a function makes")
        limit, make = horizon, environment
        shown = getattr(environment, "__name__", "gymnasium") if name is None else name
    world = GymnasiumEnvironment(make, limit, shown, action_range)
    world.num_evaluations, world.time_limit = num_evaluations, time_limit
    return world


def _limit(gymnasium: Any, name: str) -> int:
    """The steps after which an id's episodes are cut off."""
    try:
        limit = gymnasium.spec(name).max_episode_steps
    except gymnasium.error.Error as error:
        raise UsageError(f"task: gymnasium has no {name!r}: {one_line(error)}") from error
    if limit is None:
        raise UsageError(f"horizon: must be given, {name} has no limit of steps of its own")
    return limit


@final
class GymnasiumEnvironment(HostEnvironment):
    """What `from_gymnasium` makes."""

    def __init__(
        self, make: Callable[[], Any], horizon: int, name: str, action_range: tuple[Any, Any] | None = None
    ):
        """Makes one copy, whose spaces give the sizes; others are made when they are needed.

        Raises:
            UsageError: it cannot be made, or its spaces are not boxes.
        """
        self._gymnasium = require("gymnasium", "gymnasium", "from_gymnasium")
        self.name, self.horizon, self._make = name, horizon, make
        self._copies = [self._new()]
        first = self._copies[0]
        low, high = self._bounds(first.action_space, action_range)
        self.action_low, self.action_high = np.ravel(low), np.ravel(high)
        self._middle, self._half, self._dtype = (high + low) / 2, (high - low) / 2, first.action_space.dtype
        self.action_size = int(low.size)
        self._space = first.observation_space
        self._is_box = isinstance(self._space, self._gymnasium.spaces.Box)
        try:
            self.observation_size = int(self._gymnasium.spaces.flatdim(self._space))
        except (NotImplementedError, ValueError) as error:
            raise UsageError(f"observations of {name}: {self._space} has no fixed size") from error
        self._over: list[bool] = []
        self._num_steps = 0

    def _new(self) -> Any:
        try:
            made = self._make()
        except Exception as error:  # whatever a constructor raises, the message names the environment
            raise UsageError(f"task: {self.name} cannot be made: {one_line(error)}") from error
        for method in ("reset", "step", "action_space", "observation_space"):
            if not hasattr(made, method):
                got = type(made).__name__
                raise UsageError(
                    f"task: {self.name} makes a {got}, which has no {method}, not an environment"
                )
        return made

    def _bounds(self, space: Any, given: tuple[Any, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(space, self._gymnasium.spaces.Box):
            raise UsageError(f"actions of {self.name}: must be a Box, got {space}")
        return action_range_of(self.name, space.low, space.high, space.shape, given)

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "copies observation"]:
        """Begins an episode in every copy."""
        while len(self._copies) < len(seeds):
            self._copies.append(self._new())
        self._over, self._num_steps = [False] * len(seeds), 0
        self._last = np.zeros((len(seeds), self.observation_size))
        for i, seed in enumerate(seeds):
            self._last[i] = self._flat(self._copies[i].reset(seed=int(seed))[0])
        return self._last.copy()

    def step(
        self, actions: Float[np.ndarray, "copies action"]
    ) -> tuple[Float[np.ndarray, "copies observation"], Float[np.ndarray, " copies"], np.ndarray]:
        """One step in every copy whose episode has not ended."""
        rewards, ended = np.zeros(len(actions)), np.zeros(len(actions), bool)
        controls = self._half * actions.reshape(-1, *self._middle.shape)
        controls = (controls + self._middle).astype(self._dtype)
        self._num_steps += 1
        for i, over in enumerate(self._over):
            if not over:
                observation, rewards[i], terminated, truncated, _ = self._copies[i].step(controls[i])
                if truncated and not terminated:
                    self._check_limit()
                self._last[i] = self._flat(observation)
                if terminated:
                    ended[i] = self._over[i] = True
        return self._last.copy(), rewards, ended

    def _check_limit(self) -> None:
        """Raises a UsageError where an episode is cut off before the horizon."""
        if self._num_steps < self.horizon:
            limit = self._num_steps
            raise UsageError(
                f"horizon: {self.name} cuts its episodes off after {limit} steps, give horizon={limit}"
            )

    def _flat(self, observation: Any) -> np.ndarray:
        if self._is_box:
            return np.ravel(observation)
        return self._gymnasium.spaces.flatten(self._space, observation)

    def close(self) -> None:
        """Closes every copy."""
        for made in self._copies:
            made.close()
