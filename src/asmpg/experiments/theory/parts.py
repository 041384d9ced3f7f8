"""What the statements are checked with: bare models, bare policies, rewards of the state, and every task."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ...core.types import PRNGKey, Scalar, Step, Trajectory
from ...gradients.policies import AbstractPolicy, HIDDEN_SIZE, TanhGaussianPolicy
from ...models import AbstractDynamicsModel
from ...models.backbones import AbstractBackbone
from ...models.normalisation import Normaliser
from ...sweeps import Scale
from ...tasks import make, TASKS
from ...tasks.environment import AbstractEnvironment, rollout, uniform_actions
from ..offline import stacked


# What sums in double precision may differ by.
ROUNDING = 1e-9
# Explicit Euler is unstable on this task below 45 steps.
_LEAST_HORIZON = {"hiv_treatment": 50, "invasive_plant": 10}


@final
class BareModel(AbstractDynamicsModel):
    """A backbone between an identity encoder and an identity decoder: the states are its outputs (Equations 2, 3)."""

    backbone: AbstractBackbone

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        """The backbone's outputs; the initial state is not read, as it is the same in every episode."""
        return self.backbone.predict(actions)

    def init(self, initial_state: Float[Array, " state"]) -> Any:
        """The backbone's."""
        return self.backbone.init()

    def step(
        self, carry: PyTree, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[Any, Float[Array, " state"]]:
        """The backbone's next output."""
        return self.backbone.step(carry, action)

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Mean squared error."""
        predicted = self.predict(trajectory.states[0], trajectory.actions)
        return jnp.mean(jnp.square(predicted - trajectory.states[1:]))


@final
class StateReward(AbstractEnvironment):
    """A reward `weights . s_t` for the states `s_1 .. s_last`, and none after that.

    With `last` below the horizon, the policy gradient is that of the shorter horizon `last`, so that one compiled
    function serves all horizons. There are no dynamics: states come from a model.
    """

    horizon: int = eqx.field(static=True)
    weights: Float[Array, " state"]
    last: Array
    action_size: int = eqx.field(static=True, default=1)
    name: str = eqx.field(static=True, default="state reward")

    @property
    def state_size(self) -> int:
        """One weight a component."""
        return self.weights.shape[0]

    def initial_state(self, *, key: PRNGKey | None = None) -> Float[Array, " state"]:
        """Zero."""
        return jnp.zeros_like(self.weights)

    def transition(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """Nothing moves."""
        return state

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`weights . s_t` from step 1 to step `last`."""
        return jnp.where((step >= 1) & (step <= self.last), self.weights @ state, 0.0)

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """`weights . s_H` if the last state counts."""
        return jnp.where(self.horizon <= self.last, self.weights @ state, 0.0)


@final
class ShiftPolicy(AbstractPolicy):
    """`a_t = squash(base_t + scale_t * shift)`: a policy of a few parameters, the shift, that ignores the state.

    Attributes:
        shift: the parameters.
        base: fixed.
        scale: fixed, one number a step and action component: the derivative of the action before the squashing.
        squashed: by tanh, or not at all.
    """

    shift: Float[Array, " action"]
    base: Float[Array, "horizon action"]
    scale: Float[Array, "horizon action"]
    squashed: bool = eqx.field(static=True, default=True)

    def mode(self, state: Float[Array, " state"], step: Step) -> Float[Array, " action"]:
        """The action at this step."""
        base, scale = jax.lax.stop_gradient((self.base[step], self.scale[step]))
        value = base + scale * self.shift
        return jnp.tanh(value) if self.squashed else value

    def sample_and_log_prob(
        self, state: Float[Array, " state"], step: Step, noise: Float[Array, " action"]
    ) -> tuple[Float[Array, " action"], Scalar]:
        """Deterministic: the noise is not read."""
        return self.mode(state, step), jnp.zeros(())

    def __call__(
        self, state: Float[Array, " state"], step: Step, *, key: PRNGKey | None = None
    ) -> Float[Array, " action"]:
        """Deterministic: the key is not read."""
        return self.mode(state, step)


def tasks(scale: Scale) -> list[AbstractEnvironment]:
    """Every task at a horizon of the scale's; for `smoke` only some, with clips, contacts, chaos and time in them."""
    horizon = {"smoke": 6, "cpu": 30, "paper": 100}[scale]
    names = list(TASKS) if scale != "smoke" else ["harvest", "one_bounce"]
    return [make(name, max(horizon, _LEAST_HORIZON.get(name, 0))) for name in names]


def random_policies(env: AbstractEnvironment, num_policies: int, *, key: PRNGKey) -> TanhGaussianPolicy:
    """Policies whose actions vary with state and time: every layer at the usual size, with random biases.

    Along a leading axis. Drawn outside the compiled programs, which would otherwise take longer to compile.
    """
    episode_key, *keys = jax.random.split(key, 1 + num_policies)
    actions = uniform_actions(env, key=episode_key)
    normaliser = Normaliser.from_states(jax.jit(lambda actions: rollout(env, actions))(actions).states[None])
    return stacked(lambda key: _random_policy(env, normaliser, key), jnp.stack(keys))


def _random_policy(env: AbstractEnvironment, normaliser: Normaliser, key: PRNGKey) -> TanhGaussianPolicy:
    policy_key, *keys = jax.random.split(key, 5)
    policy = TanhGaussianPolicy(env, key=policy_key, normaliser=normaliser)
    biases = [
        0.3 * jax.random.normal(k, layer.bias.shape) for k, layer in zip(keys[:3], policy.layers, strict=True)
    ]
    weight = HIDDEN_SIZE**-0.5 * jax.random.normal(keys[3], policy.layers[2].weight.shape)
    policy = eqx.tree_at(lambda p: [layer.bias for layer in p.layers], policy, biases)
    return eqx.tree_at(lambda p: p.layers[2].weight, policy, weight)


def ignoring_the_state(policy: TanhGaussianPolicy) -> TanhGaussianPolicy:
    """The same with zero weights from the state: a function of time alone."""
    size = policy.normaliser.mean.shape[-1]
    return eqx.tree_at(
        lambda p: p.layers[0].weight, policy, replace_fn=lambda weight: weight.at[:size].set(0.0)
    )


def flat(tree: PyTree) -> Float[Array, " parameters"]:
    """All floating-point numbers of a network or a gradient as one vector, always in the same order."""
    return ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


class Derivatives(eqx.Module):
    """Everything the chain rule needs along one episode of a deterministic policy.

    Attributes:
        by_parameters: `d pi / d theta` at every step.
        by_state: `d pi / d s` at every step.
        reward_by_state: of the states `s_1 .. s_H`, the terminal reward's last.
        reward_by_action: of the actions `a_0 .. a_{H-1}`.
    """

    by_parameters: Float[Array, "horizon action parameters"]
    by_state: Float[Array, "horizon action state"]
    reward_by_state: Float[Array, "horizon state"]
    reward_by_action: Float[Array, "horizon action"]


def derivatives(
    policy: AbstractPolicy,
    env: AbstractEnvironment,
    states: Float[Array, "horizon_plus_1 state"],
    actions: Float[Array, "horizon action"],
) -> Derivatives:
    """The derivatives of policy and reward where an episode went."""
    steps = jnp.arange(env.horizon)
    vector, rebuild = ravel_pytree(eqx.filter(policy, eqx.is_inexact_array))
    rest = eqx.filter(policy, eqx.is_inexact_array, inverse=True)

    def act(vector: Array, state: Array, step: Array) -> Array:
        return eqx.combine(rebuild(vector), rest).mode(state, step)

    by_parameters, by_state = jax.vmap(jax.jacrev(act, argnums=(0, 1)), in_axes=(None, 0, 0))(
        vector, states[:-1], steps
    )
    by_reward = jax.vmap(jax.grad(env.reward, argnums=(0, 1)))(states[:-1], actions, steps)
    at_end = jax.grad(env.terminal_reward)(states[-1])
    # s_0 is given: the reward's slope there moves nothing.
    return Derivatives(
        by_parameters, by_state, jnp.concatenate([by_reward[0][1:], at_end[None]]), by_reward[1]
    )


def distance(actual: Array, expected: Array) -> Array:
    """The largest difference of two vectors in units of the largest expected number."""
    return jnp.abs(actual - expected).max() / jnp.abs(expected).max()


def worst(values: np.ndarray) -> float:
    """The largest of them; NaN if one is, or if there is none."""
    return float(values.max()) if values.size else float("nan")
