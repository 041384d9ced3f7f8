"""The entropy constraint of a stochastic policy by its dual: a temperature that is learned."""

import jax
import jax.numpy as jnp

from ..core.types import Scalar


def temperature_loss(log_temperature: Scalar, entropy: Scalar, target_entropy: float | Scalar) -> Scalar:
    """The dual objective of `entropy >= target_entropy` (Haarnoja et al., 2018b, section 5).

    Its descent raises the temperature while the entropy is below its target, and lowers it while it is above.

    Args:
        log_temperature: logarithm of the weight of the entropy.
        entropy: the policy's, or an estimate; a constant here.
        target_entropy: the least it is to be.
    """
    return jnp.exp(log_temperature) * (jax.lax.stop_gradient(entropy) - target_entropy)
