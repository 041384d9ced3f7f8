"""Figures 11 and 12: the online decision transformer on the Myriad tasks (Appendix F.3)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from ..drawing.charts import Chart, Panel
from ..statistics import bootstrap_interval, interquartile_mean
from ..sweeps import Grid, Scale
from ..tasks import MYRIAD_TASKS
from . import scales
from .comparison import by_preset, compare, decide_runs, difference, opposite, separated
from .curves import curve_panel, horizon_panel, std_spread
from .experiment import Tables, Text
from .rules import CATASTROPHE, judged, MARGIN, POOR
from .trained_runs import pick, Run, selected, to_scores, unique
from .training import AbstractSweepExperiment
from .verdicts import both, Verdict


EXPERT, OVERSHOT, ASM, ONE_STEP = "odt, expert return", "odt, overshot return", "transformer", "one-step"
MOULD = "mould_fungicide"
_SMOKE = {"warmup_steps": 20, "batch_size": 4, "updates_per_iteration": 4, "context": 4}


@final
class OnlineDecisionTransformer(AbstractSweepExperiment):
    """Figures 11 and 12: asked for the optimum, and for twice as much."""

    name = "odt"
    title = "the online decision transformer on the Myriad tasks"
    texts: ClassVar = {
        "11": Text(
            "The online decision transformer on Myriad",
            "Trained from scratch online, a decision transformer does poorly on these tasks, worse than a one-"
            "step model, and worse the longer the episode; action-sequence models beat it on every task.",
        ),
        "12": Text(
            "The online decision transformer by task",
            "The runs behind Figure 11. Asking for more than the optimum can be a catastrophe, as on mould "
            "fungicide.",
        ),
    }

    def grids(self, scale: Scale) -> list[Grid]:
        targets = {"return_target": ["expert", "overshot"]}
        compared, horizons = (ASM, ONE_STEP), (20, 50, 100)
        if scale == "smoke":
            return [
                Grid((task,), (10,), ("odt",), scales.SMOKE, {**_SMOKE, "return_target": target})
                for task, target in zip(scales.SMOKE_TASKS, targets["return_target"], strict=True)
            ]
        if scale == "cpu":
            mould = (MOULD,)
            tasks = (*scales.CPU_TASKS, *mould)
            # The only claim about asking for too much is about this task; a decision transformer is the slowest of all.
            return [
                Grid(tasks, horizons, ("odt",), scales.CPU, {"return_target": ["expert"]}),
                Grid(tasks, horizons, compared, scales.CPU),
                Grid(mould, horizons, ("odt",), scales.CPU, {"return_target": ["overshot"]}),
            ]
        paper, default = scales.both_presets(scales.PAPER)
        swept = {**targets, "episodes_per_iteration": [1, 4, 16]}
        return [
            Grid(MYRIAD_TASKS, horizons, ("odt",), paper, swept),
            Grid(MYRIAD_TASKS, horizons, ("odt",), default, targets),
            Grid(MYRIAD_TASKS, horizons, compared, paper, scales.ENTROPIES),
            Grid(MYRIAD_TASKS, horizons, compared, default),
        ]

    def method(self, row: Mapping[str, Any]) -> str:
        return f"odt, {row['return_target']} return" if row["model"] == "odt" else row["model"]

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        return by_preset(selected(tables, self.method), _judge)

    def charts(self, tables: Tables) -> list[Chart]:
        runs, found = selected(tables, self.method), []
        for preset in sorted(unique(runs, "preset")):
            own = pick(runs, preset=preset)
            suffix = "" if preset == "default" else f"_{preset}"
            tasks, horizons = unique(own, "task"), sorted(unique(own, "horizon"))
            curves = [
                curve_panel(pick(own, task=task, horizon=horizon), f"{task}, H = {horizon}", std_spread)
                for task in tasks
                for horizon in horizons
            ]
            title = f"online decision transformer, interquartile mean and 95% interval ({preset} preset)"
            found.append(Chart("11", f"figure_11{suffix}", title, overall_panels(own), 2))
            title = (
                f"online decision transformer, learning curves (mean and standard deviation, {preset} preset)"
            )
            found.append(Chart("12", f"figure_12{suffix}", title, curves, len(horizons)))
        return found


def _judge(runs: Sequence[Run]) -> Sequence[Verdict]:
    return [
        _poor(runs),
        compare("odt.below_one_step", runs, (ONE_STEP, EXPERT), MARGIN),
        _worse_with_horizon(runs),
        _every_task(runs),
        compare("odt.overshooting", pick(runs, task=MOULD), (EXPERT, OVERSHOT), CATASTROPHE),
    ]


def _poor(runs: Sequence[Run]) -> Verdict:
    own = pick(runs, method=EXPERT)
    scores = to_scores(own)
    if scores is None:
        return judged("odt.poor", None, "no decision transformer was trained")
    interval, mean = bootstrap_interval(scores), interquartile_mean(scores)
    reason = f"its interquartile mean is {mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    numbers = {"iqm": mean, "interval": list(interval)}
    return decide_runs("odt.poor", opposite(separated(interval, POOR)), reason, numbers, own)


def _worse_with_horizon(runs: Sequence[Run]) -> Verdict:
    own = pick(runs, method=EXPERT)
    horizons = sorted(unique(own, "horizon"))
    if len(horizons) < 2:
        return judged("odt.worse_with_horizon", None, "needs two horizons")
    start, end = (pick(own, horizon=horizon) for horizon in (horizons[0], horizons[-1]))
    found = difference(start, end, by_horizon=False)
    if found is None:
        return judged("odt.worse_with_horizon", None, "no task has both horizons")
    reason = f"H = {horizons[0]} against H = {horizons[-1]}: {found}"
    return decide_runs("odt.worse_with_horizon", found.above(MARGIN), reason, found.summary(), start + end)


def _every_task(runs: Sequence[Run]) -> Verdict:
    found = {
        task: difference(pick(runs, method=ASM, task=task), pick(runs, method=EXPERT, task=task))
        for task in unique(runs, "task")
    }
    known = {task: one for task, one in found.items() if one is not None}
    if not known or len(known) < len(found):
        return judged("odt.every_task", None, "both methods are needed on every task")
    numbers = {task: one.summary() for task, one in known.items()}
    reason = "; ".join(f"{task}: {one}" for task, one in known.items())
    holds = both(*(one.above(0.0) for one in known.values()))
    return decide_runs("odt.every_task", holds, reason, numbers, pick(runs, method=(ASM, EXPERT)))


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


EXPERIMENT = OnlineDecisionTransformer()
