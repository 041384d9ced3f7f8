"""The one training loop: the schedule, the exploration, and that only the seed decides what a run does."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.types import Metrics
from asmpg.learners.base import exploration_noise
from asmpg.learners.model_based import ModelBasedLearner
from asmpg.learners.settings import Settings
from asmpg.models import OneStepModel
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import AbstractEnvironment, evaluation_states, rollout, trajectory_rewards
from asmpg.tasks.optimum import optimal, score
from asmpg.training import loop as training
from asmpg.training.config import TrainConfig
from asmpg.training.loop import collect, Schedule
from asmpg.training.trainer import Trainer
from toys import bits, Drift, flatten, relative_error


class Scattered(Drift):
    """Starts at random."""

    def initial_state(self, *, key=None):
        base = jnp.array([0.5, -1.0, 2.0])
        return base if key is None else base + 0.3 * jax.random.normal(key, (3,))


# Updates every 3 and every 5 steps fall into the middle of episodes of 7.
INTERVALS = {"model_update_every": 3, "policy_update_every": 5}
HORIZON, NUM_SEEDS = 7, 5
SCHEDULE = Schedule(num_episodes=13, warmup_episodes=3, chunk_episodes=4, round_steps=HORIZON)


def make_trainer(seeds: Any, env: AbstractEnvironment | None = None, **overrides: Any) -> Trainer:
    env = Scattered(horizon=HORIZON) if env is None else env
    small: dict[str, Any] = {"model_batch_size": 2, "policy_batch_size": 2, "dropout": 0.0} | INTERVALS
    settings = dataclasses.replace(Settings.default(env.horizon), **(small | overrides))
    return Trainer(ModelBasedLearner(env, settings, functools.partial(OneStepModel, env)), SCHEDULE, seeds)


def train(trainer: Trainer, chunks: Any = None) -> tuple[Any, list[Metrics]]:
    """A whole run: the last state, and the metrics of every chunk."""
    state, records = trainer.init(), []
    for chunk in trainer.schedule.chunks(SCHEDULE.warmup_episodes) if chunks is None else chunks:
        state, metrics = trainer.advance(state, *chunk)
        records.append({name: np.asarray(value) for name, value in metrics.items()})
    return state, records


@pytest.fixture(scope="module")
def five() -> tuple[Trainer, Any, list[Metrics]]:
    trainer = make_trainer(range(NUM_SEEDS))
    return trainer, *train(trainer)


def test_the_loop_compiles_once(five):
    """Chunks of four, four and two episodes run the same program; no JAX event says otherwise."""
    trainer = five[0]
    assert [num for _, num in SCHEDULE.chunks(3)] == [4, 4, 2]
    assert trainer._advance._cache_size() == 1 and trainer._init._cache_size() == 1
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    train(trainer)
    assert not [name for name in events if "compile" in name or "trace" in name or "lower" in name]
    jax.jit(lambda x: x * 3.14159)(1.0)
    assert [name for name in events if "compile" in name], "the listener would have heard one"


def test_same_seeds_same_numbers(five):
    """Parameters, optimisers, buffer, keys and metrics, bit for bit."""
    trainer, state, records = five
    again, same = train(trainer)
    assert bits(again) == bits(state)
    assert bits(same) == bits(records)


def test_seeds_differ(five):
    _, state, records = five
    for leaf in (
        state.learner.policy.layers[0].weight,
        state.replay.episodes.states,
        jax.random.key_data(state.key),
    ):
        assert len({np.asarray(seed).tobytes() for seed in leaf}) == NUM_SEEDS
    assert len(set(records[-1]["return"].tolist())) == NUM_SEEDS


def test_where_chunks_begin_makes_no_difference(five):
    """Everything but the sums that a record resets; records at the same place agree."""
    trainer, state, records = five
    other, others = train(trainer, [(3, 1), (4, 5), (9, 2), (11, 2)])
    whole = eqx.tree_at(lambda s: s.learner.statistics, state, other.learner.statistics)
    assert bits(other) == bits(whole)
    for name in ("return", "model_loss", "model_loss_on_policy", "policy_std", "num_nonfinite"):
        np.testing.assert_array_equal(others[2][name], records[1][name])
        np.testing.assert_array_equal(others[3][name], records[2][name])


def test_a_seed_alone_is_the_seed_in_company(five):
    """The same draws, and over these 23 updates the same numbers to rounding."""
    _, state, records = five
    alone, record = train(make_trainer([3]))
    company = jax.tree.map(lambda leaf: leaf[3:4], eqx.filter(state, eqx.is_array))
    assert bits(alone.key) == bits(company.key)
    assert relative_error(alone.replay.episodes, company.replay.episodes) < 1e-4
    for network in ("policy", "model"):
        assert relative_error(getattr(alone.learner, network), getattr(company.learner, network)) < 1e-4
    for name in records[-1]:
        np.testing.assert_allclose(record[-1][name], records[-1][name][3:4], rtol=1e-3)


def test_seeds_side_by_side_are_the_same_seeds(five, monkeypatch):
    """Vmapped, as on an accelerator, instead of one after another."""
    _, state, records = five
    monkeypatch.setattr(training.jax, "default_backend", lambda: "gpu")
    vmapped, same = train(make_trainer(range(NUM_SEEDS)))
    assert relative_error(vmapped.learner.policy, state.learner.policy) < 1e-4
    for name in records[-1]:
        np.testing.assert_allclose(same[-1][name], records[-1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.thorough
def test_seeds_spread_over_devices_are_the_same_seeds(five):
    """Ten over eight devices: two each, the last one repeated to fill up. No device waits for another in the loop."""
    _, state, records = five
    script = """
import json, re, numpy, equinox as eqx, jax, jax.numpy as jnp
is_number = lambda x: eqx.is_array(x) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
from test_training import make_trainer, train
from toys import flatten
assert len(jax.local_devices()) == 8
trainer = make_trainer(range(10))
state, records = train(trainer)
numbers = {name: value[:5].tolist() for name, value in records[-1].items()}
shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
index = jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)
program = trainer._advance.lower(shapes, index, index).compile().as_text()
collective = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
inner = [part for part in program.split("\\n\\n") if not part.lstrip().startswith("ENTRY")]
assert sum("while(" in part for part in inner) > 3, "the updates are loops within loops"
assert not [part for part in inner if re.search(rf"= .*({collective})\\(", part)]
policy = jax.tree.map(lambda x: x[:5], state.learner.policy)
assert trainer.memory() > sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(eqx.filter(state, is_number)))
print(json.dumps({"metrics": numbers, "policy": flatten(policy).tolist()}))
"""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    out = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    spread = json.loads(out.stdout.splitlines()[-1])
    assert relative_error(np.array(spread["policy"]), flatten(state.learner.policy)) < 1e-4
    for name, value in spread["metrics"].items():
        np.testing.assert_allclose(value, records[-1][name], rtol=1e-3, atol=1e-6)


def num_updates(optimiser_state: Any) -> np.ndarray:
    """How many updates Adam has seen, for every seed."""
    return next(
        np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(optimiser_state)
        if "count" in str(path[-1])
    )


def test_every_step_after_the_warm_up_earns_its_updates(five):
    """Exactly: the fractions that an episode leaves over go to the next."""
    trainer, state, _ = five
    steps = (SCHEDULE.num_episodes - SCHEDULE.warmup_episodes) * HORIZON
    assert (num_updates(state.learner.model_optimiser) == steps // INTERVALS["model_update_every"]).all()
    assert (num_updates(state.learner.policy_optimiser) == steps // INTERVALS["policy_update_every"]).all()
    assert (np.asarray(state.replay.count) == SCHEDULE.num_episodes).all()
    warm = trainer.init()
    assert (num_updates(warm.learner.model_optimiser) == 0).all()
    assert (np.asarray(warm.replay.count) == SCHEDULE.warmup_episodes).all()


def test_the_replay_holds_what_happened(five):
    """Every stored episode is a rollout of its actions from its start, which is random; actions are within bounds."""
    trainer, state, _ = five
    env = trainer.learner.env
    assert state.replay.episodes.rewards.shape[1] >= SCHEDULE.num_episodes
    episodes = jax.tree.map(lambda x: x[:, : SCHEDULE.num_episodes], state.replay.episodes)
    assert float(jnp.abs(episodes.actions).max()) <= 1.0
    again = jax.jit(jax.vmap(jax.vmap(lambda s, a: rollout(env, a, initial_state=s))))(
        episodes.states[:, :, 0], episodes.actions
    )
    assert relative_error(again.states, episodes.states) < 1e-5
    assert relative_error(again.rewards, episodes.rewards) < 1e-5
    starts = np.asarray(episodes.states[:, :, 0]).reshape(-1, 3)
    assert len(np.unique(starts, axis=0)) == NUM_SEEDS * SCHEDULE.num_episodes


def test_statistics_come_from_the_warm_up_and_stay(five):
    trainer, state, _ = five
    warm = trainer.init()
    states = warm.replay.episodes.states[:, : SCHEDULE.warmup_episodes]
    mean = np.asarray(states).mean(axis=(1, 2))
    np.testing.assert_allclose(state.learner.policy.normaliser.mean, mean, rtol=1e-4)
    assert bits(state.learner.policy.normaliser) == bits(warm.learner.policy.normaliser)
    assert bits(state.learner.model.normaliser) == bits(warm.learner.policy.normaliser)


def test_the_recorded_return_is_the_deterministic_policys_over_the_evaluation_states(five):
    trainer, state, records = five
    env, policies = trainer.learner.env, trainer.combine(state).learner.average
    starts = evaluation_states(env)
    assert len(np.unique(starts, axis=0)) == len(starts) > 10

    def mean_return(policy):
        return jax.vmap(lambda start: rollout(env, policy, initial_state=start).episode_return)(starts).mean()

    expected = eqx.filter_jit(eqx.filter_vmap(mean_return))(policies)
    np.testing.assert_allclose(records[-1]["return"], expected, rtol=1e-5)


class Mine(AbstractEnvironment):
    """A task as a user would write it, with plain fields and an array among them."""

    horizon: int = 4
    name: str = "mine"
    gain: Any = dataclasses.field(default_factory=lambda: jnp.array([0.5]))
    state_size = property(lambda self: 1)
    action_size = property(lambda self: 1)

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return state + self.gain * action

    def reward(self, state, action, step):
        return -((state[0] - 0.3) ** 2)


def test_a_users_task_trains_through_its_simulator():
    """What the task is made of takes no part in the loop, though the simulator holds it."""
    config = TrainConfig(task=Mine(), model="simulator", overrides={"warmup_steps": 4} | INTERVALS)
    trainer = Trainer(config.learner(), Schedule.create(40, 4, 20, 4), [0])
    state = trainer.init()
    for chunk in trainer.schedule.chunks(1):
        state, metrics = trainer.advance(state, *chunk)
    assert np.isfinite(metrics["return"]).all()
    np.testing.assert_array_equal(trainer.combine(state).learner.model.env.gain, [[0.5]])


# The schedule.


@pytest.mark.parametrize(
    ("steps", "warmup", "chunk", "horizon"),
    [
        (20_000, 500, 500, 100),
        (1000, 77, 130, 37),
        (1000, 1, 1, 37),
        (38, 37, 500, 37),
        (100, 500, 10, 10),
        (7, 7, 7, 7),
    ],
)
def test_schedule_of_whole_episodes(steps, warmup, chunk, horizon):
    schedule = Schedule.create(steps, warmup, chunk, horizon)
    assert steps <= schedule.num_episodes * horizon < steps + horizon
    assert schedule.warmup_episodes * horizon >= min(warmup, steps)
    assert schedule.warmup_episodes == min(-(-warmup // horizon), schedule.num_episodes)
    chunks = list(schedule.chunks(schedule.warmup_episodes))
    episodes = [episode for first, num in chunks for episode in range(first, first + num)]
    assert episodes == list(range(schedule.warmup_episodes, schedule.num_episodes)), "each once, in order"
    for _, num in chunks:
        assert 1 <= num <= schedule.chunk_episodes < chunk / horizon + 1


def test_chunks_are_cut_at_fixed_places():
    """From wherever a run is resumed, and however much longer it is made."""
    schedule = Schedule.create(1000, 77, 130, 37)
    ends = {first + num for first, num in schedule.chunks(schedule.warmup_episodes)}
    for resumed in range(schedule.warmup_episodes, schedule.num_episodes):
        cuts = list(schedule.chunks(resumed))
        assert cuts[0][0] == resumed and {first + num for first, num in cuts} == {
            e for e in ends if e > resumed
        }
    longer = Schedule.create(2000, 77, 130, 37)
    assert ends - {schedule.num_episodes} <= {
        first + num for first, num in longer.chunks(longer.warmup_episodes)
    }
    assert list(schedule.chunks(schedule.num_episodes)) == []


# Exploration.


@functools.cache
def many_noises(kind: str, horizon: int = 64, num: int = 4000) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), num)
    return np.asarray(jax.jit(jax.vmap(lambda key: exploration_noise(horizon, 2, kind, key=key)))(keys))


@pytest.mark.parametrize("kind", ["white", "correlated"])
def test_exploration_noise_is_standard_normal_at_every_step(kind):
    noise = many_noises(kind)
    # Five standard errors of a mean, a variance and a fourth moment of a standard normal number.
    error = 5 / np.sqrt(len(noise))
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=error)
    np.testing.assert_allclose((noise**2).mean(axis=0), 1.0, atol=error * np.sqrt(2))
    np.testing.assert_allclose((noise**4).mean(axis=0), 3.0, atol=error * np.sqrt(96))
    np.testing.assert_allclose((noise[..., 0] * noise[..., 1]).mean(axis=0), 0.0, atol=error)


@pytest.mark.parametrize("lag", [1, 5, 30])
def test_exploration_noise_is_correlated_over_time_if_asked(lag):
    """By `exp(-lag / length)`, the length log-uniform from 1 to the horizon; white noise by nothing."""
    lengths = np.exp(np.linspace(0, np.log(64), 1001))
    expected = {"white": 0.0, "correlated": np.exp(-lag / lengths).mean()}
    for kind, correlation in expected.items():
        noise = many_noises(kind)
        np.testing.assert_allclose((noise[:, lag:] * noise[:, :-lag]).mean(), correlation, atol=0.02)


def test_exploration_acts_with_the_policy_and_beyond_it():
    """Without added noise, actions are the policy's own for some noise; with it, they reach the bounds, not over."""
    env = Drift(horizon=50)
    spread, unknown = {}, Normaliser.unknown(env.state_size)
    for amplitude in (0.0, 1.0):
        learner = make_trainer([0], env, exploration_amplitude=amplitude).learner
        state = eqx.filter_jit(lambda key, learner=learner: learner.init(unknown, key=key))(jax.random.key(1))
        bound = state.policy.layers[-1].bias.at[:2].set(8.0)  # a policy that has settled at the upper bound
        state = eqx.tree_at(lambda s: s.policy.layers[-1].bias, state, bound)
        run = eqx.filter_jit(lambda state, key, learner=learner: collect(learner, env, state, key=key)[0])
        keys = jax.random.split(jax.random.key(2), 8)
        episodes = [run(state, key) for key in keys]
        assert bits(run(state, keys[0])) == bits(episodes[0])
        actions = np.stack([episode.actions for episode in episodes])
        assert np.abs(actions).max() <= 1.0
        spread[amplitude] = actions.std()
        rewards = trajectory_rewards(env, episodes[0].states, episodes[0].actions)
        np.testing.assert_allclose(episodes[0].rewards, rewards, rtol=1e-5)
    assert spread[0.0] < 1e-3 and spread[1.0] > 0.05


# Training as a whole.


@pytest.mark.slow
def test_a_real_task_is_learned():
    """Timber: the best constant action scores 0.03; the LSTM's policy comes to 0.9 of the optimum in 6000 steps."""
    config = TrainConfig(task="timber_harvest", horizon=50, model="lstm", steps=6000)
    env, settings = config.environment(), config.settings()
    trainer = Trainer(config.learner(), Schedule.create(6000, settings.warmup_steps, 6000, 50), [0])
    first = trainer.schedule.warmup_episodes
    _, metrics = trainer.advance(trainer.init(), first, trainer.schedule.num_episodes - first)
    reached = float(metrics["return"][0])
    assert 0.9 < score(env, reached) < 1.001
    assert reached <= optimal(env).episode_return * 1.0001
