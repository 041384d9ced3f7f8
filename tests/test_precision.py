"""Runs in double precision, and what a run's precision does not touch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg import TrainConfig
from asmpg.core.precision import resolve_precision, using
from asmpg.training.runs.health import notices


pytestmark = pytest.mark.usefixtures("quickly")
CONFIG = TrainConfig(
    "bioreactor",
    horizon=6,
    model="lstm",
    steps=60,
    chunk_steps=12,
    precision="float64",
    overrides={"warmup_steps": 24, "model_batch_size": 4, "policy_batch_size": 4, "policy_update_every": 3},
)


def dtypes(tree):
    return {
        leaf.dtype
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating)
    }


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    return asmpg.train(dataclasses.replace(CONFIG, out=str(tmp_path_factory.mktemp("runs") / "double")))


def test_everything_of_a_double_run_is_double(double):
    assert dtypes((double.policy, double.model)) == {jnp.dtype("float64")}
    assert double.summary()["precision"] == "float64"
    assert jnp.result_type(float) == jnp.float32, "and nothing outside it"


def test_read_back_evaluated_and_extended(double):
    run = asmpg.load(double.path)
    assert run.config.precision == "float64" and dtypes((run.policy, run.model)) == {jnp.dtype("float64")}
    np.testing.assert_allclose(run.evaluate(), double.returns, rtol=1e-12)
    longer = asmpg.resume(double.path, steps=72)
    assert longer.steps == 72 and dtypes(longer.policy) == {jnp.dtype("float64")}


def test_auto_is_what_jax_is_set_to(x64, monkeypatch):
    assert resolve_precision("auto") == "float64"
    assert CONFIG.checked().precision == "float64"
    assert dataclasses.replace(CONFIG, precision="auto").checked().precision == "float64"
    with using("float32"):
        assert resolve_precision("auto") == "float32" and jnp.zeros(1).dtype == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with using("bfloat16-matmul"):
        assert "BF16_BF16_F32" in str(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 2)), jnp.ones((2, 2))))
    assert jnp.zeros(1).dtype == jnp.float64


def test_a_cpu_is_asked_for_no_products_that_it_may_refuse():
    with using("bfloat16-matmul"):
        assert "BF16" not in str(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 2)), jnp.ones((2, 2))))


def test_where_bfloat16_changes_nothing_a_run_says_so():
    config = dataclasses.replace(CONFIG, precision="bfloat16-matmul", num_seeds=3)
    assert [notice.split()[0] for notice in notices(config, 1, "cpu")] == ["bfloat16-matmul"]
    assert (
        notices(config, 1, "gpu") == notices(dataclasses.replace(config, precision="float32"), 1, "cpu") == []
    )


@pytest.mark.parametrize(
    ("devices", "seeds", "said"), [(1, 3, None), (2, 3, "1 repeat"), (8, 3, None), (4, 9, "3 repeat")]
)
def test_seeds_that_do_not_divide_over_the_devices_are_said(devices, seeds, said):
    found = notices(dataclasses.replace(CONFIG, num_seeds=seeds), devices, "gpu")
    assert len(found) == (said is not None) and all(said in notice for notice in found)
