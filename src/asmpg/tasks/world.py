"""What can be trained on: a task or a simulator in JAX, whose episodes are compiled, or a simulator outside it."""

import jax
from jaxtyping import Array, Int

from ..core.types import PRNGKey, Trajectory, UsageError
from .context import observed_task, with_start
from .environment import AbstractActor, AbstractEnvironment, evaluation_states, rollout
from .host import HostEnvironment
from .simulator import AbstractSimulator, simulate
from .spec import Spec


JaxWorld = AbstractEnvironment | AbstractSimulator
World = JaxWorld | HostEnvironment


def inside(env: Spec) -> AbstractEnvironment:
    """A world that must be a task: its derivatives are taken, or its optimum is asked for.

    Raises:
        UsageError: it is not.
    """
    if isinstance(env, AbstractEnvironment):
        return env
    place = "" if isinstance(env, AbstractSimulator) else " outside JAX"
    raise UsageError(
        f"task: {env.name} is a simulator{place}, and this needs a task, an asmpg.AbstractEnvironment: of a simulator "
        "no optimum and no derivatives are known"
    )


def scored_task(env: Spec, asked: bool = False) -> AbstractEnvironment | None:
    """The task whose optimum scores in this world are measured by.

    Args:
        env: the world.
        asked: whether the optimum is asked for of a task of the user's own too.

    Returns:
        None where there is no optimum, or it was not asked for.
    """
    observed = observed_task(env)
    task = env if observed is None else observed.task
    return task if isinstance(task, AbstractEnvironment) and (asked or task.identity() is not None) else None


def play_episode(
    env: JaxWorld, actor: AbstractActor, *, key: PRNGKey
) -> tuple[Trajectory, int | Int[Array, ""]]:
    """One episode in a world inside JAX, and how many steps it really had.

    Args:
        env: the world.
        actor: chooses the actions.
        key: for the initial state and a simulator's noise.
    """
    if isinstance(env, AbstractSimulator):
        return simulate(env, actor, key=key)
    return rollout(env, actor, initial_state=env.initial_state(key=key)), env.horizon


def evaluation_starts(env: JaxWorld) -> Array:
    """What fixes the evaluation episodes: a task's initial states, or a simulator's keys."""
    observed = observed_task(env)
    if observed is not None:
        return evaluation_states(observed.task)
    if isinstance(env, AbstractSimulator):
        return jax.random.split(jax.random.key(0), env.num_evaluations)
    return evaluation_states(env)


def evaluate(
    env: JaxWorld, policy: AbstractActor, starts: Array
) -> tuple[Trajectory, int | Int[Array, " starts"]]:
    """An episode without noise of the policy's from each of the fixed starts, along a leading axis; and their steps."""
    if isinstance(env, AbstractSimulator) and observed_task(env) is not None:

        def from_state(start: Array) -> tuple[Trajectory, Array]:
            return simulate(env, policy, key=jax.random.key(0), start=with_start(env, start))

        return jax.vmap(from_state)(starts)
    if isinstance(env, AbstractSimulator):
        return jax.vmap(lambda key: simulate(env, policy, key=key))(starts)
    return jax.vmap(lambda start: rollout(env, policy, initial_state=start))(starts), env.horizon
