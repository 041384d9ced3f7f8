"""Dynamics models: from an initial state and a sequence of actions to all states (sections 2 and 3)."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .backbones import AbstractBackbone, create_backbone, CreateBackbone
from .backbones.base import Linear
from .environment import AbstractEnvironment
from .normalisation import Normaliser
from .types import PRNGKey, Scalar, Step, Trajectory


EMBEDDING_SIZE = 72
HIDDEN_SIZE = 64


class AbstractDynamicsModel(eqx.Module):
    """Predicts `s_1 .. s_H`, the whole sequence at once or one step at a time.

    States are in environment units everywhere; a network normalises inside. The `loss` of a model without
    parameters is zero.
    """

    @property
    def parallel(self) -> bool:
        """Whether `predict` does not run step by step over time."""
        return False

    @abc.abstractmethod
    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        """`s_1 .. s_H`, free running. The key is for dropout; without one there is none."""

    @abc.abstractmethod
    def init(self, initial_state: Float[Array, " state"]) -> Any:
        """The carry at step 0."""

    @abc.abstractmethod
    def step(
        self, carry: Any, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[Any, Float[Array, " state"]]:
        """The next carry and `s_{t+1}`. A model that does not read the state ignores it."""

    @abc.abstractmethod
    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """The fitting loss on one episode: a mean squared error in normalised units over steps and components."""


def free_run(
    model: AbstractDynamicsModel,
    initial_state: Float[Array, " state"],
    actions: Float[Array, "horizon action"],
) -> Float[Array, "horizon state"]:
    """`predict` by repeated `step` on the model's own states."""

    def body(loop: tuple[Any, Array], x: tuple[Array, Array]) -> tuple[tuple[Any, Array], Array]:
        carry, state = model.step(*loop, *x)
        return (carry, state), state

    start = (model.init(initial_state), initial_state)
    return jax.lax.scan(body, start, (actions, jnp.arange(actions.shape[0])))[1]


class Decoder(eqx.Module):
    """One hidden layer of 64 from a backbone's output to a normalised state."""

    hidden: Linear
    output: Linear

    def __init__(self, input_size: int, state_size: int, *, key: PRNGKey):
        """Random layers of the given sizes."""
        hidden_key, output_key = jax.random.split(key)
        self.hidden = Linear(input_size, HIDDEN_SIZE, key=hidden_key, scale=(2 / input_size) ** 0.5)
        self.output = Linear(HIDDEN_SIZE, state_size, key=output_key)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch state"]:
        """The normalised state."""
        return self.output(jax.nn.relu(self.hidden(x)))


class ActionSequenceModel(AbstractDynamicsModel):
    """`g(s_0, a_0 .. a_{t-1}) = s_t`: a sequence architecture over actions (section 3.1).

    Every sequence element holds the action, the time `step / horizon` and the normalised initial state; no later
    state is ever an input, so the gradient from `s_t` to `a_k` is exactly the backbone's.
    """

    encoder: Linear
    backbone: AbstractBackbone
    decoder: Decoder
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        env: AbstractEnvironment,
        backbone: str | AbstractBackbone | CreateBackbone = "transformer",
        *,
        key: PRNGKey,
        dropout: float = 0.0,
        normaliser: Normaliser | None = None,
    ):
        """Builds encoder and decoder around a backbone.

        Args:
            env: gives the sizes, the horizon and, without a normaliser, the statistics of 64 random episodes.
            backbone: a name of `asmpg.backbones.BACKBONES`, an instance, or what makes one, such as the `create` of a
                class of your own.
            key: for the initial parameters.
            dropout: the dropout rate of a backbone that is made here.
            normaliser: frozen statistics to use instead.

        Raises:
            UsageError: an unknown backbone name.
        """
        encoder_key, backbone_key, decoder_key = jax.random.split(key, 3)
        self.backbone = backbone = create_backbone(
            backbone, EMBEDDING_SIZE, env.horizon, dropout=dropout, key=backbone_key
        )
        features = env.action_size + 1 + env.state_size
        self.encoder = Linear(features, backbone.input_size, key=encoder_key)
        self.decoder = Decoder(backbone.output_size, env.state_size, key=decoder_key)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon = env.horizon

    @property
    def parallel(self) -> bool:
        """Whether `predict` runs in parallel over time."""
        return self.backbone.parallel

    def encode(
        self,
        initial_state: Float[Array, " state"],
        action: Float[Array, "*horizon action"],
        step: Array,
    ) -> Float[Array, "*horizon features"]:
        """Embeds one sequence element or, with a leading axis, all of them."""
        start = self.normaliser.normalise(initial_state)
        time = (step / self.horizon)[..., None].astype(action.dtype)
        start = jnp.broadcast_to(start, (*action.shape[:-1], *start.shape))
        return self.encoder(jnp.concatenate([action, time, start], axis=-1))

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        """All states from the initial state and all actions."""
        return self.normaliser.denormalise(self._predict_normalised(initial_state, actions, key))

    def _predict_normalised(self, initial_state: Array, actions: Array, key: PRNGKey | None) -> Array:
        features = self.encode(initial_state, actions, jnp.arange(actions.shape[0]))
        return self.decoder(self.backbone.predict(features, key=key))

    def init(self, initial_state: Float[Array, " state"]) -> tuple[Array, Any]:
        """The initial state, which every element reads, and the backbone's empty carry."""
        return initial_state, self.backbone.init()

    def step(
        self,
        carry: tuple[Array, Any],
        state: Float[Array, " state"],
        action: Float[Array, " action"],
        step: Step,
    ) -> tuple[tuple[Array, Any], Float[Array, " state"]]:
        """One element; `state` is not read."""
        initial_state, backbone_carry = carry
        features = self.encode(initial_state, action, jnp.asarray(step))
        backbone_carry, output = self.backbone.step(backbone_carry, features)
        return (initial_state, backbone_carry), self.normaliser.denormalise(self.decoder(output))

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Mean squared error of all predicted states, in normalised units."""
        predicted = self._predict_normalised(trajectory.states[0], trajectory.actions, key)
        return jnp.mean(jnp.square(predicted - self.normaliser.normalise(trajectory.states[1:])))


class OneStepModel(AbstractDynamicsModel):
    """The Markovian baseline: `s_{t+1} = s_t + f(s_t, a_t, t)`, a 2 x 64 ReLU network (Appendix E.1).

    The network's output is in units of the typical difference of two successive states, or a small time step
    would leave it almost nothing to fit. `first_step_flag` adds an input that is 1 at step 0 only: a smooth
    `t / H` hides that step from a memoryless model.
    """

    layers: tuple[Linear, Linear, Linear]
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)
    first_step_flag: bool = eqx.field(static=True)

    def __init__(
        self,
        env: AbstractEnvironment,
        *,
        key: PRNGKey,
        first_step_flag: bool = False,
        normaliser: Normaliser | None = None,
    ):
        """Random parameters; statistics of 64 random episodes unless a normaliser is given."""
        keys = jax.random.split(key, 3)
        features = env.state_size + env.action_size + 1 + first_step_flag
        self.layers = (
            Linear(features, HIDDEN_SIZE, key=keys[0], scale=(2 / features) ** 0.5),
            Linear(HIDDEN_SIZE, HIDDEN_SIZE, key=keys[1], scale=(2 / HIDDEN_SIZE) ** 0.5),
            Linear(HIDDEN_SIZE, env.state_size, key=keys[2]),
        )
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon = env.horizon
        self.first_step_flag = first_step_flag

    def difference(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " state"]:
        """`(s_{t+1} - s_t)` in units of the typical difference."""
        step = jnp.asarray(step)
        x = [self.normaliser.normalise(state), action, (step / self.horizon)[None].astype(action.dtype)]
        if self.first_step_flag:
            x.append((step == 0)[None].astype(action.dtype))
        hidden = jax.nn.relu(self.layers[0](jnp.concatenate(x)))
        return self.layers[2](jax.nn.relu(self.layers[1](hidden)))

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        """Unrolled on its own predictions."""
        return free_run(self, initial_state, actions)

    def init(self, initial_state: Float[Array, " state"]) -> tuple[()]:
        """Nothing is carried but the state."""
        return ()

    def step(
        self, carry: tuple[()], state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[tuple[()], Float[Array, " state"]]:
        """Adds the predicted difference."""
        return (), state + self.normaliser.scale_difference(self.difference(state, action, step))

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Teacher forcing: every step from its true state (Equation 1), in units of the typical difference."""
        states, actions = trajectory.states, trajectory.actions
        predicted = jax.vmap(self.difference)(states[:-1], actions, jnp.arange(actions.shape[0]))
        target = self.normaliser.unscale_difference(states[1:] - states[:-1])
        return jnp.mean(jnp.square(predicted - target))


class Simulator(AbstractDynamicsModel):
    """The true dynamics as the recurrent cell: the M-RNN of Proposition 1. It has nothing to fit."""

    env: AbstractEnvironment

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        """The true states."""
        return free_run(self, initial_state, actions)

    def init(self, initial_state: Float[Array, " state"]) -> tuple[()]:
        """Nothing is carried but the state."""
        return ()

    def step(
        self, carry: tuple[()], state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[tuple[()], Float[Array, " state"]]:
        """The true transition."""
        return (), self.env.transition(state, action, step)

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Zero."""
        return jnp.zeros(())
