"""Imagination as a fixed point of whole sequences: the states of the rollout step by step, and what it reports."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg import ActionSequenceModel, imagination, TanhGaussianPolicy, TrainConfig
from asmpg.cli import main
from asmpg.gradients import imagined_return
from asmpg.imagination import find_states, imagine, resolve
from asmpg.models import OneStepModel, Simulator
from asmpg.types import UsageError


pytestmark = pytest.mark.usefixtures("quickly")
BACKBONES = ("lstm", "lru", "transformer")


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


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("horizon", [67])
def test_the_states_of_the_rollout_step_by_step(backbone, horizon):
    env, model, policy, noise = example(backbone, horizon)
    start = env.initial_state()
    expected = eqx.filter_jit(imagine)(policy, model, start, noise).states
    states, sweeps = eqx.filter_jit(find_states)(policy, model, start, noise)
    scale = jnp.abs(expected).max(axis=0)
    np.testing.assert_allclose(states / scale, expected / scale, atol=3e-5)
    assert bool(sweeps.converged) and 1 < int(sweeps.number) < horizon
    again, warm = eqx.filter_jit(find_states)(policy, model, start, noise, states)
    assert int(warm.number) <= 2 < int(sweeps.number), "its own result is a guess that needs no search"
    np.testing.assert_allclose(again / scale, expected / scale, atol=3e-5)


@pytest.mark.parametrize("backbone", ["transformer", "lstm"])
@pytest.mark.parametrize("grown", [False, True])
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


@pytest.mark.parametrize("horizon", [1, 5])
def test_exact_after_as_many_sweeps_as_steps(horizon):
    """Whatever the guess, even if no two sweeps agree: with no tolerance at all it never claims to need more."""
    env, model, policy, noise = example("lstm", max(horizon, 2), "bioreactor")
    noise = noise[:horizon]
    guess = 100.0 * jax.random.normal(jax.random.key(9), (horizon + 1, env.state_size))
    states, sweeps = find_states(policy, model, env.initial_state(), noise, guess, tolerance=0.0)
    np.testing.assert_allclose(states, imagine(policy, model, env.initial_state(), noise).states, rtol=1e-5)
    assert int(sweeps.number) <= horizon and bool(sweeps.converged)


def test_without_agreement_it_goes_step_by_step_and_says_so():
    env, model, policy, noise = example("lstm", 45)
    start = env.initial_state()
    states, sweeps = eqx.filter_jit(find_states)(policy, model, start, noise, tolerance=0.0, max_sweeps=2)
    assert not bool(sweeps.converged) and int(sweeps.number) == 2
    np.testing.assert_array_equal(states, eqx.filter_jit(imagine)(policy, model, start, noise).states)
    both = jax.vmap(lambda n: find_states(policy, model, start, n, tolerance=0.0, max_sweeps=2)[0])
    batch = eqx.filter_jit(both)(jnp.stack([noise, -noise]))
    np.testing.assert_allclose(batch[0], states, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_the_same_gradient(backbone):
    env, model, policy, noise = example(backbone, 50)
    guess = jnp.broadcast_to(env.initial_state(), (51, env.state_size))

    @eqx.filter_jit
    def gradient(policy, guess):
        return eqx.filter_value_and_grad(
            lambda p: imagined_return(p, model, env, env.initial_state(), noise, guess=guess)[0]
        )(policy)

    (value, grads), (expected_value, expected) = gradient(policy, guess), gradient(policy, None)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    norm = float(jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(expected))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * norm), grads, expected)


CONFIG = TrainConfig(
    "bioreactor",
    horizon=8,
    model="lstm",
    steps=96,
    chunk_steps=32,
    num_seeds=2,
    imagine="sequential",
    overrides={"warmup_steps": 32, "model_batch_size": 4, "policy_batch_size": 4, "policy_update_every": 8},
)


def test_a_run_is_the_same_to_rounding_and_reports_its_sweeps():
    step_by_step = asmpg.train(CONFIG)
    fixed = asmpg.train(dataclasses.replace(CONFIG, imagine="parallel"))
    assert fixed.metrics["num_fallbacks"][-1].max() == 0
    assert (fixed.metrics["num_sweeps"][1:] >= 1).all() and (fixed.metrics["num_sweeps"] <= 8).all()
    for name, values in step_by_step.metrics.items():
        np.testing.assert_allclose(fixed.metrics[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
    assert "num_sweeps" not in step_by_step.metrics


def test_where_it_has_no_meaning():
    env = asmpg.make("bioreactor", 8)
    one_step = OneStepModel(env, key=jax.random.key(0))
    for model, loop, message in (
        (Simulator(env), "open", "needs an action-sequence model"),
        (one_step, "open", "needs an action-sequence model"),
        (ActionSequenceModel(env, "lstm", key=jax.random.key(0)), "closed", "open-loop gradient only"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve("parallel", model, loop)
        assert not resolve("auto", model, loop)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "one-step", "imagine": "parallel"}, "imagine: parallel needs an action-sequence model"),
        ({"loop": "closed", "imagine": "parallel"}, "imagine: parallel is for the open-loop gradient only"),
        ({"scan_chunk": 0}, "scan_chunk: must be an integer >= 1, got 0"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(CONFIG, **changes).checked()


def test_the_command_line_refuses_them_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "bioreactor", "--horizon", "8", "--steps", "80", "--out", str(out)]
    for wrong in (["--scan-chunk", "0"], ["--model", "simulator", "--imagine", "parallel"]):
        assert main([*arguments, *wrong]) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1 and wrong[-2].strip("-").replace("-", "_") in error.replace(
            "-", "_"
        )
    assert not out.exists()
