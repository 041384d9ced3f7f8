"""The eight tasks of the Myriad suite: each a differential equation, a cost, and their constants.

Source: Lenhart and Workman, "Optimal Control Applied to Biological Models" (2007), as collected in Howe et al.,
"Myriad: a real-world testbed to bridge trajectory optimization and deep learning" (2022). In all of them x is the
state, u the control and t the time, in the units of the book; the defaults of the parameters are its constants.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .control import OdeEnvironment
from .ode import from_ode
from .stability import warn_once


def cancer_treatment(*, horizon: int, r: float = 0.3, a: float = 3.0, d: float = 0.45) -> OdeEnvironment:
    """Tumour density x under a drug of strength u that is itself toxic."""
    return from_ode(
        lambda x, u, t: r * x * jnp.log(1 / x) - d * u * x,
        lambda x, u, t: a * x[0] ** 2 + u[0] ** 2,
        initial_state=0.975,
        duration=20.0,
        horizon=horizon,
        control_bounds=(0.0, 2.0),
        state_bounds=(1e-3, 1.0),
        name="cancer_treatment",
    )


def bioreactor(*, horizon: int, K: float = 2.0, G: float = 1.0, D: float = 1.0) -> OdeEnvironment:
    """Bacteria x that break down a contaminant, fed at rate u."""
    return from_ode(
        lambda x, u, t: G * u * x - D * x**2,
        lambda x, u, t: u[0] - K * x[0],
        initial_state=0.5,
        duration=2.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
        name="bioreactor",
    )


def mould_fungicide(*, horizon: int, r: float = 0.3, M: float = 10.0, A: float = 10.0) -> OdeEnvironment:
    """Mould x that grows towards M, held down by a fungicide u."""
    return from_ode(
        lambda x, u, t: r * (M - x) - u * x,
        lambda x, u, t: A * x[0] ** 2 + u[0] ** 2,
        initial_state=1.0,
        duration=5.0,
        horizon=horizon,
        control_bounds=(0.0, 5.0),
        state_bounds=(0.0, 5.0),
        name="mould_fungicide",
    )


def bacteria(
    *, horizon: int, r: float = 1.0, A: float = 1.0, B: float = 12.0, C: float = 1.0
) -> OdeEnvironment:
    """Bacteria x to be many at the end; the nutrient u feeds them, and poisons them while they are few."""
    return from_ode(
        lambda x, u, t: r * x + A * u * x - B * u**2 * jnp.exp(-x),
        lambda x, u, t: u[0] ** 2,
        terminal_cost=lambda x: -C * x[0],
        initial_state=1.0,
        duration=1.0,
        horizon=horizon,
        control_bounds=(0.0, 2.0),
        state_bounds=(0.0, 10.0),
        name="bacteria",
    )


def harvest(*, horizon: int, A: float = 5.0, k: float = 10.0, m: float = 0.2) -> OdeEnvironment:
    """A population x harvested at rate u, whose individuals grow heavier as `k t / (t + 1)`."""
    return from_ode(
        lambda x, u, t: -(m + u) * x,
        lambda x, u, t: u[0] ** 2 - A * k * t / (t + 1) * x[0] * u[0],
        initial_state=0.4,
        duration=10.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        name="harvest",
    )


def invasive_plant(*, horizon: int, B: float = 1.0, k: float = 1.0, e: float = 0.01) -> OdeEnvironment:
    """Five foci of an invasive plant, cleared at rates u; what matters is the total at the end."""
    duration = 10.0
    if horizon < duration:  # dx/dt >= -x: an Euler step longer than 1 overshoots below zero
        warn_once("invasive_plant", horizon, "a step longer than 1 s makes a cleared focus negative")
    return from_ode(
        lambda x, u, t: (x + k * x / (e + x)) * (1 - u) - x,
        lambda x, u, t: B * jnp.sum(u**2),
        terminal_cost=lambda x: jnp.sum(x),
        initial_state=(0.5, 1.0, 1.5, 2.0, 10.0),
        duration=duration,
        horizon=horizon,
        control_bounds=(np.zeros(5), np.ones(5)),
        name="invasive_plant",
    )


def hiv_treatment(
    *,
    horizon: int,
    s: float = 10.0,
    m1: float = 0.02,
    m2: float = 0.5,
    m3: float = 4.4,
    r: float = 0.03,
    Tm: float = 1500.0,
    k: float = 2.4e-5,
    N: float = 300.0,
    A: float = 0.05,
) -> OdeEnvironment:
    """Healthy cells, infected cells and free virus under chemotherapy; u = 1 is no treatment. Stiff below H = 45."""

    def dynamics(x: Array, u: Array, t: Array) -> Array:
        healthy, infected, virus = x
        infection = u[0] * k * healthy * virus
        growth = s / (1 + virus) - m1 * healthy + r * healthy * (1 - (healthy + infected) / Tm)
        return jnp.stack([growth - infection, infection - m2 * infected, N * m2 * infected - m3 * virus])

    return from_ode(
        dynamics,
        lambda x, u, t: (1 - u[0]) ** 2 - A * x[0],
        initial_state=(800.0, 0.04, 1.5),
        duration=20.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        state_bounds=((0.0, 0.0, 0.0), (1600.0, 100.0, 100.0)),
        name="hiv_treatment",
    )


def timber_harvest(*, horizon: int, r: float = 0.0, k: float = 1.0) -> OdeEnvironment:
    """Timber x whose yield is reinvested (u = 1) or sold (u = 0), discounted at rate r."""
    return from_ode(
        lambda x, u, t: k * x * u,
        lambda x, u, t: -jnp.exp(-r * t) * x[0] * (1 - u[0]),
        initial_state=100.0,
        duration=5.0,
        horizon=horizon,
        control_bounds=(0.0, 1.0),
        state_bounds=(0.0, 20000.0),
        name="timber_harvest",
    )
