"""Solved tasks on disk: small JSON files, each with the key it was made for. A file is a hint, never an authority."""

import hashlib
import json
import os
import pathlib
from typing import Any

from .environment import AbstractEnvironment


# Raise this whenever a task or the solver changes, so that older files are not looked at.
VERSION = 1


def cache_directory() -> pathlib.Path | None:
    """`$ASMPG_CACHE`, or `~/.cache/asmpg`; None where there is no home directory."""
    if os.environ.get("ASMPG_CACHE"):
        return pathlib.Path(os.environ["ASMPG_CACHE"])
    try:
        return pathlib.Path.home() / ".cache" / "asmpg"
    except RuntimeError:
        return None


def cache_key(env: AbstractEnvironment, kind: str, **settings: Any) -> dict[str, Any] | None:
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
        content = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.pop("key", None) != key:
        return None
    return content


def write(key: dict[str, Any], content: dict[str, Any]) -> None:
    """Stores content under a key, beside and then renamed. A directory that cannot be written is no error."""
    path = _path(key)
    if path is None:
        return
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"key": key, **content}), encoding="utf-8")
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True) if beside.parent.is_dir() else None


def _path(key: dict[str, Any]) -> pathlib.Path | None:
    directory = cache_directory()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{key['kind']}-{key['task']}-{key['horizon']}-{digest}.json"
    return None if directory is None else directory / name
