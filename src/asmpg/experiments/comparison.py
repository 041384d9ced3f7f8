"""Comparing trained methods: differences with intervals, and the verdicts that they decide."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..statistics import difference_interval, interquartile_mean, Interval
from .rules import ENOUGH_SEEDS, ENOUGH_STEPS, judged
from .trained_runs import pick, Run, to_scores, unique, Value
from .verdicts import Verdict


# So many tasks and horizons are named in a sentence, more are counted.
FEW = 3


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much better one set of runs is than another.

    Attributes:
        estimate: difference of interquartile means.
        interval: 95%, from the stratified bootstrap.
        means: both interquartile means.
        tasks: what was compared.
    """

    estimate: float
    interval: Interval
    means: tuple[float, float]
    tasks: tuple[str, ...]

    def above(self, threshold: float) -> bool | None:
        """Whether it is more than this; None if the interval does not say."""
        return separated(self.interval, threshold)

    def summary(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "difference": self.estimate,
            "interval": list(self.interval),
            "iqm": list(self.means),
            "num_compared": len(self.tasks),
        }

    def __str__(self) -> str:
        """In words."""
        low, high = self.interval
        one, other = self.means
        where = "; ".join(self.tasks) if len(self.tasks) <= FEW else f"{len(self.tasks)} tasks and horizons"
        interval = f"{self.estimate:+z.3f} [{low:+z.3f}, {high:+z.3f}]"
        return f"{one:z.3f} and {other:z.3f}, a difference of {interval} ({where})"


def separated(interval: Interval, threshold: float) -> bool | None:
    """True if all of an interval is above a threshold, False if all is below, None otherwise."""
    return True if interval.low > threshold else False if interval.high < threshold else None


def opposite(answer: bool | None) -> bool | None:
    """Not, with None for unknown."""
    return None if answer is None else not answer


def difference(
    better: Sequence[Run], than: Sequence[Run], value: Value = "score", by_horizon: bool = True
) -> Difference | None:
    """The difference on every task and horizon that both have; None if there is none.

    Args:
        better: runs of the one.
        than: runs of the other.
        value: what is compared.
        by_horizon: whether a horizon is compared with the same one; otherwise tasks are, whatever their horizon.
    """

    def place(run: Run) -> Any:
        return (run.task, run.horizon) if by_horizon else run.task

    common = {place(run) for run in better} & {place(run) for run in than}
    both = [
        to_scores((run for run in runs if place(run) in common), value, by_horizon) for runs in (better, than)
    ]
    one, other = both
    if one is None or other is None:
        return None
    means = (interquartile_mean(one), interquartile_mean(other))
    return Difference(means[0] - means[1], difference_interval(one, other), means, one.tasks)


def too_little(runs: Sequence[Run]) -> str | None:
    """Why runs decide nothing: they are too short or too few, or others of their kind are to come or failed."""
    left = {run.method: run.num_unfinished for run in runs if run.num_unfinished}
    if left:
        return "items not finished: " + ", ".join(f"{number} of {model}" for model, number in left.items())
    failed = {(run.method, run.horizon): run.num_failed for run in runs if run.num_failed}
    if failed:
        parts = (f"{number} of {model} at H = {horizon}" for (model, horizon), number in failed.items())
        return "items that failed: " + ", ".join(parts)
    steps = min((run.steps[-1] for run in runs), default=0.0)
    seeds = len(unique(runs, "seed"))
    if steps < ENOUGH_STEPS:
        return f"trained for {steps:g} steps, fewer than {ENOUGH_STEPS}"
    return f"{seeds} seeds, fewer than {ENOUGH_SEEDS}" if seeds < ENOUGH_SEEDS else None


def decide_runs(
    id: str, holds: bool | None, reason: str, numbers: Mapping[str, Any], runs: Sequence[Run], **words: object
) -> Verdict:
    """A verdict about runs, undecided where they are too short or too few or not all there are to be."""
    why = too_little(runs)
    counts = {"num_floored": sum(run.num_floored for run in runs), "num_seeds": len(unique(runs, "seed"))}
    reason = f"{why}; {reason}" if why else reason
    return judged(id, None if why else holds, reason, {**numbers, **counts}, **words)


def compare(
    id: str,
    runs: Sequence[Run],
    pair: tuple[str, str],
    threshold: float,
    value: Value = "score",
    negated: bool = False,
    **words: Any,
) -> Verdict:
    """The verdict that one method is better than another.

    Args:
        id: of the rule.
        runs: of all methods.
        pair: the method that is to be better, and the other.
        threshold: by how much, at least; a claim that the one is *worse* is about the swapped pair.
        value: what is compared.
        negated: whether the claim is that it is not.
        words: what the claim names.
    """
    one, other = (pick(runs, method=method) for method in pair)
    found = difference(one, other, value)
    if found is None:
        return judged(id, None, f"needs {pair[0]} and {pair[1]} on the same task and horizon", **words)
    holds = opposite(found.above(threshold)) if negated else found.above(threshold)
    reason = f"{pair[0]} against {pair[1]}: {found}"
    return decide_runs(id, holds, reason, found.summary(), [*one, *other], **words)


def by_preset(runs: Sequence[Run], judge: Callable[[Sequence[Run]], Sequence[Verdict]]) -> list[Verdict]:
    """The verdicts under every preset; those under the paper's have names that say so."""
    verdicts = []
    for preset in sorted(unique(runs, "preset")) or ["default"]:
        for verdict in judge(pick(runs, preset=preset)):
            id = verdict.id if preset == "default" else f"{verdict.id}.{preset}_preset"
            claim = verdict.claim if preset == "default" else f"{verdict.claim} ({preset} preset)"
            verdicts.append(dataclasses.replace(verdict, id=id, claim=claim))
    return verdicts
