"""A dynamics model from recorded episodes alone, judged on episodes that it has not seen."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from ..core.arguments import of, shown, takes
from ..core.checks import check_integer
from ..core.loops import loop
from ..core.types import Given, Trajectory, UsageError
from ..gradients.analysis import first_action_jacobian, growth_fit, GrowthFit, operator_norm, reach
from ..learners.model_based import ModelBasedLearner
from ..learners.replay import ReplayBuffer
from ..learners.settings import Settings
from ..models import AbstractDynamicsModel
from ..models.normalisation import Normaliser
from ..tasks.data import Episodes
from ..tasks.recording import Recording
from .config import with_overrides
from .methods import find_method, Options
from .support import Support


NUM_RECORDS = 20
# Held-out episodes whose Jacobians are taken.
NUM_JACOBIANS = 8


@dataclasses.dataclass(frozen=True)
class MadeBy:
    """How a model was fitted; with the same episodes, it comes out again.

    Attributes:
        model: a name of `asmpg.MODELS`, or of the user's own.
        preset: of the settings.
        overrides: settings that replace the preset's.
        seed: of the first parameters, of the batches, and of which episodes are held out.
    """

    model: str
    preset: str
    overrides: dict[str, Any]
    seed: int


@dataclasses.dataclass(frozen=True, repr=False)
class Fit:
    """A fitted dynamics model and what is known about it.

    Attributes:
        model: predicts the observations, in the units of the recording, and `alive` where episodes end early.
        history: `updates`, `loss` and `held_out_loss` at 20 points of the fit; the loss is the model's own.
        error: root mean square error at steps 1 .. H on held-out episodes, free running, in standard deviations of
            each component; about 1 for a model that knows nothing.
        reach: how far back the gradient reaches, `|ds_H/da_0| / |ds_H/da_{H-1}|`, the median over held-out episodes.
        growth: how `|ds_t/da_0|` grows with t, or why that cannot be said.
        support: where there is data, and where there is none.
        data: the episodes it was fitted on.
        held_out: those it was judged on.
        num_nonfinite: updates that were skipped because their gradient was not finite.
        made_by: model, preset, overrides and seed.
        recording: what is known of all episodes together.
    """

    model: AbstractDynamicsModel
    history: dict[str, np.ndarray]
    error: Float[np.ndarray, " horizon"]
    reach: float
    growth: GrowthFit | str
    support: Support
    data: Episodes
    held_out: Episodes
    num_nonfinite: int
    made_by: MadeBy
    recording: Recording

    def summary(self) -> dict[str, Any]:
        """Everything but the model and the episodes, as plain numbers, lists and words."""
        growth = self.growth if isinstance(self.growth, str) else self.growth.summary()
        content = {
            "data": self.data.name,
            "horizon": self.data.horizon,
            "episodes": len(self.data),
            "held_out_episodes": len(self.held_out),
            "history": {name: [_plain(value) for value in values] for name, values in self.history.items()},
            "error": [_plain(value) for value in self.error],
            "reach": _plain(self.reach),
            "growth": growth,
            "num_nonfinite": self.num_nonfinite,
        }
        return content | self.support.summary() | {"finding": self.finding()}

    def finding(self) -> str:
        """What it means, in a few sentences."""
        horizon, error = self.data.horizon, self.error
        steps = sorted({1, max(1, horizon // 2), horizon})
        errors = ", ".join(f"{error[step - 1]:.3g} at step {step}" for step in steps)
        sentences = [f"Held-out error in standard deviations: {errors}."]
        losses, best = self.history["held_out_loss"], int(np.nanargmin(self.history["held_out_loss"]))
        if losses[-1] > 1.1 * losses[best]:
            updates = int(self.history["updates"][best])
            sentences.append(
                f"It learns by heart: the held-out loss was lowest after {updates} updates "
                f"({losses[best]:.3g}, now {losses[-1]:.3g}); fewer updates or more episodes would help."
            )
        if error[-1] > 0.9:
            sentences.append(
                "At the last step it knows hardly more than the mean: do not plan that far with it."
            )
        sentences.append(f"Reach of the gradient: {self.reach:.3g}. {self.support.finding()}")
        return " ".join(sentences)

    def __repr__(self) -> str:
        """What was fitted, and the finding."""
        return f"Fit of {self.data!r}, {len(self.held_out)} more held out. {self.finding()}"


@takes(data=of(Episodes))
def fit(
    data: Given[Episodes],
    model: Given[str] = "lstm",
    steps: int = 2_000,
    *,
    seed: int = 0,
    held_out: int | None = None,
    preset: str = "default",
    overrides: dict[str, Any] | None = None,
) -> Fit:
    """Fits a dynamics model on recorded episodes.

    Args:
        data: the episodes; some of them are held out.
        model: which (a name of `asmpg.MODELS` that has a dynamics model).
        steps: number of updates.
        seed: of the first parameters, of the batches, and of which episodes are held out.
        held_out: how many; by default a fifth, at least one.
        preset: of the settings, "default" or "paper".
        overrides: settings that replace the preset's, by name.

    Raises:
        UsageError: a model without anything to fit, too few episodes, or a value that is not allowed.
    """
    if not isinstance(model, str):
        raise UsageError(f"model: must be the name of one, see asmpg.MODELS, got {shown(model)}")
    check_integer("steps", steps, 1)
    check_integer("seed", seed, 0)
    num_held_out = held_out_number(data, held_out)
    fitted, others = data.split(num_held_out, seed=seed)
    made_by = MadeBy(model, preset, overrides or {}, seed)
    learner = model_learner(data.recording, made_by)
    replay, judged = ReplayBuffer.full(fitted.trajectories()), others.trajectories()
    initial_key, batch_key = jax.random.split(jax.random.key(seed))
    normaliser = Normaliser.from_states(replay.episodes.states)
    state = eqx.filter_jit(lambda key: learner.init(normaliser, key=key))(initial_key)
    state = learner.observe_warmup(state, replay.episodes)
    advance = _compiled(learner, state, replay, judged)
    arrays, static = eqx.partition(state, eqx.is_array)
    points = np.unique(np.linspace(0, steps, min(NUM_RECORDS, steps) + 1).astype(int))
    history: dict[str, list[float]] = {"updates": [], "loss": [], "held_out_loss": []}
    for first, last in zip([0, *points[:-1]], points, strict=True):
        arrays, losses = advance(arrays, batch_key, jnp.asarray(first), jnp.asarray(last))
        for name, value in zip(history, (float(last), *map(float, losses)), strict=True):
            history[name].append(value)
    state = eqx.combine(arrays, static)
    return Fit(
        model=state.model,
        history={name: np.array(values) for name, values in history.items()},
        error=held_out_error(state.model, judged, normaliser),
        **_gradients(state.model, judged),
        support=Support.of(fitted, others),
        data=fitted,
        held_out=others,
        num_nonfinite=int(state.statistics.num_nonfinite),
        made_by=made_by,
        recording=data.recording,
    )


def first_model(learner: ModelBasedLearner, made_by: MadeBy) -> AbstractDynamicsModel:
    """The model that a fit begins with, but for its statistics."""
    key, unknown = (
        jax.random.split(jax.random.key(made_by.seed))[0],
        Normaliser.unknown(learner.env.state_size),
    )
    return eqx.filter_jit(lambda key: learner.init(unknown, key=key).model)(key)


def held_out_number(data: Episodes, held_out: int | None) -> int:
    """How many episodes to hold out.

    Raises:
        UsageError: nothing would be left on one of the two sides.
    """
    number = max(1, len(data) // 5) if held_out is None else held_out
    check_integer("held_out", number, 1)
    if number >= len(data):
        raise UsageError(
            f"held_out: {number} of {len(data)} episodes of {data.name} cannot be held out, some must be left to fit on"
        )
    return number


def model_learner(known: Recording, made_by: MadeBy) -> ModelBasedLearner:
    """The model-based learner of a method, in the world of recorded episodes.

    Raises:
        UsageError: the method has no dynamics model that is fitted.
    """
    method = find_method(made_by.model)
    if not method.imagines or made_by.model == "simulator":
        raise UsageError(f"model: {made_by.model} has no dynamics model that could be fitted on {known.name}")
    settings = with_overrides(method, made_by.preset, known.horizon, made_by.overrides)
    if isinstance(settings, Settings):
        # The error against the step is that of whole episodes.
        settings = settings.replace(window=known.horizon)
    learner = method.learner(known, settings, Options())
    assert isinstance(learner, ModelBasedLearner)
    return learner


def _compiled(
    learner: ModelBasedLearner, state: PyTree, replay: ReplayBuffer, judged: Trajectory
) -> Callable[..., Any]:
    """A program from (state, key, first, last) to the state after these updates, and its losses."""
    _, static = eqx.partition(state, eqx.is_array)

    def losses(model: AbstractDynamicsModel) -> tuple[jax.Array, jax.Array]:
        episodes = (replay.episodes, judged)
        first, second = (jax.lax.map(model.loss, each, batch_size=8).mean() for each in episodes)
        return first, second

    @jax.jit
    def advance(arrays: PyTree, key: jax.Array, first: jax.Array, last: jax.Array) -> tuple[Any, Any]:
        def update(index: jax.Array, state: PyTree) -> Any:
            return learner.fit(state, replay, key=jax.random.fold_in(key, index))

        state = loop(first, last, update, eqx.combine(arrays, static))
        return eqx.filter(state, eqx.is_array), losses(state.model)

    return advance


def held_out_error(
    model: AbstractDynamicsModel, episodes: Trajectory, normaliser: Normaliser
) -> Float[np.ndarray, " horizon"]:
    """Root mean square error at steps 1 .. H over episodes and components, in standard deviations of each component."""

    @eqx.filter_jit
    def squares(model: AbstractDynamicsModel) -> jax.Array:
        def one(episode: Trajectory) -> jax.Array:
            difference = model.predict(episode.states[0], episode.actions) - episode.states[1:]
            return jnp.square(difference / normaliser.scale).mean(axis=1)

        return jax.lax.map(one, episodes, batch_size=8).mean(axis=0)

    return np.sqrt(np.asarray(squares(model), np.float64))


def _gradients(model: AbstractDynamicsModel, episodes: Trajectory) -> dict[str, Any]:
    """The reach and the growth of the model's gradient, medians over some episodes."""

    @eqx.filter_jit
    def measured(model: AbstractDynamicsModel) -> tuple[jax.Array, jax.Array]:
        def one(episode: Trajectory) -> tuple[jax.Array, jax.Array]:
            given = (model, episode.states[0], episode.actions)
            return reach(*given), operator_norm(first_action_jacobian(*given))

        return jax.lax.map(one, jax.tree.map(lambda x: x[:NUM_JACOBIANS], episodes))

    reaches, norms = map(np.asarray, measured(model))
    norms = np.median(norms, axis=0)
    try:
        growth: GrowthFit | str = growth_fit(np.arange(1, len(norms) + 1), norms)
    except UsageError as error:
        growth = str(error)
    return {"reach": float(np.median(reaches)), "growth": growth}


def _plain(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
