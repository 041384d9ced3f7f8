"""Values that a user gives: one line that names the option, and what is allowed.

What is allowed stands in a type: `Annotated[int, Meta(ge=1)]`, a `Literal`, a union of such. msgspec checks a value, or
the text of one that was typed, against it, and says what the type allows.
"""

import dataclasses
import difflib
import functools
import typing
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import inspect, Meta

from .types import UsageError


# More steps than this would overflow the 32-bit counters of a compiled program; nothing else is counted as far.
MAX_COUNT = 2_000_000_000
MAX_SEED = 2**31 - 1
MAX_SEEDS = 100_000
MAX_HORIZON = 1_000_000
MAX_NUMBER = 1e30

Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Positive = Annotated[float, Meta(gt=0, le=MAX_NUMBER)]
NotNegative = Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
Share = Annotated[float, Meta(ge=0, le=1)]
Dropout = Annotated[float, Meta(ge=0, lt=1)]
# Of a network's layers, and how many there are.
MAX_WIDTH, MAX_LAYERS = 65_536, 100
Width = Annotated[int, Meta(ge=1, le=MAX_WIDTH)]
NumLayers = Annotated[int, Meta(ge=1, le=MAX_LAYERS)]


def about(text: str) -> Meta:
    """What a field means; stands last in its type."""
    return Meta(description=text)


def meaning(kind: object) -> str:
    """What the type of a field says about it."""
    notes = [part.description for part in typing.get_args(kind) if isinstance(part, Meta)]
    return next(note for note in reversed(notes) if note)


@functools.cache
def field_types(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields by their names, with bounds and meanings."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def check(option: str, value: object, kind: object) -> Any:
    """The value as what its type says: a NumPy number as a Python one, an integer as a float where one is meant.

    Args:
        option: what the message names.
        value: what was given.
        kind: the type, with its bounds.

    Raises:
        UsageError: it is not of the type or out of its bounds; no number is NaN.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        return msgspec.convert(plain, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise UsageError(f"{option}: must be {allowed(kind)}, got {_shown(value)}") from error


def parse(option: str, text: str, kind: object) -> Any:
    """`check` for the text of a value.

    Raises:
        UsageError: it is not the text of a value that the type allows.
    """
    try:
        return msgspec.convert(text, kind, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter of bytes that are no text
        choices = [value for value in _choices(inspect.type_info(kind)) if isinstance(value, str)]
        raise UsageError(
            f"{option}: must be {allowed(kind)}, got {_shown(text)}{did_you_mean(text, choices)}"
        ) from error


def allowed(kind: object) -> str:
    """What a type allows, in words: "an integer from 1 to 5", "white or correlated"."""
    info = inspect.type_info(kind)
    choices = _choices(info)
    words = [_range(part) for part in _parts(info)]
    words = [", ".join(map(str, choices))] * bool(choices) + [word for word in words if word]
    return " or ".join(words)


def _parts(info: inspect.Type) -> list[inspect.Type]:
    """The members of a union, or the type itself, without what describes it."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    return (
        [part for one in info.types for part in _parts(one)]
        if isinstance(info, inspect.UnionType)
        else [info]
    )


def _choices(info: inspect.Type) -> list[Any]:
    return [value for part in _parts(info) if isinstance(part, inspect.LiteralType) for value in part.values]


_NAMES = {
    inspect.IntType: "an integer",
    inspect.FloatType: "a number",
    inspect.BoolType: "true or false",
    inspect.StrType: "a text",
    inspect.DictType: "a table of values by name",
}


def _range(info: inspect.Type) -> str:
    """A type's name and bounds; nothing for choices and for None, which is how an option is left out."""
    words = _NAMES.get(type(info), "")
    if not isinstance(info, inspect.IntType | inspect.FloatType):
        return words
    if info.ge is not None and info.le is not None and info.le < MAX_NUMBER:
        return f"{words} from {info.ge:,} to {info.le:,}"
    bounds = {">=": info.ge, ">": info.gt, "<=": info.le, "<": info.lt}
    bounds = {sign: bound for sign, bound in bounds.items() if bound is not None and abs(bound) < MAX_NUMBER}
    return f"{words} {' and '.join(f'{sign} {bound:,}' for sign, bound in bounds.items())}".strip()


def _shown(value: object) -> str:
    """The value on one line, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # whatever a user's object does there
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(word: object, known: Collection[str]) -> str:
    """A question about the nearest known word, where one is near."""
    near = difflib.get_close_matches(word, known, n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def check_choice(option: str, value: object, allowed: Collection[str], *others: str) -> None:
    """Raises a UsageError that names the option unless the value is allowed; `others` are named in it too."""
    if not isinstance(value, str) or value not in allowed:
        known = ", ".join([*allowed, *others])
        raise UsageError(f"{option}: {_shown(value)} is not one of {known}{did_you_mean(value, allowed)}")


def check_integer(option: str, value: object, least: int, most: int = MAX_COUNT) -> int:
    """The value as an int.

    Raises:
        UsageError: it is no integer between these.
    """
    return check(option, value, Annotated[int, Meta(ge=least, le=most)])
