"""Algorithm 1 as a learner: fit a dynamics model on replayed episodes, improve the policy through it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ..core.loops import repeat
from ..core.types import global_norm, Metrics, PRNGKey, Scalar, Trajectory, UsageError
from ..gradients.analysis import gradient_cosine, state_growth
from ..gradients.imagination import imagine, Loop
from ..gradients.policies import AbstractTanhGaussianPolicy, TanhGaussianPolicy
from ..gradients.policy_gradient import imagined_return
from ..models import AbstractDynamicsModel
from ..models.known_reward import KnownReward, RewardUnits
from ..models.normalisation import Normaliser, RewardScale, spread, with_normaliser
from ..models.reward import fitting_loss, LearnedReward
from ..tasks.environment import AbstractEnvironment, AbstractReward
from ..tasks.spec import ends_early, sizes_of_windows, Spec
from .base import AbstractLearner
from .optimisation import (
    descend,
    mean_gradient,
    optimiser_of,
    OwnOptimiser,
    Part,
    policy_std,
    polyak_average,
    UpdateStatistics,
)
from .replay import ReplayBuffer
from .settings import Settings
from .window_value import Bootstrapped, WindowValue


# Windows of the warm-up episodes from which statistics are taken.
NUM_STATISTICS = 256


class ModelBasedState(eqx.Module):
    """Everything of Algorithm 1 that changes.

    The reward and its optimiser are None where the task's own is used, `average` where policies are not averaged,
    `value` where imagination goes through whole episodes.
    """

    model: AbstractDynamicsModel
    policy: AbstractTanhGaussianPolicy
    model_optimiser: optax.OptState
    policy_optimiser: optax.OptState
    return_scale: Scalar
    statistics: UpdateStatistics
    reward: LearnedReward | RewardUnits | None = None
    reward_optimiser: Any = None
    average: AbstractTanhGaussianPolicy | None = None
    value: WindowValue | None = None


def cloning_distance(policy: AbstractTanhGaussianPolicy, episode: Trajectory) -> Scalar:
    """Mean squared distance between the deterministic actions at an episode's states and those that were taken."""
    steps = jnp.arange(episode.actions.shape[0])
    return jnp.square(jax.vmap(policy.mode)(episode.states[:-1], steps) - episode.actions).mean()


class ModelBasedLearner(AbstractLearner[ModelBasedState]):
    """Algorithm 1 for any dynamics model.

    Attributes:
        env: the task; its transition is only ever sampled (except by `Simulator`), and so is its reward if that is
            learned.
        settings: sizes, rates and intervals.
        make_model: builds the model: `make_model(key=key)`.
        loop: which policy gradient.
        record_cosine: whether to report the cosine between the model's policy gradient and the true one, and the
            growth a step of the Jacobians' product of a model without other memory than the state. That alone
            takes the derivatives of the task itself, and nothing that is learned depends on it.
        learned_reward: whether imagination is paid by a learned reward (Appendix C). Without one, a simulator must have
            a `known_reward`.
        make_policy: builds the policy: `make_policy(env, key=key)`; None for the usual network.
        scan_chunk: steps between two carries that a derivative step by step keeps, see `asmpg.core.loops`.
        window: steps of an imagined stretch of an episode that begins at any replayed observation, where that is not
            the whole episode. Of a task the reward is learned then; neither it nor the policy knows the time.
        own_optimiser: of all networks, in place of Adam.
    """

    env: Spec
    settings: Settings
    make_model: Any = eqx.field(static=True)
    loop: Loop = eqx.field(static=True, default="open")
    record_cosine: bool = eqx.field(static=True, default=False)
    learned_reward: bool = eqx.field(static=True, default=False)
    make_policy: Any = eqx.field(static=True, default=None)
    scan_chunk: int | None = eqx.field(static=True, default=None)
    window: int | None = eqx.field(static=True, default=None)
    own_optimiser: OwnOptimiser | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        """Raises a UsageError for windows where the reward is known, or the actions are, as functions of the time."""
        if self.window is not None and self.make_policy is not None:
            raise UsageError("window: a sequence of actions is that of a whole episode")
        if self.window is not None and not self.learned_reward and isinstance(self.env, AbstractReward):
            raise UsageError("window: imagination can be shorter than the episode with a learned reward only")

    @property
    def _imagined(self) -> Spec:
        """The sizes of what is imagined: an episode, or a window of one."""
        return self.env if self.window is None else sizes_of_windows(self.env, self.window)

    def _optimiser(self, part: Part) -> optax.GradientTransformation:
        """Of a network that is fitted to data: the model's, which the learned reward and the value share."""
        return optimiser_of(part, self.settings, self.settings.model_learning_rate, self.own_optimiser)

    def _policy_optimiser(self, policy: AbstractTanhGaussianPolicy) -> optax.GradientTransformation:
        rate, factor = self.settings.policy_learning_rate, policy.learning_rate_factor
        return optimiser_of("policy", self.settings, rate, self.own_optimiser, factor=factor)

    def init(self, normaliser: Normaliser, *, key: PRNGKey) -> ModelBasedState:
        """Initial networks. The policy's draw does not depend on the kind of model."""
        policy_key, model_key, reward_key = jax.random.split(key, 3)
        policy = with_normaliser(self._new_policy(policy_key), normaliser)
        model = with_normaliser(self.make_model(key=model_key), normaliser)
        reward = self._new_reward(normaliser, reward_key)
        return ModelBasedState(
            model,
            policy,
            self._optimiser("model").init(eqx.filter(model, eqx.is_inexact_array)),
            self._policy_optimiser(policy).init(eqx.filter(policy, eqx.is_inexact_array)),
            jnp.ones(()),
            UpdateStatistics.zero(),
            reward,
            self._optimiser("reward").init(eqx.filter(reward, eqx.is_inexact_array))
            if self.learned_reward
            else None,
            policy if self.settings.policy_average else None,
            None if self.window is None else self._new_value(jax.random.fold_in(key, 4)),
        )

    def _new_reward(self, normaliser: Normaliser, key: PRNGKey) -> LearnedReward | RewardUnits | None:
        """Untrained rewards, or the units of one that a simulator knows; None for a task's own."""
        scale, timed = RewardScale.unknown(), self.window is None
        if not self.learned_reward:
            return None if isinstance(self.env, AbstractReward) else RewardUnits(normaliser, scale)
        return LearnedReward(self._imagined, key=key, normaliser=normaliser, scale=scale, observe_time=timed)

    def _new_policy(self, key: PRNGKey) -> AbstractTanhGaussianPolicy:
        """An untrained policy that knows nothing of the world's units yet."""
        if self.make_policy is not None:
            return self.make_policy(self.env, key=key)
        return TanhGaussianPolicy(
            self.env,
            key=key,
            normaliser=Normaliser.unknown(self.env.state_size),
            observe_time=self.window is None,
            width=self.settings.policy_width,
            num_layers=self.settings.num_policy_layers,
        )

    def _new_value(self, key: PRNGKey) -> WindowValue:
        return WindowValue.create(self.env.state_size, self._optimiser("value"), key=key)

    def observe_warmup(self, state: ModelBasedState, episodes: Trajectory) -> ModelBasedState:
        """Freezes the statistics of the warm-up episodes in all networks, and the spread of their returns."""
        ends = ends_early(self.env)
        if self.window is not None:
            replay = ReplayBuffer.full(episodes)
            size, key = NUM_STATISTICS, jax.random.key(0)
            episodes = replay.windows(size, self.window, key=key, ends_early=ends)
        normaliser = Normaliser.from_states(episodes.states, ends_early=ends)
        scale = spread(episodes.episode_return) if self.settings.normalise_return else 1.0
        return dataclasses.replace(
            state,
            model=with_normaliser(state.model, normaliser),
            policy=with_normaliser(state.policy, normaliser),
            average=with_normaliser(state.average, normaliser),
            return_scale=jnp.asarray(scale, state.return_scale.dtype),
            reward=None if state.reward is None else state.reward.with_statistics(normaliser, episodes),
        )

    def update(
        self, state: ModelBasedState, replay: ReplayBuffer, elapsed: Int[Array, ""], *, key: PRNGKey
    ) -> ModelBasedState:
        """Updates of the model and the learned reward, then of the policy, each when its interval has passed."""
        model_key, policy_key = jax.random.split(key)
        if state.model.fitted or self.learned_reward:
            state = repeat(
                elapsed % self.settings.model_update_every == 0,
                lambda s: self.fit(s, replay, key=model_key),
                state,
            )
        return repeat(
            elapsed % self.settings.policy_update_every == 0,
            lambda s: self.improve(s, replay, key=policy_key),
            state,
        )

    def fit(self, state: ModelBasedState, replay: ReplayBuffer, *, key: PRNGKey) -> ModelBasedState:
        """One update of whatever is fitted on episodes, on the same ones."""
        sample_key, dropout_key = jax.random.split(key)
        episodes = self._sample(replay, self.settings.model_batch_size, key=sample_key)
        if state.model.fitted:
            state = self._update_model(state, episodes, key=dropout_key)
        return self._update_reward(state, episodes) if self.learned_reward else state

    def _sample(self, replay: ReplayBuffer, size: int, *, key: PRNGKey) -> Trajectory:
        """A batch of what was recorded: whole episodes, or windows of them."""
        if self.window is None:
            return replay.sample(size, key=key)
        return replay.windows(size, self.window, key=key, ends_early=ends_early(self.env))

    def _starts(self, replay: ReplayBuffer, *, key: PRNGKey) -> Float[Array, "batch state"]:
        """Where imagination begins: at the start of an episode, or at any observation."""
        size = self.settings.policy_batch_size
        if self.window is None:
            return replay.initial_states(size, key=key)
        return replay.observations(size, key=key, ends_early=ends_early(self.env))

    def _update_model(self, state: ModelBasedState, episodes: Trajectory, *, key: PRNGKey) -> ModelBasedState:
        size = self.settings.model_batch_size
        keys = jax.random.split(key, size) if self.settings.dropout > 0 else None

        def loss(
            model: AbstractDynamicsModel, example: tuple[Trajectory, PRNGKey | None]
        ) -> tuple[Scalar, None]:
            episode, dropout_key = example
            return model.loss(episode, key=dropout_key), None

        grads, _ = mean_gradient(loss, state.model, (episodes, keys), least=state.model.least_batch)
        return descend(state, "model", "model_optimiser", self._optimiser("model"), grads)[0]

    def _update_reward(self, state: ModelBasedState, episodes: Trajectory) -> ModelBasedState:
        # At states that a model of a window predicts, unrolled models learn a wrong reward.
        share = self.settings.predicted_state_share if self.window is None else 0.0

        def loss(reward: LearnedReward, episode: Trajectory) -> tuple[Scalar, None]:
            return fitting_loss(reward, state.model, episode, share), None

        grads, _ = mean_gradient(loss, state.reward, episodes)
        return descend(state, "reward", "reward_optimiser", self._optimiser("reward"), grads)[0]

    def improve(self, state: ModelBasedState, replay: ReplayBuffer, *, key: PRNGKey) -> ModelBasedState:
        """One update of the policy."""
        start_key, noise_key = jax.random.split(key)
        size = self.settings.policy_batch_size
        starts = self._starts(replay, key=start_key)
        noise = jax.random.normal(noise_key, (size, self._imagined.horizon, self.env.action_size))
        recorded = (
            self._sample(replay, size, key=jax.random.fold_in(key, 2)) if self.settings.cloning else None
        )
        reward = self._reward(state)
        entropy = self.settings.entropy * (self.env.horizon if self.settings.entropy_over == "episode" else 1)

        def loss(
            policy: AbstractTanhGaussianPolicy, example: tuple[Array, Array, Trajectory | None]
        ) -> tuple[Scalar, Scalar]:
            start, noise, episode = example
            value, imagined = imagined_return(
                *(policy, state.model, reward, start, noise),
                loop=self.loop,
                chunk=self.scan_chunk,
            )
            objective = value / state.return_scale + entropy * imagined.entropy
            if episode is not None:
                objective -= self.settings.cloning * cloning_distance(policy, episode)
            return -objective, imagined.entropy

        # Where nothing is carried but the state, a step is so small that it costs the same for one and for many.
        micro = None if jax.tree.leaves(state.model.init(starts[0])) else size
        grads, mean_entropy = mean_gradient(
            loss, state.policy, (starts, noise, recorded), micro=micro, least=state.model.least_batch
        )
        state, _ = descend(state, "policy", "policy_optimiser", self._policy_optimiser(state.policy), grads)
        average = state.average
        if average is not None:
            average = polyak_average(average, state.policy, 1 / self.settings.policy_average)
        statistics = state.statistics.add(global_norm(grads), mean_entropy)
        state = dataclasses.replace(state, statistics=statistics, average=average)
        return self._update_value(state, starts, noise)

    def _update_value(self, state: ModelBasedState, starts: Array, noise: Array) -> ModelBasedState:
        """Fits the value to windows that are imagined with the new policy, where there is one."""
        reward = self._reward(state)
        if state.value is None or not isinstance(reward, Bootstrapped):
            return state

        def targets(start: Array, noise: Array) -> tuple[Array, Array]:
            imagined = imagine(state.policy, state.model, start, noise)
            return reward.targets(imagined.states, imagined.actions)

        states, totals = jax.vmap(targets)(starts, noise)
        states = states.reshape(-1, states.shape[-1])
        rate = self.settings.target_rate
        value, applied = state.value.fit(self._optimiser("value"), states, totals.reshape(-1), rate)
        return dataclasses.replace(state, value=value, statistics=state.statistics.add_outcome(applied))

    def _reward(self, state: ModelBasedState) -> AbstractReward:
        """The reward in imagination: the task's, the learned one, or that with a value at a window's end."""
        reward = self._own_reward(state)
        if reward is None:
            assert isinstance(self.env, AbstractReward), f"the reward of {self.env.name} has to be learned"
            return self.env
        if state.value is None or self.window is None:
            return reward
        return Bootstrapped(reward, state.value.slow, self.settings.discount, self.window)

    def _own_reward(self, state: ModelBasedState) -> LearnedReward | KnownReward | None:
        """The learned reward, or the simulator's; None where it is a task's."""
        if isinstance(state.reward, RewardUnits):
            return KnownReward(self.env, state.reward)
        return state.reward

    def _in_windows(self, trajectory: Trajectory) -> Callable[[Callable[[Trajectory], Scalar]], Scalar]:
        """What applies a loss to an evaluated episode: to all of it, or to the windows that it is cut into."""
        window = self.window
        if window is None:
            return lambda loss: loss(trajectory)
        replay = ReplayBuffer.full(jax.tree.map(lambda x: x[None], trajectory))
        firsts = jnp.arange(0, self.env.horizon - window + 1, window)
        windows = replay.cut(jnp.zeros_like(firsts), firsts, window)
        return lambda loss: jax.vmap(loss)(windows).mean()

    def policy(self, state: ModelBasedState) -> AbstractTanhGaussianPolicy:
        return state.policy

    def evaluated(self, state: ModelBasedState) -> AbstractTanhGaussianPolicy:
        return state.policy if state.average is None else state.average

    def diagnose(
        self, state: ModelBasedState, replay: ReplayBuffer, trajectory: Trajectory, *, key: PRNGKey
    ) -> tuple[ModelBasedState, Metrics]:
        episodes = self._sample(replay, self.settings.model_batch_size, key=key)
        own = self._in_windows(trajectory)
        metrics = {
            "model_loss": jax.vmap(state.model.loss)(episodes).mean(),
            "model_loss_on_policy": own(state.model.loss),
            "policy_std": policy_std(state.policy, trajectory),
            **state.statistics.metrics(state.return_scale),
        }
        reward = self._own_reward(state)
        if reward is not None:
            metrics["reward_loss"] = jax.vmap(reward.loss)(episodes).mean()
            metrics["reward_loss_on_policy"] = own(reward.loss)
        if self.record_cosine and isinstance(self.env, AbstractEnvironment):
            start, reward = trajectory.states[0], self._reward(state)
            metrics["cosine"] = gradient_cosine(state.policy, state.model, self.env, start, reward)
            if not jax.tree.leaves(state.model.init(start)):
                noise = jnp.zeros((self.env.horizon, self.env.action_size))
                imagined = imagine(state.policy, state.model, start, noise)
                metrics["state_growth"] = state_growth(state.model, imagined.states, imagined.actions)
        return dataclasses.replace(state, statistics=state.statistics.reset()), metrics
