"""Figure 2: how far the policy gradient through fitted models points from the true one (section 4.1, Appendix F.1)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, final

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ..core.types import PRNGKey, Trajectory
from ..drawing.charts import Chart, Panel
from ..gradients.analysis import cosine_similarity, gradient_norm
from ..gradients.policies import HIDDEN_SIZE, TanhGaussianPolicy
from ..gradients.policy_gradient import policy_gradient
from ..models import AbstractDynamicsModel, Simulator
from ..models.normalisation import Normaliser
from ..sweeps import Scale
from ..tasks import make
from ..tasks.environment import AbstractEnvironment
from .experiment import AbstractExperiment, Report, Tables, Text
from .offline import (
    add_fit,
    Fit,
    fit,
    FLAGGED,
    for_seeds,
    if_fitted,
    make_models,
    mean_lines,
    perturbed_episodes,
    seed_keys,
    stacked,
)
from .rules import HIGH, judged, LONG, LONGEST, LOST
from .table import Table
from .verdicts import both, in_range, unanimous, Verdict


MODELS = ("one-step", FLAGGED, "rnn", "lstm", "transformer")
NOISE = 0.1


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a scale fixes."""

    horizons: tuple[int, ...]
    num_seeds: int
    transitions: int
    fit: Fit
    models: tuple[str, ...] = MODELS


SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting((6,), 1, 400, Fit.reduced(8), ("one-step",)),
    "cpu": Setting((5, 20, 100, 200, 500), 3, 20_000, Fit.reduced(1000)),
    "paper": Setting((5, 20, 50, 100, 200, 500), 10, 100_000, Fit.paper(20_000)),
}


def behaviour_policy(env: AbstractEnvironment, normaliser: Normaliser, *, key: PRNGKey) -> TanhGaussianPolicy:
    """A random policy whose actions vary: its last layer is drawn at the usual size, not at a training run's 0.01."""
    policy_key, weight_key = jax.random.split(key)
    policy = TanhGaussianPolicy(env, key=policy_key, normaliser=normaliser)
    weight = policy.layers[2].weight
    drawn = HIDDEN_SIZE**-0.5 * jax.random.normal(weight_key, weight.shape)
    return eqx.tree_at(lambda p: p.layers[2].weight, policy, drawn)


def prepare(
    env: AbstractEnvironment, num_episodes: int, policy: TanhGaussianPolicy, key: PRNGKey
) -> tuple[Trajectory, TanhGaussianPolicy]:
    """What all models of one seed share: the data and the true gradient."""
    episodes = perturbed_episodes(env, policy, NOISE, num_episodes, key=key)
    return episodes, policy_gradient(policy, Simulator(env), env, env.initial_state())[1]


def fit_and_compare(
    env: AbstractEnvironment,
    settings: Fit,
    model: AbstractDynamicsModel,
    given: tuple[TanhGaussianPolicy, Trajectory, TanhGaussianPolicy],
    key: PRNGKey,
) -> dict[str, Array]:
    """Fits one model and compares its policy gradient with the truth."""
    policy, episodes, truth = given
    fitted = fit(model, episodes, settings, key=key)
    estimate = policy_gradient(policy, fitted.model, env, env.initial_state())[1]
    return {
        "cosine": cosine_similarity(estimate, truth),
        "norm": gradient_norm(estimate),
        "true_norm": gradient_norm(truth),
        "loss": fitted.loss,
        "num_nonfinite": fitted.num_nonfinite,
    }


def measure(scale: Scale, report: Report) -> Tables:
    """One row a model, horizon and seed. Policies and data do not depend on the model."""
    setting, table, done = SETTINGS[scale], Table(), 0
    total = len(setting.horizons) * len(setting.models)
    policy_keys, data_keys, model_keys, fit_keys = seed_keys(setting.num_seeds, 4)
    for horizon in setting.horizons:
        env = make("credit_assignment", horizon)
        make_policy = functools.partial(behaviour_policy, env, Normaliser.from_random_episodes(env))
        policies = stacked(lambda key, make_policy=make_policy: make_policy(key=key), policy_keys)
        num_episodes = -(-setting.transitions // horizon)
        episodes, truths = for_seeds(functools.partial(prepare, env, num_episodes), policies, data_keys)
        for name in setting.models:
            report(done, total, f"{name} at H = {horizon}")
            models = make_models(name, env, episodes, model_keys)
            run = functools.partial(fit_and_compare, env, setting.fit)
            results = jax.device_get(for_seeds(run, models, (policies, episodes, truths), fit_keys))
            for seed in range(setting.num_seeds):
                row = {key: values[seed] for key, values in results.items()}
                add_fit(table, setting.fit, row, model=name, horizon=horizon, seed=seed)
                table.rows[-1].update({key: float(row[key]) for key in ("cosine", "norm", "true_norm")})
            done += 1
    return {"toy_offline": table}


def _cosines(table: Table, name: str, horizons: Sequence[int]) -> dict[int, list[float]]:
    """By seed, the cosines at some horizons."""
    rows = table.select(model=name)
    return {
        seed: [float(rows.select(seed=seed, horizon=horizon).values("cosine")[0]) for horizon in horizons]
        for seed in rows.unique("seed")
    }


def _means(table: Table, names: Sequence[str]) -> dict[str, dict[int, float]]:
    return {
        name: {horizon: table.mean("cosine", model=name, horizon=horizon) for horizon in _horizons(table)}
        for name in names
    }


def _horizons(table: Table) -> list[int]:
    return sorted(table.unique("horizon"))


def _asm(table: Table) -> Verdict:
    horizons = _horizons(table)
    longest = max(horizons, default=0)
    verdict = _accurate("toy_offline.asm", table, horizons, longest=longest)
    if longest > LONG or verdict.verdict == "undecided":
        return verdict
    return judged("toy_offline.asm", None, f"no horizon above {LONG} was measured", longest=longest)


def _asm_500(table: Table) -> Verdict:
    if LONGEST not in _horizons(table):
        return judged("toy_offline.asm_500", None, f"H = {LONGEST} was not measured")
    return _accurate("toy_offline.asm_500", table, [LONGEST])


def _accurate(id: str, table: Table, horizons: Sequence[int], **words: int) -> Verdict:
    """Whether LSTM and transformer point the right way at all of these horizons."""
    present = [name for name in ("lstm", "transformer") if name in table.unique("model")]
    numbers = {"mean_cosine": _means(table, present), "largest_horizon": max(horizons, default=0)}
    if len(present) < 2:
        return judged(id, None, "an LSTM and a transformer are needed", numbers, **words)
    worst = {
        name: [float(np.min(values)) for values in _cosines(table, name, horizons).values()]
        for name in present
    }
    outcomes = [unanimous(values, true_above=HIGH, false_below=LOST) for values in worst.values()]
    reason = ", ".join(
        f"the lowest cosine of the {name} is {in_range(values)}" for name, values in worst.items()
    )
    return judged(id, both(*outcomes), reason, numbers, **words)


def _markov(id: str, table: Table, model: str) -> Verdict:
    long = [horizon for horizon in _horizons(table) if horizon > LONG]
    if not long or model not in table.unique("model"):
        return judged(id, None, f"needs the {model} model at a horizon above {LONG}")
    best = [float(np.max(values)) for values in _cosines(table, model, long).values()]
    holds = unanimous([-value for value in best], true_above=-LOST, false_below=-HIGH)
    reason = f"the {model} model's cosine beyond {LONG} steps is at most {in_range(best)}"
    return judged(id, holds, reason, {"mean_cosine": _means(table, [model]), "lost_above": LONG})


@final
class ToyOffline(AbstractExperiment):
    """Figure 2."""

    name = "toy_offline"
    title = "cosine to the true policy gradient against the horizon, models fitted offline"
    texts: ClassVar = {
        "2": Text(
            "Accuracy of policy gradients against the horizon",
            "On the toy task, where one early action is rewarded at the very end, gradients through action-"
            "sequence models with good architectures keep pointing along the true one up to 500 steps. A Markov "
            "model loses the direction somewhere past 100.",
        )
    }

    def measure(self, scale: Scale, report: Report) -> Tables:
        return measure(scale, report)

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        table = tables["toy_offline"]
        verdicts = [
            _asm(table),
            _asm_500(table),
            _markov("toy_offline.markov", table, "one-step"),
            _markov("toy_offline.markov_flag", table, FLAGGED),
        ]
        return [if_fitted(verdict, table) for verdict in verdicts]

    def charts(self, tables: Tables) -> list[Chart]:
        lines = mean_lines(tables["toy_offline"], "horizon", "cosine")
        edges = [value for line in lines for part in (line.y, line.low, line.high) for value in part]
        limits = (min(-1.05, *edges), max(1.05, *edges))
        panel = Panel("toy credit assignment", "horizon H", "cosine", lines, x_log=True, y_limits=limits)
        title = "cosine to the true policy gradient (mean and standard deviation over seeds)"
        return [Chart("2", "figure_2", title, [panel])]


EXPERIMENT = ToyOffline()
