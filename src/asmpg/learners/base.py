"""What the training loop knows of a method, and the exploration that every method here uses."""

import abc
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..core.types import Metrics, PRNGKey, Scalar, Step, Trajectory
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractActor
from ..tasks.spec import Spec
from .replay import ReplayBuffer
from .settings import AbstractSettings


State = TypeVar("State")

# The added exploration noise has between 1/16 and the whole of its largest amplitude.
AMPLITUDE_OCTAVES = 4.0


def exploration_noise(
    horizon: int, action_size: int, kind: str, *, key: PRNGKey
) -> Float[Array, "horizon action"]:
    """Standard normal noise for one episode, "white" or "correlated" over time.

    Correlated: first-order autoregressive with unit variance, its correlation length drawn log-uniformly from 1
    to the horizon. White noise averages out over a long horizon, so that all episodes look alike to the model.
    """
    length_key, noise_key = jax.random.split(key)
    white = jax.random.normal(noise_key, (horizon, action_size))
    if kind == "white":
        return white
    length = jnp.exp(jax.random.uniform(length_key, minval=0.0, maxval=jnp.log(float(horizon))))
    decay = jnp.exp(-1.0 / length)

    def body(value: Array, fresh: Array) -> tuple[Array, Array]:
        value = decay * value + jnp.sqrt(1.0 - decay**2) * fresh
        return value, value

    return jnp.concatenate([white[:1], jax.lax.scan(body, white[0], white[1:])[1]])


class Explorer(AbstractActor):
    """An actor with all noise of one episode: its own, and further noise on the action.

    Attributes:
        actor: whose actions they are.
        noise: that the actor turns into a random action, standard normal.
        added: to that action, which is then clipped to its bounds.
    """

    actor: AbstractActor
    noise: Float[Array, "horizon action"]
    added: Float[Array, "horizon action"]

    @classmethod
    def create(
        cls, actor: AbstractActor, spec: Spec, settings: AbstractSettings, *, key: PRNGKey
    ) -> "Explorer":
        """Draws the noise of one episode as the settings say: its kind, and the amplitude of what is added."""
        # The first of the four is `start_key`.
        _, noise_key, amplitude_key, added_key = jax.random.split(key, 4)
        shape = (spec.horizon, spec.action_size)
        noise = exploration_noise(*shape, settings.exploration, key=noise_key)
        added = exploration_noise(*shape, settings.exploration, key=added_key)
        octaves = jax.random.uniform(amplitude_key, minval=-AMPLITUDE_OCTAVES, maxval=0.0)
        return cls(actor, noise, settings.exploration_amplitude * 2.0**octaves * added)

    def begin(self) -> Any:
        return self.actor.begin()

    def act(
        self,
        carry: PyTree,
        state: Float[Array, " state"],
        step: Step,
        noise: Float[Array, " action"] | None = None,
    ) -> Float[Array, " action"]:
        """The noisy action; the episode's noise counts, not the one given."""
        action = self.actor.act(carry, state, step, self.noise[step])
        return jnp.clip(action + self.added[step], -1.0, 1.0)

    def observe(
        self,
        carry: PyTree,
        state: Float[Array, " state"],
        step: Step,
        action: Float[Array, " action"],
        reward: Scalar,
    ) -> Any:
        return self.actor.observe(carry, state, step, action, reward)


def start_key(key: PRNGKey) -> PRNGKey:
    """The key of an episode's initial state, from the episode's key; `Explorer.create` leaves it alone."""
    return jax.random.split(key, 4)[0]


class AbstractLearner(eqx.Module, Generic[State]):
    """A method: how one seed acts and learns. One seed, unbatched; the training loop brings everything else.

    A learner is immutable and holds what is fixed in a run; everything that changes is in its state, a pytree of
    arrays, so that a checkpoint of the state is a checkpoint of the method. The loop calls, in this order: `init`;
    `explorer` for each episode of the warm-up; `observe_warmup`; then for each episode `explorer` and one `update`
    for each of its steps; and at each record `policy`, which is evaluated, and `diagnose`.

    Attributes:
        env: the world's sizes. A method that asks for more than `Spec`, such as a task's derivatives, works on tasks
            written in JAX only.
        settings: sizes, rates and intervals. The rates are leaves and may be traced numbers.
    """

    env: eqx.AbstractVar[Spec]
    settings: eqx.AbstractVar[AbstractSettings]

    @abc.abstractmethod
    def init(self, normaliser: Normaliser, *, key: PRNGKey) -> State:
        """Initial parameters and optimiser states.

        Args:
            normaliser: what is known of the world's units before the warm-up: statistics of random episodes where
                the world is written in JAX, else `Normaliser.unknown`.
            key: for the parameters.
        """

    @abc.abstractmethod
    def observe_warmup(self, state: State, episodes: Trajectory) -> State:
        """Takes in the statistics of the warm-up episodes (leading axis), before the first update."""

    @abc.abstractmethod
    def update(self, state: State, replay: ReplayBuffer, elapsed: Int[Array, ""], *, key: PRNGKey) -> State:
        """All updates earned by one environment step, the `elapsed`-th since the warm-up (from 1)."""

    @abc.abstractmethod
    def policy(self, state: State) -> AbstractActor:
        """The actor that is evaluated, without noise."""

    def explorer(self, state: State, *, key: PRNGKey) -> AbstractActor:
        """The actor of one training episode, asked for actions without noise: it has its own.

        By default the policy with the noise that the settings describe. The key is the episode's; the first of
        `jax.random.split(key, 4)` is that of its initial state.
        """
        return Explorer.create(self.policy(state), self.env, self.settings, key=key)

    def evaluated(self, state: State) -> AbstractActor:
        """The policy to evaluate and to keep: that of `policy`, unless it is averaged over updates."""
        return self.policy(state)

    @abc.abstractmethod
    def diagnose(
        self, state: State, replay: ReplayBuffer, trajectory: Trajectory, *, key: PRNGKey
    ) -> tuple[State, Metrics]:
        """Metrics since the last call, and the state with their accumulators reset.

        Args:
            state: as it was evaluated.
            replay: all episodes so far.
            trajectory: one evaluated episode of `policy(state)`.
            key: for whatever the metrics draw.
        """
