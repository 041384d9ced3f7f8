"""Which code a result was computed with."""

import functools
import hashlib
import pathlib

from ..training.runs.lifecycle import versions


# What can change no result of a run, by the first part of the path below the package.
_NO_MATTER = {
    "cli",
    "diagnose",
    "experiments",
    "report",
    "sweeps",
    "statistics.py",
    "__init__.py",
    "__main__.py",
}


@functools.cache
def code_version() -> str:
    """The version of asmpg and a hash of every source file that a result may depend on."""
    package, digest = pathlib.Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] not in _NO_MATTER:
            digest.update(f"{relative.as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return f"{versions()['asmpg']}+{digest.hexdigest()[:8]}"
