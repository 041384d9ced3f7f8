"""The training loop for worlds outside JAX: Python alternates episodes in the simulator with jitted updates."""

import time
from collections.abc import Callable, Sequence
from typing import Any, final, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..core.loops import repeat
from ..core.types import Metrics, PRNGKey, Trajectory
from ..learners.base import AbstractLearner
from ..learners.replay import ReplayBuffer
from ..tasks.environment import AbstractActor
from ..tasks.host import episode_seed, evaluation_seeds, HostEnvironment, play, Watched
from ..tasks.spec import ends_early
from .loop import (
    Counts,
    episode_keys,
    first_statistics,
    improve,
    is_refresh,
    joined,
    num_episodes_of,
    record,
    refresh,
    replay_capacity,
    Schedule,
    SeedState,
)
from .numpy_actors import numpy_act
from .trainer import AbstractTrainer, over_seeds


class Actors:
    """Several actors, each in several copies of a simulator, called from Python one step at a time.

    This package's own policies act in NumPy, any others in compiled calls.

    Every array of the actors has a leading axis, and so has every array of what they are given; copies are the axis
    behind it.
    """

    def __init__(self, actors: AbstractActor, num_copies: int):
        """Begins an episode: every actor in as many copies."""
        self._act = numpy_act(actors, num_copies)
        arrays, static = eqx.partition(actors, eqx.is_array)
        self._arrays, self._programs = arrays, _programs(static)
        number = jax.tree.leaves(arrays)[0].shape[0]
        self._shape = (number, num_copies)
        self._carry = None if self._act else self._programs[0](arrays, num_copies)

    def act(self, states: Float[np.ndarray, "copies state"], step: int) -> np.ndarray:
        """The actions of all copies, one actor's after the other's."""
        if self._act is not None:
            return self._act(states, step)
        actions = self._programs[1](self._arrays, self._carry, self._split(states), step)
        return np.asarray(actions).reshape(len(states), -1)

    def observe(self, states: np.ndarray, step: int, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Tells them what came of the actions, if they keep anything of it."""
        if jax.tree.leaves(self._carry):
            parts = (self._split(states), self._split(actions), self._split(rewards))
            self._carry = self._programs[2](self._arrays, self._carry, *parts, step)

    def _split(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(*self._shape, *values.shape[1:])


_compiled: dict[Any, Any] = {}


def _programs(static: object) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """The compiled functions of actors with these parts that are no arrays."""
    leaves, structure = jax.tree.flatten(static)
    key = (structure, tuple(leaves))
    if key not in _compiled:
        _compiled[key] = _compile_actor(static)
    return _compiled[key]


def _compile_actor(static: PyTree) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    def begin(arrays: PyTree, num_copies: int) -> Any:
        carry = jax.vmap(lambda own: eqx.combine(own, static).begin())(arrays)
        return jax.tree.map(lambda x: jnp.repeat(x[:, None], num_copies, axis=1), carry)

    def act(arrays: PyTree, carry: PyTree, states: Array, step: Array) -> Array:
        def of_one(own: Any, carry: PyTree, states: Array) -> Array:
            actor = eqx.combine(own, static)
            return jax.vmap(lambda c, s: actor.act(c, s, step))(carry, states)

        return jax.vmap(of_one)(arrays, carry, states)

    def observe(
        arrays: PyTree, carry: PyTree, states: Array, actions: Array, rewards: Array, step: Array
    ) -> Any:
        def of_one(own: Any, carry: PyTree, *seen: Array) -> Any:
            actor = eqx.combine(own, static)
            return jax.vmap(lambda c, s, a, r: actor.observe(c, s, step, a, r))(carry, *seen)

        return jax.vmap(of_one)(arrays, carry, states, actions, rewards)

    return jax.jit(begin, static_argnums=1), jax.jit(act), jax.jit(observe)


def evaluate_outside(
    simulator: Watched, policies: AbstractActor
) -> tuple[Trajectory, Int[np.ndarray, " policies"]]:
    """The fixed evaluation episodes of policies (leading axis), and the real steps that each took.

    Every array of the episodes has the policies' axis, then that of their episodes.
    """
    seeds = evaluation_seeds(simulator.env)
    number = jax.tree.leaves(eqx.filter(policies, eqx.is_array))[0].shape[0]
    actors = Actors(policies, len(seeds))
    episodes, lengths = play(simulator, seeds * number, actors.act, actors.observe)
    split = jax.tree.map(lambda x: x.reshape(number, len(seeds), *x.shape[1:]), episodes)
    return split, lengths.reshape(number, -1).sum(axis=1)


class _Collected(NamedTuple):
    """What came of an episode: the state with it, the episode of every seed, and its steps, 0 of who did not play."""

    state: SeedState
    episodes: Trajectory
    lengths: np.ndarray


@final
class HostTrainer(AbstractTrainer):
    """The loop of one run in a world outside JAX: the same draws, state and checkpoints as `Trainer`."""

    def __init__(
        self,
        learner: AbstractLearner,
        schedule: Schedule,
        seeds: Sequence[int],
        recorded: Trajectory | None = None,
    ):
        """Prepares the programs; nothing is compiled, run or simulated yet. Arguments as for `Trainer`."""
        assert isinstance(learner.env, HostEnvironment)
        self.learner, self.schedule, self.seeds = learner, schedule, tuple(seeds)
        self._recorded, self._num_recorded = recorded, num_episodes_of(recorded)
        self._simulator = Watched(learner.env)
        self._static: dict[str, Any] = {}
        self.timings: dict[str, float] = {}
        self._begin = self._program(self._begin_seed)
        self._add = self._program(self._add_episode, donate=True)
        self._warm = self._program(self._observe_warmup)
        self._refresh = self._program(self._take_statistics)
        self._explorer = self._program(self._explorer_of)
        self._policy = self._program(self._policy_of)
        self._improve = self._program(self._improve_seed, donate=True)
        self._diagnose = self._program(self._diagnose_seed)
        self.shapes = jax.eval_shape(self._begin, self._keys(), self._for_each_seed())

    def _for_each_seed(self) -> Trajectory | None:
        """The recorded episodes once for each seed, or their shapes."""

        def repeated(x: Any) -> Any:
            shape = (len(self.seeds), *x.shape)
            known = isinstance(x, jax.Array)
            return jnp.broadcast_to(x, shape) if known else jax.ShapeDtypeStruct(shape, x.dtype)

        return jax.tree.map(repeated, self._recorded)

    def _program(self, function: Callable[..., Any], donate: bool = False) -> Callable[..., Any]:
        """A function of (learner, one seed's arguments) for all seeds; of its modules only arrays come and go."""

        def one(arguments: tuple[Any, ...]) -> Any:
            return self._arrays(function(self.learner, *map(self._whole, arguments)))

        def all_seeds(*arguments: object) -> Any:
            return over_seeds(one, len(self.seeds))(arguments)

        return jax.jit(all_seeds, donate_argnums=0 if donate else ())

    def _whole(self, argument: object) -> Any:
        return eqx.combine(argument, self._static["state"]) if isinstance(argument, SeedState) else argument

    def _arrays(self, result: object) -> Any:
        arrays, static = eqx.partition(result, eqx.is_array)
        if isinstance(result, SeedState):
            self._static.setdefault("state", static)
        elif isinstance(result, AbstractActor):
            self._static[type(result).__name__] = static
        return arrays

    # What one seed does, each in a program of its own.

    def _begin_seed(self, learner: AbstractLearner, key: PRNGKey, recorded: Trajectory | None) -> SeedState:
        learner_key, _, loop_key = jax.random.split(key, 3)
        state = learner.init(first_statistics(learner.env, recorded), key=learner_key)
        capacity = replay_capacity(learner, self.schedule, self._num_recorded)
        replay = ReplayBuffer.create(learner.env, capacity, recorded)
        return SeedState(state, replay, loop_key, Counts.zero())

    def _add_episode(
        self, learner: AbstractLearner, state: SeedState, episode: Trajectory, length: Array
    ) -> SeedState:
        return repeat(length > 0, lambda state: state.add(episode, length), state)

    def _observe_warmup(
        self, learner: AbstractLearner, state: SeedState, episodes: Trajectory, recorded: Trajectory | None
    ) -> SeedState:
        return state.with_learner(learner.observe_warmup(state.learner, joined(recorded, episodes)))

    def _take_statistics(
        self, learner: AbstractLearner, state: SeedState, key: PRNGKey, wanted: Array
    ) -> SeedState:
        return repeat(wanted, lambda state: refresh(learner, state, key=key), state)

    def _explorer_of(self, learner: AbstractLearner, state: SeedState, key: PRNGKey) -> AbstractActor:
        return learner.explorer(state.learner, key=key)

    def _policy_of(self, learner: AbstractLearner, state: SeedState) -> AbstractActor:
        return learner.evaluated(state.learner)

    def _improve_seed(
        self, learner: AbstractLearner, state: SeedState, key: PRNGKey, length: Array
    ) -> SeedState:
        assert state.counts is not None, "the state of a simulator counts its steps"
        elapsed = state.counts.training - length
        return state.with_learner(improve(learner, state.learner, state.replay, elapsed, length, key=key))

    def _diagnose_seed(
        self, learner: AbstractLearner, state: SeedState, episodes: Trajectory, steps: Array, key: PRNGKey
    ) -> tuple[SeedState, Metrics]:
        return record(learner, state, episodes, steps, key=key)

    # The three verbs.

    def _collect(
        self, state: SeedState, keys: Array, indices: np.ndarray, playing: np.ndarray
    ) -> "_Collected":
        """An episode of the explorers of those seeds that play, added to their replay buffers.

        Args:
            state: of all seeds.
            keys: one a seed.
            indices: of each seed's episode.
            playing: truth values, one a seed.
        """
        begin = time.monotonic()
        explorers, rows = self._explorer(state, keys), np.flatnonzero(playing)
        if not playing.all():
            explorers = jax.tree.map(lambda x: x[rows], explorers)
        actors = self._actors(explorers, 1)
        seeds = [episode_seed(self.seeds[row], int(indices[row])) for row in rows]
        episodes, lengths = play(self._simulator, seeds, actors.act, actors.observe)
        if not playing.all():
            number = len(playing)
            episodes = jax.tree.map(lambda x: jnp.zeros((number, *x.shape[1:])).at[rows].set(x), episodes)
            lengths = np.bincount(rows, weights=lengths, minlength=number).astype(np.int32)
        self._time("collect", begin)
        return _Collected(self._add(state, episodes, jnp.asarray(lengths)), episodes, lengths)

    def _actors(self, arrays: object, num_copies: int) -> Actors:
        return Actors(eqx.combine(arrays, self._static[type(arrays).__name__]), num_copies)

    def _time(self, name: str, begin: float) -> None:
        self.timings[f"{name}_seconds"] = round(
            self.timings.get(f"{name}_seconds", 0.0) + time.monotonic() - begin, 3
        )

    def compile(self, make_state: Callable[[], SeedState]) -> None:
        """Compiles the updates by making none."""
        self._improve(make_state(), self._keys(), jnp.zeros(len(self.seeds), jnp.int32))

    def init(self) -> SeedState:
        keys, recorded = self._keys(), self._for_each_seed()
        state, episodes = self._begin(keys, recorded), []
        warmup_keys = jax.vmap(lambda key: jax.random.split(key, 3)[1])(keys)
        if not ends_early(self.learner.env):
            number = self.schedule.warmup_episodes
            of_episodes, all_seeds = (
                jax.vmap(lambda key: jax.random.split(key, number))(warmup_keys),
                self._all(),
            )
            for index in range(number):
                done = self._collect(state, of_episodes[:, index], np.full(len(self.seeds), index), all_seeds)
                state = done.state
                episodes.append(done.episodes)
            return self._warm(state, jax.tree.map(lambda *x: jnp.stack(x, 1), *episodes), recorded)
        while (playing := self._playing(state, self.schedule.warmup_episodes)).any():
            indices = self._indices(state)
            of_episode = jax.vmap(jax.random.fold_in)(warmup_keys, indices + self._num_recorded)
            state = self._collect(state, of_episode, indices, playing).state
        return self._refresh(state, warmup_keys, jnp.asarray(self._all()))

    def _all(self) -> np.ndarray:
        return np.ones(len(self.seeds), bool)

    def _indices(self, state: SeedState) -> np.ndarray:
        """Of each seed's next episode."""
        return np.asarray(state.replay.count) - self._num_recorded

    def _playing(self, state: SeedState, num_rounds: int) -> np.ndarray:
        """Who has not made the steps of so many rounds."""
        assert state.counts is not None, "the state of a simulator counts its steps"
        return np.asarray(state.counts.training) < num_rounds * self.schedule.round_steps

    def advance(self, state: SeedState, first_episode: int, num_episodes: int) -> tuple[SeedState, Metrics]:
        self.timings = {}
        for index in range(first_episode, first_episode + num_episodes):
            if not ends_early(self.learner.env):
                state = self._episode(state, self._all())
                continue
            while (playing := self._playing(state, index + 1)).any():
                state = self._episode(state, playing)
        return self._record(state, first_episode + num_episodes)

    def _episode(self, state: SeedState, playing: np.ndarray) -> SeedState:
        """An episode of those seeds that play, and what it has earned."""
        indices = self._indices(state)
        collect_keys, improve_keys, _ = jax.vmap(episode_keys)(state.key, jnp.asarray(indices))
        state, _, lengths = self._collect(state, collect_keys, indices, playing)
        wanted = is_refresh(self._num_recorded + indices + 1) & playing
        if wanted.any():
            state = self._refresh(state, collect_keys, jnp.asarray(wanted))
        begin = time.monotonic()
        state = self._improve(state, improve_keys, jnp.asarray(lengths))
        jax.block_until_ready(state.key)
        self._time("improve", begin)
        return state

    def _record(self, state: SeedState, index: int) -> tuple[SeedState, Metrics]:
        begin = time.monotonic()
        keys = jax.vmap(lambda key: episode_keys(key, index)[2])(state.key)
        arrays = self._policy(state)
        policies = eqx.combine(arrays, self._static[type(arrays).__name__])
        episodes, steps = evaluate_outside(self._simulator, policies)
        self._time("evaluate", begin)
        return self._diagnose(state, episodes, jnp.asarray(steps), keys)

    def memory(self) -> int | None:
        """Not known: the simulator takes what it takes."""

    def combine(self, state: SeedState) -> SeedState:
        return eqx.combine(state, self._static["state"])
