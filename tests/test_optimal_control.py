import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg import tasks as envs
from asmpg.core.types import UsageError
from asmpg.tasks.environment import AbstractEnvironment, evaluation_states, rollout
from asmpg.tasks.optimum import best_constant_return, optimal, random_return, score, scores, shooting
from asmpg.tasks.optimum import cache as solution_cache
from asmpg.tasks.optimum.problem import double_precision, Problem
from probes import DelayedReward, RewardIsAction, RewardIsState


pytestmark = pytest.mark.filterwarnings("ignore::asmpg.tasks.DiscretisationWarning")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache on disk and in memory."""
    monkeypatch.setenv("ASMPG_CACHE", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache"


def forget(monkeypatch):
    """What a new process remembers."""
    monkeypatch.setattr(solution_cache, "_memory", type(solution_cache._memory)())


@pytest.mark.parametrize("name", envs.TASKS)
def test_the_optimum_beats_constant_and_random_actions_and_is_what_it_says(name):
    env = envs.make(name, 20)
    solution = optimal(env, num_starts=3)
    rounding = 1e-9 * max(1.0, abs(solution.episode_return))
    assert solution.episode_return >= best_constant_return(env) - rounding
    assert solution.episode_return > random_return(env, num_episodes=512)
    assert solution.actions.shape == (20, env.action_size)
    assert solution.states.shape == (21, env.state_size)
    assert solution.actions.dtype == solution.states.dtype == np.float64
    assert (np.abs(solution.actions) <= 1).all()
    assert isinstance(solution.episode_return, float)
    with jax.enable_x64(True):
        replay = jax.jit(lambda actions: rollout(env, actions))(solution.actions)
        np.testing.assert_allclose(replay.states, solution.states, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(replay.episode_return, solution.episode_return, rtol=1e-9, atol=1e-12)
    single = float(jax.jit(lambda actions: rollout(env, actions).episode_return)(solution.actions))
    gap = solution.episode_return - random_return(env, num_episodes=512)
    assert abs(single - solution.episode_return) <= 1e-3 * gap
    # A stationary point within the bounds (at this horizon no optimum lies at a kink).
    assert solution.residual < 1e-6 * gap
    np.testing.assert_allclose(single, solution.episode_return, atol=2 * solution.replay_error + 1e-4 * gap)
    assert max(solution.start_returns) == solution.start_returns[0]
    assert len(solution.start_returns) == 3


def timber_recursion(horizon, rate, growth):
    """The optimum of timber harvest: the value of a state is proportional to it, its factor found from the end."""
    dt = 5 / horizon
    factor, sells = 0.0, []
    for t in reversed(range(horizon)):
        sell, grow = dt * np.exp(-rate * t * dt) + factor, (1 + dt * growth) * factor
        sells.insert(0, sell > grow)
        factor = max(sell, grow)
    return 100 * factor, np.where(sells, -1.0, 1.0)


@pytest.mark.parametrize(("horizon", "rate", "growth"), [(2, 0, 1), (37, 0, 1), (37, 0.3, 0.8)])
def test_timber_is_its_backward_recursion(horizon, rate, growth):
    env = envs.make("timber_harvest", horizon, r=float(rate), k=float(growth))
    best, actions = timber_recursion(horizon, rate, growth)
    solution = optimal(env, cache=False)
    np.testing.assert_allclose(solution.episode_return, best, rtol=1e-9)
    np.testing.assert_allclose(solution.actions[:, 0], actions, atol=1e-6)
    assert solution.starts_agree
    assert solution.residual < 1e-6


def test_timber_is_found_from_a_start_that_is_far_from_bang_bang():
    env = envs.make("timber_harvest", 37)
    with double_precision():
        problem = Problem(env)
        found = shooting.ascend(problem, problem.starts[0], np.zeros((37, 1)), lambda states, actions: 1000.0)
    np.testing.assert_allclose(found.episode_return, timber_recursion(37, 0, 1)[0], rtol=1e-9)


# A linear system with quadratic costs, small enough in its state that no control reaches its bound.
A = np.array([[0.1, 1.0, 0.0], [-1.0, -0.2, 0.5], [0.0, 0.3, -0.5]])
B = np.array([[0.0, 0.4], [1.0, 0.0], [0.0, -0.7]])
Q, R, P = np.diag([1.0, 0.5, 2.0]), np.array([[1.0, 0.2], [0.2, 2.0]]), np.diag([3.0, 1.0, 1.0])


def linear_quadratic(start, horizon=25):
    def dynamics(x, u, t):
        return jnp.asarray(A, x.dtype) @ x + jnp.asarray(B, x.dtype) @ u

    return envs.from_ode(
        dynamics,
        lambda x, u, t: x @ jnp.asarray(Q, x.dtype) @ x + u @ jnp.asarray(R, x.dtype) @ u,
        terminal_cost=lambda x: x @ jnp.asarray(P, x.dtype) @ x,
        initial_state=start,
        duration=2.5,
        horizon=horizon,
        control_bounds=(-1.0, np.ones(2)),
        name="linear_quadratic",
    )


def riccati(start, horizon=25, dt=0.1):
    """Return and actions of the linear-quadratic task by the Riccati recursion."""
    step, push = np.eye(3) + dt * A, dt * B
    value, gains = P, []
    for _ in range(horizon):
        gain = np.linalg.solve(dt * R + push.T @ value @ push, push.T @ value @ step)
        value = dt * Q + step.T @ value @ (step - push @ gain)
        gains.insert(0, gain)
    state, actions = np.asarray(start), []
    for gain in gains:
        actions.append(-gain @ state)
        state = step @ state + push @ actions[-1]
    return -np.asarray(start) @ value @ np.asarray(start), np.array(actions)


def test_the_linear_quadratic_optimum_is_the_riccati_solution():
    start = (0.3, -0.2, 0.4)
    best, actions = riccati(start)
    assert np.abs(actions).max() < 0.9
    solution = optimal(linear_quadratic(start))
    np.testing.assert_allclose(solution.episode_return, best, rtol=1e-10)
    np.testing.assert_allclose(solution.actions, actions, atol=1e-5)
    assert solution.residual < 1e-6
    assert solution.starts_agree
    assert "8 of 8" in solution.message


def test_random_initial_states_are_solved_one_by_one():
    env = linear_quadratic(lambda key: 0.3 * jax.random.normal(key, (3,)), horizon=6)
    with jax.enable_x64(True):
        starts = np.asarray(evaluation_states(env))
    expected = [riccati(start, 6, 2.5 / 6) for start in starts]
    inside = [i for i, (_, actions) in enumerate(expected) if np.abs(actions).max() < 1]
    assert len(inside) > 50
    solution = optimal(env)
    assert solution.actions.shape == (64, 6, 2)
    assert solution.states.shape == (64, 7, 3)
    np.testing.assert_allclose(solution.states[:, 0], starts)
    np.testing.assert_allclose(solution.actions[inside], [expected[i][1] for i in inside], atol=1e-5)
    # Where a bound binds, the unconstrained optimum is out of reach.
    assert solution.episode_return <= np.mean([best for best, _ in expected]) + 1e-9
    assert solution.episode_return > best_constant_return(env) > random_return(env, num_episodes=512)


@pytest.mark.parametrize("horizon", [2, 3, 37])
def test_rewards_may_depend_on_time_and_horizons_on_nothing(horizon):
    env = envs.from_ode(
        lambda x, u, t: u,
        lambda x, u, t: (u[0] - jnp.sin(t)) ** 2,
        initial_state=0.0,
        duration=3.0,
        horizon=horizon,
        control_bounds=(-2.0, 1.0),
    )
    solution = optimal(env)
    times = np.arange(horizon) * 3 / horizon
    np.testing.assert_allclose(1.5 * solution.actions[:, 0] - 0.5, np.sin(times), atol=1e-5)
    assert abs(solution.episode_return) < 1e-9


@pytest.mark.parametrize("env", [RewardIsAction(), RewardIsState(), DelayedReward()])
def test_probe_tasks_have_their_known_optimum(env):
    solution = optimal(env)
    np.testing.assert_allclose(solution.episode_return, env.best_return, atol=1e-9)
    assert solution.starts_agree
    np.testing.assert_allclose(score(env, env.best_return), 1, atol=1e-6)
    np.testing.assert_allclose(score(env, random_return(env)), 0, atol=1e-12)


class Razor(AbstractEnvironment):
    """A chaotic branch whose best return float32 cannot follow, and a calm one that pays less.

    Below a_0 = 0 the state stays where it is put, and pays at most 0.5; above, 60 steps of the logistic map scatter it
    over [0, 1], and nearly every return up to 1 is reached by some a_0.
    """

    horizon: int = 61
    name: str = "razor"
    state_size: int = 2
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.zeros(2)

    def transition(self, state, action, step):
        x, chaotic = state
        first = jnp.stack([jnp.abs(action[0]), jnp.where(action[0] > 0, 1.0, 0.0)])
        later = jnp.stack([jnp.where(chaotic > 0.5, 3.99 * x * (1 - x), x), chaotic])
        return jnp.where(step == 0, first, later)

    def reward(self, state, action, step):
        return jnp.zeros((), state.dtype)

    def terminal_reward(self, state):
        x, chaotic = state
        return jnp.where(chaotic > 0.5, x, 0.5 - (x - 0.6) ** 2)


def test_an_optimum_that_float32_cannot_follow_is_given_up_and_it_says_so():
    env = Razor()
    solution = optimal(env)
    assert max(solution.start_returns) > 0.6
    np.testing.assert_allclose(solution.episode_return, 0.5, atol=1e-6)
    np.testing.assert_allclose(rollout(env, solution.actions).episode_return, 0.5, atol=1e-3)
    assert "given up" in solution.message
    assert not solution.starts_agree


class Hopeless(AbstractEnvironment):
    """Its return is NaN whatever one does."""

    horizon: int = 4
    name: str = "hopeless"
    state_size: int = 1
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return state + action

    def reward(self, state, action, step):
        return jnp.nan * action[0]


def test_a_return_that_is_never_finite_is_an_error():
    with pytest.raises(UsageError, match="hopeless"):
        optimal(Hopeless())
    with pytest.raises(UsageError, match="hopeless"):
        random_return(Hopeless(), num_episodes=10)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_counts_must_be_positive_integers(wrong):
    with pytest.raises(UsageError, match="num_starts"):
        optimal(RewardIsAction(), num_starts=wrong)
    with pytest.raises(UsageError, match="num_episodes"):
        random_return(RewardIsAction(), num_episodes=wrong)


# Random actions and scores.


def test_the_random_return_is_the_mean_over_uniform_actions():
    env = RewardIsAction()
    # E (a - 0.3)^2 = 1/3 + 0.09, over eight steps; its standard error over 10,000 episodes is below 0.01.
    assert abs(random_return(env) + 8 * (1 / 3 + 0.09)) < 0.05
    assert random_return(env) == random_return(env)
    assert random_return(env, num_episodes=700) == random_return(env, num_episodes=700)
    keys = jax.random.key(3), jax.random.key(3), jax.random.PRNGKey(4)
    first, again, other = (random_return(env, num_episodes=600, key=key) for key in keys)
    assert first == again
    assert first != other
    with jax.enable_x64(True):
        assert random_return(env, num_episodes=600, key=jax.random.key(3)) == first


def test_random_returns_draw_initial_states_too():
    def start(key):
        return 100 * jax.random.normal(key, (1,))

    env = envs.from_ode(
        lambda x, u, t: 0 * x,
        lambda x, u, t: -x[0],
        initial_state=start,
        duration=1.0,
        horizon=2,
        control_bounds=(0, 1),
    )
    returns = [random_return(env, num_episodes=1, key=jax.random.key(i)) for i in range(3)]
    assert len(set(returns)) == 3


def test_scores_are_affine_and_keep_the_kind_of_number():
    env = RewardIsState()
    low, high = random_return(env), optimal(env).episode_return
    value = score(env, (low + high) / 2)
    assert type(value) is float
    np.testing.assert_allclose(value, 0.5)
    for array in (np.array([[low, high]]), jnp.array([[low, high]]), [[low, high]]):
        np.testing.assert_allclose(score(env, array), [[0, 1]], atol=1e-6)
    assert type(score(env, jnp.asarray(low))) is float


def test_a_task_with_nothing_to_gain_has_no_score():
    env = envs.from_ode(
        lambda x, u, t: 0 * x,
        lambda x, u, t: x[0],
        initial_state=1.0,
        duration=1.0,
        horizon=2,
        control_bounds=(0, 1),
    )
    assert np.isnan(score(env, 0.0))


# The cache.


@pytest.fixture
def solves(monkeypatch):
    """The tasks that were really solved, in order."""
    calls, solve = [], scores.solve
    monkeypatch.setattr(scores, "solve", lambda env, n: calls.append(env.name) or solve(env, n))
    return calls


def same(first, second):
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_allclose(first.states, second.states, rtol=1e-12)
    np.testing.assert_allclose(first.episode_return, second.episode_return, rtol=1e-12)
    kept = ("residual", "starts_agree", "start_returns", "replay_error", "message")
    return all(getattr(first, name) == getattr(second, name) for name in kept)


def test_a_second_call_finds_the_solution_in_memory_and_a_second_process_on_disk(cache, solves, monkeypatch):
    env = envs.make("timber_harvest", 6)
    first = optimal(env)
    assert optimal(env) is first
    assert len(list(cache.iterdir())) == 1
    forget(monkeypatch)
    second = optimal(env)
    assert second is not first
    assert same(first, second)
    assert solves == ["timber_harvest"]
    # Another horizon, another parameter and another number of starts are other problems.
    for other in (envs.make("timber_harvest", 7), envs.make("timber_harvest", 6, k=2.0)):
        assert optimal(other).episode_return != first.episode_return
    optimal(env, num_starts=1)
    optimal(env, cache=False)
    assert len(solves) == 5
    assert len(list(cache.iterdir())) == 4


DAMAGE = {
    "empty": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "not JSON": lambda text: "\x00\xff garbage",
    "not an object": lambda text: "[1, 2]",
    "no key": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "key"}),
    "a field missing": lambda text: json.dumps(
        {k: v for k, v in json.loads(text).items() if k != "residual"}
    ),
    "a field of another type": lambda text: text.replace('"starts_agree": ', '"starts_agree": 3.5, "x": '),
    "another return": lambda text: json.dumps(json.loads(text) | {"episode_return": 1e6}),
    "a return of NaN": lambda text: json.dumps(json.loads(text) | {"episode_return": float("nan")}),
    "other actions": lambda text: json.dumps(json.loads(text) | {"actions": [[0.5]] * 6}),
    "fewer actions": lambda text: json.dumps(json.loads(text) | {"actions": [[0.5]] * 5}),
    "actions out of bounds": lambda text: json.dumps(json.loads(text) | {"actions": [[1.5]] * 6}),
    "actions of words": lambda text: json.dumps(json.loads(text) | {"actions": "none"}),
}


def test_a_damaged_file_is_recomputed_never_trusted(cache, solves, monkeypatch):
    env = envs.make("timber_harvest", 6)
    first = optimal(env)
    (path,) = cache.iterdir()
    good = path.read_text()
    for kind, damage in DAMAGE.items():
        path.write_text(damage(good))
        forget(monkeypatch)
        del solves[:]
        assert same(first, optimal(env)), kind
        assert solves == ["timber_harvest"], kind
        # It was put right again.
        assert json.loads(path.read_text())["episode_return"] == first.episode_return, kind
    assert [p.name for p in cache.iterdir()] == [path.name]


def test_another_tasks_file_under_this_name_is_recomputed(cache, solves, monkeypatch):
    env, other = envs.make("timber_harvest", 6), envs.make("bioreactor", 6)
    first = optimal(env)
    (path,) = cache.iterdir()
    optimal(other)
    (foreign,) = set(cache.iterdir()) - {path}
    # As it is, and with this task's key upon it: then its actions do not replay to its return.
    key = json.loads(path.read_text())["key"]
    for text in (foreign.read_text(), json.dumps(json.loads(foreign.read_text()) | {"key": key})):
        path.write_text(text)
        forget(monkeypatch)
        del solves[:]
        assert same(first, optimal(env))
        assert solves == ["timber_harvest"]


def test_random_returns_are_kept_and_checked_as_well(cache, monkeypatch):
    env = envs.make("timber_harvest", 6)
    first = random_return(env, num_episodes=1200)
    (path,) = cache.iterdir()
    chunks, sampler = [], scores._random_sampler

    def counting(env, key, **options):
        sample = sampler(env, key, **options)
        return lambda i: chunks.append(i) or sample(i)

    monkeypatch.setattr(scores, "_random_sampler", counting)
    forget(monkeypatch)
    assert random_return(env, num_episodes=1200) == first
    assert chunks == [0]  # only the check
    for change in ({"sample": -1.0}, {"mean": "much"}, {"mean": None}):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        forget(monkeypatch)
        del chunks[:]
        assert random_return(env, num_episodes=1200) == first
        assert set(chunks) == {0, 1, 2}


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, solves):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASMPG_CACHE", str(tmp_path / "file" / "cache"))
    forget(monkeypatch)
    first = optimal(envs.make("timber_harvest", 6))
    forget(monkeypatch)
    assert same(first, optimal(envs.make("timber_harvest", 6)))
    assert solves == ["timber_harvest", "timber_harvest"]


def test_a_users_task_is_kept_in_memory_only(cache, solves):
    env = RewardIsState(4)
    assert optimal(env) is optimal(env)
    random_return(env)
    assert not cache.exists()
    assert len(solves) == 1
    # Another object may be another task, whatever it is called.
    optimal(RewardIsState(4))
    assert len(solves) == 2
