"""An exported policy acts as the policy it was made of."""

import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.gradients.policies import ActionSequence, TanhGaussianPolicy
from asmpg.training.export import acting, export_policy, load_policy
from toys import Drift, unit_normaliser


ENV = Drift()
DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "export.md"


def shaken(policy):
    """The policy with other parameters: a fresh one's deterministic action hardly depends on anything."""
    arrays, rest = eqx.partition(policy, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    moved = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, moved), rest)


def policies():
    options = {"key": jax.random.key(0), "normaliser": unit_normaliser(ENV)}
    return {
        "network": shaken(TanhGaussianPolicy(ENV, **options)),
        "deep": shaken(TanhGaussianPolicy(ENV, **options, num_layers=3, width=8)),
        "shallow": shaken(TanhGaussianPolicy(ENV, **options, num_layers=1)),
        "timeless": shaken(TanhGaussianPolicy(ENV, **options, observe_time=False)),
        "actions": shaken(ActionSequence(ENV, key=jax.random.key(1))),
    }


def observations():
    return np.random.default_rng(0).normal(size=(ENV.horizon, ENV.state_size)).astype(np.float32)


def read_by_the_document(path):
    """The policy as the reader in the documentation reads it, which needs nothing but NumPy."""
    (code,) = re.findall(r"```python\n(import numpy as np\n.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 20
    namespace = {}
    exec(code, namespace)
    return namespace["Policy"](path)


@pytest.mark.parametrize("kind", ["network", "deep", "shallow", "timeless", "actions"])
@pytest.mark.parametrize("format", ["npz", "stablehlo"])
def test_it_acts_as_the_policy_does(tmp_path, kind, format):
    policy = policies()[kind]
    path = tmp_path / f"policy.{format}"
    path.write_bytes(export_policy(policy, ENV, format))
    readers = [load_policy(path)] + ([read_by_the_document(path)] if format == "npz" else [])
    for read in readers:
        read.reset()
        actions = np.stack([read.predict(observation) for observation in observations()])
        expected = np.stack([policy.mode(jnp.asarray(s), t) for t, s in enumerate(observations())])
        np.testing.assert_allclose(actions, expected, rtol=2e-5, atol=2e-6)
        assert np.ptp(expected) > 0.1


class Mortal(Drift):
    """Networks see one component more than the environment gives."""

    state_size: int = ENV.state_size + 1
    ends_early = property(lambda self: True)


@pytest.mark.parametrize("format", ["npz", "stablehlo"])
def test_it_takes_observations_as_the_environment_gives_them(tmp_path, format):
    """Without `alive`, which is 1 as long as the policy acts."""
    env = Mortal()
    policy = shaken(TanhGaussianPolicy(env, key=jax.random.key(0), normaliser=unit_normaliser(env)))
    path = tmp_path / f"policy.{format}"
    path.write_bytes(export_policy(policy, env, format))
    readers = [load_policy(path), acting(policy, env)]
    readers += [read_by_the_document(path)] if format == "npz" else []
    for read in readers:
        read.reset()
        for step, observation in enumerate(observations()):
            seen = jnp.append(observation, 1.0)
            np.testing.assert_allclose(
                read.predict(observation), policy.mode(seen, step), rtol=2e-5, atol=2e-6
            )
    assert (
        abs(
            policy.mode(jnp.append(observations()[0], 0.0), 0) - readers[0].predict(observations()[0], 0)
        ).max()
        > 1e-3
    )


@pytest.mark.parametrize("length", [1, 3])
def test_a_policy_with_a_context_remembers_what_it_saw_and_did(tmp_path, length):
    """In an environment whose actions have units of their own, over two episodes, the second one shorter."""
    env = asmpg.with_context(Valve(), length)
    policy = shaken(TanhGaussianPolicy(env, key=jax.random.key(0), normaliser=unit_normaliser(env)))
    path = tmp_path / "policy.npz"
    path.write_bytes(export_policy(policy, env, "npz"))
    low, high = np.array([0.0, -3.0]), np.array([10.0, 1.0])
    for read in (load_policy(path), acting(policy, env)):
        assert read.observation_size == ENV.state_size
        for given in (observations(), observations()[2:]):
            read.reset()
            seen = env.stack.begin(given[0])
            for step, following in enumerate([*given[1:], given[0]]):
                unit = np.asarray(policy.mode(jnp.asarray(seen), step))
                action = read.predict(seen[: ENV.state_size])
                np.testing.assert_allclose(action, low + (high - low) * (unit + 1) / 2, rtol=1e-4, atol=1e-5)
                seen = env.stack.follow(seen, unit, following)
        # All that it sees can be given too, and a step of its own.
        np.testing.assert_allclose(read.predict(seen, 2), read.predict(seen, 2))
        with pytest.raises(asmpg.UsageError, match="the observation has 1 components"):
            read.predict(np.zeros(1))
        read.reset()
        with pytest.raises(asmpg.UsageError, match="step 2 needs the observations and actions before it"):
            read.predict(np.zeros(ENV.state_size), 2)


class Valve(Drift):
    action_low = property(lambda self: np.array([0.0, -3.0]))
    action_high = property(lambda self: np.array([10.0, 1.0]))


@pytest.mark.parametrize("format", ["npz", "stablehlo"])
def test_actions_leave_in_the_units_of_the_environment(tmp_path, format):
    policy, env = policies()["network"], Valve()
    path = tmp_path / f"policy.{format}"
    path.write_bytes(export_policy(policy, env, format))
    unit = (np.asarray(policy.mode(jnp.asarray(observations()[2]), 4)) + 1) / 2
    action = load_policy(path).predict(observations()[2], step=4)
    np.testing.assert_allclose(action, env.action_low + unit * (env.action_high - env.action_low), rtol=1e-5)


def test_a_policy_in_double_precision_leaves_in_single(x64, tmp_path):
    policy = policies()["network"]
    for format in ("npz", "stablehlo"):
        path = tmp_path / f"policy.{format}"
        path.write_bytes(export_policy(policy, ENV, format))
        action = load_policy(path).predict(observations()[0], step=3)
        np.testing.assert_allclose(
            action, policy.mode(jnp.asarray(observations()[0], float), 3), rtol=1e-5, atol=1e-6
        )


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    policy = policies()["network"]
    path = tmp_path / "policy.npz"
    path.write_bytes(export_policy(policy, ENV, "npz"))
    read = load_policy(path)
    with pytest.raises(asmpg.UsageError, match=r"the observation has 2 components, .* trained with 3"):
        read.predict(np.zeros(2))
    for observation in observations():
        read.predict(observation)
    with pytest.raises(asmpg.UsageError, match=r"step 7 is not in an episode of 7 steps; reset\(\)"):
        read.predict(observations()[0])
    with pytest.raises(asmpg.UsageError, match="format: 'onnx' is not one of npz, stablehlo"):
        export_policy(policy, ENV, "onnx")
    with pytest.raises(asmpg.UsageError, match=r"policy: there is no file .*none.npz"):
        load_policy(tmp_path / "none.npz")
    with pytest.raises(asmpg.UsageError, match=r"must be a .npz or .stablehlo file"):
        load_policy(tmp_path / "policy.pkl")
    for name in ("policy.npz", "policy.stablehlo"):
        content = export_policy(policy, ENV, name.rpartition(".")[2])
        for broken in (b"", content[: len(content) // 2], b"no policy"):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(asmpg.UsageError, match="is not an exported policy") as caught:
                load_policy(tmp_path / name)
            assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds, just begun."""
    config = asmpg.TrainConfig(
        task="harvest", horizon=4, model="one-step", steps=20, num_seeds=2, chunk_steps=20,
        out=str(tmp_path_factory.mktemp("runs") / "run"), overrides={"warmup_steps": 8},
    )  # fmt: skip
    return asmpg.train(config)


def test_a_result_exports_its_best_seed_or_the_one_that_is_named(run, tmp_path):
    state = run.env.initial_state() * 0.9
    modes = eqx.filter_vmap(lambda policy: policy.mode(state, 1))(run.policy)
    best = int(np.argmax(run.returns))
    for seed, expected in ((None, modes[best]), (0, modes[0]), (1, modes[1])):
        path = run.export(tmp_path / "policy.npz", seed=seed)
        np.testing.assert_allclose(load_policy(path).predict(state, step=1), expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(asmpg.UsageError, match="seed: 2 is not one of 0, 1"):
        run.export(tmp_path / "policy.npz", seed=2)
    with pytest.raises(asmpg.UsageError, match=r"must end in .npz or .stablehlo"):
        run.export(tmp_path / "policy.onnx")


def test_the_command_exports_a_run(run, tmp_path, capsys):
    from asmpg.cli import main

    out = tmp_path / "policy.stablehlo"
    assert main(["export", str(run.path), "--format", "stablehlo", "--seed", "1", "--out", str(out)]) == 0
    state = run.env.initial_state()
    policy = jax.tree.map(lambda x: x[1] if eqx.is_array(x) else x, run.policy)
    np.testing.assert_allclose(load_policy(out).predict(state), policy.mode(state, 0), rtol=1e-5, atol=1e-7)
    assert str(out) in capsys.readouterr().out
    assert main(["export", str(run.path), "--format", "onnx"]) == 2
