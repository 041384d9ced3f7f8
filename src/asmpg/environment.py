"""The task interface: a differentiable deterministic transition, a reward, a horizon; and rollouts through it."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .types import PRNGKey, Scalar, Step, Trajectory, UsageError


class AbstractEnvironment(eqx.Module):
    """A finite-horizon, deterministic, differentiable Markov decision process (section 2).

    Actions are normalised to [-1, 1]; an environment maps them to its own units itself. All methods take one
    unbatched example; `jax.vmap` belongs to the caller. `step` counts from 0 and may be traced.

    Attributes:
        horizon: number of actions in an episode.
        name: short name, used in run folders and messages.
        state_size: number of state components.
        action_size: number of action components.
    """

    horizon: eqx.AbstractVar[int]
    name: eqx.AbstractVar[str]
    state_size: eqx.AbstractVar[int]
    action_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """`s_0`. A task with a fixed initial state ignores the key."""

    @abc.abstractmethod
    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """`s_{t+1} = f(s_t, a_t, t)`."""

    @abc.abstractmethod
    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`r(s_t, a_t, t)` for `t < H`."""

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """The extra reward at `s_H`, the state after the last action."""
        return jnp.zeros((), state.dtype)

    def known_actions(self) -> Float[Array, "horizon action"] | None:
        """Good actions, where the task knows some: one of the starts of `asmpg.optimal`."""
        return None

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """What, with name and horizon, says which task this is, so that results can be kept on disk.

        The changed parameters of a built-in task; None for any other, of which nothing is kept.
        """
        return None


def trajectory_rewards(
    env: AbstractEnvironment, states: Float[Array, "horizon+1 state"], actions: Float[Array, "horizon action"]
) -> Float[Array, " horizon"]:
    """Rewards of a given trajectory, the terminal one added to the last."""
    steps = jnp.arange(actions.shape[0])
    rewards = jax.vmap(env.reward)(states[:-1], actions, steps)
    return rewards.at[-1].add(env.terminal_reward(states[-1]))


def rollout(
    env: AbstractEnvironment,
    policy: Float[Array, "horizon action"] | Callable[..., Any],
    *,
    key: PRNGKey | None = None,
    initial_state: Float[Array, " state"] | None = None,
) -> Trajectory:
    """Runs one episode through the environment.

    Args:
        env: the task.
        policy: a sequence of `horizon` actions, or a policy called as `policy(state, step, key=key)`; without a
            key its deterministic `policy.mode(state, step)` is used where it has one.
        key: for the initial state and a stochastic policy.
        initial_state: where to start; by default `env.initial_state(key=...)`.

    Raises:
        ValueError: an action sequence of the wrong shape.
    """
    state_key, policy_key = (None, None) if key is None else jax.random.split(key)
    state = env.initial_state(key=state_key) if initial_state is None else initial_state
    steps = jnp.arange(env.horizon)
    if callable(policy):
        keys = None if policy_key is None else jax.random.split(policy_key, env.horizon)
        deterministic = getattr(policy, "mode", policy)

        def act(state: Array, step: Array, x: Array | None) -> Array:
            return deterministic(state, step) if x is None else policy(state, step, key=x)

        inputs = keys
    else:
        inputs = jnp.asarray(policy)
        if inputs.shape != (env.horizon, env.action_size):
            raise ValueError(
                f"rollout: actions have shape {inputs.shape}, {env.name} needs {(env.horizon, env.action_size)}"
            )

        def act(state: Array, step: Array, x: Array | None) -> Array:
            return x

    def body(state: Array, step_input: tuple[Array, Array | None]) -> tuple[Array, tuple[Array, Array]]:
        step, x = step_input
        action = act(state, step, x)
        return env.transition(state, action, step), (state, action)

    final, (states, actions) = jax.lax.scan(body, state, (steps, inputs))
    states = jnp.concatenate([states, final[None]])
    return Trajectory(states, actions, trajectory_rewards(env, states, actions))


def uniform_actions(env: AbstractEnvironment, *, key: PRNGKey) -> Float[Array, "horizon action"]:
    """An episode's worth of uniform random actions."""
    return jax.random.uniform(key, (env.horizon, env.action_size), minval=-1.0, maxval=1.0)


def check_horizon(horizon: Any) -> int:
    """The horizon as an int.

    Raises:
        UsageError: it is not an integer of at least 2.
    """
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 2:
        raise UsageError(f"horizon: must be an integer >= 2, got {horizon!r}")
    return int(horizon)


NUM_EVALUATION_STATES = 64


def evaluation_states(
    env: AbstractEnvironment, *, num_states: int = NUM_EVALUATION_STATES
) -> Float[Array, "num_states state"]:
    """The fixed initial states that scores are taken over. The same for any caller; all equal for a fixed `s_0`."""
    keys = jax.random.split(jax.random.key(0), num_states)
    return jax.vmap(lambda key: env.initial_state(key=key))(keys)


def has_random_start(env: AbstractEnvironment) -> bool:
    """Whether the initial state depends on the key."""
    states = np.asarray(evaluation_states(env, num_states=4))
    return not (states == states[0]).all()
