"""Training on recorded episodes alone: near the data, better than it, and honest about what is only imagined."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.cli import main
from asmpg.tasks.environment import random_episodes
from asmpg.tasks.stack import Stack
from asmpg.training.offline import stretches
from test_host import Walk
from tiers import thorough_but
from toys import bits


pytestmark = pytest.mark.usefixtures("quickly")
ENV = asmpg.make("harvest", horizon=10)
SMALL = {"warmup_steps": 20, "model_batch_size": 4, "policy_batch_size": 4}


def recorded(num_episodes=60, **options):
    episodes = random_episodes(ENV, num_episodes, key=jax.random.key(0))
    return asmpg.Episodes(episodes.states, episodes.actions, episodes.rewards, name="log", **options)


def bytes_of(metrics):
    return {name: values.tobytes() for name, values in metrics.items()}


DATA = recorded()
CONFIG = asmpg.TrainConfig(
    data=DATA, model="one-step", steps=60, num_seeds=2, seed=4, chunk_steps=20, overrides=SMALL
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Hardly trained: for what holds from the first update on."""
    return asmpg.train(CONFIG, out=str(tmp_path_factory.mktemp("runs") / "whole"))


@pytest.fixture(scope="module")
def trained():
    options = {"warmup_steps": 200, "cloning": 0.05}
    return asmpg.train(data=DATA, model="one-step", steps=600, num_seeds=2, seed=4, overrides=options)


@pytest.mark.slow
def test_the_policy_is_better_than_what_was_recorded(trained):
    true, spread = trained.evaluate(ENV), DATA.episode_returns.std()
    assert true.min() > DATA.episode_returns.mean() + spread
    # Without the world, the judge is what there is to go by: it sees the gain, and promises no more than is there. It
    # may say less, since it is fitted to a fifth of the episodes.
    assert trained.returns.min() > DATA.episode_returns.mean()
    assert (trained.returns - true).max() < spread


@pytest.mark.slow
def test_cloning_keeps_the_policy_near_the_recorded_actions():
    """The plant was recorded with small actions only; the model knows nothing of large ones."""
    narrow = asmpg.Episodes(DATA.observations, 0.2 * DATA.actions, DATA.rewards)
    free, near = (
        asmpg.train(
            data=narrow, model="one-step", steps=400, overrides={"warmup_steps": 100, "cloning": weight}
        )
        for weight in (0.0, 30.0)
    )
    starts = narrow.trajectories().states[:, 3]
    actions = [np.asarray(jax.vmap(run.best.policy.mode)(starts, np.full(60, 3))) for run in (free, near)]
    assert np.abs(actions[1]).max() < 0.25 < np.abs(actions[0]).mean()
    assert free.metrics["outside"][-1, 0] > 0.5 > near.metrics["outside"][-1, 0]


@pytest.mark.thorough
def test_optimism_is_the_difference_of_the_two_estimates(begun):
    metrics = begun.metrics
    assert metrics["steps"][:, 0].tolist() == [20, 40, 60]
    np.testing.assert_allclose(
        metrics["optimism"], metrics["imagined_return"] - metrics["return"], rtol=1e-4, atol=1e-3
    )
    np.testing.assert_array_equal(begun.returns, metrics["return"][-1])
    assert ((metrics["outside"] >= 0) & (metrics["outside"] <= 1)).all()


def test_the_policy_waits_for_the_models(begun):
    """The warm-up only fits: the first record's policy is the initial one, whatever the episodes are."""
    assert begun.metrics["gradient_norm"][0].max() == 0 < begun.metrics["gradient_norm"][1].min()


@pytest.mark.thorough
def test_a_shorter_run_goes_on_bit_for_bit_with_the_same_episodes_and_no_others(begun, tmp_path):
    config = dataclasses.replace(CONFIG, steps=40, out=str(tmp_path / "run"))
    asmpg.train(config)
    with pytest.raises(
        asmpg.UsageError, match=r"^data: the run began with the recorded episodes log, which are"
    ):
        asmpg.resume(config.out, steps=60)
    with pytest.raises(asmpg.UsageError, match="other episodes than the run was started with"):
        asmpg.resume(config.out, steps=60, data=recorded(59))
    with pytest.raises(asmpg.UsageError, match="other recorded episodes"):
        asmpg.train(config, data=recorded(59))
    again = asmpg.resume(config.out, steps=60, data=recorded())
    for name in ("policy", "model"):
        assert bits(getattr(again, name)) == bits(getattr(begun, name)), name
    assert bytes_of(again.metrics) == bytes_of(begun.metrics)


def test_seed_i_alone_is_seed_i_among_others(begun):
    alone = asmpg.train(dataclasses.replace(CONFIG, seed=5, num_seeds=1))
    np.testing.assert_allclose(alone.returns, begun.returns[1:], rtol=1e-4)
    assert not np.allclose(begun.returns[0], begun.returns[1], rtol=1e-6)


def long_log(num_episodes=20, horizon=60, lengths=None, start=1.0):
    """A point that is pushed about, from anywhere (or from one place, with `start` 0)."""
    random = np.random.default_rng(3)
    actions = random.uniform(-1, 1, (num_episodes, horizon, 1))
    states = np.zeros((num_episodes, horizon + 1, 1))
    states[:, 0] = start * random.uniform(-1, 1, (num_episodes, 1))
    for step in range(horizon):
        states[:, step + 1] = 0.8 * states[:, step] + 0.3 * actions[:, step]
    return asmpg.Episodes(states, actions, -np.square(states[:, 1:, 0] - 1), lengths, name="long")


LONG = [(1.0, 60, 20), (0.0, 60, None), (1.0, 50, None)]


@pytest.mark.parametrize("start, horizon, window", thorough_but(LONG[:1], LONG))
def test_long_episodes_that_begin_anywhere_are_imagined_in_windows(start, horizon, window):
    config = asmpg.TrainConfig(data=long_log(2, horizon, start=start), model="one-step")
    assert config.learner().window == window
    whole = dataclasses.replace(config, overrides={"window": horizon})
    assert whole.learner().window is None and asmpg.fit(config.data, "one-step", 1).model.horizon == horizon


@pytest.mark.thorough
def test_windows_of_recorded_episodes_learn_and_are_judged_by_the_episode():
    """The best action is +1 all the time: -0.25 a step at the end, where random ones have about -1.3."""
    data = long_log()
    settings = {"warmup_steps": 120, "model_batch_size": 8, "policy_batch_size": 8, "cloning": 0.0}
    result = asmpg.train(data=data, model="one-step", steps=720, chunk_steps=120, overrides=settings)
    metrics, before = result.metrics, data.episode_returns.mean()
    assert result.returns[0] > before / 2 and abs(metrics["recorded_error"][-1, 0]) < -0.1 * before
    np.testing.assert_allclose(
        metrics["optimism"], metrics["imagined_return"] - metrics["return"], rtol=1e-3, atol=1e-2
    )
    assert (
        "Both are of windows of 20 steps that begin at recorded states; a policy that has left"
        in result.finding
    )
    assert result.policy_of(0).mode(jnp.array([0.5]), 0)[0] > 0.7


@pytest.mark.parametrize(
    "window, lengths", [(7, None), (20, None), (7, [60, 33, 7, 1]), (59, [60, 5, 60, 60])]
)
def test_judged_windows_are_those_of_the_recording_and_weigh_like_an_episode(window, lengths):
    data = long_log(4, lengths=lengths)
    whole = data.trajectories()
    parts, scale = stretches(whole, data.lengths, window)
    full = data.lengths // window + (data.lengths % window > 0)
    firsts = [(row, window * i) for row in range(4) for i in range(min(60 // window, full[row]))]
    assert parts.rewards.shape == (len(firsts), window)
    for part, (row, first) in zip(np.asarray(parts.states), firsts, strict=True):
        np.testing.assert_array_equal(part, whole.states[row, first : first + window + 1])
    # Rewards of one a step of the whole recording add up to an episode.
    if lengths is None:
        assert scale * window == pytest.approx(60)
    assert stretches(whole, data.lengths, None) == (whole, 1.0)


def test_what_comes_out_is_said_and_leaves(begun, tmp_path):
    content = json.loads((begun.path / "summary.json").read_text())
    assert "The objective is optimistic by" in content["finding"] and "\n" not in content["finding"]
    assert content["recorded_return"] == pytest.approx(DATA.episode_returns.mean())
    assert (content["data"], content["recorded_episodes"], content["score"]) == ("log", 60, None)
    run = asmpg.load(begun.path)  # without the episodes
    assert bits(run.policy) == bits(begun.policy) and run.finding == begun.finding
    state = ENV.initial_state()
    path = run.export(tmp_path / "policy.npz", seed=5)
    np.testing.assert_allclose(
        asmpg.load_policy(path).predict(state), begun.policy_of(5).mode(state, 0), rtol=1e-5
    )


def test_there_is_no_world_to_act_in_unless_one_is_given(begun, capsys):
    with pytest.raises(asmpg.UsageError, match="log is recorded episodes, no world to act in"):
        begun.evaluate()
    with pytest.raises(asmpg.UsageError, match="no world to act in"):
        begun.rollout()
    with pytest.raises(
        asmpg.UsageError, match="task: harvest has horizon 20, the policy was trained with 10"
    ):
        begun.evaluate(asmpg.make("harvest", 20))
    returns = begun.evaluate(ENV)
    assert main(["evaluate", str(begun.path), "--task", "harvest", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(content["returns"], returns, rtol=1e-5)
    assert content["task"] == "harvest" and len(content["scores"]) == 2
    assert main(["evaluate", str(begun.path)]) == 2
    assert "no world to act in" in capsys.readouterr().err


def test_its_model_is_diagnosed_with_the_same_episodes(begun, tmp_path, capsys):
    log, out = tmp_path / "log.npz", str(tmp_path / "figures")
    asmpg.save_episodes(log, DATA)
    typed = ["diagnose", "--run", str(begun.path), "--out", out]
    assert main(typed) == 2
    assert (
        "--data: the model is of the recorded episodes log, which are not stored with it"
        in capsys.readouterr().err
    )
    assert main([*typed, "--data", str(log), "--seed", "5", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["task"] == "log" and content["horizons"] == [2, 5, 10]
    assert content["reach"][-1] > 0 and content["true_reach"] == content["cosine"] == [None] * 3
    assert "in truth" not in content["finding"] and "the truth carries" not in content["finding"]


def test_the_command_trains_on_a_file_and_goes_on(tmp_path, capsys):
    log, out = tmp_path / "log.npz", str(tmp_path / "run")
    asmpg.save_episodes(log, DATA)
    options = ["--warmup-steps", "20", "--model-batch-size", "4", "--policy-batch-size", "4"]
    typed = ["train", "--data", str(log), "--model", "one-step", "--steps", "40", "--out", out, *options]
    assert main(typed) == 0
    said = capsys.readouterr().out
    assert "The objective is optimistic by" in said and "log.npz, H = 10" in said
    assert main(["train", "--resume", out, "--steps", "60"]) == 2
    assert "--data: the run began with the recorded episodes log.npz" in capsys.readouterr().err
    assert main(["export", out]) == 0


@pytest.mark.parametrize(
    "message, options",
    [
        ("model: sac has no dynamics model", {"model": "sac"}),
        ("model: simulator has no dynamics model", {"model": "simulator"}),
        ("cloning", {"overrides": {"cloning": -1.0}}),
        ("num_seeds", {"num_seeds": 0}),
        ("record_cosine: needs the derivatives of a task", {"record_cosine": True}),
        ("stop_score: needs a score", {"stop_score": 0.9}),
        ("optimum: needs a task", {"optimum": True}),
        ("entropi", {"overrides": {"entropi": 1.0}}),
        ("data: log has one episode", {"data": recorded(1)}),
        ("task: give one, or data", {"data": None}),
        ("data: there is no file", {"data": "nothing.npz"}),
    ],
)
def test_what_is_not_allowed_is_named_before_anything_is_written(tmp_path, message, options):
    with pytest.raises(asmpg.UsageError, match=message):
        asmpg.train(**{"data": DATA, "model": "one-step", "out": str(tmp_path / "run"), **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lengths", [None, [60, 33, 7, 1]])
@pytest.mark.parametrize("length", [1, 3])
def test_recorded_episodes_have_the_context_that_their_world_would_have_given(length, lengths):
    data = long_log(4, lengths=lengths)
    seen, stack = asmpg.with_context(data, length), Stack(1, 1, length)
    for episode in range(4):
        state = stack.begin(data.observations[episode, 0])
        for step in range(data.lengths[episode]):
            np.testing.assert_allclose(seen.observations[episode, step], state, rtol=1e-6)
            state = stack.follow(state, data.actions[episode, step], data.observations[episode, step + 1])
    assert seen.recording.stack == Stack(1, 1, length, data.ends_early)
    assert seen.take([1]).context == length and asmpg.with_context(data, 0) is data
    with pytest.raises(asmpg.UsageError, match=r"^with_context: world: long has a context of \d already"):
        asmpg.with_context(seen, 1)
    with pytest.raises(asmpg.UsageError, match="a context, which a file does not keep"):
        asmpg.save_episodes("log.npz", seen)


@pytest.mark.thorough
def test_a_run_on_recorded_episodes_with_a_context_goes_on_and_acts(tmp_path):
    """Alone, from a file, resumed with the same file, exported, and evaluated in the world that has no context."""
    log, config = tmp_path / "log.npz", dataclasses.replace(CONFIG, observation_context=2, num_seeds=1)
    asmpg.save_episodes(log, DATA)
    whole = asmpg.train(config, data=str(log))
    assert whole.seed(4).model.predict(jnp.zeros(6), jnp.zeros((10, 1))).shape == (10, 6)
    half = dataclasses.replace(config, data=str(log), steps=40, out=str(tmp_path / "run"))
    asmpg.train(half)
    again = asmpg.resume(half.out, steps=60, data=str(log))
    assert bits(again.policy) == bits(whole.policy) and bits(again.model) == bits(whole.model)
    np.testing.assert_array_equal(again.evaluate(ENV), again.evaluate(asmpg.with_context(ENV, 2)))
    actor = asmpg.load_policy(again.export(tmp_path / "policy.npz"))
    episode = asmpg.rollout(ENV, jnp.zeros((10, 1)))
    assert np.shape(actor.predict(np.asarray(episode.states[0]))) == (1,)


@pytest.mark.thorough
@pytest.mark.parametrize("wrapped", [False, True])
def test_recorded_episodes_come_before_those_of_a_world_with_a_context(wrapped):
    env = asmpg.with_context(ENV, 2) if wrapped else ENV
    options = {} if wrapped else {"observation_context": 2}
    config = asmpg.TrainConfig(env, model="one-step", steps=40, data=DATA, overrides=SMALL, **options)
    result = asmpg.train(config)
    assert result.env.state_size == 6 and np.isfinite(result.returns).all()
    with pytest.raises(asmpg.UsageError, match=r"data: other has 2 components of an observation, .* has 1"):
        states = np.zeros((3, 11, 2))
        asmpg.train(
            config, data=asmpg.Episodes(states, np.zeros((3, 10, 1)), np.zeros((3, 10)), name="other")
        )


class Mortal(Walk):
    """Episodes that may end, but do not."""

    def step(self, actions):
        observations, rewards, _ = super().step(actions)
        return observations, rewards, np.zeros(len(actions), bool)


@pytest.mark.parametrize("sees_alive", thorough_but([False], [False, True]))
def test_a_policy_acts_where_episodes_may_end_as_where_they_cannot(sees_alive):
    """Nothing ends, so that both worlds are the same; what the policy sees of it makes no difference."""
    lengths = [4, 6, 6] if sees_alive else None
    random = np.random.default_rng(0)
    observations = random.normal(size=(3, 7, 1))
    data = asmpg.Episodes(observations, np.zeros((3, 6, 1)), observations[:, 1:, 0], lengths)
    overrides = {"warmup_steps": 6, "model_batch_size": 2, "policy_batch_size": 2}
    result = asmpg.train(data=data, model="one-step", steps=18, overrides=overrides)
    assert result.env.state_size == 1 + sees_alive
    worlds = [Mortal(), Mortal()]
    worlds[1].ends_early = False
    returns = [result.evaluate(world) for world in worlds]
    np.testing.assert_allclose(returns[0], returns[1], rtol=1e-5)
    assert np.ptp([*returns[0], 0.0]) > 0
    with pytest.raises(
        asmpg.UsageError, match=r"^task: harvest has horizon 10, the policy was trained with 6"
    ):
        result.evaluate(ENV)
