"""Environments of Brax and of MuJoCo Playground as simulators: both say in their states what is observed and paid."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..core.extras import require
from ..core.types import one_line, PRNGKey, Scalar, Step, UsageError
from .ranges import action_range_of
from .simulator import AbstractSimulator, flat, scaled


def from_brax(
    environment: Any,
    horizon: int | None = None,
    *,
    name: str | None = None,
    action_range: tuple[Any, Any] = (-1.0, 1.0),
    ends_early: bool = True,
    num_evaluations: int = 10,
) -> "StateSimulator":
    """A Brax environment, trained in as one compiled program.

    It may be one of `brax.envs.create` or `brax.envs.get_environment`. An episode ends where `done` says so, unless
    `info["truncation"]` says that it was only cut off; a wrapper that begins a new episode there is taken off.

    Args:
        environment: the environment, not batched.
        horizon: number of actions in an episode; by default the wrapper's `episode_length`, if it has one.
        name: short name; by default that of the environment's class.
        action_range: lowest and highest action, numbers or one a component.
        ends_early: whether an episode may end before the horizon.
        num_evaluations: episodes that a policy is evaluated on.

    Raises:
        UsageError: Brax is missing, this is no environment of its, or its episodes are shorter than the horizon.
    """
    wrappers = require("brax.envs.wrappers.training", "envs", "from_brax")
    while isinstance(environment, wrappers.AutoResetWrapper):
        environment = environment.env
    shared = (ends_early, num_evaluations)
    return _simulator("from_brax", environment, horizon, name, action_range, None, *shared)


def from_mjx(
    environment: object,
    horizon: int | None = None,
    *,
    name: str | None = None,
    action_range: tuple[Any, Any] = (-1.0, 1.0),
    entries: Sequence[str] | None = None,
    ends_early: bool = True,
    num_evaluations: int = 10,
) -> "StateSimulator":
    """An environment in MuJoCo's MJX as MuJoCo Playground writes them, trained in as one compiled program.

    What counts is the protocol of its `MjxEnv`: `reset(rng)` and `step(state, action)` return a state with `obs`,
    `reward`, `done` and `info`, and `action_size` is a number.

    Args:
        environment: the environment, not batched.
        horizon: number of actions in an episode.
        name: short name; by default that of the environment's class.
        action_range: lowest and highest action, numbers or one a component.
        entries: of observations that are a dictionary, the entries that are seen, such as `["state"]`; by default all.
        ends_early: whether an episode may end before the horizon.
        num_evaluations: episodes that a policy is evaluated on.

    Raises:
        UsageError: it does not follow the protocol.
    """
    shared = (ends_early, num_evaluations)
    return _simulator("from_mjx", environment, horizon, name, action_range, entries, *shared)


def _simulator(
    function: str,
    environment: Any,
    horizon: int | None,
    name: str | None,
    action_range: tuple[Any, Any],
    entries: Sequence[str] | None,
    ends_early: bool,
    num_evaluations: int,
) -> "StateSimulator":
    shown = name or type(getattr(environment, "unwrapped", environment)).__name__.lower()
    size = _observation_size(function, environment, shown, entries)
    limit = _limit(environment)
    steps = limit if horizon is None else horizon
    if steps is None:
        raise UsageError(f"horizon: must be given, {shown} has no limit of steps of its own")
    if limit is not None and limit < steps:
        raise UsageError(f"horizon: {shown} cuts its episodes off after {limit} steps, give horizon={limit}")
    low, high = action_range_of(shown, -1.0, 1.0, (int(environment.action_size),), action_range)
    return StateSimulator(
        shown,
        steps,
        size,
        low.size,
        environment,
        tuple(low.tolist()),
        tuple(high.tolist()),
        None if entries is None else tuple(entries),
        ends_early,
        num_evaluations,
    )


def _observation_size(function: str, environment: Any, name: str, entries: Sequence[str] | None) -> int:
    """Numbers in an observation.

    Raises:
        UsageError: the environment does not follow the protocol, is a batch, or begins again at an end.
    """
    for method in ("reset", "step", "action_size"):
        if isinstance(environment, type) or not hasattr(environment, method):
            raise UsageError(f"{function}: environment: must be an environment, {name} has no {method}")
    try:
        state = jax.eval_shape(environment.reset, _legacy(jax.random.key(0)))
        shape, begins_again = state.reward.shape, "first_obs" in state.info
    except Exception as error:  # whatever its code raises, the message names it
        raise UsageError(f"{function}: reset of {name} raised {one_line(error)}") from error
    if shape != ():
        raise UsageError(
            f"{function}: environment: {name} is a batch of {shape[0]}, give it without batch_size"
        )
    if begins_again:
        raise UsageError(
            f"{function}: environment: {name} begins again at an end, give it without that wrapper"
        )
    return sum(leaf.size for leaf in jax.tree.leaves(_chosen(state.obs, entries)))


def _limit(environment: Any) -> int | None:
    """The steps after which Brax's wrapper cuts an episode off."""
    length = getattr(environment, "episode_length", None)
    return None if length is None else -(-int(length) // int(environment.action_repeat))


def _chosen(observation: Any, entries: Sequence[str] | None) -> Any:
    """The entries of an observation that are seen."""
    if entries is None:
        return observation
    known = list(observation) if isinstance(observation, Mapping) else []
    for entry in entries:
        if entry not in known:
            raise UsageError(
                f"entries: {entry!r} is not one of the observation's: {', '.join(known) or 'it is an array'}"
            )
    return [observation[entry] for entry in entries]


def _legacy(key: PRNGKey) -> Array:
    """The key as the array that these environments were written for."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


@final
class StateSimulator(AbstractSimulator):
    """What `from_brax` and `from_mjx` make.

    Attributes:
        environment: the environment.
        low: its lowest action.
        high: its highest.
        entries: of an observation that is a dictionary, those that are seen; None for all.
    """

    name: str
    horizon: int
    observation_size: int
    action_size: int
    environment: Any = eqx.field(static=True)
    low: tuple[float, ...]
    high: tuple[float, ...]
    entries: tuple[str, ...] | None
    ends_early: bool = True
    num_evaluations: int = 10

    def initial_state(self, *, key: PRNGKey) -> Any:
        """What `reset` returns."""
        return self.environment.reset(_legacy(key))

    def observe(self, state: PyTree) -> Float[Array, " observation"]:
        """The observation as one vector, the entries of a dictionary one after the other."""
        return flat(_chosen(state.obs, self.entries))

    def transition(
        self, state: object, action: Float[Array, " action"], step: Step, *, key: PRNGKey
    ) -> tuple[Any, Scalar, Bool[Array, ""]]:
        """What `step` returns; randomness is in the environment's own state."""
        following = self.environment.step(state, scaled(action, self.low, self.high))
        cut = jnp.asarray(following.info.get("truncation", 0)) > 0
        return following, jnp.asarray(following.reward, float), (jnp.asarray(following.done) > 0) & ~cut
