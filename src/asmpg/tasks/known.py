"""The reward that a simulator says it pays: `known_reward(observation, action, step)`."""

from typing import Any

import jax
import jax.numpy as jnp

from .host import HostEnvironment
from .simulator import AbstractSimulator, expect, traced


def check_known_reward(env: HostEnvironment | AbstractSimulator) -> None:
    """Checks, without running it, that the known reward is a JAX function that gives one number.

    Raises:
        UsageError: one line that names it.
    """
    label = f"known_reward of {env.name}"
    assert env.known_reward is not None
    expect(label, traced(label, env.known_reward, *_arguments(env)), ())


def depends_on_step(env: HostEnvironment | AbstractSimulator) -> bool:
    """Whether the known reward reads the step."""
    assert env.known_reward is not None
    program = jax.make_jaxpr(env.known_reward)(*_arguments(env)).jaxpr
    needed = {id(variable) for variable in program.outvars}
    for equation in reversed(program.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    return id(program.invars[-1]) in needed


def _arguments(env: HostEnvironment | AbstractSimulator) -> list[Any]:
    numbers = [
        jax.ShapeDtypeStruct((n,), jnp.result_type(float)) for n in (env.observation_size, env.action_size)
    ]
    return [*numbers, jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)]
