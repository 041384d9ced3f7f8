"""A policy that leaves: as a StableHLO program, or as arrays for NumPy alone."""

import io
import pathlib
import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..core import files
from ..core.arguments import a_path, takes
from ..core.extras import require
from ..core.linear import Layers
from ..core.types import Given, one_line, UsageError
from ..gradients.policies import AbstractPolicy, ActionSequence, TanhGaussianPolicy
from ..tasks.spec import ends_early, Spec
from ..tasks.stack import Stack, stack_of


FORMATS = ("npz", "stablehlo")
# Where an exported program can run.
_PLATFORMS = ("cpu", "cuda")
_FORMAT_VERSION = 1


class ExportedPolicy:
    """A policy read from a file: numbers in, numbers out. It counts the steps of its episode.

    Where a policy sees former observations and actions too (`with_context`), it remembers them: it is given the newest
    observation alone, one after another.

    Attributes:
        observation_size: components of an observation, as the environment gives it.
        action_size: components of an action.
        horizon: actions in an episode.
    """

    def __init__(
        self,
        mode: Callable[[np.ndarray, int], np.ndarray],
        sizes: tuple[int, int, int],
        bounds: tuple[np.ndarray, np.ndarray],
        context: int = 0,
    ):
        """Begins an episode.

        Args:
            mode: from all that the policy sees and a step to the action, between -1 and 1.
            sizes: of all that it sees, of an action, and of an episode.
            bounds: of the actions of the environment.
            context: pairs of a former observation and a former action in what it sees.
        """
        self._mode, self._bounds, (self._seen_size, self.action_size, self.horizon) = mode, bounds, sizes
        size = (self._seen_size - 1 - context * self.action_size) // (1 + context)
        self._stack = Stack(size, self.action_size, context) if context else None
        self.observation_size = size if context else self._seen_size
        self.reset()

    def reset(self) -> None:
        """Begins a new episode."""
        self._step = 0
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def predict(self, observation: ArrayLike, step: int | None = None) -> Float[np.ndarray, " action"]:
        """The action for an observation, in the units of the environment.

        Args:
            observation: in the units of the environment, any array of so many numbers.
            step: of the episode, from 0, which begins an episode; by default the number of calls since `reset`.

        Raises:
            UsageError: an observation of another size, or a step past the end of the episode.
        """
        seen = np.ravel(np.asarray(observation, np.float32))
        if seen.size not in (self.observation_size, self._seen_size):
            raise UsageError(
                f"predict: the observation has {seen.size} components, "
                f"the policy was trained with {self.observation_size}"
            )
        if step is None:
            step, self._step = self._step, self._step + 1
        if not 0 <= step < self.horizon:
            raise UsageError(
                f"predict: step {step} is not in an episode of {self.horizon} steps; reset() begins a new one"
            )
        if self._stack is not None and seen.size == self.observation_size:
            seen = self._with_context(self._stack, seen, step)
        action, (low, high) = np.asarray(self._mode(seen, step)), self._bounds
        self._last = (seen, action)
        return np.asarray(low + (high - low) * (action + 1) / 2)

    def _with_context(self, stack: Stack, observation: np.ndarray, step: int) -> np.ndarray:
        if step == 0:
            return stack.begin(observation)
        if self._last is None:
            raise UsageError(
                f"predict: step {step} needs the observations and actions before it: give all steps from 0 to one "
                f"policy, or all {self._seen_size} components that it sees"
            )
        return stack.follow(*self._last, observation)


def acting(policy: Given[AbstractPolicy], spec: Spec) -> ExportedPolicy:
    """A policy that goes on living here: what `load_policy` would give once it has left.

    Args:
        policy: as for `export_policy`, and so is the world.
        spec: the world.

    Raises:
        UsageError: the policy needs the episode so far.
    """
    _check_leaves(policy)

    def mode(observation: np.ndarray, step: int) -> np.ndarray:
        seen = np.concatenate([observation, np.ones(spec.state_size - _seen_size(spec))])
        return np.asarray(_mode(policy, jnp.asarray(seen, float), jnp.asarray(step)))

    sizes = (_seen_size(spec), spec.action_size, spec.horizon)
    return ExportedPolicy(mode, sizes, _action_range(spec), _context(spec))


def _seen_size(spec: Spec) -> int:
    """Components that an exported policy sees: all but `alive`, which is 1 as long as it acts."""
    return spec.state_size - ends_early(spec)


def _context(spec: Spec) -> int:
    """Pairs of a former observation and a former action in what a policy sees."""
    stack = stack_of(spec)
    return 0 if stack is None else stack.length


@eqx.filter_jit
def _mode(policy: AbstractPolicy, observation: jax.Array, step: jax.Array) -> jax.Array:
    """Compiled once for all policies of a kind."""
    return policy.mode(observation, step)


def _check_leaves(policy: object) -> None:
    """Raises a UsageError for an actor that acts on more than state and step."""
    if not isinstance(policy, AbstractPolicy):
        raise UsageError(
            f"export: a {type(policy).__name__} needs the episode so far, only policies of state and step are exported"
        )


def export_policy(policy: Given[AbstractPolicy], spec: Spec, format: str) -> bytes:
    """A file's content: the deterministic policy, `mode`, with all that it needs.

    Args:
        policy: one, without a seed axis.
        spec: the world it was trained in. If it has `action_low` and `action_high`, actions are mapped to that range.
        format: "npz" or "stablehlo".

    Raises:
        UsageError: an unknown format, or a policy that cannot leave in it.
    """
    if format not in FORMATS:
        raise UsageError(f"format: {format!r} is not one of {', '.join(FORMATS)}")
    _check_leaves(policy)
    return _as_npz(policy, spec) if format == "npz" else _as_stablehlo(policy, spec)


def write_policy(
    path: str | pathlib.Path, policy: Given[AbstractPolicy], spec: Spec, format: str | None
) -> pathlib.Path:
    """Writes a policy.

    Args:
        path: the file.
        policy: as for `export_policy`, and so is the world.
        spec: the world.
        format: "npz" or "stablehlo"; None: what the file's name says.

    Raises:
        UsageError: the policy cannot be exported in this format.
        StorageError: the disk refused.
    """
    path = pathlib.Path(path)
    format = path.suffix.removeprefix(".") if format is None else format
    if format not in FORMATS:
        raise UsageError(f"path: {path} must end in .{' or .'.join(FORMATS)}")
    files.write(path, export_policy(policy, spec, format))
    return path


@takes(path=a_path)
def load_policy(path: Given[str | pathlib.Path]) -> ExportedPolicy:
    """Reads an exported policy, `.npz` or `.stablehlo`.

    Raises:
        UsageError: one line: there is no such file, or it is not an exported policy.
    """
    path = pathlib.Path(path)
    readers = {".npz": _read_npz, ".stablehlo": _read_stablehlo}
    if path.suffix not in readers:
        raise UsageError(f"policy: {path} must be a .npz or .stablehlo file")
    try:
        return readers[path.suffix](path)
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"policy: there is no file {path}") from error
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise UsageError(f"policy: {path} is not an exported policy: {one_line(error)}") from error


def _action_range(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the environment's own actions; -1 and 1 where it names none."""
    size = spec.action_size
    low, high = getattr(spec, "action_low", None), getattr(spec, "action_high", None)
    if low is None or high is None:
        low, high = -np.ones(size), np.ones(size)
    return np.asarray(low, np.float32), np.asarray(high, np.float32)


def _as_npz(policy: AbstractPolicy, spec: Spec) -> bytes:
    """Plain arrays. docs/export.md has the twenty lines of NumPy that read them."""
    if isinstance(policy, TanhGaussianPolicy):
        size = _seen_size(spec)
        arrays: dict[str, ArrayLike] = {"mean": policy.normaliser.mean[:size]}
        arrays["scale"] = policy.normaliser.scale[:size]
        *hidden, last = _without_alive(policy, size)
        for number, layer in enumerate(hidden):
            arrays |= {f"weight{number}": layer.weight, f"bias{number}": layer.bias}
        # The last layer's other half are standard deviations, which the deterministic action leaves out.
        arrays |= {"weight": last.weight[:, : spec.action_size], "bias": last.bias[: spec.action_size]}
        arrays |= {"num_hidden": len(hidden), "observe_time": policy.observe_time}
    elif isinstance(policy, ActionSequence):
        arrays = {"actions": jnp.tanh(policy.means)}
    else:
        raise UsageError(f"format: a {type(policy).__name__} can be exported as stablehlo, not as npz")
    low, high = _action_range(spec)
    arrays |= {"action_low": low, "action_high": high, "horizon": spec.horizon}
    arrays |= {
        "observation_size": _seen_size(spec),
        "context": _context(spec),
        "format": _FORMAT_VERSION,
    }
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    return content.getvalue()


def _without_alive(policy: TanhGaussianPolicy, size: int) -> Layers:
    """The layers of a policy that is alive: what it makes of that is part of the first bias."""
    first, *others = policy.layers
    alive = (1.0 - policy.normaliser.mean[size:]) / policy.normaliser.scale[size:]
    number = size + alive.size
    bias = first.bias + alive @ first.weight[size:number]
    weight = jnp.concatenate([first.weight[:size], first.weight[number:]])
    return (eqx.tree_at(lambda layer: (layer.weight, layer.bias), first, (weight, bias)), *others)


def _read_npz(path: pathlib.Path) -> ExportedPolicy:
    with np.load(path, allow_pickle=False) as file:
        p = dict(file)
    if p["format"] != _FORMAT_VERSION:
        raise ValueError(f"it has format {p['format']}, this version reads {_FORMAT_VERSION}")

    def mode(observation: np.ndarray, step: int) -> np.ndarray:
        if "actions" in p:
            return p["actions"][step]
        time = step / p["horizon"] * p["observe_time"]
        x = np.append((observation - p["mean"]) / p["scale"], time).astype(np.float32)
        for layer in range(p["num_hidden"]):
            x = np.maximum(x @ p[f"weight{layer}"] + p[f"bias{layer}"], 0)
        return np.tanh(x @ p["weight"] + p["bias"])

    sizes = (int(p["observation_size"]), len(p["action_low"]), int(p["horizon"]))
    bounds, context = (p["action_low"], p["action_high"]), int(p.get("context", 0))
    return ExportedPolicy(mode, sizes, bounds, context)


def _as_stablehlo(policy: AbstractPolicy, spec: Spec) -> bytes:
    """A program from observation and step to the action, in single precision. Its name says the horizon."""
    require("flatbuffers", "export", "format: stablehlo")
    low, high = _action_range(spec)

    def program(observation: jax.Array, step: jax.Array) -> jax.Array:
        seen = jnp.concatenate([observation, jnp.ones(spec.state_size - observation.size)])
        return low + (high - low) * (single.mode(seen, step) + 1) / 2

    program.__name__ = f"policy_of_{spec.horizon}_steps"
    with jax.enable_x64(False):
        single = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float32) if eqx.is_inexact_array(leaf) else leaf,
            policy,
        )
        arguments = (
            jax.ShapeDtypeStruct((_seen_size(spec),), jnp.float32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
        return bytes(jax.export.export(jax.jit(program), platforms=_PLATFORMS)(*arguments).serialize())


def _read_stablehlo(path: pathlib.Path) -> ExportedPolicy:
    require("flatbuffers", "export", "policy")
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    run = jax.jit(program.call)
    (observation,), (action,) = program.in_avals[0].shape, program.out_avals[0].shape
    named = re.fullmatch(r"policy_of_(\d+)_steps", program.fun_name)
    if named is None:
        raise ValueError(f"it holds a program called {program.fun_name}")

    def mode(observation: np.ndarray, step: int) -> np.ndarray:
        return np.asarray(run(jnp.asarray(observation), jnp.int32(step)))

    # The program maps its actions itself; what it sees of former ones, it has to be given.
    unit = np.ones(action, np.float32)
    return ExportedPolicy(mode, (observation, action, int(named[1])), (-unit, unit))
