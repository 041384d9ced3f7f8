"""Environments of Brax, MJX and gymnax, real ones: episodes are what their own functions give, and a policy trains."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.tasks.environment import AbstractActor
from asmpg.tasks.simulator import check_simulator, simulate


pytestmark = pytest.mark.usefixtures("quickly")


class Push(AbstractActor):
    """Always the same action."""

    action: float

    def begin(self):
        return None

    def act(self, carry, state, step, noise=None):
        return jnp.full((1,), self.action)

    def observe(self, carry, state, step, action, reward):
        return None


def play(simulator, action):
    check_simulator(simulator)
    episode, length = jax.jit(lambda key: simulate(simulator, Push(action), key=key))(jax.random.key(3))
    return jax.tree.map(np.asarray, episode), int(length)


def start_key():
    return jax.random.split(jax.random.key(3))[0]


# gymnax


@pytest.fixture(scope="module")
def gymnax():
    return pytest.importorskip("gymnax")


def test_a_gymnax_episode_is_what_its_own_functions_give(gymnax):
    """The range of the action is its box, and its limit of 5 steps is no end."""
    env, params = gymnax.make("Pendulum-v1")
    world = asmpg.from_gymnax(env, params.replace(max_steps_in_episode=5), horizon=8)
    assert (world.name, world.observation_size, world.action_size) == ("Pendulum-v1", 3, 1)
    episode, length = play(world, 0.25)
    assert length == 8 and (episode.states[:, -1] == 1).all()
    observation, state = env.reset_env(start_key(), params)
    for step in range(8):
        np.testing.assert_allclose(episode.states[step, :3], observation, atol=1e-5)
        observation, state, reward, _, _ = env.step_env(jax.random.key(0), state, jnp.array([0.5]), params)
        np.testing.assert_allclose(episode.rewards[step], reward, rtol=1e-4)
    assert asmpg.from_gymnax(env).horizon == 200


def test_an_end_of_gymnax_is_an_end(gymnax):
    """A car that drives at full power up the hill behind it reaches no goal; the end is where the position says so."""
    env, params = gymnax.make("MountainCarContinuous-v0")
    world = asmpg.from_gymnax(env, params.replace(goal_position=-0.6, goal_velocity=-1.0), horizon=8)
    episode, length = play(world, -1.0)
    reached = episode.states[:, 0] >= -0.6
    assert reached[length] and not reached[1:length].any()
    np.testing.assert_array_equal(episode.states[:, -1], np.arange(9) < length)
    assert (episode.states[length:, :2] == episode.states[length, :2]).all()


class Through(asmpg.AbstractEnvironment):
    """gymnax's pendulum as a task, whose derivatives somebody takes."""

    environment: Any
    horizon: int = 6
    name: str = "through"
    state_size = property(lambda self: 2)
    action_size = property(lambda self: 1)

    def initial_state(self, *, key=None):
        return jnp.array([0.5, 0.1])

    def transition(self, state, action, step):
        from gymnax.environments.classic_control.pendulum import EnvState

        before = EnvState(theta=state[0], theta_dot=state[1], last_u=jnp.zeros(()), time=0)
        params = self.environment.default_params
        after = self.environment.step_env(jax.random.key(0), before, 2 * action, params)[1]
        return jnp.stack([after.theta, after.theta_dot])

    def reward(self, state, action, step):
        return -(state[0] ** 2) - 0.1 * action[0] ** 2


def test_a_gradient_that_gymnax_cuts_is_found(gymnax):
    env, _ = gymnax.make("Pendulum-v1")
    cut = asmpg.check_gradient(Through(env))
    assert not cut.right and "cut off from differentiation" in cut.message
    assert asmpg.check_gradient(Through(env.with_transition_gradients())).right


@pytest.mark.thorough
def test_a_policy_trains_in_gymnax(gymnax, tmp_path):
    env, params = gymnax.make("Pendulum-v1")
    small = {"warmup_steps": 16, "model_batch_size": 2, "policy_batch_size": 2}
    options = {"model": "one-step", "steps": 32, "chunk_steps": 16, "overrides": small}
    result = asmpg.train(asmpg.from_gymnax(env, params, horizon=8, ends_early=False), **options)
    assert np.isfinite(result.returns).all()
    np.testing.assert_array_equal(result.metrics["simulated_steps"][-1], [32])


# Brax


@pytest.fixture(scope="module")
def brax():
    return pytest.importorskip("brax.envs")


def test_brax_ends_where_the_pole_falls_and_does_not_begin_again(brax):
    """`create` adds a wrapper that begins again; it is taken off. The reward is of the next state."""
    env = brax.create("inverted_pendulum", backend="spring", episode_length=30)
    world = asmpg.from_brax(env)
    assert (world.horizon, world.observation_size, world.action_size) == (30, 4, 1)
    assert world.name == "invertedpendulum"
    episode, length = play(world, 1.0)
    assert 1 < length < 30
    fallen = np.abs(episode.states[:, 1]) > 0.2
    assert fallen[length] and not fallen[:length].any()
    np.testing.assert_array_equal(episode.states[:, -1], np.arange(31) < length)
    np.testing.assert_array_equal(episode.rewards, np.arange(30) < length)


def test_brax_cut_off_is_no_end(brax):
    env = brax.create("inverted_pendulum", backend="spring", episode_length=4)
    episode, length = play(asmpg.from_brax(env, 4), 0.0)
    assert length == 4 and (episode.states[:, -1] == 1).all()
    own = env.env  # without the wrapper that begins again
    state = own.reset(jax.random.key_data(start_key()))
    np.testing.assert_allclose(episode.states[0, :4], state.obs, rtol=1e-5)
    with pytest.raises(asmpg.UsageError, match="after 4 steps, give horizon=4"):
        asmpg.from_brax(env, 5)


# MJX


XML = """
<mujoco>
  <option timestep="0.05"/>
  <worldbody>
    <body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2" contype="0" conaffinity="0"/></body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="0 4"/></actuator>
</mujoco>
"""


def make_cart():
    """A cart in MJX with the states of Playground's environments: an observation of several arrays, `done` a number."""
    mujoco, mjx = pytest.importorskip("mujoco"), pytest.importorskip("mujoco.mjx")
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class State:
        data: Any
        obs: Any
        reward: Any
        done: Any
        metrics: Any
        info: Any

    class Cart:
        action_size = 1

        def __init__(self):
            self.model = mjx.put_model(mujoco.MjModel.from_xml_string(XML))

        def reset(self, rng):
            data = mjx.make_data(self.model)
            obs = {"state": jnp.zeros(2), "privileged": jnp.zeros(3)}
            return State(data, obs, jnp.zeros(()), jnp.zeros(()), {}, {"rng": rng})

        def step(self, state, action):
            data = mjx.step(self.model, state.data.replace(ctrl=action))
            seen = jnp.concatenate([data.qpos, data.qvel])
            done = (data.qpos[0] > 0.1).astype(float)
            obs = {"state": seen, "privileged": jnp.zeros(3)}
            return state.replace(data=data, obs=obs, reward=-jnp.abs(data.qpos[0] - 1), done=done)

    return Cart()


def test_an_mjx_episode_is_that_of_newtons_law():
    """Force 3 of 0 .. 4 on 2 kg; MuJoCo's semi-implicit Euler sums velocities first."""
    world = asmpg.from_mjx(make_cart(), 8, action_range=(0.0, 4.0), entries=["state"])
    assert (world.name, world.observation_size) == ("cart", 2)
    episode, length = play(world, 0.5)
    velocity = 1.5 * 0.05 * np.arange(9)
    position = 0.05 * np.cumsum(velocity)
    assert length == np.argmax(position > 0.1)
    np.testing.assert_allclose(episode.states[: length + 1, 0], position[: length + 1], atol=1e-5)
    np.testing.assert_allclose(episode.states[: length + 1, 1], velocity[: length + 1], atol=1e-5)
    np.testing.assert_allclose(episode.rewards[:length], -np.abs(position[1 : length + 1] - 1), atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("make", "named"),
    {
        "no horizon": (lambda brax, gymnax: asmpg.from_mjx(make_cart()), "horizon: must be given"),
        "class": (lambda brax, gymnax: asmpg.from_mjx(dict, 5), "from_mjx: environment"),
        "entry": (lambda brax, gymnax: asmpg.from_mjx(make_cart(), 5, entries=["stat"]), "entries: 'stat'"),
        "batch": (
            lambda brax, gymnax: asmpg.from_brax(brax.create("fast", batch_size=2), 5),
            "is a batch of 2",
        ),
        "pair": (lambda brax, gymnax: asmpg.from_gymnax(gymnax.make("Pendulum-v1")), "give what gymnax.make"),
        "discrete": (lambda brax, gymnax: asmpg.from_gymnax(*gymnax.make("CartPole-v1")), "must be a Box"),
        "infinite": (
            lambda brax, gymnax: asmpg.from_mjx(make_cart(), 5, action_range=(0, np.inf)),
            "action_range: must be given",
        ),
    }.values(),
)
def test_what_cannot_be_used_is_said_in_one_line(brax, gymnax, make, named):
    with pytest.raises(asmpg.UsageError) as caught:
        make(brax, gymnax)
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("door", "library"), [("from_brax", "brax"), ("from_gymnax", "gymnax")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, door, library):
    monkeypatch.setitem(sys.modules, library, None)
    for name in [name for name in sys.modules if name.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(asmpg.UsageError, match=rf"{door}: needs {library}, .*asmpg\[envs\]"):
        getattr(asmpg, door)(object())
