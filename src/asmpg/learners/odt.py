"""Online decision transformer (Zheng et al., 2022; Appendix F.3): imitation of one's own episodes, in hindsight."""

import dataclasses
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from msgspec import Meta

from ..core.checks import about, Count, MAX_HORIZON, NotNegative, Number
from ..core.loops import loop
from ..core.types import global_norm, Metrics, PRNGKey, Scalar, Trajectory
from ..models.normalisation import Normaliser, spread, with_normaliser
from ..tasks.optimum import optimal, random_return
from ..tasks.spec import Spec
from ..tasks.world import inside, scored_task
from .base import AbstractLearner
from .odt_policy import DecisionTransformerPolicy, imitation_loss, returns_to_go, sub_sequence, Window
from .optimisation import apply_gradient, mean_gradient, optimiser, OwnOptimiser, UpdateStatistics
from .replay import ReplayBuffer
from .settings import (
    AbstractSettings,
    FittingDropout,
    PolicyLayers,
    PolicyWidth,
    Rate,
    TargetEntropy,
    TemperatureRate,
    TransitionBatch,
)
from .temperature import temperature_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionTransformerSettings(AbstractSettings):
    """Of the online decision transformer: the values of Zheng et al. (2022) that F.3 refers to.

    One episode an iteration, which F.3 sweeps. Not theirs: the size of the transformer, which is that of our other
    transformers, and the warm-up episodes, which are those of all other methods.
    """

    episodes_per_iteration: Annotated[Count, about("episodes gathered between two rounds of updates")] = 1
    updates_per_iteration: Annotated[Count, about("updates in a round")] = 300
    batch_size: TransitionBatch = 256
    policy_learning_rate: Annotated[Rate, about("of the policy's optimiser")] = 1e-4
    policy_optimiser: Annotated[
        Literal["adam", "lamb"],
        about("adam, or lamb, which scales the step of every array by that array's norm"),
    ] = "lamb"
    weight_decay: Annotated[NotNegative, about("of the policy's optimiser; 0 for none")] = 5e-4
    learning_rate_warmup: Annotated[
        int,
        Meta(ge=0, le=1_000_000_000),
        about("updates over which the policy's learning rate rises linearly from zero; 0 for none"),
    ] = 10_000
    dropout: FittingDropout = 0.1
    context: Annotated[int, Meta(ge=1, le=MAX_HORIZON), about("steps that the policy sees at once")] = 20
    return_target: Annotated[
        Literal["expert", "overshot"] | Number,
        about(
            "the return that is asked for while acting: expert, the optimum; overshot, the return whose score is 2; or "
            "a number"
        ),
    ] = "expert"
    temperature: Annotated[
        Rate,
        about("the first weight of the policy's entropy against the likelihood; it is tuned"),
    ] = 0.1
    target_entropy: TargetEntropy = -1.0
    temperature_learning_rate: TemperatureRate = 1e-4
    gradient_clip: Annotated[Rate, about("largest global norm of a gradient")] = 0.25
    policy_width: PolicyWidth = 72
    num_policy_layers: PolicyLayers = 2

    @classmethod
    def paper(cls, horizon: int) -> "DecisionTransformerSettings":
        """Theirs: the last thousand episodes are kept."""
        return cls(replay_capacity=1000 * horizon)

    @classmethod
    def default(cls, horizon: int) -> "DecisionTransformerSettings":
        """Ours: small and frequent updates, one for every environment step, and noise on the action as well."""
        return cls(
            updates_per_iteration=horizon,
            batch_size=32,
            policy_learning_rate=1e-3,
            policy_optimiser="adam",
            weight_decay=0.0,
            learning_rate_warmup=0,
            dropout=0.0,
            temperature_learning_rate=1e-3,
            warmup_steps=max(500, 4 * horizon),
            gradient_clip=1.0,
            exploration="correlated",
            exploration_amplitude=1.0,
        )

    @property
    def needs_optimum(self) -> bool:
        return isinstance(self.return_target, str)


def target_return(env: Spec, return_target: str | float | int) -> float:
    """The return to ask for: the optimum, the return whose score is 2, or the number given."""
    if not isinstance(return_target, str):
        return float(return_target)
    known = scored_task(env, asked=True) or inside(env)
    best = optimal(known).episode_return
    return best if return_target == "expert" else 2 * best - random_return(known)


class DecisionTransformerState(eqx.Module):
    """Everything that changes."""

    policy: DecisionTransformerPolicy
    log_temperature: Scalar
    policy_optimiser: optax.OptState
    temperature_optimiser: optax.OptState
    statistics: UpdateStatistics


def _trained(policy: DecisionTransformerPolicy) -> Any:
    """True for every number of a policy that is fitted, and False for those that are frozen."""
    return eqx.tree_at(
        lambda p: (p.return_mean, p.return_scale, p.target_return, p.normaliser),
        jax.tree.map(lambda _: True, policy),
        replace_fn=lambda part: jax.tree.map(lambda _: False, part),
    )


Example = tuple[Window, Float[Array, "*batch context"], Float[Array, "*batch context action"], Any]


class DecisionTransformer(AbstractLearner[DecisionTransformerState]):
    """The online decision transformer, from the first episode on: nothing is learned from data of others.

    Attributes:
        env: the task; only ever sampled.
        settings: sizes, rates and intervals.
        target_return: what is asked for, to explore and to be evaluated.
        own_optimiser: of the policy, in place of what the settings say.
    """

    env: Spec
    settings: DecisionTransformerSettings
    target_return: float = eqx.field(static=True)
    own_optimiser: OwnOptimiser | None = eqx.field(static=True, default=None)

    @property
    def _policy_optimiser(self) -> optax.GradientTransformation:
        settings = self.settings
        if self.own_optimiser is not None:
            # Whatever it does without a gradient, frozen numbers stay.
            return optax.masked(self.own_optimiser(settings, "policy"), _trained)
        chosen = optimiser(
            settings.policy_learning_rate,
            settings.learning_rate_decay,
            settings.gradient_clip,
            kind=settings.policy_optimiser,
            weight_decay=settings.weight_decay,
            warmup=settings.learning_rate_warmup,
        )
        # Without a gradient, frozen numbers would still decay.
        return optax.masked(chosen, _trained) if settings.weight_decay else chosen

    @property
    def _temperature_optimiser(self) -> optax.GradientTransformation:
        settings = self.settings
        rate = settings.temperature_learning_rate
        return optimiser(rate, settings.learning_rate_decay, settings.gradient_clip)

    def init(self, normaliser: Normaliser, *, key: PRNGKey) -> DecisionTransformerState:
        settings = self.settings
        policy = DecisionTransformerPolicy(
            self.env,
            self.target_return,
            context=settings.context,
            dropout=settings.dropout,
            width=settings.policy_width,
            num_layers=settings.num_policy_layers,
            normaliser=normaliser,
            key=key,
        )
        log_temperature = jnp.log(jnp.asarray(settings.temperature, float))
        return DecisionTransformerState(
            policy,
            log_temperature,
            self._policy_optimiser.init(eqx.filter(policy, eqx.is_inexact_array)),
            self._temperature_optimiser.init(log_temperature),
            UpdateStatistics.zero(),
        )

    def observe_warmup(
        self, state: DecisionTransformerState, episodes: Trajectory
    ) -> DecisionTransformerState:
        """Freezes the statistics of states and of returns-to-go of the warm-up episodes."""
        to_go = jax.vmap(returns_to_go)(episodes.rewards)
        scale = spread(to_go)
        policy = with_normaliser(state.policy, Normaliser.from_states(episodes.states))
        policy = eqx.tree_at(lambda p: (p.return_mean, p.return_scale), policy, (to_go.mean(), scale))
        return eqx.tree_at(lambda s: s.policy, state, policy)

    def update(
        self, state: DecisionTransformerState, replay: ReplayBuffer, elapsed: Int[Array, ""], *, key: PRNGKey
    ) -> DecisionTransformerState:
        """A round of updates once its episodes are complete."""
        settings = self.settings
        due = elapsed % (settings.episodes_per_iteration * self.env.horizon) == 0
        return loop(
            0,
            jnp.where(due, settings.updates_per_iteration, 0),
            lambda index, s: self._update(s, replay, key=jax.random.fold_in(key, index)),
            state,
        )

    def _sample(self, replay: ReplayBuffer, *, key: PRNGKey) -> Example:
        """Windows of episodes, equal weights of all their steps, noise, and keys for dropout."""
        row_key, first_key, noise_key, dropout_key = jax.random.split(key, 4)
        size, horizon = self.settings.batch_size, self.env.horizon
        context = min(self.settings.context, horizon)
        # Trajectories in proportion to their length: all are equally long.
        episodes = replay.sample(size, key=row_key)
        firsts = jax.random.randint(first_key, (size,), 1 - context, horizon)
        windows, present = jax.vmap(lambda e, first: sub_sequence(e, first, context))(episodes, firsts)
        noise = jax.random.normal(noise_key, (size, context, self.env.action_size))
        keys = jax.random.split(dropout_key, size) if self.settings.dropout > 0 else None
        return windows, present * (size / present.sum()), noise, keys

    def _update(
        self, state: DecisionTransformerState, replay: ReplayBuffer, *, key: PRNGKey
    ) -> DecisionTransformerState:
        settings = self.settings
        temperature = jnp.exp(state.log_temperature)

        def loss(policy: DecisionTransformerPolicy, example: Example) -> tuple[Scalar, Scalar]:
            *arguments, dropout_key = example
            value, (_, entropy) = imitation_loss(policy, *arguments, temperature, key=dropout_key)
            return value, entropy

        grads, entropy = mean_gradient(loss, state.policy, self._sample(replay, key=key))
        policy, policy_optimiser, applied = apply_gradient(
            self._policy_optimiser, state.policy, state.policy_optimiser, grads
        )
        target = settings.target_entropy * self.env.action_size
        log_temperature, temperature_optimiser, tuned = apply_gradient(
            self._temperature_optimiser,
            state.log_temperature,
            state.temperature_optimiser,
            jax.grad(temperature_loss)(state.log_temperature, entropy, target),
        )
        statistics = state.statistics.add(global_norm(grads), entropy).add_outcome(applied & tuned)
        return DecisionTransformerState(
            policy, log_temperature, policy_optimiser, temperature_optimiser, statistics
        )

    def policy(self, state: DecisionTransformerState) -> DecisionTransformerPolicy:
        return state.policy

    def diagnose(
        self, state: DecisionTransformerState, replay: ReplayBuffer, trajectory: Trajectory, *, key: PRNGKey
    ) -> tuple[DecisionTransformerState, Metrics]:
        windows, weights, noise, _ = self._sample(replay, key=key)
        values = jax.vmap(lambda *example: imitation_loss(state.policy, *example, 0.0)[0])
        metrics = {
            "negative_log_likelihood": values(windows, weights, noise).mean(),
            "temperature": jnp.exp(state.log_temperature),
            **state.statistics.metrics(),
        }
        return eqx.tree_at(lambda s: s.statistics, state, state.statistics.reset()), metrics
