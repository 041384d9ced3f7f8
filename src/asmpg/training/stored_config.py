"""A `TrainConfig` as plain JSON, in which nothing is ever run, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..core import user_code as user_files
from ..core.checks import check, check_choice, field_types
from ..core.types import UsageError
from ..models.files import split_family
from ..tasks import files as task_files
from ..tasks import make, TASKS
from ..tasks.environment import AbstractEnvironment
from ..tasks.host import HostEnvironment
from ..tasks.validation import check_horizon
from .config import TrainConfig
from .methods import find_method, MODELS


# What stands in a stored configuration beside the fields of `TrainConfig`, and the types of both.
_BESIDE_FIELDS = ("settings", "task_source", "model_source")
KINDS: Mapping[str, Any] = {
    **field_types(TrainConfig),
    "task": str,
    "overrides": dict,
    **dict.fromkeys(_BESIDE_FIELDS, dict),
}


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON, complete but for the code of a task or a backbone of the user's own.

    Of those, only names, sizes and the hash of the file are kept. Nothing in here is ever run.
    """
    resolved = config.resolve()
    config, env = resolved.config, resolved.env
    content = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    content["overrides"] = dict(config.overrides)
    content["settings"] = dataclasses.asdict(resolved.settings)
    content["model"], content["model_source"] = config.model_name, {"kind": "built-in"}
    if user_files.is_file(config.model):
        content["model_source"] = {
            "kind": "file",
            "sha256": user_files.sha256("model", split_family(config.model)[1]),
        }
    identity = env.identity()
    if identity is not None:
        return content | {"task": env.name, "task_source": {"kind": "built-in", "parameters": dict(identity)}}
    source = {"kind": "object", "state_size": env.state_size, "action_size": env.action_size}
    if isinstance(config.task, str) and task_files.is_gymnasium(config.task):
        return content | {"task": config.task, "task_source": source | {"kind": "gymnasium"}}
    if isinstance(config.task, str):
        path, name = task_files.split(config.task)
        source |= {"kind": "file", "sha256": task_files.sha256(config.task)}
        return content | {"task": f"{path.name}:{name}", "task_source": source}
    return content | {"task": env.name, "task_source": source}


def from_json(
    content: Mapping[str, Any],
    task: str | AbstractEnvironment | HostEnvironment | None = None,
    model: str | None = None,
) -> TrainConfig:
    """The configuration that `to_json` wrote.

    Args:
        content: plain JSON.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: `FILE.py:NAME` again, where the model's backbone is the user's own.

    Raises:
        UsageError: a field is missing, unknown or of the wrong type; the task or the model is missing or another one.
    """
    check_stored(content)
    values = {name: value for name, value in content.items() if name not in _BESIDE_FIELDS}
    values["task"] = _task_again(content, task)
    values["model"] = _model_again(content, model)
    config = TrainConfig(**values)
    # A preset may mean something else in another version: what the run was started with counts.
    stored, method = content["settings"], find_method(config.model)
    if stored.keys() != field_types(method.settings).keys():
        raise UsageError(
            f"config: the settings of this {config.model} run are those of another version of asmpg"
        )
    preset = method.preset(config.preset, config.horizon)
    if stored != dataclasses.asdict(preset.replace(**config.overrides)):
        config = dataclasses.replace(config, overrides=dict(stored))
    return config


def check_stored(content: Mapping[str, Any]) -> None:
    """Raises a UsageError unless stored content has the fields of a configuration, each of its type."""
    for name in KINDS:
        if name not in content:
            raise UsageError(f"config: {name!r} is missing")
    for name, value in content.items():
        check_choice("config", name, KINDS)
        check(f"config: {name}", value, KINDS[name])
    source = content["task_source"]
    check_choice("config: task_source", source.get("kind"), ("built-in", "gymnasium", "file", "object"))
    wanted = {"parameters": dict} if source["kind"] == "built-in" else {"state_size": int, "action_size": int}
    for name, kind in wanted.items():
        check(f"config: {name} of task_source", source.get(name), kind)
    check_choice("config: model_source", content["model_source"].get("kind"), ("built-in", "file"))


def _task_again(
    content: Mapping[str, Any], task: str | AbstractEnvironment | HostEnvironment | None
) -> str | AbstractEnvironment | HostEnvironment:
    """The task of a stored configuration: built in, or the one given, once it is known to be the same."""
    name, source = content["task"], content["task_source"]
    kind = source["kind"]
    if kind == "built-in":
        if task is not None:
            raise UsageError(f"task: the run is of the built-in task {name}, none must be given")
        check_choice("task", name, TASKS)
        parameters = source["parameters"]
        return make(name, check_horizon(content["horizon"]), **parameters) if parameters else name
    if kind == "gymnasium":
        if task is not None and task != name:
            raise UsageError(f"task: the run is of {name}, none must be given")
        return name
    if task is None:
        raise UsageError(
            f"task: the run is of {name}, a task of your own, which is not stored in it; "
            "give it again: --task FILE.py:NAME, or load(path, task=...)"
        )
    if isinstance(task, str):
        if kind == "file" and task_files.sha256(task) != source.get("sha256"):
            raise UsageError(
                f"task: {task} is not what the run was started with, {name}: the file has changed"
            )
        env = task_files.load_world(task, content["horizon"])
    else:
        env = task
    sizes = {
        "horizon": content["horizon"],
        "state_size": source["state_size"],
        "action_size": source["action_size"],
    }
    for attribute, wanted in sizes.items():
        if getattr(env, attribute) != wanted:
            raise UsageError(
                f"task: the run's has {attribute} {wanted}, the one given {getattr(env, attribute)}"
            )
    return task


def _model_again(content: Mapping[str, Any], model: str | None) -> str:
    """The model of a stored configuration: built in, or the file given, once it is known to be the same."""
    name, source = content["model"], content["model_source"]
    kind = source["kind"]
    if kind == "built-in":
        if model is not None:
            raise UsageError(f"model: the run is of the built-in model {name}, none must be given")
        check_choice("model", name, MODELS)
        return name
    if model is None:
        raise UsageError(
            f"model: the run is of {name}, a backbone of your own, which is not stored in it; "
            "give it again: --model FILE.py:NAME, or load(path, model=...)"
        )
    family, file = split_family(model)
    wanted = family, name.rpartition(":")[2]
    if not user_files.is_file(model) or (split_family(name)[0], user_files.split("model", file)[1]) != wanted:
        raise UsageError(f"model: {model} is not what the run was started with, {name}")
    if user_files.sha256("model", file) != source.get("sha256"):
        raise UsageError(f"model: {model} is not what the run was started with, {name}: the file has changed")
    return model
