"""Imagination as a fixed point of whole sequences: the states of the rollout step by step, and what it reports."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

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
from asmpg.gradients.imagination import find_states, imagine, resolve
from asmpg.gradients.policy_gradient import imagined_return
from asmpg.learners.replay import ReplayBuffer
from asmpg.models import OneStepModel, Simulator
from asmpg.models.backbones import AbstractBackbone
from asmpg.models.normalisation import Normaliser
from asmpg.training.runs import lifecycle


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


def test_a_run_counts_what_it_had_to_roll_out_step_by_step(monkeypatch):
    """Without any tolerance nothing agrees: every episode of every update falls back, and gives the same run."""
    monkeypatch.setattr(imagination, "TOLERANCE", 0.0)
    monkeypatch.setattr(imagination, "find_states", functools.partial(find_states, max_sweeps=3))
    expected = asmpg.train(CONFIG)
    run = asmpg.train(dataclasses.replace(CONFIG, imagine="parallel"))
    num_updates = 32 // CONFIG.overrides["policy_update_every"]
    episodes = num_updates * CONFIG.overrides["policy_batch_size"]
    np.testing.assert_array_equal(run.metrics["num_fallbacks"], episodes * np.array([[0, 0], [1, 1], [2, 2]]))
    np.testing.assert_allclose(run.metrics["return"], expected.metrics["return"], rtol=1e-3)


def test_chunks_change_a_run_by_rounding_only():
    """Where imagination is differentiated step by step; at three steps a chunk, of eight."""
    config = dataclasses.replace(CONFIG, model="one-step", imagine="auto")
    whole, chunks = asmpg.train(config), asmpg.train(dataclasses.replace(config, scan_chunk=3))
    for name, values in whole.metrics.items():
        np.testing.assert_allclose(chunks.metrics[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_chunk_is_what_a_derivative_keeps():
    """The option reaches the scan: with one step a chunk, much less scratch memory for one update."""
    config = dataclasses.replace(CONFIG, model="one-step", imagine="auto", horizon=200, steps=400)

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


def test_a_network_with_functions_inside():
    """As an `eqx.nn.MLP` has its activation: a leaf that is no array."""
    env, model, policy, noise = example("lstm", 12, "bioreactor")
    model = eqx.tree_at(lambda m: m.backbone, model, WithFunction(model.backbone))
    states, _ = find_states(policy, model, env.initial_state(), noise)
    np.testing.assert_allclose(states, imagine(policy, model, env.initial_state(), noise).states, rtol=1e-4)


class WithFunction(AbstractBackbone):
    inner: AbstractBackbone
    function: Callable[..., Any] = jnp.sin
    input_size = property(lambda self: self.inner.input_size)
    output_size = property(lambda self: self.inner.output_size)

    @classmethod
    def create(cls, input_size, horizon, *, dropout=0.0, key):
        raise NotImplementedError

    def init(self):
        return self.inner.init()

    def step(self, carry, x):
        carry, output = self.inner.step(carry, x)
        return carry, self.function(output)

    def predict(self, xs, *, key=None):
        return self.function(self.inner.predict(xs, key=key))


def test_what_is_left_open_is_decided_once_for_a_run(tmp_path, monkeypatch):
    """A run begun on one kind of device is read, and goes on, on another; what decides is in one place."""
    config = dataclasses.replace(CONFIG, model="attention", imagine="auto", out=str(tmp_path / "run"))
    monkeypatch.setattr(imagination.jax, "default_backend", lambda: "gpu")
    assert config.resolve().imagine_here() == "parallel"
    assert dataclasses.replace(config, model="lstm").resolve().imagine_here() == "sequential"
    assert dataclasses.replace(config, model="one-step").resolve().imagine_here() == "sequential"
    assert dataclasses.replace(config, imagine="sequential").resolve().imagine_here() == "sequential"
    done = lifecycle.start(config.checked(), lambda progress: None, lambda: True)
    monkeypatch.undo()
    assert config.resolve().imagine_here() == "sequential" and not done.finished
    assert asmpg.load(tmp_path / "run").config.imagine == "parallel"
    assert "num_sweeps" in asmpg.train(dataclasses.replace(config, steps=96)).metrics


@pytest.mark.parametrize("model", ["sac", "odt"])
@pytest.mark.parametrize("option", [{"loop": "closed"}, {"learned_reward": True}, {"scan_chunk": 3}])
def test_what_has_no_meaning_for_a_method_is_refused(model, option):
    config = TrainConfig("bioreactor", horizon=8, model=model, overrides={}, **option)
    with pytest.raises(UsageError, match=f"^{next(iter(option))}: .* has no meaning for {model}"):
        config.checked()


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
        ({"scan_chunk": 0}, "scan_chunk: must be an integer from 1 to"),
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
