"""What a run is: `TrainConfig`, its checks and the learner it describes."""

import dataclasses
import typing
from typing import Any

import equinox as eqx
import jax

from ..core.checks import check_choice, check_integer, check_number
from ..core.precision import Precision, resolve_precision
from ..core.types import UsageError
from ..gradients.imagination import check_parallel, Imagine, Loop, resolve
from ..learners.base import AbstractLearner
from ..learners.model_based import ModelBasedLearner
from ..learners.settings import AbstractSettings, Settings
from ..models import files as model_files
from ..tasks import files as task_files
from ..tasks import make, TASKS
from ..tasks.environment import AbstractEnvironment
from ..tasks.validation import check_horizon, validate
from .methods import check_setting, find_method, is_sequence_model


# What only means something to a method that differentiates through a model.
_OF_MODELS = {"loop", "record_cosine", "learned_reward", "imagine", "scan_chunk"}
# More seeds than this would not be told apart by a 32-bit key.
_MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A complete description of a run, except for the code of a task or a backbone of the user's own.

    Attributes:
        task: a name of `asmpg.TASKS`, `FILE.py:NAME`, or an environment.
        horizon: actions in an episode; an environment given as `task` has its own.
        model: a name of `MODELS`, the method. A backbone means an action-sequence model, `history-BACKBONE` one over
            states and actions, `actions-BACKBONE` that the actions themselves are optimised through an action-sequence
            model; BACKBONE may be `FILE.py:NAME`, one of your own.
        steps: environment steps, rounded up to whole episodes, the warm-up included.
        seed: the first seed.
        num_seeds: number of independent runs, with seeds `seed .. seed + num_seeds - 1`.
        preset: "default" (ours) or "paper"; what it says depends on the method.
        out: run folder; nothing is written without one.
        loop: which policy gradient, "open" or "closed".
        record_cosine: whether to record the cosine to the true policy gradient.
        learned_reward: whether the reward is learned too, instead of being known (Appendix C).
        chunk_steps: environment steps between two records and checkpoints.
        stop_score: stop early once every seed held this score for three records in a row.
        optimum: whether to solve a task of the user's own too, so that scores are known. A built-in one always is.
        imagine: how the states of an imagined episode are found: "sequential", step by step; "parallel", as a fixed
            point of whole sequences; "auto", sequential on a CPU, where it was measured
            faster, and on an accelerator parallel for a backbone that is parallel over time.
        scan_chunk: steps between two carries that a derivative taken step by step keeps; None: all of up to 512 steps,
            else about the square root of the horizon.
        precision: "float32", "float64", or "bfloat16-matmul" for float32 with matrix products of that precision, which
            a CPU does not have; "auto", float64 where JAX has it enabled, else float32.
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
    learned_reward: bool = False
    chunk_steps: int = 500
    stop_score: float | None = None
    optimum: bool = False
    imagine: Imagine = "auto"
    scan_chunk: int | None = None
    precision: Precision = "auto"
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The model without a folder of the user's."""
        return model_files.short_name(self.model)

    def environment(self) -> AbstractEnvironment:
        """The task.

        Raises:
            UsageError: an unknown task, or a horizon that is not allowed.
        """
        if not isinstance(self.task, str):
            return self.task
        horizon = check_horizon(self.horizon)
        if task_files.is_task_file(self.task):
            return task_files.load_task(self.task, horizon)
        check_choice("task", self.task, TASKS)
        return make(self.task, horizon)

    def settings(self) -> AbstractSettings:
        """The method's preset at this horizon with the overrides applied.

        Raises:
            UsageError: an unknown model, preset or setting, or a value out of range.
        """
        horizon = self.horizon if isinstance(self.task, str) else self.task.horizon
        method = find_method(self.model)
        for name, value in self.overrides.items():
            check_setting(name, value, method.settings)
        check_choice("preset", self.preset, method.presets)
        return dataclasses.replace(method.presets[self.preset](horizon), **self.overrides)

    def learner(self) -> AbstractLearner:
        """The method.

        Raises:
            UsageError: an unknown task, model, preset or setting, or a value that is not allowed.
        """
        settings = self.settings()
        return find_method(self.model).learner(self, self.environment(), settings)

    def imagine_here(self) -> Imagine:
        """How imagination is done on this device, where that is left open; what a run folder keeps."""
        if self.imagine != "auto" or find_method(self.model).settings is not Settings:
            return self.imagine
        if jax.default_backend() == "cpu" or not is_sequence_model(self.model):
            return "sequential"
        learner = self.learner()
        assert isinstance(learner, ModelBasedLearner)
        model = eqx.filter_eval_shape(lambda: learner.make_model(key=jax.random.key(0)))
        return "parallel" if resolve("auto", model, self.loop) else "sequential"

    def _refuse_what_needs_a_model(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in _OF_MODELS and getattr(self, field.name) != field.default:
                value = getattr(self, field.name)
                raise UsageError(
                    f"{field.name}: {value!r} has no meaning for {self.model}, which imagines nothing"
                )

    def _check_types(self) -> None:
        """Those of the fields that say what the others mean."""
        if isinstance(self.task, type):
            raise UsageError(
                f"task: {self.task.__name__} is a class, give an instance: {self.task.__name__}()"
            )
        if not isinstance(self.task, str | AbstractEnvironment):
            raise UsageError(f"task: must be a name, FILE.py:NAME or an environment, got {self.task!r}")
        for name in ("model", "preset"):
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"{name}: must be a name, got {getattr(self, name)!r}")
        if self.out is not None and (not isinstance(self.out, str) or not self.out):
            raise UsageError(f"out: must be the name of a folder, or None for no folder, got {self.out!r}")
        if not isinstance(self.overrides, dict):
            raise UsageError(f"overrides: must be a dict of settings by name, got {self.overrides!r}")

    def checked(self) -> "TrainConfig":
        """The same with the task's own horizon filled in, once everything about it has been checked.

        Raises:
            UsageError: one line that names the first field with a value that is not allowed.
        """
        self._check_types()
        env = self.environment()
        check_choice("precision", self.precision, typing.get_args(Precision))
        precision = resolve_precision(self.precision)
        config = dataclasses.replace(self, horizon=check_horizon(env.horizon), precision=precision)
        method = find_method(config.model)
        check_choice("preset", config.preset, method.presets)
        check_choice("loop", config.loop, typing.get_args(Loop))
        check_choice("imagine", config.imagine, typing.get_args(Imagine))
        if config.scan_chunk is not None:
            check_integer("scan_chunk", config.scan_chunk, 1)
        if config.imagine == "parallel":
            check_parallel(is_sequence_model(config.model), config.loop)
        if method.settings is not Settings:
            self._refuse_what_needs_a_model()
        for name, least in {"steps": 1, "num_seeds": 1, "seed": 0, "chunk_steps": 1}.items():
            check_integer(name, getattr(config, name), least)
        if config.steps < env.horizon:
            raise UsageError(f"steps: must be at least one episode, {env.horizon} steps, got {config.steps}")
        if config.seed + config.num_seeds - 1 > _MAX_SEED:
            raise UsageError(
                f"seed: the last one must be at most {_MAX_SEED}, got {config.seed + config.num_seeds - 1}"
            )
        if config.stop_score is not None:
            check_number("stop_score", config.stop_score)
            if env.identity() is None and not config.optimum:
                raise UsageError("stop_score: a task of your own has no score unless optimum is set too")
        settings = config.settings()
        temperature = getattr(settings, "temperature", None)
        if temperature == 0 and getattr(settings, "tune_temperature", True):
            raise UsageError(f"temperature: must be > 0 where it is tuned, got {temperature!r}")
        if settings.needs_optimum and env.identity() is None and not config.optimum:
            raise UsageError(
                "return_target: of a task of your own it must be a number, unless optimum is set too"
            )
        if env.identity() is None:
            validate(env)
        elif config.optimum:
            config = dataclasses.replace(config, optimum=False)
        return config
