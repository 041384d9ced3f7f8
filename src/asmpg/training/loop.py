"""The training loop in three verbs, collect, improve, evaluate: all seeds together, one jitted chunk at a time."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ..core.loops import loop, repeat, while_loop
from ..core.types import Metrics, PRNGKey, Trajectory
from ..learners.base import AbstractLearner, start_key
from ..learners.replay import ReplayBuffer
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractEnvironment
from ..tasks.spec import ends_early, Spec
from ..tasks.world import evaluate, JaxWorld, play_episode


# Statistics are taken again whenever the number of episodes has doubled, until there are as many as those of random
# actions from which a network without data takes them. As many are drawn for it.
REFRESH_EPISODES = 64
# Where episodes end early, so many steps count as one in a schedule, or an episode's most if that is less.
ROUND = 100


class Counts(eqx.Module):
    """Steps that a simulator has really made, padding left out.

    Attributes:
        training: in the episodes that are learned from, the warm-up included.
        evaluation: in the episodes of the records.
        failed_at: step of the first number that was not finite, counted from 1; 0 while there is none.
    """

    training: Int[Array, ""]
    evaluation: Int[Array, ""]
    failed_at: Int[Array, ""]

    @classmethod
    def zero(cls) -> "Counts":
        """None yet."""
        return cls(*jnp.zeros(3, jnp.int32))

    def add(self, episodes: Trajectory, training: Array | int = 0, evaluation: Array | int = 0) -> "Counts":
        """With one episode, or several along a leading axis, of so many real steps."""
        failed = ~(jnp.isfinite(episodes.states[..., 1:, :]).all(axis=-1) & jnp.isfinite(episodes.rewards))
        failed = failed.reshape(-1, failed.shape[-1]).any(axis=0)
        step = jnp.where(failed.any(), failed.argmax().astype(jnp.int32) + 1, 0)
        return Counts(
            self.training + training,
            self.evaluation + evaluation,
            jnp.where(self.failed_at > 0, self.failed_at, step),
        )


class SeedState(eqx.Module):
    """Everything of one seed that changes during training.

    Attributes:
        learner: the method's state.
        replay: a `ReplayBuffer` of all episodes so far; None where nothing is collected.
        key: of the seed.
        counts: of simulators.
        judge: of recorded episodes alone: another state of the learner, fitted to those that are held out.
    """

    learner: Any
    replay: Any
    key: PRNGKey
    counts: Counts | None = None
    judge: Any = None

    def add(self, episode: Trajectory, num_steps: int | Int[Array, ""]) -> "SeedState":
        """With an episode of so many real steps."""
        counts = None if self.counts is None else self.counts.add(episode, training=num_steps)
        return SeedState(self.learner, self.replay.add(episode), self.key, counts)

    def with_learner(self, learner: object) -> "SeedState":
        """With another state of the learner."""
        return SeedState(learner, self.replay, self.key, self.counts)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a number of environment steps is cut into whole episodes and chunks.

    Where episodes end early, an "episode" of a schedule is a round: a seed begins episodes until it has made
    `round_steps` for each round so far. All of them are whole, so a seed may be ahead by a part of one.

    Attributes:
        num_episodes: episodes in all, the warm-up included.
        warmup_episodes: episodes before the first update.
        chunk_episodes: episodes between two returns to Python.
        round_steps: steps of an episode, or of a round.
    """

    num_episodes: int
    warmup_episodes: int
    chunk_episodes: int
    round_steps: int

    @classmethod
    def create(cls, steps: int, warmup_steps: int, chunk_steps: int, round_steps: int) -> "Schedule":
        """Rounds every number of steps up to whole episodes, or rounds."""
        num_episodes = -(-steps // round_steps)
        warmup_episodes = min(-(-warmup_steps // round_steps), num_episodes)
        chunk_episodes = max(1, -(-chunk_steps // round_steps))
        return cls(num_episodes, max(1, warmup_episodes), chunk_episodes, round_steps)

    def chunks(self, first_episode: int) -> Iterator[tuple[int, int]]:
        """(first, number of) episodes of every chunk from `first_episode` on; cuts fall at fixed places."""
        while first_episode < self.num_episodes:
            done = first_episode - self.warmup_episodes
            last = self.warmup_episodes + (done // self.chunk_episodes + 1) * self.chunk_episodes
            last = min(last, self.num_episodes)
            yield first_episode, last - first_episode
            first_episode = last


def collect(
    learner: AbstractLearner, env: JaxWorld, state: object, *, key: PRNGKey
) -> tuple[Trajectory, int | Int[Array, ""]]:
    """One episode of the learner's explorer, in a world inside JAX, and its real steps."""
    return play_episode(env, learner.explorer(state, key=key), key=start_key(key))


def improve(
    learner: AbstractLearner,
    state: object,
    replay: ReplayBuffer,
    elapsed: Int[Array, ""],
    num_steps: int | Int[Array, ""],
    *,
    key: PRNGKey,
) -> Any:
    """All updates that one episode has earned.

    Args:
        learner: the method.
        state: of the learner.
        replay: all episodes so far, this one included.
        elapsed: environment steps since the warm-up, before this episode.
        num_steps: of this episode.
        key: of all updates of the episode.
    """

    def update(step: Array, state: object) -> Any:
        return learner.update(state, replay, elapsed + step + 1, key=jax.random.fold_in(key, step))

    return loop(0, num_steps, update, state)


def is_refresh(num_episodes: int | np.ndarray | Array) -> Any:
    """Whether statistics are taken again after so many episodes, in a world whose units are not known beforehand."""
    return (num_episodes <= REFRESH_EPISODES) & (num_episodes & (num_episodes - 1) == 0)


def refresh(learner: AbstractLearner, state: SeedState, *, key: PRNGKey) -> SeedState:
    """Takes the statistics of the episodes so far."""
    episodes = state.replay.sample(REFRESH_EPISODES, key=key)
    return state.with_learner(learner.observe_warmup(state.learner, episodes))


def record(
    learner: AbstractLearner,
    state: SeedState,
    episodes: Trajectory,
    num_steps: int | Int[Array, "..."],
    *,
    key: PRNGKey,
) -> tuple[SeedState, Metrics]:
    """The metrics of evaluated episodes (leading axis), and the state without what has been told.

    Args:
        learner: the method.
        state: as it was evaluated.
        episodes: what the policy did.
        num_steps: real steps of each, or of all.
        key: for whatever the metrics draw.
    """
    one = jax.tree.map(lambda x: x[0], episodes)
    learner_state, metrics = learner.diagnose(state.learner, state.replay, one, key=key)
    returns, counts = episodes.episode_return, state.counts
    spread = {} if counts is None else {"return_spread": returns.std()}
    metrics = {"return": returns.mean(), **spread, **metrics}
    if counts is not None:
        counts = counts.add(episodes, evaluation=jnp.asarray(num_steps, jnp.int32).sum())
        metrics |= {"simulated_steps": counts.training, "evaluation_steps": counts.evaluation}
    if isinstance(learner.env, AbstractEnvironment):
        for name in ("violation", "relative_violation"):
            found = jax.vmap(getattr(learner.env, name))(episodes.states, episodes.actions)
            metrics |= {} if found is None else {name: found.max()}
    return SeedState(learner_state, state.replay, state.key, counts), metrics


def init_seed(
    learner: AbstractLearner,
    schedule: Schedule,
    capacity: int,
    key: PRNGKey,
    normaliser: Normaliser | None = None,
    recorded: Trajectory | None = None,
) -> SeedState:
    """Initial networks and the warm-up episodes of one seed, in a world inside JAX.

    Args:
        learner: the method.
        schedule: how many episodes of warm-up.
        capacity: episodes that the replay buffer holds.
        key: of the seed.
        normaliser: with which the warm-up acts; by default that of random episodes.
        recorded: episodes that the replay begins with (leading axis).
    """
    learner_key, warmup_key, loop_key = jax.random.split(key, 3)
    env = jax_world(learner)
    known = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
    state = learner.init(known, key=learner_key)
    counts = None if isinstance(env, AbstractEnvironment) else Counts.zero()
    seed = SeedState(None, ReplayBuffer.create(env, capacity, recorded), loop_key, counts)

    def add_episode(seed: SeedState, key: PRNGKey) -> tuple[SeedState, Trajectory]:
        episode, num_steps = collect(learner, env, state, key=key)
        return seed.add(episode, num_steps), episode

    if ends_early(env):
        seed = until(
            schedule.warmup_episodes * schedule.round_steps,
            lambda seed: add_episode(seed, jax.random.fold_in(warmup_key, seed.replay.count))[0],
            seed,
        )
        return refresh(learner, seed.with_learner(state), key=warmup_key)
    keys = jax.random.split(warmup_key, schedule.warmup_episodes)
    seed, episodes = jax.lax.scan(add_episode, seed, keys)
    return seed.with_learner(learner.observe_warmup(state, joined(recorded, episodes)))


def until(num_steps: int | Int[Array, ""], update: Callable[[SeedState], SeedState], state: SeedState) -> Any:
    """Repeats what adds an episode until a seed of a simulator has made so many training steps."""

    def goes_on(state: SeedState) -> Array:
        assert state.counts is not None, "the state of a simulator counts its steps"
        return state.counts.training < num_steps

    return while_loop(goes_on, update, state)


def joined(recorded: Trajectory | None, episodes: Trajectory) -> Trajectory:
    """Recorded episodes, if there are any, and those of the warm-up behind them (leading axis)."""
    if recorded is None:
        return episodes
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), recorded, episodes)


def first_statistics(env: Spec, recorded: Trajectory | None) -> Normaliser:
    """Those that the warm-up acts with: of recorded episodes, or of random ones where the world is a task."""
    if recorded is None:
        return Normaliser.from_random_episodes(env)
    return Normaliser.from_states(recorded.states, ends_early(env))


def episode_keys(key: PRNGKey, index: Int[Array, ""] | int) -> tuple[PRNGKey, PRNGKey, PRNGKey]:
    """Keys of the seed's episode of this index: to collect it, to improve on it, and for a record before it.

    Every draw comes from the seed's key and the index of the episode, so that where a chunk begins or a run is
    resumed makes no difference.
    """
    collect_key, improve_key, record_key = jax.random.split(jax.random.fold_in(key, index), 3)
    return collect_key, improve_key, record_key


def advance_seed(
    learner: AbstractLearner,
    starts: Array,
    schedule: Schedule,
    state: SeedState,
    first_episode: Int[Array, ""],
    num_episodes: Int[Array, ""],
    num_recorded: int = 0,
) -> tuple[SeedState, Metrics]:
    """Runs one seed through a chunk: each episode is collected and improved on, then the policy is evaluated."""
    env = jax_world(learner)

    def one_episode(index: Array, state: SeedState) -> SeedState:
        collect_key, improve_key, _ = episode_keys(state.key, index)
        elapsed = (
            (index - schedule.warmup_episodes) * env.horizon
            if state.counts is None
            else state.counts.training
        )
        episode, num_steps = collect(learner, env, state.learner, key=collect_key)
        state = state.add(episode, num_steps)
        if state.counts is not None:
            state = repeat(
                is_refresh(state.replay.count), lambda s: refresh(learner, s, key=collect_key), state
            )
        improved = improve(learner, state.learner, state.replay, elapsed, num_steps, key=improve_key)
        return state.with_learner(improved)

    def one_round(index: Array, state: SeedState) -> SeedState:
        last = (index + 1) * schedule.round_steps
        return until(last, lambda s: one_episode(s.replay.count - num_recorded, s), state)

    last = first_episode + num_episodes
    state = loop(first_episode, last, one_round if ends_early(env) else one_episode, state)
    evaluated, num_steps = evaluate(env, learner.evaluated(state.learner), starts)
    return record(learner, state, evaluated, num_steps, key=episode_keys(state.key, last)[2])


def jax_world(learner: AbstractLearner) -> JaxWorld:
    """The world of a learner, which must be one inside JAX."""
    assert isinstance(learner.env, JaxWorld), f"{learner.env.name} is not inside JAX"
    return learner.env


def replay_capacity(learner: AbstractLearner, schedule: Schedule, num_recorded: int = 0) -> int:
    """Episodes that the replay buffer of a run has room for.

    Runs of about the same length share a program: a second one, or a longer one, finds it compiled.
    """
    capacity = -(-learner.settings.replay_capacity // learner.env.horizon)
    most = schedule.num_episodes
    if ends_early(learner.env):  # each may be of one step
        most = most * schedule.round_steps + 1
    return min(capacity, 1 << (num_recorded + most - 1).bit_length())


def round_steps(env: Spec) -> int:
    """Steps that count as one episode of a schedule."""
    return min(env.horizon, ROUND) if ends_early(env) else env.horizon


def num_episodes_of(recorded: Trajectory | None) -> int:
    """How many recorded episodes there are (leading axis)."""
    return 0 if recorded is None else recorded.rewards.shape[0]
