"""Figures 11 and 12: the online decision transformer on the Myriad tasks (Appendix F.3)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..drawing.charts import Chart, Panel
from ..statistics import bootstrap_interval, interquartile_mean
from .comparison import by_preset, compare, decide_runs, difference, MARGIN, opposite, separated
from .curves import curve_panel, horizon_panel, std_spread
from .experiment import Experiment, Tables
from .trained_runs import pick, Run, selected, summarise, to_scores, unique
from .training import Training
from .verdicts import both, decide, Verdict


EXPERT, OVERSHOT, ASM, ONE_STEP = "odt, expert return", "odt, overshot return", "transformer", "one-step"
# A score below POOR is poor; a loss of more than CATASTROPHE is a catastrophe.
POOR, CATASTROPHE = 0.5, 0.5
MOULD = "mould_fungicide"


def method(row: Mapping[str, Any]) -> str:
    """The model and, of the decision transformer, what it was asked for."""
    return f"odt, {row['return_target']} return" if row["model"] == "odt" else row["model"]


def judge(tables: Tables) -> Sequence[Verdict]:
    """The claims about both figures."""
    return by_preset(selected(tables, method), _judge)


def _judge(runs: Sequence[Run]) -> Sequence[Verdict]:
    one_step = f"the decision transformer ends below the one-step model, by {MARGIN}"
    return [
        _poor(runs),
        compare("odt.below_one_step", one_step, runs, (ONE_STEP, EXPERT), MARGIN),
        _worse_with_horizon(runs),
        _every_task(runs),
        _overshooting(runs),
    ]


def _poor(runs: Sequence[Run]) -> Verdict:
    claim = f"the decision transformer does poorly on Myriad: its score over all tasks and horizons is below {POOR}"
    own = pick(runs, method=EXPERT)
    scores = to_scores(own)
    if scores is None:
        return decide("odt.poor", claim, None, "no decision transformer was trained", {})
    interval, mean = bootstrap_interval(scores), interquartile_mean(scores)
    reason = f"its interquartile mean is {mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    numbers = {"iqm": mean, "interval": list(interval)}
    return decide_runs("odt.poor", claim, opposite(separated(interval, POOR)), reason, numbers, own)


def _worse_with_horizon(runs: Sequence[Run]) -> Verdict:
    claim = f"the decision transformer ends lower at the longest horizon than at the shortest, by {MARGIN}"
    own = pick(runs, method=EXPERT)
    horizons = sorted(unique(own, "horizon"))
    if len(horizons) < 2:
        return decide("odt.worse_with_horizon", claim, None, "needs two horizons", {})
    start, end = (pick(own, horizon=horizon) for horizon in (horizons[0], horizons[-1]))
    found = difference(start, end, by_horizon=False)
    if found is None:
        return decide("odt.worse_with_horizon", claim, None, "no task has both horizons", {})
    reason = f"H = {horizons[0]} against H = {horizons[-1]}: {found}"
    return decide_runs(
        "odt.worse_with_horizon", claim, found.above(MARGIN), reason, found.summary(), start + end
    )


def _every_task(runs: Sequence[Run]) -> Verdict:
    claim = "the transformer action-sequence model ends above the decision transformer on every task"
    found = {
        task: difference(pick(runs, method=ASM, task=task), pick(runs, method=EXPERT, task=task))
        for task in unique(runs, "task")
    }
    known = {task: one for task, one in found.items() if one is not None}
    if not known or len(known) < len(found):
        return decide("odt.every_task", claim, None, "both methods are needed on every task", {})
    numbers = {task: one.summary() for task, one in known.items()}
    reason = "; ".join(f"{task}: {one}" for task, one in known.items())
    holds = both(*(one.above(0.0) for one in known.values()))
    return decide_runs("odt.every_task", claim, holds, reason, numbers, pick(runs, method=(ASM, EXPERT)))


def _overshooting(runs: Sequence[Run]) -> Verdict:
    claim = f"asking for too high a return is catastrophic on {MOULD}: it costs more than {CATASTROPHE} of the score"
    return compare("odt.overshooting", claim, pick(runs, task=MOULD), (EXPERT, OVERSHOT), CATASTROPHE)


def charts(tables: Tables) -> list[Chart]:
    """Figure 11, aggregates against the horizon; Figure 12, learning curves by task and horizon."""
    runs, found = selected(tables, method), []
    for preset in sorted(unique(runs, "preset")):
        own = pick(runs, preset=preset)
        suffix = "" if preset == "default" else f"_{preset}"
        tasks, horizons = unique(own, "task"), sorted(unique(own, "horizon"))
        curves = [
            curve_panel(pick(own, task=task, horizon=horizon), f"{task}, H = {horizon}", std_spread)
            for task in tasks
            for horizon in horizons
        ]
        title = "online decision transformer, interquartile mean and 95% interval"
        found.append(Chart("11", f"figure_11{suffix}", title, overall_panels(own), 2))
        title = "online decision transformer, learning curves (mean and standard deviation)"
        found.append(Chart("12", f"figure_12{suffix}", title, curves, len(horizons)))
    return found


def overall_panels(runs: Sequence[Run]) -> list[Panel]:
    """All tasks with the methods that were trained on each of them; if there are others, what all methods share."""
    tasks, methods = unique(runs, "task"), unique(runs, "method")
    trained = {name: unique(pick(runs, method=name), "task") for name in methods}
    whole = tuple(name for name in methods if len(trained[name]) == len(tasks))
    shared = tuple(task for task in tasks if all(task in own for own in trained.values()))
    panels = [horizon_panel(pick(runs, method=whole), f"{len(tasks)} tasks")] if whole else []
    if shared and len(whole) < len(methods):
        panels.append(horizon_panel(pick(runs, task=shared), ", ".join(shared)))
    return panels or [horizon_panel(runs, f"up to {len(tasks)} tasks")]


EXPERIMENT = Experiment(
    "odt",
    "the online decision transformer on the Myriad tasks",
    Training("odt"),
    judge,
    charts=charts,
    summarise=lambda tables: summarise(tables, method),
)
