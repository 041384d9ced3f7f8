"""The text of every help, plain: from the commands' classes and the annotations of the settings."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from importlib import metadata

from .declare import Option, options_of
from .options import COMMANDS, description, Train


# Of the left column, and of a line at most: longer ones are hard to read.
_LEFT, _WIDEST = 26, 100


def width() -> int:
    """Characters of a line."""
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


def columns(rows: Iterable[tuple[str, str]], left: int = _LEFT) -> Iterator[str]:
    """Lines with a name on the left and a text, broken where it is long, on the right."""
    for name, text in rows:
        lines = textwrap.wrap(text, max(20, width() - left - 2)) or [""]
        if len(name) > left - 2:
            yield f"  {name}"
        else:
            yield f"  {name:{left - 2}}  {lines.pop(0)}".rstrip()
        yield from (f"{'':{left + 2}}{line}" for line in lines)


def overview() -> str:
    """`asmpg --help`."""
    rows = [(name, description(command).partition("\n")[0]) for name, command in COMMANDS.items()]
    lines = [
        f"asmpg {metadata.version('asmpg')}: policy gradients through action-sequence models",
        "",
        "usage: asmpg COMMAND ...",
        "",
        *columns(rows, 14),
        "",
        *columns(
            [("--help", "of a command too: asmpg train --help"), ("--version", "print the version")], 14
        ),
        "",
        "To begin: asmpg train harvest --model lstm --horizon 50 --steps 4000",
    ]
    return "\n".join(lines) + "\n"


def of_command(name: str) -> str:
    """`asmpg COMMAND --help`: the options that are often needed."""
    options = [option for option in options_of(COMMANDS[name]) if option.common]
    return "\n".join([*_head(name), *columns(map(_row, options))]) + "\n"


def _head(name: str) -> list[str]:
    """Usage and what the command does."""
    places = [
        option.flag if option.required else f"[{option.flag}]"
        for option in options_of(COMMANDS[name])
        if option.positional
    ]
    text = [textwrap.fill(part, width()) for part in description(COMMANDS[name]).split("\n\n")]
    return [f"usage: asmpg {' '.join([name, *places])} [options]", "", *text, ""]


def _row(option: Option) -> tuple[str, str]:
    left = option.flag if option.positional else f"{option.flag} {option.metavar}".rstrip()
    return left, option.text + (f" (default: {option.default})" if option.default else "")


def everything(horizon: int) -> str:
    """`asmpg train --help-all`: every option, and every setting with the values of both presets at a horizon."""
    from .reference import METHODS, settings_of

    plain = [option for option in options_of(Train) if not option.setting]
    lines = [*_head("train"), *columns(map(_row, plain))]
    for title, name in METHODS.items():
        lines += ["", f"{title} ({name}), values at a horizon of {horizon}"]
        for setting in settings_of(name, horizon):
            values = f"{setting.default}" + f", paper {setting.paper}" * (setting.paper != setting.default)
            text = f"{values}; {setting.allowed}; {setting.text}"
            lines += columns([(f"--{setting.name.replace('_', '-')}", text)], 32)
    return "\n".join(lines) + "\n"
