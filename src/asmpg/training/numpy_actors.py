"""The policies of this package in NumPy: outside JAX, a compiled call a step takes longer than the network itself."""

from collections.abc import Callable

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
    policy, noise = jax.tree.map(np.asarray, (policy, explorer and (explorer.noise, explorer.added)))
    network = _network(policy)
    if noise is None:

        def act(states: np.ndarray, step: int) -> np.ndarray:
            mean, _ = network(states.reshape(-1, num_copies, states.shape[-1]), step)
            return np.tanh(mean).reshape(len(states), -1)

        return act
    # A row a step, each for all copies of every actor.
    white, added = (np.ascontiguousarray(part.swapaxes(0, 1)[:, :, None]) for part in noise)

    def explore(states: np.ndarray, step: int) -> np.ndarray:
        mean, log_std = network(states.reshape(-1, num_copies, states.shape[-1]), step)
        std = np.exp(np.minimum(np.maximum(log_std, policy.min_log_std), policy.max_log_std))
        return (np.tanh(mean + std * white[step]) + added[step]).reshape(len(states), -1)

    return explore


def _network(policy: TanhGaussianPolicy) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """Mean and logarithm of the standard deviation before the squashing, of actors by copies."""
    (weight, bias), *others = [(layer.weight, layer.bias[:, None]) for layer in policy.layers]
    # In double precision the normalisation can be part of the first layer. The time is its last input, the same for all
    # copies: it gives a bias a step.
    times = np.arange(policy.horizon) / policy.horizon * policy.observe_time
    mean, scale = (np.asarray(part, np.float64) for part in (policy.normaliser.mean, policy.normaliser.scale))
    by_state, by_time = weight[:, :-1] / scale[..., None], weight[:, -1:]
    shift = bias - mean[:, None] @ by_state
    biases = [shift + time * by_time for time in times]

    def network(states: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        hidden = (states @ by_state + biases[step]).astype(weight.dtype)
        for other_weight, other_bias in others:
            np.maximum(hidden, 0.0, out=hidden)
            hidden = hidden @ other_weight
            hidden += other_bias
        size = hidden.shape[-1] // 2
        return hidden[..., :size], hidden[..., size:]

    return network
