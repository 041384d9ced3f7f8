"""The learning curve of one run."""

import hashlib
import struct
import threading
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...drawing.charts import Chart, Panel, render, Series
from ...drawing.figures import encode


# Names of the two references that a score needs.
RANDOM, OPTIMUM = "random actions", "optimum"
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
    """Score, or return where no score is known, against environment steps.

    Args:
        title: above the figure.
        metrics: `steps`, `return` and perhaps `score`, each [records, num_seeds].
        references: returns to mark by a horizontal line, by name; those of random actions and of the optimum among them
            for scores.
        mark: is kept in the picture, for `read_mark`.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with _DRAWING:
        return encode(figure(title, metrics, references), "png", **{_KEYWORD: mark})


def figure(title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float]) -> Any:
    """The same as a Matplotlib figure."""
    return render(chart(title, metrics, references), "paper")


def chart(title: str, metrics: Mapping[str, np.ndarray], references: Mapping[str, float]) -> Chart:
    """The same as data: every seed thin, their mean thick."""
    name = "score" if "score" in metrics else "return"
    steps, values = metrics["steps"][:, 0].tolist(), metrics[name]
    heights, limits = dict(references), None
    if name == "score":
        low, gap = references[RANDOM], references[OPTIMUM] - references[RANDOM]
        heights = {label: (height - low) / gap for label, height in references.items()} if gap > 0 else {}
        # A policy far below random would press everything of interest into a line.
        limits = (
            max(-1.0, float(np.nanmin(values, initial=0.0)) - 0.05),
            float(np.nanmax(values, initial=1.0)) + 0.05,
        )
    lines = [Series(label, [0, steps[-1]], [height] * 2) for label, height in heights.items()]
    if values.shape[1] > 1:
        lines += [Series("each seed", steps, seed.tolist()) for seed in values.T]
    label = "mean of seeds" if values.shape[1] > 1 else "one seed"
    lines.append(Series(label, steps, values.mean(axis=1).tolist()))
    x_label = "environment steps per seed, warm-up included"
    return Chart("", "learning_curve", title, [Panel("", x_label, name, lines, y_limits=limits)], 1)
