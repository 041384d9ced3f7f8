"""Where the first NaN or infinity of a forward or backward pass was made."""

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...core.arguments import a_key, of, takes
from ...core.types import all_finite, Given, PRNGKey, vector_text
from ...models import AbstractDynamicsModel, Simulator
from ...tasks.environment import AbstractEnvironment
from ...tasks.fits import check_actions, check_initial_state
from ..fits import check_fits
from ..policies import AbstractPolicy


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """The first function that was given finite numbers and returned others.

    Attributes:
        direction: "forward", or "backward": its derivative.
        function: "policy", "reward", "terminal_reward", and "transition" for a simulator or "model" for a network.
        step: at which step.
        inputs: what it was given: `state` and, where it reads one, `action`.
        value: what it returned; backward: its derivatives in the inputs (for the policy, in its parameters) times
            the gradient that reached it.
    """

    direction: Literal["forward", "backward"]
    function: str
    step: int
    inputs: dict[str, np.ndarray]
    value: dict[str, np.ndarray]

    def __str__(self) -> str:
        """One line."""
        given = ", ".join(f"{name} {vector_text(value)}" for name, value in self.inputs.items())
        got = ", ".join(f"{name} {vector_text(value)}" for name, value in self.value.items())
        what = "the derivative of " if self.direction == "backward" else ""
        return f"{what}{self.function} is not finite at step {self.step}: {got}; given {given}"


class _Pass(eqx.Module):
    """What a pass through the episode leaves: at every step, which functions were still finite."""

    carries: Any
    states: Array
    actions: Array
    rewards: Array
    next_states: Array
    finite: Array


@takes(model=of(AbstractDynamicsModel), env=of(AbstractEnvironment), key=a_key)
def locate_nonfinite(
    model: Given[AbstractDynamicsModel],
    env: Given[AbstractEnvironment],
    initial_state: Given[Float[Array, " state"]],
    behaviour: Given[AbstractPolicy | Float[Array, "horizon action"]],
    *,
    key: PRNGKey | None = None,
    loop: Literal["open", "closed"] = "open",
) -> NonFinite | None:
    """Finds the function that made the first NaN or infinity when a return is computed and differentiated.

    Goes through the model step by step, first forwards in time, then backwards with the gradient of the return, and
    looks at every function on its own. (Where a parallel model's `predict` differs from its `step`, only the latter
    is looked at.)

    Args:
        model: predicts the states.
        env: gives the rewards.
        initial_state: `s_0`.
        behaviour: a policy, or an action sequence.
        key: draws the policy's noise; without a key it is deterministic.
        loop: whether the gradient also flows through the states the policy sees ("closed").

    Returns:
        None if everything is finite.

    Raises:
        UsageError: an initial state that is not finite.
    """
    check_fits(model, env)
    initial_state = check_initial_state("locate_nonfinite", env, initial_state)
    shape = (env.horizon, env.action_size)
    if isinstance(behaviour, AbstractPolicy):
        policy = behaviour
        inputs = jnp.zeros(shape) if key is None else jax.random.normal(key, shape)
    else:
        policy, inputs = None, check_actions("locate_nonfinite", env, behaviour)
    forward = eqx.filter_jit(_forward)(model, env, policy, initial_state, inputs)
    last = env.terminal_reward(forward.next_states[-1])
    name = "transition" if isinstance(model, Simulator) else "model"
    found = _first_forward(forward, name) or _first_at_end(forward, last, "forward", "its value")
    if found is not None:
        return found
    end = jax.grad(env.terminal_reward)(forward.next_states[-1])
    found = _first_at_end(forward, end, "backward", "by state")
    if found is not None:
        return found
    flags, values = eqx.filter_jit(_backward)(model, env, policy, forward, inputs, end, loop == "closed")
    return _first_backward(forward, np.asarray(flags), values, name)


def _forward(
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    policy: AbstractPolicy | None,
    start: Array,
    inputs: Array,
) -> _Pass:
    def body(loop: tuple[Any, Array], x: tuple[Array, Array]) -> tuple[tuple[Any, Array], tuple[Any, ...]]:
        (carry, state), (step, given) = loop, x
        action = given if policy is None else policy.sample_and_log_prob(state, step, given)[0]
        reward = env.reward(state, action, step)
        next_carry, next_state = model.step(carry, state, action, step)
        finite = jnp.stack([all_finite(action), all_finite(reward), all_finite((next_carry, next_state))])
        return (next_carry, next_state), (carry, state, action, reward, next_state, finite)

    steps = jnp.arange(env.horizon)
    return _Pass(*jax.lax.scan(body, (model.init(start), start), (steps, inputs))[1])


def _first_forward(forward: _Pass, name: str) -> NonFinite | None:
    """At the earliest step, what came first: the action, the reward, the next state."""
    bad = ~np.asarray(forward.finite)
    if not bad.any():
        return None
    step = int(bad.any(axis=1).argmax())
    state, action = np.asarray(forward.states[step]), np.asarray(forward.actions[step])
    function = ("policy", "reward", name)[int(bad[step].argmax())]
    inputs = {"state": state} if function == "policy" else {"state": state, "action": action}
    got = {
        "policy": action,
        "reward": np.asarray(forward.rewards[step]),
        name: np.asarray(forward.next_states[step]),
    }
    return NonFinite("forward", function, step, inputs, {"its value": got[function]})


def _first_at_end(
    forward: _Pass, value: Array, direction: Literal["forward", "backward"], label: str
) -> NonFinite | None:
    if bool(jnp.isfinite(value).all()):
        return None
    inputs = {"state": np.asarray(forward.next_states[-1])}
    return NonFinite(direction, "terminal_reward", len(forward.states), inputs, {label: np.asarray(value)})


def _backward(
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    policy: AbstractPolicy | None,
    forward: _Pass,
    inputs: Array,
    end: Array,
    closed: bool,
) -> tuple[Array, dict[str, Any]]:
    """The adjoint recursion; at every step, whether each function's derivative was finite, and what it was."""
    arrays, static = eqx.partition(policy, eqx.is_inexact_array)

    def body(
        later: tuple[Any, Array], x: tuple[Any, ...]
    ) -> tuple[tuple[Any, Array], tuple[Array, dict[str, Any]]]:
        carry, state, action, step, given = x
        moving, fixed = eqx.partition(carry, eqx.is_inexact_array)

        def advance(moving: object, state: Array, action: Array) -> tuple[Any, Array]:
            next_carry, next_state = model.step(eqx.combine(moving, fixed), state, action, step)
            return eqx.filter(next_carry, eqx.is_inexact_array), next_state

        by_carry, by_state, by_action = jax.vjp(advance, moving, state, action)[1](later)
        reward_by_state, reward_by_action = jax.grad(env.reward, argnums=(0, 1))(state, action, step)
        total_state, total_action = by_state + reward_by_state, by_action + reward_by_action
        size, by_policy = jnp.zeros(()), jnp.zeros_like(state)
        if policy is not None:

            def act(arrays: PyTree, state: Array) -> Array:
                return eqx.combine(arrays, static).sample_and_log_prob(state, step, given)[0]

            by_parameters, by_policy = jax.vjp(act, arrays, state)[1](total_action)
            size = sum((jnp.abs(leaf).sum() for leaf in jax.tree.leaves(by_parameters)), start=jnp.zeros(()))
            total_state = total_state + by_policy if closed else total_state
        flags = [
            all_finite((by_carry, by_state, by_action)),
            all_finite((reward_by_state, reward_by_action)),
            jnp.isfinite(size) & (all_finite(by_policy) | (not closed)),
        ]
        values = {
            "model": {"by state": by_state, "by action": by_action},
            "reward": {"by state": reward_by_state, "by action": reward_by_action},
            "policy": {"by parameters": size, "by state": by_policy},
        }
        return (by_carry, total_state), (jnp.stack(flags), values)

    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape[1:], x.dtype), eqx.filter(forward.carries, eqx.is_inexact_array)
    )
    xs = (forward.carries, forward.states, forward.actions, jnp.arange(env.horizon), inputs)
    return jax.lax.scan(body, (zero, end), xs, reverse=True)[1]


def _first_backward(forward: _Pass, flags: np.ndarray, values: dict[str, Any], name: str) -> NonFinite | None:
    """At the latest step, what comes first on the way back: the model, the reward, the policy."""
    bad = ~flags
    if not bad.any():
        return None
    step = int(np.flatnonzero(bad.any(axis=1))[-1])
    function = ("model", "reward", "policy")[int(bad[step].argmax())]
    inputs = {"state": np.asarray(forward.states[step])}
    if function != "policy":
        inputs["action"] = np.asarray(forward.actions[step])
    value = {label: np.asarray(array[step]) for label, array in values[function].items()}
    return NonFinite("backward", name if function == "model" else function, step, inputs, value)
