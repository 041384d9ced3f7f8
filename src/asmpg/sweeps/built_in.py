"""The suites of the paper's tables that are grids of training runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..tasks import MYRIAD_TASKS
from .suite import Grid


# Where credit assignment shows most, so that few tasks say much.
CPU_TASKS = ("harvest", "hiv_treatment", "timber_harvest")
SMOKE_TASKS = ("harvest", "timber_harvest")

ACTION_SEQUENCE_MODELS = ("transformer", "lstm", "rnn")
HISTORY_MODELS = ("history-transformer", "history-lstm")
# Appendix E.1 sweeps this weight for every model-based method, Appendix E.2 these two for soft actor-critic.
ENTROPIES = {"entropy": [0.1, 0.01, 0.001]}
SAC_RATES = (1e-3, 1e-4, 1e-5)
SAC_ENTROPIES = [1.0, 0.01, 0.001]

_SMOKE = {"steps": 80, "chunk_steps": 40, "seeds": 2}
_SMOKE_SETTINGS = {"warmup_steps": 20, "model_batch_size": 2, "policy_batch_size": 2}
_SMOKE_SAC = {"warmup_steps": 20, "batch_size": 8}
_SMOKE_ODT = {"warmup_steps": 20, "batch_size": 4, "updates_per_iteration": 4, "context": 4}
_CPU = {"steps": 8_000, "chunk_steps": 250, "seeds": 3}
_PAPER = {"steps": 200_000, "chunk_steps": 2_000, "seeds": 10}
_HORIZONS = (20, 100, 500, 50, 200)


def _both_presets(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paper's settings and ours, so that no method loses by old ones."""
    return [{**options, "preset": "paper"}, {**options, "preset": "default"}]


def _sac_grids(tasks: Sequence[str], horizons: Sequence[int], options: Mapping[str, Any]) -> list[Grid]:
    """One grid for each learning rate, which actor and critic share."""
    return [
        Grid(
            tasks,
            horizons,
            ("sac",),
            options,
            {"critic_learning_rate": rate, "policy_learning_rate": rate, "temperature": SAC_ENTROPIES},
        )
        for rate in SAC_RATES
    ]


def myriad(scale: str) -> list[Grid]:
    """Figures 6, 7, 13 and 14: every method on the Myriad tasks, the most telling first."""
    if scale == "smoke":
        # Compiling is all that takes time: only what is cheapest is there for both tasks.
        return [
            Grid(SMOKE_TASKS, (10,), ("one-step",), _SMOKE, _SMOKE_SETTINGS),
            Grid(SMOKE_TASKS[:1], (10,), ("lstm", "history-lstm"), _SMOKE, _SMOKE_SETTINGS),
            Grid(SMOKE_TASKS[:1], (10,), ("sac",), _SMOKE, _SMOKE_SAC),
        ]
    if scale == "cpu":
        methods = (*ACTION_SEQUENCE_MODELS, "one-step", *HISTORY_MODELS, "sac")
        # A transformer at this horizon would take as long as all the rest.
        few = Grid(CPU_TASKS, (500,), ("one-step", "rnn", "lstm"), _CPU)
        return [*(Grid(CPU_TASKS, (horizon,), methods, _CPU) for horizon in (20, 100, 50)), few]
    grids = []
    paper, default = _both_presets(_PAPER)
    for models in ((*ACTION_SEQUENCE_MODELS, "one-step"), HISTORY_MODELS):
        for horizon in _HORIZONS:
            grids.append(Grid(MYRIAD_TASKS, (horizon,), models, paper, ENTROPIES))
            grids.append(Grid(MYRIAD_TASKS, (horizon,), models, default))
    for horizon in _HORIZONS:
        grids += _sac_grids(MYRIAD_TASKS, (horizon,), paper)
        grids.append(Grid(MYRIAD_TASKS, (horizon,), ("sac",), default))
    return grids


def odt(scale: str) -> list[Grid]:
    """Figures 11 and 12: the online decision transformer, asked for the optimum and for twice as much."""
    targets = {"return_target": ["expert", "overshot"]}
    if scale == "smoke":
        return [
            Grid((task,), (10,), ("odt",), _SMOKE, {**_SMOKE_ODT, "return_target": target})
            for task, target in zip(SMOKE_TASKS, targets["return_target"], strict=True)
        ]
    compared = ("transformer", "one-step")
    if scale == "cpu":
        mould, horizons = ("mould_fungicide",), (20, 50, 100)
        tasks = (*CPU_TASKS, *mould)
        # The only claim about asking for too much is about this task; a decision transformer is the slowest of all.
        return [
            Grid(tasks, horizons, ("odt",), _CPU, {"return_target": ["expert"]}),
            Grid(tasks, horizons, compared, _CPU),
            Grid(mould, horizons, ("odt",), _CPU, {"return_target": ["overshot"]}),
        ]
    paper, default = _both_presets(_PAPER)
    swept = {**targets, "episodes_per_iteration": [1, 4, 16]}
    return [
        Grid(MYRIAD_TASKS, (20, 50, 100), ("odt",), paper, swept),
        Grid(MYRIAD_TASKS, (20, 50, 100), ("odt",), default, targets),
        Grid(MYRIAD_TASKS, (20, 50, 100), compared, paper, ENTROPIES),
        Grid(MYRIAD_TASKS, (20, 50, 100), compared, default),
    ]


def learned_reward(scale: str) -> list[Grid]:
    """Figure 8: the toy task with its reward known and learned."""
    task, both = ("credit_assignment",), {"learned_reward": [False, True]}
    if scale == "smoke":
        return [Grid(task, (10,), ("lstm",), {**_SMOKE, **both}, _SMOKE_SETTINGS)]
    if scale == "cpu":
        return [Grid(task, (20,), ("transformer", "lstm"), {**_CPU, "seeds": 10, **both})]
    paper, default = _both_presets({**_PAPER, **both})
    return [
        Grid(task, (20,), ACTION_SEQUENCE_MODELS, paper, ENTROPIES),
        Grid(task, (20,), ACTION_SEQUENCE_MODELS, default),
    ]


def pendulum(scale: str) -> list[Grid]:
    """Figures 4 and 10: optimisation through action-sequence models, one-step models and the true simulator."""
    task, methods = ("double_pendulum",), (*ACTION_SEQUENCE_MODELS, "one-step", "simulator")
    if scale == "smoke":
        return [Grid(task, (5,), ("lstm", "simulator"), _SMOKE, _SMOKE_SETTINGS)]
    if scale == "cpu":
        return [Grid(task, (5, 20, 50, 100), methods, _CPU)]
    paper, default = _both_presets({**_PAPER, "steps": 100_000})
    horizons = (5, 20, 50, 100)
    return [Grid(task, horizons, methods, paper, ENTROPIES), Grid(task, horizons, methods, default)]


BUILT_IN: dict[str, Callable[[str], list[Grid]]] = {
    "myriad": myriad,
    "odt": odt,
    "learned_reward": learned_reward,
    "pendulum": pendulum,
}
