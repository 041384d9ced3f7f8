"""Algorithm 1 as a learner: fit a dynamics model on replayed episodes, improve the policy through it."""

import abc
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .environment import AbstractActor, AbstractEnvironment, rollout
from .gradients import imagined_return, Loop, policy_gradient
from .models import AbstractDynamicsModel, Simulator
from .normalisation import Normaliser
from .optimisation import apply_gradient, mean_gradient, optimiser, repeat, UpdateStatistics
from .policies import AbstractPolicy, TanhGaussianPolicy
from .replay import ReplayBuffer
from .settings import AbstractSettings, Settings
from .types import global_norm, Metrics, PRNGKey, Scalar, Trajectory


State = TypeVar("State")


class AbstractLearner(eqx.Module, Generic[State]):
    """What the training loop knows of a method. One seed, unbatched.

    A learner is immutable and holds what is fixed in a run; everything that changes is in its state, a pytree of
    arrays, so that a checkpoint of the state is a checkpoint of the method.
    """

    env: eqx.AbstractVar[AbstractEnvironment]
    settings: eqx.AbstractVar[AbstractSettings]

    @abc.abstractmethod
    def init(self, *, key: PRNGKey) -> State:
        """Initial parameters and optimiser states."""

    @abc.abstractmethod
    def observe_warmup(self, state: State, episodes: Trajectory) -> State:
        """Takes in the warm-up episodes (leading axis), before the first update."""

    @abc.abstractmethod
    def update(self, state: State, replay: ReplayBuffer, elapsed: Int[Array, ""], *, key: PRNGKey) -> State:
        """All updates earned by one environment step, the `elapsed`-th since the warm-up (from 1)."""

    @abc.abstractmethod
    def policy(self, state: State) -> AbstractActor:
        """Who acts: with noise to explore, without to be evaluated."""

    @abc.abstractmethod
    def diagnose(self, state: State, replay: ReplayBuffer, *, key: PRNGKey) -> tuple[State, Metrics]:
        """Metrics since the last call, and the state with their accumulators reset."""


class ModelBasedState(eqx.Module):
    """Everything of Algorithm 1 that changes."""

    model: AbstractDynamicsModel
    policy: TanhGaussianPolicy
    model_optimiser: optax.OptState
    policy_optimiser: optax.OptState
    return_scale: Scalar
    statistics: UpdateStatistics


def with_normaliser(network: Any, normaliser: Normaliser) -> Any:
    """The network with every normaliser in it replaced."""

    def is_normaliser(node: Any) -> bool:
        return isinstance(node, Normaliser)

    return jax.tree.map(
        lambda node: normaliser if is_normaliser(node) else node, network, is_leaf=is_normaliser
    )


class ModelBasedLearner(AbstractLearner[ModelBasedState]):
    """Algorithm 1 for any dynamics model.

    Attributes:
        env: the task; its reward is known, its transition is only ever sampled (except by `Simulator`).
        settings: sizes, rates and intervals.
        make_model: builds the model: `make_model(key=key)`.
        loop: which policy gradient.
        record_cosine: whether to report the cosine between the model's policy gradient and the true one.
    """

    env: AbstractEnvironment
    settings: Settings = eqx.field(static=True)
    make_model: Any = eqx.field(static=True)
    loop: Loop = eqx.field(static=True, default="open")
    record_cosine: bool = eqx.field(static=True, default=False)

    @property
    def _model_optimiser(self) -> optax.GradientTransformation:
        settings = self.settings
        return optimiser(settings.model_learning_rate, settings.learning_rate_decay, settings.gradient_clip)

    @property
    def _policy_optimiser(self) -> optax.GradientTransformation:
        settings = self.settings
        return optimiser(settings.policy_learning_rate, settings.learning_rate_decay, settings.gradient_clip)

    def init(self, *, key: PRNGKey) -> ModelBasedState:
        """Initial networks. The policy's draw does not depend on the kind of model."""
        policy_key, model_key = jax.random.split(key)
        policy = TanhGaussianPolicy(self.env, key=policy_key)
        model = self.make_model(key=model_key)
        return ModelBasedState(
            model,
            policy,
            self._model_optimiser.init(eqx.filter(model, eqx.is_inexact_array)),
            self._policy_optimiser.init(eqx.filter(policy, eqx.is_inexact_array)),
            jnp.ones(()),
            UpdateStatistics.zero(),
        )

    def observe_warmup(self, state: ModelBasedState, episodes: Trajectory) -> ModelBasedState:
        """Freezes the statistics of the warm-up episodes in both networks, and the spread of their returns."""
        normaliser = Normaliser.from_states(episodes.states)
        scale = jnp.maximum(episodes.episode_return.std(), 1e-6) if self.settings.normalise_return else 1.0
        return eqx.tree_at(
            lambda s: (s.model, s.policy, s.return_scale),
            state,
            (
                with_normaliser(state.model, normaliser),
                with_normaliser(state.policy, normaliser),
                jnp.asarray(scale, state.return_scale.dtype),
            ),
        )

    def update(
        self, state: ModelBasedState, replay: ReplayBuffer, elapsed: Int[Array, ""], *, key: PRNGKey
    ) -> ModelBasedState:
        """Model updates, then policy updates, each when its interval has passed."""
        model_key, policy_key = jax.random.split(key)
        state = repeat(
            elapsed % self.settings.model_update_every == 0,
            lambda s: self._update_model(s, replay, key=model_key),
            state,
        )
        return repeat(
            elapsed % self.settings.policy_update_every == 0,
            lambda s: self._update_policy(s, replay, key=policy_key),
            state,
        )

    def _update_model(self, state: ModelBasedState, replay: ReplayBuffer, *, key: PRNGKey) -> ModelBasedState:
        sample_key, dropout_key = jax.random.split(key)
        size = self.settings.model_batch_size
        episodes = replay.sample(size, key=sample_key)
        keys = jax.random.split(dropout_key, size) if self.settings.dropout > 0 else None

        def loss(
            model: AbstractDynamicsModel, example: tuple[Trajectory, PRNGKey | None]
        ) -> tuple[Scalar, None]:
            episode, dropout_key = example
            return model.loss(episode, key=dropout_key), None

        grads, _ = mean_gradient(loss, state.model, (episodes, keys))
        model, optimiser_state, applied = apply_gradient(
            self._model_optimiser, state.model, state.model_optimiser, grads
        )
        return eqx.tree_at(
            lambda s: (s.model, s.model_optimiser, s.statistics),
            state,
            (model, optimiser_state, state.statistics.add_outcome(applied)),
        )

    def _update_policy(
        self, state: ModelBasedState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> ModelBasedState:
        start_key, noise_key = jax.random.split(key)
        size = self.settings.policy_batch_size
        starts = replay.initial_states(size, key=start_key)
        noise = jax.random.normal(noise_key, (size, self.env.horizon, self.env.action_size))

        def loss(policy: TanhGaussianPolicy, example: tuple[Array, Array]) -> tuple[Scalar, Scalar]:
            value, imagined = imagined_return(policy, state.model, self.env, *example, loop=self.loop)
            return -(value / state.return_scale + self.settings.entropy * imagined.entropy), imagined.entropy

        grads, entropy = mean_gradient(loss, state.policy, (starts, noise))
        policy, optimiser_state, applied = apply_gradient(
            self._policy_optimiser, state.policy, state.policy_optimiser, grads
        )
        statistics = state.statistics.add(global_norm(grads), entropy).add_outcome(applied)
        return eqx.tree_at(
            lambda s: (s.policy, s.policy_optimiser, s.statistics),
            state,
            (policy, optimiser_state, statistics),
        )

    def policy(self, state: ModelBasedState) -> TanhGaussianPolicy:
        """The current policy."""
        return state.policy

    def diagnose(
        self, state: ModelBasedState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> tuple[ModelBasedState, Metrics]:
        """Model losses, gradient norm, entropy, standard deviation, skipped updates and, if asked, the cosine."""
        episodes = replay.sample(self.settings.model_batch_size, key=key)
        own = rollout(self.env, state.policy, initial_state=episodes.states[0, 0])
        steps = jnp.arange(self.env.horizon)
        std = jax.vmap(lambda s, t: state.policy.distribution(s, t).scale)(own.states[:-1], steps)
        statistics = state.statistics
        updates = jnp.maximum(statistics.num_updates, 1)
        metrics = {
            "model_loss": jax.vmap(state.model.loss)(episodes).mean(),
            "model_loss_on_policy": state.model.loss(own),
            "gradient_norm": statistics.gradient_norm / updates * state.return_scale,
            "entropy": statistics.entropy / updates,
            "policy_std": std.mean(),
            "num_nonfinite": statistics.num_nonfinite,
        }
        if self.record_cosine:
            metrics["cosine"] = gradient_cosine(state.policy, state.model, self.env, own.states[0])
        reset = eqx.tree_at(lambda s: s.num_nonfinite, UpdateStatistics.zero(), statistics.num_nonfinite)
        return eqx.tree_at(lambda s: s.statistics, state, reset), metrics


def gradient_cosine(
    policy: AbstractPolicy,
    model: AbstractDynamicsModel,
    env: AbstractEnvironment,
    start: Float[Array, " state"],
) -> Scalar:
    """Cosine between the open-loop gradients of the deterministic policy through the model and the true dynamics."""
    estimate = policy_gradient(policy, model, env, start)[1]
    truth = policy_gradient(policy, Simulator(env), env, start)[1]
    product = sum(
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(estimate), jax.tree.leaves(truth), strict=True)
    )
    return product / (global_norm(estimate) * global_norm(truth))
