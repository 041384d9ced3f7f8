"""The policies of this package in NumPy: outside JAX, a compiled call a step takes longer than the network itself."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from ..gradients.policies import TanhGaussianPolicy
from ..learners.base import Explorer
from ..tasks.environment import AbstractActor


# From what networks see of all copies and the step to all actions.
Act = Callable[[Float[np.ndarray, "copies state"], int], Float[np.ndarray, "copies action"]]


def numpy_act(actors: AbstractActor, num_copies: int) -> Act | None:
    """The same actions as those of the compiled actors, to rounding.

    Args:
        actors: every array has a leading axis.
        num_copies: of the simulator for each.

    Returns:
        What acts in all copies, one actor's after the other's, not clipped yet; None where the actors are not this
        package's own.
    """
    explorer = actors if isinstance(actors, Explorer) else None
    policy = actors if explorer is None else explorer.actor
    if not isinstance(policy, TanhGaussianPolicy):
        return None
    policy, noise = jax.device_get((policy, explorer and (explorer.noise, explorer.added)))
    size = policy.layers[-1].bias.shape[-1] // 2
    network = _network(policy, num_copies)
    if noise is None:
        return lambda states, step: np.tanh(network(states, step)[:, :size])
    # A row a step, each for all copies of every actor.
    white, added = (np.repeat(part, num_copies, axis=0).swapaxes(0, 1) for part in noise)
    lowest, highest = policy.min_log_std, policy.max_log_std

    def explore(states: np.ndarray, step: int) -> np.ndarray:
        output = network(states, step)
        deviation = np.exp(np.minimum(np.maximum(output[:, size:], lowest), highest))
        deviation *= white[step]
        deviation += output[:, :size]
        return np.tanh(deviation) + added[step]

    return explore


def _network(policy: TanhGaussianPolicy, num_copies: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """Mean and logarithm of the standard deviation before the squashing, in a row for every copy."""
    (weight, bias), *others = [(np.asarray(each.weight), np.asarray(each.bias)) for each in policy.layers]
    # In double precision the normalisation can be part of the first layer. The time is its last input, the same for all
    # copies: it gives a bias a step.
    times = np.arange(policy.horizon) / policy.horizon * policy.observe_time
    mean, scale = (np.asarray(part, np.float64) for part in (policy.normaliser.mean, policy.normaliser.scale))
    by_state = weight[:, :-1] / scale[..., None]
    shift = bias - (mean[:, None] @ by_state)[:, 0]
    biases = shift + times[:, None, None] * weight[:, -1]
    if len(weight) == 1:  # `dot` takes half as long as `@`, where every call of NumPy counts
        return _forward(np.ndarray.dot, by_state[0], biases[:, 0], [(w[0], b[0]) for w, b in others])
    stacked = _forward(np.matmul, by_state, biases[:, :, None], [(w, b[:, None]) for w, b in others])

    def of_all(states: np.ndarray, step: int) -> np.ndarray:
        rows = states.reshape(len(weight), num_copies, states.shape[-1])
        return stacked(rows, step).reshape(len(states), -1)

    return of_all


def _forward(
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    by_state: np.ndarray,
    biases: np.ndarray,
    others: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Callable[[np.ndarray, int], np.ndarray]:
    """The layers one after another."""

    def network(states: np.ndarray, step: int) -> np.ndarray:
        hidden = product(states, by_state)
        hidden += biases[step]
        hidden = hidden.astype(others[0][0].dtype)
        for weight, bias in others:
            hidden = product(np.maximum(hidden, 0.0, out=hidden), weight)
            hidden += bias
        return hidden

    return network
