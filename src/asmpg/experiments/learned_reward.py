"""Figure 8: the toy credit-assignment task with its reward known and learned (Appendix C)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..drawing.charts import Chart
from .comparison import by_preset, compare
from .curves import curve_panel, iqm_spread
from .experiment import Experiment, Tables
from .trained_runs import pick, Run, selected, summarise, unique
from .training import Training
from .verdicts import Verdict


# A learned reward costs nothing if it loses less than this much score.
COST = 0.05
_LEARNED = ", learned reward"


def method(row: Mapping[str, Any]) -> str:
    """The model, and whether its reward was learned."""
    return row["model"] + _LEARNED * bool(row["learned_reward"])


def judge(tables: Tables) -> Sequence[Verdict]:
    """Of every model: what learning the reward costs in the end, and on the way."""
    return by_preset(selected(tables, method), _judge)


def _judge(runs: Sequence[Run]) -> Sequence[Verdict]:
    verdicts = []
    models = [name for name in unique(runs, "method") if not name.endswith(_LEARNED)] or ["transformer"]
    for model in models:
        pair = (model + _LEARNED, model)
        for part, value, what in (
            ("final", "score", "final score"),
            ("efficiency", "area", "mean score over all steps"),
        ):
            claim = f"a learned reward costs the {model} model less than {COST} of its {what}"
            verdicts.append(compare(f"learned_reward.{part}.{model}", claim, runs, pair, -COST, value=value))
    return verdicts


def charts(tables: Tables) -> list[Chart]:
    """Figure 8: learning curves, one panel a model."""
    runs, found = selected(tables, method), []
    for preset in sorted(unique(runs, "preset")):
        own = pick(runs, preset=preset)
        suffix = "" if preset == "default" else f"_{preset}"
        models = [name for name in unique(own, "method") if not name.endswith(_LEARNED)]
        curves = [
            curve_panel(pick(own, method=(model, model + _LEARNED)), model, iqm_spread) for model in models
        ]
        title = "known and learned reward, toy credit assignment, interquartile mean and 95% interval"
        found.append(Chart("8", f"figure_8{suffix}", title, curves))
    return found


EXPERIMENT = Experiment(
    "learned_reward",
    "the toy task with its reward known and learned",
    Training("learned_reward"),
    judge,
    charts=charts,
    summarise=lambda tables: summarise(tables, method),
)
