"""What the package's structure measures: rooms, arrows, circles, lengths of functions, and arguments of any type.

Reads syntax trees and runs nothing: `python benchmarks/measures.py` prints one line a measure. With `--walk` it begins
one small run too, and follows its set-up from the configuration to the first compiled program.
"""

import ast
import pathlib
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType


PACKAGE = pathlib.Path(__file__).parents[1] / "src" / "asmpg"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(parts: tuple[str, ...]) -> str:
    """The first part of a module's path below the package."""
    return parts[0].removesuffix(".py")


def imported(tree: ast.Module, parts: tuple[str, ...]) -> Iterator[str]:
    """The rooms that a module imports from, by relative imports as everywhere in the package."""
    rooms = {room_of(path.relative_to(PACKAGE).parts) for path in PACKAGE.rglob("*.py")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: len(parts) - node.level])
            target = base + (node.module.split(".") if node.module else [])
            names = [target[0]] if target else [alias.name for alias in node.names]
            yield from (name for name in names if name in rooms)


def arrows(trees: dict[tuple[str, ...], ast.Module]) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    return {
        (room_of(parts), other)
        for parts, tree in trees.items()
        for other in imported(tree, parts)
        if other != room_of(parts) and not room_of(parts).startswith("__")
    }


def in_circles(pairs: set[tuple[str, str]]) -> set[str]:
    """The rooms from which the arrows lead back to themselves."""
    reached = {first: {second for one, second in pairs if one == first} for first, _ in pairs}
    for _ in reached:
        for rooms in reached.values():
            rooms |= {further for room in rooms for further in reached.get(room, ())}
    return {room for room, rooms in reached.items() if room in rooms}


def arguments(function: ast.AST) -> list[ast.arg]:
    """All arguments but `self` and `cls`."""
    assert isinstance(function, FUNCTIONS)
    spec = function.args
    listed = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return [one for one in listed if one.arg not in ("self", "cls")]


def measures() -> dict[str, str]:
    """All of them by name."""
    paths = sorted(PACKAGE.rglob("*.py"))
    trees = {path.relative_to(PACKAGE).parts: ast.parse(path.read_text()) for path in paths}
    functions = [
        (f"{'/'.join(parts)}:{node.name}", node)
        for parts, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    ]
    lengths = sorted(((node.end_lineno or 0) - node.lineno + 1, name) for name, node in functions)
    lines = [length for length, _ in lengths]
    given = [one for _, node in functions for one in arguments(node)]
    any_typed = [one for one in given if one.annotation and ast.unparse(one.annotation) == "Any"]
    pairs = arrows(trees)
    rooms = {room_of(parts) for parts in trees} - {"__init__", "__main__"}
    return {
        "lines": f"{sum(len(path.read_text().splitlines()) for path in paths):,} in {len(paths)} modules",
        "rooms": f"{len(rooms)}: {', '.join(sorted(rooms))}",
        "arrows": f"{len(pairs)}, rooms in circles: {len(in_circles(pairs))}",
        "functions": f"{len(lines):,}: median {statistics.median(lines):.0f}, p90 {lines[len(lines) * 9 // 10]}, "
        f"longest {', '.join(f'{length} {name}' for length, name in reversed(lengths[-4:]))}",
        "arguments": f"{len(given):,}, of type Any {len(any_typed):,} ({len(any_typed) / len(given):.1%})",
    }


class _SetUpDone(Exception):
    """The next thing would be compiled and run."""


def visits() -> list[str]:
    """The rooms that `training` goes to while it sets a run up, in their order; `core` is left out."""
    from asmpg.training.config import TrainConfig
    from asmpg.training.runs import train
    from asmpg.training.trainer import Trainer

    found: list[str] = []

    def room(frame: FrameType | None) -> str:
        file = pathlib.Path(frame.f_code.co_filename) if frame else pathlib.Path()
        return room_of(file.relative_to(PACKAGE).parts) if file.is_relative_to(PACKAGE) else ""

    def follow(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is Trainer.init.__code__:
            sys.setprofile(None)
            raise _SetUpDone
        if event == "call" and room(frame.f_back) == "training":
            here = room(frame)
            if here not in ("", "core", "training", *found[-1:]):
                found.append(here)

    sys.setprofile(follow)
    try:
        train(TrainConfig("harvest", horizon=6, model="lstm", steps=30))
    except _SetUpDone:
        return found
    finally:
        sys.setprofile(None)
    raise AssertionError("the run was never set up")


def walk() -> str:
    """How often the set-up of a run goes back to a room that it has left."""
    found = visits()
    again = Counter(found) - Counter(set(found))
    return f"{len(found)} visits, returns to a room already left: {again.total()} ({', '.join(found)})"


if __name__ == "__main__":
    for name, value in measures().items():
        print(f"{name:10} {value}")
    if "--walk" in sys.argv:
        print(f"{'walk':10} {walk()}")
