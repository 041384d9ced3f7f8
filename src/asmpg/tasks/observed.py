"""A task of which networks see only some components of the state."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..core.arguments import shown
from ..core.types import Given, PRNGKey, Scalar, Step, UsageError
from .environment import AbstractEnvironment, evaluation_states, random_episodes
from .fits import check_env
from .simulator import AbstractSimulator


# Random episodes in which it is tried what the reward depends on.
_NUM_TRIED = 8


def observe(env: Given[AbstractEnvironment], components: Given[int | Sequence[int]]) -> "ObservedTask":
    """A task of which policy and models see only some components of the state.

    The motion, the reward and the optimum are those of the whole task, so that a score of 1 is the optimum of who sees
    everything. The reward is known where it depends on what is seen alone, and otherwise learned from that. A state is
    no longer all that matters for the future: an action-sequence model, which reads none but the first, does not need
    that.

    Args:
        env: the task.
        components: indices of the components that are seen, from 0.

    Raises:
        UsageError: there is no such component, or one is named twice.
    """
    check_env("observe", env)
    listed: list[int] = []
    if isinstance(components, int | np.integer):
        listed = [components]
    else:
        with contextlib.suppress(TypeError):  # what cannot be listed has no component
            listed = list(components)
    wanted = f"must be different indices from 0 to {env.state_size - 1} of {env.name}, at least one"
    whole = all(isinstance(index, int | np.integer) and not isinstance(index, bool) for index in listed)
    if (
        not listed
        or not whole
        or len(set(listed)) < len(listed)
        or not set(listed) <= set(range(env.state_size))
    ):
        raise UsageError(f"observe: components: {wanted}, got {shown(components)}")
    seen, starts = tuple(map(int, listed)), evaluation_states(env)
    start = tuple(map(float, starts[0]))
    return ObservedTask(env, seen, start, _pays_for_what_is_seen(env, seen, start), len(starts))


def _pays_for_what_is_seen(env: AbstractEnvironment, seen: tuple[int, ...], start: tuple[float, ...]) -> bool:
    """Whether the rewards of random episodes stay the same, to the last bit, with other numbers where nothing is seen.

    What is paid at the end only must be nothing: it is of a state that comes after the last observation.
    """
    indices = np.array(seen)
    episodes = jax.jit(lambda key: random_episodes(env, _NUM_TRIED, key=key))(jax.random.key(0))
    states, steps = episodes.states, jnp.arange(env.horizon)
    reward = jax.jit(jax.vmap(jax.vmap(env.reward), (0, 0, None)))
    given = reward(states[:, :-1], episodes.actions, steps)
    # The states of other episodes and, since all of them may begin alike, of other steps.
    for hidden in (jnp.array(start), states[::-1, :-1], states[:, 1:], states[:, -2::-1]):
        mixed = jnp.broadcast_to(hidden, states[:, :-1].shape).at[..., indices].set(states[:, :-1, indices])
        if not np.array_equal(given, reward(mixed, episodes.actions, steps), equal_nan=True):
            return False
    at_end = jax.vmap(env.terminal_reward)(states.reshape(-1, env.state_size))
    return not np.asarray(at_end).any()


@final
class ObservedTask(AbstractSimulator):
    """What `observe` makes.

    Attributes:
        task: the whole task.
        components: that are seen.
        start: a state, from which the reward takes what is hidden where it makes no difference.
        pays_for_what_is_seen: whether it makes none.
        num_evaluations: one where every episode begins in the same state.
    """

    task: AbstractEnvironment
    components: tuple[int, ...]
    start: tuple[float, ...]
    pays_for_what_is_seen: bool
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
    def action_low(self) -> Any:
        """The task's, None where it has no range of its own."""
        return getattr(self.task, "action_low", None)

    @property
    def action_high(self) -> Any:
        """The task's, None where it has no range of its own."""
        return getattr(self.task, "action_high", None)

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

    @property
    def known_reward(self) -> Callable[..., Scalar] | None:
        """The task's reward, where it depends on what is seen alone."""
        return self._reward_of_seen if self.pays_for_what_is_seen else None

    def _reward_of_seen(
        self, observation: Float[Array, " observation"], action: Float[Array, " action"], step: Step
    ) -> Scalar:
        state = jnp.array(self.start, observation.dtype).at[np.array(self.components)].set(observation)
        return self.task.reward(state, action, step)

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
