"""The policies of the best records, kept beside the last: one that falls later is not lost."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from . import checkpoint


# What stands before the names of these arrays in a checkpoint.
_PREFIX, _RETURNS = ".best", ".best_returns"


class Best:
    """Of every seed the policy with the highest recorded return so far, and that return."""

    def __init__(self):
        """No record yet."""
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps of it."""
        return dict(self._arrays)

    @property
    def returns(self) -> Float[np.ndarray, " num_seeds"] | None:
        """Of the best records; None before the first."""
        return self._arrays.get(_RETURNS)

    def add(self, returns: Float[np.ndarray, " num_seeds"], policy: object) -> None:
        """One record more: its returns, and the policy that had them (leading seed axis)."""
        new = {
            _PREFIX + name: array
            for name, array in checkpoint.flatten(eqx.filter(policy, eqx.is_array)).items()
        }
        new[_RETURNS] = np.asarray(returns)
        if not self._arrays:
            self._arrays = {name: array.copy() for name, array in new.items()}
            return
        # A return that is not a number is never better, and any number is better than it.
        before = np.nan_to_num(self._arrays[_RETURNS], nan=-np.inf)
        better = new[_RETURNS] > before
        for name, array in new.items():
            wide = better.reshape(-1, *[1] * (array.ndim - 1))
            self._arrays[name] = np.where(wide, array, self._arrays[name])

    def policy(self, policy: object) -> Any:
        """The best policies, in the place of the arrays of a policy of the same kind."""
        arrays, static = eqx.partition(policy, eqx.is_array)
        own = {name.removeprefix(_PREFIX): a for name, a in self._arrays.items() if name != _RETURNS}
        return eqx.combine(checkpoint.unflatten(jax.eval_shape(lambda: arrays), own), static)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Takes its own arrays from those of a checkpoint, and gives back the rest."""
        self._arrays = {name: np.array(array) for name, array in arrays.items() if name.startswith(_PREFIX)}
        return {name: array for name, array in arrays.items() if not name.startswith(_PREFIX)}
