"""Policy gradients: two passes against one, Definition 1 written out, finite differences, the adjoint recursion."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from asmpg.core.types import UsageError
from asmpg.gradients.policies import ActionSequence, TanhGaussianPolicy
from asmpg.gradients.policy_gradient import (
    action_gradient,
    imagine,
    imagine_in_two_passes,
    imagined_return,
    policy_gradient,
)
from asmpg.models import AbstractDynamicsModel, ActionSequenceModel, HistoryModel, OneStepModel, Simulator
from asmpg.models.backbones import BACKBONES
from asmpg.models.normalisation import Normaliser
from asmpg.tasks import make
from asmpg.tasks.environment import AbstractEnvironment, rollout, trajectory_rewards
from tiers import thorough_but
from toys import Drift, flatten, LinearQuadratic, relative_error, unit_normaliser


pytestmark = pytest.mark.usefixtures("quickly")

MODELS = (*BACKBONES, "history-rnn", "one-step", "simulator")
jitted_policy_gradient = eqx.filter_jit(policy_gradient)
# With clips, a terminal reward, time in the reward, several states and actions, and chaos.
TASKS: dict[str, Callable[[], AbstractEnvironment]] = {
    "timber_harvest": lambda: make("timber_harvest", 8),
    "bacteria": lambda: make("bacteria", 8),
    "harvest": lambda: make("harvest", 9),
    "invasive_plant": lambda: make("invasive_plant", 10),
    "credit_assignment": lambda: make("credit_assignment", 5),
    "double_pendulum": lambda: make("double_pendulum", 6),
    "drift": Drift,
}


def make_model(name: str, env: AbstractEnvironment) -> AbstractDynamicsModel:
    if name == "simulator":
        return Simulator(env)
    options: dict[str, Any] = {"key": jax.random.key(1), "normaliser": unit_normaliser(env)}
    if name == "one-step":
        return OneStepModel(env, **options)
    kind = HistoryModel if name.startswith("history-") else ActionSequenceModel
    return kind(env, name.removeprefix("history-"), **options)


def make_policy(env: AbstractEnvironment, seed: int = 0) -> TanhGaussianPolicy:
    """A policy that is not nearly constant.

    Its biases are random too: where they are zero and all inputs are, every unit sits on its kink.
    """
    states = jax.jit(lambda: rollout(env, make_noise(env).clip(-1, 1)).states)()
    policy = TanhGaussianPolicy(
        env, key=jax.random.key(seed), normaliser=Normaliser.from_states(states[None])
    )
    return eqx.tree_at(lambda p: p.layers, policy, random_like(policy.layers, seed))


def random_like(layers: Any, seed: int) -> Any:
    """Layers of these shapes with random weights of a usual size and random biases."""
    random = np.random.default_rng(seed)
    size = {2: lambda shape: shape[0] ** -0.5, 1: lambda shape: 0.3}
    return jax.tree.map(
        lambda x: jnp.asarray(size[x.ndim](x.shape) * random.normal(size=x.shape), x.dtype), layers
    )


def without_state_inputs(layers: Any, env: AbstractEnvironment) -> Any:
    """The same with zero weights from the state."""
    return eqx.tree_at(lambda ls: ls[0].weight, layers, replace_fn=lambda w: w.at[: env.state_size].set(0.0))


def make_noise(env: AbstractEnvironment, dtype: Any = float) -> jax.Array:
    noise = np.random.default_rng(3).normal(size=(env.horizon, env.action_size))
    return jnp.asarray(0.5 * noise, dtype)


def two_ways(model, policy, env, noise):
    """Value and gradient of return plus entropy, in two passes and in one."""

    @eqx.filter_jit
    def run(model, policy, noise):
        def objective(policy, two_pass):
            start = env.initial_state()
            value, imagined = imagined_return(policy, model, env, start, noise, two_pass=two_pass)
            return value + 0.7 * imagined.entropy, imagined

        both = [
            eqx.filter_value_and_grad(objective, has_aux=True)(policy, two_pass) for two_pass in (True, False)
        ]
        return [(value, imagined, grads) for (value, imagined), grads in both]

    return run(model, policy, noise)


@pytest.mark.parametrize("name", ["lstm", "lru", "transformer"])
def test_two_passes_give_what_one_gives(name):
    """In single precision, where rounding is what may differ, for a backbone of each kind."""
    env = Drift()
    two, one = two_ways(make_model(name, env), make_policy(env), env, make_noise(env))
    for field in ("states", "actions", "log_probs"):
        assert relative_error(getattr(two[1], field), getattr(one[1], field)) < 1e-5
    np.testing.assert_allclose(two[0], one[0], rtol=1e-6)
    assert relative_error(two[2], one[2]) < 1e-5


@pytest.mark.parametrize("name", thorough_but(["rnn", "attention", "history-rnn", "one-step"], MODELS))
def test_two_passes_give_what_one_gives_in_double_precision(name, x64):
    env = Drift()
    two, one = two_ways(make_model(name, env), make_policy(env), env, make_noise(env))
    for field in ("states", "actions", "log_probs"):
        assert relative_error(getattr(two[1], field), getattr(one[1], field)) < 1e-12
    np.testing.assert_allclose(two[0], one[0], rtol=1e-13)
    assert relative_error(two[2], one[2]) < 1e-12


def reverse_scans(jaxpr: Any) -> int:
    """How many loops of a program run backwards."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "scan" and equation.params["reverse"]
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            found += reverse_scans(inner) if hasattr(inner, "eqns") else 0
    return found


def test_two_passes_keep_a_parallel_backbone_parallel():
    """By default a parallel model's gradient holds no loop that runs backwards over time; in one pass it does."""
    env = Drift()
    model, policy, noise = make_model("transformer", env), make_policy(env), make_noise(env)
    arrays, static = eqx.partition(policy, eqx.is_array)

    def gradient(arrays, **options):
        def objective(arrays):
            return imagined_return(
                eqx.combine(arrays, static), model, env, env.initial_state(), noise, **options
            )[0]

        return jax.grad(objective)(arrays)

    assert reverse_scans(jax.make_jaxpr(gradient)(arrays).jaxpr) == 0
    assert reverse_scans(jax.make_jaxpr(lambda a: gradient(a, two_pass=False))(arrays).jaxpr) > 0


def jacobians(env: AbstractEnvironment, policy: TanhGaussianPolicy, noise: jax.Array) -> dict[str, Any]:
    """All that Definition 1 is made of, along one episode: derivatives of single steps only."""
    layers, unravel = ravel_pytree(policy.layers)

    def act(layers, state, step, noise):
        blank = eqx.tree_at(lambda p: p.layers, policy, unravel(layers))
        return blank.sample_and_log_prob(state, step, noise)[0]

    def body(state, x):
        action = act(layers, state, *x)
        return env.transition(state, action, x[0]), (state, action)

    steps = jnp.arange(env.horizon)
    final, (states, actions) = jax.lax.scan(body, env.initial_state(), (steps, noise))
    transition = jax.vmap(jax.jacfwd(env.transition, (0, 1)))(states, actions, steps)
    reward, by_input = jax.vmap(jax.value_and_grad(env.reward, (0, 1)))(states, actions, steps)
    terminal, by_last = jax.value_and_grad(env.terminal_reward)(final)
    return {
        "state by state": transition[0],
        "state by action": transition[1],
        "action by parameters": jax.vmap(jax.jacrev(act), (None, 0, 0, 0))(layers, states, steps, noise),
        "reward by state": jnp.concatenate([by_input[0], by_last[None]]),
        "reward by action": by_input[1],
        "return": reward.sum() + terminal,
    }


def written_out(parts: dict[str, np.ndarray]) -> np.ndarray:
    """Definition 1 as it stands: a double sum over rewards and earlier actions of products of Jacobians.

    `sum_t [dr_t/ds_t sum_{k<t} (prod_{k<i<t} ds_{i+1}/ds_i) ds_{k+1}/da_k + dr_t/da_t] da/dtheta`, the terminal
    reward being one more reward, at t = H and without an action.
    """
    horizon, _, num_parameters = parts["action by parameters"].shape
    total = np.zeros(num_parameters)
    for t in range(horizon + 1):
        for k in range(t):
            product = parts["state by action"][k]
            for i in range(k + 1, t):
                product = parts["state by state"][i] @ product
            total += parts["reward by state"][t] @ product @ parts["action by parameters"][k]
        if t < horizon:
            total += parts["reward by action"][t] @ parts["action by parameters"][t]
    return total


@pytest.mark.parametrize(
    "name", ["timber_harvest", "harvest", "invasive_plant", "credit_assignment", "drift"]
)
def test_open_loop_gradient_is_definition_1_written_out(name, x64):
    env = TASKS[name]()

    @eqx.filter_jit
    def both(policy, noise):
        def objective(policy):
            return imagined_return(policy, Simulator(env), env, env.initial_state(), noise)[0]

        return eqx.filter_value_and_grad(objective)(policy), jacobians(env, policy, noise)

    for seed in (0, 1, 2):
        (value, grads), parts = both(make_policy(env, seed), make_noise(env))
        parts = jax.tree.map(np.asarray, parts)
        np.testing.assert_allclose(value, parts["return"], rtol=1e-10)
        assert relative_error(ravel_pytree(grads.layers)[0], written_out(parts)) < 1e-9


def slope(objective: Callable[[Any], jax.Array], policy: TanhGaussianPolicy, direction: Any) -> jax.Array:
    """The derivative of a function of a policy along a direction, by central differences of fourth order."""
    step = 1e-6

    def ahead(size):
        moved = jax.tree.map(lambda x, d: x + size * d, policy.layers, direction)
        return objective(eqx.tree_at(lambda p: p.layers, policy, moved))

    near, near_back, far, far_back = jax.lax.map(ahead, step * jnp.array([1.0, -1.0, 2.0, -2.0]))
    return (8 * (near - near_back) - (far - far_back)) / (12 * step)


@pytest.mark.parametrize("name", ["timber_harvest", "bacteria", "invasive_plant", "double_pendulum", "drift"])
def test_gradients_are_finite_differences_of_the_return(name, x64):
    """Closed loop always; open loop for a policy that ignores the state, and only then."""
    env = TASKS[name]()
    noise = make_noise(env)

    def true_return(policy):
        def body(state, x):
            action = policy.sample_and_log_prob(state, *x)[0]
            return env.transition(state, action, x[0]), (state, action)

        final, (states, actions) = jax.lax.scan(body, env.initial_state(), (jnp.arange(env.horizon), noise))
        return trajectory_rewards(env, jnp.concatenate([states, final[None]]), actions).sum()

    @eqx.filter_jit
    def slopes(policy, direction):
        def objective(policy, loop):
            return imagined_return(policy, Simulator(env), env, env.initial_state(), noise, loop=loop)[0]

        grads = [eqx.filter_grad(objective)(policy, loop).layers for loop in ("closed", "open")]
        along = [jnp.vdot(ravel_pytree(g)[0], ravel_pytree(direction)[0]) for g in grads]
        return *along, slope(true_return, policy, direction)

    policy = make_policy(env)
    direction = random_like(policy.layers, seed=4)
    closed, opened, expected = slopes(policy, direction)
    np.testing.assert_allclose(closed, expected, rtol=1e-6)
    if name not in (
        "credit_assignment",
        "double_pendulum",
    ):  # no state of theirs leads to an action that counts
        assert abs(opened - closed) > 1e-4 * abs(closed)

    blind = eqx.tree_at(lambda p: p.layers, policy, without_state_inputs(policy.layers, env))
    closed, opened, expected = slopes(blind, without_state_inputs(direction, env))
    np.testing.assert_allclose(closed, expected, rtol=1e-6)
    np.testing.assert_allclose(opened, closed, rtol=1e-10)


@pytest.mark.parametrize("name", ["lstm", "lru", "transformer", "history-rnn", "one-step", "simulator"])
def test_closed_loop_through_a_model_is_finite_differences(name, x64):
    """The derivative through the model's states, by its step-by-step form, entropy included.

    No backbone's `step` has a derivative that is written by hand: one of each kind will do.
    """
    env = Drift()
    model, policy, noise = make_model(name, env), make_policy(env), make_noise(env)

    @eqx.filter_jit
    def slopes(model, policy, direction):
        def objective(policy):
            value, imagined = imagined_return(policy, model, env, env.initial_state(), noise, loop="closed")
            return value + imagined.entropy

        grads = eqx.filter_grad(objective)(policy).layers
        along = jnp.vdot(ravel_pytree(grads)[0], ravel_pytree(direction)[0])
        return along, slope(objective, policy, direction)

    along, expected = slopes(model, policy, random_like(policy.layers, seed=4))
    np.testing.assert_allclose(along, expected, rtol=1e-6)


def adjoint(env: LinearQuadratic, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """dJ/da of the linear-quadratic task: costates backwards from the end."""
    m = env.matrices()
    costate, gradients = m["f"] - m["F"] @ states[-1], []
    for state, action in zip(states[-2::-1], actions[::-1], strict=True):
        gradients.append(m["q"] - m["R"] @ action + m["N"].T @ state + m["B"].T @ costate)
        costate = m["p"] - m["Q"] @ state + m["N"] @ action + m["A"].T @ costate
    return np.stack(gradients[::-1])


def test_action_gradient_is_the_adjoint_recursion(x64):
    env = LinearQuadratic()
    actions = jnp.asarray(np.random.default_rng(5).uniform(-1, 1, size=(6, 2)))
    value, gradient = eqx.filter_jit(action_gradient)(Simulator(env), env, env.initial_state(), actions)
    trajectory = jax.jit(lambda actions: rollout(env, actions))(actions)
    expected = adjoint(env, np.asarray(trajectory.states), np.asarray(actions))
    assert relative_error(gradient, expected) < 1e-10
    np.testing.assert_allclose(value, trajectory.episode_return, rtol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "simulator"])
def test_open_loop_is_the_action_gradient_times_the_policys_jacobian(name, x64):
    """The chain rule that the open loop is: how the return changes with the actions, and they with the policy."""
    env = Drift()
    model, policy, noise = make_model(name, env), make_policy(env), make_noise(env)
    start = env.initial_state()
    imagined = eqx.filter_jit(imagine)(policy, model, start, noise)

    def actions(policy):
        steps = jnp.arange(env.horizon)
        return jax.vmap(policy.sample_and_log_prob)(imagined.states[:-1], steps, noise)[0]

    value, by_actions = eqx.filter_jit(action_gradient)(model, env, start, imagined.actions)
    expected = eqx.filter_jit(eqx.filter_grad(lambda p: jnp.vdot(actions(p), by_actions)))(policy)
    for two_pass in (True, False):
        imagined_value, grads = eqx.filter_jit(
            eqx.filter_value_and_grad(
                lambda p, two=two_pass: imagined_return(p, model, env, start, noise, two_pass=two)[0]
            )
        )(policy)
        np.testing.assert_allclose(imagined_value, value, rtol=1e-12)
        assert relative_error(grads, expected) < 1e-11


@pytest.mark.parametrize("name", ["rnn", "one-step"])
def test_of_an_action_sequence_open_and_closed_loop_are_the_action_gradient(name, x64):
    """Its states play no part; its means count by the slope of tanh."""
    env = Drift()
    model, start = make_model(name, env), env.initial_state()
    policy = ActionSequence(env, key=jax.random.key(2))

    @eqx.filter_jit
    def run(policy):
        loops = [policy_gradient(policy, model, env, start, loop=loop)[1] for loop in ("open", "closed")]
        return loops, action_gradient(model, env, start, jnp.tanh(policy.means))[1]

    loops, by_actions = run(policy)
    expected = by_actions / np.cosh(policy.means) ** 2
    for grads in loops:
        assert relative_error(grads.means, expected) < 1e-10
        assert (np.asarray(grads.log_stds) == 0).all(), "deterministic"


def test_what_pays_can_be_given():
    """A reward in place of the task's own: in value and gradient."""
    env, double = Drift(), Meter(*map(jnp.asarray, (2.0, 0.0, 0.0)))
    model, start = make_model("rnn", env), env.initial_state()
    policy = ActionSequence(env, key=jax.random.key(2))
    value, grads = jitted_policy_gradient(policy, model, env, start, reward=double)
    np.testing.assert_allclose(value, 2.0 * jnp.tanh(policy.means)[:, 0].sum(), rtol=1e-5)
    np.testing.assert_allclose(grads.means[:, 0], 2.0 / np.cosh(policy.means[:, 0]) ** 2, rtol=1e-4)
    assert (np.asarray(grads.means[:, 1]) == 0).all()


class Meter(AbstractEnvironment):
    """The state sums the actions. Pays weights: of each action, of the step index, and of the last state."""

    action_weight: Any = 0.0
    step_weight: Any = 0.0
    terminal_weight: Any = 0.0
    horizon: int = 5
    name: str = "meter"
    state_size: int = 1
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.array([3.0])

    def transition(self, state, action, step):
        return state + action

    def reward(self, state, action, step):
        return self.action_weight * action[0] + self.step_weight * step

    def terminal_reward(self, state):
        return self.terminal_weight * state[0]


@pytest.mark.parametrize("two_pass", [True, False])
def test_every_reward_is_counted_once_at_its_step(two_pass):
    """Terminal: at the state after the last action. Of an action: directly, without a detour through a state."""
    policy, noise, start = make_policy(Meter()), make_noise(Meter()), jnp.array([3.0])

    @eqx.filter_jit
    def run(policy, env):
        simulator = Simulator(env)
        value, imagined = imagined_return(policy, simulator, env, start, noise, two_pass=two_pass)
        return value, imagined.actions[:, 0], *action_gradient(simulator, env, start, imagined.actions)

    for weights, expected, slopes in (
        ((0.0, 0.0, 2.0), lambda actions: 2.0 * (3.0 + actions.sum()), 2.0),
        ((2.0, 0.0, 0.0), lambda actions: 2.0 * actions.sum(), 2.0),
        ((0.0, 1.0, 0.0), lambda actions: 0 + 1 + 2 + 3 + 4, 0.0),
    ):
        value, actions, again, gradient = run(policy, Meter(*map(jnp.asarray, weights)))
        np.testing.assert_allclose([value, again], expected(actions), rtol=1e-5)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-5)


@pytest.mark.parametrize("name", ["invasive_plant", "drift"])
def test_the_value_through_the_simulator_is_the_return_of_a_rollout(name):
    env = TASKS[name]()
    policy = make_policy(env)
    value, _ = jitted_policy_gradient(policy, Simulator(env), env, env.initial_state())
    trajectory = eqx.filter_jit(lambda policy: rollout(env, policy))(policy)
    np.testing.assert_allclose(value, trajectory.episode_return, rtol=1e-5)


def test_the_key_draws_standard_normal_noise():
    """`policy_gradient` with a key is the gradient for the noise that this key gives; without one, for none."""
    env = Drift()
    model, policy, start = make_model("rnn", env), make_policy(env), env.initial_state()

    @jax.jit
    def reference(noise):
        return eqx.filter_value_and_grad(lambda p: imagined_return(p, model, env, start, noise)[0])(policy)

    shape = (env.horizon, env.action_size)
    for key, noise in (
        (None, jnp.zeros(shape)),
        (jax.random.key(7), jax.random.normal(jax.random.key(7), shape)),
    ):
        value, grads = jitted_policy_gradient(policy, model, env, start, key=key)
        expected_value, expected = reference(noise)
        np.testing.assert_allclose(value, expected_value, rtol=1e-5)
        assert relative_error(grads, expected) < 1e-4
    again = jitted_policy_gradient(policy, model, env, start, key=jax.random.key(7))
    np.testing.assert_array_equal(flatten(again), flatten((value, grads)))


def test_imagined_entropy_is_minus_the_mean_log_probability():
    env = Drift()
    policy, model, noise = make_policy(env), make_model("rnn", env), make_noise(env)
    log_prob = jax.jit(lambda state, step, noise: policy.sample_and_log_prob(state, step, noise)[1])
    for run in (imagine, imagine_in_two_passes):
        imagined = eqx.filter_jit(run)(policy, model, env.initial_state(), noise)
        expected = [log_prob(s, t, noise[t]) for t, s in enumerate(imagined.states[:-1])]
        np.testing.assert_allclose(imagined.log_probs, expected, rtol=1e-4)
        np.testing.assert_allclose(imagined.entropy, -np.mean(expected), rtol=1e-4)


def test_what_is_not_a_parameter_gets_no_gradient():
    """Statistics are frozen: an optimiser that takes the gradient as it comes leaves them alone."""
    env = Drift()
    policy, model = make_policy(env), make_model("rnn", env)
    grads = jitted_policy_gradient(policy, model, env, env.initial_state(), key=jax.random.key(0))[1]
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(grads.normaliser))
    assert all((leaf != 0.0).any() for leaf in jax.tree.leaves(grads.layers))


def test_unknown_loops_are_named():
    """Without the type checks of the tests, which would come first."""
    env = Drift()
    policy, start = make_policy(env), env.initial_state()
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UsageError, match="loop: 'half' is not one of open, closed"):
            policy_gradient(policy, Simulator(env), env, start, loop="half")
        with pytest.raises(UsageError, match="two_pass: "):
            policy_gradient(policy, Simulator(env), env, start, loop="closed", two_pass=True)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
