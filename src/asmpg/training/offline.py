"""Training on recorded episodes alone: no world is asked, so that what the policy is worth can only be estimated.

The policy is improved through a model and a learned reward that are fitted to the episodes, and is kept near the
recorded actions. A second model and reward, the judge, are fitted to episodes that the first pair has never seen; what
the policy gains by the errors of the first pair it does not gain by the judge's. The difference is the objective's
optimism. Long episodes that begin anywhere are imagined, and judged, in windows that begin at recorded states.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..core.loops import loop, repeat
from ..core.types import Metrics, PRNGKey, Trajectory
from ..gradients.policy_gradient import imagined_return
from ..learners.base import AbstractLearner
from ..learners.model_based import ModelBasedLearner, ModelBasedState
from ..learners.replay import ReplayBuffer
from ..models.normalisation import Normaliser
from ..tasks.data import Episodes
from ..tasks.environment import AbstractReward, trajectory_rewards
from ..tasks.recording import Recording
from ..tasks.spec import ends_early
from .fit import held_out_number
from .loop import Schedule, SeedState
from .recorded import what_networks_see
from .support import Support
from .trainer import AbstractTrainer, over_seeds


# Windows of held-out episodes on which a policy is judged, spread over all of them.
NUM_WINDOWS = 512


def split(data: Episodes) -> tuple[Episodes, Episodes]:
    """The episodes to train on, and a fifth of them, at least one, for the judge: the same ones for every seed."""
    return data.split(held_out_number(data, None), seed=0)


@final
class OfflineTrainer(AbstractTrainer):
    """The loop of one run on recorded episodes alone: nothing is collected, and what is evaluated is imagined.

    A step of learning makes the updates that a step in a world would earn. In the steps of the warm-up only the models
    are fitted.
    """

    learner: ModelBasedLearner

    def __init__(
        self,
        learner: AbstractLearner,
        schedule: Schedule,
        seeds: Sequence[int],
        data: Episodes | Recording,
    ):
        """Prepares the programs; nothing is compiled or run yet.

        Args:
            learner: the method, which learns its reward.
            schedule: how the steps are cut.
            seeds: one independent run each, all on the same episodes.
            data: the episodes; what is known of them where the run is only read back.
        """
        assert isinstance(learner, ModelBasedLearner)
        self.learner, self.schedule, self.seeds, self.num_rows = learner, schedule, tuple(seeds), len(seeds)
        self._static: Any = None
        self._begin = jax.jit(over_seeds(self._begin_seed, self.num_rows))
        self._advance = jax.jit(over_seeds(self._advance_seed, self.num_rows), donate_argnums=0)
        self._support: Support | None = None
        self._stretches: Trajectory | None = None
        self._scale = 1.0
        if isinstance(data, Episodes):
            fitted, judged = split(data)
            self._support = Support.of(fitted, judged)
            self._episodes = [part.trajectories(data.ends_early) for part in (fitted, judged)]
            self._stretches, self._scale = stretches(self._episodes[1], judged.lengths, learner.window)
        else:
            # Only shapes are asked for, and those of the state do not depend on how many episodes there are.
            self._episodes = [what_networks_see(data, data)] * 2
        self.shapes = jax.eval_shape(self._begin, self._keys(), *self._episodes)

    # What one seed does.

    def _begin_seed(self, key: PRNGKey, fitted: Trajectory, judged: Trajectory) -> SeedState:
        normaliser = Normaliser.from_states(fitted.states, ends_early(self.learner.env))
        learner_key, judge_key, loop_key = jax.random.split(key, 3)
        trained, judge = (
            self.learner.observe_warmup(self.learner.init(normaliser, key=own), fitted)
            for own in (learner_key, judge_key)
        )
        arrays, self._static = eqx.partition(SeedState(trained, None, loop_key, judge=judge), eqx.is_array)
        return arrays

    def _advance_seed(
        self,
        state: SeedState,
        fitted: Trajectory,
        judged: Trajectory,
        parts: Trajectory,
        first: Array,
        num: Array,
    ) -> tuple[SeedState, Metrics, tuple[Array, Array]]:
        stride, state = self.schedule.round_steps, self.combine(state)
        replays, last = (ReplayBuffer.full(fitted), ReplayBuffer.full(judged)), first + num
        state = loop(first * stride, last * stride, lambda i, s: self._step(i, s, *replays), state)
        one, record_key = jax.tree.map(lambda x: x[0], judged), _keys_of(state.key, last * stride)[3]
        learned, metrics = self.learner.diagnose(state.learner, replays[0], one, key=record_key)
        own, imagined = _judged(self.learner, learned, state.judge, parts, self._scale)
        # What the learner says of an evaluated episode means nothing here: there is none.
        metrics = {name: value for name, value in metrics.items() if not name.endswith("_on_policy")} | own
        state = SeedState(learned, None, state.key, judge=state.judge)
        return eqx.filter(state, eqx.is_array), metrics, imagined

    def _step(
        self, index: Int[Array, ""], state: SeedState, fitted: ReplayBuffer, judged: ReplayBuffer
    ) -> SeedState:
        """The updates of one step of learning."""
        learner, settings = self.learner, self.learner.settings
        fit_key, policy_key, judge_key, _ = _keys_of(state.key, index)
        due = (index + 1) % settings.model_update_every == 0
        trained = repeat(due, lambda s: learner.fit(s, fitted, key=fit_key), state.learner)
        judge = repeat(due, lambda s: learner.fit(s, judged, key=judge_key), state.judge)
        first = self.schedule.warmup_episodes * self.schedule.round_steps
        due = (index >= first) & ((index + 1) % settings.policy_update_every == 0)
        trained = repeat(due, lambda s: learner.improve(s, fitted, key=policy_key), trained)
        return SeedState(trained, None, state.key, judge=judge)

    # What a run asks for.

    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """Nothing: the warm-up runs the program of the loop."""

    def init(self) -> SeedState:
        state = self._begin(self._keys(), *self._episodes)
        return self._run(state, 0, self.schedule.warmup_episodes)[0]

    def _run(self, state: SeedState, first: int, num: int) -> tuple[SeedState, Metrics, tuple[Array, Array]]:
        return self._advance(state, *self._episodes, self._stretches, jnp.asarray(first), jnp.asarray(num))

    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        """Runs a chunk: so many times the horizon steps of learning, then the policy is judged."""
        state, metrics, imagined = self._run(state, first_episode, num_episodes)
        assert self._support is not None, "there are no episodes to go on with"
        far = outside(self._support, *map(np.asarray, imagined))
        return state, metrics | {"outside": jnp.asarray(far)}

    def memory(self) -> int | None:
        """Not known before the warm-up has run."""

    def combine(self, state: SeedState) -> SeedState:
        return eqx.combine(state, self._static)


def _keys_of(key: PRNGKey, step: Int[Array, ""]) -> Array:
    """Keys of a step of learning: to fit, to improve the policy, to fit the judge, and for a record before it."""
    return jax.random.split(jax.random.fold_in(key, step), 4)


def stretches(
    episodes: Trajectory, lengths: Int[np.ndarray, " episodes"], window: int | None
) -> tuple[Trajectory, float]:
    """The held-out episodes, or windows of them one after another, at most so many; and how many make an episode."""
    if window is None:
        return episodes, 1.0
    number, horizon = episodes.rewards.shape
    firsts = np.arange(0, horizon - window + 1, window)
    rows, which = np.nonzero(firsts < lengths[:, None])
    # What does not fill a window counts like the rest.
    scale = len(rows) / number * horizon / (window * len(firsts))
    chosen = np.unique(np.linspace(0, len(rows) - 1, NUM_WINDOWS).astype(int))
    replay = ReplayBuffer.full(episodes)
    return replay.cut(jnp.asarray(rows[chosen]), jnp.asarray(firsts[which[chosen]]), window), scale


def _judged(
    learner: ModelBasedLearner,
    trained: ModelBasedState,
    judge: ModelBasedState,
    episodes: Trajectory,
    scale: float,
) -> tuple[Metrics, tuple[Array, Array]]:
    """What both pairs say of the deterministic policy, and the states and actions that the trained one imagines.

    `return` is the judge's estimate; `optimism` is how much more the trained pair promises; `recorded_error` is how
    much more it promises of the recorded actions of held-out episodes than they returned. In windows, these are means
    over windows that begin at recorded states, times the number of windows in an episode.
    """
    policy = learner.evaluated(trained)
    still = jnp.zeros(episodes.actions.shape[1:])
    reward, judge_reward = trained.reward, judge.reward
    assert isinstance(reward, AbstractReward) and isinstance(judge_reward, AbstractReward)

    def one(episode: Trajectory) -> tuple[Any, ...]:
        start = episode.states[0]
        value, imagined = imagined_return(policy, trained.model, reward, start, still)
        predicted = jnp.concatenate([start[None], trained.model.predict(start, episode.actions)])
        recorded = trajectory_rewards(reward, predicted, episode.actions).sum() - episode.rewards.sum()
        judged, _ = imagined_return(policy, judge.model, judge_reward, start, still)
        loss = trained.model.loss(episode)
        return value, judged, recorded, loss, imagined.states[:-1], imagined.actions

    values, judged, recorded, losses, states, actions = jax.lax.map(one, episodes, batch_size=8)
    metrics = {
        "return": scale * judged.mean(),
        "imagined_return": scale * values.mean(),
        "optimism": scale * (values - judged).mean(),
        "recorded_error": scale * recorded.mean(),
        "held_out_loss": losses.mean(),
    }
    return metrics, (states, actions)


def outside(
    support: Support,
    states: Float[np.ndarray, "num_seeds episodes horizon state"],
    actions: Float[np.ndarray, "num_seeds episodes horizon action"],
) -> Float[np.ndarray, " num_seeds"]:
    """The share of steps of each seed that are farther from the data than one radius."""
    observations = states[..., : support.observation_size]
    pairs = zip(observations, actions, strict=True)
    return np.array(
        [(support.distance(*(x.reshape(-1, x.shape[-1]) for x in pair)) > 1).mean() for pair in pairs]
    )


def finding(known: Recording, metrics: Mapping[str, np.ndarray], window: int | None = None) -> str:
    """What a run on recorded episodes alone has found, means over its seeds, in a few sentences on one line."""
    estimate, optimism, far = (float(metrics[name][-1].mean()) for name in ("return", "optimism", "outside"))
    unit = max(known.return_spread, float(np.finfo(float).tiny))
    sentences = [
        f"The policy is imagined to return {estimate + optimism:.4g} by the model it was trained through and "
        f"{estimate:.4g} by one of held-out episodes; the recorded mean is {known.mean_return:.4g}.",
        f"The objective is optimistic by {optimism:.3g}, {abs(optimism) / unit:.2g} standard deviations of the "
        "recorded returns.",
        f"{100 * far:.0f}% of the imagined steps have no data near them.",
    ]
    if window is not None:
        sentences.append(
            f"Both are of windows of {window} steps that begin at recorded states; a policy that has left those behind "
            "may return far more, or less."
        )
    if estimate <= known.mean_return:
        sentences.append("By that estimate it is no better than the recorded policy: do not use it.")
    elif optimism > estimate - known.mean_return:
        sentences.append("The optimism is larger than the gain: try more episodes, or a larger cloning.")
    return " ".join(sentences)
