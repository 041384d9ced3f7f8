"""What a run gives back: scores, networks and metrics."""

import dataclasses
import math
import pathlib
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from ...core import files
from ...core.precision import using
from ...core.types import UsageError
from ...tasks.environment import AbstractEnvironment, evaluation_states, rollout
from ...tasks.host import HostEnvironment, Watched
from ..config import TrainConfig
from ..export import export_policy, FORMATS
from ..host_loop import evaluate_outside


@dataclasses.dataclass(frozen=True)
class Reference:
    """What scores are measured by.

    Attributes:
        random_return: of uniform random actions, a score of 0.
        optimal_return: of the optimum, a score of 1.
        best_constant_return: of the best constant action; None in a run of before it was kept.
        message: what the solver said about the optimum.
        doubts: what speaks against these scores, a line each.
    """

    random_return: float
    optimal_return: float
    best_constant_return: float | None = None
    message: str = ""
    doubts: tuple[str, ...] = ()

    def score(self, returns: np.ndarray) -> np.ndarray:
        """0 for random actions, 1 for the optimum; NaN where random actions are already optimal."""
        gap = self.optimal_return - self.random_return
        return (np.asarray(returns, np.float64) - self.random_return) / (gap if gap > 0 else np.nan)


@dataclasses.dataclass(frozen=True)
class Result:
    """A run: just trained, or read back from its folder.

    Attributes:
        scores: of the deterministic policy after the last update; None where the optimum is not known.
        returns: the same in the task's units.
        policy: every array has a leading seed axis; use it under `eqx.filter_vmap`.
        model: the same; None for a method without one.
        metrics: every metric as [records, num_seeds], `steps` and `episodes` among them.
        steps: environment steps done, per seed: whole episodes.
        seconds: wall clock of the training, compilation included, sessions before a resume included.
        config: what was run.
        env: the task.
        reference: the returns of random actions and of the optimum, where they are known.
        finished: false if it was stopped before its end.
        path: its folder, if it has one.
        replay: the episodes it was trained on, a `ReplayBuffer` with a leading seed axis.
    """

    scores: Float[np.ndarray, " num_seeds"] | None
    returns: Float[np.ndarray, " num_seeds"]
    policy: Any
    model: Any
    metrics: dict[str, np.ndarray]
    steps: int
    seconds: float
    config: TrainConfig
    env: AbstractEnvironment | HostEnvironment
    reference: Reference | None
    finished: bool
    path: pathlib.Path | None = None
    replay: Any = None

    def evaluate(self) -> Float[np.ndarray, " num_seeds"]:
        """The returns of the deterministic policies, computed anew: means over the fixed evaluation states."""
        with using(self.config.precision):
            return evaluate(self.policy, self.env)

    @property
    def best_seed(self) -> int:
        """The seed whose policy has the highest return."""
        return self.config.seed + int(np.argmax(np.nan_to_num(self.returns, nan=-np.inf)))

    def export(
        self, path: str | pathlib.Path, *, seed: int | None = None, format: str | None = None
    ) -> pathlib.Path:
        """Writes the deterministic policy of one seed as a file that runs without this package (docs/export.md).

        Args:
            path: the file, ending in `.npz` (for NumPy alone) or `.stablehlo`.
            seed: whose policy; by default that of `best_seed`.
            format: "npz" or "stablehlo", where the file's name does not say which.

        Raises:
            UsageError: the run has no such seed, or its policy cannot be exported in this format.
            StorageError: the disk refused.
        """
        path = pathlib.Path(path)
        format = path.suffix.removeprefix(".") if format is None else format
        if format not in FORMATS:
            raise UsageError(f"path: {path} must end in .{' or .'.join(FORMATS)}")
        seeds = range(self.config.seed, self.config.seed + self.config.num_seeds)
        seed = self.best_seed if seed is None else seed
        if seed not in seeds:
            raise UsageError(f"seed: the run has the seeds {seeds[0]} to {seeds[-1]}, got {seed}")
        policy = jax.tree.map(lambda x: x[seed - seeds[0]] if eqx.is_array(x) else x, self.policy)
        files.write(path, export_policy(policy, self.env, format))
        return path

    def summary(self) -> dict[str, Any]:
        """What `summary.json` and `--json` hold: plain JSON, with null for a number that is not finite."""
        known = self.reference
        return {
            "task": self.env.name,
            "horizon": self.env.horizon,
            "model": self.config.model_name,
            "preset": self.config.preset,
            "loop": self.config.loop,
            "learned_reward": self.config.learned_reward,
            "precision": self.config.precision,
            "seed": self.config.seed,
            "num_seeds": self.config.num_seeds,
            **scores_as_json(self.scores, self.returns),
            "random_return": None if known is None else known.random_return,
            "optimal_return": None if known is None else known.optimal_return,
            **_beside(known, self.returns),
            "steps": self.steps,
            "episodes": self.steps // self.env.horizon,
            "seconds": round(self.seconds, 3),
            "finished": self.finished,
            "out": None if self.path is None else str(self.path),
        }


def _beside(known: Reference | None, returns: np.ndarray) -> dict[str, Any]:
    """What qualifies a score, as plain JSON: its distance from the best constant action, and the solver's message."""
    if known is None or known.best_constant_return is None:
        return {"best_constant_return": None, "score_above_constant": None, "optimum": None, "doubts": []}
    gap = known.optimal_return - known.best_constant_return
    above = (float(np.mean(returns)) - known.best_constant_return) / gap if gap > 0 else math.nan
    return {
        "best_constant_return": known.best_constant_return,
        "score_above_constant": finite(above),
        "optimum": known.message,
        "doubts": list(known.doubts),
    }


def scores_as_json(scores: np.ndarray | None, returns: np.ndarray) -> dict[str, Any]:
    """`scores`, their mean `score`, and `returns`, as plain JSON."""
    return {
        "scores": None if scores is None else [finite(float(score)) for score in scores],
        "score": None if scores is None else finite(float(scores.mean())),
        "returns": [finite(float(value)) for value in returns],
    }


def evaluate(policy: Any, env: AbstractEnvironment | HostEnvironment) -> Float[np.ndarray, " num_seeds"]:
    """The mean return of deterministic policies (leading seed axis) over the fixed evaluation states."""
    if isinstance(env, HostEnvironment):
        simulator = Watched(env)
        returns = evaluate_outside(simulator, policy)[0].episode_return.mean(axis=1)
        simulator.close()
        return np.asarray(returns, np.float64)
    starts = evaluation_states(env)
    arrays, rest = eqx.partition(policy, eqx.is_array)

    def one(arrays: Any) -> Any:
        one_policy = eqx.combine(arrays, rest)
        return jax.vmap(lambda start: rollout(env, one_policy, initial_state=start).episode_return)(
            starts
        ).mean()

    return np.asarray(jax.jit(lambda arrays: jax.lax.map(one, arrays))(arrays), np.float64)


def finite(number: float | int) -> float | int | None:
    """The number, or None in place of one that JSON cannot hold."""
    return number if math.isfinite(number) else None
