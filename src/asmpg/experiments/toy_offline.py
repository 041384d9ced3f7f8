"""Figure 2: how far the policy gradient through fitted models points from the true one (section 4.1, Appendix F.1)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ..core.types import PRNGKey, Trajectory
from ..drawing.figures import colour, finish, panels
from ..gradients.analysis import cosine_similarity, gradient_norm
from ..gradients.policies import HIDDEN_SIZE, TanhGaussianPolicy
from ..gradients.policy_gradient import policy_gradient
from ..models import AbstractDynamicsModel, Simulator
from ..models.normalisation import Normaliser
from ..tasks import make
from ..tasks.environment import AbstractEnvironment
from .experiment import Experiment, Report, Scale, Tables
from .offline import (
    add_fit,
    Fit,
    fit,
    FLAGGED,
    for_seeds,
    if_fitted,
    make_models,
    perturbed_episodes,
    seed_keys,
    stacked,
)
from .table import Table
from .verdicts import both, decide, in_range, unanimous, Verdict


MODELS = ("one-step", FLAGGED, "rnn", "lstm", "transformer")
NOISE = 0.1
# A mean cosine of at least HIGH points the right way, one of at most LOST does not.
HIGH, LOST = 0.9, 0.5
LONG = 100


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
    "cpu": Setting((5, 20, 100, 200), 2, 20_000, Fit.reduced(1000)),
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


def judge(tables: Tables) -> Sequence[Verdict]:
    """The two claims about the figure."""
    table = tables["toy_offline"]
    return [if_fitted(verdict, table) for verdict in (_asm(table), _markov(table))]


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
    claim = (
        f"the policy gradient through LSTM and transformer models points the right way at every horizon up to "
        f"{longest}: cosine >= {HIGH} with every seed"
    )
    present = [name for name in ("lstm", "transformer") if name in table.unique("model")]
    numbers = {"mean_cosine": _means(table, present), "largest_horizon": longest}
    if len(present) < 2:
        return decide("toy_offline.asm", claim, None, "an LSTM and a transformer are needed", numbers)
    if longest <= LONG:
        return decide("toy_offline.asm", claim, None, f"no horizon above {LONG} was measured", numbers)
    worst = {
        name: [float(np.min(values)) for values in _cosines(table, name, horizons).values()]
        for name in present
    }
    outcomes = [unanimous(values, true_above=HIGH, false_below=LOST) for values in worst.values()]
    reason = ", ".join(
        f"the lowest cosine of the {name} is {in_range(values)}" for name, values in worst.items()
    )
    return decide("toy_offline.asm", claim, both(*outcomes), reason, numbers)


def _markov(table: Table) -> Verdict:
    claim = (
        f"a Markov model loses the direction of the policy gradient beyond {LONG} steps, with or without a flag that "
        f"marks the first step: cosine <= {LOST} there with every seed"
    )
    long = [horizon for horizon in _horizons(table) if horizon > LONG]
    present = [name for name in ("one-step", FLAGGED) if name in table.unique("model")]
    numbers = {"mean_cosine": _means(table, present), "lost_above": LONG}
    if not long or len(present) < 2:
        reason = f"needs both one-step models at a horizon above {LONG}"
        return decide("toy_offline.markov", claim, None, reason, numbers)
    best = {
        name: [float(np.max(values)) for values in _cosines(table, name, long).values()] for name in present
    }
    outcomes = [
        unanimous([-v for v in values], true_above=-LOST, false_below=-HIGH) for values in best.values()
    ]
    reason = ", ".join(
        f"the {name} model's cosine beyond {LONG} steps is at most {in_range(values)}"
        for name, values in best.items()
    )
    return decide("toy_offline.markov", claim, both(*outcomes), reason, numbers)


def band(axes: Any, table: Table, x: str, y: str, model: str, style: str = "-") -> None:
    """A model's mean against x, with one standard deviation over the rows of each x around it (10 seeds +- std)."""
    places = sorted(table.unique(x))
    columns = [table.select(**{x: place}).values(y) for place in places]
    mean = np.array([values.mean() for values in columns])
    spread = np.array([values.std() for values in columns])
    axes.plot(places, mean, style, color=colour(model), marker="o", markersize=3, label=model)
    axes.fill_between(places, mean - spread, mean + spread, color=colour(model), alpha=0.15, linewidth=0)


def draw(tables: Tables, scale: Scale) -> dict[str, Any]:
    """Figure 2: cosine against the horizon."""
    table = tables["toy_offline"]
    figure, axes = panels(
        1, 1, "Figure 2: cosine to the true policy gradient, toy credit assignment", scale, (6.8, 4.2)
    )
    for name in table.unique("model"):
        band(
            axes[0, 0], table.select(model=name), "horizon", "cosine", name, "--" if name == FLAGGED else "-"
        )
    horizons = sorted(table.unique("horizon"))
    num_seeds = len(table.unique("seed"))
    axes[0, 0].axhline(0.0, color="0.6", linewidth=0.8)
    finish(
        axes[0, 0],
        xscale="log",
        ylim=(-1.05, 1.05),
        xlabel="horizon H",
        ylabel=f"cosine (mean and std of {num_seeds} seed{'s' * (num_seeds > 1)})",
    )
    axes[0, 0].set_xticks(horizons, [str(horizon) for horizon in horizons])
    axes[0, 0].minorticks_off()
    return {"figure_2": figure}


EXPERIMENT = Experiment(
    "toy_offline",
    "cosine to the true policy gradient against the horizon, models fitted offline",
    measure,
    judge,
    draw,
)
