"""What trained policies do in a world: evaluation episodes, single episodes, single actions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from ...core.types import Given, PRNGKey, Trajectory, UsageError
from ...learners.base import Explorer
from ...tasks.context import with_context
from ...tasks.environment import AbstractActor, AbstractEnvironment, rollout
from ...tasks.host import evaluation_seeds, HostEnvironment, play, Watched
from ...tasks.recording import Recording
from ...tasks.simulator import AbstractSimulator, simulate
from ...tasks.spec import Spec
from ...tasks.stack import stack_of
from ...tasks.world import evaluate as evaluate_inside
from ...tasks.world import evaluation_starts, World
from ..host_loop import Actors, evaluate_outside


def fitting_world(env: World, trained: World | Recording) -> World:
    """A world as the policy of recorded episodes sees it, with as much context.

    Raises:
        UsageError: a policy that was trained in one world cannot act in another.
    """
    stack = trained.stack if isinstance(trained, Recording) else None
    if stack is not None and stack_of(env) is None:
        env = with_context(env, stack.length)
    check_same_sizes(env, trained)
    return env


def check_same_sizes(env: World, trained: Spec) -> None:
    """Raises a UsageError unless a policy that was trained in one world can act in another."""
    for name in ("horizon", "state_size", "action_size"):
        got, wanted = getattr(env, name), getattr(trained, name)
        if got != wanted:
            raise UsageError(f"task: {env.name} has {name} {got}, the policy was trained with {wanted}")


def evaluate(policy: Any, env: World | Recording) -> Float[np.ndarray, " num_seeds"]:
    """The mean return of deterministic policies (leading seed axis) over the fixed evaluation states.

    Raises:
        UsageError: there is no world to act in.
    """
    if isinstance(env, Recording):
        raise UsageError(
            f"evaluate: {env.name} is recorded episodes, no world to act in; give one of the same sizes: "
            "evaluate(env), or --task; what can be said without one is in summary.json"
        )
    if isinstance(env, HostEnvironment):
        simulator = Watched(env)
        returns = evaluate_outside(simulator, policy)[0].episode_return.mean(axis=1)
        simulator.close()
        return np.asarray(returns, np.float64)
    starts = evaluation_starts(env)
    arrays, rest = eqx.partition(policy, eqx.is_array)

    def one(arrays: PyTree) -> Any:
        return evaluate_inside(env, eqx.combine(arrays, rest), starts)[0].episode_return.mean()

    return np.asarray(jax.jit(lambda arrays: jax.lax.map(one, arrays))(arrays), np.float64)


def episode(
    policy: AbstractActor,
    env: World | Recording,
    initial_state: Given[Float[ArrayLike, " state"] | None],
    key: PRNGKey | None,
) -> Trajectory:
    """One episode of one policy: deterministic without a key.

    Raises:
        UsageError: there is no world to act in, or it begins where its simulator says.
    """
    if isinstance(env, AbstractEnvironment):
        return rollout(env, policy, key=key, initial_state=initial_state)
    if isinstance(env, Recording):
        raise UsageError(
            f"rollout: {env.name} is recorded episodes, no world to act in; asmpg.rollout(env, policy) takes one"
        )
    if initial_state is not None:
        raise UsageError(
            f"initial_state: episodes of {env.name} begin where its simulator says, a key gives another beginning"
        )
    start_key, noise_key = (None, None) if key is None else jax.random.split(key)
    if noise_key is not None:
        noise = jax.random.normal(noise_key, (env.horizon, env.action_size))
        policy = Explorer(policy, noise, jnp.zeros_like(noise))
    if isinstance(env, AbstractSimulator):
        if start_key is not None:
            return simulate(env, policy, key=start_key)[0]
        first = evaluate_inside(env, policy, evaluation_starts(env)[:1])[0]
        return jax.tree.map(lambda x: x[0], first)
    seed = evaluation_seeds(env)[0]
    if start_key is not None:
        seed = int(jax.random.randint(start_key, (), 0, np.iinfo(np.int32).max))
    simulator = Watched(env)
    actors = Actors(jax.tree.map(lambda x: x[None] if eqx.is_array(x) else x, policy), 1)
    episodes, _ = play(simulator, [seed], actors.act, actors.observe)
    simulator.close()
    return jax.tree.map(lambda x: x[0], episodes)
