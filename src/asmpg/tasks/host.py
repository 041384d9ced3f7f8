"""Worlds outside JAX: what a simulator in plain Python says, and whole episodes played in several copies of it."""

import abc
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ..core.digest import digest, settled
from ..core.types import one_line, Trajectory, UsageError, vector_text


Result = TypeVar("Result")
OfWorld = TypeVar("OfWorld", bound="HostEnvironment")

# Seeds of the evaluation episodes begin here; those of training episodes are spread over 31 bits.
FIRST_EVALUATION_SEED = 10_000
# Called for a handful of numbers at every step, where it takes a quarter of the time of `any` and `all`.
count_nonzero = np.count_nonzero
# Of JAX, whose stubs lack it.
_PRECISION = "jax_default_matmul_precision"


class HostEnvironment(abc.ABC):
    """A simulator outside JAX, several copies at once: one for each seed of a run, or for each evaluated episode.

    A subclass declares the four sizes, as class or instance attributes, and writes `reset` and `step`. Nothing is
    known of its dynamics or its reward but what the episodes show, so the reward is learned unless `known_reward` says
    what it is. What needs the task's own derivatives or its optimum is refused.

    Attributes:
        name: short name; by default that of the class.
        horizon: number of actions in an episode.
        observation_size: number of components of an observation.
        action_size: number of components of an action; each is in [-1, 1], and the simulator maps it to its own units.
        ends_early: whether an episode may end before the horizon. Networks then see one more component, `alive`: 1, and
            0 once the episode has ended; the last observation stays and rewards are 0.
        num_evaluations: episodes that a policy is evaluated on at each record, the same for all.
        fixed_start: whether every episode begins in the same state.
        time_limit: seconds that one call of `reset` or `step` may take.
        known_reward: a method `known_reward(observation, action, step)` in JAX that gives the reward of a step, where
            that depends on nothing else; imagination then uses it, and no reward is learned.
        made_from: a hash of the arguments it was made from.
    """

    name: str
    horizon: int
    observation_size: int
    action_size: int
    ends_early: bool = True
    fixed_start: bool = False
    num_evaluations: int = 10
    time_limit: float = 60.0
    known_reward: Callable[..., Any] | None = None
    made_from: str = ""

    def __init_subclass__(cls, **arguments: object):
        """Names the class; `state_size`, if that is what a subclass declares, is the size of an observation."""
        super().__init_subclass__(**arguments)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()
        declared = cls.__dict__.get("state_size")
        if declared is not None:
            cls.observation_size = declared
            delattr(cls, "state_size")

    def __new__(cls: type[OfWorld], *arguments: object, **options: object) -> OfWorld:
        """Keeps a hash of what it is made from, which with its code tells it from another of its class."""
        world = object.__new__(cls)
        world.made_from = digest(settled([arguments, options]))
        return world

    @property
    def state_size(self) -> int:
        """Components that networks see: the observation's and, where episodes end early, `alive`."""
        return self.observation_size + bool(self.ends_early)

    @state_size.setter
    def state_size(self, size: int) -> None:
        self.observation_size = size

    @abc.abstractmethod
    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "copies observation"]:
        """Begins an episode in as many copies as there are seeds, each with the randomness of its seed alone."""

    @abc.abstractmethod
    def step(
        self, actions: Float[np.ndarray, "copies action"]
    ) -> tuple[Float[np.ndarray, "copies observation"], Float[np.ndarray, " copies"], Any]:
        """Observations, rewards and whether the episode has ended there, of every copy of the last `reset`.

        A copy whose episode has ended goes on getting actions, zeros, and what it returns is ignored. An episode that
        is only cut off at the horizon has not ended.
        """

    def close(self) -> None:  # noqa: B027 (there may be nothing to free)
        """Frees what the simulator holds; called once, at the end."""

    # What a world that adds something to the observations of another one says: whose answers are watched, and what
    # networks see of them.

    @property
    def _simulator(self) -> "HostEnvironment":
        return self

    def _first_seen(self, observations: np.ndarray) -> np.ndarray:
        return observations

    def _next_seen(self, actions: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return observations

    def identity(self) -> None:  # noqa: B027 (always so)
        """Nothing is kept on disk about a world of one's own."""


def check_world(env: HostEnvironment) -> None:
    """Checks what a world declares.

    Raises:
        UsageError: one line that names the attribute.
    """
    least = {"horizon": 2, "observation_size": 1, "action_size": 1, "num_evaluations": 1}
    for attribute, smallest in least.items():
        size = getattr(env, attribute, None)
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < smallest:
            raise UsageError(f"{attribute} of {env.name}: must be an integer >= {smallest}, got {size!r}")
    if not isinstance(env.time_limit, int | float) or not env.time_limit > 0:
        raise UsageError(f"time_limit of {env.name}: must be a number > 0, got {env.time_limit!r}")


def episode_seed(seed: int, index: int) -> int:
    """The simulator's seed for the episode of this index of a run's seed."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)


def evaluation_seeds(env: HostEnvironment) -> list[int]:
    """Seeds of the fixed episodes on which every policy is evaluated."""
    return list(range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + env.num_evaluations))


@final
class Watched:
    """A simulator whose calls raise a `UsageError` if they fail, hang or return something else than they must.

    It is called in one thread beside the caller's, which is left behind if it hangs.
    """

    def __init__(self, env: HostEnvironment):
        """Watches a simulator; calls nothing yet."""
        self.env = env
        self._thread: threading.Thread | None = None
        self._seeds: list[int] = []
        # Of the call under way: when it began, the step (None for a reset), and whose episodes are over.
        self._began: float | None = None
        self._step: int | None = None
        self._over = np.zeros(0, bool)

    def run(self, work: Callable[[], Result]) -> Result:
        """Does something with the simulator in the thread beside this one, with this one's precision.

        Raises:
            UsageError: a call of the simulator took longer than its time limit.
        """
        if self._thread is None:
            self._works, self._results = queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()
            arguments = (self._works, self._results)
            self._thread = threading.Thread(
                target=_work, args=arguments, daemon=True, name=f"simulator {self.env.name}"
            )
            self._thread.start()
        self._works.put((work, jax.config.read("jax_enable_x64"), getattr(jax.config, _PRECISION)))
        while True:
            began = self._began
            elapsed = 0.0 if began is None else time.monotonic() - began
            try:
                result, error = self._results.get(timeout=max(self.env.time_limit - elapsed, 0.001))
                break
            except queue.Empty:
                if began is not None and began == self._began:
                    self._thread = None
                    limit = f"{self.env.time_limit:g} s (time_limit)"
                    raise UsageError(f"{self._place()}: no answer within {limit}") from None
        if error is not None:
            raise error
        return result

    def _call(self, function: Callable[[Any], Any], argument: object) -> Any:
        self._began = time.monotonic()
        try:
            return function(argument)
        except UsageError:  # it says itself what is wrong
            raise
        except BaseException as error:  # whatever a simulator raises, its caller is told
            raise UsageError(f"{self._place()}: raised {one_line(error)}") from error
        finally:
            self._began = None

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "copies observation"]:
        """First observations, in single precision.

        Raises:
            UsageError: one line that names the simulator, the step and the seed.
        """
        self._seeds, self._step, self._over = list(seeds), None, np.zeros(len(seeds), bool)
        simulator = self.env._simulator
        answer = self._call(simulator.reset, self._seeds)
        shape = (len(seeds), simulator.observation_size)
        return self.env._first_seen(self._array(answer, shape, "observations"))

    def step(
        self, actions: Float[np.ndarray, "copies action"], step: int, over: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards and ends; `over` says whose episode has ended before, of which nothing is checked.

        Raises:
            UsageError: one line that names the simulator, the step and the seed.
        """
        self._step, self._over = step, over
        simulator = self.env._simulator
        answer = self._call(simulator.step, actions)
        if not isinstance(answer, tuple | list) or len(answer) != 3:
            wanted = "must return observations, rewards, terminated"
            raise UsageError(f"{self._place()}: {wanted}, got {type(answer).__name__}")
        number = len(self._seeds)
        observations = self._array(answer[0], (number, simulator.observation_size), "observations")
        rewards = self._array(answer[1], (number,), "rewards")
        ended = np.asarray(answer[2])
        if ended.shape != (number,) or ended.dtype.kind not in "biu":
            got = f"got shape {ended.shape}, dtype {ended.dtype}"
            raise UsageError(f"{self._place()}: terminated must be truth values of shape {(number,)}, {got}")
        if count_nonzero(ended):
            ended = ended.astype(bool) & ~over
            if not self.env.ends_early and ended.any():
                raise UsageError(f"{self._place()}: the episode ended, but ends_early is False")
        return self.env._next_seen(actions, observations), rewards, ended

    def _place(self, seed: int | None = None) -> str:
        """The call under way: of one seed, or of all whose episodes go on."""
        seeds = [own for own, over in zip(self._seeds, self._over, strict=False) if not over]
        shown = ", ".join(map(str, seeds[:3])) + (", ..." if len(seeds) > 3 else "")
        call = "reset" if self._step is None else "step"
        at = "" if self._step is None else f", at step {self._step}"
        return f"{call} of {self.env.name}{at} (seed {shown if seed is None else seed})"

    def _array(self, value: object, shape: tuple[int, ...], what: str) -> np.ndarray:
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self._place()}: {what} must be numbers, got {one_line(error)}") from error
        if array.shape != shape:
            raise UsageError(f"{self._place()}: {what} must have shape {shape}, got {array.shape}")
        finite = np.isfinite(array)
        if count_nonzero(finite) < array.size:
            for i in np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1) & ~self._over):
                numbers = vector_text(array[i : i + 1])
                raise UsageError(f"{self._place(self._seeds[i])}: {what} must be finite, got {numbers}")
        return array

    def close(self) -> None:
        """Ends the thread and closes the simulator, if it does not hang."""
        if self._thread is not None:
            self.run(lambda: self._call(lambda _: self.env.close(), None))
            self._works.put(None)
            self._thread = None


def _work(works: queue.SimpleQueue[Any], results: queue.SimpleQueue[Any]) -> None:
    """What the thread of a simulator does; precision is a setting of each thread."""
    while (given := works.get()) is not None:
        work, double_precision, matmul = given
        try:
            with jax.enable_x64(double_precision), jax.default_matmul_precision(matmul):
                results.put((work(), None))
        except BaseException as error:  # whatever it is, the other thread raises it
            results.put((None, error))


Act = Callable[[Float[np.ndarray, "copies state"], int], Float[np.ndarray, "copies action"]]
Observe = Callable[[np.ndarray, int, np.ndarray, np.ndarray], None]


def play(
    simulator: Watched, seeds: Sequence[int], act: Act, observe: Observe | None = None
) -> tuple[Trajectory, Int[np.ndarray, " copies"]]:
    """One episode in as many copies as there are seeds.

    Args:
        simulator: the world.
        seeds: the simulator's, one a copy.
        act: from what networks see, `alive` included, and the step to all actions.
        observe: is told states, step, actions and rewards after every step.

    Returns:
        The episodes along a leading axis, padded where they ended early, and how many steps each really had.

    Raises:
        UsageError: the simulator fails; one line that names the step and the seed.
    """
    return simulator.run(lambda: _play(simulator, seeds, act, observe))


def _play(
    simulator: Watched, seeds: Sequence[int], act: Act, observe: Observe | None
) -> tuple[Trajectory, Int[np.ndarray, " copies"]]:
    env, number, size = simulator.env, len(seeds), simulator.env.observation_size
    states = np.zeros((number, env.horizon + 1, env.state_size), np.float32)
    actions = np.zeros((number, env.horizon, env.action_size), np.float32)
    rewards = np.zeros((number, env.horizon), np.float32)
    over, lengths = np.zeros(number, bool), np.full(number, env.horizon, np.int32)
    states[:, 0, :size] = simulator.reset(seeds)
    states[:, :, size:] = 1.0
    some_over = False
    for step in range(env.horizon):
        actions[:, step] = np.minimum(np.maximum(act(states[:, step], step), -1.0), 1.0)
        if some_over:
            actions[over, step] = 0.0
        states[:, step + 1, :size], rewards[:, step], ended = simulator.step(actions[:, step], step, over)
        if some_over:
            states[over, step + 1], rewards[over, step] = states[over, step], 0.0
        if count_nonzero(ended):
            some_over, over = True, over | ended
            lengths[ended] = step + 1
            states[ended, step + 1, size:] = 0.0
        if observe is not None:
            observe(states[:, step], step, actions[:, step], rewards[:, step])
        if some_over and over.all():
            states[:, step + 2 :] = states[:, step + 1 : step + 2]
            break
    return Trajectory(*map(jnp.asarray, (states, actions, rewards))), lengths
