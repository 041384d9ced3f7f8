"""Models with the state as their only memory: the one-step network and the true dynamics."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.checks import check, NumLayers, Share, Width
from ..core.linear import Layers, network, run_network
from ..core.types import PRNGKey, Scalar, Step, Trajectory
from ..tasks.environment import AbstractEnvironment
from ..tasks.fits import check_env
from ..tasks.spec import Spec, task_name
from ..tasks.stack import Stack, stack_of
from .base import AbstractDynamicsModel, after, free_run, HIDDEN_SIZE, layer_keys, newest, NUM_LAYERS
from .normalisation import DifferenceUnit, Normaliser


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def decay_gradient(x: Float[Array, "..."], decay: float) -> Float[Array, "..."]:
    """The same numbers, whose derivative is multiplied by `decay`."""
    return x


@decay_gradient.defjvp
def _decay_gradient_jvp(decay: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], decay * tangents[0]


class OneStepModel(AbstractDynamicsModel):
    """The Markovian baseline: `s_{t+1} = s_t + f(s_t, a_t, t)`, a ReLU network, 2 x 64 in Appendix E.1.

    In units of the "typical" difference of two successive states, the network's output is of size one however small
    the time step is, and its Jacobian `1 + c / H` like that of Euler's method; in units of the spread of the "state"
    (Equation 1), a small time step leaves it almost nothing to fit, and its Jacobian does not know of H.

    Attributes:
        layers: of the network.
        normaliser: frozen statistics.
        horizon: of the task.
        first_step_flag: whether one more input is 1 at step 0 only: a smooth `t / H` hides that step from a
            memoryless model.
        difference_unit: what the output and the loss count in.
        state_gradient_decay: what the derivative of the next state in the state is multiplied by.
    """

    layers: Layers
    normaliser: Normaliser
    horizon: int = eqx.field(static=True)
    made_for: str = eqx.field(static=True)
    stack: Stack | None = eqx.field(static=True)
    first_step_flag: bool = eqx.field(static=True)
    difference_unit: DifferenceUnit = eqx.field(static=True)
    state_gradient_decay: float = eqx.field(static=True)

    def __init__(
        self,
        env: Spec,
        *,
        key: PRNGKey,
        first_step_flag: bool = False,
        normaliser: Normaliser | None = None,
        difference_unit: DifferenceUnit = "typical",
        state_gradient_decay: float = 1.0,
        width: int = HIDDEN_SIZE,
        num_layers: int = NUM_LAYERS,
    ):
        """Random parameters.

        Args:
            env: gives the sizes, the horizon and, without a normaliser, the statistics of 64 random episodes.
            key: for the initial parameters.
            first_step_flag: whether one more input marks step 0.
            normaliser: frozen statistics to use instead.
            difference_unit: "typical" or "state", see the class.
            state_gradient_decay: 1 for the true derivative; less is no derivative of anything.
            width: of the hidden layers.
            num_layers: number of hidden layers.

        Raises:
            UsageError: a value is not allowed.
        """
        width, num_layers = check("width", width, Width), check("num_layers", num_layers, NumLayers)
        keys = layer_keys(self, env, key, 1 + num_layers)
        features, self.stack = env.state_size + env.action_size + 1 + first_step_flag, stack_of(env)
        size = env.state_size if self.stack is None else len(self.stack.told)
        self.layers = network(features, width, num_layers, size, keys=keys)
        self.normaliser = Normaliser.from_random_episodes(env) if normaliser is None else normaliser
        self.horizon, self.made_for = env.horizon, task_name(env)
        self.first_step_flag = check("first_step_flag", first_step_flag, bool)
        self.difference_unit = check("difference_unit", difference_unit, DifferenceUnit)
        self.state_gradient_decay = check("state_gradient_decay", state_gradient_decay, Share)

    def difference(
        self, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> Float[Array, " told"]:
        """`s_{t+1} - s_t` in `difference_unit`; without a context, which follows from the rest."""
        step = jnp.asarray(step)
        x = [self.normaliser.normalise(state), action, (step / self.horizon)[None].astype(action.dtype)]
        if self.first_step_flag:
            x.append((step == 0)[None].astype(action.dtype))
        return run_network(self.layers, jnp.concatenate(x))

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        return free_run(self, initial_state, actions)

    def init(self, initial_state: Float[Array, " state"]) -> tuple[()]:
        return ()

    def step(
        self, carry: tuple[()], state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[tuple[()], Float[Array, " state"]]:
        """Adds the predicted difference."""
        if self.state_gradient_decay != 1.0:
            state = decay_gradient(state, self.state_gradient_decay)
        difference = self.difference(state, action, step)
        difference = self.normaliser.of(self.stack).scale_difference(difference, self.difference_unit)
        return (), after(self.stack, state, action, newest(self.stack, state) + difference)

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """Teacher forcing: every step from its true state (Equation 1), in `difference_unit`."""
        states, actions = trajectory.states, trajectory.actions
        predicted = jax.vmap(self.difference)(states[:-1], actions, jnp.arange(actions.shape[0]))
        told = newest(self.stack, states)
        target = self.normaliser.of(self.stack).unscale_difference(told[1:] - told[:-1], self.difference_unit)
        return jnp.mean(jnp.square(predicted - target))


class Simulator(AbstractDynamicsModel):
    """The true dynamics as the recurrent cell: the M-RNN of Proposition 1. It has nothing to fit.

    Attributes:
        env: the task whose transition it is.
    """

    env: AbstractEnvironment

    def __check_init__(self) -> None:
        check_env("Simulator", self.env)

    @property
    def fitted(self) -> bool:
        """Nothing: model updates are left out."""
        return False

    def predict(
        self,
        initial_state: Float[Array, " state"],
        actions: Float[Array, "horizon action"],
        *,
        key: PRNGKey | None = None,
    ) -> Float[Array, "horizon state"]:
        return free_run(self, initial_state, actions)

    def init(self, initial_state: Float[Array, " state"]) -> tuple[()]:
        return ()

    def step(
        self, carry: tuple[()], state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[tuple[()], Float[Array, " state"]]:
        return (), self.env.transition(state, action, step)

    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        return jnp.zeros(())
