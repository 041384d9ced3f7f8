"""One update or one environment step at the paper's sizes, for pytest-benchmark; `speed.py` runs this and reports.

Everything goes through a learner's own `update`, so that what is timed is what a run does. On a CPU the clock is the
process's CPU time; `speed.py` starts it pinned to one core, since XLA sizes its threads when it starts.
"""

import os
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import asmpg
from asmpg.learners.replay import ReplayBuffer
from asmpg.models.normalisation import Normaliser
from asmpg.training.loop import Schedule
from asmpg.training.trainer import Trainer
from operations import product_operations


MODELS = ("one-step", "rnn", "lstm", "transformer", "lru")
HORIZONS = (20, 100, 500, 2_000)
PARTS = ("model", "policy", "step")
NEVER = 10**9
LONGEST_EPISODE = 500
SECONDS_TO_SPEND = 4.0
NUM_SEEDS = int(os.environ.get("ASMPG_BENCH_SEEDS", "1"))
DROPOUT = float(os.environ.get("ASMPG_BENCH_DROPOUT", "0"))


def clock() -> float:
    """CPU time on a CPU, since another busy core is not to count; wall clock elsewhere."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def make_config(model: str, horizon: int, **overrides: Any) -> asmpg.TrainConfig:
    """The paper's sizes."""
    overrides = {"dropout": DROPOUT, "warmup_steps": 4 * horizon} | overrides
    return asmpg.TrainConfig("timber_harvest", horizon, model, preset="paper", overrides=overrides)


def make_update(model: str, horizon: int, part: str) -> tuple[Any, Any, int]:
    """One update of all seeds, the state it begins with, and the operations of its matrix products."""
    other = "policy" if part == "model" else "model"
    config = make_config(model, horizon, **{f"{part}_update_every": 1, f"{other}_update_every": NEVER})
    learner, env = config.learner(), config.environment()
    actions = jax.random.uniform(jax.random.key(0), (16, horizon, env.action_size), minval=-1.0)
    episodes = jax.jit(jax.vmap(lambda actions: asmpg.rollout(env, actions)))(actions)
    empty = ReplayBuffer.create(env, 16)
    replay = eqx.tree_at(lambda r: (r.episodes, r.count), empty, (episodes, jnp.asarray(16)))
    unknown = Normaliser.unknown(env.state_size)
    states = [
        learner.observe_warmup(learner.init(unknown, key=jax.random.key(seed)), episodes)
        for seed in range(NUM_SEEDS)
    ]
    arrays = [eqx.partition(state, eqx.is_array)[0] for state in states]
    static = eqx.partition(states[0], eqx.is_array)[1]

    def update(arrays: Any, key: Any) -> Any:
        state = learner.update(eqx.combine(arrays, static), replay, jnp.asarray(1), key=key)
        return eqx.filter(state, eqx.is_array)

    # Of the update alone: `update` also holds the other one, which never runs.
    operations = NUM_SEEDS * product_operations(
        lambda arrays, key: _only(learner, part, eqx.combine(arrays, static), replay, key),
        arrays[0],
        jax.random.key(0),
    )
    if NUM_SEEDS == 1:
        return update, arrays[0], operations
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    return jax.vmap(update, (0, None)), stacked, operations


def _only(learner: Any, part: str, state: Any, replay: ReplayBuffer, key: Any) -> Any:
    if part == "policy":
        return eqx.filter(learner.improve(state, replay, key=key), eqx.is_array)
    return eqx.filter(learner.fit(state, replay, key=key), eqx.is_array)


def make_step(model: str, horizon: int) -> tuple[Any, Any]:
    """One episode of the whole loop, which is `horizon` environment steps."""
    config = make_config(model, horizon)
    trainer = Trainer(
        config.learner(), Schedule.create(20 * horizon, 4 * horizon, horizon, horizon), range(NUM_SEEDS)
    )

    def episodes(state: Any, number: int) -> Any:
        return trainer.advance(state, 5, number)[0]

    return episodes, trainer.init()


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("model", MODELS)
def test_time(benchmark: Any, model: str, part: str, horizon: int) -> None:
    """Median seconds of one update, or of one environment step within an episode."""
    if part == "step" and horizon > LONGEST_EPISODE:
        pytest.skip("an episode is a thousand updates; its time follows from theirs")
    key: Any = jax.random.key(1)
    begin = clock()
    if part == "step":
        run, state = make_step(model, horizon)
        memory, operations, key = None, None, 1
        state = jax.block_until_ready(run(state, 0))
    else:
        update, state, operations = make_update(model, horizon, part)
        run = jax.jit(update).lower(state, key).compile()
        memory = run.memory_analysis()
    compile_seconds = clock() - begin

    def once() -> None:
        nonlocal state
        state = jax.block_until_ready(run(state, key))

    begin = clock()
    if part != "step":
        once()
    rounds = int(min(20, max(2, SECONDS_TO_SPEND / max(clock() - begin, 1e-3)))) if part != "step" else 1
    benchmark.extra_info |= {
        "model": model,
        "part": part,
        "horizon": horizon,
        "num_seeds": NUM_SEEDS,
        "dropout": DROPOUT,
        "steps": horizon if part == "step" else 1,
        "operations": operations,
        "compile_seconds": compile_seconds,
        "memory_bytes": None
        if memory is None
        else memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes,
    }
    benchmark.pedantic(once, rounds=rounds, iterations=1)
