"""What a run gives back: scores, networks and metrics."""

import dataclasses
import html
import pathlib
import textwrap
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ...core.precision import using
from ...core.types import PRNGKey, Trajectory, UsageError
from ...learners.settings import Settings
from ...tasks.recording import Recording
from ...tasks.world import World
from ..config import TrainConfig
from ..export import acting, write_policy
from ..methods import window_of
from ..offline import finding
from ..recorded import recording_of
from . import health, plots
from .acting import elsewhere, episode, evaluate
from .scores import beside, finite, Reference, scores_as_json


Policy = TypeVar("Policy")
Model = TypeVar("Model")


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
        returns: the same in the task's units; of recorded episodes alone, estimates by a model of held-out ones.
        policy: every array has a leading seed axis; use it under `eqx.filter_vmap`.
        model: the same; None for a method without one.
        metrics: every metric as [records, num_seeds], `steps` and `episodes` among them.
        steps: environment steps done, per seed: whole episodes.
        seconds: wall clock of the training, compilation included, sessions before a resume included.
        config: what was run.
        env: the task; of recorded episodes alone, what is known of them.
        reference: the returns of random actions and of the optimum, where they are known.
        finished: false if it was stopped before its end.
        path: its folder, if it has one.
        best_policy: of every seed the policy of its best record, which may not be the last.
        best_returns: its return at that record.
        replay: the episodes it was trained on, a `ReplayBuffer` with a leading seed axis; None where it was trained on
            recorded episodes alone.
    """

    scores: Float[np.ndarray, " num_seeds"] | None
    returns: Float[np.ndarray, " num_seeds"]
    policy: Policy
    model: Model
    metrics: dict[str, np.ndarray]
    steps: int
    seconds: float
    config: TrainConfig
    env: World | Recording
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
            initial_state: where to start; by default the task's own. Outside JAX, the simulator says where.
            seed: whose policy; by default that of `best`.
            key: for the initial state and a stochastic policy; without one the policy is deterministic.

        Raises:
            UsageError: the run has no such seed, or there is no world to act in.
        """
        with using(self.config.precision):
            return episode(self._one_policy(seed), self.env, initial_state, key)

    def predict(
        self, observation: ArrayLike, step: int = 0, *, seed: int | None = None
    ) -> Float[np.ndarray, " action"]:
        """The deterministic action of one seed's policy, in the units of the environment.

        Args:
            observation: in the units of the environment, any array of so many numbers.
            step: of the episode, from 0.
            seed: whose policy; by default that of `best`.

        Raises:
            UsageError: an observation of another size, a step past the end, or a policy that needs the episode so far.
        """
        return acting(self._one_policy(seed), self.env).predict(observation, step)

    def _one_policy(self, seed: int | None) -> Any:
        return self.policy_of(self.best_seed if seed is None else seed)

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
        marks = {}
        if known is not None:
            marks = {plots.RANDOM: known.random_return, plots.OPTIMUM: known.optimal_return}
        if known is not None and known.best_constant_return is not None:
            marks["best constant action"] = known.best_constant_return
        title = f"{self.env.name}, H = {self.env.horizon}, {self.config.model_name}"
        if known is not None and known.doubts:
            title = f"{title}\n({textwrap.fill('; '.join(known.doubts), 80)})"
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
        scores = [None] * len(self.returns) if self.scores is None else self.scores
        rows = [
            (seed, f"{number:.5g}", score)
            for seed, number, score in zip(self.seeds, self.returns, scores, strict=True)
        ]
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
        """What is wrong with the run, a line each.

        Nothing was learned, or a policy became much worse at the end, or violates the constraints of its task.
        """
        nothing = ["every policy update was skipped, since its gradient is not finite: nothing was learned"]
        if self.learned_nothing:
            return nothing
        return [
            line
            for found in (health.falls, health.violations)
            for line in found(self.metrics, self.config.seed)
        ]

    def evaluate(self, env: World | None = None) -> Float[np.ndarray, " num_seeds"]:
        """The returns of the deterministic policies, computed again: means over the fixed evaluation states.

        Args:
            env: another world of the same sizes than that of the run, which may have had none; a context of its
                observations is added.

        Raises:
            UsageError: the world has other sizes, or there is none.
        """
        policy, world = (self.policy, self.env) if env is None else elsewhere(self.policy, env, self.env)
        with using(self.config.precision):
            return evaluate(policy, world)

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
        return write_policy(path, self._one_policy(seed), self.env, format)

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
            **beside(known, self.returns),
            "best_returns": [finite(float(value)) for value in best],
            "best_steps": [int(number) for number in steps],
            "problems": self.problems(),
            "steps": self.steps,
            "episodes": int(self.metrics["episodes"][-1, 0]),
            "seconds": round(self.seconds, 3),
            "finished": self.finished,
            **self._of_recorded(),
            "out": None if self.path is None else str(self.path),
        }

    def _of_recorded(self) -> dict[str, Any]:
        """What is said of recorded episodes, where there were some."""
        data = self.config.resolve().data
        if data is None:
            return {}
        known = recording_of(data)
        content = {"data": known.name, "recorded_episodes": known.num_episodes}
        content["recorded_return"] = finite(known.mean_return)
        if isinstance(self.env, Recording):
            last = {name: self.metrics[name][-1] for name in ("optimism", "outside", "recorded_error")}
            content |= {name: [finite(float(value)) for value in values] for name, values in last.items()}
            content["finding"] = self.finding
        return content

    @property
    def finding(self) -> str | None:
        """What can be said of a policy that was trained on recorded episodes alone; None where there is a world."""
        if not isinstance(self.env, Recording):
            return None
        settings = self.config.settings()
        window = window_of(self.env, settings) if isinstance(settings, Settings) else None
        return finding(self.env, self.metrics, window)


def _take(tree: object, index: int) -> Any:
    """One seed's part of a tree."""
    # By NumPy, since JAX would compile a program for every shape.
    return jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(leaf)[index]) if eqx.is_array(leaf) else leaf, tree
    )
