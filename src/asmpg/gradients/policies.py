"""Policies: a state and a step to an action, stochastic by reparameterisation."""

import abc
from typing import ClassVar

import distreqx.bijectors as bijectors
import distreqx.distributions as distributions
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.checks import check, NumLayers, Width
from ..core.linear import Layers, network, run_network
from ..core.types import Given, PRNGKey, Scalar, Step, UsageError
from ..models.normalisation import Normaliser
from ..tasks.environment import AbstractActor
from ..tasks.spec import check_new, Spec, task_name


HIDDEN_SIZE, NUM_LAYERS = 64, 2
MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0


class AbstractPolicy(AbstractActor):
    """A stochastic policy of state and step, written as a deterministic function of standard normal noise.

    The noise is an argument, so that one draw can be replayed through another pass (the two passes of the
    open-loop gradient) or correlated over time (exploration).
    """

    @abc.abstractmethod
    def sample_and_log_prob(
        self, state: Float[Array, " state"], step: Step, noise: Float[Array, " action"]
    ) -> tuple[Float[Array, " action"], Scalar]:
        """The action that this noise gives, and its log-probability if the noise is standard normal."""

    @abc.abstractmethod
    def mode(self, state: Float[Array, " state"], step: Step) -> Float[Array, " action"]:
        """The deterministic action."""

    @abc.abstractmethod
    def __call__(
        self, state: Float[Array, " state"], step: Step, *, key: PRNGKey | None = None
    ) -> Float[Array, " action"]:
        """A sampled action; without a key the deterministic one."""

    def begin(self) -> None:
        """Nothing: state and step are all it acts on."""

    def act(
        self,
        carry: None,
        state: Float[Array, " state"],
        step: Step,
        noise: Float[Array, " action"] | None = None,
    ) -> Float[Array, " action"]:
        """The action that this noise gives; the deterministic one without noise."""
        return self.mode(state, step) if noise is None else self.sample_and_log_prob(state, step, noise)[0]

    def observe(
        self,
        carry: None,
        state: Float[Array, " state"],
        step: Step,
        action: Float[Array, " action"],
        reward: Scalar,
    ) -> None:
        """Still nothing."""


class AbstractTanhGaussianPolicy(AbstractPolicy):
    """A normal distribution squashed by tanh; a subclass says which one.

    Attributes:
        learning_rate_factor: by which a network's learning rate is multiplied to suit these parameters.
    """

    learning_rate_factor: ClassVar[float] = 1.0

    @abc.abstractmethod
    def distribution(self, state: Float[Array, " state"], step: Step) -> distributions.Normal:
        """The normal distribution before the squashing, one independent component per action component."""

    def sample_and_log_prob(
        self, state: Float[Array, " state"], step: Step, noise: Float[Array, " action"]
    ) -> tuple[Float[Array, " action"], Scalar]:
        """`tanh(mean + std * noise)`; the log-probability comes from the value before the squashing."""
        normal = self.distribution(state, step)
        unsquashed = normal.loc + normal.scale * noise
        action, log_det = bijectors.Tanh().forward_and_log_det(unsquashed)
        return action, jnp.sum(normal.log_prob(unsquashed) - log_det)

    def mode(self, state: Float[Array, " state"], step: Step) -> Float[Array, " action"]:
        """`tanh(mean)`."""
        return jnp.tanh(self.distribution(state, step).loc)

    def __call__(
        self, state: Float[Array, " state"], step: Step, *, key: PRNGKey | None = None
    ) -> Float[Array, " action"]:
        """A sampled action; without a key the deterministic one."""
        if key is None:
            return self.mode(state, step)
        normal = self.distribution(state, step)
        return jnp.tanh(
            normal.loc + normal.scale * jax.random.normal(key, normal.loc.shape, normal.loc.dtype)
        )


class TanhGaussianPolicy(AbstractTanhGaussianPolicy):
    """Mean and standard deviation before the squashing come from a ReLU network, 2 x 64 in Appendix E.

    Inputs are the normalised state and the time `step / horizon`, which is always 0 where time is not observed.
    """

    layers: Layers
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)
    made_for: str = eqx.field(static=True)
    observe_time: bool = eqx.field(static=True, default=True)
    min_log_std: float = eqx.field(static=True, default=MIN_LOG_STD)
    max_log_std: float = eqx.field(static=True, default=MAX_LOG_STD)

    def __init__(
        self,
        env: Given[Spec],
        *,
        key: Given[PRNGKey],
        normaliser: Normaliser | None = None,
        observe_time: bool = True,
        width: int = HIDDEN_SIZE,
        num_layers: int = NUM_LAYERS,
    ):
        """Random parameters.

        The last layer starts small: the first actions are centred, with a standard deviation near one before the
        squashing, whatever the state.

        Args:
            env: gives the sizes, the horizon and, without a normaliser, the statistics of 64 random episodes.
            key: for the initial parameters.
            normaliser: frozen statistics to use instead.
            observe_time: whether the time is an input; without it, it is always 0.
            width: of the hidden layers.
            num_layers: number of hidden layers.

        Raises:
            UsageError: a size is not allowed.
        """
        check_new("TanhGaussianPolicy", env, key)
        width, num_layers = check("width", width, Width), check("num_layers", num_layers, NumLayers)
        keys = jax.random.split(key, 1 + num_layers)
        features = env.state_size + 1
        self.layers = network(features, width, num_layers, 2 * env.action_size, keys=keys, last=0.01)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon, self.observe_time, self.made_for = env.horizon, observe_time, task_name(env)

    def distribution(self, state: Float[Array, " state"], step: Step) -> distributions.Normal:
        """The normal distribution before the squashing, one independent component per action component."""
        self._check_state(state)
        step = step if self.observe_time else 0
        time = (jnp.asarray(step) / self.horizon)[None].astype(state.dtype)
        output = run_network(self.layers, jnp.concatenate([self.normaliser.normalise(state), time]))
        mean, log_std = jnp.split(output, 2)
        return distributions.Normal(mean, jnp.exp(jnp.clip(log_std, self.min_log_std, self.max_log_std)))

    def _check_state(self, state: Array) -> None:
        weight, size = self.layers[0].weight, self.normaliser.mean.shape[-1]
        if weight.ndim > 2:
            raise UsageError(
                f"policy: has an axis of {weight.shape[0]} seeds; take one, as in result.seed(i).policy"
            )
        if jnp.shape(state) != (size,):
            raise UsageError(f"policy: state: must have shape ({size},), got {jnp.shape(state)}")


class ActionSequence(AbstractTanhGaussianPolicy):
    """The actions themselves as parameters, one mean and one standard deviation a step; the state is not read.

    Open and closed loop are the same then.

    Attributes:
        means: before the squashing: the deterministic actions are `tanh(means)`.
        log_stds: logarithms of the standard deviations before the squashing.
    """

    means: Float[Array, "horizon action"]
    log_stds: Float[Array, "horizon action"]
    made_for: str = eqx.field(static=True)
    # Adam moves every parameter by about its learning rate, and a network's output thereby by many times that, since
    # all weights move together. These parameters are the output.
    learning_rate_factor: ClassVar[float] = 30.0

    def __init__(self, env: Given[Spec], *, key: Given[PRNGKey]):
        """Centred, as a network is at first, with a standard deviation of one before the squashing.

        Args:
            env: gives the horizon and the size of an action.
            key: for the first means.
        """
        check_new("ActionSequence", env, key)
        shape = (env.horizon, env.action_size)
        self.means = 0.1 * jax.random.normal(key, shape)
        self.log_stds, self.made_for = jnp.zeros(shape), task_name(env)

    def distribution(self, state: Float[Array, " state"], step: Step) -> distributions.Normal:
        """The normal distribution of this step."""
        log_std = jnp.clip(self.log_stds[step], MIN_LOG_STD, MAX_LOG_STD)
        return distributions.Normal(self.means[step], jnp.exp(log_std))
