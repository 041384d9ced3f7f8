"""Gymnasium environments, real ones: spaces, units, ends and seeds, and that one trains by its name."""

import gymnasium
import numpy as np
import pytest

import asmpg
from asmpg.tasks.files import load_task
from asmpg.tasks.host import play, Watched


class Rooms(gymnasium.Env):
    """Observations in a dictionary and a tuple, actions from -1 to 3; it ends where the sum of actions is over 4."""

    def __init__(self):
        box = gymnasium.spaces.Box(-np.inf, np.inf, (2, 2))
        rest = gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(0, 9, (1,))))
        self.observation_space = gymnasium.spaces.Dict({"map": box, "rest": rest})
        self.action_space = gymnasium.spaces.Box(np.float32([-1.0]), np.float32([3.0]))

    def _observe(self):
        return {"map": np.full((2, 2), self.total, np.float32), "rest": (1, np.float32([self.steps]))}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.total, self.steps, self.taken = self.np_random.uniform(), 0, []
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.total, self.steps = self.total + float(action[0]), self.steps + 1
        self.taken.append(float(action[0]))
        return self._observe(), self.total, self.total > 4, self.steps >= 6, {}


def constant(value):
    return lambda states, step: np.full((len(states), 1), value)


def test_dictionaries_and_tuples_are_flattened_and_actions_have_their_own_range():
    env = asmpg.from_gymnasium(Rooms, 6)
    assert (env.name, env.observation_size, env.action_size) == ("Rooms", 4 + 3 + 1, 1)
    assert (env.action_low, env.action_high) == (-1, 3), "what an exported policy gives"
    episodes, lengths = play(Watched(env), [1, 2], constant(-0.5))
    assert lengths.tolist() == [6, 6]
    totals = np.asarray(episodes.states)[:, :, 0]
    np.testing.assert_allclose(np.diff(totals), 0.0, atol=1e-6)  # -0.5 is 0 in the range from -1 to 3
    assert 0 < totals[0, 0] < 1 and totals[0, 0] != totals[1, 0]
    assert (np.asarray(episodes.states)[:, :, -1] == 1).all(), "a truncation is no end"


def test_a_termination_is_an_end():
    episodes, lengths = play(Watched(asmpg.from_gymnasium(Rooms, 6)), [1, 2], constant(1.0))
    assert lengths.tolist() == [2, 2]  # 3 a step
    alive = np.asarray(episodes.states)[:, :, -1]
    np.testing.assert_array_equal(alive, [[1, 1, 0, 0, 0, 0, 0]] * 2)
    assert (np.asarray(episodes.rewards)[:, 2:] == 0).all()


def test_an_environment_that_cuts_off_before_the_horizon_is_refused():
    with pytest.raises(asmpg.UsageError, match="Rooms cuts its episodes off after 6 steps, give horizon=6"):
        play(Watched(asmpg.from_gymnasium(Rooms, 8)), [1, 2], constant(-0.5))


def test_pendulum_is_what_gymnasium_itself_simulates():
    env = asmpg.from_gymnasium("Pendulum-v1")
    assert (env.horizon, env.observation_size, env.action_size, env.name) == (200, 3, 1, "Pendulum-v1")
    episodes, _ = play(Watched(env), [5], constant(0.25))
    its = gymnasium.make("Pendulum-v1")
    first, _ = its.reset(seed=5)
    np.testing.assert_allclose(episodes.states[0, 0, :3], first, rtol=1e-6)
    total = sum(float(its.step(np.float32([0.5]))[1]) for _ in range(200))
    np.testing.assert_allclose(episodes.episode_return[0], total, rtol=1e-4)
    env.close()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: asmpg.from_gymnasium("Pendulum-v9"), "Pendulum-v9"),
        (lambda: asmpg.from_gymnasium(Rooms), "horizon"),
        (lambda: asmpg.from_gymnasium("CartPole-v1"), "must be a Box"),
        (lambda: asmpg.from_gymnasium(lambda: 3, 5), "not an environment"),
        (lambda: asmpg.from_gymnasium(Rooms, 6, action_range=(1, 0)), "lowest action"),
        (lambda: asmpg.TrainConfig("gymnasium:Nothing-v0", 5).checked(), "Nothing-v0"),
        (lambda: load_task("gymnasium:Pendulum-v1"), "is a simulator outside JAX"),
        (lambda: asmpg.optimal(asmpg.from_gymnasium(Rooms, 6)), "optimal: Rooms is a simulator"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(make, named):
    with pytest.raises(asmpg.UsageError) as caught:
        make()
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.thorough
def test_a_run_by_name_is_read_and_goes_on_without_the_name_again(tmp_path, quickly):
    options = {"horizon": 10, "model": "one-step", "steps": 40, "chunk_steps": 10}
    small = {"warmup_steps": 20, "model_batch_size": 2, "policy_batch_size": 2, "window": 4}
    out = str(tmp_path / "run")
    asmpg.train(asmpg.TrainConfig("gymnasium:Pendulum-v1", out=out, overrides=small, **options))
    run = asmpg.resume(out, steps=50)
    assert run.finished and run.steps == 50
    assert run.metrics["simulated_steps"][-1] == 50
    assert run.metrics["evaluation_steps"][-1] == 10 * 10 * len(run.metrics["steps"])
    with pytest.raises(asmpg.UsageError, match="outside JAX"):
        run.config.environment()
