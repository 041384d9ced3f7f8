"""Figure 3: the final reward against the initial action when a simulator has a contact (section 4.2)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..core.types import PRNGKey, Trajectory
from ..drawing.charts import Chart, draw_panel, Panel, Series
from ..drawing.figures import panels
from ..gradients.analysis import action_return, return_landscape
from ..models import AbstractDynamicsModel, Simulator
from ..sweeps import Scale
from ..tasks import make
from ..tasks.environment import AbstractEnvironment, random_episodes, rollout
from .experiment import AbstractExperiment, Report, Tables, Text
from .offline import add_fit, Fit, fit, FLAGGED, for_seeds, if_fitted, make_models, seed_keys, seed_lines
from .rules import ACCURATE, INACCURATE, judged
from .table import Table
from .verdicts import both, in_range, unanimous, Verdict


MODELS = ("one-step", FLAGGED, "rnn")
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
    "cpu": Setting(100, 3, 50_000, Fit.reduced(10_000), 201),
    "paper": Setting(100, 10, 100_000, Fit.paper(20_000), 401),
}


def first_action_landscape(
    model: AbstractDynamicsModel, env: AbstractEnvironment, initial_actions: Array, *, chunk_size: int = 16
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


def add_rewards(table: Table, setting: Setting, rewards: object, **names: object) -> None:
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


def _in_words(shares: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    return ", ".join(
        f"the {name} model leaves {in_range(shares[name])} of the variance unexplained"
        if shares.get(name)
        else f"no {name} model was fitted"
        for name in names
    )


def draw_contact(paths: Table, scale: Scale) -> Any:
    """Figure 3b: the velocity jumps at the wall, a line that is no function of the position."""
    figure, axes = panels(1, 1, "Figure 3b: the velocity jumps at the wall", scale)
    lines = []
    for action in paths.unique("initial_action"):
        rows = paths.select(initial_action=action)
        lines.append(
            Series(f"a_0 = {action:g}", rows.values("position").tolist(), rows.values("velocity").tolist())
        )
    velocities = paths.values("velocity")
    lines.append(Series("wall", [-1.0, -1.0], [float(velocities.min()), float(velocities.max())]))
    draw_panel(axes[0, 0], Panel("", "position x", "velocity v", lines))
    return figure


@final
class Bounce(AbstractExperiment):
    """Figure 3."""

    name = "bounce"
    title = "final reward against the initial action, models fitted offline"
    texts: ClassVar = {
        "3": Text(
            "A contact",
            "A block bounces off a wall once. Its path has a kink but its resting place depends smoothly on the "
            "push: a model from actions to states learns that, while a one-step model, unrolled through the "
            "kink, does not.",
        )
    }

    def measure(self, scale: Scale, report: Report) -> Tables:
        return measure(scale, report)

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        table = tables["bounce"]
        shares = {name: unexplained(table, name) for name in table.unique("model") if name != "truth"}
        missed = [-share for share in shares.get("rnn", [])]
        accurate = unanimous(missed, true_above=-ACCURATE, false_below=-INACCURATE)
        steps = ("one-step", FLAGGED)
        wrong = [
            unanimous(shares.get(name, []), true_above=INACCURATE, false_below=ACCURATE) for name in steps
        ]
        numbers = {"unexplained_variance": shares}
        verdicts = [
            judged("bounce.asm", accurate, _in_words(shares, ("rnn",)), numbers),
            judged("bounce.one_step", both(*wrong), _in_words(shares, steps), numbers),
        ]
        return [if_fitted(verdict, tables["bounce_fits"]) for verdict in verdicts]

    def charts(self, tables: Tables) -> list[Chart]:
        paths, table = tables["bounce_paths"], tables["bounce"]
        shown = [(f"a_0 = {a:g}", paths.select(initial_action=a)) for a in paths.unique("initial_action")]
        lines = [
            Series(name, rows.values("step").tolist(), rows.values("position").tolist())
            for name, rows in shown
        ]
        truth = table.select(model="truth").values("reward")
        panel = Panel(
            "(c) predicted final reward, one line a seed",
            "initial action a_0",
            "final reward",
            seed_lines(table, table.unique("model"), "initial_action", "reward"),
            y_limits=(1.6 * float(truth.min()), 0.6 * float(np.ptp(truth))),
        )
        true = Panel("(a) true paths, the wall at -1", "step", "position x", lines)
        return [Chart("3", "figure_3", "one bounce off a wall", [true, panel], 2)]

    def pictures(self, tables: Tables, scale: Scale) -> Mapping[str, Any]:
        return {"figure_3b": draw_contact(tables["bounce_paths"], scale)}


EXPERIMENT = Bounce()
