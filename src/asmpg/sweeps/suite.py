"""What a sweep is to run: suites of grids, and the items they consist of."""

import dataclasses
import hashlib
import importlib
import itertools
import json
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast, Literal

from ..core import user_code as user_files
from ..core.checks import check_choice
from ..core.types import OF_USERS, one_line, UsageError
from ..models.files import split_family
from ..tasks import make
from ..training.config import TrainConfig
from ..training.methods import find_method
from ..training.stored_config import to_json


Scale = Literal["smoke", "cpu", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "cpu", "paper")

# Names of `TrainConfig` that a suite writes another way, or that are not for it to say.
_TYPED = {"seeds": "num_seeds"}
_NOT_AN_OPTION = {"task", "horizon", "model", "out", "overrides", "num_seeds"}
_LISTS = ("tasks", "horizons", "models")


@dataclasses.dataclass(frozen=True)
class Item:
    """The unit of work: one method on one task at one horizon, with all its seeds.

    Attributes:
        id: readable, and ends in a hash of the complete configuration: the same id is the same computation.
        config: what is trained; without a folder.
        choices: what the grid chose beyond task, horizon and model, by name, for the columns of the table.
    """

    id: str
    config: TrainConfig
    choices: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every combination of what is listed.

    Attributes:
        tasks: names, or `FILE.py:NAME`.
        horizons: actions in an episode.
        models: names of methods, or `FILE.py:NAME`.
        options: other fields of `TrainConfig`, and `seeds`; one value each, or a list to try each of.
        settings: settings that replace the preset's; one value each, or a list to try each of.
        parameters: constants of a built-in task, by their names in `asmpg.make`; one value each, or a list.
    """

    tasks: Sequence[str]
    horizons: Sequence[int]
    models: Sequence[str]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def items(self) -> Iterator[Item]:
        """One item a combination.

        Raises:
            UsageError: something in it is unknown or not allowed.
        """
        options = {_TYPED.get(name, name): value for name, value in self.options.items()}
        for name in options:
            check_choice("option", name, [field.name for field in dataclasses.fields(TrainConfig)])
        listed = {**options, **self.settings, **self.parameters}
        names, lists = list(listed), [_as_list(value) for value in listed.values()]
        for task, horizon, model in itertools.product(self.tasks, self.horizons, self.models):
            for values in itertools.product(*lists):
                chosen = dict(zip(names, values, strict=True))
                yield self._item(task, horizon, model, chosen)

    def _item(self, task: str, horizon: int, model: str, chosen: dict[str, Any]) -> Item:
        overrides = {name: value for name, value in chosen.items() if name in self.settings}
        constants = {name: value for name, value in chosen.items() if name in self.parameters}
        options = {name: value for name, value in chosen.items() if name not in {*overrides, *constants}}
        made = make(task, horizon, **constants) if constants else task
        config = TrainConfig(made, horizon=horizon, model=model, overrides=overrides, **options).checked()
        seeds = ("seed", "num_seeds")
        return Item(
            identify(config), config, {name: value for name, value in chosen.items() if name not in seeds}
        )


@dataclasses.dataclass(frozen=True)
class Suite:
    """What a sweep runs, in this order.

    Attributes:
        name: of its table.
        scale: of `SCALES`.
        items: all different.
    """

    name: str
    scale: str
    items: tuple[Item, ...]


def complete(config: TrainConfig) -> dict[str, Any]:
    """Everything the numbers of a run depend on, as plain JSON; not where it is written."""
    content = to_json(config)
    return {name: value for name, value in content.items() if name not in ("out", "overrides")}


def identify(config: TrainConfig) -> str:
    """Task, horizon, model and a hash of the complete configuration."""
    content = complete(config)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    task, model = (re.sub(r"[^\w.-]+", "_", str(content[name])) for name in ("task", "model"))
    return f"{task}-H{config.horizon}-{model}-{digest}"


def make_suite(name: str, scale: str, grids: Sequence[Grid]) -> Suite:
    """The suite of these grids; what two of them share is in it once.

    Raises:
        UsageError: something in a grid is unknown or not allowed, or there is nothing in them.
    """
    for model in (model for grid in grids for model in grid.models):
        find_method(model, "models")
    items = {item.id: item for grid in grids for item in grid.items()}
    if not items:
        raise UsageError(f"SUITE: {name} has nothing to run at scale {scale}")
    return Suite(name, scale, tuple(items.values()))


def load_suite(name: str, scale: str, built_in: Mapping[str, Callable[[Scale], Sequence[Grid]]]) -> Suite:
    """A suite by name, or from the user's own file.

    Args:
        name: a name of `built_in`, `FILE.toml`, `FILE.py` with a `SUITE` or a function `suite(scale)`, or one of a file
            or package as `FILE.py:NAME` or `package.module:NAME`. It may be a `Suite`, a `Grid` or several, or a dict
            like a TOML file.
        scale: of `SCALES`.
        built_in: from names to what gives the grids of a scale.

    Raises:
        UsageError: there is no such suite or scale, or something in it is unknown or not allowed.
    """
    check_choice("scale", scale, SCALES)
    if name in built_in:
        return make_suite(name, scale, built_in[name](cast(Scale, scale)))
    if ":" in name and not name.endswith((".toml", ".py")):
        return _named(name, scale)
    path = pathlib.Path(name)
    if path.suffix not in (".toml", ".py"):
        known = ", ".join([*built_in, "FILE.toml", "FILE.py", "FILE.py:NAME", "package.module:NAME"])
        raise UsageError(f"SUITE: {name!r} is not one of {known}")
    if not user_files.exists(name):
        raise UsageError(f"SUITE: there is no file {name}")
    path = path.expanduser()
    content = _read_toml(path) if path.suffix == ".toml" else _run_python(path, scale)
    return _suite_of(content, path.stem, path.parent, name, scale)


def _named(name: str, scale: str) -> Suite:
    """What `FILE.py:NAME` or `package.module:NAME` means: a suite, grids, a dict, or a function that gives one."""
    place, _, attribute = name.rpartition(":")
    if user_files.is_file(name):
        value = user_files.define("SUITE", name, lambda value: isinstance(value, Suite | Grid | Mapping))
        folder = pathlib.Path(place).expanduser().parent
    else:
        try:
            module = importlib.import_module(place)
            value, folder = getattr(module, attribute), pathlib.Path(str(module.__file__)).parent
        except Exception as error:  # whatever the user's package raises, the message names it
            raise UsageError(f"SUITE: {name!r} cannot be imported: {one_line(error)}") from error
    if callable(value):
        value = _called(value, scale, name)
    return _suite_of(value, attribute, folder, name, scale)


def _called(function: Callable[[str], Any], scale: str, name: str) -> Any:
    try:
        return function(scale)
    except OF_USERS as error:  # whatever the user's function raises, the message names it
        raise UsageError(f"SUITE: running {name} raised {one_line(error)}") from error


def _suite_of(value: object, stem: str, folder: pathlib.Path, name: str, scale: str) -> Suite:
    """A suite from what a user may give for one."""
    try:
        if isinstance(value, Suite):
            return value
        if isinstance(value, Mapping):
            return from_content(value, stem, folder, scale)
        grids = [value] if isinstance(value, Grid) else value
        if not isinstance(grids, Sequence) or not all(isinstance(grid, Grid) for grid in grids):
            raise UsageError(f"must be a Suite, grids or a dict, got {type(value).__name__}")
        return make_suite(re.sub(r"[^\w-]+", "_", stem), scale, grids)
    except UsageError as error:
        raise UsageError(f"SUITE: {name}: {error}") from error


def from_content(content: Mapping[str, Any], stem: str, folder: pathlib.Path, scale: str) -> Suite:
    """The suite that a user's file describes, by default named after it; its tasks' files are looked for in a folder.

    The outermost names hold for everything; those in a table named after the scale replace them; those in each of the
    tables `grid`, if there are any, replace both.

    Raises:
        UsageError: a name or a value is not allowed.
    """
    common = {name: value for name, value in content.items() if name not in (*SCALES, "grid", "name")}
    blocks = [_merge(common, content.get(scale, {})), *_blocks(content)]
    grids = [_merge(blocks[0], block) for block in blocks[1:]] or blocks[:1]
    name = content.get("name", stem)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,100}", name):
        raise UsageError(f"name: must be up to 100 letters, digits, '-' and '_', got {name!r}")
    return make_suite(name, scale, [_grid(grid, folder) for grid in grids])


def _blocks(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    blocks = content.get("grid", [])
    if not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        raise UsageError("grid: must be tables, each under [[grid]]")
    return blocks


def _merge(under: Mapping[str, Any], over: object) -> dict[str, Any]:
    if not isinstance(over, Mapping):
        raise UsageError(f"a scale must be a table, got {over!r}")
    settings = {**_settings(under), **_settings(over)}
    return {**under, **over, "settings": settings}


def _settings(block: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = block.get("settings", {})
    if not isinstance(settings, Mapping):
        raise UsageError(f"settings: must be a table, got {settings!r}")
    return settings


def _grid(block: Mapping[str, Any], folder: pathlib.Path) -> Grid:
    options = {name: value for name, value in block.items() if name not in (*_LISTS, "settings")}
    allowed = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in _NOT_AN_OPTION]
    for name in options:
        check_choice("name", name, [*_LISTS, "settings", *_TYPED, *allowed])
    lists = []
    for name, kind in zip(_LISTS, (str, int, str), strict=True):
        values = block.get(name)
        if not isinstance(values, list | tuple) or not values or not all(type(v) is kind for v in values):
            words = "integers" if kind is int else "names"
            raise UsageError(f"{name}: must be a list of {words}, got {values!r}")
        lists.append(tuple(values))
    tasks, horizons, models = lists
    tasks, models = (tuple(_beside(name, folder) for name in names) for names in (tasks, models))
    if isinstance(options.get("optimizer"), str):
        options["optimizer"] = _beside(options["optimizer"], folder)
    return Grid(tasks, horizons, models, options, _settings(block))


def _beside(name: str, folder: pathlib.Path) -> str:
    """The file of a task, a model or an optimiser is looked for beside the suite's file first."""
    family, thing = split_family(name)
    file, _, attribute = thing.rpartition(":")
    beside = folder / file
    if (
        not user_files.is_file(thing)
        or pathlib.Path(file).is_absolute()
        or not user_files.exists(str(beside))
    ):
        return name
    return f"{family}{beside.resolve()}:{attribute}"


def _as_list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _read_toml(path: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a mark of its byte order
    except RecursionError as error:
        raise UsageError(f"SUITE: {path} is not TOML: it is nested too deeply") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"SUITE: {path} is not TOML: {error}") from error


def _run_python(path: pathlib.Path, scale: str) -> Any:
    """What the user's file calls `SUITE`, or gives for `suite(scale)`."""
    module = user_files.run("SUITE", path)
    if hasattr(module, "suite"):
        return _called(module.suite, scale, str(path))
    if not hasattr(module, "SUITE"):
        raise UsageError(f"SUITE: {path} must have a SUITE or a function suite(scale) that returns one")
    return module.SUITE
