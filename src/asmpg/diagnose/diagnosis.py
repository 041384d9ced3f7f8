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
from . import figure as diagnosis_figure


NUM_SAMPLES = 16
# A heat map of a longer episode would take minutes and show pixels no screen has.
HEAT_MAP_HORIZON = 100
PROFILE_POINTS = 100


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is looked at, at one horizon.

    Attributes:
        env: the task.
        model: the model, fitting the task.
        policy: whose gradient is compared with the true one.
        start: `s_0`.
        actions: where Jacobians are taken.
        before: the same model before training, if this one is trained.
    """

    env: AbstractEnvironment
    model: AbstractDynamicsModel
    policy: AbstractPolicy
    start: Float[Array, " state"]
    actions: Float[Array, "samples horizon action"]
    before: AbstractDynamicsModel | None = None


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
    first, last = map(np.asarray, end_norms(subject.model, subject.start, actions))
    true_first, true_last = map(np.asarray, end_norms(Simulator(subject.env), subject.start, actions))
    found = {"norms": first, "true_norms": true_first, "reach": _ratio(first, last)}
    found["true_reach"] = _ratio(true_first, true_last)
    found["reach_before"] = math.nan
    if subject.before is not None:
        found["reach_before"] = _ratio(*map(np.asarray, end_norms(subject.before, subject.start, actions)))
    cosine = estimate = truth = math.nan
    if horizon == subject.env.horizon:
        numbers = compare_directions((subject.policy, subject.model, subject.env, subject.start))
        cosine, estimate, truth = map(float, numbers)
    return found | {"cosine": cosine, "policy_norm": estimate, "true_policy_norm": truth}


def _ratio(first: np.ndarray, last: np.ndarray) -> float:
    """The median ratio; NaN where the last action has no effect, so that there is nothing to compare with."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = first / last
    return float(np.median(ratios)) if np.isfinite(ratios).all() else math.nan


def _profiles(subject: Subject) -> dict[str, np.ndarray]:
    """The median of `|ds_t/da_0|` over the samples, for the model and the truth, at up to 100 of the steps."""
    found = {}
    for name, model in {"model": subject.model, "truth": Simulator(subject.env)}.items():
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

    fits = {which: fitted(profiles, which) for which in ("model", "truth")}
    num_nonfinite = sum(int((~np.isfinite(row["norms"])).sum()) for row in measured)
    nonfinite = None
    if num_nonfinite:
        found = locate_nonfinite(subject.model, subject.env, subject.start, subject.actions[0])
        nonfinite = "not found again step by step" if found is None else str(found)
    content = {
        "task": subject.env.name,
        "model": name,
        "trained": subject.before is not None,
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
        "nonfinite": nonfinite,
        "profile": profiles,
    }
    content = plain(content)
    content["finding"] = finding(content)
    return content


def _growth(fit: GrowthFit | str) -> dict[str, Any]:
    return {"law": None, "reason": fit} if isinstance(fit, str) else fit.summary()


def finding(content: dict[str, Any]) -> str:
    """The measurements in plain words.

    Args:
        content: of `diagnose.json`.
    """
    longest = content["horizons"][-1]
    kind = "trained" if content["trained"] else "untrained"
    sentences = [
        f"This {kind} model ({content['model']}) of {content['task']}: {_reach_words(content, longest)}."
    ]
    sentences.append(
        f"Within an episode, {_growth_words(content['growth'])}; in truth {_growth_words(content['true_growth'])}."
    )
    cosine = content["cosine"][-1]
    if cosine is not None:
        sentences.append(f"Its policy gradient's cosine to the truth is {cosine:.2f} at H = {longest}.")
    elif content["policy_gradient_norm"][-1] is not None:
        sentences.append(
            "Its policy gradient has no direction to compare: it, or the true one, is zero or not finite."
        )
    if content["num_nonfinite"]:
        sentences.append(f"{content['num_nonfinite']} gradients are not finite; {content['nonfinite']}.")
    return " ".join(sentences)


def _reach_words(content: dict[str, Any], longest: int) -> str:
    reach, before = content["reach"][-1], content["reach_before"]
    if reach is None:
        return (
            f"the last action has no effect on the last state, so its reach at H = {longest} cannot be told"
        )
    words = f"it carries {reach:.2g} of the gradient from step {longest} to step 0"
    if before is not None and before[-1] is not None:
        words += f" (before training {before[-1]:.2g})"
    truth = content["true_reach"][-1]
    return words if truth is None else f"{words}, where the truth carries {truth:.2g}"


def _growth_words(growth: dict[str, Any]) -> str:
    """What happens to the first action's gradient as the state it reaches gets later."""
    if growth["law"] is None:
        return f"no growth law can be fitted ({growth['reason']})"
    eta, p = diagnosis_figure.rate_text(growth["eta"]), growth["p"]
    return {
        "exponential": f"the growth is exponential, eta = {eta} a step",
        "power": f"the growth is a power of the step, of degree {p:.2g}",
        "constant": "the gradient neither grows nor fades",
        "undecided": f"no law fits clearly better than the other (eta = {eta} a step, or degree {p:.2g})",
    }[growth["law"]]
