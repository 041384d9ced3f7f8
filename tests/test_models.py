"""Dynamics models: losses by hand, the simulator against rollouts, units, sizes."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.types import Trajectory, UsageError
from asmpg.gradients.analysis import action_jacobian
from asmpg.models import ActionSequenceModel, free_run, HistoryModel, OneStepModel, Simulator
from asmpg.models.backbones import BACKBONES
from asmpg.models.normalisation import Normaliser
from asmpg.tasks import make, TASKS
from asmpg.tasks.environment import AbstractEnvironment, rollout, uniform_actions
from toys import Drift, relative_error, Scaled, unit_normaliser


# Most of what takes time here is compilation.
pytestmark = pytest.mark.usefixtures("quickly")


def random_episode(env: AbstractEnvironment, seed: int = 0) -> Trajectory:
    return rollout(env, uniform_actions(env, key=jax.random.key(seed)))


def one_step(env: AbstractEnvironment, **options: Any) -> OneStepModel:
    return OneStepModel(env, key=jax.random.key(1), normaliser=unit_normaliser(env), **options)


def asm(env: AbstractEnvironment, backbone: Any = "rnn", **options: Any) -> ActionSequenceModel:
    options = {"normaliser": unit_normaliser(env)} | options
    return ActionSequenceModel(env, backbone, key=jax.random.key(1), **options)


def history(env: AbstractEnvironment, backbone: Any = "rnn", **options: Any) -> HistoryModel:
    options = {"normaliser": unit_normaliser(env)} | options
    return HistoryModel(env, backbone, key=jax.random.key(1), **options)


@pytest.mark.parametrize("name", TASKS)
def test_simulator_predicts_the_rollout(name):
    env = make(name, 60 if name == "hiv_treatment" else 13)

    @jax.jit
    def both(actions):
        start = env.initial_state()
        return Simulator(env).predict(start, actions), rollout(env, actions).states

    predicted, states = both(uniform_actions(env, key=jax.random.key(0)))
    np.testing.assert_allclose(predicted, states[1:], rtol=1e-6, atol=1e-6 * np.abs(states).max())


def test_simulator_has_nothing_to_fit():
    env = Drift()
    assert Simulator(env).loss(random_episode(env)) == 0.0
    assert not Simulator(env).two_pass


def test_one_step_loss_is_teacher_forcing_by_hand(x64):
    env = Drift()
    model, episode = one_step(env), random_episode(Drift())
    weights = [np.asarray(layer.weight) for layer in model.layers]
    biases = [np.random.default_rng(2).normal(size=layer.bias.shape) for layer in model.layers]
    model = eqx.tree_at(lambda m: [layer.bias for layer in m.layers], model, biases)
    mean, scale, difference_scale = jax.tree.map(np.asarray, jax.tree.leaves(model.normaliser))
    states, actions, total = np.asarray(episode.states), np.asarray(episode.actions), 0.0
    for step in range(env.horizon):
        x = np.concatenate([(states[step] - mean) / scale, actions[step], [step / env.horizon]])
        for weight, bias in zip(weights[:2], biases[:2], strict=True):
            x = np.maximum(x @ weight + bias, 0.0)
        predicted = states[step] + difference_scale * (x @ weights[2] + biases[2])
        stepped = model.step((), episode.states[step], episode.actions[step], step)[1]
        np.testing.assert_allclose(stepped, predicted, rtol=1e-10)
        total += np.mean(((predicted - states[step + 1]) / difference_scale) ** 2)
    np.testing.assert_allclose(model.loss(episode), total / env.horizon, rtol=1e-10)


def test_one_step_predict_is_free_running(x64):
    """On its own states, not the true ones; one step from a true state is teacher forcing's."""
    env = Drift()
    model, episode = one_step(env), random_episode(Drift())
    predicted = model.predict(episode.states[0], episode.actions)
    state = episode.states[0]
    for step in range(env.horizon):
        state = model.step((), state, episode.actions[step], step)[1]
        np.testing.assert_allclose(predicted[step], state, rtol=1e-12)


def test_first_step_flag_is_one_at_step_zero_only():
    env = Drift()
    model = one_step(env, first_step_flag=True)
    deaf = eqx.tree_at(lambda m: m.layers[0].weight, model, replace_fn=lambda w: w.at[-1].set(0.0))
    state, action = env.initial_state(), jnp.array([0.3, -0.2])
    for step in range(env.horizon):
        same = bool((model.difference(state, action, step) == deaf.difference(state, action, step)).all())
        assert same == (step != 0)


def test_action_sequence_loss_by_hand(x64):
    env = Drift()
    model, episode = asm(env), random_episode(Drift())
    predicted = np.asarray(model.predict(episode.states[0], episode.actions))
    errors = (predicted - np.asarray(episode.states[1:])) / np.asarray(model.normaliser.scale)
    np.testing.assert_allclose(model.loss(episode), np.mean(errors**2), rtol=1e-10)


@pytest.mark.parametrize("backbone", ["lstm", "lru", "transformer"])
def test_history_loss_is_teacher_forcing_by_hand(backbone, x64):
    """Every next state from the true history, step by step, in units of the typical difference.

    With a backbone of each kind: that all do in parallel what they do step by step is tested with the backbones.
    """
    env = Drift()
    model, episode = history(env, backbone), random_episode(Drift())
    unit, steps = model.normaliser.difference_scale, jnp.arange(env.horizon)

    @jax.jit
    def both(episode):
        def body(carry, x):
            carry, predicted = model.step(carry, *x)
            return carry, predicted

        states, actions = episode.states, episode.actions
        predicted = jax.lax.scan(body, model.init(states[0]), (states[:-1], actions, steps))[1]
        by_hand = jnp.mean(jnp.square((predicted - states[1:]) / unit))
        # Of a history with another state at one step.
        moved = jax.vmap(lambda step: model.differences(states[:-1].at[step].add(0.1), actions))(steps)
        return model.loss(episode), by_hand, model.differences(states[:-1], actions), moved

    loss, by_hand, differences, moved = both(episode)
    np.testing.assert_allclose(loss, by_hand, rtol=1e-9)
    changed = np.abs(moved - differences).max(axis=-1) > 1e-9  # [step that was changed, step that sees it]
    np.testing.assert_array_equal(changed, np.triu(np.ones_like(changed)), "all of the past and no more")


def test_history_predicts_from_its_own_states(x64):
    model, episode = history(Drift()), random_episode(Drift())
    predicted = model.predict(episode.states[0], episode.actions)
    own = jnp.concatenate([episode.states[:1], predicted[:-1]])
    differences = model.normaliser.difference_scale * model.differences(own, episode.actions)
    np.testing.assert_allclose(predicted, own + differences, rtol=1e-9)


@pytest.mark.parametrize("backbone", ["rnn", "transformer"])
def test_a_cut_leaves_the_paths_from_the_actions(backbone, x64):
    """The derivative of the sum of all differences, the states that the network reads held constant."""
    env = Drift()
    start, actions = env.initial_state(), uniform_actions(env, key=jax.random.key(0))
    whole, cut = (history(env, backbone, cut_state_gradient=choice) for choice in (False, True))

    def along_the_actions(actions, states):
        differences = whole.differences(jnp.concatenate([start[None], states[:-1]]), actions)
        return jnp.cumsum(whole.normaliser.difference_scale * differences, axis=0)

    @jax.jit
    def run(actions):
        states = [model.predict(start, actions) for model in (whole, cut)]
        jacobians = [action_jacobian(model, start, actions) for model in (whole, cut)]
        return states, jacobians, jax.jacrev(along_the_actions)(actions, states[0])

    states, (through_states, remaining), expected = run(actions)
    np.testing.assert_array_equal(states[0], states[1])
    assert relative_error(remaining, expected) < 1e-12
    assert relative_error(remaining, through_states) > 1e-3


KINDS = pytest.mark.parametrize("make_model", [asm, history, one_step], ids=["asm", "history", "one-step"])


@KINDS
def test_loss_of_a_perfect_prediction_is_zero(make_model, x64):
    """An episode that the model itself imagined; and only that one."""
    model, episode = make_model(Drift()), random_episode(Drift())
    start = episode.states[0]
    states = jnp.concatenate([start[None], model.predict(start, episode.actions)])
    own = Trajectory(states, episode.actions, episode.rewards)
    assert model.loss(own) < 1e-24 < 1e-3 < model.loss(episode)
    wrong = Trajectory(states.at[-1, 0].add(0.1), episode.actions, episode.rewards)
    assert model.loss(wrong) > 1e-5, "the last state is a target too"


@pytest.mark.parametrize("kind", [ActionSequenceModel, HistoryModel, OneStepModel])
def test_units_of_the_states_do_not_matter(kind, x64):
    """Statistics scale with the states, so that losses stay and predictions scale: hours or seconds, all the same."""
    env, factors = Drift(), (1e3, 0.25, 40.0)
    scaled = Scaled(env, factors)
    options = {} if kind is OneStepModel else {"backbone": "rnn"}
    model, other = kind(env, key=jax.random.key(1), **options), kind(scaled, key=jax.random.key(1), **options)
    for field in ("mean", "scale", "difference_scale"):
        ours, theirs = getattr(model.normaliser, field), getattr(other.normaliser, field)
        np.testing.assert_allclose(theirs, ours * np.array(factors), rtol=1e-9)
    episode = random_episode(env)
    their_episode = Trajectory(episode.states * jnp.array(factors), episode.actions, episode.rewards)
    np.testing.assert_allclose(other.loss(their_episode), model.loss(episode), rtol=1e-9)
    predicted = model.predict(episode.states[0], episode.actions)
    theirs = other.predict(their_episode.states[0], episode.actions)
    np.testing.assert_allclose(theirs, predicted * np.array(factors), rtol=1e-9)


@pytest.mark.parametrize("name", ["hiv_treatment", "timber_harvest"])
def test_losses_are_of_order_one(name):
    """What normalisation is for: a fresh model's loss does not know the task's units, 0.04 or 20,000."""
    env = make(name, 50)

    @jax.jit
    def losses():
        normaliser, episode = Normaliser.from_random_episodes(env), random_episode(env, seed=3)
        one_step = OneStepModel(env, key=jax.random.key(1), normaliser=normaliser)
        models = (asm(env, normaliser=normaliser), history(env, normaliser=normaliser), one_step)
        return [model.loss(episode) for model in models]

    assert (np.asarray(losses()) > 0.02).all() and (np.asarray(losses()) < 50).all()


@KINDS
def test_time_is_an_input(make_model):
    env = Drift()
    model = make_model(env)
    state, action = env.initial_state(), jnp.array([0.3, -0.2])
    carry = model.init(state)
    outputs = [model.step(carry, state, action, step)[1] for step in (0, 3)]
    assert not np.allclose(*outputs, rtol=1e-4)
    # The same actions read as the last part of an episode twice as long: other times, other states.
    longer = eqx.tree_at(lambda m: m.normaliser, make_model(Drift(horizon=14)), model.normaliser)
    actions = jnp.full((7, 2), 0.3)
    assert relative_error(longer.predict(state, actions), model.predict(state, actions)) > 1e-4


def test_dropout_reaches_the_loss_and_nothing_else():
    env = Drift()
    dropped, plain, episode = asm(env, "lstm", dropout=0.5), asm(env, "lstm"), random_episode(Drift())
    start, actions = episode.states[0], episode.actions
    assert float(dropped.loss(episode)) == float(plain.loss(episode))
    np.testing.assert_array_equal(dropped.predict(start, actions), plain.predict(start, actions))
    np.testing.assert_array_equal(free_run(dropped, start, actions), free_run(plain, start, actions))
    losses = [float(dropped.loss(episode, key=jax.random.key(seed))) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2] and losses[0] != float(plain.loss(episode))


def num_parameters(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf))


def test_sizes_of_appendix_e1():
    env, embedding, hidden = Drift(), 72, 64
    models = {name: asm(env, name) for name in ("rnn", "lstm", "transformer")}
    for model in models.values():
        assert num_parameters(model.encoder) == (env.action_size + 1 + env.state_size + 1) * embedding
        decoder = (model.backbone.output_size + 1) * hidden + (hidden + 1) * env.state_size
        assert num_parameters(model.decoder) == decoder
    cells = (embedding + hidden + 1) * hidden + (hidden + hidden + 1) * hidden
    assert num_parameters(models["rnn"].backbone) == cells
    assert num_parameters(models["lstm"].backbone) == 4 * cells
    transformer = models["transformer"].backbone
    # GPT-2's block of width w: 4 w^2 + 4 w of attention, 8 w^2 + 5 w of feed-forward, 4 w of two norms.
    assert num_parameters(transformer.blocks) == 2 * (12 * embedding**2 + 13 * embedding)
    assert transformer.output_size == embedding and transformer.blocks[0].num_heads == 3
    features = env.state_size + env.action_size + 1
    layers = (features + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * env.state_size
    assert num_parameters(one_step(env).layers) == layers


def test_first_predictions_are_of_the_states_size():
    """A fresh model of any kind predicts normalised states of order one at most, whatever the horizon."""
    env = Drift(horizon=100)
    actions = uniform_actions(env, key=jax.random.key(0))
    for name in BACKBONES:
        model = asm(env, name)
        states = eqx.filter_jit(model.predict)(env.initial_state(), actions)
        assert float(jnp.abs(model.normaliser.normalise(states)).max()) < 10, name


@pytest.mark.parametrize("make_model", [asm, history])
def test_an_unknown_backbone_is_named(make_model):
    with pytest.raises(UsageError, match=r"backbone: 'rnm' is not one of .*rnn.*transformer") as error:
        make_model(Drift(), "rnm")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make_model", [asm, history])
def test_a_backbone_instance_is_used_as_it_is(make_model):
    env = Drift()
    backbone = BACKBONES["rnn"].create(9, env.horizon, key=jax.random.key(5))
    model = make_model(env, backbone)
    assert model.backbone is backbone and model.encoder.weight.shape[1] == 9
    assert math.isfinite(model.loss(random_episode(env)))
