"""What a checkpoint of a run must hold. A checksum says that it was not edited, not that it is of a run."""

import math
from typing import Any

from ...core.files import from_lines
from .checkpoint import Checkpoint


def is_config(content: object) -> bool:
    """Whether this could be a configuration of a run."""
    return isinstance(content, dict) and isinstance(content.get("settings"), dict)


def missing_of_run(saved: Checkpoint) -> str | None:
    """The first entry that every checkpoint of a run has and this one lacks, or has in another shape."""
    meta = saved.meta
    right = {name: _is_count(meta.get(name)) for name in ("steps", "episodes", "warmup_episodes", "records")}
    right["config"] = is_config(meta.get("config")) and _is_count(meta["config"].get("num_seeds"))
    if right["config"]:
        num_seeds = meta["config"]["num_seeds"]
        right["number of seeds"] = all(array.shape[:1] == (num_seeds,) for array in saved.arrays.values())
        right["readable records"] = are_records(saved.records, meta.get("records"), num_seeds)
    right["seconds"] = _is_number(meta.get("seconds"))
    right["reference"] = is_reference(meta.get("reference", 0))
    return next((name for name in right if not right[name]), None)


def are_records(lines: bytes, number: object, num_seeds: int) -> bool:
    """Whether every record has the same metrics, one number or null a seed, and says where it was made.

    Args:
        lines: of a `.jsonl` file.
        number: how many there must be, if that is known.
        num_seeds: how many values each metric must have.
    """
    records = from_lines(lines)
    names = records[0].keys() if records else set()
    whole = (
        lines.endswith(b"\n")
        and len(records) == lines.count(b"\n")
        and number in (None, len(records))
        and {"return", "steps", "episodes"} <= names
    )
    return whole and all(record.keys() == names and _is_record(record, num_seeds) for record in records)


def _is_record(record: dict[str, Any], num_seeds: int) -> bool:
    values = {name: value for name, value in record.items() if name not in ("steps", "episodes")}
    return (
        _is_count(record["steps"])
        and _is_count(record["episodes"])
        and all(isinstance(value, list) and len(value) == num_seeds for value in values.values())
        and all(number is None or _is_number(number) for value in values.values() for number in value)
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_reference(value: object) -> bool:
    """Whether this is what scores are measured by, or the null of a run without scores."""
    if not isinstance(value, dict):
        return value is None
    names = {"random_return", "optimal_return"}
    doubts = value.get("doubts", [])
    texts = [value.get("message", ""), *(doubts if isinstance(doubts, list | tuple) else [None])]
    numbers = [value.get(name) for name in names] + [value.get("best_constant_return") or 0.0]
    known = {*names, "best_constant_return", "message", "doubts"}
    plain = all(map(_is_number, numbers)) and all(isinstance(text, str) for text in texts)
    return names <= value.keys() <= known and plain
