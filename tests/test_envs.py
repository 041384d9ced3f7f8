import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg import tasks as envs
from asmpg.core.types import UsageError
from asmpg.tasks import mechanics, stability
from asmpg.tasks.environment import rollout
from asmpg.tasks.validation import validate


# Short horizons are asked for on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::asmpg.tasks.DiscretisationWarning")


def run(env, actions):
    """A rollout in one compiled program."""
    return jax.jit(lambda actions: rollout(env, actions))(actions)


# The formulas of every task once more, in NumPy: (state, action, step, horizon) -> next state, reward, terminal reward.


def euler(duration, low, high, rates, cost, terminal=lambda x: 0.0, bounds=(-np.inf, np.inf)):
    def step(s, a, t, horizon):
        dt = duration / horizon
        u = low + (a + 1) / 2 * (np.asarray(high) - low)
        after = np.clip(s + dt * np.asarray(rates(s, u, t * dt)), *bounds)
        return after, -cost(s, u, t * dt) * dt, -terminal(s)

    return step


def hiv(x, u, t):
    new = 2.4e-5 * u[0] * x[0] * x[2]
    uninfected = 10 / (1 + x[2]) - 0.02 * x[0] + 0.03 * x[0] * (1 - (x[0] + x[1]) / 1500) - new
    return [uninfected, new - 0.5 * x[1], 300 * 0.5 * x[1] - 4.4 * x[2]]


def credit_assignment(s, a, t, horizon):
    after = np.array([0.0, a[0] if t == 0 else s[1]])
    return after, 0.0 if t == 0 else -((s[0] - a[0]) ** 2) / horizon, -20 * (s[1] - 0.5) ** 2 + 10


def one_bounce(s, a, t, horizon):
    x, v = s
    if t == 0:
        after = np.array([x, 10 * (a[0] - 2)])
    elif x + 0.01 * v < -1:
        after = np.array([-2 - (x + 0.01 * v), -(v - 0.1 * v)])
    else:
        after = np.array([x + 0.01 * v, v - 0.1 * v])
    return after, 0.0, -((x - 0.4) ** 2)


def pendulum_slope(s):
    """Lagrange's equations as a linear system for the accelerations."""
    a, p, b, q = s
    mass = np.array([[2, np.cos(a - b)], [np.cos(a - b), 1]])
    force = [-(q**2) * np.sin(a - b) - 19.6 * np.sin(a), p**2 * np.sin(a - b) - 9.8 * np.sin(b)]
    p_dot, q_dot = np.linalg.solve(mass, force)
    return np.array([p, p_dot, q, q_dot])


def pendulum_move(s):
    h = 0.05 / 8
    for _ in range(8):
        k = [pendulum_slope(s)]
        for weight in (0.5, 0.5, 1.0):
            k.append(pendulum_slope(s + h * weight * k[-1]))
        s = s + h * (k[0] + 2 * k[1] + 2 * k[2] + k[3]) / 6
    return s


def double_pendulum(s, a, t, horizon):
    goal = np.array([-0.4 * np.pi, 0, 0, 0])
    for _ in range(horizon - 1):
        goal = pendulum_move(goal)
    after = np.array([np.pi * a[0], 0, 0, 0]) if t == 0 else pendulum_move(s)
    return after, 0.0, -np.mean((s - goal) ** 2)


FORMULAS = {
    "cancer_treatment": euler(
        20, 0, 2, lambda x, u, t: 0.3 * x * np.log(1 / x) - u * 0.45 * x,
        lambda x, u, t: 3 * x[0] ** 2 + u[0] ** 2, bounds=(1e-3, 1),
    ),
    "bioreactor": euler(
        2, 0, 1, lambda x, u, t: u * x - x**2, lambda x, u, t: u[0] - 2 * x[0], bounds=(0, 1)
    ),
    "mould_fungicide": euler(
        5, 0, 5, lambda x, u, t: 0.3 * (10 - x) - u * x, lambda x, u, t: 10 * x[0] ** 2 + u[0] ** 2,
        bounds=(0, 5),
    ),
    "bacteria": euler(
        1, 0, 2, lambda x, u, t: x + u * x - 12 * u**2 * np.exp(-x), lambda x, u, t: u[0] ** 2,
        lambda x: -x[0], bounds=(0, 10),
    ),
    "harvest": euler(
        10, 0, 1, lambda x, u, t: -(0.2 + u) * x,
        lambda x, u, t: u[0] ** 2 - 5 * (10 * t / (t + 1)) * x[0] * u[0],
    ),
    "invasive_plant": euler(
        10, np.zeros(5), np.ones(5), lambda x, u, t: (x + x / (0.01 + x)) * (1 - u) - x,
        lambda x, u, t: np.sum(u**2), np.sum,
    ),
    "hiv_treatment": euler(
        20, 0, 1, hiv, lambda x, u, t: (1 - u[0]) ** 2 - 0.05 * x[0], bounds=(0, [1600, 100, 100])
    ),
    "timber_harvest": euler(
        5, 0, 1, lambda x, u, t: x * u, lambda x, u, t: -x[0] * (1 - u[0]), bounds=(0, 20000)
    ),
    "credit_assignment": credit_assignment,
    "one_bounce": one_bounce,
    "double_pendulum": double_pendulum,
}  # fmt: skip

# A range of states for each, which reaches beyond the bounds in one step where there are bounds.
RANGES = {
    "cancer_treatment": ([1e-3], [1]),
    "bioreactor": ([0], [1]),
    "mould_fungicide": ([0], [5]),
    "bacteria": ([0], [10]),
    "harvest": ([0], [0.4]),
    "invasive_plant": ([0.1] * 5, [20] * 5),
    "hiv_treatment": ([0, 0, 0], [1600, 1, 80]),
    "timber_harvest": ([1], [20000]),
    "credit_assignment": ([-1, -1], [1, 1]),
    "one_bounce": ([-1, -30], [1, 30]),
    "double_pendulum": ([-7] * 4, [7] * 4),
}

STARTS = {
    "cancer_treatment": [0.975],
    "bioreactor": [0.5],
    "mould_fungicide": [1],
    "bacteria": [1],
    "harvest": [0.4],
    "invasive_plant": [0.5, 1, 1.5, 2, 10],
    "hiv_treatment": [800, 0.04, 1.5],
    "timber_harvest": [100],
    "credit_assignment": [0, 0],
    "one_bounce": [0, 0],
    "double_pendulum": [0, 0, 0, 0],
}


def test_the_table_has_these_eleven_tasks():
    assert set(envs.TASKS) == set(FORMULAS) == set(RANGES) == set(STARTS)
    assert len(envs.MYRIAD_TASKS) == 8


def random_points(env, count):
    """States, actions and steps, the first and the last step among them."""
    random = np.random.default_rng(3)
    low, high = np.array(RANGES[env.name], float)
    states = random.uniform(low, high, (count, env.state_size))
    actions = random.uniform(-1, 1, (count, env.action_size))
    steps = random.integers(0, env.horizon, count)
    steps[:2] = 0, env.horizon - 1
    return states, actions, steps


@pytest.mark.parametrize("horizon", [2, 37])
@pytest.mark.parametrize("name", envs.TASKS)
def test_one_step_is_the_formula(name, horizon, x64):
    env = envs.make(name, horizon)
    np.testing.assert_array_equal(env.initial_state(), STARTS[name])
    states, actions, steps = random_points(env, 12)

    def outputs(state, action, step):
        return (
            env.transition(state, action, step),
            env.reward(state, action, step),
            env.terminal_reward(state),
        )

    after, rewards, terminal = jax.jit(jax.vmap(outputs))(states, actions, steps)
    for i in range(len(steps)):
        wanted = FORMULAS[name](states[i], actions[i], steps[i], horizon)
        for got, formula in zip((after[i], rewards[i], terminal[i]), wanted, strict=True):
            np.testing.assert_allclose(got, formula, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", envs.TASKS)
def test_an_episode_is_its_steps_and_float32_follows(name):
    env = envs.make(name, 3)
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (3, env.action_size))
    state, total = np.array(STARTS[name], float), 0.0
    for t in range(3):
        after, reward, _ = FORMULAS[name](state, actions[t], t, 3)
        state, total = after, total + reward
    total += FORMULAS[name](state, actions[0], 0, 3)[2]
    single = run(env, actions)
    assert single.states.dtype == single.rewards.dtype == jnp.float32
    np.testing.assert_allclose(single.episode_return, total, rtol=1e-5)
    with jax.enable_x64(True):
        double = run(env, actions)  # the same object in the other precision
        assert double.states.dtype == double.rewards.dtype == jnp.float64
        np.testing.assert_allclose(double.episode_return, total, rtol=1e-12)
        np.testing.assert_allclose(double.states[-1], state, rtol=1e-12)
    # A fixed start ignores the key, legacy or typed.
    for key in (jax.random.key(1), jax.random.PRNGKey(1)):
        np.testing.assert_array_equal(env.initial_state(key=key), env.initial_state())


@pytest.mark.parametrize("name", envs.TASKS)
def test_jacobians_are_finite_differences(name, x64):
    env = envs.make(name, 37)
    states, actions, steps = random_points(env, 6)

    def outputs(x, step):
        state, action = x[: env.state_size], x[env.state_size :]
        rewards = jnp.stack([env.reward(state, action, step), env.terminal_reward(state)])
        return jnp.concatenate([env.transition(state, action, step), rewards])

    x = np.concatenate([states, actions], axis=1)
    forward = jax.jit(jax.vmap(jax.jacfwd(outputs)))(x, steps)
    backward = jax.jit(jax.vmap(jax.jacrev(outputs)))(x, steps)
    np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-9)
    batch, compared = jax.jit(jax.vmap(outputs)), 0
    for i in range(x.shape[1]):
        width = 1e-5 * np.maximum(1, np.abs(x[:, i : i + 1])) * np.eye(x.shape[1])[i]
        up, middle, down = (batch(x + shift, steps) for shift in (width, 0, -width))
        scale = width[:, i : i + 1]
        slopes = (np.asarray(up - middle) / scale, np.asarray(middle - down) / scale)
        # Where the slopes to either side differ there is a kink (a bound, a wall) and no derivative to compare.
        smooth = np.isclose(*slopes, rtol=1e-2, atol=1e-3)
        compared += smooth.sum()
        central = (slopes[0] + slopes[1]) / 2
        np.testing.assert_allclose(np.asarray(forward)[..., i][smooth], central[smooth], rtol=1e-5, atol=1e-5)
    assert compared > 0.9 * forward.size


@pytest.mark.parametrize("name", envs.TASKS)
def test_every_task_is_valid_and_knows_its_name_and_horizon(name):
    env = envs.make(name, 37)
    assert (env.name, env.horizon) == (name, 37)
    validate(env)


# The parameters of the tasks, and `make`.


def test_make_gives_one_object_for_the_same_arguments():
    env = envs.make("harvest", 20, A=5.0, m=0.3)
    assert envs.make("harvest", horizon=np.int64(20), m=0.3, A=5) is env
    assert envs.make("harvest", 20) is not env
    assert env.identity() == (("A", 5.0), ("m", 0.3))
    assert hash(env) == hash(env)


def test_parameters_change_the_task(x64):
    state, action = jnp.array([2.0]), jnp.array([0.0])
    discounted = envs.make("timber_harvest", 10, r=0.5, k=2.0)
    np.testing.assert_allclose(discounted.reward(state, action, 4), 0.5 * math.exp(-0.5 * 2) * 2 * 0.5)
    np.testing.assert_allclose(discounted.transition(state, action, 4), 2 + 0.5 * 2 * 2 * 0.5)
    bounce = envs.make("one_bounce", 10, goal=0.1)
    np.testing.assert_allclose(bounce.terminal_reward(jnp.array([0.6, 0.0])), -0.25)
    pendulum = envs.make("double_pendulum", 10, goal_action=0.2)
    np.testing.assert_allclose(run(pendulum, pendulum.known_actions()).episode_return, 0, atol=1e-20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("timber", 20), ["'timber'", *FORMULAS]),
        (("harvest", 1), ["horizon", "from 2", "1"]),
        (("harvest", -5), ["horizon", "from 2", "-5"]),
        (("harvest", 20.0), ["horizon", "integer", "20.0"]),
        (("harvest", "20"), ["horizon", "integer", "'20'"]),
        (("harvest", True), ["horizon", "integer", "True"]),
        (("harvest", 20, {"B": 1.0}), ["harvest", "'B'", "A, k, m"]),
        (("credit_assignment", 20, {"B": 1.0}), ["credit_assignment", "'B'", "none"]),
        (("harvest", 20, {"A": math.nan}), ["harvest", "A", "finite", "nan"]),
        (("harvest", 20, {"A": "5"}), ["harvest", "A", "finite", "'5'"]),
    ],
)
def test_make_names_what_is_wrong(arguments, words):
    with pytest.raises(UsageError) as error:
        envs.make(*arguments[:2], **dict(*arguments[2:]))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


# Mechanics.


@pytest.mark.parametrize("action", np.linspace(-1, 1, 21))
def test_one_bounce_rests_at_minus_the_first_action(action, x64):
    env = envs.make("one_bounce", 400)
    actions = np.random.default_rng(0).uniform(-1, 1, (400, 1))  # the later ones have no effect
    actions[0] = action
    states = run(env, actions).states
    np.testing.assert_allclose(states[-1], [-action, 0], atol=1e-12)
    assert states[:, 0].min() >= -1
    flips = int((np.sign(states[2:, 1]) != np.sign(states[1:-1, 1])).sum())
    assert flips == (1 if action < 1 else 0)


def pendulum_episodes(actions, horizon):
    env = envs.make("double_pendulum", horizon)
    first = np.zeros((len(actions), horizon, 1))
    first[:, 0, 0] = actions
    return np.asarray(jax.jit(jax.vmap(lambda a: rollout(env, a).states))(first))


def test_the_pendulum_conserves_energy_and_is_placed_by_the_first_action(x64):
    actions = np.linspace(-0.95, 0.95, 39)
    states = pendulum_episodes(actions, 201)
    energy = np.asarray(mechanics.pendulum_energy(jnp.asarray(states[:, 1:])))
    np.testing.assert_allclose(states[:, 1], np.pi * actions[:, None] * [1, 0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(energy[:, 0], -9.8 * (2 * np.cos(np.pi * actions) + 1), rtol=1e-12)
    assert np.abs(energy - energy[:, :1]).max() < 1e-5 * 58.8
    upright, hanging = mechanics.pendulum_energy(jnp.array([[np.pi, 0, np.pi, 0], [0, 0, 0, 0.0]]))
    np.testing.assert_allclose(upright - hanging, 58.8)
    assert np.ptp(states[:, :, 2]) > 1  # the second rod, placed at 0, is set in motion by the first


def test_the_pendulum_obeys_the_euler_lagrange_equations(x64):
    """d/dt dL/dq' = dL/dq for the Lagrangian of the energy, by automatic differentiation."""

    def lagrangian(angles, rates):
        state = jnp.stack([angles[0], rates[0], angles[1], rates[1]])
        potential = mechanics.pendulum_energy(state.at[jnp.array([1, 3])].set(0.0))
        return mechanics.pendulum_energy(state) - 2 * potential

    def accelerations(state):
        angles, rates = state[::2], state[1::2]
        mass = jax.hessian(lagrangian, argnums=1)(angles, rates)
        mixed = jax.jacfwd(jax.grad(lagrangian, argnums=1), argnums=0)(angles, rates)
        return jnp.linalg.solve(mass, jax.grad(lagrangian)(angles, rates) - mixed @ rates)

    states = np.random.default_rng(0).uniform(-3, 3, (5, 4))
    wanted = jax.jit(jax.vmap(accelerations))(states)
    rates = mechanics.pendulum_rates(np, tuple(states.T))
    np.testing.assert_array_equal([rates[0], rates[2]], states.T[1::2])
    np.testing.assert_allclose([rates[1], rates[3]], wanted.T, rtol=1e-9)


def test_the_pendulum_integrator_is_of_fourth_order():
    def end(substeps):
        state = (2.0, 0.5, -1.0, 0.3)
        for _ in range(substeps):
            state = mechanics.runge_kutta_4(math, state, 0.4 / substeps)
        return np.array(state)

    exact = end(512)
    errors = [np.abs(end(substeps) - exact).max() for substeps in (8, 16, 32)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert ((orders > 3.7) & (orders < 4.4)).all(), orders


# Discretisation warnings.


@pytest.fixture
def fresh_warnings(monkeypatch):
    monkeypatch.setattr(stability, "_warned", set())
    envs._make.cache_clear()


def warnings_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(w.message) for w in caught if issubclass(w.category, envs.DiscretisationWarning)]


def test_an_unstable_discretisation_warns_once(fresh_warnings):
    (message,) = warnings_of(lambda: envs.make("hiv_treatment", 20))
    assert "hiv_treatment at horizon 20" in message
    assert "unstable" in message
    assert not warnings_of(lambda: envs.make("hiv_treatment", 20, A=0.1))
    assert warnings_of(lambda: envs.make("hiv_treatment", 21))
    envs._make.cache_clear()
    assert not warnings_of(lambda: envs.make("hiv_treatment", 20))


def test_hiv_warns_where_the_virus_decays_faster_than_the_step_allows(fresh_warnings):
    """m3 dt >= 2, m3 = 4.4 and dt = 20 / H: up to H = 44."""
    warned = [h for h in (30, 43, 44, 45, 46, 50) if warnings_of(lambda h=h: envs.make("hiv_treatment", h))]
    assert warned == [30, 43, 44]


def test_invasive_plant_warns_below_its_ten_seconds(fresh_warnings):
    warned = [h for h in (5, 9, 10, 11) if warnings_of(lambda h=h: envs.make("invasive_plant", h))]
    assert warned == [5, 9]


@pytest.mark.parametrize("name", envs.TASKS)
def test_ordinary_horizons_do_not_warn(name, fresh_warnings):
    horizons = (50, 500) if name == "hiv_treatment" else (20, 500)
    assert not [m for h in horizons for m in warnings_of(lambda h=h: envs.make(name, h))]


def decay(rate, horizon, name, spin=0.0):
    matrix = np.array([[-rate, spin], [-spin, -rate]])
    return envs.from_ode(
        lambda x, u, t: jnp.asarray(matrix, x.dtype) @ x + u[0],
        lambda x, u, t: x @ x,
        initial_state=(1.0, 0.5),
        duration=1.0,
        horizon=horizon,
        control_bounds=(-1, 1),
        name=name,
    )


@pytest.mark.parametrize(
    ("rate", "spin", "warns"),
    [(38.0, 0.0, False), (45.0, 0.0, True), (10.0, 15.0, False), (10.0, 25.0, True), (-3.0, 1.0, False)],
)
def test_linear_decay_warns_outside_eulers_stability_region(rate, spin, warns, fresh_warnings):
    """Twenty steps of 1/20 s: |1 - dt (rate + i spin)| > 1 beyond a rate of 40, or of 20 in the spinning modes."""
    assert bool(warnings_of(lambda: decay(rate, 20, "decay", spin))) == warns


# Tasks from differential equations.


def ode(**changes):
    arguments = {
        "dynamics": lambda x, u, t: -x + u[0],
        "cost": lambda x, u, t: x @ x,
        "initial_state": (1.0, 2.0),
        "duration": 2.0,
        "horizon": 8,
        "control_bounds": (-3.0, 1.0),
        "name": "mine",
    }
    arguments |= changes
    return envs.from_ode(arguments.pop("dynamics"), arguments.pop("cost"), **arguments)


def test_time_is_in_seconds_at_the_start_of_the_step():
    env = ode(cost=lambda x, u, t: t, dynamics=lambda x, u, t: jnp.stack([jnp.ones_like(t), t]))
    trajectory = run(env, jnp.zeros((8, 1)))
    times = 0.25 * np.arange(9)
    np.testing.assert_allclose(trajectory.rewards, -0.25 * times[:-1])
    np.testing.assert_allclose(trajectory.states[:, 0], 1 + times)
    np.testing.assert_allclose(trajectory.states[:, 1], 2 + np.cumsum([0, *times[:-1]]) * 0.25, rtol=1e-6)


def test_the_terminal_cost_is_paid_once_for_the_last_state():
    env = ode(cost=lambda x, u, t: 0 * t, terminal_cost=lambda x: 3 * x[0])
    trajectory = run(env, jnp.zeros((8, 1)))
    np.testing.assert_allclose(trajectory.rewards[:-1], 0)
    np.testing.assert_allclose(trajectory.rewards[-1], -3 * trajectory.states[-1, 0])
    assert run(ode(), jnp.zeros((8, 1))).rewards[-1] < 0


def test_states_are_clipped_after_every_step_component_by_component():
    rates = lambda x, u, t: jnp.array([10.0, -10.0])  # noqa: E731
    states = run(ode(dynamics=rates, state_bounds=(0.0, [4.0, np.inf])), jnp.zeros((8, 1))).states
    np.testing.assert_allclose(states[1:3], [[3.5, 0], [4, 0]])
    np.testing.assert_allclose(states[-1], [4, 0])
    np.testing.assert_allclose(run(ode(dynamics=rates), jnp.zeros((8, 1))).states[-1], [21, -18])


def test_controls_are_affine_in_the_action():
    env = ode(
        control_bounds=([-3.0, 0.0], [1.0, 10.0]), dynamics=lambda x, u, t: u, cost=lambda x, u, t: u[1]
    )
    assert env.action_size == 2
    np.testing.assert_allclose(env.control(jnp.array([-1.0, 1.0])), [-3, 10])
    np.testing.assert_allclose(env.control(jnp.array([0.5, 0.0])), [0, 5])
    np.testing.assert_allclose(env.transition(jnp.zeros(2), jnp.array([1.0, -1.0]), 0), [0.25, 0])
    assert ode(control_bounds=(0.0, [1.0, 2.0, 3.0])).action_size == 3


def test_initial_states_may_be_a_number_a_vector_or_random():
    assert ode(initial_state=2, cost=lambda x, u, t: x[0]).state_size == 1
    np.testing.assert_array_equal(ode().initial_state(key=jax.random.key(0)), [1, 2])
    env = ode(initial_state=lambda key: jax.random.normal(key, (2,)))
    first, second = env.initial_state(key=jax.random.key(0)), env.initial_state(key=jax.random.key(1))
    assert (first != second).all()
    np.testing.assert_array_equal(env.initial_state(), env.initial_state())
    assert env.identity() is None
    validate(env)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dynamics": lambda x, u, t: x[:1]}, ["dynamics of mine", "(2,)", "(1,)"]),
        ({"dynamics": lambda x, u, t: (x[0], x[1])}, ["dynamics of mine", "(2,)", "tuple"]),
        ({"dynamics": lambda x, u, t: x > 0}, ["dynamics of mine", "floating", "bool"]),
        ({"dynamics": lambda x, u, t: x + y}, ["dynamics of mine", "raised NameError", "'y'"]),  # noqa: F821
        ({"dynamics": lambda x, u: x}, ["dynamics of mine", "raised TypeError"]),
        ({"dynamics": 3}, ["dynamics", "function", "3"]),
        ({"terminal_cost": 3}, ["terminal_cost", "function", "3"]),
        ({"cost": lambda x, u, t: x}, ["cost of mine", "()", "(2,)"]),
        ({"cost": lambda x, u, t: u}, ["cost of mine", "()", "(1,)"]),
        ({"terminal_cost": lambda x: x}, ["terminal_cost of mine", "()", "(2,)"]),
        ({"horizon": 1}, ["horizon", "from 2"]),
        ({"horizon": 8.0}, ["horizon", "integer"]),
        ({"duration": 0.0}, ["duration", "positive"]),
        ({"duration": math.inf}, ["duration", "positive"]),
        ({"initial_state": [[1.0, 2.0]]}, ["initial_state", "vector"]),
        ({"initial_state": "one"}, ["initial_state", "vector"]),
        ({"initial_state": (1.0, math.nan)}, ["initial_state", "finite"]),
        ({"initial_state": lambda key: jnp.ones((2, 2))}, ["initial_state", "(2, 2)"]),
        ({"control_bounds": (1.0, 1.0)}, ["control_bounds", "low < high"]),
        ({"control_bounds": (0.0, math.inf)}, ["control_bounds", "finite"]),
        ({"control_bounds": 1.0}, ["control_bounds", "pair"]),
        ({"control_bounds": (0.0, 1.0, 2.0)}, ["control_bounds", "pair"]),
        ({"control_bounds": ([0.0, 0.0], [1.0, 1.0, 1.0])}, ["control_bounds", "pair"]),
        ({"state_bounds": (0.0, [1.0, 1.0, 1.0])}, ["state_bounds", "2 components"]),
        ({"state_bounds": (0.0, -1.0)}, ["state_bounds", "low < high"]),
    ],
)
def test_from_ode_names_what_is_wrong(changes, words):
    with pytest.raises(UsageError) as error:
        ode(**changes)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_task_may_be_made_while_jax_traces():
    """For the first time, when its steps are looked at: a warning comes there too, and the numbers are right."""

    def total(horizon, factor):
        env = envs.make("timber_harvest", horizon)
        return rollout(env, jnp.full((horizon, 1), 0.1 * factor)).rewards.sum()

    traced = jax.jit(lambda factor: total(19, factor))(1.0)
    np.testing.assert_allclose(traced, total(19, 1.0), rtol=1e-5)
    with pytest.warns(envs.DiscretisationWarning, match="hiv_treatment at horizon 9"):
        jax.make_jaxpr(lambda x: envs.make("hiv_treatment", 9).initial_state() + x)(0.0)
