"""Two mechanical tasks in which only the first action counts: one bounce off a wall, and the double pendulum.

Both are simulators with a well-behaved return and an ill-behaved derivative along the way: a contact, and chaos.
"""

import math
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import PRNGKey, Scalar, Step
from .environment import AbstractEnvironment
from .validation import check_horizon


@final
class OneBounce(AbstractEnvironment):
    """A block on a viscous floor, pushed once towards a wall at -1 off which it bounces; it comes to rest at `-a_0`.

    State [x, v], metres and metres per second. Step 0 only pushes, `v = 10 (a_0 - 2)`; the steps after it last 0.01 s.

    Attributes:
        goal: where the block should rest.
    """

    horizon: int = eqx.field(static=True, converter=check_horizon)
    goal: float = eqx.field(static=True, default=0.4)
    parameters: tuple[tuple[str, float], ...] | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="one_bounce")
    state_size: int = eqx.field(static=True, default=2, init=False)
    action_size: int = eqx.field(static=True, default=1, init=False)

    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """At rest at the origin."""
        return jnp.zeros(2)

    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """The push at step 0; later an Euler step with friction, mirrored where it would pass the wall."""
        dt, friction, wall = 0.01, 10.0, -1.0
        x, v = state
        free = jnp.stack([x + dt * v, v - friction * dt * v])
        mirrored = jnp.stack([2 * wall - free[0], -free[1]])
        moved = jnp.where(free[0] < wall, mirrored, free)
        return jnp.where(step == 0, jnp.stack([x, 10 * (action[0] - 2)]), moved)

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """Nothing before the end."""
        return jnp.zeros((), state.dtype)

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """`-(x_H - goal)^2`."""
        return -((state[0] - self.goal) ** 2)

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """The parameters that `make` was given."""
        return self.parameters


@final
class DoublePendulum(AbstractEnvironment):
    """Two rods of 1 m with 1 kg at the end of each, hung up at an angle that the first action chooses, and let go.

    State [theta_1, omega_1, theta_2, omega_2]: angles in radians from the downward vertical, both absolute and not
    wrapped, and their rates. Step 0 only places the pendulum at rest, `theta_1 = amplitude a_0`, `theta_2 = 0`; the
    steps after it integrate 0.05 s each, with Runge-Kutta 4 in substeps.

    Attributes:
        goal: the state to reach at the end, by default the one that `a_0 = -0.4` leads to.
        substeps: Runge-Kutta steps in a step; 4 already lose 1% of the gradient at H = 100 in the chaotic regime.
        amplitude: the angle in radians that the action 1 places the inner rod at. The text has pi. Published code gives
            `180 a_0` to sine and cosine as radians, dozens of turns: the return is then nearly a parabola in `a_0`,
            with hundreds of local maxima on it.
    """

    horizon: int = eqx.field(static=True, converter=check_horizon)
    goal: tuple[float, ...] = eqx.field(static=True)
    goal_action: float = eqx.field(static=True, default=-0.4)
    substeps: int = eqx.field(static=True, default=8)
    amplitude: float = eqx.field(static=True, default=math.pi)
    parameters: tuple[tuple[str, float], ...] | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="double_pendulum")
    state_size: int = eqx.field(static=True, default=4, init=False)
    action_size: int = eqx.field(static=True, default=1, init=False)

    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """Hanging at rest."""
        return jnp.zeros(4)

    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """The placement at step 0, later 0.05 s of free motion."""
        zero = jnp.zeros_like(action[0])
        placed = jnp.stack([self.amplitude * action[0], zero, zero, zero])

        def substep(moving: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
            return runge_kutta_4(jnp, moving, _STEP / self.substeps), None

        # A loop rather than 32 stages written out: compiled many times faster, and no slower to run.
        moved, _ = jax.lax.scan(substep, tuple(state), length=self.substeps)
        return jnp.where(step == 0, placed, jnp.stack(moved))

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """Nothing before the end."""
        return jnp.zeros((), state.dtype)

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """Minus the mean squared distance from the goal."""
        return -jnp.mean((state - jnp.asarray(self.goal, state.dtype)) ** 2)

    def known_actions(self) -> Float[Array, "horizon action"]:
        """The actions that lead to the goal: the return is chaotic in the first one, so no search would find it."""
        return jnp.zeros((self.horizon, 1)).at[0].set(self.goal_action)

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """The parameters that `make` was given."""
        return self.parameters


_STEP = 0.05
_GRAVITY = 9.8


def pendulum_rates(xp: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Time derivative of the double pendulum's state.

    With D = theta_1 - theta_2, the Lagrangian of two unit masses on unit rods gives

        2 theta_1'' + theta_2'' cos D + omega_2^2 sin D + 2 g sin theta_1 = 0
        theta_2'' + theta_1'' cos D - omega_1^2 sin D + g sin theta_2 = 0

    which is solved here for the two accelerations.

    Args:
        xp: where `sin` and `cos` come from: `jax.numpy`, or `math` for plain floats.
        state: theta_1, omega_1, theta_2, omega_2.
    """
    theta_1, omega_1, theta_2, omega_2 = state
    sine, cosine = xp.sin(theta_1 - theta_2), xp.cos(theta_1 - theta_2)
    force_1 = -(omega_2**2) * sine - 2 * _GRAVITY * xp.sin(theta_1)
    force_2 = omega_1**2 * sine - _GRAVITY * xp.sin(theta_2)
    acceleration_1 = (force_1 - cosine * force_2) / (2 - cosine**2)
    return omega_1, acceleration_1, omega_2, force_2 - cosine * acceleration_1


def pendulum_energy(state: Float[Array, "... state"]) -> Float[Array, "..."]:
    """Energy of the double pendulum in joules, from -29.4 (hanging) to 29.4 (upright) at rest."""
    theta_1, omega_1, theta_2, omega_2 = (state[..., i] for i in range(4))
    kinetic = omega_1**2 + omega_2**2 / 2 + omega_1 * omega_2 * jnp.cos(theta_1 - theta_2)
    return kinetic - _GRAVITY * (2 * jnp.cos(theta_1) + jnp.cos(theta_2))


def runge_kutta_4(
    xp: object, state: tuple[Any, ...], dt: float, rates: Callable[..., tuple[Any, ...]] = pendulum_rates
) -> tuple[Any, ...]:
    """One step of the classical fourth-order Runge-Kutta method on a tuple of state components."""
    k1 = rates(xp, state)
    k2 = rates(xp, _ahead(state, k1, dt / 2))
    k3 = rates(xp, _ahead(state, k2, dt / 2))
    k4 = rates(xp, _ahead(state, k3, dt))
    mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
    return _ahead(state, mean, dt)


def _ahead(state: tuple[Any, ...], slopes: tuple[Any, ...], time: float) -> tuple[Any, ...]:
    return tuple(x + time * slope for x, slope in zip(state, slopes, strict=True))


def one_bounce(*, horizon: int, goal: float = 0.4) -> OneBounce:
    """A ball that is pushed once and bounces once; it is to come to rest at a goal."""
    return OneBounce(horizon=horizon, goal=float(goal))


def double_pendulum(
    *, horizon: int, goal_action: float = -0.4, substeps: int = 8, amplitude: float = math.pi
) -> DoublePendulum:
    """A double pendulum that is placed once and falls; it is to end where `a_0 = goal_action` leads."""
    horizon = check_horizon(horizon)
    state: tuple[float, ...] = (amplitude * goal_action, 0.0, 0.0, 0.0)
    # In plain floats: takes milliseconds, and is exact in whatever precision JAX is set to.
    for _ in range((horizon - 1) * int(substeps)):
        state = runge_kutta_4(math, state, _STEP / int(substeps))
    return DoublePendulum(
        horizon=horizon,
        goal=state,
        goal_action=float(goal_action),
        substeps=int(substeps),
        amplitude=float(amplitude),
    )
