"""`model="auto"`: a one-step model or an action-sequence model, decided on the episodes of the warm-up."""

import dataclasses

import equinox as eqx
import jax
import numpy as np

from ..core.precision import using
from ..tasks.data import Episodes
from ..tasks.host import HostEnvironment
from ..tasks.recording import Recording
from .config import TrainConfig
from .fit import Fit, fit
from .loop import init_seed, Schedule


AUTO = "auto"
ONE_STEP, SEQUENCE = "one-step", "lstm"
# Updates of each model before they are compared: the better one is plain by then, on the tasks of docs/when.md.
NUM_UPDATES = 300
# Of the sequence model's error: where both predict alike, the one-step model needs four times the steps on one task.
SHARE = 0.25
# Of the one-step model's gradient over the whole horizon. On smooth tasks it grows less than a thousandfold.
LARGEST_GROWTH = 1e4


@dataclasses.dataclass(frozen=True)
class Choice:
    """A model, and why.

    Attributes:
        model: its name.
        reason: one line.
    """

    model: str
    reason: str


def choose_model(config: TrainConfig) -> Choice:
    """Fits both models on the warm-up episodes of the first seed, which are the same for both, and compares them.

    The sequence model needs about as few steps where both work, and fewer where only it does. The one-step model is
    cheaper, and taken where it predicts held-out episodes much better, free running over the whole horizon, and
    its gradient does not explode on the way. No step is simulated that the run
    itself does not make. Of recorded episodes alone, those are taken.
    """
    given = dataclasses.replace(config, model=ONE_STEP).checked()
    if isinstance(given.world(), HostEnvironment):
        return Choice(ONE_STEP, "outside JAX short windows are imagined, over which its gradient is safe")
    alone = given.resolve().data if isinstance(given.world(), Recording) else None
    with using(given.precision):
        data = alone if isinstance(alone, Episodes) else _warmup_episodes(given)
        held_out = max(1, len(data) // 4)
        fits = [
            fit(data, name, NUM_UPDATES, seed=given.seed, held_out=held_out, preset=given.preset)
            for name in (ONE_STEP, SEQUENCE)
        ]
    return compare(*fits)


def compare(one_step: Fit, sequence: Fit) -> Choice:
    """The one-step model where it predicts much better and its gradient does not explode."""
    errors = [float(np.mean(each.error)) for each in (one_step, sequence)]
    known = f"held-out error over {one_step.data.horizon} steps {errors[0]:.3g}, {SEQUENCE} {errors[1]:.3g}"
    if not errors[0] <= SHARE * errors[1]:
        return Choice(SEQUENCE, f"the one-step model's {known}")
    if isinstance(one_step.growth, str):
        return Choice(
            SEQUENCE, f"the growth of the one-step model's gradient is not known: {one_step.growth}"
        )
    growth = one_step.growth.eta**one_step.data.horizon
    if growth > LARGEST_GROWTH:
        return Choice(SEQUENCE, f"the one-step model's gradient grows {growth:.1g}-fold over the horizon")
    return Choice(ONE_STEP, f"its {known}; its gradient changes {growth:.2g}-fold over the horizon")


def _warmup_episodes(config: TrainConfig) -> Episodes:
    """Those that the run's first seed begins with."""
    learner, settings = config.learner(), config.settings()
    schedule = Schedule.create(settings.warmup_steps, settings.warmup_steps, 1, config.horizon)
    key = jax.random.key(config.seed)
    episodes = eqx.filter_jit(
        lambda key: init_seed(learner, schedule, schedule.warmup_episodes, key).replay.episodes
    )(key)
    arrays = (np.asarray(each) for each in (episodes.states, episodes.actions, episodes.rewards))
    return Episodes(*arrays, name=f"the warm-up of {config.world().name}")
