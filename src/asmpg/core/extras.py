"""Libraries that only some people need: each is in an extra, which one line names where it is missing."""

import importlib
from typing import Any

from .types import UsageError


def require(module: str, extra: str, option: str) -> Any:
    """Imports a library of an extra.

    Args:
        module: its name, dots included.
        extra: which of the package's extras installs it.
        option: what needs it, the beginning of the message.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        raise UsageError(f"{option}: needs {name}, which pip install 'asmpg[{extra}]' installs") from error
