"""Learned rewards (Appendix C): their loss and units, their fit, and that nothing else knows the true reward."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.loops import loop
from asmpg.core.types import Trajectory
from asmpg.learners.model_based import ModelBasedLearner, ModelBasedState
from asmpg.learners.replay import ReplayBuffer
from asmpg.learners.settings import Settings
from asmpg.models import OneStepModel, Simulator
from asmpg.models.normalisation import Normaliser, RewardScale
from asmpg.models.reward import fitting_loss, LearnedReward
from asmpg.tasks.environment import rollout, trajectory_rewards, uniform_actions
from asmpg.training.config import TrainConfig
from asmpg.training.loop import Schedule
from asmpg.training.trainer import Trainer
from toys import bits, Drift, flatten, relative_error, unit_normaliser


# Most of what takes time here is compilation.
pytestmark = pytest.mark.usefixtures("quickly")

HORIZON = 7
SCALE = RewardScale(*map(jnp.asarray, (-3.0, 2.0, 1.0, 5.0)))


def make_reward(scale: RewardScale = SCALE) -> LearnedReward:
    """A learned reward whose networks are not nearly constant."""
    env = Drift()
    reward = LearnedReward(env, key=jax.random.key(0), normaliser=unit_normaliser(env), scale=scale)
    last_layers = lambda r: (r.running.layers[-1].weight, r.terminal.layers[-1].weight)  # noqa: E731
    return eqx.tree_at(last_layers, reward, replace_fn=lambda weight: 50.0 * weight)


@functools.cache
def make_episodes(num: int = 8) -> Trajectory:
    env = Drift()
    keys = jax.random.split(jax.random.key(1), num)
    return jax.jit(jax.vmap(lambda key: rollout(env, uniform_actions(env, key=key))))(keys)


def episode(index: int = 0) -> Trajectory:
    return jax.tree.map(lambda leaf: leaf[index], make_episodes())


def with_rewards(trajectory: Trajectory, rewards: Any) -> Trajectory:
    return Trajectory(trajectory.states, trajectory.actions, jnp.asarray(rewards))


def test_the_loss_by_hand():
    """Squared errors in units of their scale: half of it the last step's, where the terminal reward is paid too."""
    reward, given = make_reward(), episode()
    rewards = [
        reward.reward(*x, step) for step, x in enumerate(zip(given.states, given.actions, strict=False))
    ]
    rewards[-1] += reward.terminal_reward(given.states[-1])
    errors = np.array(rewards) - np.array(given.rewards)
    expected = np.mean((errors[:-1] / 2.0) ** 2) / 2 + (errors[-1] / 5.0) ** 2 / 2
    np.testing.assert_allclose(reward.loss(given), expected, rtol=1e-4)
    assert reward.loss(with_rewards(given, rewards)) < 1e-10


def test_every_argument_is_read():
    reward, given = make_reward(), episode()
    state, action = given.states[0], given.actions[0]
    base = reward.reward(state, action, 2)
    for component in range(3):
        assert reward.reward(state.at[component].add(0.3), action, 2) != base
        assert reward.terminal_reward(state.at[component].add(0.3)) != reward.terminal_reward(state)
    for component in range(2):
        assert reward.reward(state, action.at[component].add(0.3), 2) != base
    assert reward.reward(state, action, 3) != base


def test_the_last_step_stands_out():
    """What a smooth `t / H` could not express: the flag, and the unit, are those of the last step only."""
    reward, given = make_reward(), episode()
    deaf = eqx.tree_at(lambda r: r.running.layers[0].weight, reward, replace_fn=lambda w: w.at[-1].set(0.0))
    other = eqx.tree_at(lambda r: r.scale.last_scale, reward, jnp.asarray(50.0))
    state, action = given.states[0], given.actions[0]
    for changed in (deaf, other):
        same = [
            bool(reward.reward(state, action, t) == changed.reward(state, action, t)) for t in range(HORIZON)
        ]
        assert same == [True] * (HORIZON - 1) + [False]


@pytest.mark.parametrize("factor", [1e-4, 1e5])
def test_the_units_of_the_reward_do_not_matter(factor):
    rewards = make_episodes().rewards
    ours, theirs = (
        make_reward(RewardScale.from_rewards(rewards)),
        make_reward(RewardScale.from_rewards(factor * rewards)),
    )
    given = episode()
    scaled = with_rewards(given, factor * given.rewards)
    np.testing.assert_allclose(theirs.loss(scaled), ours.loss(given), rtol=1e-3)
    predicted = [trajectory_rewards(reward, given.states, given.actions) for reward in (ours, theirs)]
    np.testing.assert_allclose(predicted[1], factor * predicted[0], rtol=1e-3, atol=1e-5 * factor)


def test_scales_have_floors():
    random = np.random.default_rng(0)
    rewards = random.normal(size=(50, 10)) * np.array([1.0] * 9 + [30.0]) + 4.0
    scale = RewardScale.from_rewards(jnp.asarray(rewards))
    np.testing.assert_allclose(
        [scale.mean, scale.scale], [rewards[:, :-1].mean(), rewards[:, :-1].std()], 1e-5
    )
    np.testing.assert_allclose(scale.last_mean, rewards[:, -1].mean(), rtol=1e-5)
    np.testing.assert_allclose(scale.last_scale, rewards[:, -1].std(), rtol=1e-5)
    # Paid at the end only: the other steps get a thousandth of their share in the spread of the returns.
    at_the_end = np.concatenate([np.zeros((50, 9)), rewards[:, -1:]], axis=1)
    scale = RewardScale.from_rewards(jnp.asarray(at_the_end))
    np.testing.assert_allclose(scale.scale, 1e-4 * rewards[:, -1].std(), rtol=1e-4)
    # Nothing varies at all.
    scale = RewardScale.from_rewards(jnp.full((50, 10), 7.0))
    assert 0 < scale.scale <= scale.last_scale < 1e-6


def test_statistics_are_frozen():
    grads = eqx.filter_grad(lambda reward: reward.loss(episode()))(make_reward())
    assert (flatten((grads.scale, grads.normaliser)) == 0).all()
    assert all((flatten(layer) != 0).any() for layer in (*grads.running.layers, *grads.terminal.layers))
    episodes = make_episodes()
    taken = make_reward().with_statistics(Normaliser.from_states(episodes.states), episodes)
    assert bits(taken.scale) == bits(RewardScale.from_rewards(make_episodes().rewards))
    assert bits(taken.running) == bits(make_reward().running)


def test_the_share_of_predicted_states():
    """Of a perfect model they are the true ones; of another one they count, by their share."""
    reward, env = make_reward(), Drift()
    loss = eqx.filter_jit(fitting_loss)
    other = OneStepModel(env, key=jax.random.key(5), normaliser=unit_normaliser(env))
    for model, same in ((Simulator(env), True), (other, False)):
        none, some, all_of_them = (loss(reward, model, episode(), share) for share in (0.0, 0.3, 1.0))
        np.testing.assert_allclose(none, reward.loss(episode()), rtol=1e-5)
        np.testing.assert_allclose(some, 0.7 * none + 0.3 * all_of_them, rtol=1e-5)
        assert (abs(all_of_them - none) < 1e-4 * none) == same
    grads = eqx.filter_grad(lambda model: fitting_loss(reward, model, episode(), 1.0))(other)
    assert (flatten(grads) == 0).all(), "the model is not fitted to the reward"


# In the learner.


def make_learner(kind: Any = OneStepModel, env: Any = None, **overrides: Any) -> ModelBasedLearner:
    env = Drift() if env is None else env
    small = {"model_batch_size": 8, "policy_batch_size": 4, "model_update_every": 2, "policy_update_every": 3}
    settings = dataclasses.replace(Settings.default(HORIZON), **(small | overrides))
    return ModelBasedLearner(env, settings, maker(kind, env), learned_reward=True)


@functools.cache
def maker(kind: Any, env: Any) -> Any:
    return (lambda *, key: Simulator(env)) if kind is Simulator else functools.partial(kind, env)


@eqx.filter_jit
def start(learner: ModelBasedLearner) -> ModelBasedState:
    return learner.observe_warmup(
        learner.init(Normaliser.unknown(learner.env.state_size), key=jax.random.key(0)), make_episodes()
    )


def run(
    learner: ModelBasedLearner,
    state: ModelBasedState,
    elapsed: int,
    num: int = 1,
    episodes: Trajectory | None = None,
) -> ModelBasedState:
    """The updates of step `elapsed`, `num` times."""
    episodes = make_episodes() if episodes is None else episodes
    return repeat_step(
        learner, state, ReplayBuffer(episodes, jnp.array(8)), jnp.array(elapsed), jnp.array(num)
    )


@eqx.filter_jit
def repeat_step(
    learner: ModelBasedLearner,
    state: ModelBasedState,
    replay: ReplayBuffer,
    elapsed: jax.Array,
    num: jax.Array,
) -> ModelBasedState:

    def body(index, state):
        return learner.update(state, replay, elapsed, key=jax.random.fold_in(jax.random.key(2), index))

    return loop(0, num, body, state)


def test_model_updates_fit_the_reward_too():
    """And the policy's leave it alone."""
    learner = make_learner()
    before = start(learner)
    after = run(learner, before, 2, 400)
    loss = jax.jit(lambda reward: jax.vmap(reward.loss)(make_episodes()).mean())
    assert loss(after.reward) < 0.05 * loss(before.reward)
    other = run(learner, before, 3)
    assert bits((other.reward, other.reward_optimiser)) == bits((before.reward, before.reward_optimiser))
    assert bits(other.policy) != bits(before.policy)


def test_a_learned_reward_changes_neither_the_model_nor_its_draws():
    learner = make_learner()
    known = dataclasses.replace(learner, learned_reward=False)
    ours, theirs = (run(one, start(one), 2, 5) for one in (learner, known))
    assert theirs.reward is None
    assert bits(start(known).policy) == bits(start(learner).policy)
    assert relative_error(ours.model, theirs.model) < 1e-5


def test_rewards_that_are_not_finite_skip_the_update_and_are_counted():
    learner = make_learner()
    before = start(learner)
    bad = with_rewards(make_episodes(), make_episodes().rewards.at[:, 2].set(jnp.nan))

    after = run(learner, before, 2, episodes=bad)
    assert bits((after.reward, after.reward_optimiser)) == bits((before.reward, before.reward_optimiser))
    assert int(after.statistics.num_nonfinite) == 1
    assert bits(after.model) != bits(before.model)


# Nothing else knows the true reward.


@jax.custom_jvp
def opaque(value: jax.Array) -> jax.Array:
    """The value, which can be had but not differentiated."""
    return value


@opaque.defjvp
def _refuse(primals, tangents):
    raise RuntimeError("the true reward was differentiated")


class Opaque(Drift):
    """Pays as usual; a derivative of what it pays is an error."""

    def reward(self, state, action, step):
        return opaque(super().reward(state, action, step))

    def terminal_reward(self, state):
        return opaque(super().terminal_reward(state))


class Unpaid(Drift):
    """To ask what it pays is an error."""

    def reward(self, state, action, step):
        raise RuntimeError("the true reward was asked for")

    def terminal_reward(self, state):
        raise RuntimeError("the true reward was asked for")


@pytest.mark.parametrize("kind", ["open", "closed"])
@pytest.mark.parametrize(
    "model", ["transformer", "rnn", "history-rnn", "actions-rnn", "one-step", "simulator"]
)
def test_training_never_differentiates_the_true_reward(model, kind):
    """A whole run, warm-up and records included; without a learned reward the same run is an error.

    Derivatives are taken when a program is traced, so that it need not be compiled.
    """
    overrides = {"model_batch_size": 2, "policy_batch_size": 2, "predicted_state_share": 0.5}
    config = TrainConfig(Opaque(), model=model, loop=kind, learned_reward=True, overrides=overrides)
    learner = config.checked().learner()

    def train(learner):
        trainer = Trainer(learner, Schedule(4, 2, 2, 6), [0])
        return jax.eval_shape(lambda: trainer.advance(trainer.init(), 2, 2))[1]

    assert train(learner).keys() >= {"return", "reward_loss", "reward_loss_on_policy"}
    with pytest.raises(RuntimeError, match="the true reward was differentiated"):
        train(dataclasses.replace(learner, learned_reward=False))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("kind", [OneStepModel])
def test_updates_never_ask_for_the_true_reward(kind, closed):
    """Once the episodes are in the buffer, what was paid in them is all there is to know. Traced, not run."""
    learner = dataclasses.replace(make_learner(kind, Unpaid()), loop="closed" if closed else "open")
    state = start(make_learner())
    state = dataclasses.replace(state, model=Simulator(Unpaid()) if kind is Simulator else state.model)

    def update(learner, state):
        replay = ReplayBuffer(make_episodes(), jnp.array(8))
        return learner.update(state, replay, jnp.array(6), key=jax.random.key(0))

    eqx.filter_eval_shape(update, learner, state)
    with pytest.raises(RuntimeError, match="the true reward was asked for"):
        state = dataclasses.replace(state, reward=None, reward_optimiser=None)
        eqx.filter_eval_shape(update, dataclasses.replace(learner, learned_reward=False), state)
