"""What is known of recorded episodes without the episodes: all that a run folder keeps of them."""

import dataclasses

from .stack import Stack


@dataclasses.dataclass(frozen=True)
class Recording:
    """Sizes and units of recorded episodes, and what tells them from others.

    A `Spec`: the world of a run on recorded episodes alone.

    Attributes:
        name: what messages call them.
        digest: SHA-256 of the episodes.
        num_episodes: how many there are.
        horizon: actions in an episode, padding included.
        observation_size: components of an observation.
        action_size: components of an action.
        ends_early: whether some episode ended before the horizon: networks see one more component then, `alive`.
        action_low: lower bounds of the action's components, which networks see as -1.
        action_high: upper bounds, which networks see as 1.
        mean_return: the mean of the episodes' returns.
        return_spread: their standard deviation.
        fixed_start: whether all begin with the same observation.
        context: pairs of a former observation and a former action that are part of an observation, see `with_context`.
    """

    name: str
    digest: str
    num_episodes: int
    horizon: int
    observation_size: int
    action_size: int
    ends_early: bool
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    mean_return: float
    return_spread: float
    fixed_start: bool = True
    context: int = 0

    @property
    def stack(self) -> Stack | None:
        """How an observation and its context lie in a vector, if there is a context."""
        if not self.context:
            return None
        size = (self.observation_size - 1 - self.context * self.action_size) // (1 + self.context)
        return Stack(size, self.action_size, self.context, self.ends_early)

    @property
    def state_size(self) -> int:
        """Number of components that networks see."""
        return self.observation_size + self.ends_early

    def identity(self) -> None:
        """Nothing is kept on disk about a world of one's own."""
