"""What a run gives back: scores, networks and metrics."""

import dataclasses
import html
import math
import pathlib
import textwrap
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from ...core.precision import using
from ...core.types import PRNGKey, Trajectory, UsageError
from ...tasks.environment import AbstractEnvironment, rollout
from ...tasks.host import HostEnvironment, Watched
from ...tasks.world import evaluate as evaluate_inside
from ...tasks.world import evaluation_starts, World
from ..config import TrainConfig
from ..export import write_policy
from ..host_loop import evaluate_outside
from . import health, plots


Policy = TypeVar("Policy")
Model = TypeVar("Model")


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


@dataclasses.dataclass(frozen=True, repr=False)
class SeedResult(Generic[Policy, Model]):
    """One seed of a run, without an axis of seeds.

    Attributes:
        seed: which.
        score: of the deterministic policy after the last update; None where the optimum is not known.
        episode_return: the same in the task's units.
        policy: called as `policy(state, step, key=key)`, or `policy.mode(state, step)`.
        model: None for a method without one.
        metrics: every metric, `[records]`.
        replay: the episodes it was trained on.
    """

    seed: int
    score: float | None
    episode_return: float
    policy: Policy
    model: Model
    metrics: dict[str, np.ndarray]
    replay: Any = None

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.3f}"
        return f"SeedResult(seed {self.seed}, return {self.episode_return:.5g}{score})"


@dataclasses.dataclass(frozen=True, repr=False)
class Result(Generic[Policy, Model]):
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
        best_policy: of every seed the policy of its best record, which may not be the last.
        best_returns: its return at that record.
        replay: the episodes it was trained on, a `ReplayBuffer` with a leading seed axis.
    """

    scores: Float[np.ndarray, " num_seeds"] | None
    returns: Float[np.ndarray, " num_seeds"]
    policy: Policy
    model: Model
    metrics: dict[str, np.ndarray]
    steps: int
    seconds: float
    config: TrainConfig
    env: World
    reference: Reference | None
    finished: bool
    path: pathlib.Path | None = None
    replay: Any = None
    best_policy: Any = None
    best_returns: Float[np.ndarray, " num_seeds"] | None = None

    @property
    def seeds(self) -> range:
        """The seeds, in the order of the leading axis of every array."""
        return range(self.config.seed, self.config.seed + len(self.returns))

    def seed(self, seed: int) -> SeedResult[Policy, Model]:
        """What one seed gave, without an axis of seeds.

        Raises:
            UsageError: it is not one of the run's.
        """
        if seed not in self.seeds:
            raise UsageError(f"seed: {seed!r} is not one of {', '.join(map(str, self.seeds))}")
        index = self.seeds.index(seed)
        policy, model, replay = (_take(tree, index) for tree in (self.policy, self.model, self.replay))
        metrics = {name: values[:, index] for name, values in self.metrics.items()}
        score = None if self.scores is None else float(self.scores[index])
        return SeedResult(seed, score, float(self.returns[index]), policy, model, metrics, replay)

    def policy_of(self, seed: int) -> Policy:
        """The policy of one seed, for `asmpg.rollout(result.env, ...)` or `policy.mode(state, step)`.

        Raises:
            UsageError: it is not one of the run's.
        """
        return self.seed(seed).policy

    @property
    def best(self) -> SeedResult[Policy, Model]:
        """The seed whose policy has the highest return after the last update."""
        return self.seed(self.best_seed)

    def rollout(
        self,
        initial_state: Float[np.ndarray, " state"] | Float[jax.Array, " state"] | None = None,
        *,
        seed: int | None = None,
        key: PRNGKey | None = None,
    ) -> Trajectory:
        """One episode of one seed's policy.

        Args:
            initial_state: where to start; by default the task's own.
            seed: whose policy; by default that of `best`.
            key: for the initial state and a stochastic policy; without one the policy is deterministic.
        """
        if not isinstance(self.env, AbstractEnvironment):
            raise UsageError(
                f"rollout: {self.env.name} is not written in JAX; step it yourself with the policy"
            )
        with using(self.config.precision):
            policy: Any = self.best.policy if seed is None else self.policy_of(seed)
            return rollout(self.env, policy, key=key, initial_state=initial_state)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a seed and record, with every metric: what `pandas.DataFrame` or `polars.DataFrame` takes."""
        names, (num_records, _) = list(self.metrics), self.metrics["return"].shape
        return [
            {"seed": seed, **{name: self.metrics[name][record, index].item() for name in names}}
            for index, seed in enumerate(self.seeds)
            for record in range(num_records)
        ]

    def plot(self) -> Any:
        """The learning curve, a Matplotlib figure.

        Raises:
            ImportError: Matplotlib is not installed.
        """
        return plots.figure(*self.curve())

    def curve(self) -> tuple[str, dict[str, np.ndarray], dict[str, float]]:
        """What the learning curve shows: its title, the metrics and the returns to mark."""
        known = self.reference
        marks = {} if known is None else {"random": known.random_return, "optimum": known.optimal_return}
        if known is not None and known.best_constant_return is not None:
            marks["best constant"] = known.best_constant_return
        title = f"{self.env.name}, H = {self.env.horizon}, {self.config.model_name}"
        if known is not None and known.doubts:
            title = f"{title}\n{textwrap.fill(known.doubts[0], 80)}"
        return title, self.metrics, marks

    def __repr__(self) -> str:
        seeds = f"{len(self.returns)} seeds" if len(self.returns) > 1 else f"seed {self.config.seed}"
        known = self.returns if self.scores is None else self.scores
        word = "return" if self.scores is None else "score"
        numbers = ", ".join(f"{number:.4g}" for number in known[:8]) + (", ..." if len(known) > 8 else "")
        stopped = "" if self.finished else ", not finished"
        names = f"{self.env.name}, H = {self.env.horizon}, {self.config.model_name}"
        return f"Result({names}, {seeds}, {self.steps} steps{stopped}, {word} {numbers})"

    def _repr_html_(self) -> str:
        """A table for a notebook."""
        head = "".join(f"<th>{name}</th>" for name in ("seed", "return", "score"))
        rows = [(one.seed, f"{one.episode_return:.5g}", one.score) for one in map(self.seed, self.seeds)]
        body = "".join(
            f"<tr><td>{seed}</td><td>{number}</td><td>{'' if score is None else f'{score:.3f}'}</td></tr>"
            for seed, number, score in rows
        )
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{body}</table>"

    @property
    def learned_nothing(self) -> bool:
        """Whether every policy update of every seed was skipped, since its gradient was not finite."""
        return health.learned_nothing(self.metrics)

    def problems(self) -> list[str]:
        """What is wrong with the run, a line each: nothing was learned, or a policy became much worse at the end."""
        nothing = ["every policy update was skipped, since its gradient is not finite: nothing was learned"]
        return nothing if self.learned_nothing else health.falls(self.metrics, self.config.seed)

    def evaluate(self) -> Float[np.ndarray, " num_seeds"]:
        """The returns of the deterministic policies, computed again: means over the fixed evaluation states."""
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
        policy: Any = self.policy_of(self.best_seed if seed is None else seed)
        return write_policy(path, policy, self.env, format)

    def summary(self) -> dict[str, Any]:
        """What `summary.json` and `--json` hold: plain JSON, with null for a number that is not finite."""
        known, (best, steps) = self.reference, health.best_records(self.metrics)
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
            "best_returns": [finite(float(value)) for value in best],
            "best_steps": [int(number) for number in steps],
            "problems": self.problems(),
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


def evaluate(policy: Any, env: World) -> Float[np.ndarray, " num_seeds"]:
    """The mean return of deterministic policies (leading seed axis) over the fixed evaluation states."""
    if isinstance(env, HostEnvironment):
        simulator = Watched(env)
        returns = evaluate_outside(simulator, policy)[0].episode_return.mean(axis=1)
        simulator.close()
        return np.asarray(returns, np.float64)
    starts = evaluation_starts(env)
    arrays, rest = eqx.partition(policy, eqx.is_array)

    def one(arrays: Any) -> Any:
        return evaluate_inside(env, eqx.combine(arrays, rest), starts)[0].episode_return.mean()

    return np.asarray(jax.jit(lambda arrays: jax.lax.map(one, arrays))(arrays), np.float64)


def _take(tree: Any, index: int) -> Any:
    """One seed's part of a tree."""
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, tree)


def finite(number: float | int) -> float | int | None:
    """The number, or None in place of one that JSON cannot hold."""
    return number if math.isfinite(number) else None
