"""What a run gives back, seed by seed; and what it says where something is wrong with it."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg import TrainConfig, UsageError
from asmpg.cli import main
from asmpg.training.runs import health, RunWarning
from probes import RewardIsState
from wanderer import Wanderer


TASK = RewardIsState(horizon=8)
CONFIG = TrainConfig(
    TASK, model=Wanderer, steps=64, seed=5, num_seeds=3, chunk_steps=16, overrides={"warmup_steps": 16}
)


@pytest.fixture(scope="module")
def result():
    return asmpg.train(CONFIG)


pytestmark = pytest.mark.usefixtures("quickly")


def test_a_seed_has_no_axis_of_seeds(result):
    for index, seed in enumerate((5, 6, 7)):
        one = result.seed(seed)
        assert one.seed == seed
        assert one.episode_return == result.returns[index]
        assert one.policy.push.shape == (1,)
        assert one.policy.push[0] == result.policy.push[index, 0] == result.policy_of(seed).push[0]
        assert one.policy.mode(TASK.initial_state(), 0).shape == (1,)
        assert {series.shape for series in one.metrics.values()} == {result.metrics["return"].shape[:1]}
        assert one.replay.episodes.rewards.shape == result.replay.episodes.rewards.shape[1:]
    for seed in (4, 8, -1):
        with pytest.raises(UsageError, match=f"^seed: {seed} is not one of 5, 6, 7"):
            result.policy_of(seed)


def test_an_episode_of_a_result_is_that_of_a_seeds_policy(result):
    returns = [float(result.rollout(seed=seed).episode_return) for seed in (5, 6, 7)]
    np.testing.assert_allclose(returns, result.returns, rtol=1e-5)
    assert result.best.seed == 5 + int(np.argmax(result.returns)) == result.best_seed
    np.testing.assert_allclose(result.rollout().episode_return, result.returns.max(), rtol=1e-5)
    start = TASK.initial_state() + 2.0
    moved = result.rollout(start, seed=6)
    assert (moved.states[0] == start).all()
    expected = asmpg.rollout(TASK, result.policy_of(6), initial_state=start)
    assert (moved.rewards == expected.rewards).all()
    noisy = result.rollout(seed=6, key=jax.random.key(0))
    assert noisy.rewards.shape == (8,)


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_policies_of_several_seeds_are_not_one(num_seeds):
    keys = jax.random.split(jax.random.key(0), num_seeds)
    policies = eqx.filter_vmap(lambda key: asmpg.TanhGaussianPolicy(TASK, key=key))(keys)
    with pytest.raises(
        UsageError, match=rf"^rollout: the policy has an axis of {num_seeds} seeds.*policy_of"
    ):
        asmpg.rollout(TASK, policies)
    with pytest.raises(UsageError, match=rf"^policy: has an axis of {num_seeds} seeds"):
        policies(TASK.initial_state(), 0)
    with pytest.raises(UsageError, match=r"^policy: state: must have shape"):
        asmpg.TanhGaussianPolicy(TASK, key=keys[0])(jnp.zeros(TASK.state_size + 1), 0)
    one = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, policies)
    assert asmpg.rollout(TASK, one).rewards.shape == (8,)


def test_a_result_in_place_of_a_policy_is_told_what_to_take_of_it(result):
    for given, name in ((result, "Result"), (result.seed(5), "SeedResult")):
        with pytest.raises(UsageError, match=rf"^rollout: policy: got a {name}; take a policy of it"):
            asmpg.rollout(TASK, given)


def test_rows_are_every_record_of_every_seed(result):
    rows = result.to_rows()
    assert len(rows) == result.metrics["return"].size
    assert {row["seed"] for row in rows} == {5, 6, 7}
    for row in rows:
        records = list(result.metrics["steps"][:, row["seed"] - 5])
        assert row["return"] == result.metrics["return"][records.index(row["steps"]), row["seed"] - 5]
    json.dumps(rows)


def test_a_result_is_shown_in_a_line_and_in_a_table(result):
    assert "\n" not in repr(result)
    assert len(repr(result)) < 200
    assert "reward_is_state, H = 8, Wanderer, 3 seeds, 64 steps" in repr(result)
    shown = result._repr_html_()
    assert shown.count("<tr>") == 4
    assert all(f"<td>{seed}</td>" in shown for seed in (5, 6, 7))
    figure = result.plot()
    assert len(figure.axes) == 1
    lines = [line.get_ydata() for line in figure.axes[0].get_lines()]
    assert any(np.array_equal(line, result.metrics["return"].mean(axis=1)) for line in lines)


# What is wrong with a run


def metrics(**series) -> dict[str, np.ndarray]:
    """Of one seed each, or of several as lists of lists."""
    arrays = {name: np.array(values, float) for name, values in series.items()}
    arrays = {name: array[:, None] if array.ndim == 1 else array for name, array in arrays.items()}
    arrays["steps"] = np.broadcast_to(np.arange(len(arrays["return"]))[:, None], arrays["return"].shape)
    return arrays


def test_updates_are_all_skipped_where_none_has_a_gradient():
    one = metrics(**{"return": [0, 0, 0], "num_nonfinite": [0, 5, 7], "gradient_norm": [0, 0, 1.5]})
    assert [bool(health.all_skipped(one, record)[0]) for record in range(3)] == [False, True, False]
    assert not health.learned_nothing(one)
    assert health.learned_nothing({name: values[:2] for name, values in one.items()})
    assert not health.learned_nothing({name: values[:1] for name, values in one.items()})


def test_a_gradient_of_zero_is_told_from_no_update():
    series = {"return": [0, 0, 0], "num_nonfinite": [0, 0, 0], "gradient_norm": [0, 0, 0]}
    one = metrics(**series, entropy=[0, -1.2, 0])
    assert [bool(health.all_zero(one, record)[0]) for record in range(3)] == [False, True, False]


def test_a_policy_that_falls_is_said_with_its_best_record():
    scores = metrics(**{"return": [[0, 0]] * 3, "score": [[0.1, 0.1], [0.91, 0.5], [-4.7, 0.45]]})
    (line,) = health.falls(scores, 3)
    assert line == "seed 3: the last policy has score -4.7, that of step 1 had 0.91"
    returns = metrics(**{"return": [-100, -10, np.nan, -30]})
    assert health.falls(returns, 0) == [
        "seed 0: the last policy has return -30, that of step 1 had -10",
    ]
    assert not health.falls(metrics(**{"return": [-100, -10, -12]}), 0)
    best, steps = health.best_records(returns)
    assert (best[0], steps[0]) == (-10, 1)


def test_a_run_that_is_all_warm_up_says_so(result):
    with pytest.warns(RunWarning, match=r"all 32 steps are warm-up.*warmup_steps, 40"):
        asmpg.train(dataclasses.replace(CONFIG, steps=32, overrides={"warmup_steps": 40}))


THRUSTER = """
import asmpg, jax.numpy as jnp

class Thruster(asmpg.AbstractEnvironment):
    '''Finite everywhere, but with a derivative that is none: the square root of a number that stays zero.'''

    horizon: int = 6
    name: str = "thruster"
    state_size = property(lambda self: 2)
    action_size = property(lambda self: 1)

    def initial_state(self, *, key=None):
        return jnp.zeros(2)

    def transition(self, s, a, step):
        return jnp.stack([s[0] + 0.2 * a[0] - jnp.sqrt(jnp.abs(s[1])), 0.0 * a[0]])

    def reward(self, s, a, step):
        return -((s[0] - 1.0) ** 2)
"""


def test_a_run_without_one_finite_gradient_says_where_and_ends_with_status_one(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(THRUSTER)
    line = "train own.py:Thruster --horizon 6 --model simulator --steps 120 --warmup-steps 12 --policy-batch-size 2"
    status = main([*line.split(), "--json", "--out", "run"])
    out, err = capfd.readouterr()
    assert status == 1
    (said,) = [line for line in err.splitlines() if "were all skipped" in line]
    assert "the derivative of transition is not finite at step" in said
    assert "nothing was learned" in err.splitlines()[-1]
    summary = json.loads(out)
    assert (
        summary["finished"]
        and summary["problems"] == json.loads((tmp_path / "run/summary.json").read_text())["problems"]
    )
    assert jnp.isfinite(jnp.array(summary["returns"])).all()
