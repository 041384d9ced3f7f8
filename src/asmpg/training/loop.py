"""The one training loop: episodes, replay and earned updates, all seeds together, one jitted chunk at a time."""

import abc
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ..core.loops import loop
from ..core.types import Metrics, PRNGKey, Trajectory
from ..learners.model_based import AbstractLearner
from ..learners.replay import ReplayBuffer
from ..tasks.environment import evaluation_states, play, rollout


# Settings by name, one value each or one a seed.
Numbers = dict[str, Array]

# The added exploration noise has between 1/16 and the whole of its largest amplitude.
AMPLITUDE_OCTAVES = 4.0


class SeedState(eqx.Module):
    """Everything of one seed that changes during training."""

    learner: Any
    replay: ReplayBuffer
    key: PRNGKey


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a number of environment steps is cut into whole episodes and chunks.

    Attributes:
        num_episodes: episodes in all, the warm-up included.
        warmup_episodes: episodes before the first update.
        chunk_episodes: episodes between two returns to Python.
    """

    num_episodes: int
    warmup_episodes: int
    chunk_episodes: int

    @classmethod
    def create(cls, steps: int, warmup_steps: int, chunk_steps: int, horizon: int) -> "Schedule":
        """Rounds every number of steps up to whole episodes."""
        num_episodes = -(-steps // horizon)
        warmup_episodes = min(-(-warmup_steps // horizon), num_episodes)
        return cls(num_episodes, max(1, warmup_episodes), max(1, -(-chunk_steps // horizon)))

    def chunks(self, first_episode: int) -> Iterator[tuple[int, int]]:
        """(first, number of) episodes of every chunk from `first_episode` on; cuts fall at fixed places."""
        while first_episode < self.num_episodes:
            done = first_episode - self.warmup_episodes
            last = self.warmup_episodes + (done // self.chunk_episodes + 1) * self.chunk_episodes
            last = min(last, self.num_episodes)
            yield first_episode, last - first_episode
            first_episode = last


def exploration_noise(
    horizon: int, action_size: int, kind: str, *, key: PRNGKey
) -> Float[Array, "horizon action"]:
    """Standard normal noise for one episode, "white" or "correlated" over time.

    Correlated: first-order autoregressive with unit variance, its correlation length drawn log-uniformly from 1
    to the horizon. White noise averages out over a long horizon, so that all episodes look alike to the model.
    """
    length_key, noise_key = jax.random.split(key)
    white = jax.random.normal(noise_key, (horizon, action_size))
    if kind == "white":
        return white
    length = jnp.exp(jax.random.uniform(length_key, minval=0.0, maxval=jnp.log(float(horizon))))
    decay = jnp.exp(-1.0 / length)

    def body(value: Array, fresh: Array) -> tuple[Array, Array]:
        value = decay * value + jnp.sqrt(1.0 - decay**2) * fresh
        return value, value

    return jnp.concatenate([white[:1], jax.lax.scan(body, white[0], white[1:])[1]])


def explore(learner: AbstractLearner, state: Any, *, key: PRNGKey) -> Trajectory:
    """One episode of the exploration policy: the policy's own noise, then the settings' noise on the action."""
    env, settings = learner.env, learner.settings
    start_key, noise_key, amplitude_key, added_key = jax.random.split(key, 4)
    noise = exploration_noise(env.horizon, env.action_size, settings.exploration, key=noise_key)
    added = exploration_noise(env.horizon, env.action_size, settings.exploration, key=added_key)
    octaves = jax.random.uniform(amplitude_key, minval=-AMPLITUDE_OCTAVES, maxval=0.0)
    added = settings.exploration_amplitude * 2.0**octaves * added
    policy = learner.policy(state)

    def act(carry: Any, env_state: Array, step: Array, given: tuple[Array, Array]) -> Array:
        noise, added = given
        return jnp.clip(policy.act(carry, env_state, step, noise) + added, -1.0, 1.0)

    return play(env, act, (noise, added), env.initial_state(key=start_key), policy)


def init_seed(learner: AbstractLearner, schedule: Schedule, capacity: int, key: PRNGKey) -> SeedState:
    """Initial networks and the warm-up episodes of one seed."""
    learner_key, warmup_key, loop_key = jax.random.split(key, 3)
    state = learner.init(key=learner_key)

    def add_episode(replay: ReplayBuffer, key: PRNGKey) -> tuple[ReplayBuffer, Trajectory]:
        episode = explore(learner, state, key=key)
        return replay.add(episode), episode

    keys = jax.random.split(warmup_key, schedule.warmup_episodes)
    replay, episodes = jax.lax.scan(add_episode, ReplayBuffer.create(learner.env, capacity), keys)
    return SeedState(learner.observe_warmup(state, episodes), replay, loop_key)


def advance_seed(
    learner: AbstractLearner,
    starts: Float[Array, "num_states state"],
    warmup_episodes: int,
    state: SeedState,
    first_episode: Int[Array, ""],
    num_episodes: Int[Array, ""],
) -> tuple[SeedState, Metrics]:
    """Runs one seed through a chunk: episodes, the updates they earn, then the record.

    Every draw comes from the seed's key and the index of the episode, so that where a chunk begins or a run is
    resumed makes no difference.
    """
    horizon = learner.env.horizon

    def episode(index: Array, state: SeedState) -> SeedState:
        explore_key, update_key, _ = jax.random.split(jax.random.fold_in(state.key, index), 3)
        replay = state.replay.add(explore(learner, state.learner, key=explore_key))
        elapsed = (index - warmup_episodes) * horizon

        def update(step: Array, learner_state: Any) -> Any:
            return learner.update(
                learner_state, replay, elapsed + step + 1, key=jax.random.fold_in(update_key, step)
            )

        return SeedState(loop(0, horizon, update, state.learner), replay, state.key)

    last = first_episode + num_episodes
    state = loop(first_episode, last, episode, state)
    # The third key of the episode to come, which does not use it.
    record_key = jax.random.split(jax.random.fold_in(state.key, last), 3)[2]
    learner_state, metrics = learner.diagnose(state.learner, state.replay, key=record_key)
    policy = learner.policy(learner_state)
    returns = jax.vmap(lambda s: rollout(learner.env, policy, initial_state=s).episode_return)(starts)
    return eqx.tree_at(lambda s: s.learner, state, learner_state), {"return": returns.mean(), **metrics}


def over_seeds(function: Callable[..., Any], num_seeds: int) -> Callable[..., Any]:
    """Runs a function of (one seed's arrays, shared arguments) for all seeds at once.

    Seeds are sharded over the local devices, the last one repeated where their number does not divide. Within a
    device they are vmapped, except on a CPU, where one after another is faster: a batch of small recurrent
    networks leaves the cache.
    """
    devices = jax.local_devices()[:num_seeds]
    mesh = Mesh(np.array(devices), ("seed",))
    spec = PartitionSpec("seed")
    padding = -num_seeds % len(devices)

    def local(states: Any, *shared: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda state: function(state, *shared), states)
        return jax.vmap(lambda state: function(state, *shared))(states)

    def sharded(states: Any, *shared: Any) -> Any:
        specs = (spec, *[PartitionSpec()] * len(shared))
        padded = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:].repeat(padding, axis=0)]), states)
        results = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)(
            padded, *shared
        )
        return jax.tree.map(lambda x: x[:num_seeds], results)

    return local if len(devices) == 1 else sharded


def with_numbers(learner: AbstractLearner, numbers: Numbers) -> AbstractLearner:
    """The learner with some of its settings replaced by numbers that only the running program knows.

    Args:
        learner: the method.
        numbers: by the settings' names, which must be among `asmpg.learners.settings.MAY_DIFFER`.
    """
    if not numbers:
        return learner
    settings = copy.copy(learner.settings)
    for name, value in numbers.items():
        # Not `dataclasses.replace`: settings are plain numbers to everyone but a compiled program.
        object.__setattr__(settings, name, value)
    return dataclasses.replace(learner, settings=settings)


class AbstractTrainer(abc.ABC):
    """What a run asks of whoever trains its seeds.

    Attributes:
        learner: the method.
        schedule: how the steps are cut.
        seeds: one independent run each; seed i draws the same numbers alone and in company.
        shapes: of the state of all seeds; every array has a leading seed axis.
        num_together: how many runs shared the last chunk's time.
    """

    learner: AbstractLearner
    schedule: Schedule
    seeds: tuple[int, ...]
    shapes: SeedState
    num_together: int = 1

    @abc.abstractmethod
    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """Compiles the loop, if that can be done beforehand, with a state of zeros to try it on."""

    @abc.abstractmethod
    def init(self) -> SeedState:
        """All seeds after their warm-up; every array has a leading seed axis."""

    @abc.abstractmethod
    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        """Runs a chunk. The given state is consumed; metrics have a leading seed axis."""

    @abc.abstractmethod
    def memory(self) -> int | None:
        """Bytes that the loop takes: the arrays of all seeds, and what their updates need in between.

        On an accelerator, those of one device; a CPU's devices share one memory. None where that is not known.
        """

    @abc.abstractmethod
    def combine(self, state: SeedState) -> SeedState:
        """The state with its non-array parts: networks that can be called under `jax.vmap`."""


@final
class Trainer(AbstractTrainer):
    """The compiled loop of one run."""

    def __init__(
        self,
        learner: AbstractLearner,
        schedule: Schedule,
        seeds: Sequence[int],
        numbers: Mapping[str, Sequence[float]] | None = None,
    ):
        """Prepares the two programs; nothing is compiled or run yet.

        Args:
            learner: the method.
            schedule: how the steps are cut.
            seeds: one independent run each.
            numbers: settings in which they differ, by name (see `settings.MAY_DIFFER`), one value a seed.
        """
        self.learner, self.schedule, self.seeds = learner, schedule, tuple(seeds)
        self._numbers = dict(numbers or {})
        capacity = -(-learner.settings.replay_capacity // learner.env.horizon)
        # Runs of about the same length share a program: a second one, or a longer one, finds it compiled.
        capacity = min(capacity, 1 << (schedule.num_episodes - 1).bit_length())
        starts = evaluation_states(learner.env)
        self._static: Any = None

        def init(given: tuple[PRNGKey, Numbers]) -> SeedState:
            key, numbers = given
            state = init_seed(with_numbers(learner, numbers), schedule, capacity, key)
            # Environments and activation functions inside the networks are not arrays: they stay outside the loop.
            arrays, self._static = eqx.partition(state, eqx.is_array)
            return arrays

        def advance(given: tuple[SeedState, Numbers], first: Array, num: Array) -> tuple[SeedState, Metrics]:
            arrays, numbers = given
            state, own = eqx.combine(arrays, self._static), with_numbers(learner, numbers)
            state, metrics = advance_seed(own, starts, schedule.warmup_episodes, state, first, num)
            return eqx.filter(state, eqx.is_array), metrics

        def init_all(keys: Array, numbers: Numbers) -> SeedState:
            return over_seeds(init, len(self.seeds))((keys, numbers))

        def advance_all(state: SeedState, numbers: Numbers, first: Array, num: Array) -> Any:
            return over_seeds(advance, len(self.seeds))((state, numbers), first, num)

        self._init = jax.jit(init_all)
        self._advance = jax.jit(advance_all, donate_argnums=0)
        # Traces what `init` will run, once, and finds what is no array.
        self.shapes = jax.eval_shape(self.init)

    def _given(self) -> Numbers:
        return {name: jnp.asarray(values, float) for name, values in self._numbers.items()}

    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """Compiles the loop by running no episode of it."""
        self.advance(make_state(), self.schedule.warmup_episodes, 0)

    def init(self) -> SeedState:
        """All seeds after their warm-up."""
        return self._init(jnp.stack([jax.random.key(seed) for seed in self.seeds]), self._given())

    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        """Runs a chunk."""
        first, number = jnp.asarray(first_episode), jnp.asarray(num_episodes)
        return self._advance(state, self._given(), first, number)

    def memory(self) -> int | None:
        """Bytes that the loop takes, as the compiler says."""
        index = jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)
        stats = self._advance.lower(self.shapes, self._given(), index, index).compile().memory_analysis()
        if stats is None:
            return None
        new = stats.output_size_in_bytes - stats.alias_size_in_bytes
        devices = len(jax.local_devices()[: len(self.seeds)]) if jax.default_backend() == "cpu" else 1
        return devices * (stats.argument_size_in_bytes + new + stats.temp_size_in_bytes)

    def combine(self, state: SeedState) -> SeedState:
        """The state with its non-array parts."""
        return eqx.combine(state, self._static)
