"""Every setting with its meaning, bounds and values; and `python -m asmpg.cli.reference`, the page of them."""

import dataclasses
import sys
from collections.abc import Iterator

from ..core.checks import allowed, field_types, meaning
from ..training.methods import MODELS


# One method for each class of settings, and the horizon at which the page shows what depends on it.
METHODS = {
    "Model-based methods": "transformer",
    "Soft actor-critic": "sac",
    "Online decision transformer": "odt",
}
HORIZON = 100


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a method, in words.

    Attributes:
        name: of the field.
        default: its value in the preset `default`.
        paper: its value in the preset `paper`.
        allowed: its bounds or choices.
        text: what it means; "as above" where an earlier method of `METHODS` has it too.
    """

    name: str
    default: str
    paper: str
    allowed: str
    text: str


def settings_of(name: str, horizon: int) -> Iterator[Setting]:
    """The settings of one of `METHODS`, with the values of both presets at a horizon."""
    methods = list(METHODS.values())
    earlier = [MODELS[one].settings for one in methods[: methods.index(name)]]
    method = MODELS[name]
    default, paper = (method.preset(preset, horizon) for preset in ("default", "paper"))
    for setting, kind in field_types(method.settings).items():
        values = (_shown(getattr(settings, setting)) for settings in (default, paper))
        seen = any(setting in field_types(settings) for settings in earlier)
        yield Setting(setting, *values, allowed(kind), "as above" if seen else meaning(kind))


def settings_page() -> str:
    """Every setting: its meaning, what is allowed, and its value in both presets."""
    parts = [
        "# Settings",
        "Each is an option of `asmpg train` (`--model-batch-size 32`), a key of `overrides`, and a field of "
        "`asmpg.Settings`, `asmpg.SoftActorCriticSettings` or `asmpg.DecisionTransformerSettings`. Values are those "
        f"at a horizon of {HORIZON}; settings that are the same for every method stand with the first. "
        "`asmpg train --horizon H --help-all` prints them for a horizon of yours.",
    ]
    for title, name in METHODS.items():
        parts += [
            f"## {title} (`{name}`)",
            "| setting | `default` | `paper` | allowed | meaning |\n|---|---|---|---|---|",
        ]
        for one in settings_of(name, HORIZON):
            parts[-1] += f"\n| `{one.name}` | {one.default} | {one.paper} | {one.allowed} | {one.text} |"
    recurrent = ", ".join(f"`{name} = {value!r}`" for name, value in MODELS["lstm"].paper.items())
    parts.append(f"For every backbone but the transformer, and for `one-step`, `paper` has {recurrent}.")
    return "\n\n".join(parts) + "\n"


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
