"""Figure 2: how far the policy gradient through fitted models points from the true one (section 4.1, Appendix F.1)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ..analysis import cosine_similarity, gradient_norm
from ..environment import AbstractEnvironment
from ..envs import make
from ..gradients import policy_gradient
from ..models import AbstractDynamicsModel, Simulator
from ..normalisation import Normaliser
from ..policies import HIDDEN_SIZE, TanhGaussianPolicy
from ..types import PRNGKey, Trajectory
from .drawing import band, finish, panels
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
from .verdicts import both, decide, three_way, Verdict


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
    horizons = sorted(table.unique("horizon"))
    means = {
        name: {horizon: table.mean("cosine", model=name, horizon=horizon) for horizon in horizons}
        for name in table.unique("model")
    }
    return [if_fitted(verdict, table) for verdict in (_asm(means, horizons), _markov(means, horizons))]


def _asm(means: dict[str, dict[int, float]], horizons: list[int]) -> Verdict:
    claim = (
        f"the policy gradient through LSTM and transformer models points the right way at every horizon up to 500: "
        f"mean cosine >= {HIGH}"
    )
    present = [name for name in ("lstm", "transformer") if name in means]
    numbers = {
        "mean_cosine": {name: means[name] for name in present},
        "largest_horizon": max(horizons, default=0),
    }
    worst = {name: float(np.min(list(means[name].values()))) for name in present}
    outcomes = [three_way(value, true_above=HIGH, false_below=LOST) for value in worst.values()]
    holds = both(*outcomes) if len(present) == 2 and max(horizons, default=0) > LONG else None
    if len(present) < 2:
        reason = "an LSTM and a transformer are needed"
    elif max(horizons, default=0) <= LONG:
        reason = f"no horizon above {LONG} was measured"
    else:
        reason = ", ".join(
            f"the lowest mean cosine of the {name} is {value:.3f}" for name, value in worst.items()
        )
    return decide("toy_offline.asm", claim, holds, reason, numbers)


def _markov(means: dict[str, dict[int, float]], horizons: list[int]) -> Verdict:
    claim = (
        f"a Markov model loses the direction of the policy gradient beyond {LONG} steps, with or without a flag that "
        f"marks the first step: mean cosine <= {LOST} there"
    )
    long = [horizon for horizon in horizons if horizon > LONG]
    present = [name for name in ("one-step", FLAGGED) if name in means]
    numbers = {"mean_cosine": {name: means[name] for name in present}, "lost_above": LONG}
    if not long or len(present) < 2:
        reason = f"needs both one-step models at a horizon above {LONG}"
        return decide("toy_offline.markov", claim, None, reason, numbers)
    best = {name: float(np.max([means[name][horizon] for horizon in long])) for name in present}
    lost = {name: three_way(-value, true_above=-LOST, false_below=-HIGH) for name, value in best.items()}
    parts = [
        f"the {name} model's mean cosine beyond {LONG} steps is at most {best[name]:.3f}" for name in present
    ]
    return decide("toy_offline.markov", claim, both(*lost.values()), ", ".join(parts), numbers)


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
