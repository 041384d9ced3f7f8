"""Figures 6, 7, 13 and 14: every method on the Myriad tasks (section 4.3)."""

from collections.abc import Sequence

from ..drawing.charts import Chart
from ..statistics import bootstrap_interval, interquartile_mean
from .comparison import by_preset, compare, decide_runs, difference, MARGIN, opposite, separated
from .curves import curve_panel, horizon_panel, iqm_spread
from .experiment import Experiment, Tables
from .trained_runs import pick, Run, selected, summarise, to_scores, unique
from .training import Training
from .verdicts import both, decide, Verdict


# From LONG to LONGEST methods are said to fall or to hold; they hold if they lose less than DROP and stay above GOOD.
LONG, LONGEST, DROP, GOOD = 100, 500, 0.1, 0.5
ASMS = ("transformer", "lstm", "rnn", "one-step")
HISTORIES = ("transformer", "history-transformer", "lstm", "history-lstm")
EFFICIENT = ("transformer", "lstm", "rnn", "one-step", "sac")


def judge(tables: Tables) -> Sequence[Verdict]:
    """The claims about the four figures, under every preset there is."""
    return by_preset(selected(tables), _judge)


def _judge(runs: Sequence[Run]) -> Sequence[Verdict]:
    return [
        *(_long(runs, method, holds=True) for method in ("lstm", "transformer")),
        *(_long(runs, method, holds=False) for method in ("rnn", "one-step")),
        *(_history(runs, backbone) for backbone in ("lstm", "transformer")),
        *(_efficient(runs, method) for method in ("lstm", "transformer")),
        compare(
            "myriad.efficient.one_step",
            f"the one-step model is not more sample-efficient than SAC: its mean score over all steps is not higher by "
            f"{MARGIN}",
            runs,
            ("one-step", "sac"),
            MARGIN,
            value="area",
            negated=True,
        ),
    ]


def _long(runs: Sequence[Run], method: str, holds: bool) -> Verdict:
    """Whether a method holds, or falls, from one horizon to the other."""
    name = method.replace("-", "_")
    change = "loses less" if holds else "falls by more"
    claim = f"the {method} model {change} than {DROP} of its score from H = {LONG} to H = {LONGEST}"
    claim += f", and stays above {GOOD}" if holds else ""
    id = f"myriad.{'hold' if holds else 'fall'}.{name}"
    own = pick(runs, method=method)
    missing = [str(horizon) for horizon in (LONG, LONGEST) if horizon not in unique(own, "horizon")]
    if missing:
        return decide(id, claim, None, f"{method} was not trained at H = {' and '.join(missing)}", {})
    end, start = (pick(own, horizon=horizon) for horizon in (LONGEST, LONG))
    found, scores = difference(end, start, by_horizon=False), to_scores(end)
    if found is None or scores is None:
        return decide(id, claim, None, f"{method} has no task at both H = {LONG} and {LONGEST}", {})
    interval = bootstrap_interval(scores)
    kept = found.above(-DROP)
    answer = both(kept, separated(interval, GOOD)) if holds else opposite(kept)
    numbers = {**found.summary(), "horizons": [LONGEST, LONG], "interval_at_longest": list(interval)}
    numbers["iqm_at_longest"] = interquartile_mean(scores)
    reason = f"H = {LONGEST} against H = {LONG}: {found}"
    return decide_runs(id, claim, answer, reason, numbers, end + start)


def _history(runs: Sequence[Run], backbone: str) -> Verdict:
    claim = (
        f"a history model with the backbone {backbone} ends lower than the action-sequence model, by {MARGIN}"
    )
    return compare(f"myriad.history.{backbone}", claim, runs, (backbone, f"history-{backbone}"), MARGIN)


def _efficient(runs: Sequence[Run], method: str) -> Verdict:
    claim = f"the {method} model is more sample-efficient than SAC: its mean score over all steps is higher by {MARGIN}"
    return compare(f"myriad.efficient.{method}", claim, runs, (method, "sac"), MARGIN, value="area")


def charts(tables: Tables) -> list[Chart]:
    """Figures 6, 7, 13 and 14 for every preset."""
    runs, found = selected(tables), []
    for preset in sorted(unique(runs, "preset")):
        found += _charts(pick(runs, preset=preset), "" if preset == "default" else f"_{preset}")
    return found


def _charts(runs: Sequence[Run], suffix: str) -> list[Chart]:
    preset = f" ({suffix.strip('_')} preset)" if suffix else ""
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
        Chart("7", f"figure_7{suffix}", f"final score against the horizon, {chart}", final, 2),
        *(
            Chart(
                figure,
                f"figure_{figure}{suffix}",
                f"final score against the horizon by task{preset}",
                [horizon_panel(pick(runs, method=methods, task=task), task) for task in tasks],
                4,
            )
            for figure, methods in (("13", ASMS), ("14", HISTORIES))
        ),
    ]


EXPERIMENT = Experiment(
    "myriad",
    "every method on the Myriad tasks: final scores, learning curves, history models, SAC",
    Training("myriad"),
    judge,
    charts=charts,
    summarise=summarise,
)
