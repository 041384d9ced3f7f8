"""Figures 6, 7, 13 and 14: every method on the Myriad tasks (section 4.3)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from ..drawing.charts import Chart
from ..statistics import bootstrap_interval, interquartile_mean
from ..sweeps import Grid, Scale
from ..tasks import MYRIAD_TASKS
from . import scales
from .comparison import by_preset, compare, decide_runs, Difference, difference, opposite, separated
from .curves import curve_panel, horizon_panel, iqm_spread
from .experiment import Tables, Text
from .rules import DROP, GOOD, judged, LONG, LONGEST, MARGIN
from .trained_runs import pick, Run, selected, to_scores, unique
from .training import AbstractSweepExperiment
from .verdicts import both, Verdict


ASMS = (*scales.ACTION_SEQUENCE_MODELS, "one-step")
HISTORY_MODELS = ("history-transformer", "history-lstm")
HISTORIES = ("transformer", "history-transformer", "lstm", "history-lstm")
EFFICIENT = (*ASMS, "sac")
# Appendix E.2 sweeps these two for soft actor-critic.
SAC_RATES, SAC_ENTROPIES = (1e-3, 1e-4, 1e-5), [1.0, 0.01, 0.001]
_SMOKE_SAC = {"warmup_steps": 20, "batch_size": 8}
_HORIZONS = (20, 100, 500, 50, 200)


@final
class Myriad(AbstractSweepExperiment):
    """Figures 6, 7, 13 and 14."""

    name = "myriad"
    title = "every method on the Myriad tasks: final scores, learning curves, history models, SAC"
    texts: ClassVar = {
        "6": Text(
            "Sample efficiency on Myriad",
            "Action-sequence models with an LSTM or a transformer learn from fewer environment steps than soft "
            "actor-critic; differentiating through a one-step model does not.",
        ),
        "7": Text(
            "Credit assignment against the horizon on Myriad",
            "With an LSTM or a transformer, final performance holds up to 500 steps; with a plain RNN or a one-"
            "step model it falls past 100. Models that are also fed the states do worse than those fed actions "
            "alone.",
        ),
        "13": Text(
            "Architectures by task",
            "The runs behind Figure 7, one panel a task: better backbones hold longer.",
        ),
        "14": Text(
            "Histories by task",
            "The runs behind Figure 7, one panel a task: models of actions alone do better than models of whole "
            "histories.",
        ),
    }

    def grids(self, scale: Scale) -> list[Grid]:
        if scale == "smoke":
            # Compiling is all that takes time: only what is cheapest is there for both tasks.
            one = scales.SMOKE_TASKS[:1]
            return [
                Grid(scales.SMOKE_TASKS, (10,), ("one-step",), scales.SMOKE, scales.SMOKE_SETTINGS),
                Grid(one, (10,), ("lstm", "history-lstm"), scales.SMOKE, scales.SMOKE_SETTINGS),
                Grid(one, (10,), ("sac",), scales.SMOKE, _SMOKE_SAC),
            ]
        if scale == "cpu":
            methods = (*ASMS, *HISTORY_MODELS, "sac")
            # A transformer at this horizon would take as long as all the rest.
            few = Grid(scales.CPU_TASKS, (500,), ("one-step", "rnn", "lstm"), scales.CPU)
            shorter = [Grid(scales.CPU_TASKS, (horizon,), methods, scales.CPU) for horizon in (20, 100, 50)]
            return [*shorter, few]
        paper, default = scales.both_presets(scales.PAPER)
        grids = []
        for models in (ASMS, HISTORY_MODELS):
            for horizon in _HORIZONS:
                grids.append(Grid(MYRIAD_TASKS, (horizon,), models, paper, scales.ENTROPIES))
                grids.append(Grid(MYRIAD_TASKS, (horizon,), models, default))
        for horizon in _HORIZONS:
            grids += _sac_grids(horizon, paper)
            grids.append(Grid(MYRIAD_TASKS, (horizon,), ("sac",), default))
        return grids

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        return by_preset(selected(tables, self.method), judge_myriad)

    def charts(self, tables: Tables) -> list[Chart]:
        runs = selected(tables, self.method)
        return [
            chart
            for preset in sorted(unique(runs, "preset"))
            for chart in _charts(pick(runs, preset=preset), "" if preset == "default" else f"_{preset}")
        ]


def _sac_grids(horizon: int, options: Mapping[str, Any]) -> list[Grid]:
    """One grid for each learning rate, which actor and critic share."""
    return [
        Grid(
            MYRIAD_TASKS,
            (horizon,),
            ("sac",),
            options,
            {"critic_learning_rate": rate, "policy_learning_rate": rate, "temperature": SAC_ENTROPIES},
        )
        for rate in SAC_RATES
    ]


def judge_myriad(runs: Sequence[Run]) -> list[Verdict]:
    """The verdicts on runs of one preset."""

    def more_efficient(model: str, than: str) -> Verdict:
        part = "" if than == "sac" else f"_{than.replace('-', '_')}"
        return compare(f"myriad.efficient.{model}{part}", runs, (model, than), MARGIN, value="area")

    longest = pick(runs, horizon=LONGEST)
    return [
        *(_hold(runs, model) for model in ("lstm", "transformer")),
        *(_fall(runs, model) for model in ("rnn", "one-step")),
        compare("myriad.one_step_below_lstm", longest, ("lstm", "one-step"), MARGIN),
        *(
            compare(f"myriad.history.{backbone}", longest, (backbone, f"history-{backbone}"), MARGIN)
            for backbone in ("lstm", "transformer")
        ),
        *(more_efficient(model, than) for than in ("sac", "one-step") for model in ("lstm", "transformer")),
        compare("myriad.efficient.one_step", runs, ("one-step", "sac"), MARGIN, value="area", negated=True),
    ]


def _hold(runs: Sequence[Run], model: str) -> Verdict:
    """Whether a method holds from one horizon to the other, over all tasks and on the worst."""
    id, own = f"myriad.hold.{model}", pick(runs, method=model)
    missing = [str(horizon) for horizon in (LONG, LONGEST) if horizon not in unique(own, "horizon")]
    if missing:
        return judged(id, None, f"{model} was not trained at H = {' and '.join(missing)}")
    end, start = (pick(own, horizon=horizon) for horizon in (LONGEST, LONG))
    found, scores = difference(end, start, by_horizon=False), to_scores(end)
    if found is None or scores is None:
        return judged(id, None, f"{model} has no task at both H = {LONG} and {LONGEST}")
    interval, tasks = bootstrap_interval(scores), _by_task(end, start)
    worst = min(tasks, key=lambda task: tasks[task].estimate)
    answer = both(
        found.above(-DROP), separated(interval, GOOD), *(one.above(-DROP) for one in tasks.values())
    )
    numbers = {**found.summary(), "horizons": [LONGEST, LONG], "interval_at_longest": list(interval)}
    numbers["iqm_at_longest"] = interquartile_mean(scores)
    numbers["tasks"] = {task: one.summary() for task, one in tasks.items()}
    reason = f"H = {LONGEST} against H = {LONG}: {found}; on the worst task {tasks[worst]}"
    return decide_runs(id, answer, reason, numbers, end + start)


def _by_task(end: Sequence[Run], start: Sequence[Run]) -> dict[str, Difference]:
    found = {
        task: difference(pick(end, task=task), pick(start, task=task), by_horizon=False)
        for task in unique(end, "task")
    }
    return {task: one for task, one in found.items() if one is not None}


def _fall(runs: Sequence[Run], model: str) -> Verdict:
    """Whether a method fails at the longest horizon."""
    id = f"myriad.fall.{model.replace('-', '_')}"
    end = pick(runs, method=model, horizon=LONGEST)
    scores = to_scores(end)
    if scores is None:
        return judged(id, None, f"{model} was not trained at H = {LONGEST}")
    interval, mean = bootstrap_interval(scores), interquartile_mean(scores)
    numbers = {"iqm": mean, "interval": list(interval), "num_compared": len(scores.tasks)}
    reason = (
        f"at H = {LONGEST} its interquartile mean is {mean:z.3f} [{interval.low:z.3f}, {interval.high:z.3f}]"
    )
    return decide_runs(id, opposite(separated(interval, GOOD)), reason, numbers, end)


def _charts(runs: Sequence[Run], suffix: str) -> list[Chart]:
    """The four figures under one preset."""
    preset = f" ({suffix.strip('_') or 'default'} preset)"
    horizons, tasks = sorted(unique(runs, "horizon")), unique(runs, "task")
    efficiency = [
        curve_panel(pick(runs, method=EFFICIENT, horizon=horizon), f"H = {horizon}", iqm_spread)
        for horizon in horizons
    ]
    final = [
        horizon_panel(pick(runs, method=ASMS), "action-sequence and one-step models"),
        horizon_panel(pick(runs, method=HISTORIES), "action-sequence and history models"),
    ]
    chart = f"{len(tasks)} Myriad tasks, interquartile mean and 95% interval{preset}"
    return [
        Chart("6", f"figure_6{suffix}", f"learning curves, {chart}", efficiency, 3),
        Chart("7", f"figure_7{suffix}", f"missing at the end against the horizon, {chart}", final, 2),
        *(
            Chart(
                figure,
                f"figure_{figure}{suffix}",
                f"missing at the end against the horizon by task{preset}",
                [horizon_panel(pick(runs, method=methods, task=task), task) for task in tasks],
                4,
            )
            for figure, methods in (("13", ASMS), ("14", HISTORIES))
        ),
    ]


EXPERIMENT = Myriad()
