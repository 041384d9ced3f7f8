"""What goes to standard output as JSON."""

import json
import sys
from collections.abc import Mapping
from typing import Any


def print_json(content: Mapping[str, Any]) -> int:
    """One object on one line; exit status 0. A number that is not finite is an error here: it has to be null."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    return 0
