"""What public functions are given is checked at their door: one line that names the argument and what is allowed."""

import math
import random
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asmpg
from asmpg.tasks.environment import AbstractEnvironment
from asmpg.tasks.optimum import GradientWarning
from asmpg.tasks.validation import TaskWarning, validate
from asmpg.training.stored_config import _digest_of
from probes import RewardIsState


ENV = asmpg.make("harvest", 5)
MODEL, OTHER, TIMBER = asmpg.Simulator(ENV), asmpg.make("harvest", 7), asmpg.make("timber_harvest", 5)
KEY = jax.random.key(0)
POLICY = asmpg.TanhGaussianPolicy(ENV, key=KEY)
ACTIONS = np.zeros((5, 1))
START = np.array([0.4])

NUMBERS = st.sampled_from([0, 1, np.int64(3), 2.5, np.nan, -np.inf, 1 + 2j, True])
THINGS = st.one_of(
    NUMBERS,
    st.none(),
    st.text(max_size=3),
    st.sampled_from([object(), {}, [], [[1.0], [2.0, 3.0]], lambda: 0, int, AbstractEnvironment]),
    st.lists(NUMBERS, max_size=6),
    st.tuples(st.integers(0, 6), st.integers(0, 3)).map(np.ones),
    st.sampled_from(
        [np.full((5, 1), 5.0), np.full((5, 1), np.nan), np.full((5, 1), 1j), np.ones(5), np.ones((7, 1))]
    ),
    st.sampled_from([MODEL, POLICY, ENV, OTHER, asmpg.Simulator(OTHER), asmpg.make("hiv_treatment", 50)]),
)
CALLS = {
    "rollout": (lambda e, a, s: asmpg.rollout(e, a, initial_state=s), [ENV, ACTIONS, START]),
    "rollout key": (lambda k: asmpg.rollout(ENV, POLICY, key=k), [KEY]),
    "action_gradient": (asmpg.action_gradient, [MODEL, ENV, START, ACTIONS]),
    "policy_gradient": (asmpg.policy_gradient, [POLICY, MODEL, ENV, START]),
    "policy_gradient options": (
        lambda k, loop: asmpg.policy_gradient(POLICY, MODEL, ENV, START, key=k, loop=loop), [KEY, "open"]),
    "action_jacobian": (asmpg.action_jacobian, [MODEL, START, ACTIONS]),
    "optimal": (lambda n: asmpg.optimal(ENV, num_starts=n, cache=False), [1]),
    "optimal env": (lambda e: asmpg.optimal(e, num_starts=1), [ENV]),
    "check_gradient": (asmpg.check_gradient, [ENV]),
    "best_constant_return": (asmpg.best_constant_return, [ENV]),
    "random_return": (lambda e, n, k: asmpg.random_return(e, num_episodes=n, key=k), [ENV, 1, KEY]),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_one_wrong_argument_is_a_usage_error_of_one_line(call, data):
    function, arguments = CALLS[call]
    which = data.draw(st.integers(0, len(arguments) - 1))
    thing = data.draw(THINGS)
    if call == "optimal" and isinstance(thing, int | np.integer):
        thing = -1
    changed = [thing if i == which else argument for i, argument in enumerate(arguments)]
    try:
        function(*changed)
    except asmpg.UsageError as error:
        assert "\n" not in str(error)


WRONG = {
    "flat": lambda: asmpg.rollout(ENV, np.zeros(5)),
    "beyond": lambda: asmpg.rollout(ENV, np.full((5, 1), 5.0)),
    "a policy beyond": lambda: asmpg.rollout(ENV, lambda state, step, key=None: jnp.array([1.5])),
    "complex": lambda: asmpg.rollout(ENV, np.full((5, 1), 1j)),
    "not finite": lambda: asmpg.rollout(ENV, np.full((5, 1), np.nan)),
    "state": lambda: asmpg.rollout(ENV, ACTIONS, initial_state=np.zeros(3)),
    "a class": lambda: asmpg.rollout(RewardIsState, ACTIONS),
    "other horizon": lambda: asmpg.action_gradient(asmpg.Simulator(OTHER), ENV, START, ACTIONS),
    "other actions": lambda: asmpg.action_gradient(MODEL, ENV, START, np.zeros((7, 1))),
    "other policy": lambda: asmpg.policy_gradient(
        asmpg.TanhGaussianPolicy(OTHER, key=KEY), MODEL, ENV, START
    ),
    "other sequence": lambda: asmpg.policy_gradient(asmpg.ActionSequence(OTHER, key=KEY), MODEL, ENV, START),
    "rollout of another horizon": lambda: asmpg.rollout(ENV, asmpg.TanhGaussianPolicy(OTHER, key=KEY)),
    "rollout of another sequence": lambda: asmpg.rollout(ENV, asmpg.ActionSequence(OTHER, key=KEY)),
    "rollout of another task": lambda: asmpg.rollout(ENV, asmpg.TanhGaussianPolicy(TIMBER, key=KEY)),
    "sequence of another task": lambda: asmpg.rollout(ENV, asmpg.ActionSequence(TIMBER, key=KEY)),
    "model of another task": lambda: asmpg.action_gradient(
        asmpg.OneStepModel(TIMBER, key=KEY), ENV, START, ACTIONS
    ),
    "sequence model of another task": lambda: asmpg.action_gradient(
        asmpg.ActionSequenceModel(TIMBER, "rnn", key=KEY), ENV, START, ACTIONS
    ),
    "policy of another task": lambda: asmpg.policy_gradient(
        asmpg.TanhGaussianPolicy(TIMBER, key=KEY), MODEL, ENV, START
    ),
    "other task": lambda: asmpg.policy_gradient(
        POLICY, asmpg.Simulator(asmpg.make("cancer_treatment", 5)), ENV, START
    ),
    "seeds": lambda: asmpg.rollout(ENV, jax.tree.map(lambda x: x[None] if eqx.is_array(x) else x, POLICY)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_of_another_task_or_kind_is_refused(case):
    with pytest.raises(asmpg.UsageError) as caught:
        WRONG[case]()
    assert "\n" not in str(caught.value)
    assert case != "seeds" or "policy_of" in str(caught.value)


VALUES = {
    "dropout": ((asmpg.ActionSequenceModel, asmpg.HistoryModel), [-1.0, 1.0, 2.0]),
    "difference_loss": ((asmpg.ActionSequenceModel,), [-1.0, float("inf")]),
    "state_gradient_decay": ((asmpg.OneStepModel,), [-1.0, 2.0]),
}


@pytest.mark.parametrize("name", VALUES)
def test_models_check_the_values_they_are_given(name):
    models, values = VALUES[name]
    for model in models:
        backbone = () if model is asmpg.OneStepModel else ("rnn",)
        for value in [*values, float("nan")]:
            with pytest.raises(asmpg.UsageError, match=f"^{name}: must be a number") as caught:
                model(ENV, *backbone, key=KEY, **{name: value})
            assert "\n" not in str(caught.value)
    with pytest.raises(asmpg.UsageError, match=r"^backbone: .*did you mean lstm"):
        asmpg.HistoryModel(ENV, "lstn", key=KEY)


def test_a_policy_may_be_tried_where_a_parameter_of_its_task_has_changed():
    richer = asmpg.make("timber_harvest", 5, k=2.0)
    assert np.isfinite(asmpg.rollout(richer, asmpg.TanhGaussianPolicy(TIMBER, key=KEY)).rewards.sum())


def test_sizes_may_be_numpy_integers():
    class Sized(RewardIsState):
        horizon: int = eqx.field(default_factory=lambda: np.int64(4))
        state_size: int = eqx.field(default_factory=lambda: np.int32(1))

    env, digest = Sized(), _digest_of(Sized())
    assert asmpg.rollout(env, np.zeros((4, 1))).actions.shape == (4, 1)
    np.testing.assert_allclose(asmpg.optimal(env, num_starts=1).episode_return, 1.5)
    settings = {"model_batch_size": 2, "policy_batch_size": 2, "warmup_steps": 4}
    asmpg.TrainConfig(env, model="simulator", steps=8, overrides=settings).checked()
    assert type(env.horizon) is int
    assert asmpg.rollout(env, asmpg.TanhGaussianPolicy(env, key=KEY)).actions.shape == (4, 1)
    assert _digest_of(env) == digest


def test_plain_lists_and_numpy_arrays_are_taken():
    expected = asmpg.rollout(ENV, jnp.full((5, 1), 0.5)).rewards
    for actions in ([[0.5]] * 5, np.full((5, 1), 0.5)):
        np.testing.assert_array_equal(asmpg.rollout(ENV, actions, initial_state=[0.4]).rewards, expected)
    value, gradient = asmpg.action_gradient(MODEL, ENV, [0.4], [[0]] * 5)
    assert gradient.shape == (5, 1)
    assert np.isfinite(value)


def test_rollout_works_within_transformations_and_optimal_says_that_it_does_not():
    total = jax.jit(lambda r: asmpg.rollout(ENV, jnp.full((5, 1), r)).rewards.sum())
    assert np.isfinite(jax.grad(total)(0.1))
    own = RewardIsState()
    with pytest.raises(asmpg.UsageError, match="within jit"):
        jax.jit(lambda k: asmpg.optimal(own).episode_return * k)(1.0)


class Own(AbstractEnvironment):
    """A task whose transition and reward are given."""

    move: object = eqx.field(static=True)
    pay: object = eqx.field(static=True, default=lambda s, a, t: -(s[0] ** 2))
    horizon: int = eqx.field(static=True, default=4)
    name: str = eqx.field(static=True, default="own")
    state_size: int = eqx.field(static=True, default=2)
    action_size: int = eqx.field(static=True, default=1)

    def initial_state(self, *, key=None):
        return jnp.array([0.5, -0.5])

    def transition(self, state, action, step):
        return self.move(state, action, step)

    def reward(self, state, action, step):
        return self.pay(state, action, step)


def linear(s, a, t):
    return 0.9 * s + 0.1 * a


def test_an_index_beyond_its_array_is_found_though_jax_clamps_it():
    for task in (
        lambda: validate(Own(lambda s, a, t: s + a[1])),
        lambda: validate(Own(linear, lambda s, a, t: -(s[2] ** 2))),
        lambda: asmpg.from_ode(lambda x, u, t: u[1] - x, lambda x, u, t: x[0] ** 2, initial_state=1.0, duration=1.0,
                               horizon=5, control_bounds=(-1.0, 1.0)),
    ):  # fmt: skip
        with pytest.raises(asmpg.UsageError, match="out of bounds"):
            task()


TABLE = jnp.arange(3.0)
BEYOND = {
    "ellipsis": lambda s, a, t: -s[..., 3],
    "from the end": lambda s, a, t: a[-2],
    "set": lambda s, a, t: -(s.at[5].set(1.0) ** 2).sum(),
    "add from the end": lambda s, a, t: -(s.at[-3].add(1.0) ** 2).sum(),
    "by the step": lambda s, a, t: s[t],
    "a table, by the step": lambda s, a, t: TABLE[t],
    "a table": lambda s, a, t: s[0] + TABLE[7],
    "a list of indices": lambda s, a, t: s[jnp.array([0, 4])].sum(),
    "in a program": lambda s, a, t: jax.jit(lambda s: s[3])(s),
    "in a batch": lambda s, a, t: jax.vmap(lambda i: s[i])(jnp.arange(3)).sum(),
}


@pytest.mark.parametrize("how", BEYOND)
def test_an_index_is_found_however_it_is_written(how):
    reward = BEYOND[how]
    for use in (
        validate,
        lambda env: asmpg.rollout(env, ACTIONS[:4]),
        lambda env: asmpg.optimal(env, num_starts=1),
    ):
        with pytest.raises(asmpg.UsageError, match=r"out.of.bounds") as caught:
            use(Own(linear, reward))
        assert "\n" not in str(caught.value)


def test_an_index_that_stays_within_is_right():
    pay = lambda s, a, t: -((s[t % 2] - jnp.arange(4.0)[t]) ** 2) + jnp.interp(t * 2.0, TABLE, TABLE)  # noqa: E731
    validate(Own(lambda s, a, t: s.at[jnp.clip(t, 0, 1)].add(a[-1]), pay))


GENERATOR = np.random.default_rng(0)
DRAWS = {
    "numpy.random": np.random.normal,
    "of two values": lambda: np.random.choice([-1.0, 1.0]),  # noqa: NPY002
    "random": random.random,
    "a generator": GENERATOR.normal,
    # In single precision, seconds since the start of the machine are the same number for milliseconds.
    "a clock": lambda: time.perf_counter_ns() % 10**6,
    "a key from a clock": lambda: jax.random.normal(jax.random.key(time.time_ns() % 10**6)),
}


@pytest.mark.parametrize("source", DRAWS)
def test_random_numbers_drawn_while_tracing_are_found(source):
    draw = DRAWS[source]

    class Drawn(Own):
        def initial_state(self, *, key=None):
            return jnp.array([0.5, -0.5]) * draw()

    for name, env in {
        "transition": Own(lambda s, a, t: linear(s, a, t) + draw()),
        "reward": Own(linear, lambda s, a, t: s[0] * draw()),
        "initial_state": Drawn(linear),
    }.items():
        for use in (validate, lambda env: asmpg.rollout(env, ACTIONS[:4])):
            with pytest.raises(asmpg.UsageError, match=f"{name} of own: is another function each time"):
                use(env)
    functions = {"dynamics": lambda x, u, t: u - x, "cost": lambda x, u, t: x[0] ** 2}
    functions |= {"terminal_cost": lambda x: x[0], "path_constraint": lambda x, u, t: x[0]}
    functions |= {"terminal_constraint": lambda x: x[0]}
    given = {"initial_state": 1.0, "duration": 1.0, "horizon": 4, "control_bounds": (-1, 1)}
    for name, function in functions.items():
        wrong = {name: lambda *args, function=function: function(*args) + draw()}
        with pytest.raises(asmpg.UsageError, match=f"{name} of ode: is another function each time"):
            asmpg.from_ode(**functions | wrong, **given)


def test_what_jax_cannot_trace_is_told_with_what_to_write_instead():
    table = np.arange(5.0)
    for reward, remedy in (
        (lambda s, a, t: np.interp(t, table, table), "use jax.numpy instead of numpy"),
        (lambda s, a, t: table[t], "jnp.asarray"),
        (lambda s, a, t: [0.0, 1.0, 2.0, 3.0][t] * s[0], "jnp.asarray"),
        (lambda s, a, t: math.sin(s[0]), "use jax.numpy instead of int, float and math"),
        (lambda s, a, t: s[0] if s[1] > 0 else a[0], "use jnp.where instead of if"),
    ):
        with pytest.raises(asmpg.UsageError, match=remedy) as caught:
            asmpg.rollout(Own(linear, reward), ACTIONS[:4])
        assert "\n" not in str(caught.value)


def test_a_callback_that_cannot_be_mapped_is_refused_in_one_line():
    def move(s, a, t):
        return jax.pure_callback(lambda s, a: np.asarray(s), jax.ShapeDtypeStruct(s.shape, s.dtype), s, a)

    with pytest.raises(asmpg.UsageError, match="own: an episode raised NotImplementedError") as caught:
        validate(Own(move))
    assert "\n" not in str(caught.value)


def test_an_array_in_a_static_field_is_refused():
    class Static(Own):
        matrix: np.ndarray = eqx.field(static=True, default_factory=lambda: np.eye(2))

    with pytest.raises(asmpg.UsageError, match="matrix of own: an array in a static field"):
        asmpg.rollout(Static(linear), ACTIONS[:4])


def test_numbers_of_any_kind_are_taken_by_the_methods_of_an_equation():
    env = asmpg.from_ode(lambda x, u, t: u - x, lambda x, u, t: x[0] ** 2, initial_state=[1.0, 0.5], duration=1.0,
                         horizon=4, control_bounds=(0.0, 3.0))  # fmt: skip
    for action in ([0.5], np.array([0.5]), jnp.array([0.5])):
        np.testing.assert_allclose(env.control(action), [2.25])
    np.testing.assert_allclose(env.control([1]), [3.0])
    for state in ([1, 2], np.array([1, 2]), jnp.array([1.0, 2.0])):
        np.testing.assert_allclose(env.transition(state, [0], 0), [1 + 0.125, 2 - 0.125])
        np.testing.assert_allclose(env.reward(state, [0], 0), -0.25)


class Ended(Own):
    """Has a method that nothing calls."""

    def done(self, state):
        return state[0] > 0


def test_methods_that_are_never_called_are_said():
    with pytest.warns(TaskWarning, match="done is never called"):
        validate(Ended(linear))


def test_an_episode_that_no_memory_holds_is_refused():
    with pytest.raises(asmpg.UsageError, match="numbers"):
        validate(Own(linear, state_size=10**8))


def test_gradients_are_compared_with_differences():
    assert asmpg.check_gradient(Own(linear)).right
    assert asmpg.check_gradient(asmpg.make("double_pendulum", 10)).right
    cut = Own(lambda s, a, t: linear(s, jax.lax.stop_gradient(a), t) + 0.01 * a)
    found = asmpg.check_gradient(cut)
    assert found.error > 0.5
    assert "cut off" in found.message
    rounded = Own(lambda s, a, t: s + jnp.round(3 * a).astype(int) / 3)
    assert "zero" in asmpg.check_gradient(rounded).message
    with pytest.warns(GradientWarning, match="cut off"):
        solution = asmpg.optimal(cut, num_starts=1)
    assert not solution.trusted and "cannot be trusted, its gradient is not that" in solution.message


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda s, a, t: jax.lax.stop_gradient(-((s[0] - 1) ** 2)) + a[0], "not that of its sum of rewards"),
        (lambda s, a, t: jnp.floor(9 * s[0]), "zero, though other states change it"),
        (lambda s, a, t: jnp.where(s[0] > 0.4, 1.0, 0.0), "zero, though other states change it"),
        (lambda s, a, t: -jnp.abs(s[0] - 0.1) - 0.1 * a[0] ** 2, ""),
        (lambda s, a, t: 1.0 + 0.0 * s[0], ""),
    ],
)
def test_a_model_needs_the_gradient_of_the_reward_and_of_nothing_else(reward, said):
    moving = lambda s, a, t: linear(s, jax.lax.stop_gradient(a), t)  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asmpg.TrainConfig(Own(moving, reward), model="lstm", steps=100).checked()
    texts = [str(one.message) for one in caught if issubclass(one.category, GradientWarning)]
    assert [said in text for text in texts] == ([True] if said else [])
    asmpg.TrainConfig(Own(moving, reward), model="lstm", steps=100, learned_reward=True).checked()


def test_the_cost_of_an_equation_is_looked_at_whatever_integrates_it():
    plant = {"initial_state": [0.5], "duration": 1.0, "horizon": 5, "control_bounds": (-1, 1)}
    moving = lambda x, u, t: u - x  # noqa: E731
    stepped = asmpg.from_ode(moving, lambda x, u, t: jnp.round(9 * x[0]), method="rk4", substeps=2, **plant)
    with pytest.warns(GradientWarning, match="zero, though other states change it"):
        asmpg.TrainConfig(stepped, model="one-step", steps=100).checked()


@pytest.mark.parametrize("options", [{"model": "simulator"}, {"model": "rnn", "record_cosine": True}])
def test_a_run_that_uses_the_derivatives_of_a_task_checks_them_first(options):
    cut = Own(lambda s, a, t: linear(s, jax.lax.stop_gradient(a), t) + 0.01 * a)
    with pytest.warns(GradientWarning, match="cut off"):
        asmpg.TrainConfig(cut, steps=100, **options).checked()
    asmpg.TrainConfig(Own(linear), steps=100, **options).checked()


def test_lacking_memory_is_no_fault_of_the_task():
    def exhausted(s, a):
        raise MemoryError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    def move(s, a, t):
        shape = jax.ShapeDtypeStruct(s.shape, s.dtype)
        return jax.pure_callback(exhausted, shape, s, a, vmap_method="expand_dims")

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED") as caught:
        validate(Own(move))
    assert not isinstance(caught.value, asmpg.UsageError)


def test_a_callback_cannot_be_differentiated_and_optimal_says_so_in_one_line():
    def move(s, a, t):
        shape = jax.ShapeDtypeStruct(s.shape, s.dtype)
        return jax.pure_callback(lambda s, a: (0.9 * np.asarray(s) + np.asarray(a)).astype(s.dtype), shape, s, a,
                                 vmap_method="expand_dims")  # fmt: skip

    with pytest.raises(asmpg.UsageError, match="cannot be differentiated") as caught:
        asmpg.optimal(Own(move))
    assert "\n" not in str(caught.value)
