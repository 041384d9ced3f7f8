"""A learned reward in place of the task's own (Appendix C)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.linear import Layers, network, run_network
from ..core.types import Given, PRNGKey, Scalar, Step, Trajectory
from ..tasks.environment import AbstractReward, trajectory_rewards
from ..tasks.spec import alive, check_new, ends_early, Spec
from . import AbstractDynamicsModel
from .normalisation import Normaliser, RewardScale


HIDDEN_SIZE = 64


class Network(eqx.Module):
    """A 2 x 64 network with one output.

    SiLU, not the ReLU of the policy: the policy gradient starts with this network's derivative, which ReLU would make
    a staircase.
    """

    layers: Layers

    def __init__(self, input_size: int, *, key: PRNGKey):
        """Random layers; the last one starts small, so that the first output is near zero."""
        self.layers = network(input_size, HIDDEN_SIZE, 2, 1, keys=jax.random.split(key, 3), last=0.01)

    def __call__(self, x: Float[Array, " features"]) -> Scalar:
        """The output."""
        return run_network(self.layers, x, jax.nn.silu)[0]


class LearnedReward(AbstractReward):
    """Two networks, `r(s, a, t)` for every step and `R(s_H)` for the end, fitted on the rewards that were paid.

    The terminal reward is paid together with that of the last step, so only their sum is known and fitted; how the
    networks share it makes no difference to the gradient in the actions as long as the states follow each other as in
    the episodes. Time comes with a flag for the last step: a smooth `t / H` could not express that a task pays only
    there.
    """

    running: Network
    terminal: Network
    normaliser: Normaliser
    scale: RewardScale
    horizon: int = eqx.field(static=True)
    ends_early: bool = eqx.field(static=True)
    observe_time: bool = eqx.field(static=True)

    def __init__(
        self,
        env: Given[Spec],
        *,
        key: Given[PRNGKey],
        normaliser: Normaliser | None = None,
        scale: RewardScale | None = None,
        observe_time: bool = True,
    ):
        """Random parameters.

        Args:
            env: gives the sizes, the horizon and, where statistics are missing, 64 random episodes to take them from.
            key: for the initial parameters.
            normaliser: frozen statistics of the states.
            scale: frozen statistics of the rewards.
            observe_time: whether the time is an input; without it, no step is the last and there is no terminal reward.
        """
        check_new("LearnedReward", env, key)
        running_key, terminal_key = jax.random.split(key)
        self.running = Network(env.state_size + env.action_size + 2, key=running_key)
        self.terminal = Network(env.state_size, key=terminal_key)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.scale = RewardScale.from_random_episodes(env) if scale is None else scale
        self.horizon, self.ends_early, self.observe_time = env.horizon, ends_early(env), observe_time

    def with_statistics(self, normaliser: Normaliser, episodes: Trajectory) -> "LearnedReward":
        """The same networks with other statistics: of states as given, of rewards those of episodes (leading axis)."""
        scale = RewardScale.from_rewards(episodes.rewards)
        return eqx.tree_at(lambda r: (r.normaliser, r.scale), self, (normaliser, scale))

    def reward(self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step) -> Scalar:
        """`r(s_t, a_t, t)`, in the task's units."""
        step = jnp.asarray(step if self.observe_time else 0)
        is_last = (step == self.horizon - 1) & self.observe_time
        time = jnp.stack([step / self.horizon, is_last]).astype(action.dtype)
        output = self.running(jnp.concatenate([self.normaliser.normalise(state), action, time]))
        unit = jnp.where(is_last, self.scale.last_scale, self.scale.scale)
        mean, unit = jax.lax.stop_gradient((self.scale.mean, unit))
        return self.while_alive(state, mean + unit * output)

    def while_alive(self, state: Float[Array, " state"], value: Scalar) -> Scalar:
        """The value, times `alive` where episodes end early: after an end, nothing follows."""
        return value * alive(state) if self.ends_early else value

    def terminal_reward(self, state: Float[Array, " state"]) -> Scalar:
        """`R(s_H)`, in the task's units."""
        if not self.observe_time:
            return jnp.zeros((), state.dtype)
        shift, unit = jax.lax.stop_gradient((self.scale.last_mean - self.scale.mean, self.scale.last_scale))
        return self.while_alive(state, shift + unit * self.terminal(self.normaliser.normalise(state)))

    def loss(self, trajectory: Trajectory) -> Scalar:
        """Mean squared error of the rewards of one episode, in normalised units.

        The last step counts as much as all others together, since what it pays can be all that is paid.
        """
        predicted = trajectory_rewards(self, trajectory.states, trajectory.actions)
        squares = jnp.square(predicted - trajectory.rewards)
        before, last = jax.lax.stop_gradient((self.scale.scale, self.scale.last_scale))
        if not self.observe_time:
            return squares.mean() / before**2
        return (squares[:-1].mean() / before**2 + squares[-1] / last**2) / 2


def fitting_loss(
    reward: LearnedReward,
    model: AbstractDynamicsModel,
    episode: Trajectory,
    predicted_share: float,
) -> Scalar:
    """The loss of a learned reward on one episode, at the true states and at those that a model predicts instead.

    In imagination only the latter are ever met; they are the wrong ones while the model is not fitted yet.

    Args:
        reward: what is fitted.
        model: is not.
        episode: what was done and paid.
        predicted_share: weight of the predicted states, from 0 to 1.
    """
    if predicted_share == 0:
        return reward.loss(episode)
    predicted = jax.lax.stop_gradient(model.predict(episode.states[0], episode.actions))
    imagined = Trajectory(jnp.concatenate([episode.states[:1], predicted]), episode.actions, episode.rewards)
    return (1 - predicted_share) * reward.loss(episode) + predicted_share * reward.loss(imagined)
