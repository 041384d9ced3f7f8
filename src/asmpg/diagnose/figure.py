"""The figure of `asmpg diagnose`: norms against the horizon, within an episode, and the whole Jacobian."""

import math
from typing import Any

import numpy as np

from ..drawing.charts import draw_panel, Panel, Series
from ..drawing.figures import heat_map, panels


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
    for place, panel in zip(axes[0], (against_horizon(content), within_episode(content)), strict=False):
        draw_panel(place, panel)
    heat_map(figure, axes[0, 2], jacobian, "|ds_t/da_k|, one episode")
    return figure


def against_horizon(content: dict[str, Any]) -> Panel:
    """Norms of the last state's derivative by the first action, of models of every horizon."""
    of = {content["model"]: content["gradient_norm"]}
    if content["truth_known"]:
        of["truth"] = content["true_gradient_norm"]
    x, lines = content["horizons"], []
    for name, norms in of.items():
        lines.append(
            Series(name, x, *(_plain(norms[part]) for part in ("median", "quantile_0.1", "quantile_0.9")))
        )
        lines.append(Series(f"{name}, mean", x, _plain(norms["mean"])))
    return _panel("median over episodes (10% to 90%) against the horizon", "horizon H", "|ds_H/da_0|", lines)


def within_episode(content: dict[str, Any]) -> Panel:
    """Norms of every state's derivative by the first action, and the law that fits them."""
    profile, growth = content["profile"], content["growth"]
    x = profile["step"]
    lines = [Series(content["model"], x, _plain(profile["model"]))]
    if content["truth_known"]:
        lines.append(Series("truth", x, _plain(profile["truth"])))
    law, log_shape = "", np.zeros(len(x))
    if growth["law"] == "exponential":
        law, log_shape = f"eta = {rate_text(growth['eta'])}", np.log(growth["eta"]) * np.asarray(x)
    elif growth["law"] == "power":
        law, log_shape = f"degree {growth['p']:.2g}", growth["p"] * np.log(x)
    if law:
        offset = np.mean(np.log(_numbers(profile["model"])) - log_shape)
        lines.append(Series(f"{growth['law']}, {law}", x, np.exp(offset + log_shape).tolist()))
    return _panel("within one episode (median)", "step t", "|ds_t/da_0|", lines)


def _panel(title: str, x_label: str, y_label: str, lines: list[Series]) -> Panel:
    """On a logarithmic axis, unless there is nothing to show on one."""
    positive = any(value > 0 for line in lines for value in line.y)
    return Panel(title, x_label, y_label, lines, y_log=positive)


def _plain(values: list[float | int | None]) -> list[float]:
    return _numbers(values).tolist()
