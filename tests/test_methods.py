"""One table, every method on every probe task; and that model-based methods differ in their model only."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.loops import loop
from asmpg.gradients.policies import ActionSequence
from asmpg.learners.model_based import ModelBasedLearner
from asmpg.models import AbstractDynamicsModel
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import AbstractEnvironment
from asmpg.training.config import TrainConfig
from asmpg.training.loop import advance_seed, init_seed, Schedule, SeedState
from probes import DelayedReward, OneOf, RewardIsAction, RewardIsState
from tiers import thorough_but
from toys import bits, Drift


@dataclasses.dataclass(frozen=True)
class Row:
    """A method as it is trained here.

    Attributes:
        options: of `TrainConfig`, the model first of all.
        steps: environment steps, warm-up included.
        overrides: settings.
        slack: by which what is allowed to be missing is multiplied.
    """

    options: dict[str, Any]
    steps: int = 320
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    slack: float = 1.0


METHODS = {
    "lstm": Row({"model": "lstm"}),
    "transformer": Row({"model": "transformer"}, overrides={"model_width": 24}),
    "rnn, learned reward": Row({"model": "rnn", "learned_reward": True}),
    "history-rnn": Row({"model": "history-rnn"}),
    "one-step": Row({"model": "one-step"}),
    "one-step, closed loop": Row({"model": "one-step", "loop": "closed"}),
    "simulator": Row({"model": "simulator"}),
    # Its gradients come through an RNN that is hardly fitted by then: on some processors it ends just beyond.
    "actions-rnn": Row({"model": "actions-rnn"}, 480),
    # Neither has a model to differentiate: both need more steps, and both keep more noise in the end.
    "sac": Row({"model": "sac"}, 1200, {"batch_size": 32, "critic_width": 64}, slack=2.0),
    # The best return, which is 0 for all probes here.
    "odt": Row(
        {"model": "odt"},
        800,
        {"batch_size": 16, "policy_width": 32, "return_target": 0.0, "learning_rate_decay": 100},
        slack=2.0,
    ),
}

# How far below the best return a solved probe may end. Actions of zero, with which training starts, are 0.7, 3.5 and
# 0.06 below; what is left is mostly the price of the entropy.
PROBES = {
    "reward_is_action": (RewardIsAction(), 0.05),
    "reward_is_state": (RewardIsState(), 0.05),
    "delayed_reward": (DelayedReward(), 0.005),
}

# Methods that share no more than the loop, of those that compile quickly.
QUICK = ("one-step", "simulator", "actions-rnn", "sac")

# Cells that cannot be relied on to hold, each with its reason.
CANNOT = {
    (
        "odt",
        "delayed_reward",
    ): "a return that is all paid at the end tells little of any one action: within 800 steps "
    "some runs end 0.004 below the best return and others 0.09, which is worse than actions of zero",
}


# Compiling takes longer than training here.
pytestmark = pytest.mark.usefixtures("quickly")


@functools.cache
def trainer(method: str) -> Callable[[OneOf], jax.Array]:
    """Trains one seed of a method on a task: one program for all probes."""
    row = METHODS[method]

    @eqx.filter_jit
    def train(task: OneOf) -> jax.Array:
        overrides = {"warmup_steps": 64} | row.overrides
        learner = TrainConfig(task=task, overrides=overrides, **row.options).learner()
        schedule = Schedule.create(row.steps, overrides["warmup_steps"], row.steps, task.horizon)
        first, last = schedule.warmup_episodes, schedule.num_episodes
        state = init_seed(learner, schedule, last, jax.random.key(0))
        metrics = advance_seed(
            learner, task.initial_state()[None], schedule, state, jnp.array(first), jnp.array(last - first)
        )[1]
        return metrics["return"]

    return train


def cells() -> list[Any]:
    """Method by method, so that each is compiled once; without what cannot be expected."""
    every = [(method, probe) for method in METHODS for probe in PROBES if (method, probe) not in CANNOT]
    return thorough_but([(method, probe) for method, probe in every if method in QUICK], every)


@pytest.mark.parametrize(("method", "probe"), cells())
def test_every_method_solves_every_probe(method, probe):
    tasks = tuple(task for task, _ in PROBES.values())
    task, tolerance = PROBES[probe]
    reached = trainer(method)(OneOf(jnp.array(tasks.index(task)), tasks))
    assert -1e-5 <= -reached < METHODS[method].slack * tolerance


def test_what_cannot_be_expected_is_in_the_table():
    assert CANNOT.keys() <= {(method, probe) for method in METHODS for probe in PROBES}


# At equal settings, model-based methods differ in the model and in nothing else.

SMALL = {"warmup_steps": 20, "model_batch_size": 4, "policy_batch_size": 4, "gradient_clip": 1e6}


def make_learner(model: str, task: AbstractEnvironment, **options: Any) -> ModelBasedLearner:
    learner = TrainConfig(task=task, model=model, overrides=SMALL, **options).learner()
    assert isinstance(learner, ModelBasedLearner)
    return learner


def begin(learner: ModelBasedLearner) -> SeedState:
    """The state after the warm-up."""
    schedule = Schedule.create(60, 20, 40, learner.env.horizon)
    return eqx.filter_jit(lambda: init_seed(learner, schedule, 10, jax.random.key(7)))()


def test_all_models_begin_with_the_same_episodes_and_the_same_policy():
    """Bit for bit: replay buffer, policy, statistics, keys to come; with a learned reward too.

    Not as one program each: the compiler may round the same numbers differently in different programs.
    """
    schedule = Schedule.create(60, 20, 40, Drift().horizon)

    def shared(model, **options):
        state = init_seed(make_learner(model, Drift(), **options), schedule, 10, jax.random.key(7))
        return bits((state.replay, state.key, state.learner.policy, state.learner.return_scale))

    first = shared("one-step")
    for model in ("history-rnn", "simulator"):
        assert shared(model) == first
    assert shared("one-step", learned_reward=True) == first


class Spy(AbstractDynamicsModel):
    """A model that also keeps a record of the episodes it is fitted on, by parameters that nothing else moves."""

    model: AbstractDynamicsModel
    record: jax.Array

    def predict(self, initial_state, actions, *, key=None):
        return self.model.predict(initial_state, actions, key=key)

    def init(self, initial_state):
        return self.model.init(initial_state)

    def step(self, carry, state, action, step):
        return self.model.step(carry, state, action, step)

    def loss(self, trajectory, *, key=None):
        return self.model.loss(trajectory, key=key) + jnp.vdot(self.record, trajectory.rewards)


def test_all_models_see_the_same_draws():
    """The same episodes to fit and the same noise to imagine with: the record and the actions that come of them.

    Rewards here depend on the actions alone, and so does the action sequence, so that no model has a part in them.
    """
    task = RewardIsAction()
    replay = begin(make_learner("one-step", task)).replay

    def draws(kind):
        learner = make_learner(kind, task)
        spied = dataclasses.replace(
            learner,
            make_model=lambda *, key: Spy(learner.make_model(key=key), jnp.zeros(task.horizon)),
            make_policy=ActionSequence,
        )

        @jax.jit
        def run():
            def update(step, state):
                return spied.update(state, replay, step, key=jax.random.fold_in(jax.random.key(3), step))

            start = spied.init(Normaliser.unknown(task.state_size), key=jax.random.key(1))
            state = loop(1, 7, update, start)
            return state.model.record, state.policy.means - start.policy.means

        return run()

    (record, moved), (other_record, other_moved) = draws("one-step"), draws("history-rnn")
    assert (record != 0).all() and len(np.unique(moved)) == moved.size
    np.testing.assert_allclose(other_record, record, rtol=1e-4)
    np.testing.assert_allclose(other_moved, moved, rtol=1e-3, atol=1e-6)
    # Three updates, each at most 30 times as far as Adam moves the parameters of a network, and not much less.
    rate = 30 * make_learner("one-step", task).settings.policy_learning_rate
    assert 1.5 * rate < np.abs(moved).max() < 3.01 * rate
