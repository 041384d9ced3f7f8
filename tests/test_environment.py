import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.types import UsageError
from asmpg.tasks.environment import (
    AbstractEnvironment,
    evaluation_states,
    rollout,
    trajectory_rewards,
    uniform_actions,
)
from asmpg.tasks.validation import validate
from probes import DelayedReward, RewardIsAction, RewardIsState


class Clock(AbstractEnvironment):
    """Everything it does says at which step: the state counts, the reward is 10^step, the end pays 0.5."""

    horizon: int = 4
    name: str = "clock"
    # As properties, which is allowed just as well as fields.
    state_size = property(lambda self: 2)  # pyright: ignore[reportAssignmentType]
    action_size = property(lambda self: 3)  # pyright: ignore[reportAssignmentType]

    def initial_state(self, *, key=None):
        return jnp.zeros(2) if key is None else jax.random.normal(key, (2,))

    def transition(self, state, action, step):
        return jnp.stack([state[0] + action.sum(), jnp.asarray(step, state.dtype)])

    def reward(self, state, action, step):
        return jnp.asarray(10.0, state.dtype) ** step + 0 * state[0]

    def terminal_reward(self, state):
        return 0.5 + 1000 * state[1]


@dataclasses.dataclass
class Policy:
    """Not an array: says what it was asked."""

    noise: float = 1.0

    def mode(self, state, step):
        return jnp.full(3, 0.1) * step

    def __call__(self, state, step, *, key):
        return self.mode(state, step) + self.noise * jax.random.uniform(key, (3,), minval=-0.5, maxval=0.5)


def test_steps_rewards_and_the_terminal_reward_come_at_the_right_time():
    trajectory = rollout(Clock(), jnp.ones((4, 3)))
    np.testing.assert_array_equal(trajectory.states[:, 0], [0, 3, 6, 9, 12])
    np.testing.assert_array_equal(trajectory.states[1:, 1], [0, 1, 2, 3])
    # The terminal reward sees the state after the last action, whose second component is 3.
    np.testing.assert_allclose(trajectory.rewards, [1, 10, 100, 1000 + 3000.5], rtol=1e-6)
    assert trajectory.episode_return == trajectory.rewards.sum()
    np.testing.assert_array_equal(
        trajectory_rewards(Clock(), trajectory.states, trajectory.actions), trajectory.rewards
    )


def test_a_policy_is_deterministic_without_a_key_and_stochastic_with_one():
    env, key = Clock(), jax.random.key(1)
    quiet = rollout(env, Policy())
    np.testing.assert_allclose(quiet.actions[:, 0], 0.1 * np.arange(4), rtol=1e-6)
    first, again, other = (rollout(env, Policy(), key=k) for k in (key, key, jax.random.key(2)))
    np.testing.assert_array_equal(first.actions, again.actions)
    assert (first.actions != other.actions).all()
    assert (first.states[0] != other.states[0]).all()
    # Independent noise at every step, and without noise the mean actions from the same random start.
    assert len(np.unique(np.asarray(first.actions - quiet.actions))) == 12
    np.testing.assert_array_equal(rollout(env, Policy(0.0), key=key).actions, quiet.actions)
    # Replaying the actions from the same start gives the same episode, bit for bit; so does a legacy key.
    replay = rollout(env, first.actions, initial_state=first.states[0])
    np.testing.assert_array_equal(replay.states, first.states)
    np.testing.assert_array_equal(rollout(env, Policy(), key=jax.random.PRNGKey(1)).actions, first.actions)


def test_a_plain_function_is_a_policy_too():
    def policy(state, step, *, key=None):
        return jnp.stack([state[0], state[1], 1.0 * step]) / 10

    assert rollout(Clock(), policy, key=jax.random.key(0)).actions.shape == (4, 3)
    np.testing.assert_allclose(rollout(Clock(), policy).actions[:, 2], np.arange(4) / 10, rtol=1e-6)


def test_rollouts_differentiate_batch_and_follow_the_precision():
    env = Clock()
    actions = jax.vmap(lambda key: uniform_actions(env, key=key))(jax.random.split(jax.random.key(0), 5))
    assert actions.shape == (5, 4, 3)
    assert (np.abs(actions) <= 1).all()
    assert len(np.unique(actions)) == 60
    batch = jax.jit(jax.vmap(lambda a: rollout(env, a)))(actions)
    np.testing.assert_array_equal(batch.states[2], rollout(env, actions[2]).states)
    gradient = jax.jit(jax.grad(lambda a: rollout(env, a).states[-1, 0]))(actions[0])
    np.testing.assert_array_equal(gradient, np.ones((4, 3)))
    integers = rollout(env, np.ones((4, 3), np.float64))
    assert integers.states.dtype == jnp.float32
    with jax.enable_x64(True):
        assert rollout(env, np.ones((4, 3), np.float64)).states.dtype == jnp.float64


@pytest.mark.parametrize("shape", [(4,), (3, 4), (5, 3), (4, 3, 1)])
def test_actions_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(UsageError, match=r"clock needs \(4, 3\)"):
        rollout(Clock(), jnp.zeros(shape))


def test_evaluation_states_are_fixed_and_one_where_the_start_is():
    states = evaluation_states(Clock())
    assert states.shape == (64, 2)
    np.testing.assert_array_equal(states, evaluation_states(Clock()))
    assert len(np.unique(states)) == 128
    assert evaluation_states(RewardIsAction()).shape == (1, 1)


@pytest.mark.parametrize("env", [RewardIsAction(), RewardIsState(), DelayedReward(), Clock()])
def test_sound_tasks_are_valid_in_both_precisions(env):
    validate(env)
    with jax.enable_x64(True):
        validate(env)


class Broken(AbstractEnvironment):
    """A task of which one function can be replaced by a wrong one."""

    start: object = eqx.field(static=True, default=None)
    move: object = eqx.field(static=True, default=None)
    pay: object = eqx.field(static=True, default=None)
    end: object = eqx.field(static=True, default=None)
    horizon: int = eqx.field(static=True, default=5)
    name: str = eqx.field(static=True, default="broken")
    state_size: int = eqx.field(static=True, default=2)
    action_size: int = eqx.field(static=True, default=1)

    def initial_state(self, *, key=None):
        return jnp.ones(2) if self.start is None else self.start()

    def transition(self, state, action, step):
        return state * 0.9 if self.move is None else self.move(state, action, step)

    def reward(self, state, action, step):
        return action[0] if self.pay is None else self.pay(state, action, step)

    def terminal_reward(self, state):
        return state[0] if self.end is None else self.end(state)


def nan_at(when, value=jnp.nan):
    return lambda s, a, t: jnp.where(t == when, value, 0.0) + s


def python_if(s, a, t):
    return s if s[0] > 0 else -s


FAULTS = {
    "start shape": ({"start": lambda: jnp.ones(3)}, ["initial_state of broken", "(2,)", "(3,)"]),
    "start dtype": ({"start": lambda: jnp.ones(2, int)}, ["initial_state of broken", "floating", "int32"]),
    "start nan": ({"start": lambda: jnp.array([1.0, jnp.nan])}, ["initial_state of broken", "[1, nan]"]),
    "move shape": ({"move": lambda s, a, t: s[:1]}, ["transition of broken", "steps 0 to 4", "(2,)", "(1,)"]),
    "move dtype": ({"move": lambda s, a, t: s > 0}, ["transition of broken", "floating", "bool"]),
    "move type": ({"move": lambda s, a, t: [s[0], s[1]]}, ["transition of broken", "(2,)", "list"]),
    "move error": ({"move": lambda s, a, t: s @ jnp.ones(3)}, ["transition of broken", "raised TypeError"]),
    "move if": ({"move": python_if}, ["transition of broken", "raised TracerBoolConversionError"]),
    "move nan": ({"move": nan_at(3)}, ["transition of broken", "[nan, nan]", "at step 3", "action ["]),
    "move inf": ({"move": nan_at(4, jnp.inf)}, ["transition of broken", "[inf, inf]", "at step 4"]),
    "pay shape": ({"pay": lambda s, a, t: a}, ["reward of broken", "()", "(1,)"]),
    "pay none": ({"pay": lambda s, a, t: None}, ["reward of broken", "()", "NoneType"]),
    "pay dtype": ({"pay": lambda s, a, t: t}, ["reward of broken", "floating", "int32"]),
    "pay nan": ({"pay": lambda s, a, t: jnp.log(1.5 - t)}, ["reward of broken", "nan", "at step 2"]),
    "pay rarely": (
        {"pay": lambda s, a, t: jnp.where(a[0] > 0.98, jnp.nan, 0.0)},
        ["reward of broken", "nan", "action [0.9"],
    ),
    "pay last": ({"pay": lambda s, a, t: jnp.log(3.5 - t)}, ["reward of broken", "nan", "at step 4"]),
    "end shape": ({"end": lambda s: s}, ["terminal_reward of broken", "()", "(2,)"]),
    "end nan": ({"end": lambda s: s[0] / 0}, ["terminal_reward of broken", "inf", "after step 4"]),
    "horizon": ({"horizon": 1}, ["horizon", "from 2", "1"]),
    "size": ({"action_size": 0}, ["action_size of broken", ">= 1", "0"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_validate_names_function_step_and_value(fault):
    changes, words = FAULTS[fault]
    with pytest.raises(UsageError) as error:
        validate(Broken(**changes))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
