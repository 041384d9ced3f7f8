"""Figures 4 and 10: optimising the double pendulum through models and through the true simulator (section 4.2).

In two regimes. The text has the first action place the inner rod at `pi a_0`. Published code of the paper gives
`180 a_0` to sine and cosine as radians: dozens of turns, so that the return is a parabola in a_0 with hundreds of local
maxima on it, and a model that sees the parabola alone wins.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from ..drawing.charts import Chart
from ..statistics import bootstrap_interval
from ..sweeps import Grid, Scale
from . import scales
from .comparison import by_preset, decide_runs, difference, separated
from .curves import curve_panel, spread_panel, std_spread
from .experiment import Tables, Text
from .rules import CHAOTIC, judged, MARGIN
from .trained_runs import pick, Run, selected, to_scores, unique
from .training import AbstractSweepExperiment
from .verdicts import both, Verdict


# By regime: the amplitude of the first action, the ids of its verdicts, and what figures call it.
AMPLITUDES = {"text": math.pi, "published": 180.0}
_IDS = {"text": "pendulum_training", "published": "pendulum_training.published"}
_TITLES = {
    "text": "theta_1 = pi a_0, as the text has it",
    "published": "theta_1 = 180 a_0 radians, as published code has it: a parabola with hundreds of local maxima",
}
HORIZONS = (50, 100, 20, 5)
METHODS = (*scales.ACTION_SEQUENCE_MODELS, "one-step", "simulator")
# The amplitude stands in a method's name, as runs know of no other constants of a task.
_PUBLISHED = ", published amplitude"


@final
class PendulumTraining(AbstractSweepExperiment):
    """Figures 4 and 10."""

    name = "pendulum_training"
    suite_name = "pendulum"
    title = "the double pendulum optimised through models and through the true simulator"
    texts: ClassVar = {
        "4": Text(
            "Optimising a chaotic system",
            "On the double pendulum, a policy trained through an action-sequence model ends better than one "
            "trained through the differentiable simulator itself, the more so the longer the episode.",
        ),
        "10": Text(
            "Learning curves on the double pendulum", "The runs behind Figure 4, one panel a horizon."
        ),
    }

    def grids(self, scale: Scale) -> list[Grid]:
        task = ("double_pendulum",)
        if scale == "smoke":
            methods = ("lstm", "simulator")
            return [Grid(task, (5,), methods, scales.SMOKE, scales.SMOKE_SETTINGS, _constants("text"))]
        if scale == "cpu":
            options = {**scales.CPU, "seeds": 5}
            return [
                Grid(task, (horizon,), METHODS, options, {}, _constants(regime))
                for horizon in HORIZONS
                for regime in AMPLITUDES
            ]
        paper, default = scales.both_presets({**scales.PAPER, "steps": 100_000})
        return [
            Grid(task, HORIZONS, METHODS, options, settings, _constants(regime))
            for regime in AMPLITUDES
            for options, settings in ((paper, scales.ENTROPIES), (default, {}))
        ]

    def method(self, row: Mapping[str, Any]) -> str:
        return row["model"] + _PUBLISHED * (row.get("amplitude") == AMPLITUDES["published"])

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        runs = selected(tables, self.method)
        return [
            verdict
            for regime in AMPLITUDES
            for verdict in by_preset(_of_regime(runs, regime), lambda own, regime=regime: _judge(own, regime))
        ]

    def charts(self, tables: Tables) -> list[Chart]:
        runs, found = selected(tables, self.method), []
        for preset in sorted(unique(runs, "preset")):
            own = pick(runs, preset=preset)
            regimes = {name: group for name in AMPLITUDES if (group := _of_regime(own, name))}
            suffix = "" if preset == "default" else f"_{preset}"
            panels = [spread_panel(group, _TITLES[name]) for name, group in regimes.items()]
            title = f"double pendulum after optimisation, {preset} preset (mean and standard deviation)"
            found.append(Chart("4", f"figure_4{suffix}", title, panels, 2))
            for name, group in regimes.items():
                curves = [
                    curve_panel(pick(group, horizon=horizon), f"H = {horizon}", std_spread, references=True)
                    for horizon in sorted(unique(group, "horizon"))
                ]
                title = f"double pendulum, learning curves, {_TITLES[name]} (mean and standard deviation)"
                part = "" if name == "text" else f"_{name}"
                found.append(Chart("10", f"figure_10{part}{suffix}", title, curves, 2))
        return found


def _constants(regime: str) -> dict[str, float]:
    return {"amplitude": AMPLITUDES[regime]}


def _of_regime(runs: Sequence[Run], regime: str) -> list[Run]:
    """The runs of a regime, with methods by their plain names."""
    wanted = regime == "published"
    return [
        run.renamed(run.method.removesuffix(_PUBLISHED))
        for run in runs
        if run.method.endswith(_PUBLISHED) == wanted
    ]


def _judge(runs: Sequence[Run], regime: str) -> list[Verdict]:
    """Whether models beat the untrained policy and the simulator at the longest horizon."""
    longest = max(unique(pick(runs, method="simulator"), "horizon"), default=0)
    verdicts = []
    for model in scales.ACTION_SEQUENCE_MODELS:
        id = f"{_IDS[regime]}.{model}"
        own = pick(runs, horizon=longest, method=model)
        if longest < CHAOTIC:
            verdicts.append(judged(id, None, f"the simulator was not used at H = {CHAOTIC} or more"))
        else:
            verdicts.append(_beats(id, own, pick(runs, horizon=longest, method="simulator")))
    return verdicts


def _beats(id: str, own: Sequence[Run], simulator: Sequence[Run]) -> Verdict:
    found, gains = difference(own, simulator), to_scores(own, "gain")
    if found is None or gains is None:
        return judged(id, None, "needs the model and the simulator on the same task and horizon")
    gain = bootstrap_interval(gains)
    trained = separated(gain, 0.0)
    holds = both(trained, found.above(MARGIN))
    start = sum(run.value("start") for run in own) / len(own)
    numbers = {**found.summary(), "untrained": start, "gain": list(gain)}
    reason = f"above the untrained policy's {start:z.3f} by [{gain.low:+z.3f}, {gain.high:+z.3f}]"
    reason += f"; against the simulator: {found}"
    return decide_runs(id, holds, reason, numbers, [*own, *simulator])


EXPERIMENT = PendulumTraining()
