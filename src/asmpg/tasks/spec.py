"""What networks, replay and learners ask of a world: its name, its horizon and its sizes."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Spec(Protocol):
    """The sizes of a world, whatever computes it. Every task in JAX, and every world outside it, has them.

    Attributes:
        name: short name, used in run folders and messages.
        horizon: number of actions in an episode.
        state_size: number of components of what is observed.
        action_size: number of action components, each normalised to [-1, 1].
    """

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def horizon(self) -> int:
        """Actions in an episode."""
        ...

    @property
    def state_size(self) -> int:
        """Components of an observation."""
        ...

    @property
    def action_size(self) -> int:
        """Components of an action."""
        ...
