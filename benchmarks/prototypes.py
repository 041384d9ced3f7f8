"""Ideas that `ablations.py` measured and the package does not have: each is a patch of it, or an object at its doors.

A variant named after one of these is `gated+loss+average` and the idea, in a process of its own.
"""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp

import asmpg
from asmpg.learners import model_based
from asmpg.learners.base import AbstractLearner
from asmpg.learners.replay import ReplayBuffer
from asmpg.models import ActionSequenceModel
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import AbstractActor


def _patch(name: str, method: Callable[..., Any]) -> None:
    setattr(model_based.ModelBasedLearner, name, method)


@final
class Shifted(AbstractActor):
    """An actor whose actions are all moved by the same, clipped to the bounds."""

    actor: Any
    shift: jax.Array

    def begin(self):
        return self.actor.begin()

    def act(self, carry, state, step, noise=None):
        return jnp.clip(self.actor.act(carry, state, step, noise) + self.shift, -1.0, 1.0)

    def observe(self, carry, state, step, action, reward):
        return self.actor.observe(carry, state, step, action, reward)


def varied_warmup() -> dict[str, Any]:
    """In the warm-up the actions of an episode are moved by an amount that is uniform in [-1, 1], drawn once."""

    def explorer(self, state, *, key):
        actor = AbstractLearner.explorer(self, state, key=key)
        counts = [leaf for leaf in jax.tree.leaves(state.policy_optimiser) if leaf.dtype == jnp.int32]
        size = (self.env.action_size,)
        shift = jax.random.uniform(jax.random.fold_in(key, 7), size, minval=-1.0, maxval=1.0)
        return Shifted(actor, jnp.where(counts[0] == 0, shift, 0.0))

    _patch("explorer", explorer)
    return {}


# A policy may be this far, in mean squared action, from what was done in the last real episode (noise and all).
FREE, WEIGHT = 0.25, 10.0


def move_limit() -> dict[str, Any]:
    """A penalty on policies whose actions have moved far from those of the last real episode, in its states."""

    class Last:
        def __init__(self, replay: ReplayBuffer):
            self.replay, self.initial_states = replay, replay.initial_states

        def sample(self, number: int, *, key):
            row = (self.replay.count - 1) % self.replay.capacity
            return jax.tree.map(lambda leaf: jnp.repeat(leaf[row][None], number, 0), self.replay.episodes)

    improve: Any = model_based.ModelBasedLearner.improve
    distance = model_based.cloning_distance
    _patch("improve", lambda self, state, replay, *, key: improve(self, state, Last(replay), key=key))
    model_based.cloning_distance = lambda policy, episode: jnp.maximum(distance(policy, episode) - FREE, 0)
    return {"overrides": {"cloning": WEIGHT}}


@final
class Ensemble(asmpg.AbstractDynamicsModel):
    """The mean of three LSTM action-sequence models, each fitted by itself on the same batches."""

    members: list[ActionSequenceModel]

    def __init__(self, env, *, key):
        self.members = [
            ActionSequenceModel(
                env,
                "lstm",
                difference_loss=1.0,
                decoder_output="gated",
                normaliser=Normaliser.unknown(env.state_size),
                key=each,
            )
            for each in jax.random.split(key, 3)
        ]

    @property
    def two_pass(self):
        return self.members[0].two_pass

    def predict(self, initial_state, actions, *, key=None):
        return sum(member.predict(initial_state, actions) for member in self.members) / 3

    def init(self, initial_state):
        return [member.init(initial_state) for member in self.members]

    def step(self, carry, state, action, step):
        carries, states = zip(
            *(
                member.step(each, state, action, step)
                for member, each in zip(self.members, carry, strict=True)
            ),
            strict=True,
        )
        return list(carries), sum(states) / 3

    def loss(self, trajectory, *, key=None):
        return sum(member.loss(trajectory) for member in self.members)


def ensemble() -> dict[str, Any]:
    """Three models, one gradient."""
    return {"model": Ensemble}


@final
class WithShortTails(asmpg.AbstractEnvironment):
    """A task whose state is told as `c asinh(z / c)`, z being the state in units of its spread in random episodes."""

    task: asmpg.AbstractEnvironment
    mean: jax.Array
    unit: jax.Array
    horizon: int = eqx.field(static=True)
    name: str = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    action_size: int = eqx.field(static=True)
    tail: float = eqx.field(static=True)

    def __init__(self, task: asmpg.AbstractEnvironment, tail: float):
        shape = (16, task.horizon, task.action_size)
        actions = jax.random.uniform(jax.random.key(0), shape, minval=-1.0, maxval=1.0)
        states = jax.vmap(lambda each: asmpg.rollout(task, each).states)(actions)
        self.task, self.mean, self.unit = task, states.mean((0, 1)), states.std((0, 1)) + 1e-12
        self.horizon, self.name, self.tail = task.horizon, task.name + "_with_short_tails", tail
        self.state_size, self.action_size = task.state_size, task.action_size

    def _told(self, state):
        return self.tail * jnp.arcsinh((state - self.mean) / self.unit / self.tail)

    def _meant(self, told):
        return self.mean + self.unit * self.tail * jnp.sinh(told / self.tail)

    def initial_state(self, *, key=None):
        return self._told(self.task.initial_state(key=key))

    def transition(self, state, action, step):
        return self._told(self.task.transition(self._meant(state), action, step))

    def reward(self, state, action, step):
        return self.task.reward(self._meant(state), action, step)

    def terminal_reward(self, state):
        return self.task.terminal_reward(self._meant(state))


def short_tails_1() -> dict[str, Any]:
    """States beyond one standard deviation of random episodes are told on a logarithmic scale."""
    return {"wrap": lambda task: WithShortTails(task, 1.0)}


def short_tails_2() -> dict[str, Any]:
    """The same beyond two."""
    return {"wrap": lambda task: WithShortTails(task, 2.0)}


@final
class InGrowthUnits(asmpg.AbstractEnvironment):
    """A task whose state is told as `asinh(s / unit)`, linear below a unit and logarithmic far above it."""

    task: asmpg.AbstractEnvironment
    unit: jax.Array
    horizon: int = eqx.field(static=True)
    name: str = eqx.field(static=True)
    state_size: int = eqx.field(static=True)
    action_size: int = eqx.field(static=True)

    def __init__(self, task: asmpg.AbstractEnvironment):
        actions = jax.random.uniform(
            jax.random.key(0), (16, task.horizon, task.action_size), minval=-1.0, maxval=1.0
        )
        states = jax.vmap(lambda each: asmpg.rollout(task, each).states)(actions)
        self.task, self.unit = task, 0.05 * jnp.abs(states).max((0, 1)) + 1e-12
        self.horizon, self.name = task.horizon, task.name + "_in_growth_units"
        self.state_size, self.action_size = task.state_size, task.action_size

    def _told(self, state):
        return jnp.arcsinh(state / self.unit)

    def _meant(self, told):
        return jnp.sinh(told) * self.unit

    def initial_state(self, *, key=None):
        return self._told(self.task.initial_state(key=key))

    def transition(self, state, action, step):
        return self._told(self.task.transition(self._meant(state), action, step))

    def reward(self, state, action, step):
        return self.task.reward(self._meant(state), action, step)

    def terminal_reward(self, state):
        return self.task.terminal_reward(self._meant(state))


def growth_units() -> dict[str, Any]:
    """Model and policy see, and the model predicts, states in units that suit growth over orders of magnitude."""
    return {"wrap": InGrowthUnits}


PROTOTYPES: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        *(varied_warmup, move_limit, ensemble, growth_units),
        *(short_tails_1, short_tails_2),
    )
}
