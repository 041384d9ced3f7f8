"""Warns where explicit Euler steps are too long for the equation they discretise."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .environment import AbstractEnvironment, cpu_device


# Nearly the whole range of controls. An instability that only extreme controls cause is part of the discretised task,
# and a policy can steer clear of it; one under all of these cannot be avoided.
_PROBED_ACTIONS = (-0.75, 0.0, 0.75)
# A decaying mode that instead grows by less than this in the whole episode does no harm.
_TOLERATED_GROWTH = 2.0

_warned: set[tuple[str, int]] = set()


class DiscretisationWarning(UserWarning):
    """The discretised task misrepresents its differential equation at this horizon."""


def warn_once(name: str, horizon: int, reason: str) -> None:
    """A `DiscretisationWarning`, the first time for this task and horizon."""
    if (name, horizon) not in _warned:
        _warned.add((name, horizon))
        message = f"{name} at horizon {horizon}: {reason}; a longer horizon makes shorter steps"
        warnings.warn(message, DiscretisationWarning, stacklevel=3)


def warn_if_unstable(env: AbstractEnvironment, dt: float) -> None:
    """Warns where a mode that decays in the differential equation grows in its Euler steps.

    Along a few trajectories of constant control, the Jacobian J of one step gives the modes `(J - I) / dt` of the
    equation. A mode of rate lambda, Re(lambda) < 0, is multiplied by `1 + dt lambda` a step: explicit Euler is
    unstable where that exceeds 1 in size.
    """
    if (env.name, env.horizon) in _warned:
        return
    states, rates = _modes_along_trajectories(env, dt)
    if not np.isfinite(states).all():
        warn_once(env.name, env.horizon, "a constant control drives the state to a non-finite value")
        return
    factors = np.where(np.real(rates) < 0, np.abs(1 + dt * rates), 0.0).max(axis=-1)
    growth = np.log(np.maximum(factors, 1e-300)).sum(axis=-1)
    if (growth > np.log(_TOLERATED_GROWTH)).all():
        worst = np.unravel_index(factors.argmax(), factors.shape)
        mode = rates[worst][np.abs(1 + dt * rates[worst]).argmax()]
        reason = (
            f"explicit Euler with steps of {dt:.3g} s is unstable, a mode that decays at rate {-mode.real:.3g}/s "
            f"is multiplied by {factors[worst]:.3g} in size each step"
        )
        warn_once(env.name, env.horizon, reason)


def _modes_along_trajectories(env: AbstractEnvironment, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """States [control, H, n] under constant controls, and the complex rates [control, H, n] of their modes.

    Clipping to state bounds acts between the steps, not within the Jacobian: that of a clipped component is zero.
    """

    def episode(action: Array) -> tuple[Array, Array]:
        actions = jnp.full((env.action_size,), action)

        def body(state: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
            def transition(state: Array) -> tuple[Array, Array]:
                after = env.transition(state, actions, step)
                return after, after

            jacobian, after = jax.jacfwd(transition, has_aux=True)(state)
            return after, (state, jacobian)

        return jax.lax.scan(body, env.initial_state(), jnp.arange(env.horizon))[1]

    # Run once, so compiled for speed of compilation: a loop over the controls, and no optimisation.
    with jax.default_device(cpu_device()):
        actions = jnp.array(_PROBED_ACTIONS)
        compiler_options: Any = {"xla_backend_optimization_level": 0}
        program = jax.jit(lambda actions: jax.lax.map(episode, actions)).lower(actions)
        states, jacobians = program.compile(compiler_options)(actions)
    states, jacobians = np.asarray(states, np.float64), np.asarray(jacobians, np.float64)
    if not (np.isfinite(states).all() and np.isfinite(jacobians).all()):
        return np.full_like(states, np.nan), jacobians
    return states, (np.linalg.eigvals(jacobians) - 1) / dt
