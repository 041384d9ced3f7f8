"""Models fitted to a fixed set of episodes (Appendix F.1): the model update of Algorithm 1 without the rest of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ..core.loops import loop
from ..core.types import PRNGKey, Scalar, Trajectory
from ..drawing.charts import Series
from ..gradients.policies import AbstractPolicy
from ..learners.optimisation import apply_gradient, mean_gradient, optimiser
from ..learners.replay import ReplayBuffer
from ..models import AbstractDynamicsModel, ActionSequenceModel, OneStepModel, Simulator
from ..models.backbones import BACKBONES
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractEnvironment, trajectory_rewards
from ..training.trainer import over_seeds
from .rules import ENOUGH_UPDATES
from .table import Table
from .verdicts import decide, Verdict


FLAGGED = "one-step with flag"
# Points of a line that are kept.
_MOST = 120


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a model is fitted.

    Attributes:
        updates: optimiser steps.
        batch_size: episodes in each.
        learning_rate: of the first.
        decay: update n uses `learning_rate / sqrt(1 + n / decay)`; 0 keeps it constant.
        clip: largest global norm of a gradient.
    """

    updates: int
    batch_size: int
    learning_rate: float
    decay: int
    clip: float

    @classmethod
    def paper(cls, updates: int) -> "Fit":
        """Table 1."""
        return cls(updates, batch_size=64, learning_rate=1e-3, decay=0, clip=100.0)

    @classmethod
    def reduced(cls, updates: int) -> "Fit":
        """The small, frequent updates of the preset `default`: further in the same time."""
        return cls(updates, batch_size=16, learning_rate=4e-3, decay=1000, clip=1.0)


def make_model(
    name: str, env: AbstractEnvironment, normaliser: Normaliser, *, key: PRNGKey
) -> AbstractDynamicsModel:
    """A model by name: a backbone's, "one-step", "one-step with flag" or "truth".

    Args:
        name: which.
        env: the task.
        normaliser: frozen statistics.
        key: for the initial parameters.
    """
    if name == "truth":
        return Simulator(env)
    if name in BACKBONES:
        return ActionSequenceModel(env, name, key=key, normaliser=normaliser)
    return OneStepModel(env, key=key, normaliser=normaliser, first_step_flag=name == FLAGGED)


def perturbed_episodes(
    env: AbstractEnvironment, policy: AbstractPolicy, deviation: float, num_episodes: int, *, key: PRNGKey
) -> Trajectory:
    """Episodes of a deterministic policy with normal noise on its actions, clipped to [-1, 1] (Appendix F.1).

    Args:
        env: the task.
        policy: the policy.
        deviation: standard deviation of the noise.
        num_episodes: how many.
        key: draws the noise.
    """

    def episode(key: PRNGKey) -> Trajectory:
        start_key, noise_key = jax.random.split(key)
        start = env.initial_state(key=start_key)
        noise = deviation * jax.random.normal(noise_key, (env.horizon, env.action_size))

        def body(state: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            step, pushed = x
            action = jnp.clip(policy.mode(state, step) + pushed, -1.0, 1.0)
            return env.transition(state, action, step), (state, action)

        final, (states, actions) = jax.lax.scan(body, start, (jnp.arange(env.horizon), noise))
        states = jnp.concatenate([states, final[None]])
        return Trajectory(states, actions, trajectory_rewards(env, states, actions))

    return jax.vmap(episode)(jax.random.split(key, num_episodes))


class Fitted(eqx.Module):
    """A fitted model.

    Attributes:
        model: the model.
        loss: its fitting loss, averaged over some of the episodes.
        num_nonfinite: updates skipped because their gradient was not finite.
    """

    model: Any
    loss: Scalar
    num_nonfinite: Array


def fit(model: AbstractDynamicsModel, episodes: Trajectory, settings: Fit, *, key: PRNGKey) -> Fitted:
    """Fits a model to episodes drawn with replacement.

    Args:
        model: to begin with.
        episodes: the data, along a leading axis.
        settings: how.
        key: draws the batches.
    """
    replay = ReplayBuffer(episodes, jnp.asarray(episodes.rewards.shape[0], jnp.int32))
    transformation = optimiser(settings.learning_rate, settings.decay, settings.clip)
    draw_key, loss_key = jax.random.split(key)

    def loss(model: AbstractDynamicsModel, episode: Trajectory) -> tuple[Scalar, None]:
        return model.loss(episode), None

    def update(index: Array, state: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        model, optimiser_state, skipped = state
        batch = replay.sample(settings.batch_size, key=jax.random.fold_in(draw_key, index))
        grads, _ = mean_gradient(loss, model, batch)
        model, optimiser_state, applied = apply_gradient(transformation, model, optimiser_state, grads)
        return model, optimiser_state, skipped + ~applied

    begin = (model, transformation.init(eqx.filter(model, eqx.is_inexact_array)), jnp.zeros((), jnp.int32))
    fitted, _, skipped = loop(0, settings.updates, update, begin)
    sample = replay.sample(settings.batch_size, key=loss_key)
    return Fitted(fitted, jax.vmap(fitted.loss)(sample).mean(), skipped)


def seed_keys(num_seeds: int, parts: int) -> list[Key[Array, " seeds"]]:
    """Independent keys for so many parts of an experiment, each one a seed."""
    keys = jnp.stack([jax.random.key(seed) for seed in range(num_seeds)])
    split = jax.vmap(lambda key: jax.random.split(key, parts))(keys)
    return [split[:, part] for part in range(parts)]


def stacked(make: Callable[..., Any], *arguments: object) -> Any:
    """What a function makes of one seed's arguments after the other, with a leading seed axis.

    Networks are made like this, outside the compiled programs: drawing their parameters inside takes longer to compile
    than everything else.
    """
    num_seeds = jax.tree.leaves(arguments)[0].shape[0]
    made = [make(*jax.tree.map(lambda x, i=i: x[i], arguments)) for i in range(num_seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def make_models(name: str, env: AbstractEnvironment, episodes: Trajectory, keys: Key[Array, " seeds"]) -> Any:
    """One model a seed, with the statistics of that seed's data; see `make_model`."""

    def make(states: Array, key: PRNGKey) -> AbstractDynamicsModel:
        return make_model(name, env, Normaliser.from_states(states), key=key)

    return stacked(make, episodes.states, keys)


def for_seeds(function: Callable[..., Any], *arguments: object) -> Any:
    """Runs a function once a seed, sharded over the devices, compiled once.

    Args:
        function: of one seed's arguments, to arrays.
        *arguments: arrays with a leading seed axis.
    """
    num_seeds = jax.tree.leaves(arguments)[0].shape[0]
    return jax.jit(over_seeds(lambda given: function(*given), num_seeds))(arguments)


def add_fit(table: Table, settings: Fit, results: Mapping[str, Any], **names: object) -> None:
    """Adds a row about one fitted model: how many updates, its loss, and how many updates were skipped."""
    numbers = {"loss": results["loss"], "num_nonfinite": results["num_nonfinite"]}
    table.add(**names, updates=settings.updates, **numbers)


def if_fitted(verdict: Verdict, fits: Table) -> Verdict:
    """The verdict, or "undecided" where the models were hardly fitted: that says nothing about architectures.

    Args:
        verdict: as if they were.
        fits: rows of `add_fit`.
    """
    updates = int(fits.values("updates").min()) if len(fits) else 0
    if updates >= ENOUGH_UPDATES:
        return verdict
    reason = (
        f"models were fitted by {updates} updates, fewer than {ENOUGH_UPDATES}; {verdict.numbers['reason']}"
    )
    return decide(
        verdict.id, verdict.claim, None, reason, {k: v for k, v in verdict.numbers.items() if k != "reason"}
    )


def seeds_of(table: Table) -> list[Any]:
    """The seeds of a table; None alone for one that was made with a single seed."""
    return table.unique("seed") or [None]


def mean_lines(table: Table, x: str, y: str) -> list[Series]:
    """One line a model: mean over everything else, with one standard deviation around it."""
    lines = []
    for model in table.unique("model"):
        rows = table.select(model=model)
        places, values = rows.values(x), rows.values(y)
        found = np.unique(places)
        groups = [values[places == place] for place in found]
        mean, spread = np.array([g.mean() for g in groups]), np.array([g.std() for g in groups])
        band = () if not spread.any() else ((mean - spread).tolist(), (mean + spread).tolist())
        lines.append(Series(model, found.tolist(), mean.tolist(), *band))
    return lines


def seed_lines(table: Table, models: Sequence[str], x: str, y: str) -> list[Series]:
    """One line a model and seed, so that a diverging one hides no other."""
    return [
        Series(model, rows.values(x)[::every].tolist(), rows.values(y)[::every].tolist())
        for model in models
        for seed in seeds_of(table.select(model=model))
        if len(rows := table.select(model=model, seed=seed))
        for every in [max(1, len(rows) // _MOST)]
    ]
