"""The claims about Figure 5, decided from its tables: how norms grow, and how rough landscapes are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.types import UsageError
from ..gradients.analysis import growth_fit, GrowthFit
from .experiment import Tables
from .offline import FLAGGED, if_fitted
from .table import Table
from .verdicts import both, decide, three_way, Verdict


# Below this |a_0| the motion is nearly regular (it turns chaotic at about 0.65).
REGULAR = 0.5
# A norm that changes by less than this factor over all horizons, while the true one changes by more, is flat.
FLAT = 10.0
# Chaos takes a while: below this horizon no growth law is told from another.
LONG = 50


def norms_by_horizon(table: Table, model: str, regular: bool = False) -> dict[int, np.ndarray]:
    """All finite norms of a model at every horizon; those of nearly regular motion only, if asked."""
    rows = table.select(model=model)
    found = {}
    for horizon in sorted(rows.unique("horizon")):
        chosen = rows.select(horizon=horizon)
        norms, actions = chosen.values("norm"), chosen.values("initial_action")
        keep = np.isfinite(norms) & ((np.abs(actions) <= REGULAR) | (not regular))
        found[horizon] = norms[keep]
    return found


def fitted_growth(norms: dict[int, np.ndarray]) -> GrowthFit | str:
    """The law of the mean norm, or why there is none."""
    try:
        return growth_fit(
            list(norms), [float(values.mean()) if values.size else np.nan for values in norms.values()]
        )
    except UsageError as error:
        return str(error)


def grows_exponentially(fit: GrowthFit | str) -> bool | None:
    """Whether a fit says so; None where it cannot tell."""
    if isinstance(fit, str) or fit.law == "undecided":
        return None
    return fit.law == "exponential" and fit.eta_interval[0] > 1.0


def change(norms: dict[int, np.ndarray]) -> float:
    """The mean norm's largest value over all horizons in units of its smallest."""
    means = np.array([values.mean() if values.size else np.nan for values in norms.values()])
    return float(means.max() / means.min()) if means.size else float("nan")


def roughness(table: Table, model: str, horizon: int) -> float:
    """How far the return moves up and down along all initial actions, in units of the difference of its extremes."""
    values = table.select(model=model, horizon=horizon).values("return")
    width = np.ptp(values) if values.size > 1 else 0.0
    return float(np.abs(np.diff(values)).sum() / width) if width > 0 else float("nan")


def _correlation(truth: np.ndarray, values: np.ndarray) -> float:
    """NaN for a landscape that is constant: there is nothing to correlate."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(truth, values)[0, 1])


def judge(tables: Tables) -> Sequence[Verdict]:
    """The five claims about the figure."""
    table = tables["pendulum"]
    verdicts = [_one_step(table), _transformer(table), _landscape(tables["pendulum_landscapes"])]
    return [
        _truth(table),
        _regular(table),
        *(if_fitted(verdict, tables["pendulum_fits"]) for verdict in verdicts),
    ]


def _describe(fit: GrowthFit | str) -> str:
    return fit if isinstance(fit, str) else f"the mean norm is {fit}"


def _summary(fit: GrowthFit | str) -> Any:
    return fit if isinstance(fit, str) else fit.summary()


def _truth(table: Table) -> Verdict:
    claim = "the mean of the true |ds_H/da_0| over random actions grows exponentially with H"
    norms = norms_by_horizon(table, "truth")
    fit = fitted_growth(norms)
    numbers = {
        "fit": _summary(fit),
        "mean": {h: values.mean() for h, values in norms.items() if values.size},
        "median": {h: np.median(values) for h, values in norms.items() if values.size},
    }
    reason = f"up to H = {max(norms, default=0)} {_describe(fit)}"
    return _if_long(decide("pendulum.truth", claim, grows_exponentially(fit), reason, numbers), norms)


def _regular(table: Table) -> Verdict:
    claim = (
        f"over the nearly regular motions alone (|a_0| <= {REGULAR}) it does not: it grows like a power of H, or "
        "not at all"
    )
    norms = norms_by_horizon(table, "truth", regular=True)
    fit = fitted_growth(norms)
    grows = grows_exponentially(fit)
    numbers = {"fit": _summary(fit), "mean": {h: values.mean() for h, values in norms.items() if values.size}}
    reason = f"up to H = {max(norms, default=0)} {_describe(fit)}"
    holds = None if grows is None else not grows
    return _if_long(decide("pendulum.regular", claim, holds, reason, numbers), norms)


def _if_long(verdict: Verdict, norms: dict[int, np.ndarray]) -> Verdict:
    """The verdict, or "undecided" where all horizons are short."""
    if max(norms, default=0) >= LONG:
        return verdict
    reason = f"no horizon of {LONG} or more was measured; {verdict.numbers['reason']}"
    return decide(verdict.id, verdict.claim, None, reason, verdict.numbers | {"reason": reason})


def _one_step(table: Table) -> Verdict:
    claim = (
        "the mean norm through the one-step model grows exponentially too, with or without a flag that marks the first "
        "step"
    )
    names = [name for name in ("one-step", FLAGGED) if name in table.unique("model")]
    fits = {name: fitted_growth(norms_by_horizon(table, name)) for name in names}
    holds = both(*map(grows_exponentially, fits.values())) if len(names) == 2 else None
    reason = "; ".join(f"{name}: {_describe(fit)}" for name, fit in fits.items())
    if len(names) < 2:
        reason = f"needs both one-step models; {reason}"
    return decide(
        "pendulum.one_step", claim, holds, reason, {name: _summary(fit) for name, fit in fits.items()}
    )


def _transformer(table: Table) -> Verdict:
    claim = (
        "the mean norm through the transformer model stays flat: over all horizons it changes by less than a factor "
        f"{FLAT:g}"
    )
    changes = {name: change(norms_by_horizon(table, name)) for name in table.unique("model")}
    horizons = set(norms_by_horizon(table, "transformer"))
    truth = {h: values for h, values in norms_by_horizon(table, "truth").items() if h in horizons}
    true_change = change(truth)
    if "transformer" not in changes:
        return decide("pendulum.transformer", claim, None, "no transformer was fitted", {"change": changes})
    holds = three_way(-changes["transformer"], true_above=-FLAT, false_below=-FLAT)
    reason = f"it changes by a factor {changes['transformer']:.3g}, the true one by {true_change:.3g}"
    if not true_change > FLAT:
        holds, reason = None, f"at these horizons the true one is as flat: {reason}"
    return decide(
        "pendulum.transformer", claim, holds, reason, {"change": changes, "true_change": true_change}
    )


def _landscape(table: Table) -> Verdict:
    claim = (
        "the transformer model's return landscape at the longest horizon is smoother than the true one: it moves up "
        "and down by at most half as much, in units of its range"
    )
    horizon = max(table.unique("horizon"), default=0)
    rough = {name: roughness(table, name, horizon) for name in table.unique("model")}
    truth = table.select(model="truth", horizon=horizon).values("return")
    agreement = {
        name: _correlation(truth, table.select(model=name, horizon=horizon).values("return"))
        for name in table.unique("model")
        if name != "truth"
    }
    numbers = {"horizon": horizon, "roughness": rough, "correlation_with_truth": agreement}
    if "transformer" not in rough:
        return decide("pendulum.landscape", claim, None, "no transformer was fitted", numbers)
    ratio = rough["transformer"] / rough["truth"]
    holds = three_way(-ratio, true_above=-0.5, false_below=-1.0)
    reason = (
        f"at H = {horizon} it moves by {rough['transformer']:.3g} ranges, the true one by {rough['truth']:.3g}; their "
        f"correlation is {agreement['transformer']:.2f}"
    )
    if rough["truth"] < 4.0:
        holds, reason = None, f"at this horizon the true landscape is smooth itself: {reason}"
    return decide("pendulum.landscape", claim, holds, reason, numbers)
