"""Soft actor-critic (Haarnoja et al., 2018; Appendix E.2): no model, credit by temporal differences."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ..core.loops import repeat
from ..core.types import global_norm, Metrics, PRNGKey, Scalar, Trajectory
from ..gradients.policies import TanhGaussianPolicy
from ..models.normalisation import Normaliser, with_normaliser
from ..tasks.spec import Spec
from .base import AbstractLearner
from .optimisation import apply_gradient, mean_gradient, optimiser, polyak_average, UpdateStatistics
from .replay import ReplayBuffer
from .settings import AbstractSettings, with_rates_as_leaves
from .soft_values import (
    bootstrap_target,
    Critic,
    critic_loss,
    Critics,
    policy_loss,
    sample_transitions,
    Transition,
)
from .temperature import temperature_loss


@with_rates_as_leaves
@dataclasses.dataclass(frozen=True)
class SoftActorCriticSettings(AbstractSettings):
    """What a preset of soft actor-critic fixes.

    Attributes:
        critic_update_every: environment steps per critic update.
        policy_update_every: environment steps per policy update.
        batch_size: transitions (odt: sub-sequences) per update.
        critic_learning_rate: of Adam.
        policy_learning_rate: of Adam.
        num_critics: critics that are fitted side by side; the lowest of their values counts.
        discount: of one step; 1 is the undiscounted return that scores count.
        target_rate: the share of the way that the slow copies of the critics go after every update.
        temperature: weight of the policy's entropy against the return (odt: against the likelihood); the first one,
            where it is tuned.
        tune_temperature: whether the temperature is adapted to keep the entropy at its target.
        target_entropy: entropy per action component that a tuned temperature aims at, in nats; uniform actions
            have log 2 = 0.69.
        temperature_learning_rate: of Adam, on the logarithm.
        normalise_return: whether the policy's objective counts returns in units of their spread over the warm-up
            episodes, so that the entropy weight means the same for every task.
    """

    critic_update_every: int
    policy_update_every: int
    batch_size: int
    critic_learning_rate: float
    policy_learning_rate: float
    num_critics: int
    discount: float
    target_rate: float
    temperature: float
    tune_temperature: bool
    target_entropy: float
    temperature_learning_rate: float
    normalise_return: bool


def paper(horizon: int) -> SoftActorCriticSettings:
    """Table 2 and Appendix E.2, with the middle ones of the learning rates and entropy weights searched there."""
    return SoftActorCriticSettings(
        warmup_steps=1500,
        critic_update_every=2,
        policy_update_every=16,
        batch_size=128,
        critic_learning_rate=1e-4,
        policy_learning_rate=1e-4,
        num_critics=1,
        discount=0.995,
        target_rate=0.005,
        temperature=0.01,
        tune_temperature=False,
        target_entropy=-1.0,
        temperature_learning_rate=1e-4,
        normalise_return=False,
        gradient_clip=100.0,
        replay_capacity=1_000_000,
        learning_rate_decay=0,
        exploration="white",
        exploration_amplitude=0.0,
    )


def default(horizon: int) -> SoftActorCriticSettings:
    """Ours: the method at its best, so that the comparison is a fair one.

    Against what is customary: undiscounted values need as many rounds of bootstrapping as there are steps before they
    know of a reward at the end, so the slow critics follow ten times as fast; and optimal actions at a bound need a
    policy narrower than an entropy of -1 allows.
    """
    return SoftActorCriticSettings(
        warmup_steps=max(500, 4 * horizon),
        critic_update_every=1,
        policy_update_every=1,
        batch_size=128,
        critic_learning_rate=1e-3,
        policy_learning_rate=1e-3,
        num_critics=2,
        discount=1.0,
        target_rate=0.05,
        temperature=0.01,
        tune_temperature=True,
        target_entropy=-3.0,
        temperature_learning_rate=1e-3,
        normalise_return=True,
        gradient_clip=10.0,
        replay_capacity=1_000_000,
        learning_rate_decay=0,
        exploration="correlated",
        exploration_amplitude=1.0,
    )


PRESETS = {"default": default, "paper": paper}


class SoftActorCriticState(eqx.Module):
    """Everything that changes.

    Attributes:
        reward_mean: of the warm-up, at each step where time is observed; the policy cannot change it, so values need
            not contain it.
        return_scale: what one normalised unit of reward is.
    """

    policy: TanhGaussianPolicy
    critics: Critics
    target_critics: Critics
    log_temperature: Scalar
    policy_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    temperature_optimiser: optax.OptState
    reward_mean: Float[Array, " horizon"]
    return_scale: Scalar
    statistics: UpdateStatistics


class SoftActorCritic(AbstractLearner[SoftActorCriticState]):
    """Soft actor-critic.

    Attributes:
        env: the task; only ever sampled.
        settings: sizes, rates and intervals.
        ends: whether an episode ends because the task does, as all of ours do. Otherwise it is cut off by a time
            limit (a Gymnasium truncation): values look beyond it, and time is not observed.
    """

    env: Spec
    settings: SoftActorCriticSettings
    ends: bool = eqx.field(static=True, default=True)

    def _optimiser(self, learning_rate: float | Scalar) -> optax.GradientTransformation:
        return optimiser(learning_rate, self.settings.learning_rate_decay, self.settings.gradient_clip)

    def init(self, normaliser: Normaliser, *, key: PRNGKey) -> SoftActorCriticState:
        """Initial networks; the policy is drawn as that of the model-based methods is."""
        settings = self.settings
        policy_key, critic_key = jax.random.split(key)
        policy = TanhGaussianPolicy(self.env, key=policy_key, normaliser=normaliser, observe_time=self.ends)
        keys = jax.random.split(critic_key, settings.num_critics)
        critics = tuple(Critic(self.env, key=key, normaliser=normaliser) for key in keys)
        log_temperature = jnp.log(jnp.maximum(jnp.asarray(settings.temperature, float), 1e-30))
        return SoftActorCriticState(
            policy,
            critics,
            critics,
            log_temperature,
            self._optimiser(settings.policy_learning_rate).init(eqx.filter(policy, eqx.is_inexact_array)),
            self._optimiser(settings.critic_learning_rate).init(eqx.filter(critics, eqx.is_inexact_array)),
            self._optimiser(settings.temperature_learning_rate).init(log_temperature),
            jnp.zeros(self.env.horizon),
            jnp.ones(()),
            UpdateStatistics.zero(),
        )

    def observe_warmup(self, state: SoftActorCriticState, episodes: Trajectory) -> SoftActorCriticState:
        """Freezes the statistics of the warm-up episodes: of states, and of rewards if they are normalised."""
        networks = (state.policy, state.critics, state.target_critics)
        state = eqx.tree_at(
            lambda s: (s.policy, s.critics, s.target_critics),
            state,
            with_normaliser(networks, Normaliser.from_states(episodes.states)),
        )
        if not self.settings.normalise_return:
            return state
        scale = jnp.maximum(episodes.episode_return.std(), 1e-6)
        mean = episodes.rewards.mean(axis=0)
        # Who does not know the time cannot know which step's mean was taken off.
        mean = mean if self.ends else jnp.full_like(mean, mean.mean())
        return eqx.tree_at(lambda s: (s.reward_mean, s.return_scale), state, (mean, scale))

    def update(
        self, state: SoftActorCriticState, replay: ReplayBuffer, elapsed: Int[Array, ""], *, key: PRNGKey
    ) -> SoftActorCriticState:
        """A critic update, then a policy update, each when its interval has passed."""
        critic_key, policy_key = jax.random.split(key)
        state = repeat(
            elapsed % self.settings.critic_update_every == 0,
            lambda s: self._update_critics(s, replay, key=critic_key),
            state,
        )
        return repeat(
            elapsed % self.settings.policy_update_every == 0,
            lambda s: self._update_policy(s, replay, key=policy_key),
            state,
        )

    def _sample(
        self, state: SoftActorCriticState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> tuple[Transition, Float[Array, "batch action"]]:
        """A batch of transitions with normalised rewards, and noise for the policy's action in each."""
        sample_key, noise_key = jax.random.split(key)
        size = self.settings.batch_size
        transitions, steps = sample_transitions(replay, size, ends=self.ends, key=sample_key)
        rewards = (transitions.reward - state.reward_mean[steps]) / state.return_scale
        noise = jax.random.normal(noise_key, (size, self.env.action_size))
        return eqx.tree_at(lambda t: t.reward, transitions, rewards), noise

    def _targets(
        self, state: SoftActorCriticState, transitions: Transition, noise: Float[Array, "batch action"]
    ) -> Float[Array, " batch"]:
        temperature, discount = self.temperature(state), self.settings.discount

        def target(transition: Transition, noise: Array) -> Scalar:
            return bootstrap_target(
                state.target_critics, state.policy, transition, noise, temperature, discount
            )

        return jax.vmap(target)(transitions, noise)

    def temperature(self, state: SoftActorCriticState) -> Scalar | float:
        """The weight of the entropy; exactly the setting where it is not tuned."""
        settings = self.settings
        return jnp.exp(state.log_temperature) if settings.tune_temperature else settings.temperature

    def _update_critics(
        self, state: SoftActorCriticState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> SoftActorCriticState:
        settings = self.settings
        transitions, noise = self._sample(state, replay, key=key)

        def loss(critics: Critics, example: tuple[Transition, Scalar]) -> tuple[Scalar, None]:
            return critic_loss(critics, *example), None

        batch = (transitions, self._targets(state, transitions, noise))
        grads, _ = mean_gradient(loss, state.critics, batch, micro=settings.batch_size)
        critics, optimiser_state, applied = apply_gradient(
            self._optimiser(settings.critic_learning_rate), state.critics, state.critic_optimiser, grads
        )
        slow = polyak_average(state.target_critics, critics, jnp.where(applied, settings.target_rate, 0.0))
        return eqx.tree_at(
            lambda s: (s.critics, s.target_critics, s.critic_optimiser, s.statistics),
            state,
            (critics, slow, optimiser_state, state.statistics.add_outcome(applied)),
        )

    def _update_policy(
        self, state: SoftActorCriticState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> SoftActorCriticState:
        settings, temperature = self.settings, self.temperature(state)

        def loss(policy: TanhGaussianPolicy, example: tuple[Transition, Array]) -> tuple[Scalar, Scalar]:
            return policy_loss(policy, state.critics, *example, temperature)

        batch = self._sample(state, replay, key=key)
        grads, entropy = mean_gradient(loss, state.policy, batch, micro=settings.batch_size)
        policy, optimiser_state, applied = apply_gradient(
            self._optimiser(settings.policy_learning_rate), state.policy, state.policy_optimiser, grads
        )
        statistics = state.statistics.add(global_norm(grads), entropy).add_outcome(applied)
        state = eqx.tree_at(
            lambda s: (s.policy, s.policy_optimiser, s.statistics),
            state,
            (policy, optimiser_state, statistics),
        )
        return self._update_temperature(state, entropy) if settings.tune_temperature else state

    def _update_temperature(self, state: SoftActorCriticState, entropy: Scalar) -> SoftActorCriticState:
        settings = self.settings
        target = settings.target_entropy * self.env.action_size
        grad = jax.grad(temperature_loss)(state.log_temperature, entropy, target)
        log_temperature, optimiser_state, applied = apply_gradient(
            self._optimiser(settings.temperature_learning_rate),
            state.log_temperature,
            state.temperature_optimiser,
            grad,
        )
        return eqx.tree_at(
            lambda s: (s.log_temperature, s.temperature_optimiser, s.statistics),
            state,
            (log_temperature, optimiser_state, state.statistics.add_outcome(applied)),
        )

    def policy(self, state: SoftActorCriticState) -> TanhGaussianPolicy:
        """The current policy."""
        return state.policy

    def diagnose(
        self, state: SoftActorCriticState, replay: ReplayBuffer, trajectory: Trajectory, *, key: PRNGKey
    ) -> tuple[SoftActorCriticState, Metrics]:
        """Critic loss on a batch, gradient norm, entropy, standard deviation, temperature and skipped updates."""
        transitions, noise = self._sample(state, replay, key=jax.random.split(key)[0])
        targets = self._targets(state, transitions, noise)
        losses = jax.vmap(lambda t, y: critic_loss(state.critics, t, y))(transitions, targets)
        steps = jnp.arange(self.env.horizon)
        std = jax.vmap(lambda s, t: state.policy.distribution(s, t).scale)(trajectory.states[:-1], steps)
        statistics = state.statistics
        updates = jnp.maximum(statistics.num_updates, 1)
        metrics = {
            "critic_loss": losses.mean(),
            "gradient_norm": statistics.gradient_norm / updates * state.return_scale,
            "entropy": statistics.entropy / updates,
            "policy_std": std.mean(),
            "temperature": jnp.asarray(self.temperature(state)),
            "num_nonfinite": statistics.num_nonfinite,
        }
        reset = eqx.tree_at(lambda s: s.num_nonfinite, UpdateStatistics.zero(), statistics.num_nonfinite)
        return eqx.tree_at(lambda s: s.statistics, state, reset), metrics
