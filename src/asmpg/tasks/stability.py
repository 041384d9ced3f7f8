"""Warns where explicit steps are too long for the equation they discretise."""

import contextlib
import warnings
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.digest import digest
from .environment import cpu_device
from .integrators import STABILITY


# Nearly the whole range of controls. An instability that only extreme controls cause is part of the discretised task,
# and a policy can steer clear of it; one under all of these cannot be avoided.
_PROBED_ACTIONS = (-0.75, 0.0, 0.75)
# A decaying mode that instead grows by less than this in the whole episode does no harm.
_TOLERATED_GROWTH = 2.0

_warned: set[tuple[Any, ...]] = set()


class DiscretisationWarning(UserWarning):
    """The discretised task misrepresents its differential equation at this horizon."""


def warn_once(name: str, horizon: int, reason: str, *, what: object = None) -> None:
    """A `DiscretisationWarning`, the first time for this task, `what` and horizon."""
    if (name, horizon, what) not in _warned:
        _warned.add((name, horizon, what))
        warnings.warn(f"{name} at horizon {horizon}: {reason}", DiscretisationWarning, stacklevel=4)


def warn_if_unstable(env: Any, dt: float) -> None:
    """Warns where a mode that decays in the differential equation grows in its steps.

    Along a few trajectories of constant control, the Jacobian of the dynamics gives the modes of the equation. A mode
    of rate lambda, Re(lambda) < 0, is multiplied by R(h lambda) a substep of h seconds, R the stability function of the
    method: an explicit method is unstable where that exceeds 1 in size.

    Args:
        env: an `OdeEnvironment`.
        dt: seconds of a step.
    """
    if _is_traced(env):
        return
    what = (digest(env.dynamics), env.duration, env.method, env.substeps)
    if (env.name, env.horizon, what) in _warned:
        return
    states, jacobians = _jacobians_along_trajectories(env)
    if not np.isfinite(states).all():
        reason = (
            "a constant control drives the state to a non-finite value; substeps make steps shorter, "
            'method="implicit" is for stiff equations'
            if env.method in STABILITY
            else f"{env.method} steps fail under a constant control; more substeps make them easier"
        )
        warn_once(env.name, env.horizon, reason, what=what)
        return
    if not np.isfinite(jacobians).all():
        reason = (
            "the derivative of its dynamics is not finite along constant controls, though its states are; "
            "asmpg.locate_nonfinite names the place, and no other horizon helps"
        )
        warn_once(env.name, env.horizon, reason, what=what)
        return
    if env.method not in STABILITY:
        return
    factors, rates = _factors(env, jacobians, dt)
    growth = np.log(np.maximum(factors, 1e-300)).sum(axis=-1)
    if (growth > np.log(_TOLERATED_GROWTH)).all():
        worst = np.unravel_index(factors.argmax(), factors.shape)
        mode = rates[worst]
        label = "explicit Euler" if env.method == "euler" else env.method
        shorter = "a longer horizon makes shorter steps, so do substeps" + (
            '; method="implicit" is for stiff equations' if env.identity() is None else ""
        )
        reason = (
            f"{label} with steps of {dt / env.substeps:.3g} s is unstable, a mode that decays at rate "
            f"{-mode.real:.3g}/s is multiplied by {factors[worst]:.3g} in size each step; {shorter}"
        )
        warn_once(env.name, env.horizon, reason, what=what)


def _is_traced(env: Any) -> bool:
    """Whether the task holds numbers that JAX is tracing right now, so that nothing can be computed with it."""
    x, u = jnp.zeros(env.state_size), jnp.zeros(env.action_size)
    held = jax.make_jaxpr(lambda x, u: (env.initial_state(), env.transition(x, u, 0)))(x, u).consts
    return any(isinstance(value, jax.core.Tracer) for value in held)


def _factors(env: Any, jacobians: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """By how much the worst decaying mode is multiplied each step [control, H], and its rate."""
    rates = np.linalg.eigvals(jacobians)
    powers = np.stack([(dt / env.substeps * rates) ** k for k in range(len(STABILITY[env.method]))])
    sizes = np.abs(np.tensordot(STABILITY[env.method], powers, 1)) ** env.substeps
    sizes = np.where(np.real(rates) < 0, sizes, 0.0)
    worst = sizes.argmax(axis=-1)[..., None]
    return sizes.max(axis=-1), np.take_along_axis(rates, worst, axis=-1)[..., 0]


def _jacobians_along_trajectories(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """States [control, H, n] under constant controls, and the Jacobians of the dynamics [control, H, n, n].

    Clipping to state bounds holds a component still: its row of the Jacobian is zero where the step was clipped.
    """

    def episode(action: Array) -> tuple[Array, Array]:
        actions = jnp.full((env.action_size,), action)

        def body(state: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
            control, time = env.control(actions), env.time(step, state)
            after, free = env.transition(state, actions, step), env.unclipped(state, actions, step)
            jacobian = jax.jacfwd(lambda x: jnp.asarray(env.dynamics(x, control, time), x.dtype))(state)
            return after, (state, jnp.where((after == free)[:, None], jacobian, 0.0))

        return jax.lax.scan(body, env.initial_state(), jnp.arange(env.horizon))[1]

    # Run once, so compiled for speed of compilation: a loop over the controls, and no optimisation. In a function that
    # JAX is tracing, the numbers are wanted now all the same.
    traced = isinstance(jnp.zeros(()) + 0, jax.core.Tracer)
    now = jax.ensure_compile_time_eval() if traced else contextlib.nullcontext()
    with now, jax.default_device(cpu_device()), jax.disable_jit(False):
        actions = jnp.array(_PROBED_ACTIONS)
        compiler_options: Any = {"xla_backend_optimization_level": 0}
        program = jax.jit(lambda actions: jax.lax.map(episode, actions)).lower(actions)
        states, jacobians = program.compile(compiler_options)(actions)
    return np.asarray(states, np.float64), np.asarray(jacobians, np.float64)
