"""Direct single shooting: the actions are the unknowns, the states follow from them, all in float64.

SciPy's L-BFGS-B keeps the actions in [-1, 1] and JAX gives the gradient. The optimum is that of the discretised task at
its own horizon, so a policy's score of 1 means that nothing is left to gain.
"""

import collections
import contextlib
import ctypes
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...core.precision import double
from ...core.types import UsageError
from ..environment import AbstractEnvironment, cpu_device, evaluation_states, rollout


# A solution must give the same return in float32 to this share of the gap between optimal and random.
REPLAY_TOLERANCE = 1e-3
# Returns closer than this share of the gap count as the same.
_AGREEMENT = 1e-4
NUM_CONSTANTS = 41
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best actions found for a task.

    For a task with random initial states every array has a leading axis of the 64 evaluation states, each solved on
    its own, and the return is their mean: what no policy can exceed.

    Attributes:
        actions: normalised to [-1, 1].
        states: the trajectory, in environment units.
        episode_return: the return in float64.
        residual: largest component of the projected gradient of the return, `clip(a + dJ/da, -1, 1) - a`; not small
            where the optimum lies at a kink, such as a state bound.
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


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """float64, on the CPU: thousands of short dependent steps leave an accelerator idle."""
    with double(), jax.default_device(cpu_device()):
        yield


class Problem:
    """A task in float64, with what the solver needs compiled once. Use within `double_precision`.

    Attributes:
        env: the task.
        starts: the initial states [k, n] to solve it from: one, or 64 random ones.
    """

    def __init__(self, env: AbstractEnvironment) -> None:
        def to_double(leaf: Any) -> Any:
            return jnp.asarray(np.asarray(leaf), jnp.float64) if eqx.is_inexact_array(leaf) else leaf

        self.env = env
        self._rollout_single: Callable[..., Array] | None = None
        exact = jax.tree.map(to_double, env)
        self.starts = np.asarray(evaluation_states(exact), np.float64)

        def episode_return(actions: Array, state: Array) -> Array:
            return rollout(exact, actions, initial_state=state).rewards.sum()

        self._value_and_grad = jax.jit(jax.value_and_grad(episode_return))
        self._returns = jax.jit(jax.vmap(episode_return))
        self._rollout = jax.jit(lambda actions, state: rollout(exact, actions, initial_state=state))

    def value_and_grad(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """The return of actions [H, m], and its gradient."""
        value, gradient = self._value_and_grad(actions, state)
        return float(value), np.asarray(gradient)

    def returns(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The returns of many action sequences [k, H, m] from one state [n], or from as many [k, n]."""
        states = np.broadcast_to(states, (len(actions), states.shape[-1]))
        found = []
        # In batches of one size, the last one filled up, so that there is one program.
        for i in range(0, len(actions), _BATCH):
            rows = np.minimum(np.arange(i, i + _BATCH), len(actions) - 1)
            found.append(np.asarray(self._returns(actions[rows], states[rows])))
        return np.concatenate(found)[: len(actions)]

    def replay(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """Return and states [H+1, n] of actions [H, m]."""
        trajectory = self._rollout(actions, state)
        return float(trajectory.rewards.sum()), np.asarray(trajectory.states, np.float64)

    def replay_error(self, state: np.ndarray, actions: np.ndarray) -> float:
        """How far the return of actions [H, m] in float32 is from that in float64."""
        exact = self.replay(state, actions)[0]
        with double(False):
            if self._rollout_single is None:
                self._rollout_single = jax.jit(
                    lambda a, s: rollout(self.env, a, initial_state=s).rewards.sum()
                )
            single = self._rollout_single(np.float32(actions), np.float32(state))
        return abs(float(single) - exact)


_recent: collections.deque[Problem] = collections.deque(maxlen=4)


def problem_of(env: AbstractEnvironment) -> Problem:
    """The task's `Problem`, with what is already compiled if it is one of the last four."""
    for problem in tuple(_recent):
        if problem.env is env:
            return problem
    problem = Problem(env)
    _recent.append(problem)
    return problem


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """Where one start led."""

    actions: np.ndarray
    episode_return: float


def solve(env: AbstractEnvironment, num_starts: int | None) -> Solution:
    """`optimal` without a cache: every initial state on its own, the later ones from the solution of the first."""
    with double_precision():
        problem = problem_of(env)
        first = _solve_from(problem, problem.starts[0], _starts(env), num_starts)
        if len(problem.starts) == 1:
            return first
        warm = [first.actions[None], constants(env)]
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
    problem: Problem, state: np.ndarray, families: list[np.ndarray], num_starts: int | None
) -> Solution:
    """The best solution from one initial state that replays in float32."""
    env = problem.env
    uniform = np.random.default_rng(1).uniform(-1, 1, (64, env.horizon, env.action_size))
    values = problem.returns(state, np.concatenate([*families, uniform]))
    *returns, random = np.split(values, np.cumsum([len(family) for family in families]))
    random = random.mean()
    ranked = _rank(families, returns)
    if not ranked:
        raise UsageError(f"optimal: no action sequence tried on {env.name} has a finite return")
    highest = max(value.max(initial=-np.inf, where=np.isfinite(value)) for value in returns)
    # Makes the objective and its stopping rules free of units.
    scale = _gap(highest, random)
    few = num_starts or (8 if env.horizon <= 200 else 5)
    candidates = [_ascend(problem, state, start, scale) for start in ranked[:few]]
    known_best = env.known_actions() is not None and candidates[0].episode_return + _AGREEMENT * scale >= max(
        candidate.episode_return for candidate in candidates
    )
    if num_starts is None and not known_best and _num_best(candidates, scale) < few:
        candidates += [_ascend(problem, state, start, scale) for start in ranked[few : 4 * few]]
    candidates.sort(key=lambda candidate: -candidate.episode_return)
    gap = _gap(candidates[0].episode_return, random)
    best, message = _first_that_replays(problem, state, candidates, REPLAY_TOLERANCE * gap)
    num_best = _num_best(candidates, gap)
    message = f"{num_best} of {len(candidates)} starts reached the best return{message}"
    return _finish(problem, state, best, candidates, num_best == len(candidates), message)


def _gap(high: float, random: float) -> float:
    """How much there is to gain over random actions, with a floor at the rounding of float32."""
    gap = high - random if np.isfinite(random) else 0.0
    return max(float(gap), 1e-3 * abs(float(high)), 1e-9)


def _num_best(candidates: list[_Candidate], gap: float) -> int:
    """How many candidates reached the best return."""
    best = max(candidate.episode_return for candidate in candidates)
    return sum(best - candidate.episode_return <= _AGREEMENT * gap for candidate in candidates)


def _first_that_replays(
    problem: Problem, state: np.ndarray, candidates: list[_Candidate], tolerance: float
) -> tuple[_Candidate, str]:
    """The best candidate whose return float32 reproduces, with what there is to say about it."""
    errors: list[float] = []
    for candidate in candidates:
        errors.append(problem.replay_error(state, candidate.actions))
        if errors[-1] <= tolerance:
            lost = f"; {candidates[0].episode_return:.6g} was given up, it does not replay in float32"
            return candidate, "" if len(errors) == 1 else lost
    kept = candidates[int(np.nanargmin(np.nan_to_num(errors, nan=np.inf)))]
    return kept, "; none replays in float32 to 1e-3 of the gap to random actions, the closest is kept"


def _finish(
    problem: Problem,
    state: np.ndarray,
    best: _Candidate,
    candidates: list[_Candidate],
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
        start_returns=tuple(candidate.episode_return for candidate in candidates),
        replay_error=problem.replay_error(state, best.actions),
        message=message,
    )


def _ascend(problem: Problem, state: np.ndarray, start: np.ndarray, scale: float) -> _Candidate:
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
        with _one_blas_thread():
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


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """One thread for SciPy's own OpenBLAS, where it has one.

    L-BFGS-B factorises tiny matrices, which OpenBLAS hands to all cores; on a busy machine waiting for them takes ten
    times as long as all the rest. SciPy has no option for it, so the library is asked directly.
    """
    import scipy

    package = pathlib.Path(scipy.__file__).parent
    found = [*package.parent.glob("scipy.libs/*scipy_openblas*"), *package.glob(".dylibs/*scipy_openblas*")]
    try:
        library = ctypes.CDLL(str(found[0]))
        get, set_to = library.scipy_openblas_get_num_threads, library.scipy_openblas_set_num_threads
    except (IndexError, OSError, AttributeError):  # another BLAS
        yield
        return
    before = get()
    set_to(1)
    try:
        yield
    finally:
        set_to(before)


def constants(env: AbstractEnvironment) -> np.ndarray:
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
    families = [constants(env), np.broadcast_to(np.stack(switches)[..., None], (38, *shape)), smooth]
    known = env.known_actions()
    return families if known is None else [np.asarray(known, np.float64).reshape(1, *shape), *families]


def _rank(families: list[np.ndarray], returns: list[np.ndarray]) -> list[np.ndarray]:
    """The best of every family in turn, then the second best of every family, and so on; only finite ones."""
    ranked = [
        [family[i] for i in np.argsort(-values) if np.isfinite(values[i])]
        for family, values in zip(families, returns, strict=True)
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
    return [start for start in turns if start is not None]
