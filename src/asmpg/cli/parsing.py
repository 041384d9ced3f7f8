"""From what was typed to a command, or to one line about what is wrong with it."""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from ..core.checks import did_you_mean
from ..core.checks import parse as parse_value
from ..core.types import UsageError
from . import help as help_texts
from .declare import Option, options_of
from .options import COMMANDS


def parse(arguments: list[str]) -> Any:
    """The command that was typed, an instance of one of `COMMANDS`.

    Raises:
        UsageError: what it is that cannot be read, on one line.
        SystemExit: with code 0, after the help.
    """
    name, *words = arguments or ["--help"]
    if name in ("-h", "--help"):
        _print(help_texts.overview())
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        question = did_you_mean(name, COMMANDS)
        raise UsageError(f"{name}: there is no such command, it must be one of {known}{question}")
    if "-h" in words or "--help" in words:
        _print(help_texts.of_command(name))
    return _read(name, words)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
    raise SystemExit(0)


def _read(name: str, words: list[str]) -> Any:
    """The command with the values that were typed; the last one counts where an option is given twice."""
    command = COMMANDS[name]
    known = options_of(command)
    places = iter([option for option in known if option.positional])
    flags = {option.flag: option for option in known if not option.positional}
    values: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        word = "--out" if word == "-o" else word
        if not word.startswith("--"):
            option = next(places, None)
            if option is None or (word.startswith("-") and word != "-"):
                raise UsageError(f"{word}: there is no such argument, see asmpg {name} --help")
            values[option.name] = parse_value(option.flag, word, option.kind)
            continue
        option, value = _option(word, rest, flags)
        (settings if option.setting else values)[option.name] = value
    missing = [option.flag for option in known if option.required and option.name not in values]
    if missing:
        raise UsageError(f"{missing[0]}: is missing, see asmpg {name} --help")
    nested = {field.name: field for field in dataclasses.fields(command)}.get("settings")
    if nested is not None:
        values["settings"] = nested.default_factory(**settings)
    return command(**values)


def _option(word: str, rest: Iterator[str], flags: dict[str, Option]) -> tuple[Option, Any]:
    """An option and its value, which stands behind `=` or is the next word."""
    flag, equals, text = word.partition("=")
    option = flags.get(flag.replace("_", "-"))
    if option is None:
        raise UsageError(f"{flag}: there is no such option{did_you_mean(flag, flags)}")
    if option.is_switch:
        if equals:
            raise UsageError(f"{flag}: takes no value, got {text!r}")
        return option, True
    if not equals:
        text = next(rest, "--")
        if text.startswith("--"):
            raise UsageError(f"{flag}: needs a value, {option.metavar}")
    return option, parse_value(option.flag, text, option.kind)
