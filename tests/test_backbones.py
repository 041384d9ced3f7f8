"""Every sequence architecture of the table: parallel form against recurrent form, causality, derivatives, dropout."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.backbones import AbstractBackbone, BACKBONES, scan_step, SelfAttention, SimpleRNN
from asmpg.backbones.base import dropout
from asmpg.models import ActionSequenceModel, free_run
from toys import bits, Drift, flatten, relative_error, unit_normaliser


FEATURES = 5  # of one element: small, and unlike every size inside
LENGTH = 37
LONGEST = 131
BARE = {"simple_rnn", "attention"}  # nothing is added to these equations, dropout neither
every_backbone = pytest.mark.parametrize("name", BACKBONES)


@functools.cache
def backbone_and_inputs(name: str) -> tuple[AbstractBackbone, np.ndarray]:
    """A backbone for sequences of up to LONGEST elements and three sequences."""
    backbone = BACKBONES[name].create(FEATURES, LONGEST, key=jax.random.key(0))
    return backbone, np.random.default_rng(1).normal(size=(3, LONGEST, FEATURES)).astype(np.float32)


def double(tree: Any) -> Any:
    """The same in double precision: quicker than drawing it anew."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if eqx.is_inexact_array_like(x) else x, tree)


def asm_and_actions(name: str, length: int = LENGTH) -> tuple[ActionSequenceModel, jax.Array]:
    env = Drift(horizon=length)
    model = ActionSequenceModel(env, name, key=jax.random.key(2), normaliser=unit_normaliser(env))
    return model, jax.random.uniform(jax.random.key(3), (length, env.action_size), minval=-1.0)


both_forms = eqx.filter_jit(
    lambda backbone, xs: (jax.vmap(backbone.predict)(xs), jax.vmap(lambda x: scan_step(backbone, x))(xs))
)
predict = eqx.filter_jit(lambda backbone, xs: backbone.predict(xs))


@every_backbone
@pytest.mark.parametrize("length", [1, 2, LENGTH, LONGEST])
def test_predict_is_a_scan_of_step(name, length):
    backbone, xs = backbone_and_inputs(name)
    whole, stepwise = both_forms(backbone, xs[:, :length])
    assert whole.shape == (3, length, backbone.output_size)
    assert relative_error(whole, stepwise) < 1e-5


@every_backbone
def test_predict_is_a_scan_of_step_in_double_precision(name, x64):
    backbone, xs = double(backbone_and_inputs(name))
    whole, stepwise = both_forms(backbone, xs[:, :LENGTH])
    assert whole.dtype == stepwise.dtype == np.float64
    assert relative_error(whole, stepwise) < 1e-12


@every_backbone
def test_batch_is_vmap(name):
    """What a sequence gives does not depend on the others of its batch."""
    backbone, xs = backbone_and_inputs(name)
    batch = both_forms(backbone, xs[:, :LENGTH])[0]
    alone = np.stack([predict(backbone, x[:LENGTH]) for x in xs])
    assert relative_error(batch, alone) < 1e-5
    assert not np.allclose(alone[0], alone[1], rtol=1e-2)


@every_backbone
def test_outputs_are_bit_equal_when_later_inputs_change(name):
    backbone, xs = backbone_and_inputs(name)
    original = np.asarray(predict(backbone, xs[0, :LENGTH]))
    for last in (0, 1, 17, LENGTH - 2):
        changed = xs[0, :LENGTH].copy()
        changed[last + 1 :] = 1e3 * xs[1, last + 1 : LENGTH]
        output = np.asarray(predict(backbone, changed))
        np.testing.assert_array_equal(output[: last + 1], original[: last + 1])
        assert (output[last + 1 :] != original[last + 1 :]).any(axis=1).all()


@every_backbone
def test_jacobian_is_causal_and_reaches_back(name):
    """Exact zeros above the diagonal; below it, every input counts."""
    backbone, xs = backbone_and_inputs(name)
    weights = np.random.default_rng(4).normal(size=backbone.output_size).astype(np.float32)

    @eqx.filter_jit
    def jacobian(backbone, xs):
        return jax.jacrev(lambda xs: backbone.predict(xs) @ weights)(xs)

    nonzero = (np.asarray(jacobian(backbone, xs[0, :LENGTH])) != 0.0).any(axis=-1)
    np.testing.assert_array_equal(nonzero, np.tri(LENGTH, dtype=bool))


@every_backbone
def test_derivatives_are_those_of_the_scan_and_finite_differences(name, x64):
    """In all parameters and inputs, over a batch: a hand-written derivative is only as good as this."""
    backbone, xs = double(backbone_and_inputs(name))
    random = np.random.default_rng(5)
    cotangent = random.normal(size=(2, 11, backbone.output_size))
    arrays, static = eqx.partition((backbone, xs[:2, :11]), eqx.is_inexact_array_like)
    # Moved off the symmetric points of an initialisation: zero biases, unit weights.
    arrays = jax.tree.map(lambda x: x + 0.05 * random.normal(size=x.shape), arrays)
    direction = jax.tree.map(lambda x: random.normal(size=x.shape), arrays)

    def value(run, arrays):
        backbone, xs = eqx.combine(arrays, static)
        return jnp.sum(cotangent * jax.vmap(lambda x: run(backbone, x))(xs))

    @jax.jit
    def derivatives(arrays, direction):
        whole = functools.partial(value, lambda backbone, x: backbone.predict(x))
        grads = jax.grad(whole)(arrays), jax.grad(functools.partial(value, scan_step))(arrays)
        steps = 1e-5 * jnp.array([1, -1, 2, -2])
        ahead = jax.lax.map(
            lambda step: whole(jax.tree.map(lambda x, d: x + step * d, arrays, direction)), steps
        )
        return *grads, (8 * (ahead[0] - ahead[1]) - (ahead[2] - ahead[3])) / (12 * steps[0])

    whole, stepwise, slope = derivatives(arrays, direction)
    for ours, reference in zip(jax.tree.leaves(whole), jax.tree.leaves(stepwise), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-12 * np.abs(flatten(stepwise)).max())
    assert abs(flatten(whole) @ flatten(direction) - slope) < 1e-7 * np.linalg.norm(flatten(whole))


@every_backbone
def test_dropout_acts_only_with_a_key(name):
    plain = BACKBONES[name].create(FEATURES, 9, key=jax.random.key(6))
    dropped = BACKBONES[name].create(FEATURES, 9, dropout=0.5, key=jax.random.key(6))
    xs = backbone_and_inputs(name)[1][0, :9]
    assert bits(plain) == bits(dropped)

    @eqx.filter_jit
    def run(backbone, xs, key):
        return backbone.predict(xs, key=key)

    expected = np.asarray(run(plain, xs, None))
    np.testing.assert_array_equal(run(dropped, xs, None), expected)
    np.testing.assert_array_equal(run(plain, xs, jax.random.key(7)), expected)
    draws = [np.asarray(run(dropped, xs, jax.random.key(seed))) for seed in (7, 7, 8)]
    assert np.isfinite(draws).all()
    np.testing.assert_array_equal(draws[0], draws[1])
    for other in (draws[2], expected):
        assert (draws[0] != other).any() != (name in BARE)


def test_dropout_preserves_the_mean():
    rate, x = 0.3, jnp.linspace(-2.0, 3.0, 11)
    keys = jax.random.split(jax.random.key(8), 20_000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: dropout(x, rate, key)))(keys))
    kept = draws != 0.0
    np.testing.assert_allclose(draws[kept], np.broadcast_to(x / (1 - rate), draws.shape)[kept], rtol=1e-6)
    # Five standard errors: of a share, and of a mean of x / (1 - rate) with that share.
    error = 5 * np.sqrt(rate * (1 - rate) / len(keys))
    np.testing.assert_allclose(kept[:, np.asarray(x) != 0].mean(axis=0), 1 - rate, atol=error)
    assert (np.abs(draws.mean(axis=0) - x) <= error * np.abs(x) / (1 - rate) + 1e-6).all()


@every_backbone
def test_action_sequence_model_from_any_start(name):
    """`predict` = scan of `step` around the backbone too, from `s_0` and from elsewhere; the start is an input."""
    model, actions = asm_and_actions(name)
    start = Drift().initial_state()
    starts = jnp.stack([start, start + jnp.array([1.0, -0.5, 0.3])])

    @eqx.filter_jit
    def run(model, starts, actions):
        def both(start):
            return model.predict(start, actions), free_run(model, start, actions)

        return jax.vmap(both)(starts)

    whole, stepwise = run(model, starts, actions)
    assert whole.shape == (2, LENGTH, 3)
    assert relative_error(whole, stepwise) < 1e-5
    assert (np.abs(whole[0] - whole[1]).max(axis=-1) > 1e-4).all(), "a prediction that does not see its start"


@every_backbone
def test_no_state_depends_on_a_later_action(name):
    model, actions = asm_and_actions(name)
    start = Drift().initial_state()
    jacobian = eqx.filter_jit(lambda model, actions: jax.jacrev(lambda a: model.predict(start, a))(actions))
    nonzero = (np.asarray(jacobian(model, actions)) != 0.0).any(axis=(1, 3))
    np.testing.assert_array_equal(nonzero, np.tri(LENGTH, dtype=bool))

    states = eqx.filter_jit(lambda model, actions: model.predict(start, actions))
    changed = actions.at[18:].set(-actions[18:])
    before, after = np.asarray(states(model, actions)), np.asarray(states(model, changed))
    np.testing.assert_array_equal(before[:18], after[:18])  # s_1 .. s_18 come from a_0 .. a_17
    assert (before[18:] != after[18:]).any(axis=1).all()


def test_simple_rnn_is_equation_2(x64):
    """Written out element by element from given weights; and Corollary 1.1's bound is attained in one dimension."""
    random = np.random.default_rng(9)
    w_x, w_a, bias, w_o = (random.normal(size=size) for size in ((4, 4), (4, 2), (4,), (3, 4)))
    actions = random.normal(size=(6, 2))
    backbone = SimpleRNN(*map(jnp.asarray, (w_x, w_a, bias, w_o)), activation=jnp.sin)
    assert (backbone.input_size, backbone.output_size) == (2, 3)
    hidden, expected = np.zeros(4), []
    for action in actions:
        hidden = np.sin(w_x @ hidden) + w_a @ action + bias
        expected.append(w_o @ hidden)
    np.testing.assert_allclose(backbone.predict(jnp.asarray(actions)), expected, rtol=1e-12)

    linear = SimpleRNN(jnp.array([[1.5]]), jnp.array([[2.0]]), jnp.zeros(1), activation=lambda x: x)
    jacobian = jax.jacobian(linear.predict)(jnp.ones((6, 1)))[-1, 0, :, 0]
    np.testing.assert_allclose(jacobian, 2.0 * 1.5 ** np.arange(5, -1, -1), rtol=1e-12)


def test_attention_is_equation_3(x64):
    """Written out element by element from given weights: one query, the softmax over its past, nothing else."""
    random = np.random.default_rng(10)
    w_q, w_k, w_v = (random.normal(size=size) for size in ((4, 2), (4, 2), (3, 2)))
    actions = random.normal(size=(6, 2))
    backbone = SelfAttention(*map(jnp.asarray, (w_q, w_k, w_v)), horizon=6)
    assert (backbone.input_size, backbone.output_size) == (2, 3)
    expected = []
    for last in range(6):
        weights = np.exp([(w_q @ actions[last]) @ (w_k @ action) for action in actions[: last + 1]])
        expected.append((weights / weights.sum()) @ [w_v @ action for action in actions[: last + 1]])
    np.testing.assert_allclose(backbone.predict(jnp.asarray(actions)), expected, rtol=1e-12)


def test_long_memory_initialisation_of_the_lstm():
    """In float32, over 500 steps, the last state's gradient in the first action is alive; with zero biases, dead."""
    model, actions = asm_and_actions("lstm", 500)
    start = Drift().initial_state()

    @eqx.filter_jit
    def first_gradient(model):
        return jax.grad(lambda a: model.predict(start, a)[-1].sum())(actions)[0]

    gradient = np.asarray(first_gradient(model))
    assert gradient.dtype == np.float32
    assert (np.abs(gradient) > 1e-8).all()
    forgetful = eqx.tree_at(
        lambda m: [cell.inputs.bias for cell in m.backbone.cells], model, replace_fn=jnp.zeros_like
    )
    assert np.abs(gradient).min() > 1e6 * np.abs(first_gradient(forgetful)).max()
