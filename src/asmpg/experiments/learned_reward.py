"""Figure 8: the toy credit-assignment task with its reward known and learned (Appendix C)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from ..drawing.charts import Chart
from ..sweeps import Grid, Scale
from . import scales
from .comparison import by_preset, compare
from .curves import curve_panel, iqm_spread
from .experiment import Tables, Text
from .rules import COST
from .trained_runs import pick, Run, selected, unique, Value
from .training import AbstractSweepExperiment
from .verdicts import Verdict


_LEARNED = ", learned reward"


@final
class LearnedReward(AbstractSweepExperiment):
    """Figure 8."""

    name = "learned_reward"
    title = "the toy task with its reward known and learned"
    texts: ClassVar = {
        "8": Text(
            "A learned reward",
            "On the toy task, learning the reward function along with the dynamics costs nothing noticeable.",
        )
    }

    def grids(self, scale: Scale) -> list[Grid]:
        task, both = ("credit_assignment",), {"learned_reward": [False, True]}
        if scale == "smoke":
            return [Grid(task, (10,), ("lstm",), {**scales.SMOKE, **both}, scales.SMOKE_SETTINGS)]
        if scale == "cpu":
            return [Grid(task, (20,), ("transformer", "lstm"), {**scales.CPU, "seeds": 10, **both})]
        paper, default = scales.both_presets({**scales.PAPER, **both})
        return [
            Grid(task, (20,), scales.ACTION_SEQUENCE_MODELS, paper, scales.ENTROPIES),
            Grid(task, (20,), scales.ACTION_SEQUENCE_MODELS, default),
        ]

    def method(self, row: Mapping[str, Any]) -> str:
        return row["model"] + _LEARNED * bool(row["learned_reward"])

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        return by_preset(selected(tables, self.method), _judge)

    def charts(self, tables: Tables) -> list[Chart]:
        runs, found = selected(tables, self.method), []
        for preset in sorted(unique(runs, "preset")):
            own = pick(runs, preset=preset)
            suffix = "" if preset == "default" else f"_{preset}"
            curves = [
                curve_panel(pick(own, method=(model, model + _LEARNED)), model, iqm_spread)
                for model in _models(own)
            ]
            title = "known and learned reward, toy credit assignment, interquartile mean and 95% interval"
            found.append(Chart("8", f"figure_8{suffix}", title, curves))
        return found


def _models(runs: Sequence[Run]) -> list[str]:
    return [name for name in unique(runs, "method") if not name.endswith(_LEARNED)]


def _judge(runs: Sequence[Run]) -> list[Verdict]:
    """Of every model: what learning the reward costs in the end, and on the way."""
    verdicts = []
    parts: tuple[tuple[str, Value], ...] = (("final", "score"), ("efficiency", "area"))
    for model in _models(runs) or ["transformer"]:
        pair = (model + _LEARNED, model)
        for part, value in parts:
            id = f"learned_reward.{part}.{model}"
            verdicts.append(compare(id, runs, pair, -COST, value=value, model=model))
    return verdicts


EXPERIMENT = LearnedReward()
