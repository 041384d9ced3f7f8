"""What the records of a run say that its user must hear: skipped updates, gradients of zero, policies that fell."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, PyTree, Real

from ...gradients.analysis import locate_nonfinite
from ...tasks.environment import AbstractEnvironment
from ..config import TrainConfig


Metrics = Mapping[str, np.ndarray]
# A score, or a share of the way from the worst record to the best, that a policy may lose without a word.
NOTABLE_LOSS = 0.1


def all_skipped(metrics: Metrics, record: int) -> Bool[np.ndarray, " num_seeds"]:
    """Which seeds skipped every policy update before a record, since the gradient was not finite."""
    if "num_nonfinite" not in metrics or "gradient_norm" not in metrics or record == 0:
        return np.zeros(metrics["return"].shape[1], bool)
    counts = metrics["num_nonfinite"]
    return (counts[record] > counts[record - 1]) & (metrics["gradient_norm"][record] == 0)


def all_zero(metrics: Metrics, record: int) -> Bool[np.ndarray, " num_seeds"]:
    """Which seeds had a policy gradient of exactly zero in every update before a record.

    The mean entropy over updates is zero only where there were none.
    """
    if not {"num_nonfinite", "gradient_norm", "entropy"} <= metrics.keys() or record == 0:
        return np.zeros(metrics["return"].shape[1], bool)
    same = metrics["num_nonfinite"][record] == metrics["num_nonfinite"][record - 1]
    return same & (metrics["gradient_norm"][record] == 0) & (metrics["entropy"][record] != 0)


def not_learning(recent: Metrics, learner: Any, state: PyTree, first_seed: int) -> str:
    """Which seeds made no policy update between two records, and why; empty where all did.

    Args:
        recent: the two records.
        learner: the method.
        state: of all seeds, with the parts that are no arrays.
        first_seed: of the run.
    """
    skipped, zero = all_skipped(recent, 1), all_zero(recent, 1)
    if skipped.any():
        place = place_of_nonfinite(learner, state, int(skipped.argmax()))
        what = f"were all skipped, since their gradient is not finite{place and ': ' + place}"
    elif zero.any():
        what = "had a gradient of exactly zero: the imagined return does not depend on the actions"
    else:
        return ""
    seeds = ", ".join(str(first_seed + int(index)) for index in np.flatnonzero(skipped | zero))
    return f"the policy updates of seed {seeds} {what}"


def learned_nothing(metrics: Metrics) -> bool:
    """Whether no seed ever made a policy update, since every gradient was not finite."""
    records = range(1, len(metrics["return"]))
    return len(records) > 0 and all(all_skipped(metrics, record).all() for record in records)


def falls(metrics: Metrics, first_seed: int) -> list[str]:
    """A line about every seed whose last policy is much worse than an earlier one."""
    known = "score" in metrics
    values, word = (metrics["score"], "score") if known else (metrics["return"], "return")
    found = []
    for index, series in enumerate(values.T):
        finite = series[np.isfinite(series)]
        if len(finite) < 2:
            continue
        best = int(np.nanargmax(np.where(np.isfinite(series), series, -np.inf)))
        unit = 1.0 if known else float(finite.max() - finite.min())
        if not series[-1] >= series[best] - NOTABLE_LOSS * unit:
            found.append(
                f"seed {first_seed + index}: the last policy has {word} {series[-1]:.4g}, that of step "
                f"{int(metrics['steps'][best, index])} had {series[best]:.4g}"
            )
    return found


# Violations of constraints by less than this share of the constraint's size are none.
NOTABLE_VIOLATION = 1e-3


def violations(metrics: Metrics, first_seed: int) -> list[str]:
    """A line about every seed whose last policy violates the task's constraints."""
    if "relative_violation" not in metrics:
        return []
    last = zip(metrics["violation"][-1], metrics["relative_violation"][-1], strict=True)
    return [
        f"seed {first_seed + index}: the last policy violates the constraints by up to {value:.3g}"
        for index, (value, share) in enumerate(last)
        if not share <= NOTABLE_VIOLATION
    ]


def best_records(metrics: Metrics) -> tuple[Float[np.ndarray, " num_seeds"], Real[np.ndarray, " num_seeds"]]:
    """Each seed's highest return, and the steps after which it was evaluated."""
    returns = np.where(np.isfinite(metrics["return"]), metrics["return"], -np.inf)
    best, seeds = returns.argmax(axis=0), np.arange(returns.shape[1])
    return metrics["return"][best, seeds], metrics["steps"][best, seeds]


def place_of_nonfinite(learner: Any, state: PyTree, index: int) -> str:
    """Where one seed's gradient becomes infinite or NaN, in half a sentence; empty where that cannot be told.

    Args:
        learner: the method.
        state: of all seeds, with the parts that are no arrays.
        index: of the seed.
    """
    model = getattr(state, "model", None)
    if model is None or not isinstance(learner.env, AbstractEnvironment):
        return ""

    def take(tree: PyTree) -> Any:
        return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, tree)

    start_key, noise_key = jax.random.split(jax.random.key(0))
    start = learner.env.initial_state(key=start_key)
    loop: Any = getattr(learner, "loop", "open")
    for key in (noise_key, None):
        policy = take(learner.policy(state))
        place = locate_nonfinite(take(model), learner.env, start, policy, key=key, loop=loop)
        if place is not None:
            return str(place)
    return ""


def notices(config: TrainConfig, num_devices: int, backend: str) -> list[str]:
    """What a user may not expect of a run on these devices."""
    seeds, devices, found = config.num_seeds, min(num_devices, config.num_seeds), []
    if seeds % devices:
        found.append(
            f"{seeds} seeds do not divide over {devices} devices: {-seeds % devices} repeat the last"
        )
    if config.precision == "bfloat16-matmul" and backend == "cpu":
        found.append("bfloat16-matmul changes nothing on a CPU, which multiplies in float32")
    return found
