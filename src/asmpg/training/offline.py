"""Training on recorded episodes alone: no world is asked, so that what the policy is worth can only be estimated.

The policy is improved through a model and a learned reward that are fitted to the episodes, and is kept near the
recorded actions. A second model and reward, the judge, are fitted to episodes that the first pair has never seen; what
the policy gains by the errors of the first pair it does not gain by the judge's. The difference is the objective's
optimism.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..core.checks import check, Count, NotNegative
from ..core.loops import loop, repeat
from ..core.types import PRNGKey, Trajectory, UsageError
from ..gradients.policy_gradient import imagined_return
from ..learners.model_based import ModelBasedLearner, ModelBasedState
from ..models.normalisation import Normaliser
from ..tasks.data import Episodes
from ..tasks.environment import trajectory_rewards
from .export import write_policy
from .fit import held_out_number, model_learner, replay_of
from .loop import over_seeds
from .support import Support


NUM_RECORDS = 20
# The share of all updates that only the models get, before the policy's first.
FITTING_SHARE = 0.25


class OfflineState(eqx.Module):
    """Everything of one seed that changes: what the policy is trained through, and what judges it."""

    trained: ModelBasedState
    judge: ModelBasedState


@dataclasses.dataclass(frozen=True, repr=False)
class OfflineResult:
    """A policy from recorded episodes alone, and what can be said about it without a world.

    Attributes:
        policy: every array has a leading seed axis; use it under `eqx.filter_vmap`.
        model: the dynamics model that it was trained through, the same.
        returns: of the deterministic policy from the held-out initial states as the judge estimates them: estimates,
            not measured in any world.
        optimism: the return by the model and reward that the policy was trained through, less that by the judge.
        outside: the share of the imagined steps that have no data within one radius, see `Support`.
        metrics: every metric as [records, num_seeds].
        recorded_return: the mean return of all recorded episodes.
        recorded_error: of the held-out episodes with their recorded actions, the mean return by the trained model and
            reward, less the recorded one.
        data: the episodes it was trained on.
        held_out: those of the judge.
        seed: the first seed.
    """

    policy: Any
    model: Any
    returns: Float[np.ndarray, " num_seeds"]
    optimism: Float[np.ndarray, " num_seeds"]
    outside: Float[np.ndarray, " num_seeds"]
    metrics: dict[str, np.ndarray]
    recorded_return: float
    recorded_error: Float[np.ndarray, " num_seeds"]
    data: Episodes
    held_out: Episodes
    seed: int

    @property
    def best_seed(self) -> int:
        """The seed that the judge puts first."""
        return self.seed + int(np.argmax(np.nan_to_num(self.returns, nan=-np.inf)))

    def export(
        self, path: str | pathlib.Path, *, seed: int | None = None, format: str | None = None
    ) -> pathlib.Path:
        """Writes the deterministic policy of one seed, as `Result.export` does."""
        return write_policy(path, self.policy_of(self.best_seed if seed is None else seed), self.data, format)

    def policy_of(self, seed: int) -> Any:
        """The policy of one seed, ready to call.

        Raises:
            UsageError: there is no such seed.
        """
        last = self.seed + len(self.returns) - 1
        if not self.seed <= seed <= last:
            raise UsageError(f"seed: there are the seeds {self.seed} to {last}, got {seed}")
        return jax.tree.map(lambda x: x[seed - self.seed] if eqx.is_array(x) else x, self.policy)

    def summary(self) -> dict[str, Any]:
        """What `--json` shows: plain numbers and words."""
        return {
            "data": self.data.name,
            "episodes": len(self.data),
            "held_out_episodes": len(self.held_out),
            "horizon": self.data.horizon,
            "estimated_returns": _plain(self.returns),
            "optimism": _plain(self.optimism),
            "outside": _plain(self.outside),
            "recorded_return": float(self.recorded_return),
            "recorded_error": _plain(self.recorded_error),
            "finding": self.finding(),
        }

    def finding(self) -> str:
        """What it means, in a few sentences."""
        estimate, optimism = float(self.returns.mean()), float(self.optimism.mean())
        spread = float(self.data.episode_returns.std())
        sentences = [
            f"The policy is imagined to return {estimate + optimism:.4g} by the model it was trained through and "
            f"{estimate:.4g} by one of {len(self.held_out)} held-out episodes; the recorded mean is "
            f"{self.recorded_return:.4g}. The objective is optimistic by {optimism:.3g}, "
            f"{abs(optimism) / max(spread, 1e-12):.2g} standard deviations of the recorded returns.",
            f"{100 * self.outside.mean():.0f}% of the imagined steps have no data near them.",
        ]
        if estimate <= self.recorded_return:
            sentences.append("By the judge it is no better than what was recorded: do not use it.")
        elif optimism > estimate - self.recorded_return:
            sentences.append("The optimism is larger than the gain: try more episodes, or a larger cloning.")
        return " ".join(sentences)

    def __repr__(self) -> str:
        """What was trained, and the finding."""
        return f"OfflineResult of {self.data!r}. {self.finding()}"


def train_offline(  # noqa: PLR0913 (a keyword each)
    data: Episodes,
    *,
    model: str = "lstm",
    steps: int = 4_000,
    seed: int = 0,
    num_seeds: int = 1,
    held_out: int | None = None,
    cloning: float = 1.0,
    preset: str = "default",
    overrides: dict[str, Any] | None = None,
) -> OfflineResult:
    """Trains a policy on recorded episodes alone.

    Args:
        data: the episodes; some of them are held out, for the judge.
        model: which dynamics model (a name of `asmpg.MODELS` that has one).
        steps: steps of learning, each with the updates that one environment step earns; the first quarter only fits.
        seed: the first seed; it also says which episodes are held out.
        num_seeds: number of independent runs on the same episodes.
        held_out: how many episodes the judge gets; by default a fifth, at least one.
        cloning: weight of the mean squared distance between the policy's deterministic actions and the recorded ones,
            against returns in units of their spread; 0 lets the policy go wherever the model promises most.
        preset: of the settings, "default" or "paper".
        overrides: settings that replace the preset's, by name.

    Raises:
        UsageError: one line that names the argument and what is allowed.
    """
    steps, num_seeds = check("steps", steps, Count), check("num_seeds", num_seeds, Count)
    cloning = check("cloning", cloning, NotNegative)
    fitted, others = data.split(held_out_number(data, held_out), seed=seed)
    learner = model_learner(fitted, model, preset, overrides or {}, learned_reward=True)
    learner = dataclasses.replace(learner, cloning=float(cloning))
    programs = _Programs(learner, fitted, others, int(FITTING_SHARE * steps), num_seeds)
    states = programs.init(jnp.stack([jax.random.key(seed + index) for index in range(num_seeds)]))
    support, records = Support.of(fitted, others), []
    points = np.unique(np.linspace(0, steps, min(NUM_RECORDS, steps) + 1).astype(int))
    for first, last in zip([0, *points[:-1]], points, strict=True):
        states, metrics, imagined = programs.advance(states, jnp.asarray(first), jnp.asarray(last))
        metrics = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        outside = _outside(support, np.asarray(imagined[0]), np.asarray(imagined[1]), fitted)
        records.append({"updates": np.full(num_seeds, float(last)), **metrics, "outside": outside})
    trained = programs.combine(states).trained
    metrics = {name: np.stack([record[name] for record in records]) for name in records[0]}
    return OfflineResult(
        policy=learner.evaluated(trained),
        model=trained.model,
        returns=metrics["judged_return"][-1],
        optimism=metrics["optimism"][-1],
        outside=metrics["outside"][-1],
        metrics=metrics,
        recorded_return=float(data.episode_returns.mean()),
        recorded_error=metrics["recorded_error"][-1],
        data=fitted,
        held_out=others,
        seed=seed,
    )


class _Programs:
    """The compiled parts of it, for all seeds."""

    def __init__(
        self,
        learner: ModelBasedLearner,
        fitted: Episodes,
        others: Episodes,
        first_policy: int,
        num_seeds: int,
    ):
        """Compiles nothing yet.

        Args:
            learner: the method, which learns its reward.
            fitted: what the policy is trained on.
            others: what the judge is fitted on, and where both begin to imagine when they are compared.
            first_policy: the step of the first policy update.
            num_seeds: number of seeds.
        """
        replay, judged = replay_of(fitted), replay_of(others)
        normaliser = Normaliser.from_states(replay.episodes.states)
        settings = learner.settings
        self._static: Any = None

        def init(key: PRNGKey) -> tuple[OfflineState, PRNGKey]:
            *keys, loop_key = jax.random.split(key, 3)
            pair = (
                learner.observe_warmup(learner.init(normaliser, key=key), replay.episodes) for key in keys
            )
            arrays, self._static = eqx.partition(OfflineState(*pair), eqx.is_array)
            return arrays, loop_key

        def step(index: Int[Array, ""], state: OfflineState, key: PRNGKey) -> OfflineState:
            fit_key, policy_key, judge_key = jax.random.split(jax.random.fold_in(key, index), 3)
            due = (index + 1) % settings.model_update_every == 0
            trained = repeat(due, lambda s: learner.fit(s, replay, key=fit_key), state.trained)
            judge = repeat(due, lambda s: learner.fit(s, judged, key=judge_key), state.judge)
            due = (index >= first_policy) & ((index + 1) % settings.policy_update_every == 0)
            trained = repeat(due, lambda s: learner.improve(s, replay, key=policy_key), trained)
            return OfflineState(trained, judge)

        def advance(given: Any, first: Int[Array, ""], last: Int[Array, ""]) -> Any:
            arrays, key = given
            state = eqx.combine(arrays, self._static)
            state = loop(first, last, lambda index, state: step(index, state, key), state)
            metrics, imagined = _judged(learner, state, judged.episodes)
            return (eqx.filter(state, eqx.is_array), key), metrics, imagined

        self.init = jax.jit(over_seeds(init, num_seeds))
        self.advance = jax.jit(over_seeds(advance, num_seeds))

    def combine(self, states: Any) -> OfflineState:
        """The state of all seeds with its parts that are no arrays."""
        return eqx.combine(states[0], self._static)


def _judged(
    learner: ModelBasedLearner, state: OfflineState, episodes: Trajectory
) -> tuple[dict[str, Array], tuple[Array, Array]]:
    """Returns of the deterministic policy by both pairs, and the states and actions that the trained one imagines."""
    policy = learner.evaluated(state.trained)
    still = jnp.zeros((learner.env.horizon, learner.env.action_size))

    def by(pair: ModelBasedState) -> Callable[[Array], tuple[Array, Any]]:
        reward = pair.reward
        assert reward is not None
        return lambda start: imagined_return(policy, pair.model, reward, start, still)

    def one(episode: Trajectory) -> tuple[Array, Array, Array, Array, Array]:
        pair, start = state.trained, episode.states[0]
        value, imagined = by(pair)(start)
        predicted = jnp.concatenate([start[None], pair.model.predict(start, episode.actions)])
        assert pair.reward is not None
        recorded = trajectory_rewards(pair.reward, predicted, episode.actions).sum() - episode.rewards.sum()
        return value, by(state.judge)(start)[0], recorded, imagined.states[:-1], imagined.actions

    values, judged, recorded, states, actions = jax.lax.map(one, episodes, batch_size=8)
    metrics = {
        "model_loss": jax.lax.map(state.trained.model.loss, episodes, batch_size=8).mean(),
        "imagined_return": values.mean(),
        "judged_return": judged.mean(),
        "optimism": (values - judged).mean(),
        "recorded_error": recorded.mean(),
    }
    return metrics, (states, actions)


def _outside(
    support: Support, states: np.ndarray, actions: np.ndarray, data: Episodes
) -> Float[np.ndarray, " num_seeds"]:
    """The share of steps of each seed that are farther from the data than one radius."""
    observations = states[..., : data.observations.shape[2]]
    return np.array(
        [
            (support.distance(*(x.reshape(-1, x.shape[-1]) for x in pair)) > 1).mean()
            for pair in zip(observations, actions, strict=True)
        ]
    )


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
