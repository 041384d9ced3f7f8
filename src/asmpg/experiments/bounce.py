"""Figure 3: the final reward against the initial action when a simulator has a contact (section 4.2)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.types import PRNGKey, Trajectory
from ..drawing.figures import colour, finish, panels
from ..gradients.analysis import action_return, return_landscape
from ..models import AbstractDynamicsModel, Simulator
from ..tasks import make
from ..tasks.environment import AbstractEnvironment, random_episodes, rollout
from .experiment import Experiment, Report, Scale, Tables
from .offline import add_fit, Fit, fit, FLAGGED, for_seeds, if_fitted, make_models, seed_keys
from .table import Table
from .verdicts import both, decide, in_range, unanimous, Verdict


MODELS = ("one-step", FLAGGED, "rnn")
# Share of the final reward's variance over initial actions that a model leaves unexplained.
ACCURATE, INACCURATE = 0.1, 0.3
SHOWN_ACTIONS = (-0.8, -0.4, 0.0, 0.4, 0.8)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a scale fixes."""

    horizon: int
    num_seeds: int
    transitions: int
    fit: Fit
    grid_size: int
    models: tuple[str, ...] = MODELS


SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting(12, 1, 240, Fit.reduced(8), 21, ("one-step",)),
    "cpu": Setting(100, 2, 50_000, Fit.reduced(10_000), 201),
    "paper": Setting(100, 10, 100_000, Fit.paper(20_000), 401),
}


def first_action_landscape(
    model: Any, env: AbstractEnvironment, initial_actions: Array, *, chunk_size: int = 16
) -> Array:
    """The return against the first action, all later actions zero."""
    centre = jnp.zeros((env.horizon, env.action_size))
    direction = centre.at[0, 0].set(1.0)
    objective = functools.partial(action_return, model, env, env.initial_state())
    return return_landscape(objective, centre, [direction], initial_actions, chunk_size=chunk_size)


def fit_and_predict(
    env: AbstractEnvironment,
    setting: Setting,
    model: AbstractDynamicsModel,
    episodes: Trajectory,
    key: PRNGKey,
) -> dict[str, Array]:
    """Fits one model and predicts the reward of every initial action."""
    fitted = fit(model, episodes, setting.fit, key=key)
    rewards = first_action_landscape(fitted.model, env, grid(setting))
    return {"reward": rewards, "loss": fitted.loss, "num_nonfinite": fitted.num_nonfinite}


def grid(setting: Setting) -> Array:
    """Initial actions, evenly spaced."""
    return jnp.linspace(-1.0, 1.0, setting.grid_size)


def measure(scale: Scale, report: Report) -> Tables:
    """Rewards: one row a model, seed and initial action. Fits: one a model and seed. Paths: one a step."""
    setting = SETTINGS[scale]
    env = make("one_bounce", setting.horizon)
    tables = {"bounce": Table(), "bounce_fits": Table(), "bounce_paths": Table()}
    data_keys, model_keys, fit_keys = seed_keys(setting.num_seeds, 3)
    num_episodes = -(-setting.transitions // env.horizon)
    episodes = for_seeds(lambda key: random_episodes(env, num_episodes, key=key), data_keys)
    run = functools.partial(fit_and_predict, env, setting)
    truth = jax.jit(functools.partial(first_action_landscape, Simulator(env), env))(grid(setting))
    add_rewards(tables["bounce"], setting, truth, model="truth", seed=0)
    for done, name in enumerate(setting.models):
        report(done, len(setting.models), f"{name} at H = {setting.horizon}")
        models = make_models(name, env, episodes, model_keys)
        results = jax.device_get(for_seeds(run, models, episodes, fit_keys))
        for seed in range(setting.num_seeds):
            one = {key: values[seed] for key, values in results.items()}
            add_fit(tables["bounce_fits"], setting.fit, one, model=name, seed=seed)
            add_rewards(tables["bounce"], setting, one["reward"], model=name, seed=seed)
    for action in SHOWN_ACTIONS:
        states = rollout(env, np.full((env.horizon, 1), action)).states
        for step, (position, velocity) in enumerate(np.asarray(states)):
            tables["bounce_paths"].add(initial_action=action, step=step, position=position, velocity=velocity)
    return tables


def add_rewards(table: Table, setting: Setting, rewards: Any, **names: Any) -> None:
    """One row an initial action."""
    for action, reward in zip(np.asarray(grid(setting)), np.asarray(rewards), strict=True):
        table.add(**names, initial_action=action, reward=reward)


def unexplained(table: Table, model: str) -> list[float]:
    """Share of the true reward's variance over initial actions that a model misses, of every seed."""
    truth = table.select(model="truth").values("reward")
    return [
        float(np.mean((table.select(model=model, seed=seed).values("reward") - truth) ** 2) / truth.var())
        for seed in table.select(model=model).unique("seed")
    ]


def judge(tables: Tables) -> Sequence[Verdict]:
    """The two claims about the figure."""
    table = tables["bounce"]
    shares = {name: unexplained(table, name) for name in table.unique("model") if name != "truth"}
    model_claim = (
        f"the RNN model predicts the final reward of every initial action: unexplained variance <= {ACCURATE} "
        "with every seed"
    )
    step_claim = (
        "the unrolled one-step model does not, with or without a flag that marks the first step: "
        f"unexplained variance >= {INACCURATE} with every seed"
    )
    missed = [-share for share in shares.get("rnn", [])]
    accurate = unanimous(missed, true_above=-ACCURATE, false_below=-INACCURATE)
    wrong = [
        unanimous(shares.get(name, []), true_above=INACCURATE, false_below=ACCURATE)
        for name in ("one-step", FLAGGED)
    ]
    numbers = {"unexplained_variance": shares}
    reasons = [_in_words(shares, names) for names in (("rnn",), ("one-step", FLAGGED))]
    verdicts = [
        decide("bounce.asm", model_claim, accurate, reasons[0], numbers),
        decide("bounce.one_step", step_claim, both(*wrong), reasons[1], numbers),
    ]
    return [if_fitted(verdict, tables["bounce_fits"]) for verdict in verdicts]


def _in_words(shares: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    return ", ".join(
        f"the {name} model leaves {in_range(shares[name])} of the variance unexplained"
        if shares.get(name)
        else f"no {name} model was fitted"
        for name in names
    )


def draw(tables: Tables, scale: Scale) -> dict[str, Any]:
    """Figure 3: paths, the jump in velocity, and the final reward against the initial action."""
    paths, table = tables["bounce_paths"], tables["bounce"]
    figure, axes = panels(1, 3, "Figure 3: one bounce off a wall", scale)
    left, middle, right = axes[0]
    for action in paths.unique("initial_action"):
        rows = paths.select(initial_action=action)
        steps, positions = rows.values("step"), rows.values("position")
        left.plot(steps, positions, linewidth=1.2)
        left.annotate(f"a_0 = {action:g}", (steps[-1], positions[-1]), (0, 3), textcoords="offset points",
                      ha="right", fontsize=8)  # fmt: skip
        middle.plot(rows.values("position"), rows.values("velocity"), ".-", linewidth=0.8, markersize=3)
    left.axhline(-1.0, color="0.3", linewidth=1.0)
    left.annotate("wall", (1.0, -1.0), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                  ha="right", fontsize=8)  # fmt: skip
    middle.axvline(-1.0, color="0.3", linewidth=1.0)
    finish(left, xlabel="step", ylabel="position x", title="(a) true paths")
    finish(middle, xlabel="position x", ylabel="velocity v", title="(b) the velocity jumps at the wall")
    for name in table.unique("model"):
        for seed in table.select(model=name).unique("seed"):
            rows = table.select(model=name, seed=seed)
            style = {"truth": "-", FLAGGED: "--"}.get(name, "-")
            right.plot(rows.values("initial_action"), rows.values("reward"), style, color=colour(name),
                       linewidth=2.2 if name == "truth" else 1.0, label=name if seed == 0 else None)  # fmt: skip
    truth = table.select(model="truth").values("reward")
    finish(
        right,
        xlabel="initial action a_0",
        ylabel="final reward",
        title="(c) predicted final reward",
        ylim=(1.6 * truth.min(), 0.6 * np.ptp(truth)),
        xticks=np.linspace(-1.0, 1.0, 5),
    )
    return {"figure_3": figure}


EXPERIMENT = Experiment(
    "bounce", "final reward against the initial action, models fitted offline", measure, judge, draw
)
