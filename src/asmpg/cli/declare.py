"""How an option is declared: a field of a command's class, and what its help and the shell's completion say of it."""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: of the field.
        flag: what is typed, such as `--model-batch-size`, or what stands for a positional argument, such as `TASK`.
        kind: the type that checks its value; `bool` alone for what takes none.
        metavar: what stands for its value in the help; empty for what takes none.
        text: what it means.
        default: what holds where it is not given, in words.
        positional: whether it is given without `--`.
        required: whether it has to be given.
        common: whether the short help has it too.
        names: what the shell may complete it to: "task", "model", "figure", "suite" or "path".
        setting: whether it replaces a setting of the preset.
    """

    name: str
    flag: str
    kind: Any
    metavar: str
    text: str
    default: str
    positional: bool
    required: bool
    common: bool
    names: str
    setting: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return not self.metavar

    @property
    def choices(self) -> list[str]:
        """The values that are allowed, where they can be listed."""
        kinds = [*typing.get_args(self.kind), self.kind]
        listed = [str(value) for kind in kinds if _is_literal(kind) for value in typing.get_args(kind)]
        return listed or (["true", "false"] if self.kind is bool and self.metavar else [])


def option(
    text: str,
    default: str = "",
    *,
    value: object = None,
    metavar: str = "",
    flag: str = "",
    common: bool = True,
    kind: object = None,
    names: str = "",
) -> Any:
    """A field that is an option; see `Option`.

    Args:
        text: what it means.
        default: what holds where it is not given, in words.
        value: of the field where it is not given; False for what takes no value.
        metavar: what stands for its value, where its type does not say.
        flag: what is typed, where it is not the name of the field.
        common: whether the short help has it too.
        kind: the type that checks its value, where it is not the field's.
        names: what the shell may complete it to.
    """
    told = {"text": text, "default": default, "common": common, "names": names, "positional": False}
    return dataclasses.field(default=value, metadata=told | {"metavar": metavar, "flag": flag, "kind": kind})


def argument(metavar: str, text: str, *, names: str = "", value: object = dataclasses.MISSING) -> Any:
    """A field that is given without a flag, and has to be unless it has a value."""
    told = {"text": text, "default": "", "common": True, "names": names, "positional": True}
    return dataclasses.field(default=value, metadata=told | {"metavar": metavar, "flag": "", "kind": None})


@functools.cache
def options_of(command: type) -> tuple[Option, ...]:
    """The options of a command in the order of its class, settings last."""
    return tuple(_options(command))


def _options(command: type) -> Iterator[Option]:
    hints = typing.get_type_hints(command)
    for field in dataclasses.fields(command):
        if not field.metadata:  # the settings, a group of their own
            settings = options_of(hints[field.name])
            yield from (dataclasses.replace(one, setting=True) for one in settings)
            continue
        told = dict(field.metadata)
        metavar, flag, kind = (told.pop(name) for name in ("metavar", "flag", "kind"))
        kind = plain(hints[field.name]) if kind is None else kind
        metavar = "" if field.default is False else metavar or _metavar(kind)
        flag = metavar if told["positional"] else f"--{flag or field.name.replace('_', '-')}"
        required = field.default is dataclasses.MISSING
        yield Option(name=field.name, flag=flag, kind=kind, metavar=metavar, required=required, **told)


def plain(kind: object) -> Any:
    """A type without None and without what describes it."""
    if typing.get_origin(kind) is Annotated:
        return plain(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return functools.reduce(operator.or_, map(plain, kinds))
    return kind


def _is_literal(kind: object) -> bool:
    return typing.get_origin(kind) is Literal


_METAVARS = {int: "INTEGER", float: "NUMBER", str: "NAME"}


def _metavar(kind: object) -> str:
    """The choices, or what kind of value it is."""
    kind = plain(kind)
    if _is_literal(kind):
        return "|".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return "|".join(map(_metavar, typing.get_args(kind)))
    return "true|false" if kind is bool else _METAVARS[kind]
