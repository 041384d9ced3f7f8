"""The learning curve of one run."""

import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...drawing.looks import ALONE


# Matplotlib does not promise that two threads may draw at once.
_DRAWING = threading.Lock()
_SIGNATURE, _KEYWORD = b"\x89PNG\r\n\x1a\n", "asmpg"


def mark(title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float]) -> str:
    """A hash of all that a curve is drawn from, which is kept in the picture."""
    numbers = b"".join(metrics[name].tobytes() for name in ("steps", "return", "score") if name in metrics)
    return hashlib.sha256(repr((title, sorted(references.items()))).encode() + numbers).hexdigest()


def read_mark(picture: bytes) -> str | None:
    """The mark of a picture; None if it has none, or is not whole."""
    place, found = len(_SIGNATURE), None
    try:
        while True:
            size, kind = struct.unpack_from(">I4s", picture, place)
            content = picture[place + 4 : place + 8 + size]
            if struct.unpack_from(">I", picture, place + 8 + size) != (zlib.crc32(content),):
                return None
            keyword, _, text = content[4:].partition(b"\0")
            if kind == b"tEXt" and keyword == _KEYWORD.encode():
                found = text.decode("latin-1")
            place += 12 + size
            if kind == b"IEND":
                return found if picture.startswith(_SIGNATURE) and place == len(picture) else None
    except struct.error:  # it is cut off
        return None


def learning_curve(
    title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float], mark: str = ""
) -> bytes:
    """Score, or return where no score is known, against environment steps: every seed thin, their mean thick.

    Args:
        title: above the figure.
        metrics: `steps`, `return` and perhaps `score`, each [records, num_seeds].
        references: returns to mark by a horizontal line, by name; "random" and "optimum" among them for scores.
        mark: is kept in the picture, for `read_mark`.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with _DRAWING:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        drawn, stream = figure(title, metrics, references), io.BytesIO()
        FigureCanvasAgg(drawn)
        drawn.savefig(stream, format="png", dpi=150, metadata={_KEYWORD: mark})
        return stream.getvalue()


def figure(title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float]) -> Any:
    """The same as a Matplotlib figure."""
    from matplotlib.figure import Figure

    name = "score" if "score" in metrics else "return"
    steps, values = metrics["steps"][:, 0], metrics[name]
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.add_subplot()
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
        axes.plot(steps, values, color=ALONE.light, linewidth=0.8, alpha=0.4)
    label = f"mean of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    axes.plot(
        steps, values.mean(axis=1), color=ALONE.light, linewidth=2.0, marker="o", markersize=3, label=label
    )
    if name == "score":
        # A policy far below random would press everything of interest into a line.
        axes.set_ylim(bottom=max(-1.0, min(-0.05, float(np.nanmin(values, initial=0.0)) - 0.05)))
    axes.set(xlabel="environment steps per seed, warm-up included", ylabel=name)
    axes.set_title(title, fontsize=9 if "\n" in title else None)
    axes.set_xlim(left=0)
    axes.legend(loc="center right", frameon=False)
    axes.grid(alpha=0.25)
    return drawn
