"""Statements that are equations: Proposition 1, Remark 1 and Appendix B."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...core.types import Scalar, Trajectory
from ...gradients.analysis import action_jacobian
from ...gradients.policies import AbstractPolicy, TanhGaussianPolicy
from ...gradients.policy_gradient import imagine, policy_gradient
from ...models import AbstractDynamicsModel, ActionSequenceModel, OneStepModel, Simulator
from ...models.backbones import SimpleRNN
from ...models.normalisation import Normaliser
from ...sweeps import Scale
from ...tasks.environment import AbstractEnvironment, rollout, uniform_actions
from ..table import Table
from ..verdicts import decide, Verdict
from .parts import (
    BareModel,
    derivatives,
    distance,
    flat,
    ignoring_the_state,
    random_policies,
    ROUNDING,
    tasks,
    worst,
)


NUM_POLICIES = 2


# Proposition 1


def definition_1(
    policy: AbstractPolicy, env: AbstractEnvironment, initial_state: Float[Array, " state"]
) -> Float[Array, " parameters"]:
    """Definition 1 written out: for every action the product of the Jacobians that follow it, summed over rewards.

    With the direct effect of an action on its own reward, which the paper's rewards do not have.
    """
    visited = imagine(policy, Simulator(env), initial_state, jnp.zeros((env.horizon, env.action_size)))
    states, actions, steps = visited.states, visited.actions, jnp.arange(env.horizon)
    by_state, by_action = jax.vmap(jax.jacfwd(env.transition, argnums=(0, 1)))(states[:-1], actions, steps)
    d = derivatives(policy, env, states, actions)

    def weight(k: Array) -> Array:
        """`sum_t dr/ds_t (prod_{k < i < t} df/ds_i) df/da_k + dr/da_k`."""

        def body(product: Array, t: Array) -> tuple[Array, Array]:
            product = jnp.where(t == k, by_action[t], by_state[t] @ product)
            return product, d.reward_by_state[t] @ product

        zero = jnp.zeros((env.state_size, env.action_size))
        return jax.lax.scan(body, zero, steps)[1].sum(axis=0) + d.reward_by_action[k]

    return jnp.einsum("ka,kap->p", jax.vmap(weight)(steps), d.by_parameters)


def measure_prop1(scale: Scale) -> Table:
    """One row a task and policy: the difference of the two gradients in units of the larger."""
    table = Table()
    for env in tasks(scale):

        def compare(policy: TanhGaussianPolicy, env: AbstractEnvironment = env) -> tuple[Array, Array]:
            start = env.initial_state()
            through_simulator = flat(policy_gradient(policy, Simulator(env), env, start)[1])
            expected = definition_1(policy, env, start)
            return distance(through_simulator, expected), jnp.abs(expected).max()

        errors, sizes = jax.jit(jax.vmap(compare))(random_policies(env, NUM_POLICIES, key=jax.random.key(0)))
        for policy in range(NUM_POLICIES):
            row = {"task": env.name, "horizon": env.horizon, "policy": policy}
            table.add(**row, error=errors[policy], largest_derivative=sizes[policy])
    return table


def judge_prop1(table: Table) -> Verdict:
    """Equal to rounding everywhere?"""
    claim = (
        "the policy gradient through the simulator, taken as a recurrent network, is Definition 1's (float64)"
    )
    return _equal("prop1", claim, table, f"{len(table.unique('task'))} tasks, random policies")


def _equal(id: str, claim: str, table: Table, where: str, column: str = "error") -> Verdict:
    """Holds if the largest error is rounding; a NaN decides nothing."""
    largest = worst(table.values(column))
    holds = None if largest != largest else largest <= ROUNDING
    numbers = {"largest_relative_error": largest, "tolerance": ROUNDING, "rows": len(table)}
    return decide(id, claim, holds, f"largest relative error {largest:.2g} over {where}", numbers)


# Remark 1


def teacher_forced_loss(
    model: AbstractDynamicsModel, trajectory: Trajectory, scale: Float[Array, " state"]
) -> Scalar:
    """The loss of a recurrent network whose hidden state is the state and whose output layer is the identity.

    Unrolled over the whole episode; at every step its hidden state is replaced by the true one. Units of `scale`.
    """

    def body(hidden: Array, x: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        action, true_next, step = x
        _, predicted = model.step(_forced(model, hidden), hidden, action, step)
        return true_next, jnp.square((predicted - true_next) / scale)

    xs = (trajectory.actions, trajectory.states[1:], jnp.arange(trajectory.actions.shape[0]))
    return jax.lax.scan(body, trajectory.states[0], xs)[1].mean()


def _forced(model: AbstractDynamicsModel, hidden: Array) -> Any:
    """The carry that holds this state: Equation 2's hidden state, or nothing."""
    return hidden if isinstance(model, BareModel) else model.init(hidden)


def one_step_loss(
    model: AbstractDynamicsModel, trajectory: Trajectory, scale: Float[Array, " state"]
) -> Scalar:
    """Equation 1 over all transitions at once."""

    def error(state: Array, action: Array, true_next: Array, step: Array) -> Array:
        return jnp.square((model.step(_forced(model, state), state, action, step)[1] - true_next) / scale)

    steps = jnp.arange(trajectory.actions.shape[0])
    return jax.vmap(error)(trajectory.states[:-1], trajectory.actions, trajectory.states[1:], steps).mean()


def free_loss(model: AbstractDynamicsModel, trajectory: Trajectory, scale: Float[Array, " state"]) -> Scalar:
    """The same network free running: what teacher forcing is not."""
    predicted = model.predict(trajectory.states[0], trajectory.actions)
    return jnp.mean(jnp.square((predicted - trajectory.states[1:]) / scale))


def measure_remark1(scale: Scale) -> Table:
    """One row a cell: how much loss and gradient of the two differ, and, for contrast, when free running."""
    table = Table()
    env = tasks(scale)[0]
    trajectory = rollout(env, uniform_actions(env, key=jax.random.key(1)))
    normaliser = Normaliser.from_states(trajectory.states[None])
    keys = jax.random.split(jax.random.key(2), 3)
    size = env.state_size
    equation_2 = SimpleRNN(
        jax.random.normal(keys[0], (size, size)),
        jax.random.normal(keys[1], (size, env.action_size)),
        jnp.zeros(size),
    )
    cells: dict[str, AbstractDynamicsModel] = {
        "one-step network": OneStepModel(env, key=keys[2], normaliser=normaliser),
        "Equation 2": BareModel(equation_2),
    }
    for name, model in cells.items():

        @eqx.filter_jit
        def compare(model: AbstractDynamicsModel) -> tuple[Array, Array]:
            pairs = [
                eqx.filter_value_and_grad(loss)(model, trajectory, normaliser.difference_scale)
                for loss in (teacher_forced_loss, one_step_loss, free_loss)
            ]
            forced, expected, free = (jnp.concatenate([value[None], flat(grads)]) for value, grads in pairs)
            return distance(forced, expected), distance(free, expected)

        error, contrast = compare(model)
        table.add(cell=name, task=env.name, horizon=env.horizon, error=error, free_running_error=contrast)
    return table


def judge_remark1(table: Table) -> Verdict:
    """Equal to rounding, while the free-running network is not?"""
    claim = (
        "a recurrent network whose hidden state is the state and whose output is the identity, fitted with teacher "
        "forcing, has the loss and gradient of the one-step model"
    )
    verdict = _equal("remark1", claim, table, f"{len(table)} cells")
    least = float(table.values("free_running_error").min()) if len(table) else float("nan")
    reason = f"{verdict.numbers['reason']}; free running, they differ by {least:.2g} or more"
    numbers = {**verdict.numbers, "free_running_error": least, "reason": reason}
    return Verdict(verdict.id, claim, verdict.verdict, numbers)


# Appendix B


def extra_terms(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    start: Float[Array, " state"],
) -> Float[Array, " parameters"]:
    """What the closed-loop gradient has beyond the open-loop one, by the recursion of Appendix B alone.

    Of `ds_t/dtheta = sum_k ds_t/da_k (dpi/dtheta + dpi/ds ds_k/dtheta)` (for the simulator, the printed recursion
    unrolled) the last term is what the open loop leaves out; summed over rewards, together with the way through the
    action into its own reward.
    """
    visited = imagine(policy, model, start, jnp.zeros((env.horizon, env.action_size)))
    jacobian = action_jacobian(model, start, visited.actions)
    d = derivatives(policy, env, visited.states, visited.actions)
    num_parameters = d.by_parameters.shape[-1]
    zero = jnp.zeros((env.horizon, env.action_size, num_parameters))

    def body(action_slopes: Array, t: Array) -> tuple[Array, Array]:
        """`action_slopes[k]` is `da_k/dtheta` for `k < t`, zero from `t` on."""
        through_actions = jnp.einsum("nka,kap->np", jacobian[jnp.maximum(t - 1, 0)], action_slopes)
        state_slope = jnp.where(t == 0, 0.0, through_actions)
        indirect = d.by_state[t] @ state_slope
        return action_slopes.at[t].set(d.by_parameters[t] + indirect), indirect

    _, indirect = jax.lax.scan(body, zero, jnp.arange(env.horizon))
    weights = jnp.einsum("tn,tnka->ka", d.reward_by_state, jacobian) + d.reward_by_action
    return jnp.einsum("ka,kap->p", weights, indirect)


def measure_app_b(scale: Scale) -> Table:
    """One row a task, model and kind of policy: closed minus open loop, and the extra terms."""
    table = Table()
    environments = tasks(scale)
    problems: list[tuple[AbstractEnvironment, str]] = [(env, "simulator") for env in environments]
    # In a test one task will do; elsewhere a model that is not Markovian is looked at too.
    problems = problems[:1] if scale == "smoke" else [*problems, (environments[0], "rnn")]
    for env, name in problems:
        for blind, (error, relative, size) in zip((False, True), _loops(env, name), strict=True):
            row = {"task": env.name, "horizon": env.horizon, "model": name, "ignores_state": blind}
            table.add(**row, error=error, difference=relative, largest_derivative=size)
    return table


def _loops(env: AbstractEnvironment, name: str) -> list[tuple[Array, Array, Array]]:
    """For a policy that sees the state and one that does not: how far closed minus open loop is from the extra terms.

    And that difference itself, both in units of the gradient's size, which comes last.
    """
    seeing = random_policies(env, 1, key=jax.random.key(3))
    policies = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), seeing, ignoring_the_state(seeing))
    normaliser = jax.tree.map(lambda leaf: leaf[0], seeing.normaliser)
    model = Simulator(env)
    if name != "simulator":
        model = ActionSequenceModel(env, name, key=jax.random.key(4), normaliser=normaliser)

    @eqx.filter_jit
    def compare(policies: TanhGaussianPolicy) -> tuple[Array, Array, Array]:
        return jax.lax.map(functools.partial(_loop_difference, env, model), policies)

    error, difference, size = compare(policies)
    return [(error[i], difference[i], size[i]) for i in range(2)]


def _loop_difference(
    env: AbstractEnvironment, model: AbstractDynamicsModel, policy: TanhGaussianPolicy
) -> tuple[Array, Array, Array]:
    start = env.initial_state()
    opened = flat(policy_gradient(policy, model, env, start, loop="open")[1])
    closed = flat(policy_gradient(policy, model, env, start, loop="closed")[1])
    size = jnp.maximum(jnp.abs(opened).max(), jnp.abs(closed).max())
    missing = jnp.abs(closed - opened - extra_terms(policy, model, env, start)).max()
    return missing / size, jnp.abs(closed - opened).max() / size, size


def judge_app_b(table: Table) -> Verdict:
    """Equal where the policy ignores the state, and otherwise different by the extra terms?"""
    claim = (
        "closed and open loop agree where the policy ignores the state; otherwise they differ by the extra terms of "
        "the recursion"
    )
    blind, seeing = table.select(ignores_state=True), table.select(ignores_state=False)
    numbers = {
        "largest_error_of_extra_terms": worst(table.values("error")),
        "largest_difference_when_blind": worst(blind.values("difference")),
        "smallest_difference_when_seeing": float(seeing.values("difference").min())
        if len(seeing)
        else float("nan"),
        "largest_difference_when_seeing": worst(seeing.values("difference")),
        "tolerance": ROUNDING,
    }
    errors = [numbers["largest_error_of_extra_terms"], numbers["largest_difference_when_blind"]]
    holds = None if any(error != error for error in errors) else max(errors) <= ROUNDING
    if holds and not numbers["largest_difference_when_seeing"] > ROUNDING:
        holds = None
    reason = (
        f"the extra terms account for the difference to {errors[0]:.2g}; without the state the difference is "
        f"{errors[1]:.2g}, with it up to {numbers['largest_difference_when_seeing']:.2g}, relative to the gradient"
    )
    return decide("appB", claim, holds, reason, numbers)
