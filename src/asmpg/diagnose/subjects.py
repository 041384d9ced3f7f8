"""What `asmpg diagnose` is given: a fresh model of a task, or the trained one of a run."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..core import user_code as user_files
from ..core.checks import check_integer
from ..core.types import PRNGKey, UsageError
from ..gradients.policies import TanhGaussianPolicy
from ..learners.base import AbstractLearner
from ..learners.replay import ReplayBuffer
from ..models import AbstractDynamicsModel
from ..models.normalisation import Normaliser, with_normaliser
from ..tasks import files as task_files
from ..tasks.data import Episodes
from ..tasks.environment import AbstractEnvironment, uniform_actions
from ..tasks.recording import Recording
from ..tasks.spec import sizes_of_windows
from ..tasks.validation import check_horizon
from ..training.config import TrainConfig
from ..training.methods import find_method, Method
from ..training.recorded import find_data
from ..training.runs import load, Result
from ..training.runs.fitted import is_fit, load_fit
from .diagnosis import NUM_SAMPLES, Subject


@dataclasses.dataclass(frozen=True)
class Given:
    """What to diagnose.

    Attributes:
        task: its name.
        model: its name.
        horizons: in rising order.
        subjects: what to look at, at a horizon.
    """

    task: str
    model: str
    horizons: Sequence[int]
    subjects: Callable[[int], Subject]


def parse_horizons(text: str) -> list[int]:
    """The horizons that were typed, in rising order.

    Raises:
        UsageError: not different integers of at least 2, separated by commas.
    """
    try:
        horizons = sorted(check_horizon(int(part)) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"horizons: must be integers >= 2 separated by commas, got {text!r}") from error
    if len(set(horizons)) < len(horizons):
        raise UsageError(f"horizons: must be different, got {text!r}")
    return horizons


def fresh_subjects(task: str, model: str, horizons: Sequence[int], seed: int) -> Given:
    """A fresh model, and a fresh policy, at every horizon.

    Args:
        task: as for `TrainConfig`, written in JAX.
        model: as for `TrainConfig`, with a dynamics model.
        horizons: at which.
        seed: of networks and actions.

    Raises:
        UsageError: an unknown task or model, or one that gives no model of the task.
    """
    check_integer("seed", seed, 0)
    method = find_method(model)
    found: dict[int, Subject] = {}

    def subject(horizon: int) -> Subject:
        if horizon not in found:
            env = TrainConfig(task, horizon=horizon).environment()
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), horizon), 4)
            made = _fresh_model(method, env, keys[0])
            policy = TanhGaussianPolicy(env, key=keys[1])
            found[horizon] = Subject(
                env, made, policy, env.initial_state(key=keys[2]), _random_actions(env, keys[3])
            )
        return found[horizon]

    return Given(subject(max(horizons)).env.name, method.name, horizons, subject)


def _random_actions(env: AbstractEnvironment, key: PRNGKey) -> jax.Array:
    return jax.vmap(lambda one: uniform_actions(env, key=one))(jax.random.split(key, NUM_SAMPLES))


def _fresh_model(method: Method, env: AbstractEnvironment, key: PRNGKey) -> AbstractDynamicsModel:
    learner = TrainConfig(env, model=method).learner()
    make = getattr(learner, "make_model", None)
    if make is None:
        raise UsageError(f"model: {method.name} has no dynamics model to diagnose")
    return with_normaliser(make(key=key), Normaliser.from_random_episodes(env))


def trained_subjects(
    run: str | pathlib.Path,
    task: str | None,
    model: str | None,
    horizons: Sequence[int] | None,
    seed: int | None,
    data: Episodes | str | None = None,
    optimizer: str | None = None,
) -> Given:
    """The trained model of a run. At shorter horizons its episodes are cut: it is not another model.

    Args:
        run: the run folder.
        task: which the run has to be of, if given; `FILE.py:NAME` again, where it is one's own.
        model: the same, if given; `FILE.py:NAME` again, where its backbone is one's own.
        horizons: none longer than the run's; by default a fifth, a half and the whole of it.
        seed: which of the run's seeds; by default the first.
        data: the recorded episodes again, where the run is on them alone.
        optimizer: `FILE.py:NAME` again, where it is one's own.

    Raises:
        UsageError: the run is of another task, model or horizon, has no such seed, no checkpoint or no model.
    """
    if is_fit(run):
        return _fitted(run, horizons, data)
    own = task is not None and task_files.is_task_file(task)
    backbone = model if model is not None and user_files.is_file(model) else None
    try:
        result = load(run, task=task if own else None, model=backbone, optimizer=optimizer)
    except UsageError as error:
        raise UsageError(f"--{error}" if str(error).startswith("run:") else str(error)) from error
    config, env = result.config, result.env
    if not own and task not in (None, env.name, config.resolve().task.name):
        raise UsageError(f"--run: {run} is of the task {env.name}, not of {task}")
    if model is not None and model != config.model:
        raise UsageError(f"--run: {run} is of the model {config.model}, not of {model}")
    if result.model is None:
        raise UsageError(f"--run: {run} is of {config.model}, which has no dynamics model to diagnose")
    longest = getattr(
        result.model, "horizon", env.horizon
    )  # a window's, where imagination goes through windows
    chosen = _horizons(run, horizons, longest)
    seeds = range(config.seed, config.seed + config.num_seeds)
    seed = config.seed if seed is None else seed
    if seed not in seeds:
        raise UsageError(f"seed: {run} has the seeds {seeds[0]} to {seeds[-1]}, got {seed}")
    subject = _trained(result, seed, _replayed(result, data), longest)
    return Given(env.name, config.model_name, chosen, lambda horizon: subject)


def _fitted(run: str | pathlib.Path, horizons: Sequence[int] | None, data: Episodes | str | None) -> Given:
    """The model of `asmpg fit --out`."""
    fitted = load_fit(run)
    known, model = fitted.recording, fitted.model
    chosen = _horizons(run, horizons, known.horizon)
    key = jax.random.key(fitted.made_by.seed)
    episodes = _recorded(known, data).sample(NUM_SAMPLES, key=key)
    policy = TanhGaussianPolicy(known, key=key, normaliser=Normaliser.unknown(known.state_size))
    start, before = episodes.states[0, 0], _with_statistics_of(model, fitted.before)
    subject = Subject(known, model, policy, start, episodes.actions, before)
    return Given(known.name, fitted.made_by.model, chosen, lambda horizon: subject)


def _horizons(run: str | pathlib.Path, horizons: Sequence[int] | None, longest: int) -> list[int]:
    """Those asked for, of a model that predicts so many steps."""
    chosen = list(horizons or sorted({max(2, longest // 5), max(2, longest // 2), longest}))
    if max(chosen) > longest:
        raise UsageError(f"horizons: the model of {run} has the horizon {longest}, got {max(chosen)}")
    return chosen


def _replayed(result: Result, data: Episodes | str | None) -> ReplayBuffer:
    """The episodes that a run was trained on (leading axis of seeds), which it has not where they were recorded."""
    if result.replay is not None:
        return result.replay
    assert isinstance(result.env, Recording)
    return jax.tree.map(lambda x: jnp.stack([x] * len(result.returns)), _recorded(result.env, data))


def _recorded(known: Recording, data: Episodes | str | None) -> ReplayBuffer:
    """The episodes again, of which only so much is kept."""
    given = find_data(data)
    if not isinstance(given, Episodes) or given.recording.digest != known.digest:
        raise UsageError(
            f"data: the model is of the recorded episodes {known.name}, which are not stored with it; give "
            "the same ones: --data FILE"
        )
    return ReplayBuffer.full(given.trajectories())


def _trained(result: Result, seed: int, episodes_of: ReplayBuffer, horizon: int) -> Subject:
    """Model and policy of one seed, episodes it was trained on, and the model it began with."""

    def of_seed(tree: object) -> Any:
        return jax.tree.map(lambda x: x[seed - result.config.seed] if eqx.is_array(x) else x, tree)

    model, policy, replay = map(of_seed, (result.model, result.policy, episodes_of))
    episodes = replay.sample(NUM_SAMPLES, key=jax.random.key(seed))
    before = _initial_model(result.config.learner(), model, seed)
    env = result.env if horizon == result.env.horizon else sizes_of_windows(result.env, horizon)
    start, actions = episodes.states[0, 0], episodes.actions[:, :horizon]
    return Subject(env, model, policy, start, actions, before)


def _initial_model(
    learner: AbstractLearner, model: AbstractDynamicsModel, seed: int
) -> AbstractDynamicsModel:
    """The model a run began with: its draws come from the seed, its statistics are those frozen since."""
    # The first of the three keys that `training.init_seed` makes of a seed's.
    key = jax.random.split(jax.random.key(seed), 3)[0]
    first = eqx.filter_jit(
        lambda key: learner.init(Normaliser.unknown(learner.env.state_size), key=key).model
    )(key)
    return _with_statistics_of(model, first)


def _with_statistics_of(model: AbstractDynamicsModel, first: AbstractDynamicsModel) -> AbstractDynamicsModel:
    """Another model with the statistics of this one."""
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Normaliser))
    frozen = next((node for node in nodes if isinstance(node, Normaliser)), None)
    return first if frozen is None else with_normaliser(first, frozen)
