"""`python -m asmpg.cli.reference`: the page of all settings, made from the settings themselves."""

import sys
from typing import Any

from ..core.checks import allowed, field_types, meaning
from ..training.methods import MODELS


# One method for each class of settings, and the horizon at which the page shows what depends on it.
METHODS = {
    "Model-based methods": "transformer",
    "Soft actor-critic": "sac",
    "Online decision transformer": "odt",
}
HORIZON = 100


def settings_page() -> str:
    """Every setting: its meaning, what is allowed, and its value in both presets."""
    parts = [
        "# Settings",
        "Each is an option of `asmpg train` (`--model-batch-size 32`), a key of `overrides`, and a field of "
        "`asmpg.Settings`, `asmpg.SoftActorCriticSettings` or `asmpg.DecisionTransformerSettings`. Values are those "
        f"at a horizon of {HORIZON}; settings that are the same for every method stand with the first.",
    ]
    seen: set[str] = set()
    for title, name in METHODS.items():
        method = MODELS[name]
        default, paper = (method.preset(preset, HORIZON) for preset in ("default", "paper"))
        parts += [
            f"## {title} (`{name}`)",
            "| setting | `default` | `paper` | allowed | meaning |\n|---|---|---|---|---|",
        ]
        for setting, kind in field_types(method.settings).items():
            values = [_shown(getattr(settings, setting)) for settings in (default, paper)]
            text = meaning(kind) if setting not in seen else "as above"
            parts[-1] += f"\n| `{setting}` | {' | '.join(values)} | {allowed(kind)} | {text} |"
        seen |= field_types(method.settings).keys()
    recurrent = ", ".join(f"`{name} = {value!r}`" for name, value in MODELS["lstm"].paper.items())
    parts.append(f"For every backbone but the transformer, and for `one-step`, `paper` has {recurrent}.")
    return "\n\n".join(parts) + "\n"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
