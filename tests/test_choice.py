"""`model="auto"`: each rule on both of its sides, and that the run which follows is the chosen model's own."""

import dataclasses

import jax
import numpy as np
import pytest

import asmpg
from asmpg.gradients.analysis import growth_fit
from asmpg.training import choice
from asmpg.training.choice import choose_model, compare, LARGEST_GROWTH, ONE_STEP, SEQUENCE
from asmpg.training.config import TrainConfig
from asmpg.training.loop import init_seed, Schedule
from asmpg.training.runs import lifecycle
from toys import bits


HORIZON = 6


@pytest.fixture(scope="module")
def fitted():
    """Some fit; the tests put other errors and growths in it."""
    rng = np.random.default_rng(0)
    sizes = (4, HORIZON + 1, 1), (4, HORIZON, 1), (4, HORIZON)
    data = asmpg.Episodes(*(rng.uniform(-1, 1, size) for size in sizes))
    return asmpg.fit(data, ONE_STEP, 1)


def with_numbers(fitted, error, factor):
    """A fit with a constant error, and a gradient that grows by a factor over the horizon."""
    steps = np.arange(1, HORIZON + 1)
    growth = factor if isinstance(factor, str) else growth_fit(steps, factor ** (steps / HORIZON))
    return dataclasses.replace(fitted, error=np.full(HORIZON, error), growth=growth)


@pytest.mark.parametrize(
    ("error", "factor", "expected", "words"),
    [
        (0.1, 10.0, ONE_STEP, "0.1"),
        (0.2, 10.0, SEQUENCE, "held-out error"),
        (0.6, 10.0, SEQUENCE, "held-out error"),
        (float("nan"), 10.0, SEQUENCE, "held-out error"),
        (0.1, 10 * LARGEST_GROWTH, SEQUENCE, "grows"),
        (0.1, LARGEST_GROWTH / 10, ONE_STEP, "changes"),
        (0.1, "norms that are not finite", SEQUENCE, "not finite"),
    ],
)
def test_the_one_step_model_if_it_predicts_much_better_and_does_not_explode(
    fitted, error, factor, expected, words
):
    found = compare(with_numbers(fitted, error, factor), with_numbers(fitted, 0.5, 1.0))
    assert found.model == expected
    assert words in found.reason and "\n" not in found.reason


def config(task="harvest", **options):
    return TrainConfig(
        task, horizon=HORIZON, steps=30, chunk_steps=12, overrides={"warmup_steps": 18}, **options
    )


@pytest.fixture
def few_updates(monkeypatch):
    monkeypatch.setattr(choice, "NUM_UPDATES", 3)


@pytest.mark.thorough
def test_the_run_is_that_of_the_chosen_model(few_updates, monkeypatch):
    choices, told = [], []
    monkeypatch.setattr(
        lifecycle, "choose_model", lambda config: choices.append(choose_model(config)) or choices[-1]
    )
    by_itself = asmpg.train(config(model="auto"), progress=told.append)
    (chosen,) = choices
    named = asmpg.train(config(model=chosen.model))
    assert by_itself.config.model == chosen.model
    assert any(chosen.reason in progress.message for progress in told)
    assert bits(by_itself.policy) == bits(named.policy)


def test_it_is_decided_on_the_episodes_that_the_run_begins_with():
    given = config(model=ONE_STEP, seed=3).checked()
    data = choice._warmup_episodes(given)
    schedule = Schedule.create(given.steps, given.settings().warmup_steps, given.chunk_steps, HORIZON)
    begun = init_seed(given.learner(), schedule, 5, jax.random.key(3)).replay.episodes
    assert len(data) == 3
    np.testing.assert_allclose(data.observations, begun.states[:3], rtol=1e-6)
    np.testing.assert_allclose(data.actions, begun.actions[:3], rtol=1e-5, atol=1e-6)


def test_a_wrong_setting_is_refused_before_anything_is_fitted():
    with pytest.raises(asmpg.UsageError, match="entropy"):
        asmpg.train("harvest", horizon=HORIZON, model="auto", overrides={"entropy": -1.0})
