"""The search for the best actions of a task, by whichever way of shooting can be trusted there.

Single shooting (`shooting`) from several starts; where it stops short of a stationary point, Newton's method with
feedback goes on (`newton`); where the plant is unstable, that begins with states of its own: multiple shooting.
Constraints are met by an augmented Lagrangian (`constrained`). The optimum is that of the discretised task at its own
horizon, so a policy's score of 1 means that nothing is left to gain.
"""

import numpy as np

from ...core.types import UsageError
from ..environment import AbstractEnvironment
from . import constrained, newton, shooting
from .problem import double_precision, Problem, problem_of
from .solution import AGREEMENT, Candidate, controls_of, mean_of, on_the_clip, Solution, STATIONARY


# A solution must give the same return in float32 to this share of the gap between optimal and random.
REPLAY_TOLERANCE = 1e-3
# A residual above this calls for Newton's method.
_PRECISE = 1e-5


def solve(env: AbstractEnvironment, num_starts: int | None) -> Solution:
    """`optimal` without a cache: every initial state on its own, the later ones from the solution of the first."""
    with double_precision():
        problem = problem_of(env)
        multipliers = problem.multipliers
        try:
            first = _solve_from(problem, problem.starts[0], shooting.starts(env), num_starts)
            if len(problem.starts) == 1:
                return first
            warm = [first.actions[None], shooting.constants(env)]
            return mean_of([first] + [_solve_from(problem, state, warm, 2) for state in problem.starts[1:]])
        finally:
            problem.multipliers = multipliers  # as everybody else wants them


def _solve_from(
    problem: Problem, state: np.ndarray, families: list[np.ndarray], num_starts: int | None
) -> Solution:
    """The best solution from one initial state that replays in float32."""
    env = problem.env
    uniform = np.random.default_rng(1).uniform(-1, 1, (64, env.horizon, env.action_size))
    values = problem.returns(state, np.concatenate([*families, uniform]))
    *returns, random = np.split(values, np.cumsum([len(family) for family in families]))
    ranked = shooting.rank(families, returns)
    if not ranked:
        raise UsageError(f"optimal: no action sequence tried on {env.name} has a finite return")
    middles = [np.median(np.nan_to_num(part, nan=-np.inf)) for part in (random, np.concatenate(returns))]
    search = _Search(problem, state, [float(middle) for middle in middles if np.isfinite(middle)])
    few = num_starts or (8 if env.horizon <= 200 else 5)
    if problem.constrained:
        few = num_starts or 3
    candidates = [search.candidate(start) for start in ranked[:few]]
    known_best = env.known_actions() is not None and candidates[0].episode_return + AGREEMENT * search.unit(
        candidates[0].states, candidates[0].actions
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
        self.gap = max(middles) - min(middles) if middles else 0.0

    def unit(self, states: np.ndarray, actions: np.ndarray) -> float:
        """What returns count in along this trajectory: the least of what is known to matter there.

        The gap to random actions alone would not do: where those are catastrophic, all else is nothing beside it.
        """
        value = self.problem.value_along(states, actions)
        visited, local, size = self.problem.units(states, actions)
        units = [visited, local, *(value - middle for middle in self.middles)]
        # Below the rounding of float32, or where the optimum is (nearly) constant, a unit says nothing.
        floor = max(1e-9 * local, 1e-7 * size, 1e-300) if np.isfinite(local + size) else 1e-300
        return float(
            min((unit for unit in units if np.isfinite(unit) and unit > floor), default=max(size, 1e-9))
        )

    def candidate(self, start: np.ndarray) -> Candidate:
        """Where a start leads."""
        if self.problem.constrained:
            return constrained.meet(self.problem, self.state, start, self.ascend, self.unit, self.gap)
        return self.ascend(start, None)

    def ascend(self, start: np.ndarray, states: np.ndarray | None) -> Candidate:
        """The best trajectory found from some actions, and from some states where those are not what they lead to."""
        if states is not None:
            return self.newton(Candidate(start, states, -np.inf, "multiple shooting"))
        best = shooting.ascend(self.problem, self.state, start, self.unit)
        if (
            not self.newtonian
            or self.gradient_residual(best, self.unit(best.states, best.actions)) <= _PRECISE
        ):
            return best
        best = self.newton(best)
        if self.problem.env.identity() is None and self.growth(best) >= newton.UNSTABLE:
            # States that do not run away: from where it begins, on the spot.
            spot = np.broadcast_to(self.state, (len(start) + 1, len(self.state)))
            tried = [Candidate(actions, spot, -np.inf, "multiple shooting") for actions in (start, 0 * start)]
            found = [self.newton(candidate) for candidate in tried]
            best = max([best, *filter(self.closed, found)], key=lambda candidate: candidate.episode_return)
        return best

    def newton(self, begin: Candidate) -> Candidate:
        """What Newton's method makes of a trajectory."""
        unit = self.unit(begin.states, begin.actions)
        states, actions = newton.improve(self.problem, begin.states, begin.actions, unit)
        if begin.method == "single shooting":
            states = self.problem.replay(self.state, actions)[1]
        return Candidate(actions, states, self.problem.value_along(states, actions), begin.method)

    def closed(self, candidate: Candidate) -> bool:
        """Whether each state follows from the one before."""
        return self.problem.largest_gap(candidate.states, candidate.actions) <= newton.CLOSED

    def growth(self, candidate: Candidate) -> float:
        """By how much the worst perturbation of the initial state grows."""
        return newton.amplification(self.problem, candidate.states, candidate.actions)

    @property
    def newtonian(self) -> bool:
        """Whether the task is small enough for second derivatives."""
        return self.problem.env.state_size + self.problem.env.action_size <= newton.MAX_SIZE

    def residual(self, candidate: Candidate, unit: float) -> float:
        """How far from stationary: by the projected gradient, or by the step that Newton's method would take."""
        if candidate.method == "multiple shooting":
            return newton.step_size(self.problem, candidate.states, candidate.actions)
        residual = self.gradient_residual(candidate, unit)
        if not self.newtonian or residual <= STATIONARY:
            return residual
        return min(residual, newton.step_size(self.problem, candidate.states, candidate.actions))

    def gradient_residual(self, candidate: Candidate, unit: float) -> float:
        """The largest component of the projected gradient."""
        actions = candidate.actions
        gradient = self.problem.value_and_grad(self.state, actions)[1] / unit
        return float(np.abs(np.clip(actions + gradient, -1, 1) - actions).max())

    def num_best(self, candidates: list[Candidate]) -> int:
        """How many candidates reached the best return."""
        best = max(candidates, key=lambda candidate: (self.feasible(candidate), candidate.episode_return))
        margin = AGREEMENT * self.unit(best.states, best.actions)
        return sum(best.episode_return - candidate.episode_return <= margin for candidate in candidates)

    def feasible(self, candidate: Candidate) -> bool:
        """Whether the constraints hold, to the tolerance of the search."""
        return candidate.relative_violation <= constrained.FEASIBLE

    def finish(self, candidates: list[Candidate]) -> Solution:
        """The `Solution` from candidates, best first."""
        problem, first = self.problem, candidates[0]
        unit, value = self.unit(first.states, first.actions), problem.value_along(first.states, first.actions)
        gaps = [value - middle for middle in self.middles[:1] if value > middle]
        size = problem.units(first.states, first.actions)[-1]
        tolerance = REPLAY_TOLERANCE * max(unit, min([100 * unit, *gaps])) + 1e-6 * float(size)
        num_best = self.num_best(candidates)
        best, gains, given_up = self.first_that_replays(candidates, tolerance)
        problem.multipliers = best.multipliers if problem.constrained else None
        residual = self.residual(best, unit)
        notes = [f"{num_best} of {len(candidates)} starts reached the best return{given_up}"]
        if not self.feasible(best):
            notes.append(f"the constraints are violated by {best.violation:.2g}")
        notes += [*self._stationarity(residual), *self._sensitivity(best, residual, gains)]
        notes += on_the_clip(problem.env, best.states, best.actions)
        return Solution(
            actions=best.actions,
            states=best.states,
            episode_return=best.episode_return,
            residual=residual,
            starts_agree=num_best == len(candidates),
            start_returns=tuple(candidate.episode_return for candidate in candidates),
            replay_error=problem.replay_error(best.states, best.actions, gains),
            message="; ".join(notes),
            unit=unit,
            controls=controls_of(problem.env, best.actions),
            violation=best.violation,
            multipliers=best.multipliers,
            method="single shooting" if gains is None else "multiple shooting",
            gains=gains,
        )

    def first_that_replays(
        self, candidates: list[Candidate], tolerance: float
    ) -> tuple[Candidate, np.ndarray | None, str]:
        """The best candidate whose return float32 reproduces, the feedback that it needs, and what there is to say."""
        errors: list[float] = []
        for candidate in candidates:
            if self.problem.constrained:
                self.problem.multipliers = candidate.multipliers
            errors.append(self.problem.replay_error(candidate.states, candidate.actions))
            lost = f"; {candidates[0].episode_return:.6g} was given up, it does not replay in float32"
            if errors[-1] <= tolerance:
                return candidate, None, "" if len(errors) == 1 else lost
            gains = self.feedback(candidate)
            if (
                gains is not None
                and self.problem.replay_error(candidate.states, candidate.actions, gains) <= tolerance
            ):
                return candidate, gains, "; replays in float32 only with feedback"
        kept = candidates[int(np.nanargmin(np.nan_to_num(errors, nan=np.inf)))]
        return kept, None, "; none replays in float32 to 1e-3 of what is to be gained, the closest is kept"

    def feedback(self, candidate: Candidate) -> np.ndarray | None:
        """The gains of a policy that follows a solution that its actions alone cannot, as on any unstable plant.

        Built-in tasks are judged by their actions alone: their optima are long known that way.
        """
        if not self.newtonian or self.problem.env.identity() is not None:
            return None
        if not self.growth(candidate) >= newton.UNSTABLE:
            return None
        return newton.feedback(self.problem, candidate.states, candidate.actions)

    def _stationarity(self, residual: float) -> list[str]:
        """What there is to say about a solution that is no stationary point."""
        if not np.isfinite(residual):
            return ["not optimised, its gradient is not finite here: asmpg.locate_nonfinite names the place"]
        if residual > STATIONARY:
            return [f"not a stationary point (residual {residual:.2g}): a kink, or the search stopped short"]
        return []

    def _sensitivity(self, best: Candidate, residual: float, gains: np.ndarray | None) -> list[str]:
        """What there is to say about a plant that amplifies every perturbation."""
        growth = self.growth(best)
        if not growth >= newton.UNSTABLE:
            return []
        verdict = "the actions lead there only where nothing deviates"
        if gains is not None:
            verdict = "solved by multiple shooting, it takes feedback to follow (solution.gains)"
        if residual > STATIONARY or (growth > newton.HOPELESS and gains is None):
            verdict = f"{best.method} cannot be trusted here, the optimum may be far better"
        return [f"an unstable plant, a perturbation of a state grows {growth:.1g}-fold: {verdict}"]
