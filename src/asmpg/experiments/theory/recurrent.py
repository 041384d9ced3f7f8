"""Corollaries 1.1 and A.1: gradients through the recurrent network of Equation 2."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ...core.types import UsageError
from ...gradients.analysis import first_action_jacobian, gradient_norm, growth_fit, operator_norm
from ...gradients.policy_gradient import policy_gradient
from ...models.backbones import SimpleRNN
from ...sweeps import Scale
from ..table import Table
from ..verdicts import both, decide, Verdict
from .parts import BareModel, ROUNDING, ShiftPolicy, StateReward, worst


HIDDEN_SIZE, ACTION_SIZE = 8, 2
WITHIN = 0.01


def identity(x: Array) -> Array:
    """No activation at all."""
    return x


def network(
    w_x: np.ndarray, *, activation: Callable[[Array], Array], bias: float = 0.0, seed: int = 0
) -> BareModel:
    """Equation 2 with a given recurrent matrix, random input weights and the identity as output."""
    w_a = np.random.default_rng(seed).normal(size=(w_x.shape[0], ACTION_SIZE))
    biases = jnp.full(w_x.shape[0], bias)
    return BareModel(SimpleRNN(jnp.asarray(w_x), jnp.asarray(w_a), biases, activation=activation))


def random_matrix(norm: float, seed: int) -> np.ndarray:
    """A matrix that is not normal, with this 2-norm."""
    matrix = np.random.default_rng(seed).normal(size=(HIDDEN_SIZE, HIDDEN_SIZE))
    return norm * matrix / np.linalg.norm(matrix, 2)


def symmetric_matrix(radius: float, seed: int) -> np.ndarray:
    """A symmetric matrix with this spectral radius; its other eigenvalues are below 0.8 of it."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(HIDDEN_SIZE, HIDDEN_SIZE)))[0]
    values = radius * np.concatenate([[1.0], random.uniform(-0.8, 0.8, HIDDEN_SIZE - 1)])
    return (basis * values) @ basis.T


@eqx.filter_jit
def state_norms(model: BareModel, actions: Array) -> Array:
    """`|ds_t/da_0|` for t = 1 .. H."""
    start = jnp.zeros(model.backbone.output_size)
    return operator_norm(first_action_jacobian(model, start, actions))


@eqx.filter_jit
def policy_norms(model: BareModel, policy: ShiftPolicy, weights: Array, lasts: Array) -> Array:
    """The norm of the policy gradient at several horizons, for the reward `weights . s_t`."""
    horizon, action_size = policy.base.shape

    def one(last: Array) -> Array:
        env = StateReward(horizon, weights, last, action_size)
        return gradient_norm(policy_gradient(policy, model, env, env.initial_state())[1])

    return jax.lax.map(one, lasts, batch_size=8)


def constant_policy(horizon: int, action_size: int) -> ShiftPolicy:
    """`a_t = theta`: the same action at every step, with the derivative 1."""
    shape = (horizon, action_size)
    return ShiftPolicy(jnp.full(action_size, 0.1), jnp.zeros(shape), jnp.ones(shape), squashed=False)


# Corollary 1.1


def measure_cor11(scale: Scale) -> Table:
    """One row a part, network and horizon: `|ds_H/da_0|` or the policy gradient's norm."""
    table = Table()
    seeds = range({"smoke": 2, "cpu": 10, "paper": 50}[scale])
    length = 60
    for seed in seeds:
        actions = jnp.asarray(np.random.default_rng(100 + seed).uniform(-1, 1, (length, ACTION_SIZE)))
        for norm in (0.8, 1.5, 3.0):
            w_x = random_matrix(norm, seed)
            radius = float(np.abs(np.linalg.eigvals(w_x)).max())
            model = network(w_x, activation=jnp.tanh, seed=seed)
            _add(table, "tanh", seed, state_norms(model, actions)[:30], norm, radius)
            # At rest tanh is not saturated anywhere; with a normal matrix the bound is then attained.
            resting = network(symmetric_matrix(norm, seed), activation=jnp.tanh, seed=seed)
            _add(table, "tanh at rest", seed, state_norms(resting, 0 * actions)[:30], norm, norm)
        rotation = 2.0 * np.linalg.qr(np.random.default_rng(seed).normal(size=(HIDDEN_SIZE, HIDDEN_SIZE)))[0]
        saturated = network(rotation, activation=jnp.tanh, bias=3.0, seed=seed)
        _add(table, "saturated", seed, state_norms(saturated, actions)[:12], 2.0, 2.0)
        for radius in (0.7, 0.95, 1.05, 1.5):
            model = network(symmetric_matrix(radius, seed), activation=identity, seed=seed)
            _add(table, "linear", seed, state_norms(model, actions), radius, radius, skip=20)
    for radius in (0.7, 0.9, 1.1, 1.5):
        lasts = np.unique(np.linspace(100, 400, 8).astype(int)) if radius < 1 else np.arange(40, 121, 10)
        policy = constant_policy(int(lasts.max()), ACTION_SIZE)
        model = network(symmetric_matrix(radius, 0), activation=identity)
        weights = jnp.asarray(np.random.default_rng(7).normal(size=HIDDEN_SIZE))
        norms = policy_norms(model, policy, weights, jnp.asarray(lasts))
        w_a = float(np.linalg.norm(np.asarray(_backbone(model).w_a), 2))
        bound = float(jnp.linalg.norm(weights)) * w_a
        for last, value in zip(lasts, np.asarray(norms), strict=True):
            table.add(
                part="policy", seed=0, norm=radius, radius=radius, horizon=last, value=value, constant=bound
            )
    return table


def _backbone(model: BareModel) -> SimpleRNN:
    assert isinstance(model.backbone, SimpleRNN)
    return model.backbone


def _add(
    table: Table, part: str, seed: int, values: object, norm: float, radius: float, skip: int = 0
) -> None:
    for index, value in enumerate(np.asarray(values)):
        if index >= skip:
            table.add(part=part, seed=seed, norm=norm, radius=radius, horizon=index + 1, value=value)


def fits(table: Table, part: str) -> list[dict[str, Any]]:
    """The growth law of every network of one part; those without one are left out."""
    found = []
    rows = table.select(part=part)
    for norm in rows.unique("norm"):
        for seed in rows.select(norm=norm).unique("seed"):
            chosen = rows.select(norm=norm, seed=seed)
            try:
                fit = growth_fit(chosen.values("horizon"), chosen.values("value"))
            except UsageError:
                continue
            found.append({"norm": norm, "radius": chosen.rows[0]["radius"], "fit": fit, "rows": chosen})
    return found


def judge_cor11(table: Table) -> Verdict:
    """All parts of the corollary, as a bound and as a law."""
    claim = (
        "|ds_H/da_0| of Equation 2 grows by at most |W_x|_2 / beta a step (tanh; saturation makes it vanish even at "
        "spectral radius 2); without activation and for symmetric W_x it grows by the spectral radius, exponentially; "
        "the policy gradient's norm is exponential above radius 1 and at most linear below"
    )
    tanh, saturated, linear = (fits(table, part) for part in ("tanh", "saturated", "linear"))
    tanh += fits(table, "tanh at rest")
    numbers = {
        "largest_eta_over_norm": max((fit["fit"].eta / fit["norm"] for fit in tanh), default=float("nan")),
        "largest_eta_saturated": max((fit["fit"].eta for fit in saturated), default=float("nan")),
        "largest_radius_error": max(
            (abs(fit["fit"].eta / fit["radius"] - 1) for fit in linear), default=float("nan")
        ),
        "exponential_preferred": sum(fit["fit"].law == "exponential" for fit in linear),
        "linear_networks": len(linear),
        "networks": {
            part: len(found) for part, found in (("tanh", tanh), ("saturated", saturated), ("linear", linear))
        },
        **_policy_numbers(table),
    }
    checks = {
        "tanh within the bound": _at_most(numbers["largest_eta_over_norm"], 1 + ROUNDING),
        "saturation vanishes": _at_most(numbers["largest_eta_saturated"], 1 - WITHIN),
        "eta is the spectral radius": _at_most(numbers["largest_radius_error"], WITHIN),
        "exponential preferred": numbers["exponential_preferred"] == len(linear) if linear else None,
        "policy gradient exponential above 1": numbers["policy_exponential_above"],
        "policy gradient at most linear below 1": numbers["policy_linear_below"],
    }
    failed = [name for name, holds in checks.items() if holds is False]
    unknown = [name for name, holds in checks.items() if holds is None]
    reason = (
        f"eta is at most {numbers['largest_eta_over_norm']:.3g} of |W_x| with tanh, at most "
        f"{numbers['largest_eta_saturated']:.2g} when saturated at radius 2, and within "
        f"{numbers['largest_radius_error']:.2g} of the spectral radius without activation; below radius 1 the policy "
        f"gradient's degree is {numbers['policy_degree_below']:.3g}"
    )
    if failed or unknown:
        reason += f"; not so: {', '.join(failed) or 'nothing'}; not known: {', '.join(unknown) or 'nothing'}"
    return decide("cor1.1", claim, both(*checks.values()), reason, {**numbers, "checks": checks})


def _at_most(value: float, limit: float) -> bool | None:
    return None if value != value else value <= limit


def _policy_numbers(table: Table) -> dict[str, Any]:
    """Growth of the policy gradient: exponential above radius 1; below, its degree and the linear bound."""
    found = fits(table, "policy")
    above = [item for item in found if item["radius"] > 1]
    below = [item for item in found if item["radius"] < 1]
    exponential = [
        item["fit"].law == "exponential" and abs(item["fit"].eta / item["radius"] - 1) <= WITHIN
        for item in above
    ]
    shares = [
        worst(item["rows"].values("value") * (1 - item["radius"]) / item["rows"].values("horizon")
              / item["rows"].values("constant"))
        for item in below
    ]  # fmt: skip
    degree = max((item["fit"].p for item in below), default=float("nan"))
    return {
        "policy_exponential_above": all(exponential) if exponential else None,
        "policy_degree_below": degree,
        "policy_share_of_linear_bound": max(shares, default=float("nan")),
        "policy_linear_below": max(shares) <= 1 + ROUNDING and degree <= 1.1 if shares else None,
    }


# Corollary A.1


def measure_cor_a1(scale: Scale) -> Table:
    """One row an eta and horizon of positive scalars: the gradient, the bound of Equation 4, and the printed step.

    Horizons are counted as in the paper: H states of which the first is given, so H - 1 actions.
    """
    table = Table()
    lasts = np.array([2, 5, 10, 20, 40] if scale != "paper" else [2, 5, 10, 20, 40, 100, 200])
    w_a, w_o, slope = 0.7, 1.3, 2.0
    for eta in (0.5, 0.9, 1.0, 1.1, 2.0, 10.0):
        backbone = SimpleRNN(
            *(jnp.array([[w]]) for w in (eta, w_a)), jnp.zeros(1), jnp.array([[w_o]]), identity
        )
        policy = constant_policy(int(lasts.max()), 1)
        norms = policy_norms(BareModel(backbone), policy, jnp.array([slope]), jnp.asarray(lasts))
        for last, value in zip(lasts, np.asarray(norms), strict=True):
            paper_horizon = int(last) + 1
            lags = np.arange(paper_horizon - 1)
            # Equation 4 with the pairs (t, k) gathered by their lag t - k - 1, of which there are H - 1 - lag.
            bound = slope * w_o * w_a * float(np.sum((paper_horizon - 1 - lags) * eta**lags))
            printed = slope * w_o * w_a * eta ** (paper_horizon - 1)
            row = {"eta": eta, "horizon": paper_horizon, "gradient_norm": value}
            table.add(**row, bound=bound, printed_step=printed, corrected_step=printed / eta)
    return table


def judge_cor_a1(table: Table) -> Verdict:
    """Equality, and the slip in the step after it."""
    claim = "for positive scalars without activation and a linear reward the bound of Equation 4 is attained"
    ratios = table.values("gradient_norm") / table.values("bound")
    error = worst(np.abs(ratios - 1))
    short = table.values("gradient_norm") < table.values("printed_step") * (1 - ROUNDING)
    corrected = table.values("gradient_norm") >= table.values("corrected_step") * (1 - ROUNDING)
    numbers = {
        "largest_relative_error": error,
        "tolerance": ROUNDING,
        "printed_step_violated": int(short.sum()),
        "corrected_step_holds": bool(corrected.all()),
        "rows": len(table),
    }
    reason = (
        f"gradient and bound agree to {error:.2g}; the printed step >= ... eta^(H-1) fails in {int(short.sum())} of "
        f"{len(table)} rows, with eta^(H-2) it {'never does' if corrected.all() else 'fails too'}"
    )
    return decide("corA.1", claim, None if error != error else error <= ROUNDING, reason, numbers)
