"""The learning curve of one run."""

import io
import threading
from collections.abc import Mapping

import numpy as np


# Matplotlib does not promise that two threads may draw at once.
_DRAWING = threading.Lock()


def learning_curve(title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float]) -> bytes:
    """Score, or return where no score is known, against environment steps: every seed thin, their mean thick.

    Args:
        title: above the figure.
        metrics: `steps`, `return` and perhaps `score`, each [records, num_seeds].
        references: returns to mark by a horizontal line, by name; "random" and "optimum" among them for scores.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with _DRAWING:
        return _draw(title, metrics, references)


def _draw(title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = "score" if "score" in metrics else "return"
    steps, values = metrics["steps"][:, 0], metrics[name]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    marks = dict(references)
    if name == "score":
        low, gap = references["random"], references["optimum"] - references["random"]
        marks = {label: (height - low) / gap for label, height in references.items()} if gap > 0 else {}
    for label, height in marks.items():
        style = "--" if label == "optimum" else ":"
        axes.axhline(height, color="0.45", linestyle=style, linewidth=1.0)
        axes.annotate(
            label, (1.0, height), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", color="0.45", fontsize=8,
        )  # fmt: skip
    num_seeds = values.shape[1]
    if num_seeds > 1:
        axes.plot(steps, values, color="tab:blue", linewidth=0.8, alpha=0.4)
    label = f"mean of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    axes.plot(
        steps, values.mean(axis=1), color="tab:blue", linewidth=2.0, marker="o", markersize=3, label=label
    )
    if name == "score":
        # A policy far below random would press everything of interest into a line.
        axes.set_ylim(bottom=max(-1.0, min(-0.05, float(np.nanmin(values, initial=0.0)) - 0.05)))
    axes.set(xlabel="environment steps per seed, warm-up included", ylabel=name)
    axes.set_title(title, fontsize=9 if "\n" in title else None)
    axes.set_xlim(left=0)
    axes.legend(loc="center right", frameon=False)
    axes.grid(alpha=0.25)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
