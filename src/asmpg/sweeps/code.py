"""Which code a result was computed with."""

import ast
import functools
import hashlib
import pathlib

from ..models.backbones import BACKBONES
from ..training.runs.lifecycle import versions


# What can change no result of a run, by the first part of the path below the package.
_NO_MATTER = {
    *("cli", "diagnose", "drawing", "experiments", "report", "sweeps"),
    *("statistics.py", "__init__.py", "__main__.py"),
}
_PACKAGE = pathlib.Path(__file__).parents[1]
_BACKBONES = _PACKAGE / "models" / "backbones"


@functools.cache
def code_version(model: str = "") -> str:
    """The version of asmpg and a hash of all code that a result of this model may depend on.

    Comments, docstrings and the way it is laid out do not count; nor do backbones that the model does not have.
    """
    digest, needed = hashlib.sha256(), _backbone_files(model)
    for path in sorted(_PACKAGE.rglob("*.py")):
        relative = path.relative_to(_PACKAGE)
        other = path.parent == _BACKBONES and path not in needed
        if relative.parts[0] not in _NO_MATTER and not other:
            digest.update(f"{relative.as_posix()}\0{bare(path.read_text(encoding='utf-8'))}\0".encode())
    return f"{versions()['asmpg']}+{digest.hexdigest()[:8]}"


@functools.cache
def bare(source: str) -> str:
    """A module's code without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a bare string: a docstring, of a constant too."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _backbone_files(model: str) -> set[pathlib.Path]:
    """The files of the backbone of a model's name, and those of its neighbours that they import from."""
    names = [name for name in BACKBONES if model == name or model.endswith(f"-{name}")]
    waiting = {_BACKBONES / f"{BACKBONES[name].__module__.rpartition('.')[2]}.py" for name in names}
    waiting, found = waiting | {_BACKBONES / "base.py"}, set[pathlib.Path]()
    while waiting:
        path = waiting.pop()
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                waiting |= {_BACKBONES / f"{node.module}.py"} - found
    return found
