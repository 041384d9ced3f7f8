"""What a dynamics model is: from an initial state and a sequence of actions to all states (section 2)."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..core.loops import scan
from ..core.types import Given, PRNGKey, Scalar, Step, Trajectory
from ..tasks.spec import check_new, Spec
from ..tasks.stack import Stack


HIDDEN_SIZE, NUM_LAYERS = 64, 2


class AbstractDynamicsModel(eqx.Module):
    """Predicts `s_1 .. s_H`, the whole sequence at once or one step at a time.

    States are in environment units everywhere; a network normalises inside. The `loss` of a model without
    parameters is zero.
    """

    @property
    def two_pass(self) -> bool:
        """Whether `predict` beats repeated `step`, so that an open-loop gradient is best taken in two passes."""
        return False

    @property
    def least_batch(self) -> int:
        """Fewest sequences in a micro-batch on a CPU, see `AbstractBackbone.least_batch`."""
        return 1

    @property
    def fitted(self) -> bool:
        """Whether there is anything to fit."""
        return True

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

    def resize(self, carry: PyTree, length: int) -> Any:
        """The carry with room for `length` steps, for models whose carry grows with what they have seen."""
        return carry

    @abc.abstractmethod
    def step(
        self, carry: PyTree, state: Float[Array, " state"], action: Float[Array, " action"], step: Step
    ) -> tuple[Any, Float[Array, " state"]]:
        """The next carry and `s_{t+1}`. A model that does not read the state ignores it."""

    @abc.abstractmethod
    def loss(self, trajectory: Trajectory, *, key: PRNGKey | None = None) -> Scalar:
        """The fitting loss on one episode: a mean squared error in normalised units over steps and components."""


def layer_keys(model: AbstractDynamicsModel, env: Given[Spec], key: Given[PRNGKey], number: int = 3) -> Array:
    """Keys for the parameters of a model of a world.

    Raises:
        UsageError: what was given has not the sizes of a world, or is no key.
    """
    check_new(type(model).__name__, env, key)
    return jax.random.split(key, number)


def newest(stack: Stack | None, state: Float[Array, "*batch state"]) -> Float[Array, "*batch told"]:
    """What a model predicts of a state: all of it, but for a context."""
    return state if stack is None else stack.newest(state)


def after(
    stack: Stack | None,
    state: Float[Array, " state"],
    action: Float[Array, " action"],
    predicted: Float[Array, " told"],
) -> Float[Array, " state"]:
    """The next state, from what a model predicts of it."""
    return predicted if stack is None else stack.after(state, action, predicted)


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
    return scan(body, start, (actions, jnp.arange(actions.shape[0])))[1]
