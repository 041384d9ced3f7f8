"""How a method looks, in every figure and on every page."""

from collections.abc import Iterable
from typing import NamedTuple


class Look(NamedTuple):
    """Of one method.

    Attributes:
        light: its colour on light.
        dark: its colour on dark.
        dashes: lengths of dash and gap in points; none for a whole line. They distinguish methods without colour.
        width: of the line, in points.
    """

    light: str
    dark: str
    dashes: tuple[float, ...] = ()
    width: float = 1.4


_DASHED, _DOTTED, _MIXED = (6.0, 3.0), (1.5, 2.5), (8.0, 2.5, 1.5, 2.5)

LOOKS = {
    "truth": Look("#000000", "#ffffff"),
    "lstm": Look("#1f6fb4", "#6cb6ff"),
    "transformer": Look("#8250df", "#c297ff"),
    "rnn": Look("#1a7f37", "#57c46b"),
    "one-step": Look("#cf222e", "#ff7b72", _DASHED),
    "one-step with flag": Look("#bc4c00", "#ffa657", _DASHED),
    "simulator": Look("#24292f", "#e6edf3", _DASHED),
    "sac": Look("#9a6700", "#e3b341", _MIXED),
    "history-lstm": Look("#1b7c83", "#39c5cf", _DOTTED),
    "history-transformer": Look("#bf3989", "#ff80c8", _DOTTED),
    "odt, expert return": Look("#bc4c00", "#ffa657", _MIXED),
    "odt, overshot return": Look("#6e7781", "#afb8c1", _DOTTED),
    "untrained policy": Look("#8c959f", "#8b949e", _DOTTED),
    "best constant action": Look("#8c959f", "#8b949e", _MIXED),
    # In the learning curve of a run.
    "one seed": Look("#1f6fb4", "#6cb6ff", (), 2.0),
    "mean of seeds": Look("#1f6fb4", "#6cb6ff", (), 2.0),
    "each seed": Look("#9bc3e6", "#2f5f8f", (), 0.8),
    "random actions": Look("#8c959f", "#8b949e", _DOTTED),
    "optimum": Look("#8c959f", "#8b949e", _DASHED),
}
# What has no look of its own gets one of these, always the same.
_OTHERS = (
    Look("#953800", "#f0883e", (5.0, 2.5)),
    Look("#4d2d00", "#d4a72c", (3.0, 3.0)),
    Look("#0550ae", "#80ccff", (8.0, 3.0)),
    Look("#57606a", "#b1bac4", (4.0, 2.0)),
    Look("#116329", "#7ee787"),
    Look("#a40e26", "#ffaba8"),
    Look("#6639ba", "#d2a8ff", (2.0, 2.0)),
)
# What a model's look is dashed for.
_VARIANTS = (", learned reward", ", mean")


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """The looks of the methods of one figure; no two that have none of their own share one while any is left."""
    found: dict[str, Look] = {}
    for name in names:
        own = _own(name)
        if own is None:
            first = sum(name.encode()) % len(_OTHERS)
            rest = [_OTHERS[(first + shift) % len(_OTHERS)] for shift in range(len(_OTHERS))]
            own = next((one for one in rest if one not in found.values()), rest[0])
        found[name] = own
    return found


def _own(name: str) -> Look | None:
    """The look of a known method; of its variant it is the same, dashed."""
    for ending in _VARIANTS:
        if name.endswith(ending):
            model = LOOKS.get(name.removesuffix(ending))
            return None if model is None else model._replace(dashes=_DASHED)
    return LOOKS.get(name)
