"""Soft actor-critic (Haarnoja et al., 2018; Appendix E.2): no model, credit by temporal differences."""

import dataclasses
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from msgspec import Meta

from ..core.checks import about, Count, NumLayers, Share, Width
from ..core.loops import repeat
from ..core.types import global_norm, Metrics, PRNGKey, Scalar, Trajectory
from ..gradients.policies import TanhGaussianPolicy
from ..models.normalisation import Normaliser, spread, with_normaliser
from ..tasks.spec import Spec
from .base import AbstractLearner
from .optimisation import (
    descend,
    mean_gradient,
    optimiser_of,
    OwnOptimiser,
    policy_std,
    polyak_average,
    UpdateStatistics,
)
from .replay import ReplayBuffer
from .settings import (
    AbstractSettings,
    NormaliseReturn,
    NUMBER,
    PolicyInterval,
    PolicyLayers,
    PolicyRate,
    PolicyWidth,
    Rate,
    TargetEntropy,
    TemperatureRate,
    TransitionBatch,
    Weight,
)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftActorCriticSettings(AbstractSettings):
    """Of soft actor-critic (Table 2, Appendix E.2), with the middle ones of the learning rates and entropy weights."""

    critic_update_every: Annotated[Count, about("environment steps per critic update")] = 2
    policy_update_every: PolicyInterval = 16
    batch_size: TransitionBatch = 128
    critic_learning_rate: Annotated[Rate, about("of the critics' Adam")] = 1e-4
    policy_learning_rate: PolicyRate = 1e-4
    num_critics: Annotated[
        int,
        Meta(ge=1, le=1000),
        about("critics that are fitted side by side; the lowest of their values counts"),
    ] = 1
    discount: Annotated[
        Share, NUMBER, about("of one step; 1 is the undiscounted return that scores count")
    ] = 0.995
    target_rate: Annotated[
        float,
        Meta(gt=0, le=1),
        NUMBER,
        about("the share of the way that the slow copies of the critics go after every update"),
    ] = 0.005
    temperature: Annotated[
        Weight,
        about(
            "weight of the policy's entropy against the return (odt: against the likelihood); the first one, where it "
            "is tuned"
        ),
    ] = 0.01
    tune_temperature: Annotated[
        bool, about("whether the temperature is adapted to keep the entropy at its target")
    ] = False
    target_entropy: TargetEntropy = -1.0
    temperature_learning_rate: TemperatureRate = 1e-4
    normalise_return: NormaliseReturn = False
    policy_width: PolicyWidth = 64
    num_policy_layers: PolicyLayers = 2
    critic_width: Annotated[Width, about("of the hidden layers of a critic's network")] = 256
    num_critic_layers: Annotated[NumLayers, about("hidden layers of a critic's network")] = 2

    @classmethod
    def default(cls, horizon: int) -> "SoftActorCriticSettings":
        """Ours: the method at its best, so that the comparison is a fair one.

        Against what is customary: undiscounted values need as many rounds of bootstrapping as there are steps before
        they know of a reward at the end, so the slow critics follow ten times as fast; and optimal actions at a bound
        need a policy narrower than an entropy of -1 allows.
        """
        return cls(
            warmup_steps=max(500, 4 * horizon),
            critic_update_every=1,
            policy_update_every=1,
            critic_learning_rate=1e-3,
            policy_learning_rate=1e-3,
            num_critics=2,
            discount=1.0,
            target_rate=0.05,
            tune_temperature=True,
            target_entropy=-3.0,
            temperature_learning_rate=1e-3,
            normalise_return=True,
            gradient_clip=10.0,
            exploration="correlated",
            exploration_amplitude=1.0,
        )

    @property
    def problem(self) -> str | None:
        """A tuned temperature is kept as its logarithm."""
        needs_logarithm = self.tune_temperature and self.temperature == 0
        return (
            f"temperature: must be > 0 where it is tuned, got {self.temperature}" if needs_logarithm else None
        )


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
        own_optimiser: of the policy and the critics, in place of Adam; the temperature keeps it.
    """

    env: Spec
    settings: SoftActorCriticSettings
    ends: bool = eqx.field(static=True, default=True)
    own_optimiser: OwnOptimiser | None = eqx.field(static=True, default=None)

    @property
    def _policy_optimiser(self) -> optax.GradientTransformation:
        return optimiser_of("policy", self.settings, self.settings.policy_learning_rate, self.own_optimiser)

    @property
    def _critic_optimiser(self) -> optax.GradientTransformation:
        return optimiser_of("critic", self.settings, self.settings.critic_learning_rate, self.own_optimiser)

    @property
    def _temperature_optimiser(self) -> optax.GradientTransformation:
        return optimiser_of("policy", self.settings, self.settings.temperature_learning_rate)

    def init(self, normaliser: Normaliser, *, key: PRNGKey) -> SoftActorCriticState:
        """Initial networks; the policy is drawn as that of the model-based methods is."""
        settings = self.settings
        policy_key, critic_key = jax.random.split(key)
        policy = TanhGaussianPolicy(
            self.env,
            key=policy_key,
            normaliser=normaliser,
            observe_time=self.ends,
            width=settings.policy_width,
            num_layers=settings.num_policy_layers,
        )
        keys = jax.random.split(critic_key, settings.num_critics)
        sizes = (settings.critic_width, settings.num_critic_layers)
        critics = tuple(Critic(self.env, *sizes, key=key, normaliser=normaliser) for key in keys)
        log_temperature = jnp.log(jnp.maximum(jnp.asarray(settings.temperature, float), 1e-30))
        return SoftActorCriticState(
            policy,
            critics,
            critics,
            log_temperature,
            self._policy_optimiser.init(eqx.filter(policy, eqx.is_inexact_array)),
            self._critic_optimiser.init(eqx.filter(critics, eqx.is_inexact_array)),
            self._temperature_optimiser.init(log_temperature),
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
        scale = spread(episodes.episode_return)
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
        state, applied = descend(state, "critics", "critic_optimiser", self._critic_optimiser, grads)
        rate = jnp.where(applied, settings.target_rate, 0.0)
        slow = polyak_average(state.target_critics, state.critics, rate)
        return dataclasses.replace(state, target_critics=slow)

    def _update_policy(
        self, state: SoftActorCriticState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> SoftActorCriticState:
        settings, temperature = self.settings, self.temperature(state)

        def loss(policy: TanhGaussianPolicy, example: tuple[Transition, Array]) -> tuple[Scalar, Scalar]:
            return policy_loss(policy, state.critics, *example, temperature)

        batch = self._sample(state, replay, key=key)
        grads, entropy = mean_gradient(loss, state.policy, batch, micro=settings.batch_size)
        state, _ = descend(state, "policy", "policy_optimiser", self._policy_optimiser, grads)
        state = dataclasses.replace(state, statistics=state.statistics.add(global_norm(grads), entropy))
        return self._update_temperature(state, entropy) if settings.tune_temperature else state

    def _update_temperature(self, state: SoftActorCriticState, entropy: Scalar) -> SoftActorCriticState:
        target = self.settings.target_entropy * self.env.action_size
        grad = jax.grad(temperature_loss)(state.log_temperature, entropy, target)
        optimiser = self._temperature_optimiser
        return descend(state, "log_temperature", "temperature_optimiser", optimiser, grad)[0]

    def policy(self, state: SoftActorCriticState) -> TanhGaussianPolicy:
        return state.policy

    def diagnose(
        self, state: SoftActorCriticState, replay: ReplayBuffer, trajectory: Trajectory, *, key: PRNGKey
    ) -> tuple[SoftActorCriticState, Metrics]:
        transitions, noise = self._sample(state, replay, key=jax.random.split(key)[0])
        targets = self._targets(state, transitions, noise)
        losses = jax.vmap(lambda t, y: critic_loss(state.critics, t, y))(transitions, targets)
        metrics = {
            "critic_loss": losses.mean(),
            "policy_std": policy_std(state.policy, trajectory),
            "temperature": jnp.asarray(self.temperature(state)),
            **state.statistics.metrics(state.return_scale),
        }
        return eqx.tree_at(lambda s: s.statistics, state, state.statistics.reset()), metrics
