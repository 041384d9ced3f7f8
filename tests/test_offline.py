"""Training on recorded episodes alone: near the data, better than it, and honest about what is only imagined."""

import json

import equinox as eqx
import jax
import numpy as np
import pytest

import asmpg
from asmpg.tasks.environment import random_episodes
from asmpg.training.export import load_policy
from asmpg.training.offline import train_offline


pytestmark = pytest.mark.usefixtures("quickly")
ENV = asmpg.make("harvest", horizon=10)


def recorded(num_episodes=60, **options):
    episodes = random_episodes(ENV, num_episodes, key=jax.random.key(0))
    return asmpg.Episodes(episodes.states, episodes.actions, episodes.rewards, name="log", **options)


def policy_of(result, index=0):
    return jax.tree.map(lambda x: x[index] if eqx.is_array(x) else x, result.policy)


@pytest.fixture(scope="module")
def begun():
    """Hardly trained: for what holds from the first update on."""
    return train_offline(recorded(), model="one-step", steps=40, num_seeds=2, seed=4)


@pytest.fixture(scope="module")
def trained():
    return train_offline(recorded(), model="one-step", steps=600, num_seeds=2, seed=4, cloning=0.05)


@pytest.mark.slow
def test_the_policy_is_better_than_what_was_recorded(trained):
    true = [float(asmpg.rollout(ENV, policy_of(trained, index)).episode_return) for index in (0, 1)]
    spread = trained.data.episode_returns.std()
    assert min(true) > trained.recorded_return + spread
    # Without the world, the judge is what there is to go by.
    assert np.abs(trained.returns - true).max() < spread


def test_optimism_is_the_difference_of_the_two_estimates(begun):
    metrics = begun.metrics
    assert metrics["updates"][[0, -1], 0].tolist() == [0, 40]
    difference = metrics["imagined_return"] - metrics["judged_return"]
    np.testing.assert_allclose(metrics["optimism"], difference, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(begun.optimism, metrics["optimism"][-1])
    assert begun.recorded_return == pytest.approx(recorded().episode_returns.mean())


@pytest.mark.slow
def test_seed_i_alone_is_seed_i_among_others(trained):
    alone = train_offline(recorded(), model="one-step", steps=600, seed=4, cloning=0.05)
    np.testing.assert_allclose(alone.returns, trained.returns[:1], rtol=1e-4)
    assert not np.allclose(trained.returns[0], trained.returns[1], rtol=1e-6)


@pytest.mark.slow
def test_cloning_keeps_the_policy_near_the_recorded_actions():
    """The plant was recorded with small actions only; the model knows nothing of large ones."""
    data = recorded()
    narrow = asmpg.Episodes(data.observations, 0.2 * data.actions, data.rewards)
    options = {"model": "one-step", "steps": 400}
    free, near = (train_offline(narrow, cloning=cloning, **options) for cloning in (0.0, 30.0))
    actions = [
        np.asarray(jax.vmap(policy_of(result).mode)(narrow.trajectories().states[:, 3], np.full(60, 3)))
        for result in (free, near)
    ]
    assert np.abs(actions[1]).max() < 0.25 < np.abs(actions[0]).mean()
    assert free.outside[0] > 0.5 > near.outside[0]


def test_what_comes_out_is_said_and_leaves(begun, tmp_path):
    content = json.loads(json.dumps(begun.summary(), allow_nan=False))
    assert "The objective is optimistic by" in content["finding"]
    assert content["episodes"] + content["held_out_episodes"] == 60
    path = begun.export(tmp_path / "policy.npz", seed=5)
    state = ENV.initial_state()
    np.testing.assert_allclose(
        load_policy(path).predict(state), policy_of(begun, 1).mode(state, 0), rtol=1e-5
    )


def test_what_is_not_allowed_is_named():
    for message, options in {
        "model: sac has no dynamics model": {"model": "sac"},
        "cloning": {"cloning": -1.0},
        "num_seeds": {"num_seeds": 0},
        "held_out": {"held_out": 60},
        "entropi": {"overrides": {"entropi": 1.0}},
    }.items():
        with pytest.raises(asmpg.UsageError, match=message):
            train_offline(recorded(), **options)
