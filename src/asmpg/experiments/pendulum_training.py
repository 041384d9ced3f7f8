"""Figures 4 and 10: optimising the double pendulum through models and through the true simulator (section 4.2)."""

from collections.abc import Sequence

from ..drawing.charts import Chart
from .comparison import by_preset, compare, MARGIN
from .curves import curve_panel, spread_panel, std_spread
from .experiment import Experiment, Tables
from .trained_runs import pick, Run, selected, summarise, unique
from .training import Training
from .verdicts import decide, Verdict


# The motion is chaotic from about this horizon on.
LONG = 50
ASMS = ("transformer", "lstm", "rnn")


def judge(tables: Tables) -> Sequence[Verdict]:
    """Of every action-sequence model: whether it beats the simulator at the longest horizon."""
    return by_preset(selected(tables), _judge)


def _judge(runs: Sequence[Run]) -> Sequence[Verdict]:
    longest = max(unique(pick(runs, method="simulator"), "horizon"), default=0)
    verdicts = []
    for model in ASMS:
        id = f"pendulum_training.{model}"
        claim = f"at the longest horizon, the {model} model leads higher than the true simulator, by {MARGIN}"
        if longest < LONG:
            verdicts.append(decide(id, claim, None, f"the simulator was not used at H = {LONG} or more", {}))
        else:
            verdicts.append(compare(id, claim, pick(runs, horizon=longest), (model, "simulator"), MARGIN))
    return verdicts


def charts(tables: Tables) -> list[Chart]:
    """Figure 4, final scores against the horizon; Figure 10, learning curves by horizon."""
    runs, found = selected(tables), []
    for preset in sorted(unique(runs, "preset")):
        own = pick(runs, preset=preset)
        suffix = "" if preset == "default" else f"_{preset}"
        horizons = sorted(unique(own, "horizon"))
        curves = [
            curve_panel(pick(own, horizon=horizon), f"H = {horizon}", std_spread) for horizon in horizons
        ]
        title = "double pendulum after optimisation (mean and standard deviation)"
        found.append(Chart("4", f"figure_4{suffix}", title, [spread_panel(own, "final score")]))
        title = "double pendulum, learning curves (mean and standard deviation)"
        found.append(Chart("10", f"figure_10{suffix}", title, curves, 2))
    return found


EXPERIMENT = Experiment(
    "pendulum_training",
    "the double pendulum optimised through models and through the true simulator",
    Training("pendulum"),
    judge,
    charts=charts,
    summarise=summarise,
)
