"""Direct single shooting: the actions are the unknowns, the states follow from them, all in float64.

SciPy's L-BFGS-B keeps the actions in [-1, 1] and JAX gives the gradient. Where that stops short of a stationary point,
Newton's method with feedback goes on (`newton`); constraints are met by an augmented Lagrangian (`constrained`). The
optimum is that of the discretised task at its own horizon, so a policy's score of 1 means that nothing is left to gain.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from ...core.types import UsageError
from ..constraints import Multipliers
from ..control import OdeEnvironment
from ..environment import AbstractEnvironment
from . import constrained, newton
from .problem import double_precision, Problem, problem_of


# A solution must give the same return in float32 to this share of the gap between optimal and random.
REPLAY_TOLERANCE = 1e-3
# Returns closer than this share of the unit count as the same.
_AGREEMENT = 1e-4
# A residual below this is a stationary point.
_STATIONARY = 1e-4
# A residual above this calls for Newton's method.
_PRECISE = 1e-5
NUM_CONSTANTS = 41

Unit = Callable[[np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Solution:
    """The best actions found for a task.

    For a task with random initial states every array has a leading axis of the 64 evaluation states, each solved on
    its own, and the return is their mean: what no policy can exceed.

    Attributes:
        actions: normalised to [-1, 1].
        states: the trajectory, in environment units.
        episode_return: the return in float64; of a task with constraints, without what violations cost.
        residual: how far from a stationary point within the bounds, in units of the normalised actions: the largest
            component of the projected gradient, `clip(a + dJ/da / unit, -1, 1) - a`, or of the step that Newton's
            method would still take, whichever is less. Not small where the search stopped short, or where the optimum
            lies at a kink, such as a state bound.
        starts_agree: whether every start led to the same return, to 1e-4 of the unit.
        start_returns: what each start led to, best first (of the first evaluation state).
        replay_error: how much the return changes when the actions are replayed in float32.
        message: one line on how it went; says when a better return was given up because it did not replay, and
            whatever speaks against the solution.
        unit: what returns count in here: how much rewards differ along the solution's own trajectory, or the gap to
            random actions if that is less.
        controls: the actions in the task's own units, where it says what they are (`env.control`); else None.
        violation: largest violation of the constraints, in their own units; 0 without constraints.
        multipliers: of the constraints, for `env.with_multipliers`; None without constraints. With random initial
            states, those of the first.
    """

    actions: Float[np.ndarray, "*batch horizon action"]
    states: Float[np.ndarray, "*batch horizon+1 state"]
    episode_return: float
    residual: float
    starts_agree: bool
    start_returns: tuple[float, ...]
    replay_error: float
    message: str
    unit: float = 1.0
    controls: Float[np.ndarray, "*batch horizon control"] | None = None
    violation: float = 0.0
    multipliers: Multipliers | None = None

    @property
    def num_agree(self) -> int:
        """How many starts led to the best return."""
        highest = max(self.start_returns)
        return sum(highest - value <= _AGREEMENT * self.unit for value in self.start_returns)

    @property
    def trusted(self) -> bool:
        """Whether it is a stationary point, or several starts agree on it, and nothing is known against it."""
        if "cannot be trusted" in self.message or "violated" in self.message:
            return False
        return self.residual <= _STATIONARY or self.num_agree > 1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Where one start led.

    Attributes:
        actions: [H, m].
        episode_return: of the actions, without what violations cost.
        violation: largest violation of the constraints.
        multipliers: of the constraints.
    """

    actions: np.ndarray
    episode_return: float
    violation: float = 0.0
    multipliers: Multipliers | None = None


def solve(env: AbstractEnvironment, num_starts: int | None) -> Solution:
    """`optimal` without a cache: every initial state on its own, the later ones from the solution of the first."""
    with double_precision():
        problem = problem_of(env)
        first = _solve_from(problem, problem.starts[0], _starts(env), num_starts)
        if len(problem.starts) == 1:
            return first
        warm = [first.actions[None], constants(env)]
        solutions = [first] + [_solve_from(problem, state, warm, 2) for state in problem.starts[1:]]
    return dataclasses.replace(
        first,
        actions=np.stack([solution.actions for solution in solutions]),
        states=np.stack([solution.states for solution in solutions]),
        controls=None
        if first.controls is None
        else np.stack([s.controls for s in solutions if s.controls is not None]),
        episode_return=float(np.mean([solution.episode_return for solution in solutions])),
        residual=max(solution.residual for solution in solutions),
        starts_agree=all(solution.starts_agree for solution in solutions),
        replay_error=max(solution.replay_error for solution in solutions),
        violation=max(solution.violation for solution in solutions),
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
    ranked = _rank(families, returns)
    if not ranked:
        raise UsageError(f"optimal: no action sequence tried on {env.name} has a finite return")
    middles = [np.median(np.nan_to_num(part, nan=-np.inf)) for part in (random, np.concatenate(returns))]
    search = _Search(problem, state, [float(middle) for middle in middles if np.isfinite(middle)])
    few = num_starts or (8 if env.horizon <= 200 else 5)
    if problem.constrained:
        few = num_starts or 3
    candidates = [search.candidate(start) for start in ranked[:few]]
    known_best = env.known_actions() is not None and candidates[0].episode_return + _AGREEMENT * search.unit(
        candidates[0].actions
    ) >= max(candidate.episode_return for candidate in candidates)
    if num_starts is None and not known_best and search.num_best(candidates) < few:
        more = few if problem.constrained else 4 * few
        candidates += [search.candidate(start) for start in ranked[few:more]]
    candidates.sort(key=lambda candidate: (not search.feasible(candidate), -candidate.episode_return))
    return search.finish(candidates)


class _Search:
    """The search from one initial state, and the units it counts in."""

    def __init__(self, problem: Problem, state: np.ndarray, middles: list[float]) -> None:
        """Args: the problem, the initial state, and median returns of actions that were not optimised."""
        self.problem, self.state, self.middles = problem, state, middles

    def unit(self, actions: np.ndarray) -> float:
        """What returns count in around these actions: the least of what is known to matter there.

        The gap to random actions alone would not do: where those are catastrophic, all else is nothing beside it.
        """
        value = self.problem.replay(self.state, actions)[0]
        visited, local, size = self.problem.units(self.state, actions)
        units = [visited, local, *(value - middle for middle in self.middles)]
        # Below the rounding of float32, or where the optimum is (nearly) constant, a unit says nothing.
        floor = max(1e-9 * local, 1e-7 * size, 1e-300) if np.isfinite(local + size) else 1e-300
        return float(
            min((unit for unit in units if np.isfinite(unit) and unit > floor), default=max(size, 1e-9))
        )

    def candidate(self, start: np.ndarray) -> Candidate:
        """Where a start leads."""
        if self.problem.constrained:
            return constrained.meet(self.problem, self.state, start, self.ascend, self.unit)
        return self.ascend(start)

    def ascend(self, start: np.ndarray) -> Candidate:
        """The best actions that L-BFGS-B and, where it stops short of a stationary point, Newton's method find."""
        best = _ascend(self.problem, self.state, start, self.unit)
        unit = self.unit(best.actions)
        if self.newtonian and self.gradient_residual(best.actions, unit) > _PRECISE:
            actions = newton.improve(self.problem, self.state, best.actions, unit)
            best = Candidate(actions, self.problem.value_and_grad(self.state, actions)[0])
        return best

    @property
    def newtonian(self) -> bool:
        """Whether the task is small enough for second derivatives."""
        return self.problem.env.state_size + self.problem.env.action_size <= newton.MAX_SIZE

    def residual(self, actions: np.ndarray, unit: float) -> float:
        """How far from stationary: by the projected gradient, or by the step that Newton's method would take."""
        residual = self.gradient_residual(actions, unit)
        if not self.newtonian or residual <= _STATIONARY:
            return residual
        return min(residual, newton.step_size(self.problem, self.state, actions))

    def gradient_residual(self, actions: np.ndarray, unit: float) -> float:
        """The largest component of the projected gradient."""
        gradient = self.problem.value_and_grad(self.state, actions)[1] / unit
        return float(np.abs(np.clip(actions + gradient, -1, 1) - actions).max())

    def num_best(self, candidates: list[Candidate]) -> int:
        """How many candidates reached the best return."""
        best = max(candidates, key=lambda candidate: (self.feasible(candidate), candidate.episode_return))
        margin = _AGREEMENT * self.unit(best.actions)
        return sum(best.episode_return - candidate.episode_return <= margin for candidate in candidates)

    def feasible(self, candidate: Candidate) -> bool:
        """Whether the constraints hold, to the tolerance of the search."""
        return candidate.violation <= constrained.FEASIBLE

    def finish(self, candidates: list[Candidate]) -> Solution:
        """The `Solution` from candidates, best first."""
        problem, state, unit = self.problem, self.state, self.unit(candidates[0].actions)
        value = problem.replay(state, candidates[0].actions)[0]
        gaps = [value - middle for middle in self.middles[:1] if value > middle]
        size = problem.units(state, candidates[0].actions)[-1]
        tolerance = REPLAY_TOLERANCE * max(unit, min([100 * unit, *gaps])) + 1e-6 * float(size)
        num_best = self.num_best(candidates)
        best, given_up = self.first_that_replays(candidates, tolerance)
        problem.multipliers = best.multipliers if problem.constrained else None
        _, states = problem.replay(state, best.actions)
        residual = self.residual(best.actions, unit)
        notes = [f"{num_best} of {len(candidates)} starts reached the best return{given_up}"]
        if not np.isfinite(residual):
            notes.append(
                "not optimised, its gradient is not finite here: asmpg.locate_nonfinite names the place"
            )
        elif residual > _STATIONARY:
            notes.append(
                f"not a stationary point (residual {residual:.2g}): a kink, or the search stopped short"
            )
        if not self.feasible(best):
            notes.append(f"the constraints are violated by {best.violation:.2g}")
        notes += [*self._sensitivity(best, residual), *_on_the_clip(problem.env, states, best.actions)]
        return Solution(
            actions=best.actions,
            states=states,
            episode_return=best.episode_return,
            residual=residual,
            starts_agree=num_best == len(candidates),
            start_returns=tuple(candidate.episode_return for candidate in candidates),
            replay_error=problem.replay_error(state, best.actions),
            message="; ".join(notes),
            unit=unit,
            controls=controls_of(problem.env, best.actions),
            violation=best.violation,
            multipliers=best.multipliers,
        )

    def first_that_replays(self, candidates: list[Candidate], tolerance: float) -> tuple[Candidate, str]:
        """The best candidate whose return float32 reproduces, with what there is to say about it."""
        errors: list[float] = []
        for candidate in candidates:
            if self.problem.constrained:
                self.problem.multipliers = candidate.multipliers
            errors.append(self.problem.replay_error(self.state, candidate.actions))
            if errors[-1] <= tolerance:
                lost = f"; {candidates[0].episode_return:.6g} was given up, it does not replay in float32"
                return candidate, "" if len(errors) == 1 else lost
            if self.replays_with_feedback(candidate, tolerance):
                return candidate, "; replays in float32 only with feedback"
        kept = candidates[int(np.nanargmin(np.nan_to_num(errors, nan=np.inf)))]
        return kept, "; none replays in float32 to 1e-3 of what is to be gained, the closest is kept"

    def replays_with_feedback(self, candidate: Candidate, tolerance: float) -> bool:
        """Whether a policy can follow a solution that its actions alone cannot, as on any unstable plant.

        Built-in tasks are judged by their actions alone: their optima are long known that way.
        """
        problem, state = self.problem, self.state
        if not self.newtonian or problem.env.identity() is not None:
            return False
        if not newton.amplification(problem, state, candidate.actions) >= newton.UNSTABLE:
            return False
        gains = newton.feedback(problem, state, candidate.actions)
        return problem.replay_error(state, candidate.actions, gains) <= tolerance

    def _sensitivity(self, best: Candidate, residual: float) -> list[str]:
        """What there is to say about a plant that amplifies every perturbation."""
        growth = newton.amplification(self.problem, self.state, best.actions)
        if not growth >= newton.UNSTABLE:
            return []
        verdict = "the solution needs feedback to be followed"
        if residual > _STATIONARY or growth > newton.HOPELESS:
            verdict = "single shooting cannot be trusted here, the optimum may be far better"
        return [f"an unstable plant, a perturbation of a state grows {growth:.1g}-fold: {verdict}"]


def controls_of(env: AbstractEnvironment, actions: np.ndarray) -> np.ndarray | None:
    """The actions in the task's own units."""
    if not isinstance(env, OdeEnvironment):
        return None
    low, high = (np.asarray(bound) for bound in env.controls)
    return low + (high - low) * (actions + 1) / 2


def _on_the_clip(env: AbstractEnvironment, states: np.ndarray, actions: np.ndarray) -> list[str]:
    """Says where a solution is held by the clipping of its states, which is no constraint."""
    if not isinstance(env, OdeEnvironment) or env.bounds is None:
        return []
    import jax
    import jax.numpy as jnp

    steps = jnp.arange(env.horizon)
    free = np.asarray(jax.jit(jax.vmap(env.unclipped))(states[:-1], actions, steps))
    moved = np.abs(free - states[1:]) > 1e-6 * (np.abs(states).max(axis=0) + 1e-12)
    if not moved.any():
        return []
    component = int(moved.sum(axis=0).argmax())
    return [
        f"state_bounds clipped state component {component} at {moved.any(axis=1).sum()} of {env.horizon} "
        "steps: they put the state back for free and are no constraint, for which there is path_constraint"
    ]


def _ascend(problem: Problem, state: np.ndarray, start: np.ndarray, unit: Unit) -> Candidate:
    """L-BFGS-B from one start.

    It is begun afresh while that still gains: its memory can mislead it at a kink, and its stopping rules count in
    units that are known only once it is out of the worst.
    """
    from scipy.optimize import minimize

    best = Candidate(start, problem.value_and_grad(state, start)[0])
    for _ in range(8):
        origin, scale = best.episode_return, unit(best.actions)

        def objective(
            flat: np.ndarray, origin: float = origin, scale: float = scale
        ) -> tuple[float, np.ndarray]:
            value, gradient = problem.value_and_grad(state, flat.reshape(start.shape))
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                return 1e10, np.zeros_like(flat)  # the line search turns back
            return (origin - value) / scale, -gradient.ravel() / scale

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
        candidate = Candidate(actions, problem.value_and_grad(state, actions)[0])
        gain = candidate.episode_return - best.episode_return
        best = candidate if gain > 0 else best
        if not gain > 1e-7 * unit(best.actions):
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
