"""Values that a user gives: one line that names the option, and what is allowed."""

import math
from collections.abc import Collection
from typing import Any

from .types import UsageError


def check_choice(option: str, value: Any, allowed: Collection[str], *others: str) -> None:
    """Raises a UsageError that names the option unless the value is allowed; `others` are named in it too."""
    if value not in allowed:
        raise UsageError(f"{option}: {value!r} is not one of {', '.join([*allowed, *others])}")


def check_integer(option: str, value: Any, least: int) -> None:
    """Raises a UsageError that names the option unless the value is an integer and large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{option}: must be an integer >= {least}, got {value!r}")


def check_number(option: str, value: Any) -> None:
    """Raises a UsageError that names the option unless the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{option}: must be a finite number, got {value!r}")
