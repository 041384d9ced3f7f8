"""Two tasks whose motion is rough and whose return has a coarse structure, for `why.py`.

`RippledGreen` is chaotic: a ball is putted over an egg-crate surface, which scatters it until one of its
hollows catches it. `BouncingBall` has several contacts in a row, and a thrust at every step.
"""

import math
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import asmpg


@final
class RippledGreen(asmpg.AbstractEnvironment):
    """A putt: the first action hits a ball, which rolls over ripples with friction and should stop at the hole.

    State [x, y, v_x, v_y], metres and metres per second; steps of 0.1 s. The surface pulls with
    `pull (sin(kx) cos(ky), cos(kx) sin(ky))`, friction with `-0.3 v`. Without ripples the ball would come to rest at
    a distance proportional to the hit, and that is the coarse structure of the return; with them the rest position is
    a staircase of the hit with steps of every size, whose derivative is nearly zero or very large.
    """

    horizon: int = eqx.field(static=True, default=50)
    pull: float = eqx.field(static=True, default=3.0)
    wavelength: float = eqx.field(static=True, default=0.15)
    hole: tuple[float, float] = eqx.field(static=True, default=(2.8, 0.8))
    name: str = eqx.field(static=True, default="rippled_green", init=False)
    state_size: int = eqx.field(static=True, default=4, init=False)
    action_size: int = eqx.field(static=True, default=2, init=False)

    def initial_state(self, *, key=None) -> Float[Array, " state"]:
        return jnp.array([0.03, 0.03, 0.0, 0.0])

    def transition(self, state, action, step) -> Float[Array, " state"]:
        hit = jnp.stack([state[0], state[1], 1.0 + 0.5 * action[0], 0.5 * action[1]])
        return jnp.where(step == 0, hit, self._roll(state))

    def _roll(self, state):
        substeps, wave = 8, 2 * math.pi / self.wavelength
        dt = 0.1 / substeps

        def roll(state, _):
            position, velocity = state[:2], state[2:]
            (sine_x, sine_y), (cosine_x, cosine_y) = jnp.sin(wave * position), jnp.cos(wave * position)
            force = self.pull * jnp.stack([sine_x * cosine_y, cosine_x * sine_y]) - 0.3 * velocity
            velocity = velocity + dt * force
            return jnp.concatenate([position + dt * velocity, velocity]), None

        return jax.lax.scan(roll, state, length=substeps)[0]

    def reward(self, state, action, step) -> Float[Array, ""]:
        return jnp.zeros((), state.dtype)

    def terminal_reward(self, state) -> Float[Array, ""]:
        """Squared distance from the hole."""
        return -jnp.sum((state[:2] - jnp.array(self.hole)) ** 2)


@final
class BouncingBall(asmpg.AbstractEnvironment):
    """A ball that falls from 1 m, bounces with restitution 0.8, and should be at rest at a height of 0.6 m at the end.

    State [x, v], metres and metres per second; steps of 0.04 s in 4 substeps. The thrust is up to 4 m/s^2, less than
    gravity, so that the ball cannot hover: it is helped up or held down between some three contacts.
    """

    horizon: int = eqx.field(static=True, default=50)
    name: str = eqx.field(static=True, default="bouncing_ball", init=False)
    state_size: int = eqx.field(static=True, default=2, init=False)
    action_size: int = eqx.field(static=True, default=1, init=False)

    def initial_state(self, *, key=None) -> Float[Array, " state"]:
        return jnp.array([1.0, 0.0])

    def transition(self, state, action, step) -> Float[Array, " state"]:
        substeps = 4
        dt = 0.04 / substeps
        for _ in range(substeps):
            x, v = state
            v = v + dt * (4 * action[0] - 9.81)
            x = x + dt * v
            state = jnp.where(x < 0, jnp.stack([-0.8 * x, -0.8 * v]), jnp.stack([x, v]))
        return state

    def reward(self, state, action, step) -> Float[Array, ""]:
        return jnp.zeros((), state.dtype)

    def terminal_reward(self, state) -> Float[Array, ""]:
        """Squared distance from rest at 0.6 m."""
        return -10 * (state[0] - 0.6) ** 2 - 0.1 * state[1] ** 2
