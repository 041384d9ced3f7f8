"""The claims about Figure 5, decided from its tables: how norms grow, and how rough landscapes are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.types import UsageError
from ..gradients.analysis import growth_fit, GrowthFit
from .experiment import Tables
from .offline import FLAGGED, if_fitted, seeds_of
from .rules import (
    ACCURATE,
    ASTRAY,
    CHAOTIC,
    FLAT,
    FOLLOWS,
    GROWTH_HORIZONS,
    GROWTH_SEEDS,
    INACCURATE,
    judged,
    REGULAR,
    ROUGH,
    SMOOTH,
)
from .table import Table
from .verdicts import both, in_range, unanimous, Verdict


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


def movement(table: Table) -> float:
    """How far the return moves up and down along all initial actions, in the task's units."""
    return float(np.abs(np.diff(table.values("return"))).sum())


def correlation(truth: np.ndarray, values: np.ndarray) -> float:
    """NaN for a landscape that is constant or not finite: there is nothing to correlate."""
    with np.errstate(all="ignore"):
        return float(np.corrcoef(truth, values)[0, 1])


def unexplained(truth: np.ndarray, values: np.ndarray) -> float:
    """The share of the truth's variance over initial actions that a landscape misses."""
    return float(np.mean((values - truth) ** 2) / truth.var())


def judge(tables: Tables) -> Sequence[Verdict]:
    """The claims about the figure."""
    table, landscapes, fits = tables["pendulum"], tables["pendulum_landscapes"], tables["pendulum_fits"]
    verdicts = [_one_step(table), _transformer(table, fits), *_landscape(landscapes)]
    return [_truth(table), _regular(table), *(if_fitted(verdict, fits) for verdict in verdicts)]


def _describe(fit: GrowthFit | str) -> str:
    return fit if isinstance(fit, str) else f"the mean norm is {fit}"


def _summary(fit: GrowthFit | str) -> Any:
    return fit if isinstance(fit, str) else fit.summary()


def _truth(table: Table) -> Verdict:
    norms = norms_by_horizon(table, "truth")
    fit = fitted_growth(norms)
    numbers = {
        "fit": _summary(fit),
        "mean": {h: values.mean() for h, values in norms.items() if values.size},
        "median": {h: np.median(values) for h, values in norms.items() if values.size},
    }
    return _if_long("pendulum.truth", grows_exponentially(fit), fit, numbers, norms)


def _regular(table: Table) -> Verdict:
    norms = norms_by_horizon(table, "truth", regular=True)
    fit = fitted_growth(norms)
    grows = grows_exponentially(fit)
    numbers = {"fit": _summary(fit), "mean": {h: values.mean() for h, values in norms.items() if values.size}}
    return _if_long("pendulum.regular", None if grows is None else not grows, fit, numbers, norms)


def _if_long(
    id: str, holds: bool | None, fit: GrowthFit | str, numbers: dict[str, Any], norms: dict[int, np.ndarray]
) -> Verdict:
    """The verdict, or "undecided" where all horizons are short."""
    longest = max(norms, default=0)
    reason = f"up to H = {longest} {_describe(fit)}"
    if longest < CHAOTIC:
        holds, reason = None, f"no horizon of {CHAOTIC} or more was measured; {reason}"
    return judged(id, holds, reason, numbers)


def _by_seed(table: Table, model: str) -> dict[Any, dict[int, np.ndarray]]:
    """The norms by seed and horizon."""
    own = table.select(model=model)
    return {seed: norms_by_horizon(own.select(seed=seed), model) for seed in seeds_of(own)}


def _one_step(table: Table) -> Verdict:
    names = [name for name in ("one-step", FLAGGED) if name in table.unique("model")]
    norms = {name: _by_seed(table, name) for name in names}
    fits = {name: [fitted_growth(own) for own in of_seeds.values()] for name, of_seeds in norms.items()}
    answers = [grows_exponentially(fit) for of_seeds in fits.values() for fit in of_seeds]
    holds = answers[0] if len(set(answers)) == 1 else None
    if any(False in map(grows_exponentially, of_seeds) for of_seeds in fits.values()):
        # One of the two models that does not grow is enough, if it does not with any seed.
        never = any({*map(grows_exponentially, of_seeds)} == {False} for of_seeds in fits.values())
        holds = False if never else None
    reason = "; ".join(f"{name}: {', '.join(map(_describe, of_seeds))}" for name, of_seeds in fits.items())
    fewest = (
        min((len(of_seeds) for of_seeds in fits.values()), default=0),
        min((len(own) for of_seeds in norms.values() for own in of_seeds.values()), default=0),
    )
    if len(names) < 2:
        holds, reason = None, f"needs both one-step models; {reason}"
    elif fewest[0] < GROWTH_SEEDS or fewest[1] < GROWTH_HORIZONS:
        holds, reason = None, f"{fewest[0]} seeds at {fewest[1]} horizons are too few; {reason}"
    numbers = {name: [_summary(fit) for fit in of_seeds] for name, of_seeds in fits.items()}
    return judged("pendulum.one_step", holds, reason, numbers)


def _transformer(table: Table, fits: Table) -> Verdict:
    id, norms = "pendulum.transformer", _by_seed(table, "transformer")
    changes = [change(own) for own in norms.values()]
    horizons = {horizon for own in norms.values() for horizon in own}
    if not horizons:
        return judged(id, None, "no transformer was fitted")
    truth = {h: values for h, values in norms_by_horizon(table, "truth").items() if h in horizons}
    losses = fits.select(model="transformer").values("loss")
    worst = float(losses.max()) if losses.size else float("nan")
    holds = unanimous([-value for value in changes], true_above=-FLAT, false_below=-FLAT)
    reason = f"it changes by a factor {in_range(changes)}, the true one by {change(truth):.3g}"
    if not change(truth) > FLAT:
        holds, reason = None, f"at these horizons the true one is as flat: {reason}"
    if not worst <= ACCURATE:
        holds, reason = None, f"it is not fitted: it misses {worst:.3g} of the variance; {reason}"
    numbers = {"change": changes, "true_change": change(truth), "largest_loss": worst}
    return judged(id, holds, reason, numbers)


def _landscape(table: Table) -> list[Verdict]:
    """Whether the transformer's landscape is smoother than the true one, follows it, and is accurate."""
    horizon = max(table.unique("horizon"), default=0)
    rows = table.select(horizon=horizon)
    true_rows, own = rows.select(model="truth"), rows.select(model="transformer")
    truth, ids = true_rows.values("return"), ("pendulum.landscape", "pendulum.accurate")
    if not len(own):
        return [judged(id, None, "no transformer was fitted", horizon=horizon) for id in ids]
    seeds = [own.select(seed=seed) for seed in seeds_of(own)]
    moves = [movement(one) / movement(true_rows) for one in seeds]
    agree = [correlation(truth, one.values("return")) for one in seeds]
    missed = [unexplained(truth, one.values("return")) for one in seeds]
    smooth = unanimous([-value for value in moves], true_above=-SMOOTH, false_below=-ROUGH)
    follows = unanimous(agree, true_above=FOLLOWS, false_below=ASTRAY)
    accurate = unanimous([-value for value in missed], true_above=-ACCURATE, false_below=-INACCURATE)
    holds, reason = both(smooth, follows), f"it moves by {in_range(moves)} of what the true one does"
    reason += f"; their correlation is {in_range(agree)}"
    ranges = movement(true_rows) / float(np.ptp(truth))
    if ranges < 4.0:
        holds, reason = None, f"at this horizon the true landscape is smooth itself: {reason}"
    numbers = {"horizon": horizon, "moves": moves, "correlation": agree, "unexplained_variance": missed}
    return [
        judged(ids[0], holds, reason, numbers, horizon=horizon),
        judged(ids[1], accurate, f"it leaves {in_range(missed)} of it unexplained", numbers, horizon=horizon),
    ]
