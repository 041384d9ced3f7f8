"""Theorem 1: the policy gradient is bounded by the sum of the norms of the model's Jacobians."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ...gradients.analysis import theorem1_bound
from ...gradients.policies import TanhGaussianPolicy
from ...models import AbstractDynamicsModel, ActionSequenceModel, Simulator
from ...sweeps import Scale
from ...tasks.environment import AbstractEnvironment
from ..table import Table
from ..verdicts import decide, Verdict
from .parts import random_policies, ROUNDING, tasks, worst


NUM_POLICIES = 4
MODELS = ("simulator", "rnn", "transformer")


def measure(scale: Scale) -> Table:
    """One row a task, model and policy: the gradient's norm, the bound as printed, and with the actions' term."""
    table = Table()
    environments = tasks(scale)
    problems = [(env, "simulator") for env in environments]
    if scale != "smoke":
        problems += [(env, name) for env in environments[-3:] for name in MODELS[1:]]
    for env, name in problems:
        policies = random_policies(env, NUM_POLICIES, key=jax.random.key(4))
        model = Simulator(env)
        if name != "simulator":
            normaliser = jax.tree.map(lambda leaf: leaf[0], policies.normaliser)
            model = ActionSequenceModel(env, name, key=jax.random.key(5), normaliser=normaliser)
        columns = _bounds(env, model, policies)
        for policy, (norm, printed, full, direct) in enumerate(zip(*map(np.asarray, columns), strict=True)):
            row = {"task": env.name, "horizon": env.horizon, "model": name, "policy": policy}
            table.add(**row, gradient_norm=norm, paper_bound=printed, bound=full, action_sum=direct)
    return table


@eqx.filter_jit
def _bounds(
    env: AbstractEnvironment, model: AbstractDynamicsModel, policies: TanhGaussianPolicy
) -> tuple[Array, ...]:
    """Gradient norm, printed bound, full bound and the actions' term of every policy."""

    def one(policy: TanhGaussianPolicy) -> tuple[Array, ...]:
        found = theorem1_bound(policy, model, env, env.initial_state())
        return found.gradient_norm, found.paper_bound, found.bound, found.action_sum

    return jax.vmap(one)(policies)


def judge(table: Table) -> Verdict:
    """As printed where the reward reads the state alone; with the actions' term everywhere."""
    claim = (
        "|grad J| <= L_r L_pi sum |ds_t/da_k| for rewards of the state alone, with L_pi the policy's Lipschitz "
        "constant in its parameters; plus L_pi sum |dr/da_t| for all rewards"
    )
    full = table.values("gradient_norm") / table.values("bound")
    printed = table.values("gradient_norm") / table.values("paper_bound")
    state_only = table.values("action_sum") == 0
    violated = sorted({str(row["task"]) for row, ratio, plain in zip(table, printed, state_only, strict=True)
                       if not plain and ratio > 1})  # fmt: skip
    numbers = {
        "largest_ratio_state_only": worst(printed[state_only]),
        "largest_ratio": worst(full),
        "median_ratio": float(np.median(full)) if full.size else float("nan"),
        "rows": len(table),
        "printed_form_violated_on": violated,
    }
    ratios = (numbers["largest_ratio_state_only"], numbers["largest_ratio"])
    holds = None if any(ratio != ratio for ratio in ratios) else max(ratios) <= 1 + ROUNDING
    reason = (
        f"the gradient's norm is at most {ratios[0]:.3g} of the printed bound where the reward reads the state alone, "
        f"and at most {ratios[1]:.3g} (median {numbers['median_ratio']:.2g}) of the full one anywhere; the printed "
        f"form, which knows nothing of rewards that read the action, fails on {', '.join(violated) or 'none'}"
    )
    return decide("theorem1", claim, holds, reason, numbers)
