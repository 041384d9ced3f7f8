"""What a user gets back, of every kind of run: each method, each kind of world, and recorded episodes alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.tasks.environment import random_episodes
from asmpg.tasks.spec import ends_early
from test_host import Walk
from tiers import thorough_but


pytestmark = pytest.mark.usefixtures("quickly")
ENV = asmpg.make("harvest", horizon=6)
SMALL = {"warmup_steps": 12, "model_batch_size": 2, "policy_batch_size": 2}
SMALL_REPLAY = {"warmup_steps": 12, "batch_size": 2}
KINDS = {
    "one-step": (ENV, "one-step", SMALL),
    "actions": (ENV, "actions-rnn", SMALL),
    "sac": (ENV, "sac", SMALL_REPLAY),
    "odt": (ENV, "odt", SMALL_REPLAY | {"context": 4}),
    "host": (Walk(), "one-step", SMALL),
    "offline": (None, "one-step", SMALL),
}


@pytest.fixture(scope="module", params=thorough_but(["one-step", "host"], KINDS))
def run(request):
    env, model, overrides = KINDS[request.param]
    episodes = random_episodes(ENV, 6, key=jax.random.key(0))
    data = asmpg.Episodes(
        episodes.states, episodes.actions, episodes.rewards, action_bounds=(-1, 1), name="log"
    )
    options = {"data": data} if env is None else {}
    # Seed 3 is that of no other test.
    return request.param, asmpg.train(
        env, model=model, steps=24, num_seeds=2, seed=3, overrides=overrides, **options
    )


def refused(message, function, *given, **named):
    with pytest.raises(asmpg.UsageError, match=message) as caught:
        function(*given, **named)
    assert "\n" not in str(caught.value)


def test_what_a_user_gets_back(run, tmp_path):
    kind, result = run
    assert len(repr(result)) < 200 and "\n" not in repr(result)
    assert result._repr_html_().count("<tr>") == 3
    assert len(result.to_rows()) == result.metrics["return"].size
    assert result.plot().axes
    json.dumps(result.summary(), allow_nan=False)
    assert result.best.seed == result.best_seed and result.best.episode_return == result.returns.max()
    assert (result.model is None) == (kind in ("sac", "odt"))
    assert (result.best.replay is None) == (kind == "offline")
    policy = result.best.policy
    assert not hasattr(policy, "mode") or policy.mode(jnp.zeros(result.env.state_size), 0).shape == (1,)


def test_an_episode_of_a_seed(run):
    kind, result = run
    if kind == "offline":
        refused("no world to act in", result.rollout)
        refused("no world to act in", result.evaluate)
        assert np.isfinite(result.evaluate(ENV)).all()
        return
    np.testing.assert_allclose(result.evaluate(), result.returns, rtol=1e-4)
    noisy = [result.rollout(seed=3, key=jax.random.key(key)) for key in (0, 0, 1)]
    assert (noisy[0].actions == noisy[1].actions).all() and not (noisy[0].actions == noisy[2].actions).all()
    still = result.rollout(seed=4)
    assert (still.actions == result.rollout(seed=4).actions).all() and still.rewards.shape == (6,)
    if kind == "host":
        refused("initial_state: episodes of walk begin where its simulator says", result.rollout, np.zeros(1))
    else:
        assert result.rollout(np.array([0.7]), seed=4).states[0, 0] == np.float32(0.7)


@pytest.mark.parametrize("format", ["npz", "stablehlo"])
def test_a_policy_leaves_or_says_why_not(run, format, tmp_path):
    kind, result = run
    size = result.env.state_size - ends_early(result.env)
    path, observation = tmp_path / f"policy.{format}", np.full(size, 0.5, np.float32)
    if kind == "odt":
        said = "a DecisionTransformerPolicy needs the episode so far"
        refused(said, result.export, path)
        refused(said, result.predict, observation)
        assert not path.exists()
        return
    result.export(path, seed=3)
    action = asmpg.load_policy(path).predict(observation, step=2)
    np.testing.assert_allclose(action, result.predict(observation, 2, seed=3), rtol=1e-4, atol=1e-6)
    refused("predict: step 6 is not in an episode of 6 steps", result.predict, observation, 6)
    refused("predict: the observation has 9 components", result.predict, np.zeros(9))


def test_an_action_is_in_the_units_of_the_recording(run):
    kind, result = run
    if kind == "offline":
        wide = asmpg.Episodes(
            np.zeros((3, 7, 1)), np.zeros((3, 6, 1)), np.zeros((3, 6)), action_bounds=(0, 10)
        )
        unit = (result.predict(np.zeros(1)) + 1) / 2
        moved = asmpg.training.export.acting(result.best.policy, wide.recording).predict(np.zeros(1), 0)
        np.testing.assert_allclose(moved, 10 * unit, rtol=1e-5)
