"""Rates are leaves of a method: under `vmap` over them every run is as it is alone."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg import TrainConfig
from asmpg.learners.settings import number_names
from asmpg.tasks.world import evaluation_starts
from asmpg.training.loop import advance_seed, init_seed, Schedule
from probes import RewardIsState


pytestmark = pytest.mark.usefixtures("quickly")

SCHEDULE = Schedule(num_episodes=9, warmup_episodes=3, chunk_episodes=3, round_steps=4)
SMALL = {"model_batch_size": 2, "policy_batch_size": 2, "warmup_steps": 12}
ENV = RewardIsState(horizon=4)


def make_learner(model: str, **overrides):
    sizes = {"sac": {"batch_size": 4}, "odt": {"batch_size": 2, "context": 2, "return_target": 1.0}}
    overrides = {**sizes.get(model, SMALL), **overrides}
    return TrainConfig(ENV, model=model, steps=36, overrides=overrides).learner()


def train(learner, rates, starts) -> dict[str, jax.Array]:
    """The last metrics of one seed of a learner with these rates, which may be traced."""
    own = eqx.tree_at(
        lambda one: [getattr(one.settings, name) for name in rates], learner, list(rates.values())
    )
    state = init_seed(own, SCHEDULE, 16, jax.random.key(0))
    numbers = (jnp.asarray(SCHEDULE.warmup_episodes), jnp.asarray(6))
    return advance_seed(own, starts, SCHEDULE, state, *numbers)[1]


def test_seeds_that_differ_in_rates_are_as_they_are_alone():
    rates = {"entropy": [0.5, 0.001], "model_learning_rate": [1e-2, 1e-3], "gradient_clip": [0.01, 1.0]}
    learner, starts = make_learner("one-step"), evaluation_starts(ENV)
    alone = jax.jit(lambda given: train(learner, given, starts))
    each = [alone({name: jnp.asarray(values[i]) for name, values in rates.items()}) for i in range(2)]
    both = jax.jit(jax.vmap(lambda given: train(learner, given, starts)))(
        {name: jnp.asarray(values) for name, values in rates.items()}
    )
    assert not np.allclose(*both["return"], rtol=1e-3)
    for name in both:
        values = [metrics[name] for metrics in each]
        np.testing.assert_allclose(both[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", ["lstm", "sac", "odt"])
def test_every_rate_may_be_traced(model):
    """No size and no branch of the program depends on one."""
    learner, starts = make_learner(model), evaluation_starts(ENV)
    rates = {
        name: jnp.asarray(getattr(learner.settings, name)) for name in number_names(type(learner.settings))
    }
    assert {"policy_learning_rate", "gradient_clip"} < rates.keys()
    metrics = jax.eval_shape(lambda given: train(learner, given, starts), rates)
    assert metrics["return"].shape == ()


def test_settings_of_one_name_are_of_one_kind():
    """So that a rate of one method is a rate of every other that has it."""
    kinds: dict[str, bool] = {}
    for method in asmpg.MODELS.values():
        rates = number_names(method.settings)
        for field in dataclasses.fields(method.settings):
            assert kinds.setdefault(field.name, field.name in rates) == (field.name in rates)
