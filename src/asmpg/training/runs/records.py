"""The records of a run, as lines and as arrays, and the memory that is noted beside them."""

import sys
from collections.abc import Mapping

import numpy as np

from ...core.files import from_lines, to_line
from .scores import finite


# A score must hold for this many records in a row before a run stops early.
NUM_HELD = 3


class History:
    """The records of a run, as the lines of `metrics.jsonl` and as arrays.

    A number that is not finite stands as null in a line and as NaN in an array; `num_null` counts them.
    """

    def __init__(self, lines: bytes = b""):
        """Continues from the given lines."""
        self.lines = lines
        self.records = from_lines(lines)

    @classmethod
    def of(cls, metrics: Mapping[str, np.ndarray]) -> "History":
        """The records of a run from its metrics [records, num_seeds], to the bit."""
        history, derived = cls(), ("steps", "episodes", "num_null")
        for index, (steps, episodes) in enumerate(zip(metrics["steps"], metrics["episodes"], strict=True)):
            rest = {name: values[index] for name, values in metrics.items() if name not in derived}
            history.add(int(steps[0]), int(episodes[0]), rest)
        return history

    def add(self, steps: int, episodes: int, metrics: Mapping[str, np.ndarray]) -> bytes:
        """One record more, of metrics [num_seeds]; returns its line."""
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        values["num_null"] = np.sum([~np.isfinite(value) for value in values.values()], axis=0)
        record = {"steps": steps, "episodes": episodes}
        record |= {name: [finite(number) for number in value.tolist()] for name, value in values.items()}
        line = to_line(record)
        self.records.append(record)
        self.lines += line
        return line

    def metrics(self, last: int = 0) -> dict[str, np.ndarray]:
        """Every metric [records, num_seeds]; `steps` and `episodes` too. Of the last so many records, or of all."""
        records = self.records[-last:]
        if not records:
            return {}
        lists = {name: [record[name] for record in records] for name in records[-1]}
        num_seeds = len(lists["return"][0])
        counts = {
            name: np.tile(np.array(lists.pop(name))[:, None], num_seeds) for name in ("steps", "episodes")
        }
        return counts | {name: np.array(values, np.float64) for name, values in lists.items()}

    def held(self, score: float | None) -> bool:
        """Whether every seed had at least this score in each of the last three records."""
        last = self.metrics(NUM_HELD).get("score") if score is not None else None
        return last is not None and len(last) >= NUM_HELD and bool((last >= score).all())


def peak_memory() -> int | None:
    """The most memory this process ever held, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
