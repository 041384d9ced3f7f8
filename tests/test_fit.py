"""A model from recorded episodes alone: how good it is, how far its gradient reaches, where there is no data."""

import json

import jax
import numpy as np
import pytest

import asmpg
from asmpg.cli import main
from asmpg.tasks.environment import random_episodes
from asmpg.training.runs.fitted import load_fit
from asmpg.training.support import Support
from toys import Drift


pytestmark = pytest.mark.usefixtures("quickly")


def recorded(num_episodes=40, env=None, **options):
    env = env or Drift()
    episodes = random_episodes(env, num_episodes, key=jax.random.key(0))
    return asmpg.Episodes(episodes.states, episodes.actions, episodes.rewards, name="drift", **options)


@pytest.fixture(scope="module")
def fitted():
    return asmpg.fit(recorded(), model="one-step", steps=600, seed=1)


def test_the_fit_learns_the_plant(fitted):
    losses = fitted.history["held_out_loss"]
    assert losses[-1] < 0.1 * losses[0]
    assert fitted.history["updates"][[0, -1]].tolist() == [0, 600]
    assert fitted.error.shape == (7,)
    assert fitted.error[0] < 0.1
    assert fitted.num_nonfinite == 0
    assert (len(fitted.data), len(fitted.held_out)) == (32, 8)
    rows = {tuple(row) for part in (fitted.data, fitted.held_out) for row in part.rewards}
    assert len(rows) == 40


def test_the_error_is_that_of_the_model_on_the_held_out_episodes(fitted):
    episodes = fitted.held_out.trajectories()
    predicted = jax.vmap(fitted.model.predict)(episodes.states[:, 0], episodes.actions)
    scale = np.asarray(fitted.data.trajectories().states).std(axis=(0, 1))
    expected = np.sqrt((np.square((predicted - episodes.states[:, 1:]) / scale)).mean(axis=(0, 2)))
    np.testing.assert_allclose(fitted.error, expected, rtol=1e-4)


def test_its_reach_is_that_of_the_plant(fitted):
    episodes = fitted.held_out.trajectories()
    truth = asmpg.Simulator(Drift())
    reaches = [asmpg.reach(truth, s[0], a) for s, a in zip(episodes.states, episodes.actions, strict=True)]
    assert 0.5 < fitted.reach / np.median(reaches) < 2


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_fit(fitted):
    again = asmpg.fit(recorded(), model="one-step", steps=600, seed=1)
    for name, values in fitted.history.items():
        np.testing.assert_array_equal(again.history[name], values)
    np.testing.assert_array_equal(again.error, fitted.error)
    other = asmpg.fit(recorded(), model="one-step", steps=1, seed=2)
    assert other.history["loss"][0] != fitted.history["loss"][0]


def test_the_summary_is_plain_and_says_what_it_means(fitted):
    content = json.loads(json.dumps(fitted.summary(), allow_nan=False))
    assert content["episodes"] == 32
    assert "at step 7" in content["finding"]
    assert "range of actions has no data near it" in repr(fitted)


def test_a_model_that_learns_by_heart_is_said_to():
    random = np.random.default_rng(0)
    noise = random.normal(size=(5, 8, 3))
    data = asmpg.Episodes(noise, random.uniform(-1, 1, (5, 7, 2)), np.zeros((5, 7)), name="noise")
    fitted = asmpg.fit(data, model="one-step", steps=400)
    assert "It learns by heart" in fitted.finding()
    assert "do not plan that far" in fitted.finding()


def test_an_early_end_is_predicted_as_one_more_component():
    """The plant stops once its first component has grown beyond a bound."""
    data = recorded(60)
    beyond = data.observations[:, 1:, 0] > np.median(data.observations[:, 1:, 0].max(axis=1))
    lengths = np.where(beyond.any(axis=1), beyond.argmax(axis=1) + 1, 7)
    assert 10 < (lengths < 7).sum() < 50
    data = asmpg.Episodes(data.observations, data.actions, data.rewards, lengths)
    fitted = asmpg.fit(data, model="one-step", steps=1_000)
    episodes = fitted.held_out.trajectories()
    predicted = jax.vmap(fitted.model.predict)(episodes.states[:, 0], episodes.actions)[..., -1]
    alive = fitted.held_out.alive[:, 1:]
    assert alive.mean() < 0.9
    assert ((predicted > 0.5) == alive).mean() > 0.5 + alive.mean() / 2


def test_what_cannot_be_fitted_is_refused():
    data = recorded(3)
    for model in ("sac", "odt", "simulator"):
        with pytest.raises(
            asmpg.UsageError, match=f"model: {model} has no dynamics model that could be fitted"
        ):
            asmpg.fit(data, model=model)
    with pytest.raises(asmpg.UsageError, match="model: 'lstn' is not one of"):
        asmpg.fit(data, model="lstn")
    with pytest.raises(asmpg.UsageError, match="held_out: 3 of 3 episodes of drift cannot be held out"):
        asmpg.fit(data, held_out=3)
    with pytest.raises(asmpg.UsageError, match="steps: must be an integer"):
        asmpg.fit(data, steps=0)


def test_the_support_is_where_the_data_is():
    random = np.random.default_rng(0)
    observations = random.normal(size=(200, 11, 2)) * [1, 1000]
    narrow = random.uniform(-1, 0, (200, 10, 1))
    parts = asmpg.Episodes(observations, narrow, np.zeros((200, 10))).split(40)
    support = Support.of(*parts)
    near = random.normal(size=(500, 2)) * [1, 1000]
    inside, outside = np.full((500, 1), -0.5), np.full((500, 1), 0.8)
    assert (support.distance(near, inside) > 1).mean() < 0.1
    assert (support.distance(near, outside) > 1).mean() > 0.9
    assert (support.distance(near + np.array([8, 0]), inside) > 1).all()
    assert 0.25 < support.untried < 0.6
    wide = asmpg.Episodes(observations, random.uniform(-1, 1, (200, 10, 1)), np.zeros((200, 10)))
    assert Support.of(*wide.split(40)).untried < 0.1


def test_the_command_fits_a_file(tmp_path, capsys):
    path = tmp_path / "log.npz"
    asmpg.save_episodes(path, recorded())
    assert main(["fit", str(path), "--model", "one-step", "--steps", "20", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["episodes"] == 32
    assert len(content["error"]) == 7
    assert main(["fit", str(tmp_path / "none.npz")]) == 2


def test_a_fitted_model_is_kept_and_diagnosed(tmp_path, capsys):
    path, out = tmp_path / "log.npz", tmp_path / "fit"
    asmpg.save_episodes(path, recorded())
    assert main(["fit", str(path), "--model", "one-step", "--steps", "20", "--out", str(out), "--json"]) == 0
    error, read = json.loads(capsys.readouterr().out)["error"], load_fit(out)
    again = asmpg.fit(asmpg.load_episodes(path), "one-step", 20)
    np.testing.assert_allclose(again.error, error, rtol=1e-6)
    for mine, kept in zip(jax.tree.leaves(again.model), jax.tree.leaves(read.model), strict=True):
        np.testing.assert_array_equal(mine, kept)
    typed = ["diagnose", "--run", str(out), "--out", str(tmp_path / "figures"), "--json"]
    assert main(typed) == 2
    assert "--data: the model is of the recorded episodes log.npz" in capsys.readouterr().err
    assert main([*typed, "--data", str(path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["trained"] and content["cosine"] == [None] * len(content["horizons"])
    (out / "fit.json").write_text((out / "fit.json").read_text().replace("one-step", "mine.py:Model"))
    assert main(typed) == 2  # nothing that a folder names is run
    assert "'mine.py:Model' is not one of" in capsys.readouterr().err
    (out / "fit.json").write_text("{}")
    assert main(typed) == 2
    assert "holds no whole fitted model" in capsys.readouterr().err
