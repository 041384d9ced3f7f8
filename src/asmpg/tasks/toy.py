"""The toy credit-assignment task: only the first action matters, and it is paid for at the end."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.types import PRNGKey, Scalar, Step
from .environment import AbstractEnvironment
from .validation import check_horizon


@final
class CreditAssignment(AbstractEnvironment):
    """State (noise, memory), both 0 at first: the noise stays 0, the memory is `a_0` from step 1 on.

    Each step from the second on pays `-(noise - a)^2 / H`, and the end pays `-20 (memory - 0.5)^2 + 10`: the optimum
    is 10, with `a_0 = 0.5` and every later action 0. The paper's toy task without noise.
    """

    horizon: int = eqx.field(static=True, converter=check_horizon)
    parameters: tuple[tuple[str, float], ...] | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, default="credit_assignment")
    state_size: int = eqx.field(static=True, default=2, init=False)
    action_size: int = eqx.field(static=True, default=1, init=False)

    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """The origin."""
        return jnp.zeros(2)

    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """The first action is remembered, the others are not."""
        memory = jnp.where(step == 0, action[0], state[1])
        return jnp.stack([jnp.zeros_like(memory), memory])

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`-(noise - a)^2 / H`, and nothing at step 0."""
        return jnp.where(step == 0, 0.0, -((state[0] - action[0]) ** 2) / self.horizon)

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """`-20 (memory - 0.5)^2 + 10`."""
        return 10 - 20 * (state[1] - 0.5) ** 2

    def known_actions(self) -> Float[Array, "horizon action"]:
        """The optimum."""
        return jnp.zeros((self.horizon, 1)).at[0].set(0.5)

    def identity(self) -> tuple[tuple[str, float], ...] | None:
        """The parameters that `make` was given."""
        return self.parameters


def credit_assignment(*, horizon: int) -> CreditAssignment:
    """The toy of credit assignment: only the first action decides the reward at the end."""
    return CreditAssignment(horizon)
