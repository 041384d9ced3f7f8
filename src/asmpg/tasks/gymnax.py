"""Environments of gymnax as simulators."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..core.extras import require
from ..core.types import one_line, PRNGKey, Scalar, Step, UsageError
from .ranges import action_range_of
from .simulator import AbstractSimulator, flat, scaled


def from_gymnax(
    environment: Any,
    params: Any = None,
    horizon: int | None = None,
    *,
    name: str | None = None,
    action_range: tuple[Any, Any] | None = None,
    ends_early: bool = True,
    num_evaluations: int = 10,
) -> "GymnaxSimulator":
    """A gymnax environment, trained in as one compiled program.

    Actions in [-1, 1] are mapped to the bounds of its box. Its own limit of steps is switched off, since the horizon is
    the limit and no end.

    Args:
        environment: as the first of what `gymnax.make` returns.
        params: as the second; by default the environment's own.
        horizon: number of actions in an episode; by default the limit in `params`.
        name: short name; by default that of the environment.
        action_range: lowest and highest actions that are used, numbers or one a component; needed where the box has no
            bounds.
        ends_early: whether an episode may end before the horizon.
        num_evaluations: episodes that a policy is evaluated on.

    Raises:
        UsageError: gymnax is missing, this is no environment of its, or its actions are no box.
    """
    spaces = require("gymnax.environments.spaces", "envs", "from_gymnax")
    for method in ("reset_env", "step_env", "action_space"):
        if isinstance(environment, type) or not hasattr(environment, method):
            raise UsageError(
                f"from_gymnax: environment: has no {method}; give what gymnax.make returns, in two parts"
            )
    params = environment.default_params if params is None else params
    shown, limit = environment.name if name is None else name, getattr(params, "max_steps_in_episode", None)
    horizon = limit if horizon is None else horizon
    if horizon is None:
        raise UsageError(f"horizon: must be given, {shown} has no limit of steps of its own")
    if limit is not None:
        params = params.replace(max_steps_in_episode=horizon + 1)
    space = environment.action_space(params)
    if not isinstance(space, spaces.Box):
        raise UsageError(f"actions of {shown}: must be a Box, got a {type(space).__name__}")
    low, high = action_range_of(shown, space.low, space.high, space.shape, action_range)
    try:
        observation = jax.eval_shape(lambda key: environment.reset_env(key, params)[0], jax.random.key(0))
    except Exception as error:  # whatever its code raises, the message names it
        raise UsageError(f"from_gymnax: reset of {shown}: raised {one_line(error)}") from error
    size = sum(leaf.size for leaf in jax.tree.leaves(observation))
    bounds = tuple(low.ravel().tolist()), tuple(high.ravel().tolist())
    return GymnaxSimulator(
        shown, horizon, size, low.size, environment, params, *bounds, space.shape, ends_early, num_evaluations
    )


@final
class GymnaxSimulator(AbstractSimulator):
    """What `from_gymnax` makes. A state is the environment's and its observation, which may be random.

    Attributes:
        environment: the environment.
        params: its parameters, without a limit of steps.
        low: its lowest action.
        high: its highest.
        shape: of its actions.
    """

    name: str
    horizon: int
    observation_size: int
    action_size: int
    environment: Any = eqx.field(static=True)
    params: Any
    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]
    ends_early: bool = True
    num_evaluations: int = 10

    def initial_state(self, *, key: PRNGKey) -> Any:
        """Observation and state, as `reset_env` returns them."""
        return self.environment.reset_env(key, self.params)

    def observe(self, state: PyTree) -> Float[Array, " observation"]:
        """The observation as one vector."""
        return flat(state[0])

    def transition(
        self, state: PyTree, action: Float[Array, " action"], step: Step, *, key: PRNGKey
    ) -> tuple[Any, Scalar, Bool[Array, ""]]:
        """What `step_env` returns, which begins no new episode."""
        controls = scaled(action, self.low, self.high).reshape(self.shape)
        observation, after, reward, ended, _ = self.environment.step_env(key, state[1], controls, self.params)
        return (
            (observation, after),
            jnp.asarray(reward, float).reshape(()),
            jnp.asarray(ended, bool).reshape(()),
        )
