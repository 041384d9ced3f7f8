"""What the search for an optimum gives, and what there is to say about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..constraints import Multipliers
from ..control import OdeEnvironment
from ..environment import AbstractEnvironment


# Returns closer than this share of the unit count as the same.
AGREEMENT = 1e-4
# A residual below this is a stationary point.
STATIONARY = 1e-4


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
        replay_error: how much the return changes when the actions are replayed in float32 (with `gains`, if there are
            any).
        message: one line on how it went; says when a better return was given up because it did not replay, and
            whatever speaks against the solution.
        unit: what returns count in here: how much rewards differ along the solution's own trajectory, or the gap to
            random actions if that is less.
        controls: the actions in the task's own units, where it says what they are (`env.control`); else None.
        violation: largest violation of the constraints, in their own units; 0 without constraints.
        multipliers: of the constraints, for `env.with_multipliers`; None without constraints. With random initial
            states, those of the first.
        method: "single shooting", or "multiple shooting" where the plant is unstable, so that no sequence of actions
            alone leads to these states.
        gains: with multiple shooting, how the actions answer a state that is not the planned one: the policy
            `clip(actions[t] + gains[t] @ (s - states[t]), -1, 1)` follows the solution. Else None.
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
    method: str = "single shooting"
    gains: Float[np.ndarray, "*batch horizon action state"] | None = None

    @property
    def num_agree(self) -> int:
        """How many starts led to the best return."""
        highest = max(self.start_returns)
        return sum(highest - value <= AGREEMENT * self.unit for value in self.start_returns)

    @property
    def trusted(self) -> bool:
        """Whether it is a stationary point, or several starts agree on it, and nothing is known against it."""
        if "cannot be trusted" in self.message or "violated" in self.message:
            return False
        return bool(np.isfinite(self.residual)) and (self.residual <= STATIONARY or self.num_agree > 1)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Where one start led.

    Attributes:
        actions: [H, m].
        states: [H+1, n].
        episode_return: without what violations cost.
        method: see `Solution`.
        violation: largest violation of the constraints.
        relative_violation: largest violation as a share of how large its constraint becomes on the way.
        multipliers: of the constraints.
    """

    actions: np.ndarray
    states: np.ndarray
    episode_return: float
    method: str = "single shooting"
    violation: float = 0.0
    relative_violation: float = 0.0
    multipliers: Multipliers | None = None


def mean_of(solutions: Sequence[Solution]) -> Solution:
    """The solutions from several initial states as one."""
    first = solutions[0]
    doubtful = [solution for solution in solutions if not solution.trusted]
    message = f"mean over {len(solutions)} initial states; the first: {first.message}"
    if doubtful:
        message += f"; {len(doubtful)} of them cannot be trusted, such as: {doubtful[0].message}"
    multiple = any(solution.gains is not None for solution in solutions)
    no_gains = np.zeros((*first.actions.shape, first.states.shape[-1]))
    all_gains = [no_gains if solution.gains is None else solution.gains for solution in solutions]
    return dataclasses.replace(
        first,
        actions=np.stack([solution.actions for solution in solutions]),
        states=np.stack([solution.states for solution in solutions]),
        controls=None
        if first.controls is None
        else np.stack([solution.controls for solution in solutions if solution.controls is not None]),
        episode_return=float(np.mean([solution.episode_return for solution in solutions])),
        residual=float(np.max([solution.residual for solution in solutions])),
        starts_agree=all(solution.starts_agree for solution in solutions),
        replay_error=float(np.max([solution.replay_error for solution in solutions])),
        violation=max(solution.violation for solution in solutions),
        message=message,
        method="multiple shooting" if multiple else first.method,
        gains=np.stack(all_gains) if multiple else None,
    )


def controls_of(env: AbstractEnvironment, actions: np.ndarray) -> np.ndarray | None:
    """The actions in the task's own units."""
    if not isinstance(env, OdeEnvironment):
        return None
    low, high = (np.asarray(bound) for bound in env.controls)
    return low + (high - low) * (actions + 1) / 2


def on_the_clip(env: AbstractEnvironment, states: np.ndarray, actions: np.ndarray) -> list[str]:
    """Says where a solution is held by the clipping of its states, which is no constraint."""
    if not isinstance(env, OdeEnvironment) or env.bounds is None:
        return []
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
