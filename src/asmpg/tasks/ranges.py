"""The range of an action: networks act in [-1, 1], a simulator in units of its own."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ..core.types import UsageError


# Bounds beyond this are none: nobody uses the whole of such a range.
_WIDEST = 1e6


def action_range_of(
    name: str, low: object, high: object, shape: tuple[int, ...], given: tuple[Any, Any] | None
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Lowest and highest action of every component.

    Args:
        name: of the environment.
        low: the environment's own lowest action.
        high: its highest.
        shape: of an action.
        given: what the user says instead.

    Raises:
        UsageError: there are no bounds, or they are the wrong way round.
    """
    low, high = (low, high) if given is None else given
    low, high = (np.broadcast_to(np.asarray(x, np.float64), shape) for x in (low, high))
    if not (np.isfinite(low) & np.isfinite(high) & (high - low < _WIDEST)).all():
        raise UsageError(f"action_range: must be given for {name}, whose actions have no bounds")
    if not (low < high).all():
        raise UsageError(f"action_range: the lowest action of {name} must be below the highest")
    return low, high
