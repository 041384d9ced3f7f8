"""A method that learns nothing, at once: for tests of everything around the learning."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

import asmpg
from asmpg.learners.base import AbstractLearner


class State(asmpg.AbstractPolicy):
    """A policy that does the same whatever the state is, and what makes it change."""

    push: jax.Array

    def sample_and_log_prob(self, state, step, noise):
        return jnp.tanh(self.push + noise), jnp.zeros(())

    def mode(self, state, step):
        return jnp.tanh(self.push)

    def __call__(self, state, step, *, key=None):
        return self.mode(state, step)


class Wanderer(AbstractLearner):
    """Its state depends on every key, on the replayed episodes, on the number of updates and on one setting.

    Attributes:
        note: is called when a warm-up has really been run.
    """

    env: asmpg.AbstractEnvironment
    settings: asmpg.Settings
    note: Callable[[], None] | None = eqx.field(static=True, default=None)

    def init(self, normaliser, *, key):
        return State(jax.random.normal(key, (1,)))

    def observe_warmup(self, state, episodes):
        if self.note is not None:
            jax.debug.callback(self.note)
        return State(state.push + episodes.episode_return.mean() + self.settings.entropy)

    def update(self, state, replay, elapsed, *, key):
        change = 0.1 * jax.random.normal(key, (1,)) + 1e-3 * replay.sample(1, key=key).rewards.mean()
        return State(0.9 * state.push + change + 1e-4 * elapsed)

    def policy(self, state):
        return state

    def diagnose(self, state, replay, trajectory, *, key):
        return state, {"push": state.push[0], "entropy": -state.push[0]}
