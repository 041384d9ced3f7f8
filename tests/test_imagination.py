"""Imagination step by step: carries that grow, and what a derivative keeps of them."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg import ActionSequenceModel, TanhGaussianPolicy, TrainConfig
from asmpg.cli import main
from asmpg.core.types import UsageError
from asmpg.gradients import imagination
from asmpg.gradients.policy_gradient import imagined_return
from asmpg.learners.replay import ReplayBuffer
from asmpg.models.normalisation import Normaliser
from tiers import thorough_but


pytestmark = pytest.mark.usefixtures("quickly")


def sensitive_policy(env, key, gain=3.0):
    """One whose action depends on the state so much that a first guess of the states is far off."""
    policy = TanhGaussianPolicy(env, key=key)
    return eqx.tree_at(lambda p: p.layers[0].weight, policy, replace_fn=lambda w: gain * w)


def example(backbone, horizon, task="hiv_treatment"):
    env = asmpg.make(task, horizon)
    keys = jax.random.split(jax.random.key(1), 3)
    model = ActionSequenceModel(env, backbone, key=keys[0])
    noise = jax.random.normal(keys[2], (horizon, env.action_size))
    return env, model, sensitive_policy(env, keys[1]), noise


@pytest.mark.parametrize("backbone", ["transformer", "lstm"])
@pytest.mark.parametrize("grown", thorough_but([True], [False, True]))
def test_a_carry_with_just_enough_room_gives_the_same(monkeypatch, backbone, grown):
    """Blocks of three over ten steps: states, and the one-pass gradient."""
    env, model, policy, noise = example(backbone, 10, "bioreactor")
    monkeypatch.setattr(imagination, "MIN_BLOCK_SIZE", 3 if grown else 100)

    def value(p):
        return imagined_return(p, model, env, env.initial_state(), noise, loop="closed")[0]

    rooms = []
    plain = type(model).resize
    monkeypatch.setattr(type(model), "resize", lambda m, c, n: rooms.append(n) or plain(m, c, n))
    (result, grads) = eqx.filter_value_and_grad(value)(policy)
    assert set(rooms) - {1} == ({3, 6, 9, 10} if grown and backbone != "lstm" else {10})
    monkeypatch.undo()
    expected, expected_grads = eqx.filter_value_and_grad(value)(policy)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    norm = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected_grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * norm), grads, expected_grads)


CONFIG = TrainConfig(
    "bioreactor",
    horizon=8,
    model="lstm",
    steps=96,
    chunk_steps=32,
    num_seeds=2,
    overrides={"warmup_steps": 32, "model_batch_size": 4, "policy_batch_size": 4, "policy_update_every": 8},
)


def test_chunks_change_a_run_by_rounding_only():
    """Where imagination is differentiated step by step; at three steps a chunk, of eight."""
    config = dataclasses.replace(CONFIG, model="one-step")
    whole, chunks = asmpg.train(config), asmpg.train(dataclasses.replace(config, scan_chunk=3))
    for name, values in whole.metrics.items():
        np.testing.assert_allclose(chunks.metrics[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_chunk_is_what_a_derivative_keeps():
    """The option reaches the scan: with one step a chunk, much less scratch memory for one update."""
    config = dataclasses.replace(CONFIG, model="one-step", horizon=200, steps=400)

    def scratch(chunk):
        learner = dataclasses.replace(config, scan_chunk=chunk).learner()
        env, state = (
            learner.env,
            learner.init(Normaliser.from_random_episodes(learner.env), key=jax.random.key(0)),
        )
        replay = ReplayBuffer.create(env, 4)
        arrays, static = eqx.partition(state, eqx.is_array)

        def update(arrays):
            new = learner.improve(eqx.combine(arrays, static), replay, key=jax.random.key(1))
            return eqx.filter(new, eqx.is_array)

        return jax.jit(update).lower(arrays).compile().memory_analysis().temp_size_in_bytes

    assert scratch(14) < 0.5 * scratch(200)


@pytest.mark.parametrize("model", ["sac", "odt"])
@pytest.mark.parametrize("option", [{"loop": "closed"}, {"learned_reward": True}, {"scan_chunk": 3}])
def test_what_has_no_meaning_for_a_method_is_refused(model, option):
    config = TrainConfig("bioreactor", horizon=8, model=model, overrides={}, **option)
    with pytest.raises(UsageError, match=f"^{next(iter(option))}: .* has no meaning for {model}"):
        config.checked()


def test_the_command_line_refuses_it_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "bioreactor", "--horizon", "8", "--steps", "80", "--out", str(out)]
    assert main([*arguments, "--scan-chunk", "0"]) == 2
    assert capsys.readouterr().err.startswith("asmpg: --scan-chunk: must be an integer from 1 to")
    assert not out.exists()
