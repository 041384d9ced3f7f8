"""How an observation and its context, the last observations and actions, lie in one vector."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Stack:
    """The layout `o_t, o_{t-1}, a_{t-1}, .., o_{t-k}, a_{t-k}, share, alive` of what networks see.

    What was before the first observation is zero; `share` is the part of the context that is not. A model has to
    predict the newest observation and `alive` only: the rest follows from them and from the actions.

    Attributes:
        size: components of an observation.
        action_size: components of an action.
        length: pairs of a former observation and a former action, k.
        ends_early: whether the last component is `alive`.
    """

    size: int
    action_size: int
    length: int
    ends_early: bool = False

    @property
    def observation_size(self) -> int:
        """Components without `alive`."""
        return self.size + self.length * (self.size + self.action_size) + 1

    @property
    def told(self) -> np.ndarray:
        """The indices of what a model predicts."""
        alive = [self.observation_size] if self.ends_early else []
        return np.array([*range(self.size), *alive])

    def begin(self, observation: Any) -> Any:
        """The first observation of an episode, without context; NumPy's arrays or JAX's, copies along leading axes."""
        numpy = jnp if isinstance(observation, Array) else np
        empty = numpy.zeros((*observation.shape[:-1], self.observation_size - self.size), observation.dtype)
        return numpy.concatenate([observation, empty], axis=-1)

    def follow(self, before: Any, action: Any, observation: Any) -> Any:
        """What is seen after an action: the new observation, and the old one with the action as its context.

        Args:
            before: what was seen, without `alive`; copies along leading axes.
            action: what was done.
            observation: what came of it.
        """
        numpy = jnp if isinstance(before, Array) else np
        former = numpy.concatenate([before[..., : self.size], action, before[..., self.size : -1]], axis=-1)
        former = former[..., : self.observation_size - self.size - 1]
        share = numpy.minimum(before[..., -1:] + 1 / self.length, 1.0).astype(before.dtype)
        return numpy.concatenate([observation, former, share], axis=-1)

    def newest(self, state: Float[Array, "*batch state"]) -> Float[Array, "*batch told"]:
        """What a model predicts, of all that is seen."""
        return state[..., self.told]

    def after(
        self, state: Float[Array, " state"], action: Float[Array, " action"], newest: Float[Array, " told"]
    ) -> Float[Array, " state"]:
        """All that is seen after an action, from what a model predicts."""
        following = self.follow(state[: self.observation_size], action, newest[: self.size])
        return jnp.concatenate([following, newest[self.size :]])

    def all_after(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        newest: Float[Array, "horizon told"],
    ) -> Float[Array, "horizon state"]:
        """The same of a whole sequence at once: no state is computed from the one before it."""
        horizon, k = actions.shape[0], self.length
        observations = jnp.concatenate([initial_state[None, : self.size], newest[:-1, : self.size]])
        pairs = jnp.concatenate([observations, actions], axis=1)
        first = initial_state[self.size : self.observation_size - 1].reshape(k, -1)[::-1]
        steps = jnp.arange(horizon)
        # The pairs in the order of time, those of the initial context first; a context begins with its latest.
        former = jnp.concatenate([first, pairs])[k + steps[:, None] - jnp.arange(k)]
        share = jnp.minimum(initial_state[self.observation_size - 1] + (steps + 1) / k, 1.0)
        parts = [newest[:, : self.size], former.reshape(horizon, -1), share[:, None], newest[:, self.size :]]
        return jnp.concatenate(parts, axis=1)


def stack_of(spec: object) -> Stack | None:
    """The layout of what networks see of a world, if it has a context."""
    found = getattr(spec, "stack", None)  # which may be anything in a world of the user's own
    return found if isinstance(found, Stack) else None
