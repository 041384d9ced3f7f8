"""Tiny tasks with known optima, each of which isolates one thing that a method can get wrong."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from asmpg.tasks.environment import AbstractEnvironment


@final
class RewardIsAction(AbstractEnvironment):
    """Pays `-(a - target)^2` at every step: no credit to assign at all. The state only counts steps."""

    horizon: int = eqx.field(static=True, default=8)
    target: float = eqx.field(static=True, default=0.3)
    name: str = eqx.field(static=True, default="reward_is_action")
    state_size: int = eqx.field(static=True, default=1)
    action_size: int = eqx.field(static=True, default=1)
    best_return = property(lambda self: 0.0)

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return state + 1 / self.horizon

    def reward(self, state, action, step):
        return -((action[0] - self.target) ** 2)


@final
class RewardIsState(AbstractEnvironment):
    """Pays the state, which integrates the actions: credit over all later steps. Best to push all the way up."""

    horizon: int = eqx.field(static=True, default=8)
    name: str = eqx.field(static=True, default="reward_is_state")
    state_size: int = eqx.field(static=True, default=1)
    action_size: int = eqx.field(static=True, default=1)
    best_return = property(lambda self: (self.horizon - 1) / 2)

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return state + action / self.horizon

    def reward(self, state, action, step):
        return state[0]


@final
class DelayedReward(AbstractEnvironment):
    """Pays `-(s - target)^2` at the last step only, for the mean s of the actions before it."""

    horizon: int = eqx.field(static=True, default=8)
    target: float = eqx.field(static=True, default=-0.25)
    name: str = eqx.field(static=True, default="delayed_reward")
    state_size: int = eqx.field(static=True, default=1)
    action_size: int = eqx.field(static=True, default=1)
    best_return = property(lambda self: 0.0)

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return state + action / (self.horizon - 1)

    def reward(self, state, action, step):
        return jnp.where(step == self.horizon - 1, -((state[0] - self.target) ** 2), 0.0)


@final
class OneOf(AbstractEnvironment):
    """That of several tasks of the same sizes which a number says: one compiled program for all of them.

    Rewards are shifted by the same amount at every step, so that the best return of each is 0.
    """

    index: Array
    tasks: tuple[Any, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True, default="one_of")
    horizon = property(lambda self: self.tasks[0].horizon)
    state_size = property(lambda self: self.tasks[0].state_size)
    action_size = property(lambda self: self.tasks[0].action_size)
    best_return = property(lambda self: 0.0)

    def initial_state(self, *, key=None):
        return jax.lax.switch(self.index, [task.initial_state for task in self.tasks])

    def transition(self, state, action, step):
        return jax.lax.switch(self.index, [task.transition for task in self.tasks], state, action, step)

    def reward(self, state, action, step):
        best = jnp.array([task.best_return for task in self.tasks])[self.index]
        paid = jax.lax.switch(self.index, [task.reward for task in self.tasks], state, action, step)
        return paid - best / self.horizon
