"""Windows of long episodes: how long they are, and a bootstrapped value of what lies beyond one, discounted."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..core.types import PRNGKey, Scalar, Step
from ..models.known_reward import KnownReward
from ..models.reward import LearnedReward, Network
from ..tasks.environment import AbstractEnvironment, AbstractReward, evaluation_states
from ..tasks.spec import Spec
from .optimisation import apply_gradient
from .settings import Settings


# Episodes of at most so many steps are imagined whole, even those that begin anywhere; of longer ones, windows.
SHORT_EPISODE, DEFAULT_WINDOW = 50, 20


def window_of(env: Spec, settings: Settings, learned_reward: bool = False) -> int | None:
    """Steps of a window, None for whole episodes.

    Args:
        env: the world.
        settings: say how long; 0 leaves it to the world.
        learned_reward: whether a task's reward is learned, without which there are no windows of its episodes.
    """
    window = settings.window
    if not window and env.horizon > SHORT_EPISODE and _suits_windows(env, learned_reward):
        window = DEFAULT_WINDOW
    return window if 0 < window < env.horizon else None


def _suits_windows(env: Spec, learned_reward: bool) -> bool:
    """Whether episodes begin anywhere and their reward needs no time: a task's that pays at the end does."""
    if not isinstance(env, AbstractEnvironment):
        return not getattr(env, "fixed_start", False)
    pays_at_end = type(env).terminal_reward is not AbstractReward.terminal_reward
    return learned_reward and not pays_at_end and len(evaluation_states(env)) > 1


class WindowValue(eqx.Module):
    """A network of a normalised state and its slow copy, both in units of the reward.

    Attributes:
        network: fitted to imagined windows, with the slow copy beyond their end.
        slow: follows the network, and is what the policy sees.
        optimiser: of the network.
    """

    network: Network
    slow: Network
    optimiser: optax.OptState

    @classmethod
    def create(
        cls, state_size: int, optimiser: optax.GradientTransformation, *, key: PRNGKey
    ) -> "WindowValue":
        """A value of about zero, which stands for the mean reward for ever."""
        network = Network(state_size, key=key)
        return cls(network, network, optimiser.init(eqx.filter(network, eqx.is_inexact_array)))

    def fit(
        self,
        optimiser: optax.GradientTransformation,
        states: Float[Array, "states state"],
        targets: Float[Array, " states"],
        rate: float | Scalar,
    ) -> tuple["WindowValue", Array]:
        """One update of the network, then of the slow copy by a share `rate`; and whether it was applied."""

        def loss(network: Network) -> Scalar:
            return jnp.mean(jnp.square(jax.vmap(network)(states) - targets))

        grads = eqx.filter_grad(loss)(self.network)
        network, state, applied = apply_gradient(optimiser, self.network, self.optimiser, grads)

        def follow(slow: PyTree, new: PyTree) -> Any:
            return slow + jnp.where(applied, rate, 0.0) * (new - slow) if eqx.is_array(slow) else slow

        return WindowValue(network, jax.tree.map(follow, self.slow, network), state), applied


class Bootstrapped(AbstractReward):
    """The discounted reward of a window, and the value of the state at its end.

    A value of zero stands for the mean reward for ever, so that nothing has to be learned of it.

    Attributes:
        reward_model: the reward.
        value: the slow copy.
        discount: of one step.
        horizon: steps of a window.
    """

    reward_model: LearnedReward | KnownReward
    value: Network
    discount: float | Scalar
    horizon: int = eqx.field(static=True)

    @property
    def unit(self) -> Scalar:
        """What one unit of the network's output is."""
        return jax.lax.stop_gradient(self.reward_model.scale.scale / (1.0 - self.discount))

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`discount^t r(s_t, a_t)`."""
        return self.discount ** jnp.asarray(step, state.dtype) * self.reward_model.reward(state, action, step)

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """`discount^H V(s_H)`, which is nothing once the episode has ended."""
        normalised = self.reward_model.normaliser.normalise(state)
        mean = jax.lax.stop_gradient(self.reward_model.scale.mean) / (1.0 - self.discount)
        value = self.reward_model.while_alive(state, mean + self.unit * self.value(normalised))
        return self.discount**self.horizon * value

    def targets(
        self, states: Float[Array, "horizon_plus_1 state"], actions: Float[Array, "horizon action"]
    ) -> tuple[Float[Array, "horizon state"], Float[Array, " horizon"]]:
        """Normalised states of a window, and what the network is to say of each: its rest and the value at the end."""
        steps = jnp.arange(actions.shape[0])
        rewards = jax.vmap(self.reward_model.reward)(states[:-1], actions, steps)
        last = self.terminal_reward(states[-1]) / self.discount**self.horizon

        def back(following: Scalar, reward: Scalar) -> tuple[Scalar, Scalar]:
            total = reward + self.discount * following
            return total, total

        totals = jax.lax.scan(back, last, rewards, reverse=True)[1]
        mean = self.reward_model.scale.mean / (1.0 - self.discount)
        normalised = self.reward_model.normaliser.normalise(states[:-1])
        return jax.lax.stop_gradient((normalised, (totals - mean) / self.unit))
