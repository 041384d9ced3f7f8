"""Diagonal state-space layers in real arithmetic: the linear recurrent unit (LRU) and S5."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.linear import Linear
from ...core.types import PRNGKey
from .base import LayerNorm
from .linear_recurrence import add, linear_recurrence, Numbers, product
from .residual import AbstractMixer, AbstractResidual, Block, GatedLinear, stack


STATE_SIZE = 64  # complex numbers in a layer's state


def log_uniform(size: int, low: float, high: float, *, key: PRNGKey) -> Float[Array, " size"]:
    """Numbers whose logarithm is uniform."""
    return jnp.exp(jax.random.uniform(key, (size,), minval=math.log(low), maxval=math.log(high)))


def complex_normal(shape: tuple[int, int], variance: float, *, key: PRNGKey) -> Numbers:
    """Complex numbers of this variance as (real, imaginary)."""
    parts = (variance / 2) ** 0.5 * jax.random.normal(key, (2, *shape))
    return parts[0], parts[1]


class AbstractStateSpace(AbstractMixer):
    """`h_t = D h_{t-1} + B u_t` with a diagonal complex D, `y_t = Re(C h_t) + skip * u_t`, then GELU and a gate.

    How D and B come from the parameters is the subclass's.
    """

    output_weight: eqx.AbstractVar[Float[Array, "state_parts width"]]
    skip: eqx.AbstractVar[Float[Array, " width"]]
    gate: eqx.AbstractVar[GatedLinear]

    @abc.abstractmethod
    def discretise(self) -> tuple[Numbers, Float[Array, "width state_parts"]]:
        """D as (real, imaginary) [state], and what multiplies an input from the right to give both parts of B u."""

    def _read(self, hidden: Numbers, x: Array) -> Array:
        read = jnp.concatenate(hidden, axis=-1) @ self.output_weight + self.skip * x
        return self.gate(jax.nn.gelu(read))

    def init(self) -> Numbers:
        zeros = jnp.zeros(self.output_weight.shape[0] // 2)
        return zeros, zeros

    def step(self, carry: Numbers, x: Float[Array, " width"]) -> tuple[Numbers, Float[Array, " width"]]:
        decay, input_weight = self.discretise()
        real, imaginary = jnp.split(x @ input_weight, 2)
        hidden = add(product(decay, carry), (real, imaginary))
        return hidden, self._read(hidden, x)

    def unroll(self, xs: Float[Array, "length width"]) -> Float[Array, "length width"]:
        decay, input_weight = self.discretise()
        real, imaginary = jnp.split(xs @ input_weight, 2, axis=-1)
        decays = tuple(jnp.broadcast_to(part, real.shape) for part in decay)
        return self._read(linear_recurrence(decays, (real, imaginary)), xs)


class LRUMixer(AbstractStateSpace):
    """The linear recurrent unit: `D = exp(-exp(nu) + i exp(theta))`, inputs scaled by `exp(gamma)`.

    Orvieto et al. (2023), "Resurrecting recurrent neural networks for long sequences", section 3.
    """

    log_rate: Float[Array, " state"]
    log_phase: Float[Array, " state"]
    log_scale: Float[Array, " state"]
    input_weight: Float[Array, "width state_parts"]
    output_weight: Float[Array, "state_parts width"]
    skip: Float[Array, " width"]
    gate: GatedLinear

    def __init__(self, width: int, horizon: int, *, key: PRNGKey):
        """Eigenvalues on a ring whose radii remember from one step to the whole horizon, with phases below pi/10.

        The paper draws the squared radius uniformly, for a horizon fixed beforehand. Here the memory
        `-1 / log |D|` is log-uniform on [1, horizon], so that some eigenvalues reach back to the first element
        whatever the horizon. As in the paper, gamma makes the state's variance that of a white input.
        """
        keys = jax.random.split(key, 6)
        rate = 1.0 / log_uniform(STATE_SIZE, 1.0, max(float(horizon), 2.0), key=keys[0])
        phase = jax.random.uniform(keys[1], (STATE_SIZE,), minval=1e-3, maxval=math.pi / 10)
        self.log_rate, self.log_phase = jnp.log(rate), jnp.log(phase)
        self.log_scale = 0.5 * jnp.log(-jnp.expm1(-2 * rate))
        self.input_weight = jnp.concatenate(
            complex_normal((width, STATE_SIZE), 1 / width, key=keys[2]), axis=-1
        )
        self.output_weight = jnp.concatenate(complex_normal((STATE_SIZE, width), 1 / STATE_SIZE, key=keys[3]))
        self.skip = jax.random.normal(keys[4], (width,))
        self.gate = GatedLinear(width, width, key=keys[5])

    def discretise(self) -> tuple[Numbers, Float[Array, "width state_parts"]]:
        """D and the scaled B."""
        radius, phase = jnp.exp(-jnp.exp(self.log_rate)), jnp.exp(self.log_phase)
        scale = jnp.exp(self.log_scale)
        decay = (radius * jnp.cos(phase), radius * jnp.sin(phase))
        return decay, self.input_weight * jnp.concatenate([scale, scale])


def hippo_eigenvalues(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues with a positive imaginary part, and eigenvectors, of the normal part of HiPPO-LegS.

    The matrix is `-1/2 I + S` with S antisymmetric, so that its eigenvectors are orthonormal: Gu et al. (2022), "On the
    parameterization and initialization of diagonal state space models", section 3.

    Returns:
        [size/2] and [size, size/2], complex.
    """
    root = np.sqrt(np.arange(size) + 0.5)
    antisymmetric = np.tril(-np.outer(root, root), -1)
    antisymmetric = antisymmetric - antisymmetric.T
    imaginary, vectors = np.linalg.eigh(-1j * antisymmetric)
    chosen = imaginary > 0
    return -0.5 + 1j * imaginary[chosen], vectors[:, chosen]


class S5Mixer(AbstractStateSpace):
    """The S5 layer: continuous eigenvalues and a time step for each, discretised by zero-order hold.

    Smith et al. (2023), "Simplified state space layers for sequence modeling", section 3. Eigenvalues come in conjugate
    pairs, of which one is kept.
    """

    log_rate: Float[Array, " state"]
    frequency: Float[Array, " state"]
    log_time_step: Float[Array, " state"]
    input_weight: Float[Array, "width state_parts"]
    output_weight: Float[Array, "state_parts width"]
    skip: Float[Array, " width"]
    gate: GatedLinear

    def __init__(self, width: int, horizon: int, *, key: PRNGKey):
        """HiPPO blocks of 16; time steps log-uniform on [1/horizon, 1]: windows of one step to all of them."""
        num_blocks = 2 * STATE_SIZE // 16
        keys = jax.random.split(key, 5)
        eigenvalues, vectors = hippo_eigenvalues(16)
        self.log_rate = jnp.log(jnp.asarray(np.tile(-np.real(eigenvalues), num_blocks), float))
        self.frequency = jnp.asarray(np.tile(np.imag(eigenvalues), num_blocks), float)
        self.log_time_step = jnp.log(log_uniform(STATE_SIZE, 1 / horizon, 1.0, key=keys[0]))
        # In the basis of the eigenvectors V: V^H B and C V for a random real B and C.
        basis = np.kron(np.eye(num_blocks), vectors)
        real, imaginary = jnp.asarray(np.real(basis), float), jnp.asarray(np.imag(basis), float)
        inputs = width**-0.5 * jax.random.normal(keys[1], (width, 2 * STATE_SIZE))
        self.input_weight = jnp.concatenate([inputs @ real, -inputs @ imaginary], axis=-1)
        outputs = (2 * STATE_SIZE) ** -0.5 * jax.random.normal(keys[2], (width, 2 * STATE_SIZE))
        # Twice the real part, for the conjugates that are left out.
        self.output_weight = 2 * jnp.concatenate([(outputs @ real).T, -(outputs @ imaginary).T])
        self.skip = jax.random.normal(keys[3], (width,))
        self.gate = GatedLinear(width, width, key=keys[4])

    def discretise(self) -> tuple[Numbers, Float[Array, "width state_parts"]]:
        """`D = exp(lambda dt)` and `B (D - 1) / lambda`."""
        time_step, rate = jnp.exp(self.log_time_step), jnp.exp(self.log_rate)
        radius, phase = jnp.exp(-rate * time_step), self.frequency * time_step
        decay = (radius * jnp.cos(phase), radius * jnp.sin(phase))
        squared = rate**2 + self.frequency**2
        inverse = (-rate / squared, -self.frequency / squared)
        scale = product((decay[0] - 1.0, decay[1]), inverse)
        real, imaginary = jnp.split(self.input_weight, 2, axis=-1)
        return decay, jnp.concatenate(product(scale, (real, imaginary)), axis=-1)


class LRU(AbstractResidual):
    """Two blocks of a linear recurrent unit with 64 complex eigenvalues (Orvieto et al. 2023)."""

    embed: Linear
    blocks: tuple[Block, ...]
    final_norm: LayerNorm
    dropout_rate: float = eqx.field(static=True, default=0.0)
    least_batch: ClassVar[int] = 2

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        width: int = 72,
        num_layers: int = 2,
        key: PRNGKey,
    ) -> "LRU":
        """The eigenvalues remember up to the horizon."""
        return cls(*stack(LRUMixer, input_size, width, num_layers, horizon, key=key), dropout)


class S5(AbstractResidual):
    """Two blocks of a simplified state-space layer with 64 conjugate pairs of eigenvalues (Smith et al. 2023)."""

    embed: Linear
    blocks: tuple[Block, ...]
    final_norm: LayerNorm
    dropout_rate: float = eqx.field(static=True, default=0.0)
    least_batch: ClassVar[int] = 2

    @classmethod
    def create(
        cls,
        input_size: int,
        horizon: int,
        *,
        dropout: float = 0.0,
        width: int = 72,
        num_layers: int = 2,
        key: PRNGKey,
    ) -> "S5":
        """The time steps are chosen for the horizon."""
        return cls(*stack(S5Mixer, input_size, width, num_layers, horizon, key=key), dropout)
