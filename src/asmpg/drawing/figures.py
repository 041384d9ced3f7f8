"""What all figures have in common: panels, the scale below the title, PNG and SVG."""

import io
import textwrap
from typing import Any, Literal

import numpy as np


# Of a title, for each inch.
_LETTERS = 12


def panels(
    rows: int, columns: int, title: str, scale: str, size: tuple[float, float] = (4.6, 3.6)
) -> tuple[Any, Any]:
    """A figure and its axes as an array [rows, columns]; a scale other than the paper's is said on it.

    Args:
        rows: panels from top to bottom.
        columns: panels from left to right.
        title: above everything.
        scale: of the experiment.
        size: of a panel, in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    reduced = f"\nreduced: scale {scale}" if scale in ("smoke", "cpu") else ""
    figure.suptitle(textwrap.fill(title, int(_LETTERS * size[0] * columns)) + reduced, fontsize=11)
    return figure, figure.subplots(rows, columns, squeeze=False)


def encode(figure: Any, suffix: Literal["png", "svg"] | str, **notes: str) -> bytes:
    """A figure as a file, the same bytes for the same figure; notes are kept in a PNG by name."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "asmpg", "svg.fonttype": "path"}):
        metadata = {"Date": None} if suffix == "svg" else {"Software": None, **notes}
        figure.savefig(stream, format=suffix, dpi=150, metadata=metadata)
    return stream.getvalue()


def heat_map(
    figure: Any, axes: Any, values: np.ndarray, title: str, limits: tuple[float, float] | None = None
) -> None:
    """A matrix [state, action], states from 1 and actions from 0 at the top left; what is not causal stays white."""
    shown = np.where(np.tri(*values.shape, dtype=bool), values, np.nan)
    low, high = limits or (0.0, float(np.nanmax(shown, initial=0.0)) or 1.0)
    rows, columns = shown.shape
    edges = (-0.5, columns - 0.5, rows + 0.5, 0.5)
    image = axes.imshow(shown, cmap="magma_r", vmin=low, vmax=high, interpolation="nearest", extent=edges)
    axes.set(xlabel="action k", ylabel="state t", title=title)
    figure.colorbar(image, ax=axes, shrink=0.8)


def finish(axes: Any, **settings: Any) -> None:
    """Labels, a faint grid and a legend."""
    axes.set(**settings)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
