"""Small tasks with known derivatives, and comparisons, shared by the tests of models, gradients and training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import AbstractEnvironment


class Drift(AbstractEnvironment):
    """A smooth nonlinear task with three state and two action components; every function reads every argument."""

    horizon: int = 7
    name: str = "drift"
    state_size: int = 3
    action_size: int = 2

    def initial_state(self, *, key=None):
        return jnp.array([0.5, -1.0, 2.0])

    def transition(self, state, action, step):
        pushed = jnp.stack([action[0], action[1], action[0] * action[1]])
        return state + 0.3 * jnp.sin(state[::-1] + pushed) + 0.01 * step

    def reward(self, state, action, step):
        return -jnp.sum(state**2) * jnp.cos(0.3 * step) + action[0] * state[1] - action[1] ** 2

    def terminal_reward(self, state):
        return 3.0 * jnp.tanh(state[0] * state[2])


class LinearQuadratic(AbstractEnvironment):
    """`s' = A s + B a`, reward `-(s'Qs + a'Ra)/2 + p's + q'a + s'Na`, terminal reward `-s'Fs/2 + f's`."""

    horizon: int = 6
    name: str = "linear_quadratic"
    state_size: int = 3
    action_size: int = 2

    def matrices(self) -> dict[str, np.ndarray]:
        """Fixed random matrices in double precision."""
        random = np.random.default_rng(0)
        symmetric = [random.normal(size=(size, size)) for size in (3, 2, 3)]
        Q, R, F = (x @ x.T for x in symmetric)
        A, B, N = random.normal(size=(3, 3)), random.normal(size=(3, 2)), random.normal(size=(3, 2))
        p, q, f = random.normal(size=3), random.normal(size=2), random.normal(size=3)
        return {"A": A, "B": B, "Q": Q, "R": R, "F": F, "N": N, "p": p, "q": q, "f": f}

    def initial_state(self, *, key=None):
        return jnp.array([1.0, -0.5, 0.25])

    def transition(self, state, action, step):
        m = self.matrices()
        return m["A"] @ state + m["B"] @ action

    def reward(self, state, action, step):
        m = self.matrices()
        quadratic = -(state @ m["Q"] @ state + action @ m["R"] @ action) / 2
        return quadratic + m["p"] @ state + m["q"] @ action + state @ m["N"] @ action

    def terminal_reward(self, state):
        m = self.matrices()
        return -state @ m["F"] @ state / 2 + m["f"] @ state


class Scaled(AbstractEnvironment):
    """Another task with its states in other units, `factors` of them to one of the original's."""

    original: AbstractEnvironment
    factors: tuple[float, ...] = eqx.field(static=True)

    horizon = property(lambda self: self.original.horizon)
    name = property(lambda self: f"scaled {self.original.name}")
    state_size = property(lambda self: self.original.state_size)
    action_size = property(lambda self: self.original.action_size)

    def initial_state(self, *, key=None):
        return self.original.initial_state(key=key) * jnp.array(self.factors)

    def transition(self, state, action, step):
        factors = jnp.array(self.factors, state.dtype)
        return self.original.transition(state / factors, action, step) * factors

    def reward(self, state, action, step):
        return self.original.reward(state / jnp.array(self.factors, state.dtype), action, step)

    def terminal_reward(self, state):
        return self.original.terminal_reward(state / jnp.array(self.factors, state.dtype))


def unit_normaliser(env: AbstractEnvironment) -> Normaliser:
    """Statistics that are not trivial, without running episodes."""
    ramp = jnp.linspace(0.5, 1.5, env.state_size)
    return Normaliser(0.1 * ramp, ramp, 0.2 * ramp)


def flatten(tree: Any) -> np.ndarray:
    """All floating-point numbers of a tree as one vector."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return np.concatenate([np.ravel(leaf) for leaf in leaves]) if leaves else np.zeros(0)


def relative_error(actual: Any, expected: Any) -> float:
    """The largest difference in units of the largest expected number."""
    actual, expected = flatten(actual), flatten(expected)
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0, "nothing to compare with"
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def bits(tree: Any) -> list[bytes]:
    """Every array's bytes, keys included: equal lists are equal bit for bit."""

    def raw(leaf: Any) -> bytes:
        leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return np.asarray(leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]
