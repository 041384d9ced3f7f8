"""Training on a task with constraints: the penalty drives violations down, and records and results say what is left."""

import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.training.runs.health import violations


def race(penalty=50.0, **options):
    """To get as far as possible with a speed of at most 2, though no further than 1, and to end at 0.5."""
    return asmpg.from_ode(
        lambda x, u, t: u,
        lambda x, u, t: -x[0],
        initial_state=0.0,
        duration=2.0,
        horizon=4,
        control_bounds=(-2.0, 2.0),
        path_constraint=lambda x, u, t: x[0] - 1.0,
        terminal_constraint=lambda x: x[0] - 0.5,
        penalty=penalty,
        name="race",
        **options,
    )


def trained(env, steps):
    settings = {
        "policy_batch_size": 4,
        "warmup_steps": 8,
        "policy_learning_rate": 0.02,
        "policy_update_every": 1,
    }
    config = asmpg.TrainConfig(env, model="simulator", steps=steps, chunk_steps=40, overrides=settings)
    return asmpg.train(config)


def test_the_violation_falls_and_what_is_left_is_said():
    env = race()
    result = trained(env, 400)
    violation = result.metrics["violation"][:, 0]
    states = asmpg.rollout(env, result.policy_of(0)).states[:, 0]
    np.testing.assert_allclose(violation[-1], max(abs(states[-1] - 0.5), states.max() - 1.0), rtol=1e-4)
    assert violation[-5:].mean() < 0.3 * violation[0]
    left = [line for line in result.summary()["problems"] if "violates the constraints" in line]
    assert len(left) == (violation[-1] > 1e-3)


@pytest.mark.thorough
def test_with_the_multipliers_of_the_optimum_less_is_left():
    env, optimum = race(1.0), asmpg.optimal(race(1.0), num_starts=1)
    np.testing.assert_allclose(optimum.states[:, 0], [0.0, 1.0, 1.0, 1.0, 0.5], atol=1e-5)
    plain, priced = (trained(task, 400).metrics["violation"][-3:, 0].mean() for task in
                     (env, env.with_multipliers(optimum.multipliers)))  # fmt: skip
    assert priced < 0.5 * plain


def test_a_task_without_constraints_has_no_such_metric():
    env = asmpg.make("harvest", 4)
    assert env.violation(jnp.zeros((5, 1)), jnp.zeros((4, 1))) is None
    assert "violation" not in trained(env, 16).metrics


@pytest.mark.thorough
def test_a_violation_is_told_by_its_share_whatever_the_units():
    """In units of 1e-6 the largest violation there can be used to count as none."""
    for unit in (1e-6, 1e6):
        env = asmpg.from_ode(
            lambda x, u, t, unit=unit: unit * u,
            lambda x, u, t: u[0] ** 2,
            initial_state=0.0,
            duration=1.0,
            horizon=4,
            control_bounds=(-1.0, 1.0),
            terminal_constraint=lambda x, unit=unit: x - 2 * unit,
            penalty=1e-3 / unit**2,
            name="out of reach",
        )
        metrics = trained(env, 16).metrics
        np.testing.assert_array_less(0.4, metrics["relative_violation"][-1])
        left = violations(metrics, 0)
        assert len(left) == 1
        assert "seed 0: the last policy violates the constraints" in left[0]
        near = {"violation": np.full((1, 1), 1e-4 * unit), "relative_violation": np.full((1, 1), 1e-4)}
        assert violations(near, 0) == []
