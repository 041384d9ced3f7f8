"""Statistics: the reference package's numbers, known limits, and that runs and tasks cannot be swapped."""

import dataclasses

import jax
import numpy as np
import pytest

from asmpg import UsageError
from asmpg.statistics import (
    area_under_curve,
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    profile_statistic,
    Scores,
    steps_to_score,
)


def scores(values) -> Scores:
    values = np.asarray(values, np.float64)
    return Scores(values, tuple("abcdefgh"[: values.shape[1]]), tuple(range(len(values))))


def example() -> tuple[Scores, Scores]:
    """Seven runs of one method and five of another on four tasks: numbers with ties and no pattern."""
    run, task = np.mgrid[:7, :4]
    one = (37 * (run + 1) * (task + 2) + 11 * task**2) % 97 / 97
    other = (53 * (run + 2) * (task + 1) + 29 * task) % 89 / 89
    return scores(one), scores(other[:5])


def test_the_reference_package_gives_the_same():
    """Numbers of rliable 1.2.0 (with arch 7.2.0 and NumPy 2.2.6) for `example()`.

    From its `aggregate_iqm`, `probability_of_improvement`, `create_performance_profile` at the thresholds below, and
    `get_interval_estimates` with 4,000 resamples, whose bounds are themselves known to about 0.01.
    """
    one, other = example()
    assert interquartile_mean(one) == pytest.approx(0.5382916053019146, abs=1e-12)
    assert interquartile_mean(other) == pytest.approx(0.48876404494382014, abs=1e-12)
    assert probability_of_improvement(one, other) == pytest.approx(0.5285714285714286, abs=1e-12)
    thresholds = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    expected = [1.0, 0.82142857, 0.60714286, 0.25, 0.0]
    np.testing.assert_allclose(performance_profile(one, thresholds), expected, atol=1e-8)
    np.testing.assert_allclose(performance_profile(other, thresholds), [1, 0.75, 0.5, 0.25, 0], atol=1e-8)
    np.testing.assert_allclose(bootstrap_interval(one, num_resamples=20_000), [0.4102, 0.6583], atol=0.02)
    np.testing.assert_allclose(bootstrap_interval(other, num_resamples=20_000), [0.3202, 0.6674], atol=0.02)
    np.testing.assert_allclose(
        improvement_interval(one, other, num_resamples=20_000), [0.35, 0.70], atol=0.02
    )


def test_an_aggregate_interval_covers_the_truth_about_as_often_as_it_says():
    """Of normal scores with a known mean: 95% intervals of a mean of 30 runs on two tasks miss it now and then."""
    generator = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        drawn = scores(generator.normal(0.5, 0.1, size=(30, 2)))
        low, high = bootstrap_interval(
            drawn,
            lambda values: values.mean(axis=(-2, -1)),
            num_resamples=400,
            key=jax.random.key(number),
        )
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_intervals_are_of_runs_within_tasks():
    """Where every run of a task is alike nothing varies, however different the tasks are."""
    interval = bootstrap_interval(scores(np.tile([0.0, 1.0, 5.0], (4, 1))))
    assert interval.low == interval.high == interquartile_mean(scores(np.tile([0.0, 1.0, 5.0], (4, 1))))


def test_the_same_key_draws_the_same_resamples():
    one, _ = example()
    legacy, typed = jax.random.PRNGKey(3), jax.random.key(3)
    assert bootstrap_interval(one, key=legacy) == bootstrap_interval(one, key=typed)
    assert bootstrap_interval(one, key=typed) != bootstrap_interval(one, key=jax.random.key(4))
    assert bootstrap_interval(one) == bootstrap_interval(one)


def test_a_profile_with_a_band():
    one, _ = example()
    thresholds = np.linspace(-0.1, 1.1, 7)
    profile = performance_profile(one, thresholds)
    low, high = bootstrap_interval(one, profile_statistic(thresholds))
    assert (profile[0], profile[-1]) == (1.0, 0.0)
    assert (np.diff(profile) <= 0).all()
    assert (low <= profile).all()
    assert (profile <= high).all()
    assert (low < high)[1:-1].any()


def test_improvement_is_certain_for_the_better_and_even_against_oneself():
    one, other = example()
    assert probability_of_improvement(one, one) == 0.5
    assert probability_of_improvement(scores(one.values + 2), other) == 1.0
    assert improvement_interval(scores(one.values + 2), other) == (1.0, 1.0)
    there, back = probability_of_improvement(one, other), probability_of_improvement(other, one)
    assert there + back == pytest.approx(1.0, abs=1e-12)


def test_the_interquartile_mean_ignores_both_ends():
    values = np.arange(8.0).reshape(4, 2)
    spoilt = values.copy()
    spoilt[0, 0], spoilt[3, 1] = -1e9, 1e9
    assert interquartile_mean(scores(values)) == interquartile_mean(scores(spoilt)) == 3.5


def test_the_area_under_a_curve_is_its_mean_height():
    steps = [0, 100, 400]
    lines = np.array([[0.0, 1.0], [0.25, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(area_under_curve(steps, lines), [0.5, 1.0])


def test_steps_to_a_score_are_those_of_the_first_record_that_has_it():
    curves = np.array([[0.0, 0.9, np.nan], [0.5, 0.1, 0.4], [0.9, 0.2, np.nan]])
    np.testing.assert_array_equal(steps_to_score([10, 20, 40], curves, 0.5), [20.0, 10.0, np.inf])


# What cannot be mixed up


def check(values, tasks, runs):
    """The checks of `Scores` itself, without those of the annotations that only the tests install."""
    one = object.__new__(Scores)
    for name, value in {"values": values, "tasks": tasks, "runs": runs}.items():
        object.__setattr__(one, name, value)
    one.__post_init__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": (0, 1, 2, 3)}, "tasks must be named by words"),
        ({"runs": tuple("abcdefg")}, "runs must be named by integers"),
        ({"runs": (0, 1, 2, 3, 4, 5, 5)}, "all different"),
        ({"tasks": ("a", "b", "c", "a")}, "all different"),
        ({"tasks": ("a", "b", "c")}, r"\[7, 3\], got \[7, 4\]"),
        ({"values": np.zeros((4, 7))}, r"\[7, 4\], got \[4, 7\]"),
        ({"values": np.where(np.arange(28).reshape(7, 4) == 9, np.nan, 1.0)}, "run 2 of b is not finite"),
        ({"values": np.zeros((0, 0)), "runs": (), "tasks": ()}, "at least one"),
    ],
)
def test_axes_are_checked(change, message):
    with pytest.raises(UsageError, match=message):
        check(**(vars(example()[0]) | change))


def test_a_square_table_cannot_be_transposed_either():
    square = scores(np.eye(3))
    with pytest.raises(UsageError, match="named by"):
        check(square.values.T, square.runs, square.tasks)


def test_rows_may_come_in_any_order_but_have_to_be_all_there():
    one, _ = example()
    rows = [
        {"seed": seed, "task": task, "score": one.values[i, j], "model": "lstm"}
        for i, seed in enumerate(one.runs)
        for j, task in enumerate(one.tasks)
    ]
    backwards = Scores.from_rows(rows[::-1])
    assert backwards.tasks == one.tasks[::-1]
    np.testing.assert_array_equal(backwards.values, one.values[:, ::-1])
    with pytest.raises(UsageError, match="seed 1 of c is missing"):
        Scores.from_rows([row for row in rows if (row["seed"], row["task"]) != (1, "c")])
    with pytest.raises(UsageError, match="seed 0 of a is there twice"):
        Scores.from_rows([*rows, rows[0]])
    with pytest.raises(UsageError, match="run 0 of a is not finite"):
        Scores.from_rows([rows[0] | {"score": None}, *rows[1:]])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one, other: probability_of_improvement(one, dataclasses.replace(other, tasks=tuple("dcba"))),
        lambda one, other: bootstrap_interval(one, confidence=95.0),
        lambda one, other: bootstrap_interval(one, num_resamples=0),
        lambda one, other: area_under_curve([0, 0, 1], np.zeros(3)),
        lambda one, other: area_under_curve([0], np.zeros(1)),
        lambda one, other: steps_to_score([0, 1], np.zeros(3), 0.5),
    ],
)
def test_mistakes_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong(*example())
