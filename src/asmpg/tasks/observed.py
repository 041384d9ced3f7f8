"""A task of which networks see only some components of the state."""

from collections.abc import Sequence
from typing import final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..core.types import Given, PRNGKey, Scalar, Step, UsageError
from .environment import AbstractEnvironment, evaluation_states
from .fits import check_env
from .simulator import AbstractSimulator


def observe(env: Given[AbstractEnvironment], components: Given[int | Sequence[int]]) -> "ObservedTask":
    """A task of which policy and models see only some components of the state.

    The motion, the reward and the optimum are those of the whole task, so that a score of 1 is the optimum of who sees
    everything. Since the reward may depend on what is hidden, it is learned from what is seen. A state is no longer all
    that matters for the future: an action-sequence model, which reads none but the first, does not need that.

    Args:
        env: the task.
        components: indices of the components that are seen, from 0.

    Raises:
        UsageError: there is no such component, or one is named twice.
    """
    check_env("observe", env)
    listed = [components] if isinstance(components, int | np.integer) else list(components)
    wanted = f"must be different indices from 0 to {env.state_size - 1} of {env.name}, at least one"
    whole = all(isinstance(index, int | np.integer) and not isinstance(index, bool) for index in listed)
    if (
        not listed
        or not whole
        or len(set(listed)) < len(listed)
        or not set(listed) <= set(range(env.state_size))
    ):
        raise UsageError(f"observe: components: {wanted}, got {components!r}")
    return ObservedTask(env, tuple(map(int, listed)), len(evaluation_states(env)))


@final
class ObservedTask(AbstractSimulator):
    """What `observe` makes.

    Attributes:
        task: the whole task.
        components: that are seen.
        num_evaluations: one where every episode begins in the same state.
    """

    task: AbstractEnvironment
    components: tuple[int, ...]
    num_evaluations: int
    ends_early = False

    @property
    def horizon(self) -> int:
        """The task's."""
        return self.task.horizon

    @property
    def action_size(self) -> int:
        """The task's."""
        return self.task.action_size

    @property
    def name(self) -> str:
        """The task's, and what is seen of it."""
        return f"{self.task.name}_seen_{'_'.join(map(str, self.components))}"

    @property
    def observation_size(self) -> int:
        """So many components."""
        return len(self.components)

    @property
    def fixed_start(self) -> bool:
        """Whether every episode begins in the same state."""
        return self.num_evaluations == 1

    def initial_state(self, *, key: PRNGKey) -> Float[Array, " state"]:
        """The task's."""
        return self.task.initial_state(key=key)

    def observe(self, state: Float[Array, " state"]) -> Float[Array, " observation"]:
        """The components that are seen."""
        return state[np.array(self.components)]

    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step, *, key: PRNGKey
    ) -> tuple[Float[Array, " state"], Scalar, Bool[Array, ""]]:
        """The task's; what it pays at the end comes with the last step's reward."""
        following = jnp.asarray(self.task.transition(state, action, step), state.dtype)
        last = jnp.asarray(step == self.horizon - 1)
        reward = self.task.reward(state, action, step) + jnp.where(
            last, self.task.terminal_reward(following), 0.0
        )
        return following, reward, jnp.asarray(False)
