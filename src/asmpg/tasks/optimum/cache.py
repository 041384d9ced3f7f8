"""Solved tasks, in memory and on disk: small JSON files that say what they were made for, and are never trusted."""

import collections
import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ...core import files
from ..environment import AbstractEnvironment


# Raise this whenever a task or the solver changes, so that older files are not looked at.
VERSION = 2


def cache_key(env: AbstractEnvironment, kind: str, **settings: object) -> dict[str, Any] | None:
    """What a result depends on, as plain JSON; None for a task that is not to be cached."""
    identity = env.identity()
    if identity is None:
        return None
    key = {"kind": kind, "task": env.name, "horizon": env.horizon, "version": VERSION, **settings}
    return key | {"parameters": dict(identity)}


def read(key: dict[str, Any]) -> dict[str, Any] | None:
    """The content stored under this key; None where there is none, or it is damaged or made for another key."""
    path = _path(key)
    try:
        content = json.loads(files.read(path)) if path is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.pop("key", None) != key:
        return None
    return content


def write(key: dict[str, Any], content: dict[str, Any]) -> None:
    """Stores content under a key. A folder that cannot be written is no error."""
    path = _path(key)
    if path is None:
        return
    with contextlib.suppress(OSError, files.StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps({"key": key, **content}).encode())


def _path(key: dict[str, Any]) -> pathlib.Path | None:
    directory = files.cache_folder()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{key['kind']}-{key['task']}-{key['horizon']}-{digest}.json"
    return None if directory is None else directory / name


_MEMORY_SIZE = 256
_memory: collections.OrderedDict[Any, tuple[AbstractEnvironment, Any]] = collections.OrderedDict()


def remember(env: AbstractEnvironment, what: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """`compute()`, or what it gave before: for the same built-in task, or for the very same object of a user's."""
    identity = env.identity()
    which = id(env) if identity is None else (type(env), env.name, env.horizon, identity)
    key = (which, *what)
    if key not in _memory:
        # The task is kept too: as long as it lives, no other has its id.
        _memory[key] = (env, compute())
        if len(_memory) > _MEMORY_SIZE:
            _memory.popitem(last=False)
    return _memory[key][1]


def is_number(value: object) -> bool:
    """Whether a value read from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def same_number(stored: Any, computed: float) -> bool:
    """Whether a stored number is the computed one, to the rounding of another processor."""
    return is_number(stored) and abs(stored - computed) <= 1e-9 + 1e-6 * abs(computed)
