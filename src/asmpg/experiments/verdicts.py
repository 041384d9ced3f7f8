"""Claims of the paper as statements that a table of measurements decides."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal


Outcome = Literal["holds", "does not hold", "undecided"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the measurements say about one claim.

    Attributes:
        id: short name of the claim.
        claim: the claim, with what would make it true.
        verdict: "holds", "does not hold" or "undecided".
        numbers: what decided it; `reason` says it in words.
    """

    id: str
    claim: str
    verdict: Outcome
    numbers: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, with null for a number that is not finite."""
        return {"id": self.id, "claim": self.claim, "verdict": self.verdict, "numbers": plain(self.numbers)}


def decide(
    id: str, claim: str, holds: bool | None, reason: str, numbers: Mapping[str, Any] | None = None
) -> Verdict:
    """A verdict.

    Args:
        id: short name of the claim.
        claim: the claim.
        holds: None for undecided.
        reason: why, in words.
        numbers: what decided it.
    """
    outcome: Outcome = "undecided" if holds is None else "holds" if holds else "does not hold"
    return Verdict(id, claim, outcome, {**(numbers or {}), "reason": reason})


def three_way(value: float, *, true_above: float, false_below: float) -> bool | None:
    """True from one threshold up, False from the other down, None between them or for NaN.

    Args:
        value: the number that decides.
        true_above: at least this much is true.
        false_below: at most this much is false.
    """
    if math.isnan(value):
        return None
    return True if value >= true_above else False if value <= false_below else None


def both(*parts: bool | None) -> bool | None:
    """Whether all parts are true: False if one is, None if one is unknown and none is False."""
    return False if False in parts else None if None in parts else True


def plain(value: Any) -> Any:
    """Plain JSON: lists for tuples, Python's numbers for NumPy's, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
