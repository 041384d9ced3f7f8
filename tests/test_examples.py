"""The examples run, and show what they say."""

import collections
import importlib.util
import pathlib
import re
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg


EXAMPLES = sorted((pathlib.Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def load_main(name: str):
    (path,) = (path for path in EXAMPLES if path.stem == name)
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_tested(path):
    assert len(path.read_text().splitlines()) < 60
    assert f'load_main("{path.stem}")' in pathlib.Path(__file__).read_text()


def test_own_task(capsys):
    result = load_main("own_task")(steps=540, num_seeds=1)
    assert result.env.name == "cart"
    assert result.scores.shape == (1,)
    assert result.scores[0] < 1
    assert "starts" in capsys.readouterr().out


def test_compare_gradients():
    """The one-step model's gradient at the first action is not where the LSTM's and the transformer's are."""
    ratios = load_main("compare_gradients")(horizon=100, num_models=4)
    assert 1e-3 < ratios["lstm"] < 1e3
    assert 1e-3 < ratios["transformer"] < 1e3
    assert not 1e-6 < ratios["rnn"] < 1e6


def test_stop_and_go_on(tmp_path):
    run = load_main("stop_and_go_on")(steps=510, more_steps=525, folder=str(tmp_path))
    assert run.path == tmp_path / "harvest"
    assert run.steps == 525
    np.testing.assert_allclose(run.evaluate(), run.returns, rtol=1e-5)


def test_custom_backbone(capsys):
    result = load_main("custom_backbone")(steps=525, num_seeds=1)
    assert type(result.model.backbone).__name__ == "LeakyAverages"
    assert result.config.model_name == "custom_backbone.py:LeakyAverages"
    assert np.isfinite(result.scores).all()
    assert "scores" in capsys.readouterr().out


def test_run_exported_policy(capsys):
    """The policy does to the plant in Gymnasium what it does to the same plant in JAX."""
    gymnasium = pytest.importorskip("gymnasium")
    result, returns = load_main("run_exported_policy")(steps=1000, num_episodes=2)
    assert "in Gymnasium" in capsys.readouterr().out
    policy = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, result.policy)
    for seed, found in enumerate(returns):
        start = jnp.asarray(gymnasium.make("Pendulum-v1").reset(seed=seed)[0])
        expected = asmpg.rollout(result.env, policy, initial_state=start).episode_return
        np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.thorough
def test_host_plant(capsys):
    """A random policy's return is about -11 here; the plant is mastered within twenty episodes."""
    result = load_main("host_plant")(steps=400, num_seeds=2)
    assert (result.returns > -2.5).all()
    assert result.metrics["simulated_steps"][-1].tolist() == [400, 400]
    assert "simulated steps" in capsys.readouterr().out


@pytest.mark.thorough
def test_tune_with_optuna(capsys):
    """A few short trials on one compiled program; those that are behind the median end early."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = load_main("tune_with_optuna")(num_trials=3, steps=560, horizon=10)
    assert len(study.trials) == 3
    assert study.best_value == max(trial.value for trial in study.trials if trial.state.name == "COMPLETE")
    assert "best" in capsys.readouterr().out


def test_the_page_about_worlds_says_what_runs(monkeypatch):
    """Its blocks, one after the other; of every training the configuration is resolved, and nothing trained."""
    for library in ("brax", "gymnasium", "gymnax"):
        pytest.importorskip(library)
    text = (EXAMPLES[0].parents[1] / "docs" / "worlds.md").read_text()
    trained = []

    def train(task, **fields):
        given = task if isinstance(task, asmpg.TrainConfig) else asmpg.TrainConfig(task, **fields)
        trained.append(given.checked().world().name)
        return types.SimpleNamespace(returns=0, scores=0, metrics=collections.defaultdict(lambda: [0]))

    monkeypatch.setattr(asmpg, "train", train)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/worlds.md", "exec"), names)
    assert trained == [
        "Pendulum-v1",
        "tank",
        "drifting",
        "invertedpendulum",
        "Pendulum-v1",
        "hiv_treatment_seen_0",
        "hiv_treatment_seen_0_context_3",
        "told",
    ]
