"""What trained policies do in a world: evaluation episodes, single episodes, single actions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from ...core.types import Given, PRNGKey, Scalar, Step, Trajectory, UsageError
from ...learners.base import Explorer
from ...tasks.context import with_context
from ...tasks.environment import AbstractActor, AbstractEnvironment, rollout
from ...tasks.host import evaluation_seeds, HostEnvironment, play, Watched
from ...tasks.recording import Recording
from ...tasks.simulator import AbstractSimulator, simulate
from ...tasks.spec import ends_early
from ...tasks.stack import stack_of
from ...tasks.world import evaluate as evaluate_inside
from ...tasks.world import evaluation_starts, World
from ..host_loop import Actors, evaluate_outside


class Elsewhere(AbstractActor):
    """A policy where episodes may end early that was trained where they do not, or the other way round.

    Attributes:
        actor: the policy.
        sees_alive: whether it sees `alive`, and this world does not tell it; else this world does, and it does not.
    """

    actor: AbstractActor
    sees_alive: bool = eqx.field(static=True)

    def _seen(self, state: Array) -> Array:
        return jnp.append(state, 1.0) if self.sees_alive else state[:-1]

    def begin(self) -> Any:
        return self.actor.begin()

    def act(
        self,
        carry: object,
        state: Float[Array, " state"],
        step: Step,
        noise: Float[Array, " action"] | None = None,
    ) -> Float[Array, " action"]:
        return self.actor.act(carry, self._seen(state), step, noise)

    def observe(
        self,
        carry: object,
        state: Float[Array, " state"],
        step: Step,
        action: Float[Array, " action"],
        reward: Scalar,
    ) -> Any:
        return self.actor.observe(carry, self._seen(state), step, action, reward)


def elsewhere(policy: Any, env: World, trained: World | Recording) -> tuple[Any, World]:
    """A policy in another world, as both fit together: with as much context, and `alive` for who sees it.

    Raises:
        UsageError: the policy cannot act there.
    """
    stack = trained.stack if isinstance(trained, Recording) else None
    if stack is not None and stack_of(env) is None:
        env = with_context(env, stack.length)
    for name in ("horizon", "state_size", "action_size"):
        got, wanted = getattr(env, name), getattr(trained, name)
        if name == "state_size":
            got, wanted = got - ends_early(env), wanted - ends_early(trained)
        if got != wanted:
            raise UsageError(f"task: {env.name} has {name} {got}, the policy was trained with {wanted}")
    sees_alive = ends_early(trained)
    return (policy if ends_early(env) == sees_alive else Elsewhere(policy, sees_alive)), env


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
