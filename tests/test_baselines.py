"""Methods of every kind on the one loop: resumed, over seeds, evaluated."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import asmpg
from asmpg import TrainConfig
from asmpg.cli import main
from asmpg.training.runs import lifecycle
from test_runs import stop_after
from tiers import thorough_but
from toys import bits, relative_error


# Action-sequence models are stopped and resumed in test_runs.py.
SMALL_MODEL = {"warmup_steps": 32, "model_batch_size": 4, "policy_batch_size": 4}
SMALL: dict[str, dict[str, Any]] = {
    "sac": {"warmup_steps": 32, "batch_size": 4},
    "odt": {"warmup_steps": 32, "batch_size": 4, "context": 3, "updates_per_iteration": 2},
    "history-rnn": SMALL_MODEL,
    "actions-rnn": SMALL_MODEL,
}


# Most of what takes time here is compilation.
pytestmark = pytest.mark.usefixtures("quickly")


def make_config(model: str, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        "bioreactor", horizon=8, model=model, steps=80, num_seeds=2, chunk_steps=16, overrides=SMALL[model]
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module", params=thorough_but(["sac"], SMALL))
def whole(request, tmp_path_factory):
    """A run of two seeds that was never stopped."""
    out = str(tmp_path_factory.mktemp(request.param) / "whole")
    return asmpg.train(make_config(request.param, out=out))


def test_a_run_learns_something_and_is_finite(whole):
    assert (whole.model is None) == (whole.config.model in ("sac", "odt"))
    assert whole.scores.shape == (2,)
    assert all(np.isfinite(values).all() for values in whole.metrics.values())
    assert (whole.metrics["gradient_norm"][-1] > 0).all()
    assert (whole.metrics["num_nonfinite"] == 0).all()
    assert {leaf.shape[0] for leaf in jax.tree.leaves(whole.policy) if eqx.is_array(leaf)} == {2}
    assert len(set(whole.metrics["return"][:, 0])) > 3, "the policy changes from record to record"


def test_stopped_resumed_and_read_back_bit_for_bit(whole, tmp_path):
    """And evaluated again, by the command line too, it has the same returns."""
    config = dataclasses.replace(whole.config, out=str(tmp_path / "run"))
    assert not lifecycle.start(config.checked(), lambda _: None, stop_after(3)).finished
    resumed = asmpg.resume(tmp_path / "run")
    for result in (resumed, asmpg.load(tmp_path / "run")):
        assert bits(result.policy) == bits(whole.policy)
        assert all((result.metrics[name] == whole.metrics[name]).all() for name in whole.metrics)
    arrays = []
    for path in (whole.path, tmp_path / "run"):
        newest = max(entry for entry in (path / "checkpoint").iterdir() if entry.name.isdigit())
        arrays.append((newest / "arrays.safetensors").read_bytes())
    assert arrays[0] == arrays[1], "optimisers and keys too"
    np.testing.assert_allclose(resumed.evaluate(), whole.returns, rtol=1e-5)


def test_the_command_line_reads_it(whole, capfd):
    assert main(["evaluate", str(whole.path), "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert content["model"] == whole.config.model and content["steps"] == 80
    np.testing.assert_allclose(content["returns"], whole.returns, rtol=1e-5)
    np.testing.assert_allclose(content["scores"], whole.scores, rtol=1e-4)


def test_a_seed_alone_is_the_seed_in_company(whole):
    alone = asmpg.train(dataclasses.replace(whole.config, seed=1, num_seeds=1, out=None))
    company = jax.tree.map(lambda leaf: leaf[1:2], eqx.filter(whole.policy, eqx.is_array))
    assert relative_error(eqx.filter(alone.policy, eqx.is_array), company) < 1e-3
    for name, values in alone.metrics.items():
        np.testing.assert_allclose(values[:, 0], whole.metrics[name][:, 1], rtol=2e-2, atol=1e-4)
    assert (whole.metrics["return"][0, 0] != whole.metrics["return"][0, 1]).all()


def test_settings_outlive_the_folder(whole):
    run = asmpg.load(whole.path)
    assert run.config.settings() == whole.config.settings()
    assert type(run.config.settings()) is asmpg.MODELS[whole.config.model].settings
