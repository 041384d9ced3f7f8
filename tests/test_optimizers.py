"""An optimiser and network sizes of the user's own."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import asmpg
from asmpg import TrainConfig
from asmpg.core.types import UsageError
from asmpg.learners.optimisation import optimiser
from asmpg.models.backbones import BACKBONES, create_backbone, scan_step, with_sizes
from asmpg.models.normalisation import Normaliser
from asmpg.training.runs import resume
from asmpg.training.stored_config import from_json, to_json
from probes import RewardIsState


pytestmark = pytest.mark.usefixtures("quickly")

ENV = RewardIsState(horizon=4)
SMALL = {"model_batch_size": 2, "policy_batch_size": 2, "warmup_steps": 8}
SIZES = {"sac": {"batch_size": 4, "warmup_steps": 8}, "odt": {"batch_size": 2, "return_target": 1.0}}
SIZES["odt"] |= {"warmup_steps": 8, "updates_per_iteration": 1}
OWN = """
import optax

quick = optax.sgd(0.1)
slow = optax.sgd(0.01)

def from_settings(settings, part):
    rate = settings.policy_learning_rate if part == "policy" else settings.model_learning_rate
    return optax.adam(rate)
"""


def config(model: Any = "one-step", steps: int = 20, **fields: Any) -> TrainConfig:
    overrides = fields.pop("overrides", {}) | SIZES.get(model if isinstance(model, str) else "", SMALL)
    return TrainConfig(ENV, model=model, steps=steps, chunk_steps=8, overrides=overrides, **fields)


def learner(config: TrainConfig) -> Any:
    return config.learner()


def as_built_in(settings, part):
    """What the model-based learner makes for itself, written out."""
    rate = settings.policy_learning_rate if part == "policy" else settings.model_learning_rate
    return optimiser(rate, settings.learning_rate_decay, settings.gradient_clip)


def test_an_optimiser_like_the_built_in_one_trains_the_same_bits():
    built_in, own = asmpg.train(config()), asmpg.train(config(optimizer=as_built_in))
    jax.tree.map(np.testing.assert_array_equal, arrays(built_in.policy), arrays(own.policy))


@pytest.mark.parametrize(
    ("model", "networks"),
    [
        ("one-step", {"model", "policy"}),
        ("simulator", {"model", "policy"}),
        ("sac", {"critic", "policy"}),
        ("odt", {"policy"}),
    ],
)
def test_every_network_of_a_method_has_it(model, networks):
    seen = set()

    def own(settings, part):
        seen.add(part)
        return optax.sgd(0.1)

    made = learner(config(model, optimizer=own))
    seen.clear()
    state = jax.eval_shape(
        lambda: arrays(made.init(Normaliser.unknown(1), key=jax.random.key(0))).policy_optimiser
    )
    assert seen == networks and not jax.tree.leaves(state)  # plain descent has no state, Adam has


def arrays(module):
    return eqx.filter(module, eqx.is_array)


def test_a_run_asks_for_its_optimiser_again(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own, out = f"{tmp_path / 'own.py'}:quick", tmp_path / "run"
    whole = asmpg.train(config(optimizer=own))
    asmpg.train(config(optimizer=own, steps=16, out=str(out)))
    assert '"own.py:quick"' in (out / "config.json").read_text()
    with pytest.raises(UsageError, match=r"^optimizer: the run has own.py:quick.*--optimizer FILE.py:NAME"):
        resume(out, task=ENV)
    with pytest.raises(UsageError, match=r"^optimizer: own.py:slow is not what the run was started with"):
        resume(out, task=ENV, optimizer=own.replace("quick", "slow"))
    # The same one from elsewhere, and one in another place of its file.
    (tmp_path / "own.py").write_text("# moved\n" + OWN)
    resumed = resume(out, task=ENV, optimizer=optax.sgd(0.1), steps=20)
    jax.tree.map(np.testing.assert_array_equal, arrays(whole.policy), arrays(resumed.policy))


def test_no_optimiser_is_asked_for_where_there_is_none():
    stored = to_json(config())
    assert from_json(stored, task=ENV).optimizer is None
    with pytest.raises(UsageError, match=r"^optimizer: the run has the built-in optimisers"):
        from_json(stored, task=ENV, optimizer=optax.sgd(0.1))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adam", r"^optimizer: 'adam' must be FILE.py:NAME"),
        (lambda a, b, c: optax.sgd(0.1), r"^optimizer: must be an optax"),
        (lambda settings: settings, r"^optimizer: <lambda> gives a Settings, not an optax.Gradient"),
        (lambda settings: optax.sgd(settings.no_such_rate), r"^optimizer: <lambda> raised AttributeError"),
        (optax.sgd, r"^optimizer: (init|update) of sgd raised|^optimizer: sgd raised"),
    ],
)
def test_what_is_no_optimiser_is_said_on_one_line_before_anything_is_written(optimizer, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        asmpg.train(config(optimizer=optimizer, out=str(tmp_path / "run")))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_the_rates_of_an_own_optimiser_may_be_traced(tmp_path):
    """Several settings share a program, in which rates are arrays."""
    (tmp_path / "own.py").write_text(OWN)
    made = learner(config(optimizer=f"{tmp_path / 'own.py'}:from_settings"))
    state = jax.eval_shape(
        lambda rate: arrays(
            eqx.tree_at(lambda one: one.settings.policy_learning_rate, made, rate).init(
                Normaliser.unknown(1), key=jax.random.key(0)
            )
        ),
        jnp.asarray(0.1),
    )
    assert jax.tree.leaves(state)


WIDE = {"policy_width": 12, "num_policy_layers": 3}


def widths(layers) -> list[tuple[int, ...]]:
    return [layer.weight.shape[-2:] for layer in layers]


def test_sizes_are_those_of_the_settings():
    state = config("one-step", overrides=WIDE | {"model_width": 5, "num_model_layers": 1})
    state = learner(state).init(Normaliser.unknown(1), key=jax.random.key(0))
    assert widths(state.policy.layers) == [(2, 12), (12, 12), (12, 12), (12, 2)]
    assert widths(state.model.layers) == [(3, 5), (5, 1)]
    sac = learner(config("sac", overrides=WIDE | {"critic_width": 7, "num_critic_layers": 1}))
    state = sac.init(Normaliser.unknown(1), key=jax.random.key(0))
    assert widths(state.critics[0].layers) == [(3, 7), (7, 1)] and len(state.policy.layers) == 4
    odt = learner(config("odt", overrides={"policy_width": 48, "num_policy_layers": 1}))
    backbone = odt.init(Normaliser.unknown(1), key=jax.random.key(0)).policy.backbone
    assert (backbone.output_size, len(backbone.blocks)) == (48, 1)
    overrides = {"model_width": 6, "num_model_layers": 3, "decoder_width": 9}
    model = learner(config("history-lstm", overrides=overrides)).make_model(key=jax.random.key(0))
    assert (model.backbone.output_size, len(model.backbone.cells)) == (6, 3)
    assert model.decoder.hidden.weight.shape == (6, 9)


@pytest.mark.parametrize(
    ("model", "standard"), [("lstm", (64, 2)), ("transformer", (72, 2)), ("one-step", (64, 2))]
)
def test_the_standard_sizes_given_are_those_that_are_not(model, standard):
    given = {"model_width": standard[0], "num_model_layers": standard[1], "decoder_width": 64}
    make = [learner(config(model, overrides=sizes)).make_model for sizes in ({}, given)]
    one, other = (arrays(make_model(key=jax.random.key(1))) for make_model in make)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_another_size_predict_what_they_step(name):
    sizes = {"width": 30} | ({} if name in ("simple_rnn", "attention") else {"num_layers": 1})
    backbone = create_backbone(with_sizes(name, **sizes), 5, 6, key=jax.random.key(0))
    assert backbone.output_size == 30
    xs = jax.random.normal(jax.random.key(1), (6, 5))
    whole, steps = jax.jit(lambda xs: (backbone.predict(xs), scan_step(backbone, xs)))(xs)
    np.testing.assert_allclose(whole, steps, rtol=1e-4, atol=1e-5)


def test_sizes_that_mean_nothing_are_refused():
    def made(input_size, horizon, *, dropout, key):
        return BACKBONES["rnn"].create(input_size, horizon, key=key)

    for model, name in (
        ("attention", "num_model_layers"),
        ("simulator", "model_width"),
        (made, "model_width"),
        (BACKBONES["rnn"].create(72, 4, key=jax.random.key(0)), "model_width"),
    ):
        with pytest.raises(UsageError, match=f"^{name}: .* has "):
            config(model, overrides={name: 3}).checked()
    with pytest.raises(UsageError, match=r"^policy_width: must be an integer from 1"):
        config(overrides={"policy_width": 0}).checked()


def test_a_backbone_of_ones_own_may_take_sizes():
    make = functools.partial(BACKBONES["gru"].create, num_layers=1)
    made = learner(config(make, overrides={"model_width": 10}))
    assert made.make_model(key=jax.random.key(0)).backbone.output_size == 10
