"""The task interface: a differentiable deterministic transition, a reward, a horizon; and rollouts through it."""

import abc
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..core.arguments import check_key
from ..core.precision import double
from ..core.types import Given, PRNGKey, Scalar, Step, Trajectory, UsageError
from .fits import (
    check_action_of,
    check_actions,
    check_actions_taken,
    check_env,
    check_initial_state,
    check_made_for,
)


NUM_EVALUATION_STATES = 64


class AbstractReward(eqx.Module):
    """A reward: a task's own, or one that was learned (Appendix C)."""

    @abc.abstractmethod
    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`r(s_t, a_t, t)` for `t < H`."""

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """The extra reward at `s_H`, the state after the last action."""
        return jnp.zeros((), state.dtype)


class AbstractEnvironment(AbstractReward):
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

    def known_actions(self) -> Float[Array, "horizon action"] | None:
        """Good actions, where the task knows some: one of the starts of `asmpg.optimal`."""
        return None

    def violation(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> Scalar | None:
        """The largest violation of the task's constraints in an episode, in their own units; None where it has none."""
        return None

    def relative_violation(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> Scalar | None:
        """The largest violation as a share of how large its constraint becomes anywhere in the episode."""
        return None

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """What, with name and horizon, says which task this is, so that results can be kept on disk.

        The changed parameters of a built-in task; None for any other, of which nothing is kept.
        """
        return None


class AbstractActor(eqx.Module):
    """Chooses the actions of an episode; its carry is what it keeps of the episode so far, or None."""

    @abc.abstractmethod
    def begin(self) -> Any:
        """The carry before the first action."""

    @abc.abstractmethod
    def act(
        self,
        carry: object,
        state: Float[Array, " state"],
        step: Step,
        noise: Float[Array, " action"] | None = None,
    ) -> Float[Array, " action"]:
        """The action that standard normal noise gives; the deterministic one without noise."""

    @abc.abstractmethod
    def observe(
        self,
        carry: object,
        state: Float[Array, " state"],
        step: Step,
        action: Float[Array, " action"],
        reward: Scalar,
    ) -> Any:
        """The carry once an action was taken, which need not be the one proposed, and was rewarded."""


def trajectory_rewards(
    reward: AbstractReward,
    states: Float[Array, "horizon_plus_1 state"],
    actions: Float[Array, "horizon action"],
) -> Float[Array, " horizon"]:
    """Rewards of a given trajectory, the terminal one added to the last."""
    steps = jnp.arange(actions.shape[0])
    rewards = jax.vmap(reward.reward)(states[:-1], actions, steps)
    return rewards.at[-1].add(reward.terminal_reward(states[-1]))


def play(
    env: AbstractEnvironment,
    act: Callable[..., Float[Array, " action"]],
    inputs: object,
    start: Float[Array, " state"],
    actor: AbstractActor | None = None,
) -> Trajectory:
    """One episode.

    Args:
        env: the task.
        act: `act(carry, state, step, input)` is the action.
        inputs: what `act` is given, one row a step.
        start: the initial state.
        actor: whose carry it is, if it is anybody's.
    """

    def body(carries: tuple[Array, Any], x: tuple[Array, Any]) -> tuple[Any, tuple[Array, Array]]:
        (state, carry), (step, given) = carries, x
        action = act(carry, state, step, given)
        if actor is not None and carry is not None:
            carry = actor.observe(carry, state, step, action, env.reward(state, action, step))
        # The cast lets a task that fixes its precision to float32 take part in float64 all the same.
        following = jnp.asarray(env.transition(state, action, step), state.dtype)
        return (following, carry), (state, action)

    first = (start, None if actor is None else actor.begin())
    (final, _), (states, actions) = jax.lax.scan(body, first, (jnp.arange(env.horizon), inputs))
    states = jnp.concatenate([states, final[None]])
    return Trajectory(states, actions, trajectory_rewards(env, states, actions))


def rollout(
    env: Given[AbstractEnvironment],
    policy: Given[Float[ArrayLike, "horizon action"] | AbstractActor | Callable[..., Any]],
    *,
    key: Given[PRNGKey | None] = None,
    initial_state: Given[Float[ArrayLike, " state"] | None] = None,
) -> Trajectory:
    """Runs one episode through the environment.

    Args:
        env: the task.
        policy: a sequence of `horizon` actions, or a policy called as `policy(state, step, key=key)`; without a
            key its deterministic `policy.mode(state, step)` is used where it has one. An actor that cannot be
            called, since it keeps a carry, is given noise in place of keys.
        key: for the initial state and a stochastic policy.
        initial_state: where to start; by default `env.initial_state(key=...)`.

    Raises:
        UsageError: actions of the wrong shape or out of [-1, 1], a policy of another task, another initial state.
    """
    check_env("rollout", env)
    check_key("rollout", key)
    state_key, policy_key = (None, None) if key is None else jax.random.split(key)
    start = env.initial_state(key=state_key) if initial_state is None else initial_state
    start = check_initial_state("rollout", env, start)
    keys = None if policy_key is None else jax.random.split(policy_key, env.horizon)
    check_made_for("rollout: policy", policy, env)
    if callable(policy):
        deterministic: Callable[..., Any] = getattr(policy, "mode", policy)
        _refuse_seed_axis(policy, start)

        def call(carry: object, state: Array, step: Array, key: object) -> Any:
            return deterministic(state, step) if key is None else policy(state, step, key=key)

        one_key = None if keys is None else keys[0]
        check_action_of("rollout", env, lambda state: call(None, state, jnp.asarray(0), one_key), start)
        return check_actions_taken("rollout", env, play(env, call, keys, start))
    if isinstance(policy, AbstractActor):
        shape = (env.action_size,)
        noise = None if keys is None else jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        actor = policy
        check_action_of("rollout", env, lambda state: actor.act(actor.begin(), state, jnp.asarray(0)), start)
        return check_actions_taken("rollout", env, play(env, policy.act, noise, start, policy))
    if hasattr(policy, "policy"):
        raise UsageError(
            f"rollout: policy: got a {type(policy).__name__}; take a policy of it, result.seed(seed).policy"
        )
    actions = check_actions("rollout", env, policy)
    return play(env, lambda carry, state, step, action: action, actions, start)


def _refuse_seed_axis(policy: object, start: Float[Array, " state"]) -> None:
    """Raises a UsageError for the policies of several seeds at once, which a `Result` has."""

    def call(policy: object) -> Any:
        return getattr(policy, "mode", policy)(start, jnp.asarray(0))

    seeds = {leaf.shape[:1] for leaf in jax.tree.leaves(policy) if eqx.is_array(leaf)}
    if len(seeds) != 1 or seeds == {()}:
        return
    if not _can(call, policy) and _can(eqx.filter_vmap(call), policy):
        raise UsageError(
            f"rollout: the policy has an axis of {seeds.pop()[0]} seeds; take one, as in "
            "rollout(result.env, result.policy_of(seed))"
        )


def _can(function: Callable[..., Any], *given: object) -> bool:
    """Whether a function can be called with arrays of these shapes."""
    try:
        eqx.filter_eval_shape(function, *given)
    except Exception:  # whatever it is, the call itself will say it
        return False
    return True


def uniform_actions(env: AbstractEnvironment, *, key: PRNGKey) -> Float[Array, "horizon action"]:
    """An episode's worth of uniform random actions."""
    return jax.random.uniform(key, (env.horizon, env.action_size), minval=-1.0, maxval=1.0)


_drawn: dict[Any, np.ndarray] = {}


def evaluation_states(env: AbstractEnvironment) -> Float[Array, "num_states state"]:
    """The fixed initial states that scores are averaged over: 64 random ones, or the only one there is.

    Random ones are drawn in float32 whatever the precision: `jax.random` draws other numbers in float64, and both ends
    of a score must be measured from the same states.
    """
    keys = jax.random.split(jax.random.key(0), NUM_EVALUATION_STATES)
    known = env.identity()
    # Of a built-in task they are drawn once in a process; one of the user's own may read what has changed since.
    place = None if known is None else (type(env), env.name, env.horizon, known)
    drawn = _drawn[place] if place in _drawn else draw_initial_states(env, keys)
    if place is not None:
        _drawn[place] = drawn
    if (drawn == drawn[0]).all():
        return jnp.asarray(env.initial_state(key=keys[0]), float)[None]
    return jnp.asarray(drawn, float)


def draw_initial_states(env: AbstractEnvironment, keys: Array) -> Float[np.ndarray, "keys state"]:
    """One initial state a key, the same numbers in every precision: drawn in float32."""
    with warnings.catch_warnings(), double(False):
        # What a task computed in float64 beforehand is rounded, as meant.
        warnings.filterwarnings("ignore", message="Explicitly requested dtype float64")
        return np.asarray(jax.jit(jax.vmap(lambda key: env.initial_state(key=key)))(keys))


def cpu_device() -> jax.Device | None:
    """The CPU, for work that would leave an accelerator idle; None where JAX was told to use accelerators only."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def random_episodes(env: AbstractEnvironment, num_episodes: int, *, key: PRNGKey) -> Trajectory:
    """Episodes of uniform random actions, along a leading axis."""

    def episode(key: PRNGKey) -> Trajectory:
        start_key, action_key = jax.random.split(key)
        return rollout(env, uniform_actions(env, key=action_key), key=start_key)

    return jax.vmap(episode)(jax.random.split(key, num_episodes))
