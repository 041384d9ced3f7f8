"""Tasks that hold NumPy arrays, and initial states, in one process that changes its precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.core.precision import double
from asmpg.diagnose.diagnosis import compare_directions
from asmpg.tasks.environment import AbstractEnvironment, evaluation_states
from asmpg.tasks.optimum import cache as solution_cache


GOAL = np.array([1.0, 0.25])
TABLE = np.linspace(-1.0, 1.0, 11)
MATRIX = np.array([[1.0, 0.5], [-0.25, 2.0]])
own_jit = jax.jit(lambda s: ((s - GOAL) ** 2).sum())

# Scalars of the state s by usual functions, each applied with a constant of NumPy.
FUNCTIONS = {
    "sum of squares": lambda s: -((s - GOAL) ** 2).sum(),
    "norm": lambda s: -jnp.linalg.norm(s - GOAL + 0.1),
    "clip": lambda s: jnp.clip(s, -GOAL, GOAL).sum(),
    "where": lambda s: -jnp.where(s > GOAL, (s - GOAL) ** 2, 1.0).sum(),
    "minimum": lambda s: jnp.minimum(s, GOAL).sum(),
    "maximum": lambda s: -jnp.maximum(s, GOAL).sum(),
    "scalar": lambda s: jnp.minimum(s[0], np.float64(0.3)),
    "abs": lambda s: -jnp.abs(s - GOAL).sum(),
    "own jit": lambda s: -own_jit(s),
    "interp": lambda s: jnp.interp(s[0], TABLE, TABLE**2),
    "index": lambda s: jnp.asarray(TABLE)[jnp.argmax(s)] + s[0],
    "matmul": lambda s: (MATRIX @ s).sum(),
    "dot": lambda s: jnp.dot(GOAL, s),
    "einsum": lambda s: -jnp.einsum("i,ij,j->", s, MATRIX, s),
    "concatenate": lambda s: jnp.concatenate([s, GOAL]).sum(),
    "stack": lambda s: jnp.stack([s, GOAL]).mean(),
    "select": lambda s: jnp.select([s > 1, s > 0], [GOAL, s], 0.0).sum(),
    "searchsorted": lambda s: s[0] + 0.0 * jnp.searchsorted(TABLE, s[1]),
    "broadcast": lambda s: (s * jnp.broadcast_to(GOAL, (3, 2))).sum(),
    "arctan2": lambda s: jnp.arctan2(s, GOAL).sum(),
    "loop": lambda s: jax.lax.fori_loop(0, 3, lambda i, x: 0.5 * (x + GOAL), s).sum(),
    "cond": lambda s: jax.lax.cond(s[0] > 0, lambda s: s @ GOAL, lambda s: s.sum(), s),
    "polyval": lambda s: jnp.polyval(GOAL, s[0]),
    "hypot": lambda s: -jnp.hypot(s, GOAL).sum(),
}


class Reach(AbstractEnvironment):
    """A cart whose reward is the sum of some of the functions."""

    which: tuple[str, ...] = eqx.field(static=True)
    horizon: int = 3
    name: str = "reach"
    state_size: int = 2
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.array([0.25, -0.5])

    def transition(self, state, action, step):
        return jnp.stack([state[0] + 0.5 * state[1], state[1] + 0.5 * action[0]]) * np.array([1.0, 0.9])

    def reward(self, state, action, step):
        return sum(FUNCTIONS[name](state) for name in self.which) - 0.1 * action[0] ** 2


def trained(env):
    settings = {"model_batch_size": 2, "policy_batch_size": 2, "warmup_steps": 6}
    config = asmpg.TrainConfig(task=env, model="simulator", steps=9, optimum=True, overrides=settings)
    return asmpg.train(config).returns


def diagnosed(env):
    policy = asmpg.TanhGaussianPolicy(env, key=jax.random.key(0))
    subject = policy, asmpg.Simulator(env), env, env.initial_state()
    jacobian = asmpg.action_jacobian(asmpg.Simulator(env), env.initial_state(), jnp.asarray(ACTIONS))
    return np.append(np.stack(compare_directions(subject)), jacobian)


ACTIONS = np.full((3, 1), 0.5, np.float32)
CALLS = {
    "rollout": lambda env: asmpg.rollout(env, ACTIONS).rewards.sum(),
    "optimal": lambda env: asmpg.optimal(env, num_starts=1).episode_return,
    "score": lambda env: asmpg.score(env, 0.0),
    "gradient": lambda env: asmpg.action_gradient(
        asmpg.Simulator(env), env, env.initial_state(), jnp.asarray(ACTIONS)
    )[1],
    "train": trained,
    "diagnose": diagnosed,
}
NAMES = list(FUNCTIONS)
ORDERS = [
    (NAMES[:6], ["rollout", "optimal", "rollout", "gradient", "optimal"]),
    (NAMES[6:12], ["gradient", "score", "rollout", "gradient"]),
    (NAMES[12:18], ["optimal", "train", "rollout", "optimal"]),
    (NAMES[18:], ["diagnose", "optimal", "rollout", "diagnose"]),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("which", "order"), ORDERS)
def test_numpy_constants_survive_any_order_of_precisions(which, order, quickly):
    env = Reach(tuple(which))
    # What was traced before stays in use, with the constants it holds.
    program = jax.jit(lambda actions: asmpg.rollout(env, actions).rewards.sum())
    single = np.asarray(program(ACTIONS))
    found = {}
    for call in order:
        forget(env)
        value = np.asarray(CALLS[call](env))
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value, found.setdefault(call, value))
    np.testing.assert_array_equal(program(ACTIONS), single)
    with double():
        exact = np.asarray(CALLS["rollout"](env))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(single, exact, rtol=1e-5, atol=1e-6)


def forget(env):
    """Solves the task from scratch when it is asked for next."""
    for key in [key for key, (known, _) in solution_cache._memory.items() if known is env]:
        del solution_cache._memory[key]


class Scattered(AbstractEnvironment):
    """Heavy-tailed initial states, each of which is to be pushed to 0 in one step."""

    horizon: int = 2
    name: str = "scattered"
    state_size: int = 1
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.zeros(1) if key is None else jnp.exp(1.5 * jax.random.normal(key, (1,)))

    def transition(self, state, action, step):
        return state + action

    def reward(self, state, action, step):
        return -(state[0] ** 2)


def test_evaluation_states_are_the_same_numbers_in_every_precision_and_for_the_optimum():
    env = Scattered()
    single = np.asarray(evaluation_states(env))
    with double():
        exact = np.asarray(evaluation_states(env))
    assert exact.dtype == np.float64
    np.testing.assert_array_equal(single, exact.astype(np.float32))
    solution = asmpg.optimal(env)
    np.testing.assert_array_equal(solution.states[:, 0], exact)
    # The first action of a start x is the best one, -min(x, 1); the second has no effect on any reward.
    best = -np.mean(exact**2 + np.maximum(exact - 1, 0) ** 2)
    np.testing.assert_allclose(solution.episode_return, best, rtol=1e-8)
    np.testing.assert_allclose(asmpg.score(env, best), 1, rtol=1e-6)
