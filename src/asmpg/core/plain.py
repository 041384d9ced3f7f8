"""Values as plain JSON."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Plain JSON: lists for tuples, Python's numbers for NumPy's, None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
