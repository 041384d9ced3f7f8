"""The optimum of a task by trajectory optimisation, and the scores that are measured against it.

Direct single shooting on the exact discrete problem: the actions are the unknowns, the states follow from them, all in
float64. SciPy's L-BFGS-B keeps the actions in [-1, 1] and JAX gives the gradient. The optimum is that of the
discretised task at its own horizon, so a policy's score of 1 means that nothing is left to gain.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import solution_cache
from .environment import AbstractEnvironment, evaluation_states, has_random_start, rollout
from .types import PRNGKey, UsageError


NUM_CONSTANTS = 41
# A solution must give the same return in float32 to this share of the gap between optimal and random.
REPLAY_TOLERANCE = 1e-3
_AGREEMENT = 1e-4
_CHUNK = 500
_RANDOM_SEED = 20


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best actions found for a task.

    For a task with random initial states every array has a leading axis of the 64 evaluation states, each solved on
    its own, and the return is their mean: what no policy can exceed.

    Attributes:
        actions: normalised to [-1, 1].
        states: the trajectory, in environment units.
        episode_return: the return in float64.
        residual: largest component of the projected gradient of the return, `clip(a + dJ/da, -1, 1) - a`.
        starts_agree: whether every start led to the same return, to 1e-4 of the gap between it and random actions.
        start_returns: what each start led to, best first (of the first evaluation state).
        replay_error: how much the return changes when the actions are replayed in float32.
        message: one line on how it went; says when a better return was given up because it did not replay.
    """

    actions: Float[np.ndarray, "*batch horizon action"]
    states: Float[np.ndarray, "*batch horizon+1 state"]
    episode_return: float
    residual: float
    starts_agree: bool
    start_returns: tuple[float, ...]
    replay_error: float
    message: str


def optimal(env: AbstractEnvironment, *, num_starts: int | None = None, cache: bool = True) -> Solution:
    """The best actions that L-BFGS-B finds from several starts.

    A built-in task's solution is kept on disk (in `$ASMPG_CACHE` or `~/.cache/asmpg`) and in memory, a user's own only
    in memory, for this very object. A file is replayed before it is believed.

    Args:
        env: the task.
        num_starts: how many starts to try, by default 8, or 5 for horizons above 200. A task's known actions come
            first, then the best constant, the best switch between the bounds, the best smooth random sequence.
        cache: whether to look for, and keep, a finished solution.

    Raises:
        UsageError: no start has a finite return.
    """
    if num_starts is None:
        num_starts = 8 if env.horizon <= 200 else 5
    if isinstance(num_starts, bool) or not isinstance(num_starts, int) or num_starts < 1:
        raise UsageError(f"num_starts: must be an integer >= 1, got {num_starts!r}")
    if not cache:
        return _solve(env, num_starts)
    key = solution_cache.cache_key(env, "optimal", num_starts=num_starts)

    def compute() -> Solution:
        stored = None if key is None else solution_cache.read(key)
        solution = None if stored is None else _restore(env, stored)
        if solution is None:
            solution = _solve(env, num_starts)
            if key is not None:
                solution_cache.write(key, _to_json(solution))
        return solution

    return _remember(env, ("optimal", num_starts), compute)


def best_constant_return(env: AbstractEnvironment) -> float:
    """The return of the best of 41 constant actions, evenly spaced over [-1, 1], the same in every component."""

    def compute() -> float:
        with _double_precision():
            problem = _Problem(env)
            returns = [problem.returns(state, _constants(env)) for state in problem.starts]
        return float(np.max(np.mean(returns, axis=0)))

    return _remember(env, ("best constant",), compute)


def random_return(
    env: AbstractEnvironment, *, num_episodes: int = 10_000, key: PRNGKey | None = None
) -> float:
    """The mean return of uniformly random actions, a score of 0.

    Args:
        env: the task.
        num_episodes: how many episodes.
        key: for actions and initial states; by default a fixed one, whose result is kept like `optimal`'s.

    Raises:
        UsageError: the return of some episode is not finite.
    """
    if isinstance(num_episodes, bool) or not isinstance(num_episodes, int) or num_episodes < 1:
        raise UsageError(f"num_episodes: must be an integer >= 1, got {num_episodes!r}")
    if key is not None:
        return _mean_of_random(env, _random_sampler(env, key), num_episodes)
    cache_key = solution_cache.cache_key(env, "random", num_episodes=num_episodes)

    def compute() -> float:
        sampler = _random_sampler(env, jax.random.key(_RANDOM_SEED))
        # The first chunk shows whether a stored number belongs to the task as it is now.
        sample = _mean_of_random(env, sampler, min(num_episodes, _CHUNK))
        stored = None if cache_key is None else solution_cache.read(cache_key)
        if stored is not None and _is_number(stored.get("mean")) and _close(stored.get("sample"), sample):
            return float(stored["mean"])
        mean = _mean_of_random(env, sampler, num_episodes)
        if cache_key is not None:
            solution_cache.write(cache_key, {"mean": mean, "sample": sample})
        return mean

    return _remember(env, ("random", num_episodes), compute)


def score(env: AbstractEnvironment, episode_return: Any) -> Any:
    """`(return - random) / (optimal - random)`: 0 for random actions, 1 for the optimum.

    Args:
        env: the task; it is solved first if it has not been.
        episode_return: a number, or an array of them.

    Returns:
        A float for a number, a NumPy array for an array; NaN where random actions are already optimal.
    """
    low, high = random_return(env), optimal(env).episode_return
    gap = high - low if high > low else np.nan
    scores = (np.asarray(episode_return, np.float64) - low) / gap
    return float(scores) if scores.ndim == 0 else scores


class _Problem:
    """A task in float64, with what the solver needs compiled once. Use within `_double_precision`."""

    def __init__(self, env: AbstractEnvironment) -> None:
        def to_double(leaf: Any) -> Any:
            return jnp.asarray(np.asarray(leaf), jnp.float64) if eqx.is_inexact_array(leaf) else leaf

        self.env = env
        self._rollout_single: Callable[..., Array] | None = None
        double = jax.tree.map(to_double, env)
        starts = evaluation_states(double) if has_random_start(double) else double.initial_state()[None]
        self.starts = np.asarray(starts, np.float64)

        def episode_return(actions: Array, state: Array) -> Array:
            return rollout(double, actions, initial_state=state).rewards.sum()

        self._value_and_grad = jax.jit(jax.value_and_grad(episode_return))
        self._returns = jax.jit(jax.vmap(episode_return, in_axes=(0, None)))
        self._rollout = jax.jit(lambda actions, state: rollout(double, actions, initial_state=state))

    def value_and_grad(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """The return of actions [H, m], and its gradient."""
        value, gradient = self._value_and_grad(actions, state)
        return float(value), np.asarray(gradient)

    def returns(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The returns of many action sequences [k, H, m]."""
        return np.asarray(self._returns(actions, state))

    def replay(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """Return and states [H+1, n] of actions [H, m]."""
        trajectory = self._rollout(actions, state)
        return float(trajectory.rewards.sum()), np.asarray(trajectory.states, np.float64)

    def replay_error(self, state: np.ndarray, actions: np.ndarray) -> float:
        """How far the return of actions [H, m] in float32 is from that in float64."""
        exact = self.replay(state, actions)[0]
        with jax.enable_x64(False):
            if self._rollout_single is None:
                self._rollout_single = jax.jit(lambda a, s: rollout(self.env, a, initial_state=s).rewards.sum())
            single = self._rollout_single(np.float32(actions), np.float32(state))
        return abs(float(single) - exact)


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """Where one start led."""

    actions: np.ndarray
    episode_return: float


def _solve(env: AbstractEnvironment, num_starts: int) -> Solution:
    """`optimal` without a cache: every initial state on its own, the later ones from the solution of the first."""
    with _double_precision():
        problem = _Problem(env)
        first = _solve_from(problem, problem.starts[0], _starts(env), num_starts)
        if len(problem.starts) == 1:
            return first
        warm = [first.actions[None], _constants(env)]
        solutions = [first] + [_solve_from(problem, state, warm, 2) for state in problem.starts[1:]]
    return Solution(
        actions=np.stack([solution.actions for solution in solutions]),
        states=np.stack([solution.states for solution in solutions]),
        episode_return=float(np.mean([solution.episode_return for solution in solutions])),
        residual=max(solution.residual for solution in solutions),
        starts_agree=all(solution.starts_agree for solution in solutions),
        start_returns=first.start_returns,
        replay_error=max(solution.replay_error for solution in solutions),
        message=f"mean over {len(solutions)} initial states; the first: {first.message}",
    )


def _solve_from(
    problem: _Problem, state: np.ndarray, families: list[np.ndarray], num_starts: int
) -> Solution:
    """The best solution from one initial state that replays in float32."""
    returns = [problem.returns(state, family) for family in families]
    finite = np.concatenate(returns)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        raise UsageError(f"optimal: no action sequence tried on {problem.env.name} has a finite return")
    # What a typical start is short of the best: makes the objective and its stopping rules free of units.
    scale = max(float(finite.max() - np.median(finite)), 1e-6 * abs(float(finite.max())), 1e-12)
    candidates = [_ascend(problem, state, start, scale) for start in _choose(families, returns, num_starts)]
    candidates.sort(key=lambda candidate: -candidate.episode_return)
    best = candidates[0]
    reached = tuple(candidate.episode_return for candidate in candidates)
    agreeing = sum(best.episode_return - value <= _AGREEMENT * scale for value in reached)
    message = f"{agreeing} of {len(reached)} starts reached the best return"
    errors = []
    for candidate in candidates:
        errors.append(problem.replay_error(state, candidate.actions))
        if errors[-1] <= REPLAY_TOLERANCE * scale:
            if candidate is not best:
                message += f"; {best.episode_return:.6g} was given up, it does not replay in float32"
            best = candidate
            break
    else:
        best = candidates[int(np.argmin(errors))]
        message += "; none replays in float32 to 1e-3 of the gap, the closest is kept"
    return _finish(problem, state, best, reached, agreeing == len(reached), message)


def _finish(
    problem: _Problem,
    state: np.ndarray,
    best: _Candidate,
    start_returns: tuple[float, ...],
    starts_agree: bool,
    message: str,
) -> Solution:
    """A `Solution` from the candidate that was kept."""
    episode_return, states = problem.replay(state, best.actions)
    gradient = problem.value_and_grad(state, best.actions)[1]
    return Solution(
        actions=best.actions,
        states=states,
        episode_return=episode_return,
        residual=float(np.abs(np.clip(best.actions + gradient, -1, 1) - best.actions).max()),
        starts_agree=starts_agree,
        start_returns=start_returns,
        replay_error=problem.replay_error(state, best.actions),
        message=message,
    )


def _ascend(problem: _Problem, state: np.ndarray, start: np.ndarray, scale: float) -> _Candidate:
    """L-BFGS-B from one start. It is begun afresh while that still gains: its memory can mislead it at a kink."""
    from scipy.optimize import minimize

    best = _Candidate(start, problem.value_and_grad(state, start)[0])
    origin = best.episode_return

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_grad(state, flat.reshape(start.shape))
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e10, np.zeros_like(flat)  # the line search turns back
        return (origin - value) / scale, -gradient.ravel() / scale

    for _ in range(4):
        found = minimize(
            objective,
            best.actions.ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-1.0, 1.0)] * start.size,
            options={"maxiter": 3000, "maxfun": 6000, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-9},
        )
        actions = np.clip(found.x.reshape(start.shape), -1, 1)
        candidate = _Candidate(actions, problem.value_and_grad(state, actions)[0])
        gain = candidate.episode_return - best.episode_return
        best = candidate if gain > 0 else best
        if not gain > 1e-7 * scale:
            break
    return best


def _constants(env: AbstractEnvironment) -> np.ndarray:
    """41 constant action sequences [41, H, m]."""
    values = np.linspace(-1.0, 1.0, NUM_CONSTANTS)
    return np.broadcast_to(values[:, None, None], (NUM_CONSTANTS, env.horizon, env.action_size)).copy()


def _starts(env: AbstractEnvironment) -> list[np.ndarray]:
    """Families of action sequences [k, H, m] to begin from: known, constant, switching between the bounds, smooth."""
    time = (np.arange(env.horizon) + 0.5) / env.horizon
    shape = (env.horizon, env.action_size)
    switches = [np.where(time < at, -1.0, 1.0) for at in np.linspace(0.05, 0.95, 19)]
    switches += [-switch for switch in switches]
    random = np.random.default_rng(0)
    waves = np.cos(np.pi * np.arange(6)[:, None] * time)
    amplitudes = random.normal(size=(16, env.action_size, 6)) / (1 + np.arange(6) / 2)
    smooth = np.tanh(np.swapaxes(amplitudes @ waves, 1, 2))
    families = [_constants(env), np.broadcast_to(np.stack(switches)[..., None], (38, *shape)), smooth]
    known = env.known_actions()
    return families if known is None else [np.asarray(known, np.float64).reshape(1, *shape), *families]


def _choose(families: list[np.ndarray], returns: list[np.ndarray], num_starts: int) -> list[np.ndarray]:
    """The best of every family in turn, then the second best of every family, and so on."""
    ranked = [
        [family[i] for i in np.argsort(-values) if np.isfinite(values[i])]
        for family, values in zip(families, returns, strict=True)
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
    return [start for start in turns if start is not None][:num_starts]


def _random_sampler(env: AbstractEnvironment, key: PRNGKey) -> Callable[[int], np.ndarray]:
    """A function that returns the returns of the i-th 500 episodes of uniformly random actions.

    Actions are drawn in float32 and then used in float64, so that the caller's precision changes nothing.
    """

    def episode_return(key: PRNGKey) -> Array:
        state_key, action_key = jax.random.split(key)
        shape = (env.horizon, env.action_size)
        actions = jax.random.uniform(action_key, shape, jnp.float32, minval=-1.0, maxval=1.0)
        return rollout(env, actions.astype(float), initial_state=env.initial_state(key=state_key)).rewards.sum()

    def chunk(i: Array) -> Array:
        return jax.vmap(episode_return)(jax.random.split(jax.random.fold_in(key, i), _CHUNK))

    compiled = jax.jit(chunk)

    def sample(i: int) -> np.ndarray:
        with _double_precision():
            return np.asarray(compiled(i), np.float64)

    return sample


def _mean_of_random(env: AbstractEnvironment, sampler: Callable[[int], np.ndarray], num_episodes: int) -> float:
    """The mean of the first `num_episodes` returns."""
    chunks = [sampler(i) for i in range(-(-num_episodes // _CHUNK))]
    mean = float(np.concatenate(chunks)[:num_episodes].mean())
    if not np.isfinite(mean):
        raise UsageError(f"random_return: random actions on {env.name} give the return {mean}")
    return mean


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
    """float64, on the CPU: thousands of short dependent steps leave an accelerator idle."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to use an accelerator only
        device = None
    with jax.enable_x64(True), jax.default_device(device):
        yield


_MEMORY_SIZE = 256
_memory: collections.OrderedDict[Any, tuple[AbstractEnvironment, Any]] = collections.OrderedDict()


def _remember(env: AbstractEnvironment, what: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
    """`compute()`, or what it gave before: for the same built-in task, or for the very same object of a user's."""
    identity = env.identity()
    which = id(env) if identity is None else (type(env), env.name, env.horizon, identity)
    key = (which, *what)
    if key not in _memory:
        # The task is kept too: as long as it lives, no other has its id.
        _memory[key] = (env, compute())
        if len(_memory) > _MEMORY_SIZE:
            _memory.popitem(last=False)
    return _memory[key][1]


def _to_json(solution: Solution) -> dict[str, Any]:
    """A solution as plain JSON. The states are left out, since restoring replays the actions anyway."""
    content = dataclasses.asdict(solution)
    del content["states"]
    return content | {"actions": solution.actions.tolist()}


def _restore(env: AbstractEnvironment, stored: dict[str, Any]) -> Solution | None:
    """The stored solution, if it is whole and its actions, replayed, give its return; otherwise None."""
    numbers = ("episode_return", "residual", "replay_error")
    try:
        actions = np.asarray(stored["actions"], np.float64)
        start_returns = tuple(float(value) for value in stored["start_returns"])
        starts_agree, message = stored["starts_agree"], stored["message"]
        plain = all(_is_number(stored[name]) for name in numbers)
    except (KeyError, TypeError, ValueError):
        return None
    whole = plain and isinstance(starts_agree, bool) and isinstance(message, str)
    if not whole or actions.shape != (env.horizon, env.action_size) or not (np.abs(actions) <= 1).all():
        return None
    with _double_precision():
        problem = _Problem(env)
        episode_return, states = problem.replay(problem.starts[0], actions)
    if not _close(stored["episode_return"], episode_return):
        return None
    values = {name: float(stored[name]) for name in numbers} | {"episode_return": episode_return}
    return Solution(
        actions=actions,
        states=states,
        starts_agree=starts_agree,
        start_returns=start_returns,
        message=message,
        **values,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _close(stored: Any, computed: float) -> bool:
    """Whether a stored number is the computed one, to the rounding of another processor."""
    return _is_number(stored) and abs(stored - computed) <= 1e-9 + 1e-6 * abs(computed)
