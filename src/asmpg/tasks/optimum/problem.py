"""A task in float64, with what its solver needs compiled once."""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ...core.precision import double
from ..constraints import Multipliers
from ..control import OdeEnvironment
from ..environment import (
    AbstractEnvironment,
    cpu_device,
    evaluation_states,
    play,
    rollout,
    trajectory_rewards,
)


_BATCH = 128
# A smaller share of the range of controls is none.
_SMALLEST_RANGE = 1e-10


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """float64, on the CPU: thousands of short dependent steps leave an accelerator idle."""
    # Actions that were not optimised may have any return.
    quiet = np.errstate(invalid="ignore", over="ignore")
    with double(), jax.default_device(cpu_device()), jax.disable_jit(False), quiet:
        yield


def in_double(env: AbstractEnvironment) -> AbstractEnvironment:
    """A task whose numbers are in float64."""

    def convert(leaf: PyTree) -> Any:
        return jnp.asarray(np.asarray(leaf), jnp.float64) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(convert, env)


class Problem:
    """A task in float64, with what the solver needs compiled once. Use within `double_precision`.

    Attributes:
        env: the task.
        starts: the initial states [k, n] to solve it from: one, or 64 random ones.
        multipliers: what violations of the task's constraints cost at the moment; None without constraints.
    """

    def __init__(self, env: AbstractEnvironment) -> None:
        self.env = env
        exact = in_double(env)
        self.starts = np.asarray(evaluation_states(exact), np.float64)
        self.multipliers: Multipliers | None = getattr(exact, "multipliers", None)

        def penalised(multipliers: Multipliers | None) -> AbstractEnvironment:
            return exact if multipliers is None else _with_multipliers(exact, multipliers)

        def episode_return(actions: Array, state: Array, multipliers: Multipliers | None) -> Array:
            return rollout(penalised(multipliers), actions, initial_state=state).rewards.sum()

        def along(states: Array, actions: Array, multipliers: Multipliers | None) -> Array:
            return trajectory_rewards(penalised(multipliers), states, actions).sum()

        def free(states: Array, actions: Array) -> Any:
            env = _with_multipliers(exact, None)
            return trajectory_rewards(env, states, actions).sum(), env.constraint_values(states, actions)

        def constraint_sizes(states: Array, actions: Array) -> Any:
            return _with_multipliers(exact, None).constraint_sizes(states, actions)

        def violations(states: Array, actions: Array) -> Any:
            env = _with_multipliers(exact, None)
            return env.violation(states, actions), env.relative_violation(states, actions)

        def gaps(states: Array, actions: Array) -> Array:
            follow = jax.vmap(exact.transition)(states[:-1], actions, jnp.arange(exact.horizon))
            return jnp.abs(follow - states[1:]).max(axis=0) / (jnp.abs(states).max(axis=0) + 1e-300)

        def replayed(actions: Array, state: Array, multipliers: Multipliers | None) -> Any:
            return rollout(penalised(multipliers), actions, initial_state=state)

        self.penalised = penalised
        self._value_and_grad = jax.jit(jax.value_and_grad(episode_return))
        self._returns = jax.jit(jax.vmap(episode_return, (0, 0, None)))
        self._rollout = jax.jit(replayed)
        self._along, self._free, self._gaps = jax.jit(along), jax.jit(free), jax.jit(gaps)
        self._constraint_sizes, self._violations = jax.jit(constraint_sizes), jax.jit(violations)
        self._rollout_single: Callable[..., Array] | None = None
        self._own_unit = jax.jit(lambda *given: _local_units(exact, *given))
        self._programs: dict[str, Callable[..., Any]] = {}

    @property
    def constrained(self) -> bool:
        """Whether the task has constraints."""
        return self.multipliers is not None

    def program(self, name: str, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """A compiled function of this problem, made when it is first asked for."""
        if name not in self._programs:
            self._programs[name] = jax.jit(make())
        return self._programs[name]

    def value_and_grad(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """The return of actions [H, m], and its gradient."""
        value, gradient = self._value_and_grad(actions, state, self.multipliers)
        return float(value), np.asarray(gradient)

    def returns(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The returns of many action sequences [k, H, m] from one state [n], or from as many [k, n]."""
        states = np.broadcast_to(states, (len(actions), states.shape[-1]))
        found = []
        # In batches of one size, the last one filled up, so that there is one program.
        for i in range(0, len(actions), _BATCH):
            rows = np.minimum(np.arange(i, i + _BATCH), len(actions) - 1)
            found.append(np.asarray(self._returns(actions[rows], states[rows], self.multipliers)))
        return np.concatenate(found)[: len(actions)]

    def replay(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """Return and states [H+1, n] of actions [H, m]."""
        trajectory = self._rollout(actions, state, self.multipliers)
        return float(trajectory.rewards.sum()), np.asarray(trajectory.states, np.float64)

    def value_along(self, states: np.ndarray, actions: np.ndarray) -> float:
        """The return of a trajectory."""
        return float(self._along(states, actions, self.multipliers))

    def free(self, states: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The return without what violations cost, and the constraints' values: equalities, inequalities."""
        value, (equalities, inequalities) = self._free(states, actions)
        return float(value), np.asarray(equalities), np.asarray(inequalities)

    def violations(self, states: np.ndarray, actions: np.ndarray) -> tuple[float, float]:
        """The largest violation of a constraint, in its own units and as a share of its size; 0 without constraints."""
        found = self._violations(states, actions)
        return float(found[0] or 0.0), float(found[1] or 0.0)

    def constraint_sizes(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How large each terminal condition and path inequality becomes anywhere along a trajectory."""
        terminal, path = self._constraint_sizes(states, actions)
        return np.asarray(terminal), np.asarray(path)

    def largest_gap(self, states: np.ndarray, actions: np.ndarray) -> float:
        """How far a state is from what the one before leads to, as a share of the component's size, or NaN."""
        return float(np.asarray(self._gaps(states, actions)).max())

    def units(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """How much rewards differ over what a trajectory visits, see `_local_units`."""
        return np.asarray(self._own_unit(states, actions))

    def replay_error(self, states: np.ndarray, actions: np.ndarray, gains: np.ndarray | None = None) -> float:
        """How far the return of actions [H, m] in float32 is from that in float64.

        Args:
            states: where they lead in float64.
            actions: the actions.
            gains: how they answer deviations from the states, if they do.
        """
        exact = self.value_along(states, actions)
        if gains is None:
            gains = np.zeros((*actions.shape, states.shape[-1]))
        given = (actions, gains, states[:-1], states[0], self.multipliers)
        with double(False):
            if self._rollout_single is None:
                self._rollout_single = jax.jit(lambda *given: _followed(self.env, *given))
            single = self._rollout_single(*jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), given))
        return abs(float(single) - exact)


def _followed(env: AbstractEnvironment, actions: Array, gains: Array, states: Array, *rest: Any) -> Array:
    """The return of actions that answer deviations from some states; of the start and the multipliers."""
    start, multipliers = rest
    env = env if multipliers is None else _with_multipliers(env, multipliers)

    def act(carry: PyTree, state: Array, step: Array, given: Any) -> Array:
        action, gain, planned = given
        return jnp.clip(action + gain @ (state - planned), -1.0, 1.0)

    return play(env, act, (actions, gains, states), start).rewards.sum()


def _with_multipliers(env: object, multipliers: object) -> Any:
    return eqx.tree_at(lambda env: env.multipliers, env, multipliers, is_leaf=lambda leaf: leaf is None)


def _local_units(env: AbstractEnvironment, states: Array, actions: Array) -> Array:
    """Sums over the episode of how much rewards differ if states and actions came at other times; three of them.

    Rewards are looked at one by one, at states that the trajectory does visit, so that nothing is amplified by the
    dynamics: with other actions of the same trajectory, with uniform random actions as large as those (most of a wide
    range of controls may be of no use), and all rewards in size.
    """
    if isinstance(env, OdeEnvironment):
        env = env.with_multipliers(None)
    horizon, num = env.horizon, 8
    rng = np.random.default_rng(2)
    times = rng.integers(0, horizon, (num, horizon))
    uniform = jnp.asarray(rng.uniform(-1, 1, (num, horizon, env.action_size)))
    uniform = uniform * jnp.clip(jnp.abs(actions).max(), _SMALLEST_RANGE, 1.0)
    steps = jnp.arange(horizon)
    reward = jax.vmap(env.reward)
    own = reward(states[:-1], actions, steps)
    ends = jax.vmap(env.terminal_reward)(states)
    end = jnp.abs(ends[jnp.asarray(times)] - ends[-1]).mean()

    def spread(others: Array) -> Array:
        moved = jax.vmap(lambda when, other: reward(states[when], other, steps))(jnp.asarray(times), others)
        return jnp.abs(moved - own).mean(axis=0).sum() + end

    sizes = jnp.abs(own).sum() + jnp.abs(ends[-1])
    return jnp.stack([spread(actions[jnp.asarray(times)]), spread(uniform), sizes])


_recent: collections.deque[Problem] = collections.deque(maxlen=4)


def problem_of(env: AbstractEnvironment) -> Problem:
    """The task's `Problem`, with what is already compiled if it is one of the last four."""
    for problem in tuple(_recent):
        if problem.env is env:
            return problem
    problem = Problem(env)
    _recent.append(problem)
    return problem
