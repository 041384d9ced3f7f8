"""What runs the loop for all seeds together: one jitted chunk at a time."""

import abc
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ..core.types import Metrics, PRNGKey, Trajectory, UsageError
from ..learners.base import AbstractLearner
from ..models.normalisation import Normaliser
from ..tasks.world import evaluation_starts
from .loop import (
    advance_seed,
    first_statistics,
    init_seed,
    jax_world,
    num_episodes_of,
    replay_capacity,
    Schedule,
    SeedState,
)


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

    def local(states: object, *shared: object) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda state: function(state, *shared), states)
        return jax.vmap(lambda state: function(state, *shared))(states)

    def sharded(states: object, *shared: object) -> Any:
        specs = (spec, *[PartitionSpec()] * len(shared))
        padded = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:].repeat(padding, axis=0)]), states)
        results = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)(
            padded, *shared
        )
        return jax.tree.map(lambda x: x[:num_seeds], results)

    return local if len(devices) == 1 else sharded


def placed(state: SeedState, num_seeds: int) -> SeedState:
    """The state of all seeds where the compiled loop leaves it, so that it is compiled for one place only."""
    devices = jax.local_devices()[:num_seeds]
    if len(devices) == 1:
        return state
    spec = PartitionSpec() if num_seeds % len(devices) else PartitionSpec("seed")
    return jax.device_put(state, NamedSharding(Mesh(np.array(devices), ("seed",)), spec))


class AbstractTrainer(abc.ABC):
    """Trains the seeds of a run.

    Attributes:
        learner: the method.
        schedule: how the steps are cut.
        seeds: one independent run each; seed i draws the same numbers alone as among others.
        shapes: of the state of all seeds; every array has a leading seed axis.
        timings: seconds of the parts of the last chunk, by name, where they are measured separately.
    """

    learner: AbstractLearner
    schedule: Schedule
    seeds: tuple[int, ...]
    shapes: SeedState
    timings: Mapping[str, float] = types.MappingProxyType({})

    def _keys(self) -> Array:
        """Of all seeds."""
        return jnp.stack([jax.random.key(seed) for seed in self.seeds])

    @abc.abstractmethod
    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """Compiles the loop, if that can be done beforehand, with a state of zeros to try it on."""

    @abc.abstractmethod
    def init(self) -> SeedState:
        """All seeds after their warm-up; every array has a leading seed axis."""

    @abc.abstractmethod
    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        """Runs a chunk. The given state is consumed; metrics have a leading seed axis."""

    def check(self, state: SeedState) -> None:
        """Waits for the state.

        Raises:
            UsageError: a simulator has returned a number that is not finite; one line that names step and seed.
        """
        if state.counts is None:
            return
        failed = np.asarray(state.counts.failed_at)
        for row in np.flatnonzero(failed):
            at = f"at step {failed[row] - 1} (seed {self.seeds[row]})"
            raise UsageError(
                f"transition of {self.learner.env.name}, {at}: returned a number that is not finite"
            )

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
        recorded: Trajectory | None = None,
    ):
        """Prepares the two programs; nothing is compiled or run yet.

        Args:
            learner: the method.
            schedule: how the steps are cut.
            seeds: one independent run each.
            recorded: episodes that come first in the replay and in the statistics (leading axis), or their shapes.
        """
        self.learner, self.schedule, self.seeds = learner, schedule, tuple(seeds)
        self._recorded, env = recorded, jax_world(learner)
        num_recorded = num_episodes_of(recorded)
        capacity = replay_capacity(learner, schedule, num_recorded)
        starts = evaluation_starts(env)
        self._static: Any = None

        def init(key: PRNGKey, normaliser: Normaliser, recorded: Trajectory | None) -> SeedState:
            state = init_seed(learner, schedule, capacity, key, normaliser, recorded)
            # Environments and activation functions inside the networks are not arrays: they stay outside the loop.
            arrays, self._static = eqx.partition(state, eqx.is_array)
            return arrays

        def advance(arrays: SeedState, first: Array, num: Array) -> tuple[SeedState, Metrics]:
            state = eqx.combine(arrays, self._static)
            state, metrics = advance_seed(learner, starts, schedule, state, first, num, num_recorded)
            return eqx.filter(state, eqx.is_array), metrics

        def init_all(keys: Array, recorded: Trajectory | None) -> SeedState:
            return over_seeds(init, len(self.seeds))(keys, first_statistics(env, recorded), recorded)

        def advance_all(state: SeedState, first: Array, num: Array) -> Any:
            return over_seeds(advance, len(self.seeds))(state, first, num)

        self._init = jax.jit(init_all)
        self._advance = jax.jit(advance_all, donate_argnums=0)
        # Traces what `init` will run, once, and finds what is no array.
        self.shapes = jax.eval_shape(self._init, self._keys(), recorded)

    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """Compiles the loop by running no episode of it."""
        self.advance(make_state(), self.schedule.warmup_episodes, 0)

    def init(self) -> SeedState:
        return self._init(self._keys(), self._recorded)

    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        return self._advance(state, jnp.asarray(first_episode), jnp.asarray(num_episodes))

    def memory(self) -> int | None:
        index = jnp.asarray(0)  # weakly typed, as `advance` passes it: traced once for both
        stats = self._advance.lower(self.shapes, index, index).compile().memory_analysis()
        if stats is None:
            return None
        new = stats.output_size_in_bytes - stats.alias_size_in_bytes
        devices = len(jax.local_devices()[: len(self.seeds)]) if jax.default_backend() == "cpu" else 1
        return devices * (stats.argument_size_in_bytes + new + stats.temp_size_in_bytes)

    def combine(self, state: SeedState) -> SeedState:
        return eqx.combine(state, self._static)
