"""Seeds with several settings trained as one program: all of them end as they would alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import asmpg
from asmpg import TrainConfig
from asmpg.training.loop import Schedule, Trainer
from asmpg.training.methods import MAY_DIFFER
from probes import RewardIsState


NUM_SEEDS = 2
SCHEDULE = Schedule(num_episodes=9, warmup_episodes=3, chunk_episodes=3)
SMALL = {"model_batch_size": 2, "policy_batch_size": 2, "warmup_steps": 12}


def make_config(model: str, **overrides) -> TrainConfig:
    sizes = {"sac": {"batch_size": 4}, "odt": {"batch_size": 2, "context": 2, "return_target": 1.0}}
    overrides = {**sizes.get(model, SMALL), **overrides}
    return TrainConfig(RewardIsState(horizon=4), model=model, steps=36, overrides=overrides)


def train(trainer: Trainer) -> dict[str, np.ndarray]:
    """The last metrics of a whole run."""
    state = trainer.init()
    for chunk in SCHEDULE.chunks(SCHEDULE.warmup_episodes):
        state, metrics = trainer.advance(state, *chunk)
    return {name: np.asarray(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        (
            "one-step",
            {"entropy": [0.5, 0.001], "model_learning_rate": [1e-2, 1e-3], "gradient_clip": [0.01, 1.0]},
        ),
        (
            "sac",
            {
                "critic_learning_rate": [1e-2, 1e-3],
                "temperature": [0.5, 0.01],
                "discount": [0.9, 1.0],
                "tune_temperature": False,
            },
        ),
    ],
)
def test_seeds_that_differ_in_numbers_are_as_they_are_alone(model, numbers, quickly):
    fixed = {name: value for name, value in numbers.items() if name not in MAY_DIFFER}
    numbers = {name: values for name, values in numbers.items() if name in MAY_DIFFER}
    config = make_config(model, **fixed, **{name: values[1] for name, values in numbers.items()})
    alone = train(Trainer(config.learner(), SCHEDULE, range(NUM_SEEDS)))
    learner = make_config(model, **fixed).learner()
    settings = [
        dataclasses.replace(learner.settings, **{name: values[i] for name, values in numbers.items()})
        for i in range(2)
    ]
    both = train(Trainer(learner, SCHEDULE, range(NUM_SEEDS), settings))
    first, second = np.split(both["return"], 2)
    assert not np.allclose(first, second, rtol=1e-3)
    for name, values in alone.items():
        second = np.split(both[name], 2)[1]
        np.testing.assert_allclose(second, values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", ["lstm", "sac", "odt"])
def test_every_number_that_may_differ_can_be_one_that_only_the_program_knows(model):
    learner = make_config(model).learner()
    own = {name: getattr(learner.settings, name) for name in MAY_DIFFER if hasattr(learner.settings, name)}
    assert {"policy_learning_rate", "gradient_clip"} < own.keys()
    doubled = dataclasses.replace(learner.settings, **{name: 2 * value for name, value in own.items()})
    trainer = Trainer(learner, SCHEDULE, [0], [learner.settings, doubled])
    state, _ = jax.eval_shape(
        functools.partial(trainer.advance, first_episode=3, num_episodes=3), trainer.shapes
    )
    assert jax.tree.structure(state) == jax.tree.structure(trainer.shapes)
    assert {
        name for method in asmpg.MODELS.values() for name in MAY_DIFFER if name in fields(method)
    } == MAY_DIFFER


def fields(method) -> set[str]:
    return {field.name for field in dataclasses.fields(method.settings)}
