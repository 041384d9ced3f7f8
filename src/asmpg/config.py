"""What a run is: `TrainConfig`, its validation, and the learner it describes."""

import dataclasses
import functools
from typing import Any

from .backbones import BACKBONES
from .environment import AbstractEnvironment
from .envs import make
from .gradients import Loop
from .learner import AbstractLearner, ModelBasedLearner
from .models import ActionSequenceModel, OneStepModel, Simulator
from .settings import preset, Settings
from .types import UsageError


def _model_table() -> dict[str, Any]:
    """Every `--model`, with what builds its dynamics model from (env, settings)."""
    table: dict[str, Any] = {}
    for name in BACKBONES:
        table[name] = lambda env, settings, name=name: functools.partial(
            ActionSequenceModel, env, name, dropout=settings.dropout
        )
    table["one-step"] = lambda env, settings: functools.partial(OneStepModel, env)
    table["simulator"] = lambda env, settings: lambda *, key: Simulator(env)
    return table


MODELS = _model_table()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A complete description of a run, except for a task of the user's own.

    Attributes:
        task: a name of `asmpg.envs.TASKS`, or an environment.
        horizon: actions in an episode; an environment given as `task` has its own.
        model: a name of `MODELS`; a backbone's name means an action-sequence model.
        steps: environment steps, rounded up to whole episodes, the warm-up included.
        seed: the first seed.
        num_seeds: number of independent runs, with seeds `seed .. seed + num_seeds - 1`.
        preset: a name of `asmpg.settings.PRESETS`.
        out: run folder; nothing is written without one.
        loop: which policy gradient, "open" or "closed".
        record_cosine: whether to record the cosine to the true policy gradient.
        chunk_steps: environment steps between two records and checkpoints.
        stop_score: stop early once every seed held this score for three records in a row.
        overrides: settings that replace the preset's, by name.
    """

    task: str | AbstractEnvironment
    horizon: int = 100
    model: str = "transformer"
    steps: int = 20_000
    seed: int = 0
    num_seeds: int = 1
    preset: str = "default"
    out: str | None = None
    loop: Loop = "open"
    record_cosine: bool = False
    chunk_steps: int = 500
    stop_score: float | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def environment(self) -> AbstractEnvironment:
        """The task."""
        return make(self.task, self.horizon) if isinstance(self.task, str) else self.task

    def settings(self) -> Settings:
        """The preset at this horizon with the overrides applied.

        Raises:
            UsageError: an unknown preset or setting, or a value out of range.
        """
        names = {field.name for field in dataclasses.fields(Settings)}
        unknown = sorted(set(self.overrides) - names)
        if unknown:
            raise UsageError(f"overrides: {unknown[0]!r} is not one of {', '.join(sorted(names))}")
        return dataclasses.replace(preset(self.preset, self.environment().horizon), **self.overrides)

    def learner(self) -> AbstractLearner:
        """The method.

        Raises:
            UsageError: an unknown model.
        """
        check_choice("model", self.model, MODELS)
        env, settings = self.environment(), self.settings()
        make_model = MODELS[self.model](env, settings)
        return ModelBasedLearner(env, settings, make_model, self.loop, self.record_cosine)


def check_choice(option: str, value: str, allowed: Any) -> None:
    """Raises a UsageError that names the option unless the value is allowed."""
    if value not in allowed:
        raise UsageError(f"{option}: {value!r} is not one of {', '.join(allowed)}")
