"""Where recorded episodes say something, and where a model of them can only guess."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from ..tasks.data import Episodes


# Of a larger data set so many transitions are looked at, evenly spread over it.
MOST_POINTS = 20_000
# What is farther from the data than this share of unseen data is counts as outside.
_QUANTILE = 0.95


@dataclasses.dataclass(frozen=True, repr=False)
class Support:
    """Distances to the nearest recorded transition.

    A transition is an observation and an action; its components count in standard deviations over the data, those of
    the action in halves of their range. The unit of distance is the radius: 95% of the held-out transitions are nearer
    to the data than that.

    Attributes:
        radius: the unit, in standard deviations.
        untried: the share of actions, drawn uniformly at observations of the data, with no data within one radius.
    """

    radius: float
    untried: float
    _mean: np.ndarray
    _scale: np.ndarray
    _tree: Any

    @property
    def observation_size(self) -> int:
        """Components of an observation, without `alive`."""
        return len(self._mean)

    @classmethod
    def of(cls, data: Episodes, held_out: Episodes) -> "Support":
        """That of these episodes; the others say how far new episodes of the same kind are from them."""
        from scipy.spatial import KDTree

        observations, actions = _transitions(data)
        mean, scale = observations.mean(axis=0), observations.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        points = _thinned(np.concatenate([(observations - mean) / scale, actions], axis=1))
        found = cls(1.0, 0.0, mean, scale, KDTree(points))
        unseen = found.distance(*map(_thinned, _transitions(held_out)))
        radius = max(float(np.quantile(unseen, _QUANTILE)), float(np.finfo(np.float32).eps))
        found = dataclasses.replace(found, radius=radius)
        seen = _thinned(observations)
        random = np.random.default_rng(0).uniform(-1, 1, (len(seen), actions.shape[1]))
        return dataclasses.replace(found, untried=float((found.distance(seen, random) > 1).mean()))

    def distance(
        self,
        observations: Float[np.ndarray, "points observation"],
        actions: Float[np.ndarray, "points action"],
    ) -> Float[np.ndarray, " points"]:
        """How far each pair is from the nearest recorded one, in radii; beyond 1 a model of the data guesses.

        Args:
            observations: in the units of the recording, without `alive`.
            actions: normalised to [-1, 1].
        """
        points = np.concatenate([(observations - self._mean) / self._scale, actions], axis=1)
        return self._tree.query(points)[0] / self.radius

    def summary(self) -> dict[str, float]:
        """Radius and untried share."""
        return {"support_radius": self.radius, "untried_actions": self.untried}

    def finding(self) -> str:
        """What it means, in one sentence."""
        return (
            f"At the recorded observations, {100 * self.untried:.0f}% of the range of actions has no data near it "
            f"(within {self.radius:.2g} standard deviations, as 95% of the held-out steps have)."
        )


def _transitions(data: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Observation and normalised action of every step before an episode's end."""
    going = np.arange(data.horizon) < data.lengths[:, None]
    return data.observations[:, :-1][going], data.normalised_actions()[going]


def _thinned(points: np.ndarray) -> np.ndarray:
    return points[:: -(-len(points) // MOST_POINTS)]
