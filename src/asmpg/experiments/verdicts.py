"""Claims of the paper as statements that a table of measurements decides."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ..core.plain import plain
from ..core.types import UsageError


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


def unanimous(values: Iterable[float], *, true_above: float, false_below: float) -> bool | None:
    """As `three_way` for every seed's value; None where seeds differ or there are none.

    Two seeds have no interval, and a mean over them may be one diverging seed's alone.
    """
    answers = {three_way(value, true_above=true_above, false_below=false_below) for value in values}
    return answers.pop() if len(answers) == 1 else None


def both(*parts: bool | None) -> bool | None:
    """Whether all parts are true: False if one is, None if one is unknown and none is False."""
    return False if False in parts else None if None in parts else True


def in_range(values: Sequence[float]) -> str:
    """A number, or the least and the most of several, in words."""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def check_verdicts(verdicts: Any, figure: str) -> Sequence[Verdict]:
    """The verdicts of an experiment.

    Raises:
        UsageError: they are no verdicts, or two have one id.
    """
    sound = isinstance(verdicts, Sequence) and all(isinstance(one, Verdict) for one in verdicts)
    if not sound or len({one.id for one in verdicts}) < len(verdicts):
        what = "a list of asmpg.experiments.Verdict, each with an id of its own"
        raise UsageError(f"figure: judge of {figure} must give {what}")
    return [dataclasses.replace(one, numbers={"reason": "", **one.numbers}) for one in verdicts]
