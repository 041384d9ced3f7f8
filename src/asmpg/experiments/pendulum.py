"""Figure 5: gradient norms and return landscapes of a chaotic simulator and of models of it (section 4.2)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.types import PRNGKey, Trajectory
from ..drawing.charts import Chart, Panel, Series
from ..gradients.analysis import first_action_jacobian, gradient_norms, operator_norm
from ..models import AbstractDynamicsModel, Simulator
from ..sweeps import Scale
from ..tasks import make
from ..tasks.environment import AbstractEnvironment, random_episodes, uniform_actions
from .bounce import first_action_landscape
from .experiment import AbstractExperiment, Report, Tables, Text
from .offline import add_fit, Fit, fit, FLAGGED, for_seeds, make_models, seed_keys, seed_lines
from .pendulum_claims import judge, norms_by_horizon
from .rules import REGULAR
from .table import Table
from .verdicts import Verdict


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
            judged by the second half, as the first second of every motion is alike.
        num_seeds: draws of data and of initial parameters.
        transitions: of random episodes.
        fit: how models are fitted.
        grid_size: initial actions in a landscape.
        models: which.
    """

    horizons: tuple[int, ...]
    true_horizons: tuple[int, ...]
    num_seeds: int
    transitions: int
    fit: Fit
    grid_size: int
    models: tuple[str, ...] = MODELS


_TEN = (5, 10, 15, 20, 25, 35, 50, 65, 80, 100)
_TRUE = tuple(range(5, 201, 5))
SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting((8,), (4, 6, 8, 10, 12), 1, 240, Fit.reduced(8), 21, ("one-step",)),
    "cpu": Setting(_TEN, _TRUE, 3, 30_000, Fit.reduced(1500), 201),
    "paper": Setting(_TEN, _TRUE, 10, 100_000, Fit.paper(20_000), 401),
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
    data_keys, model_keys, fit_keys = seed_keys(setting.num_seeds, 3)
    for horizon in setting.horizons:
        env = make("double_pendulum", horizon)
        collect = functools.partial(random_episodes, env, -(-setting.transitions // horizon))
        episodes = for_seeds(lambda key, collect=collect: collect(key=key), data_keys)
        for name in setting.models:
            report(done, total, f"{name} at H = {horizon}")
            models = make_models(name, env, episodes, model_keys)
            run = functools.partial(fit_and_differentiate, env, setting)
            results = jax.device_get(for_seeds(run, models, episodes, fit_keys))
            for seed in range(setting.num_seeds):
                one = {key: values[seed] for key, values in results.items()}
                add(tables, setting, env, name, one["norm"], one["return"], seed)
                add_fit(tables["pendulum_fits"], setting.fit, one, model=name, horizon=horizon, seed=seed)
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
    tables: Tables,
    setting: Setting,
    env: AbstractEnvironment,
    model: str,
    norms: object,
    returns: object,
    seed: int = 0,
) -> None:
    """Adds one model's norms and landscape at one horizon."""
    names = {"model": model, "horizon": env.horizon, "seed": seed}
    for action, norm in zip(initial_actions(), np.asarray(norms), strict=True):
        tables["pendulum"].add(**names, initial_action=action, norm=norm)
    if returns is not None:
        for action, value in zip(np.asarray(grid(setting)), np.asarray(returns), strict=True):
            tables["pendulum_landscapes"].add(**names, initial_action=action, **{"return": value})


def norm_chart(table: Table) -> Chart:
    """Figure 5b: mean, median, and the mean over nearly regular motions, side by side."""
    views = {
        "mean": (False, np.mean),
        "median": (False, np.median),
        f"mean over nearly regular motions, |a_0| <= {REGULAR}": (True, np.mean),
    }
    drawn = {
        label: [_norm_line(table, name, regular, statistic) for name in table.unique("model")]
        for label, (regular, statistic) in views.items()
    }
    # What vanishes altogether leaves at the bottom, and what is not finite at the top.
    floor = VISIBLE * float(table.select(model="truth").values("norm").min())
    values = np.array([y for lines in drawn.values() for line in lines for y in line.y])
    limits = (floor, 3.0 * float(np.nanmax(np.where(np.isfinite(values), values, np.nan))))
    panels = [
        Panel(label, "horizon H", "|ds_H/da_0|", lines, y_log=True, y_limits=limits)
        for label, lines in drawn.items()
    ]
    title = f"|ds_H/da_0| of the double pendulum, {NUM_ACTIONS} random actions"
    return Chart("5", "figure_5b", title, panels)


def _norm_line(table: Table, model: str, regular: bool, statistic: object) -> Series:
    norms = {h: v for h, v in norms_by_horizon(table, model, regular).items() if v.size}
    return Series(model, list(norms), [float(statistic(values)) for values in norms.values()])


def landscape_chart(table: Table) -> Chart:
    """Figure 5c: one row a horizon, one column a model, the truth behind each."""
    names = [name for name in table.unique("model") if name != "truth"]
    panels = []
    for horizon in sorted(table.unique("horizon")):
        rows = table.select(horizon=horizon)
        low = float(rows.select(model="truth").values("return").min())
        for name in names:
            lines = seed_lines(rows, ("truth", name), "initial_action", "return")
            labels = (f"{name}, H = {horizon}", "initial action a_0", "return")
            panels.append(Panel(*labels, lines, y_limits=(1.3 * low, -0.1 * low)))
    title = "return of the double pendulum against the initial action, one line a seed (optimum: -0.4)"
    return Chart("5", "figure_5c", title, panels, len(names))


@final
class Pendulum(AbstractExperiment):
    """Figure 5."""

    name = "pendulum"
    title = "gradient norms and return landscapes of the double pendulum, models fitted offline"
    texts: ClassVar = {
        "5": Text(
            "Gradients and landscapes of a chaotic system",
            "The gradient of the double pendulum's last state explodes with the episode's length, and so does "
            "that of a one-step model; through a transformer it stays flat, and the landscape of returns it "
            "sees is smooth.",
        )
    }

    def measure(self, scale: Scale, report: Report) -> Tables:
        return measure(scale, report)

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        return judge(tables)

    def charts(self, tables: Tables) -> list[Chart]:
        return [norm_chart(tables["pendulum"]), landscape_chart(tables["pendulum_landscapes"])]


EXPERIMENT = Pendulum()
