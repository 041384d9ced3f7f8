"""What one model does to gradients on one task, measured and put into plain words."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ..core import files
from ..core.files import write
from ..core.plain import plain
from ..core.types import UsageError
from ..drawing.figures import encode
from ..gradients.analysis import (
    check_fits,
    cosine_similarity,
    final_state_jacobian,
    first_action_jacobian,
    gradient_norm,
    growth_fit,
    GrowthFit,
    jacobian_norms,
    locate_nonfinite,
    operator_norm,
)
from ..gradients.policies import AbstractPolicy
from ..gradients.policy_gradient import policy_gradient
from ..models import AbstractDynamicsModel, Simulator
from ..tasks.environment import AbstractEnvironment
from ..tasks.spec import Spec
from . import figure as diagnosis_figure
from .advice import advice
from .finding import finding


NUM_SAMPLES = 16
# A heat map of a longer episode would take minutes and show pixels no screen has.
HEAT_MAP_HORIZON = 100
PROFILE_POINTS = 100


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is looked at, at one horizon.

    Attributes:
        env: the task; of what is no task, its sizes, and then there is no truth to compare with.
        model: the model, fitting the task.
        policy: whose gradient is compared with the true one.
        start: `s_0`.
        actions: where Jacobians are taken.
        before: the same model before training, if this one is trained.
    """

    env: Spec
    model: AbstractDynamicsModel
    policy: AbstractPolicy
    start: Float[Array, " state"]
    actions: Float[Array, "samples horizon action"]
    before: AbstractDynamicsModel | None = None

    @property
    def truth(self) -> Simulator | None:
        """The task as a model, where it is one whose derivatives are known."""
        return Simulator(self.env) if isinstance(self.env, AbstractEnvironment) else None


@eqx.filter_jit
def end_norms(model: AbstractDynamicsModel, start: Array, actions: Array) -> tuple[Array, Array]:
    """`|ds_H/da_0|` and `|ds_H/da_{H-1}|` for every action sequence."""

    def one(actions: Array) -> tuple[Array, Array]:
        final = final_state_jacobian(model, start, actions)
        return operator_norm(final[:, 0]), operator_norm(final[:, -1])

    return jax.lax.map(one, actions, batch_size=4)


@eqx.filter_jit
def step_norms(model: AbstractDynamicsModel, start: Array, actions: Array) -> Array:
    """`|ds_t/da_0|` at t = 1 .. H for every action sequence."""
    return jax.lax.map(
        lambda actions: operator_norm(first_action_jacobian(model, start, actions)), actions, batch_size=4
    )


@eqx.filter_jit
def compare_directions(subject: Any) -> tuple[Array, Array, Array]:
    """Cosine between the policy gradients through model and truth, and their norms."""
    policy, model, env, start = subject
    estimate, truth = (policy_gradient(policy, m, env, start)[1] for m in (model, Simulator(env)))
    return cosine_similarity(estimate, truth), gradient_norm(estimate), gradient_norm(truth)


def diagnose(
    subjects: Callable[[int], Subject],
    horizons: Sequence[int],
    name: str,
    out: str | pathlib.Path,
    report: Callable[[int, int, str], None] = lambda done, total, message: None,
) -> dict[str, Any]:
    """Measures gradient norms, their growth, reach and direction, draws them and says what they mean.

    Args:
        subjects: gives what to look at, at a horizon. A trained model has only one: the episodes are cut instead.
        horizons: at which, in rising order.
        name: of the model, for words and titles.
        out: the folder for `diagnose.json` and the figure; made if need be.
        report: is told how far it is.

    Returns:
        What `diagnose.json` holds.

    Raises:
        UsageError: a model of another task or horizon, or `out` cannot be a folder.
        StorageError: the disk refused.
    """
    longest = subjects(max(horizons))
    for horizon in horizons:
        check_fits((subject := subjects(horizon)).model, subject.env)
    folder = pathlib.Path(out)
    files.make_folder("out", folder)
    measured = []
    for done, horizon in enumerate(horizons):
        report(done, len(horizons) + 1, f"H = {horizon}")
        measured.append(_measure(subjects(horizon), horizon))
    report(len(horizons), len(horizons) + 1, f"one episode of {max(horizons)} steps")
    profiles = _profiles(longest)
    content = _summary(longest, horizons, name, measured, profiles)
    content["out"] = str(folder)
    size = min(longest.env.horizon, HEAT_MAP_HORIZON)
    norms = eqx.filter_jit(jacobian_norms)(longest.model, longest.start, longest.actions[0, :size])
    figure = diagnosis_figure.draw(content, np.asarray(norms))
    for suffix in ("png", "svg"):
        write(folder / f"diagnose.{suffix}", encode(figure, suffix))
    write(folder / "diagnose.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return content


def _measure(subject: Subject, horizon: int) -> dict[str, Any]:
    """Everything at one horizon; a longer episode is cut there, and then has no policy gradient of its own."""
    actions = subject.actions[:, :horizon]
    truth = subject.truth
    models = {"the model": subject.model} | ({} if truth is None else {"the truth": truth})
    if subject.before is not None:
        models["the model before training"] = subject.before
    ends = {
        name: tuple(map(np.asarray, end_norms(one, subject.start, actions))) for name, one in models.items()
    }
    cosine, unknown = math.nan, np.full(len(ends["the model"][0]), math.nan)
    norms = {"the model": math.nan, "the truth": math.nan}
    if horizon == subject.env.horizon and truth is not None:
        numbers = compare_directions((subject.policy, subject.model, subject.env, subject.start))
        cosine, norms["the model"], norms["the truth"] = map(float, numbers)
        parts = [_part("policy gradients", name, horizon, np.array([norm])) for name, norm in norms.items()]
    else:
        parts = []
    for name, (first, last) in ends.items():
        parts += [_part("|ds_H/da_0|", name, horizon, first), _part("|ds_H/da_(H-1)|", name, horizon, last)]
    before = ends.get("the model before training")
    return {
        "norms": ends["the model"][0],
        "true_norms": unknown if truth is None else ends["the truth"][0],
        "reach": _ratio(*ends["the model"]),
        "true_reach": math.nan if truth is None else _ratio(*ends["the truth"]),
        "reach_before": math.nan if before is None else _ratio(*before),
        "cosine": cosine,
        "policy_norm": norms["the model"],
        "true_policy_norm": norms["the truth"],
        "nonfinite_parts": [part for part in parts if part["count"]],
    }


def _part(what: str, through: str, horizon: int, values: np.ndarray) -> dict[str, Any]:
    """How many of some numbers are not finite."""
    count = int((~np.isfinite(values)).sum())
    return {"what": f"{what} through {through}", "horizon": horizon, "count": count, "of": values.size}


def _ratio(first: np.ndarray, last: np.ndarray) -> float:
    """The median ratio; NaN where one is not finite, or the last action has no effect to compare with."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = first / last
    return float(np.median(ratios)) if np.isfinite(ratios).all() else math.nan


def _profiles(subject: Subject) -> dict[str, np.ndarray]:
    """The median of `|ds_t/da_0|` over the samples, for the model and the truth, at up to 100 of the steps."""
    found = {"truth": np.full(subject.env.horizon, math.nan)}
    for name, model in {"model": subject.model, "truth": subject.truth}.items():
        if model is None:
            continue
        found[name] = np.median(np.asarray(step_norms(model, subject.start, subject.actions)), axis=0)
    steps = np.unique(np.linspace(1, subject.env.horizon, PROFILE_POINTS).astype(int))
    return {"step": steps, **{name: values[steps - 1] for name, values in found.items()}}


def fitted(profiles: dict[str, np.ndarray], which: str) -> GrowthFit | str:
    """The growth law of a profile within one episode, or why there is none."""
    try:
        return growth_fit(profiles["step"], profiles[which])
    except UsageError as error:
        return str(error).removeprefix("growth_fit: ")


def _summary(
    subject: Subject,
    horizons: Sequence[int],
    name: str,
    measured: list[dict[str, Any]],
    profiles: dict[str, np.ndarray],
) -> dict[str, Any]:
    """The content of `diagnose.json`."""

    def statistics(which: str) -> dict[str, list[float]]:
        rows = [row[which] for row in measured]
        named = {"mean": np.mean, "median": np.median}
        quantiles = {
            f"quantile_{level:g}": lambda x, level=level: np.quantile(x, level) for level in (0.1, 0.9)
        }
        return {label: [float(f(row)) for row in rows] for label, f in {**named, **quantiles}.items()}

    truth = subject.truth
    fits = {which: fitted(profiles, which) for which in ("model", "truth")}
    if truth is None:
        fits["truth"] = "there is no task whose derivatives are known"
    num_nonfinite = sum(int((~np.isfinite(row["norms"])).sum()) for row in measured)
    parts = [part for row in measured for part in row["nonfinite_parts"]]
    nonfinite = None
    if parts and truth is not None:
        model = subject.model if num_nonfinite else truth
        found = locate_nonfinite(model, truth.env, subject.start, subject.actions[0])
        nonfinite = "not found again step by step" if found is None else str(found)
    content = {
        "task": subject.env.name,
        "model": name,
        "trained": subject.before is not None,
        "truth_known": truth is not None,
        "horizons": list(horizons),
        "gradient_norm": statistics("norms"),
        "true_gradient_norm": statistics("true_norms"),
        "policy_gradient_norm": [row["policy_norm"] for row in measured],
        "true_policy_gradient_norm": [row["true_policy_norm"] for row in measured],
        "growth": _growth(fits["model"]),
        "true_growth": _growth(fits["truth"]),
        "reach": [row["reach"] for row in measured],
        "reach_before": [row["reach_before"] for row in measured] if subject.before is not None else None,
        "true_reach": [row["true_reach"] for row in measured],
        "cosine": [row["cosine"] for row in measured],
        "num_nonfinite": num_nonfinite,
        "nonfinite_parts": parts,
        "nonfinite": nonfinite,
        "profile": profiles,
    }
    content = plain(content)
    content["finding"] = finding(content)
    content["advice"] = advice(content)
    return content


def _growth(fit: GrowthFit | str) -> dict[str, Any]:
    return {"law": None, "reason": fit} if isinstance(fit, str) else fit.summary()
