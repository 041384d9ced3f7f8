"""Models with a sequence architecture inside: over actions alone, or over states and actions."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..core.checks import check, NotNegative, Width
from ..core.linear import Linear
from ..core.types import PRNGKey, Scalar, Step, Trajectory
from ..tasks.spec import Spec, task_name
from ..tasks.stack import Stack, stack_of
from .backbones import AbstractBackbone, create_backbone, CreateBackbone
from .backbones.linear_recurrence import linear_recurrence
from .base import AbstractDynamicsModel, after, free_run, HIDDEN_SIZE, layer_keys, newest
from .normalisation import DifferenceUnit, Normaliser


EMBEDDING_SIZE = 72


DecoderKind = Literal["hidden", "linear"] | Width
# What an action-sequence model's decoder gives.
DecoderOutput = Literal["states", "differences", "gated"]


class Decoder(eqx.Module):
    """From a backbone's output to a normalised state: through one hidden layer, or linear as in Equation 2."""

    hidden: Linear | None
    output: Linear

    def __init__(self, input_size: int, state_size: int, kind: DecoderKind = "hidden", *, key: PRNGKey):
        """Random layers of the given sizes; a hidden one of 64, or of the number that is given as the kind."""
        kind = check("decoder", kind, DecoderKind)
        hidden_key, output_key = jax.random.split(key)
        self.hidden = None
        if kind != "linear":
            width = HIDDEN_SIZE if kind == "hidden" else kind
            self.hidden = Linear(input_size, width, key=hidden_key, scale=(2 / input_size) ** 0.5)
            input_size = width
        self.output = Linear(input_size, state_size, key=output_key)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch state"]:
        """The normalised state."""
        return self.output(x if self.hidden is None else jax.nn.relu(self.hidden(x)))


def predict_encoded(
    encoder: Linear,
    backbone: AbstractBackbone,
    features: Float[Array, "length features"],
    *,
    key: PRNGKey | None,
) -> Float[Array, "length output"]:
    """`backbone.predict(encoder(features))`, with the encoder multiplied into the backbone's input layer if it has one.

    For an LSTM that is a quarter of all multiplications.
    """
    layer = backbone.input_layer
    if layer is None:
        return backbone.predict(encoder(features), key=key)
    merged = eqx.tree_at(lambda b: b.input_layer, backbone, encoder.then(layer))
    return merged.predict(features, key=key)


def integrate(
    gates: Float[Array, "horizon state"],
    inputs: Float[Array, "horizon state"],
    start: Float[Array, " state"],
) -> Float[Array, "horizon state"]:
    """`x_t = g_t x_{t-1} + b_t` from `x_0`, all of them."""
    return linear_recurrence((gates,), (inputs.at[0].add(gates[0] * start),))[0]


# Of an action-sequence model: the initial state, the backbone's carry, and the last normalised state, where the
# decoder does not give states themselves.
Carry = tuple[Array, Any, Array | None]


class ActionSequenceModel(AbstractDynamicsModel):
    """`g(s_0, a_0 .. a_{t-1}) = s_t`: a sequence architecture over actions (section 3.1).

    Every sequence element holds the action, the time `step / horizon` and the normalised initial state; no later
    state is ever an input, so the gradient from `s_t` to `a_k` is exactly the backbone's.

    Attributes:
        encoder: from an element to the backbone's input.
        backbone: mixes the sequence.
        decoder: from the backbone's output to the state.
        normaliser: frozen statistics.
        horizon: of the task.
        difference_loss: weight of the error of the differences of successive predictions, in typical differences,
            beside that of the predicted states themselves.
        decoder_output: "states"; "differences" of successive states, in typical differences, which are summed up from
            the initial state; or "gated": a gate g in (0, 1), a difference d and a state u for every component, so
            that `x_t = g (x_{t-1} + d) + (1 - g) u`. It can hold and add up, as sums do, and start over where the past
            does not matter, as states do. Still no state is an input of the backbone: `ds_t/da_k` is a sum of at most
            H of its Jacobians, times gates and other bounded factors.
    """

    encoder: Linear
    backbone: AbstractBackbone
    decoder: Decoder
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)
    made_for: str = eqx.field(static=True)
    stack: Stack | None = eqx.field(static=True)
    difference_loss: float = eqx.field(static=True)
    decoder_output: DecoderOutput = eqx.field(static=True)

    def __init__(
        self,
        env: Spec,
        backbone: str | AbstractBackbone | CreateBackbone = "transformer",
        *,
        key: PRNGKey,
        dropout: float = 0.0,
        normaliser: Normaliser | None = None,
        decoder: DecoderKind = "hidden",
        difference_loss: float = 0.0,
        decoder_output: DecoderOutput = "states",
    ):
        """Builds encoder and decoder around a backbone.

        Args:
            env: gives the sizes, the horizon and, without a normaliser, the statistics of 64 random episodes.
            backbone: a name of `asmpg.BACKBONES`, an instance, or what makes one, such as the `create` of a
                class of your own.
            key: for the initial parameters.
            dropout: the dropout rate of a backbone that is made here.
            normaliser: frozen statistics to use instead.
            decoder: "linear", or "hidden" for one hidden layer of 64, or a number for one of that width.
            difference_loss: see the class.
            decoder_output: see the class.

        Raises:
            UsageError: an unknown backbone name, or a value that is not allowed.
        """
        encoder_key, backbone_key, decoder_key = layer_keys(self, env, key)
        self.backbone = backbone = create_backbone(
            backbone, EMBEDDING_SIZE, env.horizon, dropout=dropout, key=backbone_key
        )
        features, self.stack = env.action_size + 1 + env.state_size, stack_of(env)
        self.encoder = Linear(features, backbone.input_size, key=encoder_key)
        self.decoder_output = check("decoder_output", decoder_output, DecoderOutput)
        self.decoder = self._new_decoder(env, decoder, key=decoder_key)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon, self.made_for = env.horizon, task_name(env)
        self.difference_loss = check("difference_loss", difference_loss, NotNegative)

    def _new_decoder(self, env: Spec, kind: DecoderKind, *, key: PRNGKey) -> Decoder:
        size = env.state_size if self.stack is None else len(self.stack.told)
        if self.decoder_output != "gated":
            return Decoder(self.backbone.output_size, size, kind, key=key)
        decoder = Decoder(self.backbone.output_size, 3 * size, kind, key=key)
        # A gate of H / (H + 1): it remembers the whole episode at first.
        bias = decoder.output.bias.at[2 * size :].add(math.log(env.horizon))
        return eqx.tree_at(lambda d: d.output.bias, decoder, bias)

    @property
    def least_batch(self) -> int:
        return self.backbone.least_batch

    @property
    def two_pass(self) -> bool:
        """Yes: a recurrent backbone gains too (12 for 15 ms, LSTM of horizon 100), a parallel one several times."""
        return True

    def features(
        self,
        initial_state: Float[Array, " state"],
        action: Float[Array, "*horizon action"],
        step: Array,
    ) -> Float[Array, "*horizon features"]:
        """The encoder's input for one sequence element or, with a leading axis, for all of them."""
        start = self.normaliser.normalise(initial_state)
        time = (step / self.horizon)[..., None].astype(action.dtype)
        start = jnp.broadcast_to(start, (*action.shape[:-1], *start.shape))
        return jnp.concatenate([action, time, start], axis=-1)

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        predicted = self._told.denormalise(self._predict_normalised(initial_state, actions, key))
        return predicted if self.stack is None else self.stack.all_after(initial_state, actions, predicted)

    @property
    def _told(self) -> Normaliser:
        """Statistics of what is predicted."""
        return self.normaliser.of(self.stack)

    def _predict_normalised(self, initial_state: Array, actions: Array, key: PRNGKey | None) -> Array:
        features = self.features(initial_state, actions, jnp.arange(actions.shape[0]))
        outputs = self.decoder(predict_encoded(self.encoder, self.backbone, features, key=key))
        if self.decoder_output == "states":
            return outputs
        start = self._told.normalise(newest(self.stack, initial_state))
        if self.decoder_output == "gated":
            return integrate(*self._gated(outputs), start)
        return start + jnp.cumsum(self._told.relative_difference * outputs, axis=0)

    def _gated(self, outputs: Float[Array, "*horizon outputs"]) -> tuple[Array, Array]:
        """The gate, and what is added to the gated last state."""
        state, difference, gate = jnp.split(outputs, 3, axis=-1)
        gate = jax.nn.sigmoid(gate)
        return gate, gate * self._told.relative_difference * difference + (1 - gate) * state

    def init(self, initial_state: Float[Array, " state"]) -> Carry:
        """The initial state, which every element reads, the backbone's empty carry, and the last state if it counts."""
        last = None
        if self.decoder_output != "states":
            last = self._told.normalise(newest(self.stack, initial_state))
        return initial_state, self.backbone.init(), last

    def resize(self, carry: Carry, length: int) -> Carry:
        return carry[0], self.backbone.resize(carry[1], length), carry[2]

    def step(
        self,
        carry: Carry,
        state: Float[Array, " state"],
        action: Float[Array, " action"],
        step: Step,
    ) -> tuple[Carry, Float[Array, " state"]]:
        """One element; of `state` only a context is read, which is a part of the next."""
        initial_state, backbone_carry, last = carry
        features = self.features(initial_state, action, jnp.asarray(step))
        backbone_carry, output = self.backbone.step(backbone_carry, self.encoder(features))
        predicted = self.decoder(output)
        if last is not None:
            gated = self.decoder_output == "gated"
            scale = self._told.relative_difference
            gate, added = self._gated(predicted) if gated else (1.0, scale * predicted)
            last = predicted = gate * last + added
        following = after(self.stack, state, action, self._told.denormalise(predicted))
        return (initial_state, backbone_carry, last), following

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Mean squared error of all predicted states in normalised units, and of their differences if these count."""
        predicted = self._predict_normalised(trajectory.states[0], trajectory.actions, key)
        errors = predicted - self._told.normalise(newest(self.stack, trajectory.states[1:]))
        loss = jnp.mean(jnp.square(errors))
        if self.difference_loss == 0:
            return loss
        # The initial state is known, so that the first difference's error is the first state's.
        changes = jnp.diff(errors, axis=0, prepend=jnp.zeros_like(errors[:1]))
        errors = changes / self._told.relative_difference
        return loss + self.difference_loss * jnp.mean(jnp.square(errors))


class HistoryModel(AbstractDynamicsModel):
    """`g((s_0, a_0) .. (s_{t-1}, a_{t-1})) = s_t`: a sequence architecture over states and actions (section 4.3).

    Every sequence element holds the normalised state, the action and the time `step / horizon`. It is fitted on true
    histories and unrolled on its own predictions, so that a gradient from `s_t` to `a_k` runs through all the states
    between them as well as through the backbone: the products of Jacobians of a one-step model come back.

    The network's output is the difference of two successive states, as for `OneStepModel` and in the same units: in
    the "typical" one by default, since after teacher forcing the last true state is an input, and next to it there is
    almost nothing left to predict in units of the "state" itself. A baseline that has to learn to copy its input first
    would be compared unfairly.
    """

    encoder: Linear
    backbone: AbstractBackbone
    decoder: Decoder
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)
    made_for: str = eqx.field(static=True)
    stack: Stack | None = eqx.field(static=True)
    cut_state_gradient: bool = eqx.field(static=True)
    difference_unit: DifferenceUnit = eqx.field(static=True)

    def __init__(
        self,
        env: Spec,
        backbone: str | AbstractBackbone | CreateBackbone = "transformer",
        *,
        key: PRNGKey,
        dropout: float = 0.0,
        normaliser: Normaliser | None = None,
        cut_state_gradient: bool = False,
        decoder: DecoderKind = "hidden",
        difference_unit: DifferenceUnit = "typical",
    ):
        """Builds encoder and decoder around a backbone.

        Args:
            env: gives the sizes, the horizon and, without a normaliser, the statistics of 64 random episodes.
            backbone: a name of `asmpg.BACKBONES`, an instance, or what makes one, such as the `create` of a
                class of your own.
            key: for the initial parameters.
            dropout: the dropout rate of a backbone that is made here.
            normaliser: frozen statistics to use instead.
            cut_state_gradient: whether the states that the network reads are constants to a derivative. What is left
                are the backbone's own paths from the actions, and the sum of the differences, which is no network.
            decoder: "linear", or "hidden" for one hidden layer of 64, or a number for one of that width.
            difference_unit: "typical" or "state", see the class.

        Raises:
            UsageError: an unknown backbone name, or a value that is not allowed.
        """
        encoder_key, backbone_key, decoder_key = layer_keys(self, env, key)
        self.backbone = backbone = create_backbone(
            backbone, EMBEDDING_SIZE, env.horizon, dropout=dropout, key=backbone_key
        )
        features, self.stack = env.state_size + env.action_size + 1, stack_of(env)
        size = env.state_size if self.stack is None else len(self.stack.told)
        self.encoder = Linear(features, backbone.input_size, key=encoder_key)
        self.decoder = Decoder(backbone.output_size, size, decoder, key=decoder_key)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon, self.made_for = env.horizon, task_name(env)
        self.cut_state_gradient = check("cut_state_gradient", cut_state_gradient, bool)
        self.difference_unit = check("difference_unit", difference_unit, DifferenceUnit)

    def features(
        self, state: Float[Array, "*horizon state"], action: Float[Array, "*horizon action"], step: Array
    ) -> Float[Array, "*horizon features"]:
        """The encoder's input for one sequence element or, with a leading axis, for all of them."""
        seen = jax.lax.stop_gradient(state) if self.cut_state_gradient else state
        time = (step / self.horizon)[..., None].astype(action.dtype)
        return jnp.concatenate([self.normaliser.normalise(seen), action, time], axis=-1)

    def differences(
        self,
        states: Float[Array, "horizon state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon told"]:
        """`s_{t+1} - s_t` for every given history `s_0 .. s_t`, `a_0 .. a_t`, in `difference_unit`."""
        features = self.features(states, actions, jnp.arange(actions.shape[0]))
        return self.decoder(predict_encoded(self.encoder, self.backbone, features, key=key))

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        return free_run(self, initial_state, actions)

    def init(self, initial_state: Float[Array, " state"]) -> Any:
        return self.backbone.init()

    def resize(self, carry: PyTree, length: int) -> Any:
        return self.backbone.resize(carry, length)

    def step(
        self, carry: PyTree, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[Any, Float[Array, " state"]]:
        """Appends one pair of state and action, and adds the predicted difference to the state."""
        features = self.features(state, action, jnp.asarray(step))
        carry, output = self.backbone.step(carry, self.encoder(features))
        difference = self.normaliser.of(self.stack).scale_difference(
            self.decoder(output), self.difference_unit
        )
        return carry, after(self.stack, state, action, newest(self.stack, state) + difference)

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Teacher forcing: every difference from its true history, in `difference_unit`."""
        predicted = self.differences(trajectory.states[:-1], trajectory.actions, key=key)
        states = newest(self.stack, trajectory.states)
        target = self.normaliser.of(self.stack).unscale_difference(
            states[1:] - states[:-1], self.difference_unit
        )
        return jnp.mean(jnp.square(predicted - target))
