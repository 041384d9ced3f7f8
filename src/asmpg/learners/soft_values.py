"""A critic of actions, what it is fitted to, and the losses of soft actor-critic, each of one transition."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..core.linear import Layers, network, run_network
from ..core.types import PRNGKey, Scalar, Step
from ..gradients.policies import TanhGaussianPolicy
from ..models.normalisation import Normaliser
from ..tasks.spec import Spec
from .replay import ReplayBuffer


class Critic(eqx.Module):
    """The value of an action: a ReLU network of normalised state, time and action, 2 x 256 in Appendix E.2."""

    layers: Layers
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        env: Spec,
        width: int = 256,
        num_layers: int = 2,
        *,
        key: PRNGKey,
        normaliser: Normaliser | None = None,
    ):
        """Random parameters; statistics of 64 random episodes unless a normaliser is given."""
        keys = jax.random.split(key, 1 + num_layers)
        features = env.state_size + 1 + env.action_size
        self.layers = network(features, width, num_layers, 1, keys=keys)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon = env.horizon

    def __call__(self, state: Float[Array, " state"], step: Step, action: Float[Array, " action"]) -> Scalar:
        """The soft return from here on, after this action."""
        time = (jnp.asarray(step) / self.horizon)[None].astype(state.dtype)
        return run_network(self.layers, jnp.concatenate([self.normaliser.normalise(state), time, action]))[0]


Critics = tuple[Critic, ...]


class Transition(eqx.Module):
    """One step of an episode.

    Attributes:
        state: `s_t`.
        step: t; always 0 where time is not observed.
        action: `a_t`.
        reward: `r_t`, normalised if that was asked for; that of the last step includes the terminal reward.
        next_state: `s_{t+1}`.
        next_step: t + 1; always 0 where time is not observed.
        terminal: whether the task ends here, so that nothing follows. A mere time limit is no such end.
    """

    state: Float[Array, "*batch state"]
    step: Int[Array, "*batch"]
    action: Float[Array, "*batch action"]
    reward: Float[Array, "*batch"]
    next_state: Float[Array, "*batch state"]
    next_step: Int[Array, "*batch"]
    terminal: Bool[Array, "*batch"]


def sample_transitions(
    replay: ReplayBuffer, num_transitions: int, *, ends: bool, key: PRNGKey
) -> tuple[Transition, Int[Array, " num_transitions"]]:
    """Draws transitions uniformly, with replacement, from the stored episodes.

    Args:
        replay: whole episodes.
        num_transitions: how many.
        ends: whether episodes end because the task does; otherwise they are only cut off, and time is hidden.
        key: for the draws.

    Returns:
        The transitions, and the step of the episode that each was.
    """
    row_key, step_key = jax.random.split(key)
    episodes = replay.episodes
    horizon = episodes.rewards.shape[1]
    rows = jax.random.randint(row_key, (num_transitions,), 0, jnp.minimum(replay.count, replay.capacity))
    steps = jax.random.randint(step_key, (num_transitions,), 0, horizon)
    transitions = Transition(
        state=episodes.states[rows, steps],
        step=steps if ends else jnp.zeros_like(steps),
        action=episodes.actions[rows, steps],
        reward=episodes.rewards[rows, steps],
        next_state=episodes.states[rows, steps + 1],
        next_step=steps + 1 if ends else jnp.zeros_like(steps),
        terminal=ends & (steps == horizon - 1),
    )
    return transitions, steps


def lowest_value(
    critics: Critics, state: Float[Array, " state"], step: Step, action: Float[Array, " action"]
) -> Scalar:
    """The most pessimistic critic's value."""
    return jnp.stack([critic(state, step, action) for critic in critics]).min()


def bootstrap_target(
    critics: Critics,
    policy: TanhGaussianPolicy,
    transition: Transition,
    noise: Float[Array, " action"],
    temperature: Scalar | float,
    discount: float | Scalar,
) -> Scalar:
    """What the critics are fitted to: reward plus discounted soft value of what follows (Haarnoja et al., Eq. 8).

    Args:
        critics: the slow copies.
        policy: chooses the next action.
        transition: one step; after a terminal one nothing follows.
        noise: of the next action; zeros make it the deterministic one.
        temperature: weight of the entropy.
        discount: of one step.
    """
    state, step = transition.next_state, transition.next_step
    action, log_prob = policy.sample_and_log_prob(state, step, noise)
    value = lowest_value(critics, state, step, action) - temperature * log_prob
    return jax.lax.stop_gradient(transition.reward + discount * jnp.where(transition.terminal, 0.0, value))


def critic_loss(critics: Critics, transition: Transition, target: Scalar) -> Scalar:
    """Half the squared error, summed over the critics."""
    values = [critic(transition.state, transition.step, transition.action) for critic in critics]
    return 0.5 * jnp.square(jnp.stack(values) - target).sum()


def policy_loss(
    policy: TanhGaussianPolicy,
    critics: Critics,
    transition: Transition,
    noise: Float[Array, " action"],
    temperature: Scalar | float,
) -> tuple[Scalar, Scalar]:
    """The negative soft value of the policy's own action, and a one-sample estimate of its entropy."""
    action, log_prob = policy.sample_and_log_prob(transition.state, transition.step, noise)
    value = lowest_value(critics, transition.state, transition.step, action)
    return temperature * log_prob - value, -log_prob
