"""The figure of `asmpg diagnose`: norms against the horizon, within an episode, and the whole Jacobian."""

import math
from typing import Any

import numpy as np

from ..drawing.figures import finish, heat_map, panels
from ..drawing.looks import ALONE, LOOKS, looks_of


def _numbers(values: list[float | int | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def rate_text(eta: float) -> str:
    """A growth factor with two digits of its difference from 1: a step's 1.0051 is a factor 12 over 500 steps."""
    distance = abs(eta - 1.0)
    if not 0.0 < distance < 0.1:
        return f"{eta:.3g}"
    return f"{eta:.{1 - math.floor(math.log10(distance))}f}".rstrip("0").rstrip(".")


def draw(content: dict[str, Any], jacobian: np.ndarray) -> Any:
    """The figure.

    Args:
        content: of `diagnose.json`.
        jacobian: `|ds_t/da_k|` over the first steps of an episode.
    """
    kind = "trained" if content["trained"] else "untrained"
    title = f"{content['task']}: gradients through the {kind} {content['model']} model"
    figure, axes = panels(1, 3, title, "paper", (4.8, 3.8))
    left, middle, right = axes[0]
    colour = looks_of([content["model"]])[content["model"]].light
    for label, key, shade in (
        ("model", "gradient_norm", colour),
        ("truth", "true_gradient_norm", LOOKS["truth"].light),
    ):
        if label == "truth" and not content["truth_known"]:
            continue
        norms = {name: _numbers(values) for name, values in content[key].items()}
        left.plot(
            content["horizons"], norms["median"], "o-", color=shade, markersize=4, label=f"{label}, median"
        )
        left.plot(
            content["horizons"], norms["mean"], "x--", color=shade, markersize=4, label=f"{label}, mean"
        )
        low, high = norms["quantile_0.1"], norms["quantile_0.9"]
        left.fill_between(content["horizons"], low, high, color=shade, alpha=0.12, linewidth=0)
    finish(left, xlabel="horizon H", ylabel="|ds_H/da_0|", title="against the horizon (10% to 90%)")
    left.set_xticks(content["horizons"])
    profile = {name: _numbers(values) for name, values in content["profile"].items()}
    if content["truth_known"]:
        middle.plot(profile["step"], profile["truth"], color=LOOKS["truth"].light, label="truth")
    middle.plot(profile["step"], profile["model"], color=colour, label="model")
    growth = content["growth"]
    if growth["law"] in ("exponential", "power"):
        x = profile["step"]
        shape = x * np.log(growth["eta"]) if growth["law"] == "exponential" else growth["p"] * np.log(x)
        offset = np.mean(np.log(profile["model"]) - shape)
        law = (
            f"eta = {rate_text(growth['eta'])}"
            if growth["law"] == "exponential"
            else f"degree {growth['p']:.2g}"
        )
        middle.plot(x, np.exp(offset + shape), ":", color=ALONE.light, label=f"{growth['law']}, {law}")
    finish(middle, xlabel="step t", ylabel="|ds_t/da_0|", title="within one episode (median)")
    for place, lines in ((left, ("gradient_norm", "true_gradient_norm")), (middle, ("profile",))):
        if any((_numbers(values) > 0).any() for key in lines for values in content[key].values()):
            place.set_yscale("log")
    heat_map(figure, right, jacobian, "|ds_t/da_k|, one episode")
    return figure
