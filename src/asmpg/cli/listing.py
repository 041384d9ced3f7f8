"""What `asmpg list` does."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax

from ..core.types import UsageError
from ..core.user_code import installed, load_installed
from ..diagnose import catalogue
from ..models.backbones import BACKBONES
from ..models.files import FAMILIES
from ..tasks import TASKS
from ..tasks.files import find_task
from ..training.methods import MODELS
from ..training.runs.progress import Progress, terminal
from .machine import keep_compiled
from .options import List
from .output import print_json, print_next, print_table


# The horizon at which tasks are made to be looked at; none of the built-in ones warns there.
_HORIZON = 100
_MODELS = (
    ("BACKBONE", "Every state straight from the first one and the actions: an action-sequence model."),
    ("history-BACKBONE", "The next state from all earlier states and actions."),
    ("actions-BACKBONE", "The action sequence itself as parameters, through an action-sequence model."),
    ("actions", "The same as actions-transformer."),
    ("one-step", "The next state from the last one, by a small network: the baseline, quick to train."),
    ("simulator", "The true dynamics, differentiated step by step; nothing is fitted."),
    ("sac", "Soft actor-critic: no model, a learned value."),
    ("odt", "The online decision transformer: no model, asked for a return."),
    ("auto", "One-step or an LSTM, whichever fits the warm-up's episodes."),
    ("FILE.py:NAME", "A backbone, dynamics model, learner or method of your own."),
)


def run_list(options: List) -> int:
    """`asmpg list`, on the CPU: it looks at tasks and computes next to nothing."""
    jax.config.update("jax_platforms", "cpu")
    from ..experiments import EXPERIMENTS

    backbones = [*BACKBONES, *installed("asmpg.backbones")]
    added = [family + name for name in installed("asmpg.backbones") for family in ("", *FAMILIES)]
    names = {
        "tasks": [*TASKS, *installed("asmpg.tasks")],
        "backbones": backbones,
        "models": [*MODELS, *added],
        "figures": [*EXPERIMENTS],
    }
    if options.json:
        content: dict[str, Any] = dict(names)
        if options.models:
            content["properties"] = {name: dataclasses.asdict(one) for name, one in _measure().items()}
        return print_json(content)
    chosen = [name for name in names if getattr(options, name)]
    for name in chosen:
        if name == "models":
            _print_measured(_measure())
        else:
            print_table("", ("",), [(entry,) for entry in names[name]])
    if not chosen:
        titles = {name: experiment.title for name, experiment in EXPERIMENTS.items()}
        _print_everything(names["tasks"], backbones, titles)
    return 0


def _print_everything(tasks: list[str], backbones: list[str], titles: Mapping[str, str]) -> None:
    print_table("tasks", ("TASK", "state", "action", ""), map(_task, tasks))
    print_table("models", ("--model", ""), _MODELS)
    print_table("backbones", ("BACKBONE", "parameters", ""), map(_backbone, backbones))
    together: dict[str, list[str]] = {}
    for figure, title in titles.items():
        together.setdefault(title, []).append(figure)
    rows = [(", ".join(figures), _sentence(title)) for title, figures in together.items()]
    print_table("figures, for asmpg reproduce", ("FIGURE", ""), rows)
    print_next(["train", "harvest", "--model", "lstm", "--horizon", "50"])


def _task(name: str) -> tuple[str, ...]:
    """Name, sizes, and a sentence; what is wrong with one of an installed package stands in its place."""
    try:
        env = find_task(name, _HORIZON)
    except UsageError as error:
        return name, "-", "-", str(error)
    own = TASKS[name] if name in TASKS else installed("asmpg.tasks")[name].load()
    return name, str(env.state_size), str(env.action_size), _first_line(own)


def _backbone(name: str) -> tuple[str, ...]:
    """Name, number of parameters, and a sentence."""
    try:
        own = BACKBONES.get(name) or load_installed("model", installed("asmpg.backbones")[name])
        size = catalogue.sizes(name if name in BACKBONES else getattr(own, "create", own))[0]
    except UsageError as error:
        return name, "-", str(error)
    return name, f"{size:,}", _first_line(own)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("`", "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _measure() -> dict[str, catalogue.Properties]:
    """Sizes and reach of every backbone; says which one it is at, since the first time takes a while."""
    keep_compiled()
    with terminal() as shown:
        return catalogue.all_properties(
            lambda name: shown(Progress("starting", f"measuring {name} at H = {catalogue.HORIZON}"))
        )


def _print_measured(measured: Mapping[str, catalogue.Properties]) -> None:
    """Every backbone with its numbers."""
    rows = [
        (name, f"{one.num_parameters:,}", f"{one.state_size:,}", f"{one.reach:.1e}")
        for name, one in measured.items()
    ]
    note = (
        "Carry: numbers carried between steps. Reach: untrained |ds_H/da_0| / |ds_H/da_(H-1)| on "
        f"{catalogue.TASK}, median of {catalogue.NUM_DRAWS} draws. All at H = {catalogue.HORIZON}."
    )
    print_table("", ("BACKBONE", "parameters", "carry", "reach"), rows, note)
