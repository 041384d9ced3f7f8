"""Does a norm grow exponentially with the horizon, or like a power of it?"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Real

from ...core.arguments import numbers, takes
from ...core.types import Given, UsageError


# Two parameters and a variance are fitted; the criterion needs two observations more than that.
MIN_HORIZONS = 5
# Akaike differences this large mean that one law is 20 times as likely as the other: exp(6 / 2).
DECISIVE = 6.0
# What changes by less than this factor over all horizons counts as constant.
NEGLIGIBLE = 2.0

Law = Literal["exponential", "power", "constant", "undecided"]
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class GrowthFit:
    """The two laws fitted to a norm profile, and which of them describes it.

    Attributes:
        law: "exponential" (`c eta^H`), "power" (`c H^p`), "constant" where both say that the norm changes by less
            than a factor 2 over all horizons, or "undecided" where neither is 20 times as likely as the other.
        eta: growth factor per step of the exponential law.
        eta_interval: its 95% interval.
        p: degree of the power law.
        p_interval: its 95% interval.
        preference: Akaike's criterion of the power law minus that of the exponential law; positive speaks for the
            exponential one.
        residuals: root mean square of the logarithms' residuals: (exponential, power).
        num_horizons: how many horizons were fitted.
    """

    law: Law
    eta: float
    eta_interval: Interval
    p: float
    p_interval: Interval
    preference: float
    residuals: tuple[float, float]
    num_horizons: int

    def summary(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and words."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def __str__(self) -> str:
        """A few words, such as `exponential, eta = 0.97 [0.96, 0.98]`."""
        exponential = f"eta = {self.eta:.4g} [{self.eta_interval[0]:.4g}, {self.eta_interval[1]:.4g}]"
        power = f"p = {self.p:.3g} [{self.p_interval[0]:.3g}, {self.p_interval[1]:.3g}]"
        chosen = {"exponential": exponential, "power": power}.get(self.law, f"{exponential}, {power}")
        return f"{self.law}, {chosen}"


@takes(horizons=numbers(), norms=numbers(finite=False))
def growth_fit(
    horizons: Given[Real[np.ndarray, " horizons"] | Sequence[float | int]],
    norms: Given[Float[np.ndarray, " horizons"] | Sequence[float | int]],
) -> GrowthFit:
    """Fits `c eta^H` and `c H^p` (Corollaries 1.1, 1.2) to a norm profile, by least squares on the norm's logarithm.

    The criterion compares residual sums, as both laws have two parameters. The intervals are those of a straight line
    with independent errors: too narrow where neighbouring horizons err alike, as they do within one episode.

    Args:
        horizons: at least five different ones.
        norms: one positive number a horizon.

    Raises:
        UsageError: too few horizons, one that is not positive, not one norm for each, or norms that are zero or not
            finite.
    """
    h, y = np.asarray(horizons), np.asarray(norms)
    if h.shape != y.shape or h.ndim != 1:
        raise UsageError(f"growth_fit: needs one norm a horizon, got shapes {h.shape} and {y.shape}")
    if len(np.unique(h)) < MIN_HORIZONS:
        raise UsageError(
            f"growth_fit: too few horizons, needs at least {MIN_HORIZONS} different ones, got {len(np.unique(h))}"
        )
    if (h <= 0).any():
        raise UsageError("growth_fit: horizons must be positive")
    if not np.isfinite(y).all():
        raise UsageError(f"growth_fit: norms are not finite at {int((~np.isfinite(y)).sum())} horizons")
    if (y < np.finfo(np.float32).tiny).any():
        first = h[y < np.finfo(np.float32).tiny].min()
        raise UsageError(f"growth_fit: norms underflow to zero, first at horizon {first:g}")
    logs = np.log(y)
    (rate, rate_error, sum_exponential), (degree, degree_error, sum_power) = (
        _line(x, logs) for x in (h, np.log(h))
    )
    width = _student_t(len(h) - 2)
    rates = (rate - width * rate_error, rate + width * rate_error)
    degrees = (degree - width * degree_error, degree + width * degree_error)
    preference = len(h) * float(np.log(sum_power / sum_exponential))
    changes = [slope * np.ptp(x) for x, pair in ((h, rates), (np.log(h), degrees)) for slope in pair]
    law: Law = (
        "exponential" if preference >= DECISIVE else "power" if preference <= -DECISIVE else "undecided"
    )
    if np.abs(changes).max() <= np.log(NEGLIGIBLE):
        law = "constant"
    return GrowthFit(
        law=law,
        eta=float(np.exp(rate)),
        eta_interval=(float(np.exp(rates[0])), float(np.exp(rates[1]))),
        p=float(degree),
        p_interval=(float(degrees[0]), float(degrees[1])),
        preference=preference,
        residuals=(float(np.sqrt(sum_exponential / len(h))), float(np.sqrt(sum_power / len(h)))),
        num_horizons=len(h),
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, standard error of the slope and residual sum of squares of a straight line."""
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    residual = y - y.mean() - slope * centred
    # Not below what rounding leaves, or exact data would divide by zero.
    floor = len(y) * (4 * np.finfo(np.float64).eps * max(1.0, float(np.abs(y).max()))) ** 2
    square_sum = max(float(residual @ residual), floor)
    return slope, float(np.sqrt(square_sum / (len(y) - 2) / (centred @ centred))), square_sum


def _student_t(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
