"""Direct single shooting: the actions are the unknowns, the states follow from them, all in float64.

SciPy's L-BFGS-B keeps the actions in [-1, 1] and JAX gives the gradient.
"""

import contextlib
import ctypes
import itertools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from ..environment import AbstractEnvironment
from .problem import Problem
from .solution import Candidate


NUM_CONSTANTS = 41

Unit = Callable[[np.ndarray, np.ndarray], float]


def ascend(problem: Problem, state: np.ndarray, start: np.ndarray, unit: Unit) -> Candidate:
    """L-BFGS-B from one start.

    It is begun afresh while that still gains: its memory can mislead it at a kink, and its stopping rules count in
    units that are known only once it is out of the worst.
    """
    from scipy.optimize import minimize

    best = _candidate(problem, state, start)
    for _ in range(8):
        origin, scale = best.episode_return, unit(best.states, best.actions)

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
        candidate = _candidate(problem, state, actions)
        gain = candidate.episode_return - best.episode_return
        best = candidate if gain > 0 else best
        if not gain > 1e-7 * unit(best.states, best.actions):
            break
    return best


def _candidate(problem: Problem, state: np.ndarray, actions: np.ndarray) -> Candidate:
    states = problem.replay(state, actions)[1]
    return Candidate(actions, states, problem.value_and_grad(state, actions)[0])


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


def starts(env: AbstractEnvironment) -> list[np.ndarray]:
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


def rank(families: list[np.ndarray], returns: list[np.ndarray]) -> list[np.ndarray]:
    """The best of every family in turn, then the second best of every family, and so on; only finite ones."""
    ranked = [
        [family[i] for i in np.argsort(-values) if np.isfinite(values[i])]
        for family, values in zip(families, returns, strict=True)
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
    return [start for start in turns if start is not None]
