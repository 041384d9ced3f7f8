"""Choices about how a model counts, sums and decays: each is the plain model when off, and what it says when on."""

import dataclasses
import itertools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import asmpg
from asmpg.core.types import Trajectory
from asmpg.gradients.analysis import action_jacobian, state_growth
from asmpg.models import ActionSequenceModel, free_run, HistoryModel, OneStepModel, Simulator
from asmpg.tasks.environment import rollout, uniform_actions
from toys import bits, Drift, LinearQuadratic, relative_error, unit_normaliser


pytestmark = pytest.mark.usefixtures("quickly")
ENV = Drift()


def start() -> jax.Array:
    """In the precision of the test."""
    return ENV.initial_state()


def episode() -> Trajectory:
    return rollout(ENV, uniform_actions(ENV, key=jax.random.key(0)))


def make(kind: Any, *arguments: Any, **options: Any) -> Any:
    return kind(ENV, *arguments, key=jax.random.key(1), normaliser=unit_normaliser(ENV), **options)


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_a_decayed_state_gradient_changes_no_number_and_shortens_every_path(decay, x64):
    """`ds_{t+1}/da_k` runs through t - k states, so it is multiplied by the decay as many times."""
    plain, decayed = make(OneStepModel), make(OneStepModel, state_gradient_decay=decay)
    actions = episode().actions
    np.testing.assert_array_equal(plain.predict(start(), actions), decayed.predict(start(), actions))
    np.testing.assert_array_equal(plain.loss(episode()), decayed.loss(episode()))
    steps = np.arange(ENV.horizon)
    factors = decay ** np.maximum(steps[:, None] - steps, 0)
    expected = action_jacobian(plain, start(), actions) * factors[:, None, :, None]
    assert relative_error(action_jacobian(decayed, start(), actions), expected) < 1e-12


def test_the_true_gradient_and_a_decayed_one_part_with_the_horizon(x64):
    """The cosine to the undecayed gradient is 1 without decay and falls with every further step."""
    actions = uniform_actions(ENV, key=jax.random.key(0))

    def gradient(decay):
        model = make(OneStepModel, state_gradient_decay=decay)
        return np.ravel(asmpg.action_gradient(model, ENV, start(), actions)[1])

    def cosine(decay):
        return (
            gradient(decay) @ gradient(1.0) / np.linalg.norm(gradient(decay)) / np.linalg.norm(gradient(1.0))
        )

    cosines = [cosine(decay) for decay in (1.0, 0.9, 0.5, 0.1)]
    assert cosines[0] == pytest.approx(1, abs=1e-12) and cosines == sorted(cosines, reverse=True)
    assert cosines[-1] < 0.99


@pytest.mark.parametrize("kind", [OneStepModel, HistoryModel])
def test_units_of_differences_are_a_factor_in_the_last_layer(kind, x64):
    arguments = () if kind is OneStepModel else ("rnn",)
    typical, state = (make(kind, *arguments, difference_unit=unit) for unit in ("typical", "state"))
    actions = episode().actions
    assert relative_error(state.predict(start(), actions), typical.predict(start(), actions)) > 1e-2

    def last(model):
        layer = model.layers[2] if kind is OneStepModel else model.decoder.output
        return layer.weight, layer.bias

    ratio = typical.normaliser.relative_difference
    same = eqx.tree_at(last, state, [part * ratio for part in last(state)])
    assert relative_error(same.predict(start(), actions), typical.predict(start(), actions)) < 1e-12


def test_in_units_of_the_state_the_loss_is_equation_1(x64):
    """With statistics that change nothing: the mean squared error of the next state, from the true one."""
    model = make(OneStepModel, difference_unit="state")
    ones = jnp.ones(ENV.state_size)
    normaliser = dataclasses.replace(model.normaliser, mean=0 * ones, scale=ones, difference_scale=0.1 * ones)
    model = eqx.tree_at(lambda m: m.normaliser, model, normaliser)
    true = episode()
    steps = jnp.arange(ENV.horizon)
    predicted = jax.vmap(lambda s, a, t: model.step((), s, a, t)[1])(true.states[:-1], true.actions, steps)
    np.testing.assert_allclose(model.loss(true), jnp.mean((predicted - true.states[1:]) ** 2), rtol=1e-10)


def test_an_episodes_entropy_is_a_steps_times_the_horizon():
    """The same run, bit for bit, with a weight H times as large; another one with the same weight."""
    small = {"warmup_steps": 16, "model_batch_size": 2, "policy_batch_size": 2}
    task = Drift(horizon=8)

    def run(entropy, over):
        settings = small | {"entropy": entropy, "entropy_over": over}
        result = asmpg.train(
            asmpg.TrainConfig(task, model="one-step", steps=32, overrides=settings), progress=False
        )
        return bits(result.policy)

    by_episode = run(0.125, "episode")
    assert run(1.0, "step") == by_episode != run(0.125, "step")


def test_a_linear_decoder_is_equation_2s_output(x64):
    model = make(ActionSequenceModel, "rnn", decoder="linear")
    features = model.features(start(), episode().actions, jnp.arange(ENV.horizon))
    outputs = model.backbone.predict(model.encoder(features))
    by_hand = outputs @ model.decoder.output.weight + model.decoder.output.bias
    assert model.decoder.hidden is None
    expected = model.normaliser.denormalise(by_hand)
    assert relative_error(model.predict(start(), episode().actions), expected) < 1e-12


def test_the_loss_on_differences_by_hand(x64):
    plain, weighted = make(ActionSequenceModel, "rnn"), make(ActionSequenceModel, "rnn", difference_loss=0.7)
    true = episode()
    predicted = jnp.concatenate([start()[None], plain.predict(start(), true.actions)])
    errors = jnp.diff(predicted, axis=0) - jnp.diff(true.states, axis=0)
    extra = jnp.mean(jnp.square(errors / plain.normaliser.difference_scale))
    np.testing.assert_allclose(weighted.loss(true), plain.loss(true) + 0.7 * extra, rtol=1e-9)
    np.testing.assert_array_equal(
        weighted.predict(start(), true.actions), plain.predict(start(), true.actions)
    )
    # Not the statistics, which no gradient reaches.
    vector, shaped = ravel_pytree((weighted.encoder, weighted.backbone.cells, weighted.decoder))

    def moved(parameters):
        return eqx.tree_at(lambda m: (m.encoder, m.backbone.cells, m.decoder), weighted, parameters)

    direction = jax.random.normal(jax.random.key(3), vector.shape, vector.dtype) / vector.size**0.5

    def along(distance):
        return moved(shaped(vector + distance * direction)).loss(true)

    difference = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(along)(0.0), difference, rtol=1e-6)


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_summed_differences_are_the_sums_of_a_plain_models_outputs(backbone, x64):
    """The states, step by step or at once; and `ds_{t+1}/da_k`, a sum of one backbone Jacobian a step from k to t."""
    plain = make(ActionSequenceModel, backbone)
    summed = make(ActionSequenceModel, backbone, decoder_output="differences")
    actions = episode().actions
    ratio = plain.normaliser.relative_difference
    outputs = plain.normaliser.normalise(plain.predict(start(), actions))
    states = start() + plain.normaliser.scale * jnp.cumsum(ratio * outputs, axis=0)
    assert relative_error(summed.predict(start(), actions), states) < 1e-10
    assert relative_error(free_run(summed, start(), actions), states) < 1e-9
    terms = action_jacobian(plain, start(), actions) * ratio[:, None, None]
    assert relative_error(action_jacobian(summed, start(), actions), jnp.cumsum(terms, axis=0)) < 1e-9


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
@pytest.mark.parametrize(("gate", "same_as"), [(60.0, "differences"), (-60.0, "states")])
def test_a_gate_that_is_open_or_shut_leaves_one_of_the_two(backbone, gate, same_as, x64):
    """All the way open it sums differences, all the way shut it gives states: values and Jacobians."""
    size, actions = ENV.state_size, episode().actions
    gated = make(ActionSequenceModel, backbone, decoder_output="gated")
    bias = gated.decoder.output.bias.at[2 * size :].set(gate)
    gated = eqx.tree_at(lambda m: m.decoder.output.bias, gated, bias)
    first = 0 if same_as == "states" else size

    def part(layer):
        return layer.weight[..., first : first + size], layer.bias[first : first + size]

    other = make(ActionSequenceModel, backbone, decoder_output=same_as)
    other = eqx.tree_at(lambda m: (m.encoder, m.backbone), other, (gated.encoder, gated.backbone))
    other = eqx.tree_at(lambda m: m.decoder.hidden, other, gated.decoder.hidden)
    last = (other.decoder.output.weight, other.decoder.output.bias)
    assert [x.shape for x in part(gated.decoder.output)] == [x.shape for x in last]
    other = eqx.tree_at(
        lambda m: (m.decoder.output.weight, m.decoder.output.bias), other, part(gated.decoder.output)
    )
    assert relative_error(gated.predict(start(), actions), other.predict(start(), actions)) < 1e-10
    jacobians = (action_jacobian(model, start(), actions) for model in (gated, other))
    assert relative_error(*jacobians) < 1e-9


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_gated_states_by_hand(backbone, x64):
    """Step by step and at once; it begins with a memory of the whole horizon."""
    model = make(ActionSequenceModel, backbone, decoder_output="gated")
    bias = model.decoder.output.bias[2 * ENV.state_size :]
    np.testing.assert_allclose(jax.nn.sigmoid(bias), 1 - 1 / (1 + ENV.horizon), atol=1e-6)
    actions = episode().actions
    features = model.features(start(), actions, jnp.arange(ENV.horizon))
    outputs = model.decoder(model.backbone.predict(model.encoder(features)))
    last, ratio, states = model.normaliser.normalise(start()), model.normaliser.relative_difference, []
    for state, difference, gate in (jnp.split(output, 3) for output in outputs):
        share = 1 / (1 + jnp.exp(-gate))
        last = share * (last + ratio * difference) + (1 - share) * state
        states.append(model.normaliser.denormalise(last))
    assert relative_error(model.predict(start(), actions), jnp.stack(states)) < 1e-10
    assert relative_error(free_run(model, start(), actions), jnp.stack(states)) < 1e-9


@pytest.mark.parametrize("output", ["differences", "gated"])
@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_no_output_sees_a_later_action(backbone, output):
    """Not a bit of a state changes with an action after it."""
    model = make(ActionSequenceModel, backbone, decoder_output=output, difference_loss=1.0)
    actions = episode().actions
    predict = eqx.filter_jit(model.predict)
    for step in range(1, ENV.horizon):
        changed = predict(start(), actions.at[step:].set(0.9))
        assert bits(changed[:step]) == bits(predict(start(), actions)[:step])
        assert bits(changed[step]) != bits(predict(start(), actions)[step])


def test_growth_is_the_norm_of_the_product_to_the_root(x64):
    """Of a linear system, whatever the trajectory; of a product of hundreds of steps too, which would overflow."""
    env = LinearQuadratic()
    for horizon, scale in itertools.product((6, 400), (1.0, 30.0)):
        A = scale * env.matrices()["A"]

        class Linear(LinearQuadratic):
            def transition(self, state, action, step, A=A):
                return A @ state

        actions = jnp.zeros((horizon, 2))
        growth = state_growth(Simulator(Linear()), jnp.zeros((horizon + 1, 3)), actions)
        product, logarithm = np.eye(3) / 3**0.5, 0.0
        for _ in range(horizon):
            product = A @ product
            logarithm += np.log(np.linalg.norm(product))
            product /= np.linalg.norm(product)
        np.testing.assert_allclose(growth, np.exp(logarithm / horizon), rtol=1e-10)
    # Without any renormalisation, over few steps.
    expected = np.linalg.norm(np.linalg.matrix_power(env.matrices()["A"], 6) / 3**0.5) ** (1 / 6)
    growth = state_growth(Simulator(env), jnp.zeros((7, 3)), jnp.zeros((6, 2)))
    np.testing.assert_allclose(growth, expected, rtol=1e-10)


def settings(model: str, preset: Literal["default", "paper"] = "paper") -> Any:
    return asmpg.TrainConfig("harvest", horizon=50, model=model, preset=preset).settings()


def test_the_papers_preset_counts_and_drops_as_the_paper_says():
    """Appendix E.1: `s + f(s, a)` with Equation 1's error; only GPT-2 has dropout; Equation 2's output is linear."""
    for model in ("one-step", "history-lstm", "rnn", "lstm", "transformer", "history-transformer"):
        chosen = settings(model)
        assert chosen.difference_unit == "state" and chosen.state_gradient_decay == 1.0
        assert chosen.dropout == (0.1 if "transformer" in model else 0.0)
        assert chosen.entropy_over == "step"
    assert settings("rnn").decoder == settings("lstm").decoder == "linear"


@pytest.mark.parametrize(("decoder_output", "carries"), [("states", False), ("gated", True)])
def test_gates_carry_credit_where_the_backbones_own_gradient_is_zero(decoder_output, carries):
    env = asmpg.make("timber_harvest", horizon=500)
    model_key, action_key = jax.random.split(jax.random.key(0))
    model = asmpg.ActionSequenceModel(env, "rnn", decoder_output=decoder_output, key=model_key)
    actions = jax.random.uniform(action_key, (500, 1), minval=-1.0)
    found = float(jax.jit(asmpg.reach)(model, env.initial_state(), actions))
    assert found > 0.01 if carries else found == 0
