"""Every sequence architecture of the table: parallel form against recurrent form, causality, derivatives, dropout."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.gradients.analysis import action_jacobian, reach
from asmpg.models import ActionSequenceModel, free_run
from asmpg.models.backbones import (
    AbstractBackbone,
    attention,
    BACKBONES,
    scan_step,
    SelfAttention,
    SimpleRNN,
    Transformer,
)
from asmpg.models.backbones.attention import attend, rotate
from asmpg.models.backbones.base import dropout
from asmpg.models.backbones.delta import delta_chunks, delta_step, Reads, unit_lower_inverse
from asmpg.models.backbones.linear_recurrence import associative, linear_recurrence, sequential
from asmpg.models.backbones.state_space import hippo_eigenvalues, LRUMixer, S5Mixer
from toys import bits, Drift, flatten, relative_error, unit_normaliser


FEATURES = 5  # of one element: small, and unlike every size inside
LENGTH = 37
LONGEST = 131
BARE = {"simple_rnn", "attention"}  # nothing is added to these equations, dropout neither
ROTARY = "transformer, rotary"
every_backbone = pytest.mark.parametrize("name", [*BACKBONES, ROTARY])


def create(
    name: str, features: int, horizon: int, *, dropout: float = 0.0, seed: int = 0
) -> AbstractBackbone:
    key = jax.random.key(seed)
    if name == ROTARY:
        return Transformer.create(features, horizon, dropout=dropout, positions="rotary", key=key)
    return BACKBONES[name].create(features, horizon, dropout=dropout, key=key)


# Most of what takes time here is compilation.
pytestmark = pytest.mark.usefixtures("quickly")


@functools.cache
def backbone_and_inputs(name: str) -> tuple[AbstractBackbone, np.ndarray]:
    """A backbone for sequences of up to LONGEST elements and three sequences."""
    backbone = create(name, FEATURES, LONGEST)
    return backbone, np.random.default_rng(1).normal(size=(3, LONGEST, FEATURES)).astype(np.float32)


def double(tree: Any) -> Any:
    """The same in double precision: quicker than drawing it again."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if eqx.is_inexact_array_like(x) else x, tree)


def asm_and_actions(name: str, length: int = LENGTH) -> tuple[ActionSequenceModel, jax.Array]:
    env = Drift(horizon=length)
    backbone = create(name, 11, length, seed=2)
    model = ActionSequenceModel(env, backbone, key=jax.random.key(2), normaliser=unit_normaliser(env))
    return model, jax.random.uniform(jax.random.key(3), (length, env.action_size), minval=-1.0)


predict = eqx.filter_jit(lambda backbone, xs: backbone.predict(xs))
predict_all = eqx.filter_jit(lambda backbone, xs: jax.vmap(backbone.predict)(xs))
scan_all = eqx.filter_jit(lambda backbone, xs: jax.vmap(lambda x: scan_step(backbone, x))(xs))


@every_backbone
def test_predict_is_a_scan_of_step(name):
    """Whatever the length: alone, and on both sides of the borders of chunks."""
    backbone, xs = backbone_and_inputs(name)
    stepwise = scan_all(backbone, xs)
    for length in (1, 2, LENGTH, LONGEST):
        whole = predict_all(backbone, xs[:, :length])
        assert whole.shape == (3, length, backbone.output_size)
        assert relative_error(whole, stepwise[:, :length]) < 1e-5


@every_backbone
def test_batch_is_vmap(name):
    """What a sequence gives does not depend on the others of its batch."""
    backbone, xs = backbone_and_inputs(name)
    batch = predict_all(backbone, xs[:, :LENGTH])
    alone = np.stack([predict(backbone, x[:LENGTH]) for x in xs])
    assert relative_error(batch, alone) < 1e-5
    assert not np.allclose(alone[0], alone[1], rtol=1e-2)


@every_backbone
def test_outputs_are_bit_equal_when_later_inputs_change(name):
    backbone, xs = backbone_and_inputs(name)
    original = np.asarray(predict(backbone, xs[0, :LENGTH]))
    for last in (0, 1, 14, 15, 17, LENGTH - 2):
        changed = xs[0, :LENGTH].copy()
        changed[last + 1 :] = 1e3 * xs[1, last + 1 : LENGTH]
        output = np.asarray(predict(backbone, changed))
        np.testing.assert_array_equal(output[: last + 1], original[: last + 1])
        assert (output[last + 1 :] != original[last + 1 :]).any(axis=1).all()


@every_backbone
def test_derivatives_are_those_of_the_scan(name, x64):
    """Outputs and derivatives in all parameters and inputs, over a batch: `step` has none that is written by hand."""
    backbone, xs = double(backbone_and_inputs(name))
    random = np.random.default_rng(5)
    cotangent = random.normal(size=(2, LENGTH, backbone.output_size))
    arrays, static = eqx.partition((backbone, xs[:2, :LENGTH]), eqx.is_inexact_array_like)
    # Moved off the symmetric points of an initialisation: zero biases, unit weights.
    arrays = jax.tree.map(lambda x: x + 0.05 * random.normal(size=x.shape), arrays)

    @jax.jit
    def derivatives(arrays):
        def value(arrays, run):
            backbone, xs = eqx.combine(arrays, static)
            outputs = jax.vmap(lambda x: run(backbone, x))(xs)
            return jnp.sum(cotangent * outputs), outputs

        runs = (lambda backbone, x: backbone.predict(x), scan_step)
        return [jax.grad(lambda a, run=run: value(a, run), has_aux=True)(arrays) for run in runs]

    (whole, outputs), (stepwise, expected) = derivatives(arrays)
    assert outputs.dtype == expected.dtype == np.float64
    assert relative_error(outputs, expected) < 1e-12
    for ours, reference in zip(jax.tree.leaves(whole), jax.tree.leaves(stepwise), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-9, atol=1e-12 * np.abs(flatten(stepwise)).max())


@every_backbone
def test_dropout_acts_only_with_a_key(name):
    plain, dropped = (create(name, FEATURES, 9, dropout=rate, seed=6) for rate in (0.0, 0.5))
    xs = backbone_and_inputs(name)[1][0, :9]
    assert bits(plain) == bits(dropped)

    def program(backbone, key):
        return str(eqx.filter_make_jaxpr(lambda backbone, xs: backbone.predict(xs, key=key))(backbone, xs)[0])

    assert program(dropped, None) == program(plain, None)

    run = eqx.filter_jit(lambda backbone, xs, key: backbone.predict(xs, key=key))
    expected = np.asarray(predict(plain, xs))
    draws = [np.asarray(run(dropped, xs, jax.random.key(seed))) for seed in (7, 7, 8)]
    assert np.isfinite(draws).all()
    np.testing.assert_array_equal(draws[0], draws[1])
    for other in (draws[2], expected):
        assert (draws[0] != other).any() != (name in BARE)
    np.testing.assert_array_equal(run(plain, xs, jax.random.key(7)), expected)


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


@pytest.mark.parametrize("name", ["lstm", "transformer", "gated_delta"])
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


@pytest.mark.parametrize("name", ["lstm", "transformer"])
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


@pytest.mark.parametrize("parts", [1, 2], ids=["real", "complex"])
def test_linear_recurrence_is_its_equation(parts, x64):
    """Both ways to run it against complex numbers written out, and the derivative against that of the scan."""
    random = np.random.default_rng(12)
    decay, inputs, cotangent = (tuple(random.normal(size=(parts, 21, 4))) for _ in range(3))
    by_parts = np.array([1.0, 1j])[:parts, None, None]
    hidden, expected = np.zeros(4), []
    for d, x in zip((by_parts * decay).sum(axis=0), (by_parts * inputs).sum(axis=0), strict=True):
        hidden = d * hidden + x
        expected.append(hidden)
    expected = (np.real(expected), np.imag(expected))[:parts]

    @jax.jit
    def run(decay, inputs, cotangent):
        outputs, pullbacks = zip(
            *(jax.vjp(each, decay, inputs) for each in (linear_recurrence, sequential)), strict=True
        )
        backwards = [each(decay, inputs, reverse=True) for each in (associative, sequential)]
        slopes = [pullback(cotangent) for pullback in pullbacks]
        return [*outputs, associative(decay, inputs)], slopes, backwards

    outputs, slopes, backwards = run(decay, inputs, cotangent)
    assert all(relative_error(output, expected) < 1e-13 for output in outputs)
    assert relative_error(*slopes) < 1e-13
    assert relative_error(*backwards) < 1e-13


def delta_reads(length: int, seed: int = 13) -> Reads:
    """Two heads with keys of unit length; some elements forget nearly everything, some nothing."""
    random = np.random.default_rng(seed)
    queries, keys, values = random.normal(size=(3, 2, length, 4))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    log_decays = -np.exp(random.normal(scale=4.0, size=(2, length)))
    return Reads(*map(jnp.asarray, (queries, keys, values, log_decays, random.uniform(size=(2, length)))))


@pytest.mark.parametrize("length", [8, 11])
def test_chunks_of_the_delta_rule_are_its_steps(length, x64):
    """Two chunks of four, and three more elements; outputs and derivatives."""
    reads = delta_reads(length)

    def stepwise(reads):
        by_time = Reads(*(jnp.moveaxis(x, 1, 0) for x in reads))
        return jnp.moveaxis(jax.lax.scan(delta_step, jnp.zeros((2, 4, 4)), by_time)[1], 0, 1)

    def chunked(reads):
        return delta_chunks(reads, 4)

    @jax.jit
    def both(reads):
        return [(*jax.vjp(run, reads)[1](jnp.cos(run(reads))), run(reads)) for run in (chunked, stepwise)]

    ours, expected = both(reads)
    for part, reference in zip((*ours[0], ours[1]), (*expected[0], expected[1]), strict=True):
        assert relative_error(part, reference) < 1e-11


def test_delta_rule_replaces_what_a_key_held(x64):
    """Written with strength 1 and without decay, a key gives back the last value it was written with, exactly."""
    keys = jnp.eye(3)[jnp.array([0, 1, 0, 2])]
    values = jnp.arange(12.0).reshape(4, 3)
    memory = jnp.zeros((3, 3))
    for key, value in zip(keys, values, strict=True):
        reads = Reads(key, key, value, jnp.zeros(()), jnp.ones(()))
        memory, read = delta_step(memory, reads)
        np.testing.assert_allclose(read, value)
    np.testing.assert_allclose(memory @ jnp.eye(3), jnp.stack([values[2], values[1], values[3]]).T)


def test_unit_lower_inverse(x64):
    """The inverse, its derivative, and no error that grows where all keys are the same."""
    below = jnp.tril(jnp.asarray(np.random.default_rng(14).normal(size=(2, 8, 8))), -1)

    def reference(below):
        return jnp.linalg.inv(jnp.eye(8) + jnp.tril(below, -1))

    @jax.jit
    def both(below):
        return [
            (*jax.vjp(run, below)[1](jnp.cos(below)), run(below)) for run in (unit_lower_inverse, reference)
        ]

    for ours, expected in zip(*both(below), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
    same = jnp.tril(jnp.ones((16, 16), jnp.float32), -1)
    np.testing.assert_array_equal(jax.jit(unit_lower_inverse)(same), jnp.eye(16) - jnp.eye(16, k=-1))


def test_rotary_scores_see_distances_only(x64):
    random = np.random.default_rng(15)
    query, key = jnp.asarray(random.normal(size=(2, 1, 1, 6)))

    def score(at_query, at_key):
        return jnp.vdot(rotate(query, jnp.array([at_query])), rotate(key, jnp.array([at_key])))

    np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-10)
    np.testing.assert_allclose(score(5, 5), jnp.vdot(query, key), rtol=1e-12)
    assert abs(score(7, 3) - score(3, 7)) > 1e-3


def test_hippo_eigenvectors_diagonalise():
    """V diag V^H with its conjugate is the matrix itself: -1/2 on the diagonal, antisymmetric elsewhere."""
    eigenvalues, vectors = hippo_eigenvalues(8)
    matrix = 2 * ((vectors * eigenvalues) @ vectors.conj().T).real
    n, k = np.indices((8, 8))
    root = np.sqrt((2 * n + 1) * (2 * k + 1)) / 2
    np.testing.assert_allclose(matrix, np.where(n > k, -root, root) * (n != k) - 0.5 * (n == k), atol=1e-12)


def test_s5_discretisation_solves_the_differential_equation(x64):
    """Zero-order hold: one step is `h' = lambda h + B u` integrated over dt with u constant."""
    mixer = double(S5Mixer(3, 50, key=jax.random.key(0)))
    decay, input_weight = mixer.discretise()
    time_step = np.exp(mixer.log_time_step)
    eigenvalues = -np.exp(mixer.log_rate) + 1j * mixer.frequency
    np.testing.assert_allclose(decay[0] + 1j * decay[1], np.exp(eigenvalues * time_step), rtol=1e-12)
    continuous = mixer.input_weight[:, :64] + 1j * mixer.input_weight[:, 64:]
    # The integral of exp(lambda s) over the time step, by Gauss-Legendre quadrature.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    times = 0.5 * time_step[:, None] * (nodes + 1.0)
    integral = 0.5 * time_step * (np.exp(eigenvalues[:, None] * times) @ weights)
    np.testing.assert_allclose(
        input_weight[:, :64] + 1j * input_weight[:, 64:], continuous * integral, atol=1e-12
    )


@pytest.mark.parametrize("horizon", [20, 500])
def test_lru_remembers_up_to_the_horizon(horizon):
    """Every eigenvalue is stable, the slowest reach back over the horizon, and white inputs give variance 1."""
    mixer = LRUMixer(8, horizon, key=jax.random.key(0))
    decay, input_weight = mixer.discretise()
    radius = np.hypot(*decay)
    assert (radius < 1).all()
    assert horizon / 2 < -1 / np.log(radius.max()) <= horizon * (1 + 1e-3)
    gain = np.linalg.norm(np.asarray(input_weight), axis=0).reshape(2, -1)
    expected = np.linalg.norm(np.asarray(mixer.input_weight), axis=0).reshape(2, -1)
    np.testing.assert_allclose((gain / expected) ** 2 / (1 - radius**2), 1.0, rtol=1e-3)


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


@every_backbone
def test_gradient_over_two_thousand_steps(name):
    """Finite, untrained and in float32; at the first input it has underflowed to 0 where there is no long memory."""
    backbone = create(name, FEATURES, 2000)
    xs = np.random.default_rng(11).normal(size=(2000, FEATURES)).astype(np.float32)
    weights = np.random.default_rng(4).normal(size=backbone.output_size).astype(np.float32)

    @eqx.filter_jit
    def gradient(backbone, xs):
        return eqx.filter_grad(lambda both: both[0].predict(both[1])[-1] @ weights)((backbone, xs))

    in_parameters, in_inputs = gradient(backbone, xs)
    assert np.isfinite(flatten(in_parameters)).all() and np.isfinite(in_inputs).all()
    first, last = np.asarray(in_inputs[0]), np.asarray(in_inputs[-1])
    assert (last != 0).all() and (first != 0).all() == (name not in {"rnn", "simple_rnn"})


def test_reach_is_the_ratio_of_two_blocks_of_the_jacobian():
    model, actions = asm_and_actions("simple_rnn", 7)
    start = Drift().initial_state()
    jacobian = np.asarray(action_jacobian(model, start, actions))
    first, last = (np.linalg.norm(jacobian[-1, :, step], ord=2) for step in (0, -1))
    np.testing.assert_allclose(reach(model, start, actions), first / last, rtol=1e-4)
    assert not 0.9 < first / last < 1.1


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


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_attention_over_a_long_sequence_is_attention(rate, monkeypatch, x64):
    """A few rows at once, computed again for the derivative: with the same dropout, values and derivatives."""
    heads = np.random.default_rng(0).normal(size=(3, LONGEST, 2, 4))
    monkeypatch.setattr(attention, "FEW", 7)

    def run(long):
        monkeypatch.setattr(attention, "LONG", LONGEST - 1 if long else LONGEST)
        key = jax.random.key(3) if rate else None
        return jax.value_and_grad(lambda x: jnp.sin(attend(*x, dropout_rate=rate, key=key)).sum())(heads)

    whole, parts = run(False), run(True)
    if rate:
        assert np.isfinite(flatten(parts)).all() and relative_error(parts, whole) > 0.01, "other draws"
        assert relative_error(run(True), parts) == 0
    else:
        assert relative_error(parts, whole) < 1e-12


def test_memory_of_attention_grows_like_the_length():
    def scratch(length):
        heads = jax.ShapeDtypeStruct((3, length, 2, 4), jnp.float32)
        gradient = jax.grad(lambda x: jnp.sin(attend(*x)).sum())
        return jax.jit(gradient).lower(heads).compile().memory_analysis().temp_size_in_bytes

    assert scratch(4 * attention.LONG) < 2.5 * scratch(2 * attention.LONG)


@pytest.mark.parametrize("length", [1, LENGTH, LONGEST])
@pytest.mark.parametrize("block_size", [16, 64])
def test_attention_in_blocks_is_attention(length, block_size, x64):
    """Values and derivatives, also where the last block is cut short."""
    heads = np.random.default_rng(0).normal(size=(3, length, 2, 4))

    @jax.jit
    def both(heads):
        whole = jax.value_and_grad(lambda x: jnp.sin(attend(*x, block_size=length)).sum())(heads)
        return whole, jax.value_and_grad(lambda x: jnp.sin(attend(*x, block_size=block_size)).sum())(heads)

    whole, parts = both(heads)
    assert relative_error(parts, whole) < 1e-12
