"""A policy told what return to reach (Chen et al., 2021; Zheng et al., 2022), and what it is fitted to."""

import distreqx.bijectors as bijectors
import distreqx.distributions as distributions
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..core.linear import Linear
from ..core.types import PRNGKey, Scalar, Step, Trajectory
from ..models.backbones.attention import Transformer
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractActor
from ..tasks.spec import Spec


# Actions are brought this close to zero before the squashing is undone: that of a bound would be infinite, and one
# much closer to it would outweigh all others in a mean of squares.
LARGEST_ACTION = 0.999
NUM_TOKENS = 3  # of a step: return-to-go, state, action


class Window(eqx.Module):
    """A stretch of an episode, moved to the front; what is behind its last step is zero. Or a single step.

    Attributes:
        returns_to_go: the return of each step and all later ones, or what is asked of them.
        states: of the task.
        actions: that were taken.
        steps: of the episode.
    """

    returns_to_go: Float[Array, "*context"]
    states: Float[Array, "*context state"]
    actions: Float[Array, "*context action"]
    steps: Int[Array, "*context"]


class Carry(eqx.Module):
    """What an episode has been so far.

    Attributes:
        window: its last steps.
        num_steps: how many there were in all.
        return_to_go: the target return less all rewards so far.
    """

    window: Window
    num_steps: Int[Array, ""]
    return_to_go: Scalar


def returns_to_go(rewards: Float[Array, " horizon"]) -> Float[Array, " horizon"]:
    """At every step the sum of this and all later rewards: what, in hindsight, should have been asked for."""
    return jnp.cumsum(rewards[::-1])[::-1]


def sub_sequence(
    episode: Trajectory, first: Int[Array, ""], context: int
) -> tuple[Window, Bool[Array, " context"]]:
    """Steps `first .. first + context - 1` of an episode, as far as it has them.

    Args:
        episode: one episode.
        first: from `1 - context` to `horizon - 1`. Drawn uniformly, every step of the episode is part of the
            sub-sequence equally often, and those that begin before the episode are what acting starts with.
        context: longest sub-sequence.

    Returns:
        The window, its returns-to-go relabelled by what was really paid, and where there is a step in it.
    """
    horizon = episode.rewards.shape[0]
    start = jnp.maximum(first, 0)
    steps = start + jnp.arange(context)
    present = steps < jnp.minimum(first + context, horizon)

    def take(values: Array) -> Array:
        taken = values[jnp.minimum(steps, horizon - 1)]
        return jnp.where(present.reshape(-1, *[1] * (taken.ndim - 1)), taken, 0)

    to_go = returns_to_go(episode.rewards)
    window = Window(take(to_go), take(episode.states), take(episode.actions), take(jnp.arange(horizon)))
    return window, present


class DecisionTransformerPolicy(AbstractActor):
    """A causal transformer over (return-to-go, state, action) of the last steps; tanh-normal actions.

    A token is a linear map of the features of its kind and of time, written as one map of all features where those
    of the other kinds are zero.

    Attributes:
        return_mean: of all returns-to-go of the warm-up episodes; frozen.
        return_scale: their standard deviation; frozen.
        target_return: what is asked for at the beginning of an episode.
    """

    backbone: Transformer
    head: Linear
    normaliser: Normaliser
    return_mean: Scalar
    return_scale: Scalar
    target_return: Scalar
    horizon: int = eqx.field(static=True)
    context: int = eqx.field(static=True)
    min_log_std: float = eqx.field(static=True, default=-5.0)
    max_log_std: float = eqx.field(static=True, default=2.0)

    def __init__(
        self,
        env: Spec,
        target_return: float,
        *,
        context: int,
        dropout: float = 0.0,
        width: int = 72,
        num_layers: int = 2,
        normaliser: Normaliser | None = None,
        key: PRNGKey,
    ):
        """Random parameters; the last layer starts small, so that the first actions are centred and wide.

        Args:
            env: the task.
            target_return: what is asked for.
            context: steps that are seen at once; a task with fewer is seen whole.
            dropout: rate while fitting.
            width: of the transformer.
            num_layers: of the transformer.
            normaliser: statistics of states; by default those of 64 random episodes.
            key: for the parameters.
        """
        backbone_key, head_key = jax.random.split(key)
        self.horizon, self.context = env.horizon, min(context, env.horizon)
        features = 1 + env.state_size + env.action_size + 1 + NUM_TOKENS
        length = NUM_TOKENS * self.context
        self.backbone = Transformer.create(
            features, length, dropout=dropout, width=width, num_layers=num_layers, key=backbone_key
        )
        self.head = Linear(self.backbone.output_size, 2 * env.action_size, key=head_key, scale=0.01)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.return_mean, self.return_scale = jnp.zeros(()), jnp.ones(())
        self.target_return = jnp.asarray(target_return, float)

    def tokens(self, window: Window) -> Float[Array, "length input"]:
        """Three tokens a step, in the order return-to-go, state, action."""
        mean, scale = jax.lax.stop_gradient((self.return_mean, self.return_scale))
        to_go = ((window.returns_to_go - mean) / scale)[:, None]
        states = self.normaliser.normalise(window.states)
        time = (window.steps / self.horizon)[:, None].astype(states.dtype)
        features = (to_go, states, window.actions)
        rows = []
        for index in range(NUM_TOKENS):
            own = [x if i == index else jnp.zeros_like(x) for i, x in enumerate(features)]
            kind = jnp.broadcast_to(jnp.eye(NUM_TOKENS)[index], (time.shape[0], NUM_TOKENS))
            rows.append(jnp.concatenate([*own, time, kind], axis=1))
        return jnp.stack(rows, axis=1).reshape(-1, rows[0].shape[1])

    def distribution(self, window: Window, *, key: PRNGKey | None = None) -> distributions.Normal:
        """The normal distributions of all actions of a window before the squashing, each [context, action].

        That of step t depends on returns-to-go and states up to t and on actions before t. The key is for dropout.
        """
        # What stands behind a state token has seen that state and everything before it.
        outputs = self.head(self.backbone.predict(self.tokens(window), key=key)[1::NUM_TOKENS])
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        return distributions.Normal(mean, jnp.exp(jnp.clip(log_std, self.min_log_std, self.max_log_std)))

    def begin(self) -> Carry:
        """No steps, and the whole target to go."""
        state_size, action_size = self.normaliser.mean.shape[0], self.head.bias.shape[0] // 2
        window = Window(
            jnp.zeros(self.context),
            jnp.zeros((self.context, state_size)),
            jnp.zeros((self.context, action_size)),
            jnp.zeros(self.context, jnp.int32),
        )
        return Carry(window, jnp.zeros((), jnp.int32), self.target_return)

    def act(
        self,
        carry: Carry,
        state: Float[Array, " state"],
        step: Step,
        noise: Float[Array, " action"] | None = None,
    ) -> Float[Array, " action"]:
        """`tanh(mean + std * noise)` after the state; the window's last action is not known yet, and not seen."""
        window, place = self._append(carry, state, step, jnp.zeros_like(carry.window.actions[0]))
        normal = self.distribution(window)
        mean, std = normal.loc[place], normal.scale[place]
        return jnp.tanh(mean if noise is None else mean + std * noise)

    def observe(
        self,
        carry: Carry,
        state: Float[Array, " state"],
        step: Step,
        action: Float[Array, " action"],
        reward: Scalar,
    ) -> Carry:
        """One step more, and its reward less to go."""
        window = self._append(carry, state, step, action)[0]
        return Carry(window, carry.num_steps + 1, carry.return_to_go - reward)

    def _append(
        self, carry: Carry, state: Float[Array, " state"], step: Step, action: Float[Array, " action"]
    ) -> tuple[Window, Int[Array, ""]]:
        """The window with one step more, the oldest dropped if it is full, and the place of the new one."""
        full = carry.num_steps >= self.context
        place = jnp.minimum(carry.num_steps, self.context - 1)

        def put(values: Array, new: Array) -> Array:
            return jnp.where(full, jnp.roll(values, -1, axis=0), values).at[place].set(new)

        new = Window(carry.return_to_go, state, action, jnp.asarray(step))
        return jax.tree.map(put, carry.window, new), place


def squashed_log_prob(
    normal: distributions.Normal, unsquashed: Float[Array, "context action"]
) -> Float[Array, " context"]:
    """Log-probability of `tanh(unsquashed)`, summed over action components."""
    log_det = bijectors.Tanh().forward_log_det_jacobian(unsquashed)
    return (normal.log_prob(unsquashed) - log_det).sum(axis=-1)


def imitation_loss(
    policy: DecisionTransformerPolicy,
    window: Window,
    weights: Float[Array, " context"],
    noise: Float[Array, "context action"],
    temperature: Scalar | float,
    *,
    key: PRNGKey | None = None,
) -> tuple[Scalar, tuple[Scalar, Scalar]]:
    """The Lagrangian of maximum likelihood under an entropy constraint (Zheng et al., section 4.1), of one window.

    Args:
        policy: the policy.
        window: with returns-to-go of hindsight.
        weights: of its steps, zero where there is none.
        noise: for a one-sample estimate of the entropy.
        temperature: the multiplier; a constant here.
        key: for dropout.

    Returns:
        The loss; and, weighted likewise, the negative log-likelihood and the entropy.
    """
    normal = policy.distribution(window, key=key)
    taken = jnp.arctanh(jnp.clip(window.actions, -LARGEST_ACTION, LARGEST_ACTION))
    likelihood_loss = jnp.vdot(weights, -squashed_log_prob(normal, taken))
    entropy = jnp.vdot(weights, -squashed_log_prob(normal, normal.loc + normal.scale * noise))
    return likelihood_loss - temperature * entropy, (likelihood_loss, entropy)
