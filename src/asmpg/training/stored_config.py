"""A `TrainConfig` as plain JSON, in which nothing is ever run, and back."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ..core import user_code as user_files
from ..core.checks import check, check_choice, field_types
from ..core.digest import constants_of, digest
from ..core.types import UsageError
from ..models.files import split_family
from ..tasks import files as task_files
from ..tasks import make, TASKS
from ..tasks.data import Episodes
from ..tasks.files import find_task
from ..tasks.host import HostEnvironment
from ..tasks.recording import Recording
from ..tasks.validation import check_horizon
from ..tasks.world import World
from .config import TrainConfig
from .methods import find_method, Method, ModelLike, MODELS
from .own import load_optimizer, Optimizer
from .recorded import find_data, recording_of


# What stands in a stored configuration beside the fields of `TrainConfig`, and the types of both.
_BESIDE_FIELDS = ("settings", "task_source", "model_source", "optimizer_source")
_KINDS_OF_CODE = ("built-in", "installed", "gymnasium", "file", "object", "recording")
KINDS: Mapping[str, Any] = {
    **field_types(TrainConfig),
    "task": str,
    "model": str,
    "preset": str,
    "optimizer": str | None,
    "out": str | None,
    "overrides": dict,
    "data": Recording,
    **dict.fromkeys(_BESIDE_FIELDS, dict),
}


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON, complete but for the code of a task or a backbone of the user's own.

    Of those, only names, sizes and the hash of the file are kept. Nothing in here is ever run.
    """
    resolved = config.resolve()
    config, env = resolved.config, resolved.task
    content = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    content["overrides"] = dict(config.overrides)
    del content["data"]
    data = find_data(config.data)
    if data is not None:
        content["data"] = _plain(recording_of(data))
    content["settings"] = dataclasses.asdict(resolved.settings)
    content["model"], content["model_source"] = (
        resolved.method.name,
        _model_source(config.model, resolved.method),
    )
    content["optimizer"], content["optimizer_source"] = None, {}
    if config.optimizer is not None:
        content["optimizer"], optimizer = load_optimizer(config.optimizer)
        content["optimizer_source"] = {"digest": digest(optimizer)}
    identity = env.identity()
    if identity is not None:
        return content | {"task": env.name, "task_source": {"kind": "built-in", "parameters": dict(identity)}}
    source = {"kind": "object", "state_size": int(env.state_size), "action_size": int(env.action_size)}
    if isinstance(env, Recording):
        return content | {"task": env.name, "task_source": source | {"kind": "recording"}}
    if isinstance(config.task, str) and task_files.is_gymnasium(config.task):
        return content | {"task": config.task, "task_source": source | {"kind": "gymnasium"}}
    source["digest"] = _digest_of(env)
    if isinstance(config.task, str) and config.task in user_files.installed("asmpg.tasks"):
        return content | {"task": config.task, "task_source": source | {"kind": "installed"}}
    if isinstance(config.task, str):
        source |= {"kind": "file", "sha256": task_files.sha256(config.task)}
        return content | {"task": user_files.short_name(config.task), "task_source": source}
    return content | {"task": env.name, "task_source": source}


def _plain(known: Recording) -> dict[str, Any]:
    """As JSON has it: lists in place of tuples."""
    content = dataclasses.asdict(known)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}


def _digest_of(env: World) -> str:
    """Of a task; of a simulator outside JAX, whose state changes as it runs, its class and what it was made from."""
    return digest([type(env), constants_of(env)] if isinstance(env, HostEnvironment) else env)


def _model_source(model: ModelLike, method: Method) -> dict[str, Any]:
    """Where the code of a model is, and what tells it from another of the same name."""
    if method.source is None:
        return {"kind": "built-in"}
    if isinstance(model, str) and user_files.is_file(model):
        return {"kind": "file", "sha256": user_files.sha256("model", split_family(model)[1])}
    return {"kind": "installed" if isinstance(model, str) else "object", "digest": digest(method.source)}


def from_json(
    content: Mapping[str, Any],
    task: str | World | None = None,
    model: ModelLike | None = None,
    optimizer: str | Optimizer | None = None,
    data: Episodes | str | pathlib.Path | None = None,
) -> TrainConfig:
    """The configuration that `to_json` wrote.

    Args:
        content: plain JSON.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: the model again, where it is of the user's own: `FILE.py:NAME` or an object.
        optimizer: the optimiser again, where there is one of the user's own: `FILE.py:NAME` or an object.
        data: the recorded episodes again, to go on; without them, only what is known of them is there.

    Raises:
        UsageError: a field is missing, unknown or of the wrong type; the task, the model, the optimiser or the data
            are missing or others.
    """
    check_stored(content)
    values = {name: value for name, value in content.items() if name not in _BESIDE_FIELDS}
    values["task"] = _task_again(content, task)
    values["model"] = _model_again(content, model)
    values["optimizer"] = _optimizer_again(content, optimizer)
    values["data"] = _data_again(content, data)
    config = TrainConfig(**values)
    # A preset may mean something else in another version: what the run was started with counts.
    stored, method = content["settings"], find_method(config.model)
    if method.given is not None:
        return config
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
        if name not in content and name != "data":
            raise UsageError(f"config: {name!r} is missing")
    for name, value in content.items():
        check_choice("config", name, KINDS)
        check(f"config: {name}", value, KINDS[name])
    source = content["task_source"]
    check_choice("config: task_source", source.get("kind"), _KINDS_OF_CODE)
    wanted = {"parameters": dict} if source["kind"] == "built-in" else {"state_size": int, "action_size": int}
    for name, kind in wanted.items():
        check(f"config: {name} of task_source", source.get(name), kind)
    check_choice("config: model_source", content["model_source"].get("kind"), _KINDS_OF_CODE)


def _task_again(content: Mapping[str, Any], task: str | World | None) -> str | World | None:
    """The task of a stored configuration: built in, or the one given, once it is known to be the same."""
    name, source = content["task"], content["task_source"]
    kind = source["kind"]
    if kind == "built-in":
        _refuse("task", task, f"is of the built-in task {name}")
        check_choice("task", name, TASKS)
        parameters = source["parameters"]
        return make(name, check_horizon(content["horizon"]), **parameters) if parameters else name
    if kind == "gymnasium":
        _refuse("task", None if task == name else task, f"is of {name}")
        return name
    if kind == "recording":
        return _refuse("task", task, f"is of the recorded episodes {name} alone")
    task = name if task is None and kind == "installed" else task
    if task is None:
        raise _missing("task", name)
    if isinstance(task, str) and kind == "file" and task_files.sha256(task) != source.get("sha256"):
        raise UsageError(f"task: {task} is not what the run was started with, {name}: the file has changed")
    env = find_task(task, content["horizon"]) if isinstance(task, str) else task
    for attribute, wanted in {**source, "horizon": content["horizon"]}.items():
        if attribute in ("horizon", "state_size", "action_size") and getattr(env, attribute) != wanted:
            got = getattr(env, attribute)
            raise UsageError(f"task: the run's has {attribute} {wanted}, the one given {got}")
    _check_digest("task", env.name, source, _digest_of(env))
    return task


def _refuse(option: str, given: object, what: str) -> None:
    """Raises a UsageError if something is given that a run has no need of."""
    if given is not None:
        raise UsageError(f"{option}: the run {what}, none must be given")


def _missing(option: str, name: str) -> UsageError:
    """What is of the user's own has to be given again."""
    what = f"has {name}, an optimiser" if option == "optimizer" else f"is of {name}, a {option}"
    return UsageError(
        f"{option}: the run {what} of your own, which is not stored in it; "
        f"give it again: --{option} FILE.py:NAME, or load(path, {option}=...)"
    )


def _check_digest(option: str, given: str, source: Mapping[str, Any], digest: str, name: str = "") -> None:
    """Raises a UsageError unless the object that is given is the one that a run was started with."""
    if digest != source.get("digest"):
        was = f", {name}" if name else ""
        raise UsageError(
            f"{option}: {given} is not what the run was started with{was}: its code or a parameter has changed"
        )


def _data_again(
    content: Mapping[str, Any], data: Episodes | str | pathlib.Path | None
) -> Episodes | Recording | None:
    """The recorded episodes of a stored configuration: those given, once they are known to be the same."""
    stored = content.get("data")
    if stored is None:
        return _refuse("data", data, "began without recorded episodes")
    known = check("config: data", stored, Recording)
    if data is None:
        return known
    given = find_data(data)
    assert isinstance(given, Episodes)
    if given.recording.digest != known.digest:
        raise UsageError(
            f"data: {given.name} has other episodes than the run was started with, those of {known.name}"
        )
    return given


def _model_again(content: Mapping[str, Any], model: ModelLike | None) -> ModelLike:
    """The model of a stored configuration: built in, or the one given, once it is known to be the same."""
    name, source = content["model"], content["model_source"]
    kind = source["kind"]
    if kind == "built-in":
        _refuse("model", model, f"is of the built-in model {name}")
        check_choice("model", name, MODELS)
        return name
    model = name if model is None and kind == "installed" else model
    if model is None:
        raise _missing("model", name)
    if kind == "file":
        _check_file(name, source, model)
    else:
        method = find_method(model)
        own = "" if method.source is None else digest(method.source)
        _check_digest("model", model if isinstance(model, str) else method.name, source, own, name)
    return model


def _check_file(name: str, source: Mapping[str, Any], model: ModelLike) -> None:
    """Raises a UsageError unless a model is of the file, as it was, that a run was started with."""
    shown = model if isinstance(model, str) else find_method(model).name
    refusal = f"model: {shown} is not what the run was started with, {name}"
    if not isinstance(model, str) or not user_files.is_file(model):
        raise UsageError(refusal)
    family, file = split_family(model)
    if (family, user_files.split("model", file)[1]) != (split_family(name)[0], name.rpartition(":")[2]):
        raise UsageError(refusal)
    if user_files.sha256("model", file) != source.get("sha256"):
        raise UsageError(f"{refusal}: the file has changed")


def _optimizer_again(content: Mapping[str, Any], optimizer: str | Optimizer | None) -> str | Optimizer | None:
    """The optimiser of a stored configuration: none, or the one given, once it is known to be the same."""
    name = content["optimizer"]
    if name is None:
        return _refuse("optimizer", optimizer, "has the built-in optimisers")
    if optimizer is None:
        raise _missing("optimizer", name)
    own, thing = load_optimizer(optimizer)
    _check_digest("optimizer", own, content["optimizer_source"], digest(thing), name)
    return optimizer
