"""The package's architecture, read from its syntax trees: who may import, write, draw and print what."""

import ast
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "asmpg"

# A module imports from its own row and from the rows above it. A new module belongs in exactly one row.
LAYERS = (
    {"core"},
    {"tasks"},
    {"models"},
    {"gradients"},
    {"learners", "statistics", "drawing"},
    {"training"},
    {"sweeps"},
    {"experiments"},
    {"diagnose", "report"},
    {"cli"},
    {"__init__", "__main__"},
)
LAYER_OF = {name: index for index, names in enumerate(LAYERS) for name in names}

# Which modules may do what the others may not, by the beginning of their name below `asmpg`.
TERMINAL = ("cli", "__main__")  # prints and parses
DRAWS = ("drawing", "training.runs", "experiments", "diagnose", "report")
WRITES = (
    "training.runs",
    "sweeps",
    "experiments",
    "diagnose",
    "report",
    "tasks.optimum.cache",
    "tasks.data_files",
    "training.export",
    "core.files",
)

# Slow to import, so imported where they are used; the command line has its own one at the top of its file.
LAZY = {
    "matplotlib",
    "rich",
    "diffrax",
    "scipy",
    "pyarrow",
    "fsspec",
    "ray",
    "jinja2",
    "PIL",
    "minari",
    "gymnasium",
    "brax",
    "gymnax",
    "mujoco",
}
# Only the one atomic writer puts content into files.
CONTENT_CALLS = {"write_text", "write_bytes", "save_file", "fdopen", "truncate"}
WRITING_CALLS = {"write_text", "write_bytes", "mkdir", "unlink", "rmtree", "save_file", "savez", "save"}
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def dotted(path: Path) -> str:
    """The name of a file's module below `asmpg`; the package itself is `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


TREES = {dotted(path): ast.parse(path.read_text(), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def top(module: str) -> str:
    return module.split(".")[0]


def within(module: str, places: Iterable[str]) -> bool:
    """Whether a module lies in one of some places: rooms, rooms within rooms, or single modules."""
    return any(f"{module}.".startswith(f"{place}.") for place in places)


MODULES = {top(module) for module in TREES}


def eager(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: everything outside functions and type-checking blocks."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from eager(child)


def imports(module: str, nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    """Every absolute dotted name that the nodes of a module import, with the line number."""
    path = ["asmpg", *module.split(".")]
    # Relative imports count from the package a module lies in; a package's own file lies in itself.
    package = path if (PACKAGE / module.replace(".", "/")).is_dir() else path[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join(base + ([node.module] if node.module else []))
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the last part of the called name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def opens_for_writing(name: str, call: ast.Call) -> bool:
    """Whether a call is `open(path, "w")` or `path.open("w")`, in any mode that changes the file."""
    words = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [str(word.value) for word in words if isinstance(word, ast.Constant)]
    return name == "open" and any(re.fullmatch(r"[rwaxbt]*[wax+][rwaxbt+]*", mode) for mode in modes)


def test_every_module_is_in_one_layer():
    assert "__init__" in TREES
    assert sum(map(len, LAYERS)) == len(LAYER_OF), "a module is in two layers"
    unknown = MODULES - LAYER_OF.keys()
    assert not unknown, f"put {sorted(unknown)} into LAYERS in {Path(__file__).name}"


@pytest.mark.parametrize("module", TREES)
def test_imports_run_one_way(module):
    upwards = []
    for name, line in imports(module, ast.walk(TREES[module])):
        parts = name.split(".")
        if parts[0] == "asmpg":
            # What is not a module is a name that the package itself offers, and that is above everything.
            target = parts[1] if len(parts) > 1 and parts[1] in MODULES else "__init__"
            if LAYER_OF.get(target, 0) > LAYER_OF.get(top(module), len(LAYERS)):
                upwards.append(f"line {line}: {module} imports {name}")
    assert not upwards


def test_the_loop_knows_learners_and_no_method():
    """So that a new method or backbone cannot touch it: of the package it imports these names and no other."""
    names = {
        name.removeprefix("asmpg.") for name, _ in imports("training.loop", ast.walk(TREES["training.loop"]))
    }
    own = {name for name in names if top(name) in MODULES}
    assert {name for name in own if top(name) == "learners"} == {
        "learners.base.AbstractLearner",
        "learners.base.start_key",
        "learners.replay.ReplayBuffer",
    }
    assert {top(name) for name in own} == {"core", "tasks", "models", "learners"}
    assert {name for name in own if top(name) == "models"} == {"models.normalisation.Normaliser"}


@pytest.mark.parametrize("module", TREES)
def test_only_the_named_modules_print_parse_draw_and_write(module):
    tree, found = TREES[module], []
    for name, call in calls(tree):
        if name == "print" and not within(module, TERMINAL):
            found.append(f"line {call.lineno} prints")
        if (name in WRITING_CALLS or opens_for_writing(name, call)) and not within(module, WRITES):
            found.append(f"line {call.lineno} writes a file with {name}")
        if (name in CONTENT_CALLS or opens_for_writing(name, call)) and module != "core.files":
            found.append(f"line {call.lineno} writes past core.files with {name}")
        if isinstance(call.func, ast.Name) and name in {"eval", "exec"}:
            found.append(f"line {call.lineno} calls {name}")
    for name, line in imports(module, ast.walk(tree)):
        if top(name) == "matplotlib" and not within(module, DRAWS):
            found.append(f"line {line} draws")
        if top(name) in {"tyro", "argparse", "click"} and not within(module, TERMINAL):
            found.append(f"line {line} parses")
        if top(name) in UNSAFE_MODULES:
            found.append(f"line {line} imports {top(name)}")
    assert not found


@pytest.mark.parametrize("module", TREES)
def test_slow_packages_are_imported_where_they_are_used(module):
    allowed = {"rich"} if within(module, TERMINAL) else set()
    found = {top(name) for name, _ in imports(module, eager(TREES[module]))}
    assert not found & (LAZY - allowed)


def test_imports_are_declared_dependencies():
    """What the package imports is in `dependencies`, or in the extra that says so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("plot", "experiments", "report", "cluster")
    lines = project["dependencies"] + [
        line for name in extras for line in project["optional-dependencies"][name]
    ]
    declared = {re.split(r"[^\w-]", line)[0] for line in lines}
    imported = {
        top(name): f"{module}, line {line}"
        for module, tree in TREES.items()
        for name, line in imports(module, ast.walk(tree))
    }
    declared |= {"PIL"} if "pillow" in declared else set()
    missing = imported.keys() - declared - sys.stdlib_module_names - {"asmpg"}
    assert not missing, {name: imported[name] for name in missing}


def run_python(code: str) -> str:
    """Runs code in a fresh interpreter without the type checks that pytest installs."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout


def test_the_public_names_load_nothing_slow():
    code = """
import sys, asmpg
for name in asmpg.__all__:
    getattr(asmpg, name)
print(*{name.split(".")[0] for name in sys.modules})
"""
    loaded = set(run_python(code).split())
    assert "jax" in loaded
    assert not loaded & LAZY


def seconds_to_import(module: str) -> float:
    """Wall clock of a fresh interpreter that imports a module, the interpreter's own start included."""
    start = time.perf_counter()
    run_python(f"import {module}")
    return time.perf_counter() - start


def test_import_takes_less_than_a_second():
    """On a machine where JAX alone takes 0.6 s of it. A busier or slower one slows both alike."""
    pairs = []
    for _ in range(6):
        pairs.append((seconds_to_import("asmpg"), seconds_to_import("jax")))
        ours, jax = (min(times) for times in zip(*pairs, strict=True))
        if ours < 1.0:
            break
    assert ours < max(1.0, jax / 0.6), f"`import asmpg` takes {ours:.2f} s, `import jax` {jax:.2f} s"


def test_a_method_says_what_it_is_for_where_it_is_declared():
    """Public ones of the package: each has a docstring, or overrides one that has."""
    nodes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    classes = {node.name: node for node in nodes}

    def documented(node: ast.ClassDef, method: str) -> bool:
        own = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == method]
        bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
        names = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in bases]
        known = [classes[name] for name in names if name in classes]  # the others are of other packages
        return any(ast.get_docstring(one) for one in own) or any(documented(base, method) for base in known)

    silent = [
        f"{node.name}.{one.name}"
        for node in nodes
        for one in node.body
        if isinstance(one, ast.FunctionDef) and not one.name.startswith("_") and not node.name.startswith("_")
        if not documented(node, one.name)
    ]
    assert not silent
