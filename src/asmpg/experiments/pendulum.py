"""Figure 5: gradient norms and return landscapes of a chaotic simulator and of models of it (section 4.2)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.types import PRNGKey, Trajectory
from ..drawing.figures import colour, finish, panels
from ..gradients.analysis import first_action_jacobian, gradient_norms, operator_norm
from ..models import AbstractDynamicsModel, Simulator
from ..tasks import make
from ..tasks.environment import AbstractEnvironment, random_episodes, uniform_actions
from .bounce import first_action_landscape
from .experiment import Experiment, Report, Scale, Tables
from .offline import add_fit, Fit, fit, FLAGGED, for_seeds, make_models, seed_keys
from .pendulum_claims import judge, norms_by_horizon, REGULAR
from .table import Table


MODELS = ("one-step", FLAGGED, "rnn", "lstm", "transformer")
NUM_ACTIONS = 50
# Norms below this share of the smallest true one are not shown.
VISIBLE = 0.01


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a scale fixes.

    Attributes:
        horizons: of the models.
        true_horizons: of the simulator, which need not be fitted. Twice as long as the models': the growth laws are
            told apart by the second half, as the first second of every motion is alike.
        transitions: of random episodes.
        fit: how models are fitted.
        grid_size: initial actions in a landscape.
        models: which.
    """

    horizons: tuple[int, ...]
    true_horizons: tuple[int, ...]
    transitions: int
    fit: Fit
    grid_size: int
    models: tuple[str, ...] = MODELS


SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting((8,), (4, 6, 8, 10, 12), 240, Fit.reduced(8), 21, ("one-step",)),
    "cpu": Setting((5, 10, 20, 35, 50, 100), tuple(range(5, 201, 5)), 30_000, Fit.reduced(1500), 201),
    "paper": Setting((5, 10, 20, 35, 50, 75, 100), tuple(range(5, 201, 5)), 100_000, Fit.paper(20_000), 401),
}


def initial_actions() -> np.ndarray:
    """Where norms are taken: the same uniform random first actions for every model and horizon."""
    return np.random.default_rng(17).uniform(-1.0, 1.0, NUM_ACTIONS)


def random_actions(env: AbstractEnvironment, *, key: PRNGKey) -> Array:
    """The initial actions, each with uniform random later ones, which only a model can take any notice of."""
    keys = jax.random.split(key, NUM_ACTIONS)
    return (
        jax.vmap(lambda key: uniform_actions(env, key=key))(keys)
        .at[:, 0, 0]
        .set(jnp.asarray(initial_actions()))
    )


def fit_and_differentiate(
    env: AbstractEnvironment,
    setting: Setting,
    model: AbstractDynamicsModel,
    episodes: Trajectory,
    key: PRNGKey,
) -> dict[str, Array]:
    """Fits one model and takes its norms and its landscape."""
    fit_key, action_key = jax.random.split(key)
    fitted = fit(model, episodes, setting.fit, key=fit_key)
    return {
        "norm": gradient_norms(fitted.model, env.initial_state(), random_actions(env, key=action_key)),
        "return": first_action_landscape(fitted.model, env, grid(setting)),
        "loss": fitted.loss,
        "num_nonfinite": fitted.num_nonfinite,
    }


def grid(setting: Setting) -> Array:
    """Initial actions, evenly spaced."""
    return jnp.linspace(-1.0, 1.0, setting.grid_size)


def measure(scale: Scale, report: Report) -> Tables:
    """Norms: one row a model, horizon and action. Landscapes: one a model, horizon and initial action. Fits."""
    setting = SETTINGS[scale]
    tables = {"pendulum": Table(), "pendulum_landscapes": Table(), "pendulum_fits": Table()}
    done, total = 1, 1 + len(setting.horizons) * len(setting.models)
    report(0, total, "truth, in double precision")
    measure_truth(setting, tables)
    data_keys, model_keys, fit_keys = seed_keys(1, 3)
    for horizon in setting.horizons:
        env = make("double_pendulum", horizon)
        collect = functools.partial(random_episodes, env, -(-setting.transitions // horizon))
        episodes = for_seeds(lambda key, collect=collect: collect(key=key), data_keys)
        for name in setting.models:
            report(done, total, f"{name} at H = {horizon}")
            models = make_models(name, env, episodes, model_keys)
            run = functools.partial(fit_and_differentiate, env, setting)
            results = jax.tree.map(lambda x: np.asarray(x[0]), for_seeds(run, models, episodes, fit_keys))
            add(tables, setting, env, name, results["norm"], results["return"])
            add_fit(tables["pendulum_fits"], setting.fit, results, model=name, horizon=horizon)
            done += 1
    return tables


def measure_truth(setting: Setting, tables: Tables) -> None:
    """The simulator's rows, at every horizon. Single precision would lose digits where the motion is chaotic.

    The motion does not depend on the horizon, so one episode of the longest holds all shorter ones.
    """
    horizons = sorted({*setting.horizons, *setting.true_horizons})
    longest = make("double_pendulum", max(horizons))

    def episode(action: Array) -> tuple[Array, Array]:
        actions = jnp.zeros((longest.horizon, 1), action.dtype).at[0, 0].set(action)
        start = longest.initial_state()
        jacobian = first_action_jacobian(Simulator(longest), start, actions)
        return Simulator(longest).predict(start, actions), operator_norm(jacobian)

    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(episode))
        norms = np.asarray(run(jnp.asarray(initial_actions()))[1])
        states = run(jnp.asarray(grid(setting), float))[0]
        for horizon in horizons:
            env = make("double_pendulum", horizon)
            shown = horizon in setting.horizons
            returns = jax.vmap(env.terminal_reward)(states[:, horizon - 1]) if shown else None
            add(tables, setting, env, "truth", norms[:, horizon - 1], returns)


def add(
    tables: Tables, setting: Setting, env: AbstractEnvironment, model: str, norms: Any, returns: Any | None
) -> None:
    """Adds one model's norms and landscape at one horizon."""
    for action, norm in zip(initial_actions(), np.asarray(norms), strict=True):
        tables["pendulum"].add(model=model, horizon=env.horizon, initial_action=action, norm=norm)
    if returns is not None:
        for action, value in zip(np.asarray(grid(setting)), np.asarray(returns), strict=True):
            row = {"model": model, "horizon": env.horizon, "initial_action": action, "return": value}
            tables["pendulum_landscapes"].add(**row)


def draw(tables: Tables, scale: Scale) -> dict[str, Any]:
    """Figure 5b: mean and median norms against H. Figure 5c: landscapes at every horizon."""
    return {"figure_5b": draw_norms(tables["pendulum"], scale), "figure_5c": draw_landscapes(tables, scale)}


def draw_norms(table: Table, scale: Scale) -> Any:
    """Mean, median, and the mean over nearly regular motions, side by side."""
    title = f"Figure 5b: |ds_H/da_0| of the double pendulum, {NUM_ACTIONS} random actions"
    figure, axes = panels(1, 3, title, scale)
    views = {
        "mean": (False, np.mean),
        "median": (False, np.median),
        f"mean over nearly regular motions, |a_0| <= {REGULAR}": (True, np.mean),
    }
    for place, (label, (regular, statistic)) in zip(axes[0], views.items(), strict=True):
        for name in table.unique("model"):
            norms = {h: v for h, v in norms_by_horizon(table, name, regular).items() if v.size}
            values = [statistic(v) for v in norms.values()]
            style = {"truth": "-", FLAGGED: "--"}.get(name, "-")
            place.plot(list(norms), values, style, color=colour(name), marker="o", markersize=3, label=name,
                       linewidth=2.0 if name == "truth" else 1.2)  # fmt: skip
        finish(place, yscale="log", xlabel="horizon H", ylabel="|ds_H/da_0|")
        place.set_title(label, fontsize=10)
    limits = [place.get_ylim() for place in axes[0]]
    # What vanishes altogether leaves at the bottom, or all else would be one flat bundle.
    floor = VISIBLE * table.select(model="truth").values("norm").min()
    for place in axes[0]:
        place.set_ylim(max(floor, min(low for low, _ in limits)), max(high for _, high in limits))
    return figure


def draw_landscapes(tables: Tables, scale: Scale) -> Any:
    """One row a horizon, one column a model, the truth behind each."""
    table = tables["pendulum_landscapes"]
    horizons, names = (
        sorted(table.unique("horizon")),
        [name for name in table.unique("model") if name != "truth"],
    )
    title = "Figure 5c: return against the initial action (black: truth; dotted: its optimum)"
    figure, axes = panels(len(horizons), len(names), title, scale, (2.6, 1.9))
    for row, horizon in zip(axes, horizons, strict=True):
        truth = table.select(model="truth", horizon=horizon)
        low = truth.values("return").min()
        for place, name in zip(row, names, strict=True):
            rows = table.select(model=name, horizon=horizon)
            place.plot(truth.values("initial_action"), truth.values("return"), color="black", linewidth=0.8)
            place.plot(
                rows.values("initial_action"), rows.values("return"), color=colour(name), linewidth=1.2
            )
            place.axvline(-0.4, color="0.7", linewidth=0.8, linestyle=":")
            place.set_ylim(1.3 * low, -0.1 * low)
            place.set_title(f"{name}, H = {horizon}", fontsize=8)
            place.tick_params(labelsize=7)
    for place in axes[-1]:
        place.set_xlabel("initial action a_0", fontsize=8)
    for place in axes[:, 0]:
        place.set_ylabel("return", fontsize=8)
    return figure


EXPERIMENT = Experiment(
    "pendulum",
    "gradient norms and return landscapes of the double pendulum, models fitted offline",
    measure,
    judge,
    draw,
)
