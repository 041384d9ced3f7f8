"""A context: networks see the last observations and actions too, and models predict none of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.diagnose.subjects import trained_subjects
from asmpg.learners.replay import ReplayBuffer
from asmpg.models.base import free_run
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.host import play, Watched
from asmpg.tasks.simulator import simulate
from asmpg.tasks.stack import Stack
from test_host import config, Walk
from test_simulator import Drifting, Push
from toys import bits
from wanderer import Wanderer


pytestmark = pytest.mark.usefixtures("quickly")


def sequence(stack: Stack, horizon: int, key: int):
    """An initial state in the middle of an episode, actions, and what might be predicted."""
    keys = jax.random.split(jax.random.key(key), 3)
    state = jax.random.normal(keys[0], (stack.observation_size + stack.ends_early,))
    state = state.at[stack.observation_size - 1].set(1 / stack.length)
    actions = jax.random.normal(keys[1], (horizon, stack.action_size))
    return state, actions, jax.random.normal(keys[2], (horizon, len(stack.told)))


@pytest.mark.parametrize("ends_early", [False, True])
@pytest.mark.parametrize(
    ("size", "action_size", "length", "horizon"), [(1, 1, 1, 4), (2, 3, 4, 9), (3, 1, 7, 2)]
)
def test_a_sequence_at_once_is_one_step_after_the_other(size, action_size, length, horizon, ends_early):
    stack = Stack(size, action_size, length, ends_early)
    state, actions, newest = sequence(stack, horizon, size)
    at_once = stack.all_after(state, actions, newest)
    for step in range(horizon):
        state = stack.after(state, actions[step], newest[step])
        np.testing.assert_allclose(at_once[step], state, rtol=1e-6)
        np.testing.assert_array_equal(stack.newest(state), newest[step])
        np.testing.assert_array_equal(state[size + size : size + size + action_size], actions[step])


@pytest.mark.parametrize("length", [1, 3, 20])
def test_what_is_seen_is_what_was_observed_and_done(length):
    """In JAX and outside it, in an episode that ends early and in one that is shorter than the context."""
    world = Drifting(noise=0.0)
    stack = asmpg.with_context(world, length).stack
    plain, plain_steps = simulate(world, Push(), key=jax.random.key(3))
    seen, steps = simulate(asmpg.with_context(world, length), Push(), key=jax.random.key(3))
    assert steps == plain_steps
    np.testing.assert_array_equal(seen.rewards, plain.rewards)
    state = np.append(stack.begin(np.asarray(plain.states[0, :1])), 1.0)
    for step in range(int(steps)):
        np.testing.assert_allclose(seen.states[step], state, rtol=1e-6)
        state = np.append(
            stack.follow(state[:-1], np.asarray(plain.actions[step]), np.asarray(plain.states[step + 1, :1])),
            plain.states[step + 1, 1],
        )

    def push(states, step):
        return np.full((len(states), 1), 0.7)

    own, lengths = play(Watched(Walk()), [4, 5], push)
    other, same = play(Watched(asmpg.with_context(Walk(), length)), [4, 5], push)
    np.testing.assert_array_equal(lengths, same)
    stack = asmpg.with_context(Walk(), length).stack
    np.testing.assert_array_equal(stack.newest(other.states), own.states)


def models(world, normaliser):
    key, options = jax.random.key(1), {"normaliser": normaliser}
    for output in ("states", "differences", "gated"):
        yield asmpg.ActionSequenceModel(
            world, "lstm", key=key, decoder_output=output, difference_loss=1.0, **options
        )
    yield asmpg.OneStepModel(world, key=key, **options)
    yield asmpg.HistoryModel(world, "lstm", key=key, **options)


def test_models_predict_the_newest_observation_and_no_more():
    world = asmpg.with_context(Drifting(), 3)
    episode = simulate(world, Push(), key=jax.random.key(0))[0]
    normaliser = Normaliser.from_states(episode.states[None], ends_early=True)
    start, actions, n = episode.states[1], jax.random.uniform(jax.random.key(2), (6, 1)), 1
    for model in models(world, normaliser):
        predicted = eqx.filter_jit(model.predict)(start, actions)
        steps = eqx.filter_jit(free_run)(model, start, actions)
        np.testing.assert_allclose(predicted, steps, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(predicted[1:, n : n + 1], predicted[:-1, :n], "the former observation")
        np.testing.assert_array_equal(predicted[:, n + 1 : n + 2], actions, "the action that followed it")
        assert jnp.isfinite(eqx.filter_jit(model.loss)(episode))


def test_an_action_sequence_model_reads_no_predicted_state():
    world = asmpg.with_context(Drifting(), 3)
    episode = simulate(world, Push(), key=jax.random.key(0))[0]
    model = next(iter(models(world, Normaliser.from_states(episode.states[None], ends_early=True))))
    start, action = episode.states[1], jnp.array([0.3])
    carry, _ = model.step(model.init(start), start, action, 0)
    told = [model.stack.newest(model.step(carry, state, action, 1)[1]) for state in (start, start + 5.0)]
    np.testing.assert_array_equal(*told)


def test_the_context_of_the_initial_state_matters():
    """Which is what infers a hidden state: the model's prediction follows what came before."""
    world = asmpg.with_context(Drifting(), 3)
    episode = simulate(world, Push(), key=jax.random.key(0))[0]
    for model in models(world, Normaliser.from_states(episode.states[None], ends_early=True)):
        slope = eqx.filter_jit(jax.grad(lambda s, m=model: m.predict(s, jnp.zeros((4, 1)))[:, 0].sum()))(
            episode.states[2]
        )
        assert (jnp.abs(slope[1:-1]) > 0).sum() >= 3


def test_no_context_is_the_world_itself():
    for world in (Drifting(), Walk(), asmpg.make("harvest", 5)):
        assert asmpg.with_context(world, 0) is world


@pytest.mark.parametrize(
    ("world", "length", "said"),
    [
        (Drifting(), -1, "with_context: length: must be an integer from 0 to 1,000, got -1"),
        (Drifting(), 1.5, "with_context: length: must be an integer"),
        (Drifting(), 10**9, "with_context: length: must be an integer from 0 to 1,000"),
        ("harvest", 3, "with_context: world: must be a world, got a str"),
        (None, 3, "with_context: world: must be a world, got a NoneType"),
    ],
)
def test_mistakes_are_one_line(world, length, said):
    with pytest.raises(asmpg.UsageError, match=said) as caught:
        asmpg.with_context(world, length)
    assert "\n" not in str(caught.value)


@pytest.mark.thorough
def test_runs_resume_bit_for_bit_and_seeds_are_alone(tmp_path):
    options = {"observation_context": 2, "model": "one-step"}
    both = asmpg.train(config(Walk(), num_seeds=2, out=tmp_path / "run", **options))
    assert both.policy.layers[0].weight.shape[1] == both.env.state_size + 1 == 1 + 2 * 2 + 1 + 1 + 1
    alone = asmpg.train(config(Walk(), seed=1, **options))
    for name in ("return", "model_loss", "simulated_steps"):
        np.testing.assert_allclose(
            alone.metrics[name][:, 0], both.metrics[name][:, 1], rtol=1e-3, err_msg=name
        )
    half = config(Walk(), num_seeds=2, steps=18, out=tmp_path / "half", **options)
    asmpg.train(half)
    resumed = asmpg.resume(tmp_path / "half", steps=30, task=Walk())
    assert resumed.config.observation_context == 2
    assert bits((resumed.policy, resumed.model)) == bits((both.policy, both.model))


@pytest.mark.thorough
def test_a_partly_seen_task_keeps_its_score_and_its_known_reward():
    env = asmpg.make("hiv_treatment", 6)
    overrides = {"warmup_steps": 12, "model_batch_size": 4, "policy_batch_size": 2}
    result = asmpg.train(
        asmpg.observe(env, [0]),
        observation_context=2,
        model="lstm",
        steps=24,
        chunk_steps=12,
        overrides=overrides,
    )
    np.testing.assert_allclose(
        result.scores, [asmpg.score(env, value) for value in result.returns], rtol=1e-6
    )
    np.testing.assert_allclose(result.metrics["reward_loss"], 0.0, atol=1e-8)


def test_windows_begin_with_the_context_that_was():
    world = asmpg.with_context(Drifting(), 2)
    episode = simulate(world, Push(), key=jax.random.key(0))[0]
    replay = ReplayBuffer.full(jax.tree.map(lambda x: x[None], episode))
    window = replay.cut(jnp.array([0]), jnp.array([2]), 3)
    np.testing.assert_array_equal(window.states[0, 0], episode.states[2])
    np.testing.assert_array_equal(window.states[0, 0, 1:2], episode.states[1, :1])


class Wide(Walk):
    """Its observations have two components, but it says one."""

    def step(self, actions):
        observations, rewards, ended = super().step(actions)
        return np.repeat(observations, 2, axis=1), rewards, ended


class Short(Walk):
    """It forgets to say whether the episode has ended."""

    def step(self, actions):
        return super().step(actions)[:2]


@pytest.mark.parametrize(
    ("world", "said"),
    [(Wide, r"shape \(2, 1\), got \(2, 2\)"), (Short, "must return observations, rewards, terminated")],
)
def test_what_a_simulator_does_wrong_is_said_of_the_simulator_itself(world, said):
    with pytest.raises(asmpg.UsageError, match=said):
        play(Watched(asmpg.with_context(world(), 3)), [1, 2], lambda states, step: np.zeros((2, 1)))


@pytest.mark.thorough
def test_recorded_episodes_before_those_of_a_simulator_have_its_context():
    """Also where nothing differs between them."""
    data = asmpg.Episodes(np.zeros((3, 7, 1)), np.zeros((3, 6, 1)), np.ones((3, 6)))
    for task in (None, Walk()):
        run = asmpg.TrainConfig(task, data=data, observation_context=2, model="lstm", steps=60)
        seen = run.resolve().data
        assert seen.observations.shape == (3, 7, 1 + 2 * 2 + 1) and seen.context == 2
    alone = {"data": data, "observation_context": 2, "model": "one-step", "overrides": {"warmup_steps": 6}}
    assert np.isfinite(asmpg.train(steps=12, **alone).returns).all()


def test_a_worlds_own_attribute_named_stack_is_its_own():
    class Stacked(Walk):
        stack = ("frames",)

    result = asmpg.train(config(Stacked(), steps=18, model=Wanderer))
    assert result.summary()["episodes"] == result.metrics["episodes"][-1, 0]


def test_a_built_in_task_with_a_context_is_named_as_it_was_typed(tmp_path):
    overrides = {"warmup_steps": 12, "model_batch_size": 4, "policy_batch_size": 2}
    asmpg.train(
        "harvest",
        horizon=6,
        model="one-step",
        observation_context=1,
        steps=24,
        overrides=overrides,
        out=tmp_path,
    )
    given = trained_subjects(tmp_path, "harvest", None, None, None)
    assert (
        given.subjects(6).env.observation_size == asmpg.load(tmp_path).env.observation_size == 1 + 1 + 1 + 1
    )
    with pytest.raises(asmpg.UsageError, match="not of bacteria"):
        trained_subjects(tmp_path, "bacteria", None, None, None)
