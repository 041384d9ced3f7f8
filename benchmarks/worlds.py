"""What simulators cost, partial observation, and recorded episodes: `worlds.py rate compile partial hidden recorded`.

Whatever is finished is kept in `benchmarks/results/worlds_NAME.json` and not run again; the tables in worlds.md and in
the documentation are written from it.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import asmpg
from asmpg.tasks.host import play, Watched
from asmpg.training.host_loop import HostTrainer
from asmpg.training.loop import Schedule
from asmpg.training.trainer import Trainer
from pages import fill, keep, markdown, stored


# Whose rates are taken, and in how many copies.
PLAYED, COPIES = ("Pendulum-v1", "Reacher-v5"), (1, 3, 10)


def cpu_rate(run: Callable[[], Any], steps: int, repeats: int = 8) -> float:
    """Steps a second of CPU time, the median of several runs after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return steps / float(np.median(times))


def rate_of(name: str, num_seeds: int) -> list[float]:
    """Steps a second in as many copies: of the simulator alone, played without a policy, and explored."""
    import gymnasium

    env = asmpg.from_gymnasium(name)
    env.ends_early = False
    seeds, total = list(range(num_seeds)), num_seeds * env.horizon
    copies = [gymnasium.make(name) for _ in seeds]

    def alone() -> None:
        for copy in copies:
            copy.reset(seed=0)
            for _ in range(env.horizon):
                copy.step(np.zeros(env.action_size, np.float32))

    trainer = HostTrainer(
        asmpg.TrainConfig(env, model="one-step", steps=2000).learner(), Schedule(10, 4, 2, env.horizon), seeds
    )
    keys, simulator = trainer._keys(), Watched(env)
    explorers = trainer._explorer(trainer.init(), keys)

    def explore() -> None:
        actors = trainer._actors(explorers, 1)
        play(simulator, seeds, actors.act, actors.observe)

    own, found = cpu_rate(alone, total), cpu_rate(explore, total)
    still = cpu_rate(
        lambda: play(simulator, seeds, lambda states, step: np.zeros((len(states), env.action_size))), total
    )
    return [round(each) for each in (own, still, found)]


def rate() -> None:
    """The rate of collection outside JAX."""
    for name in PLAYED:
        for copies in COPIES:
            keep("worlds_rate", f"{name}, {copies}", lambda: rate_of(name, copies))  # noqa: B023


def rate_part() -> str:
    """Markdown."""
    found = stored("worlds_rate")
    columns = [found[f"{name}, {copies}"] for name in PLAYED for copies in COPIES]
    rows = [
        (what, *(f"{column[index]:,}" for column in columns))
        for index, what in enumerate(
            (
                "Gymnasium alone",
                "played as in training, without a policy",
                "**explored, the policy in NumPy**",
            )
        )
    ]
    shares = (f"{explored / alone:.2f}" for alone, _, explored in columns)
    heads = (f"{name}, {copies}" for name in PLAYED for copies in COPIES)
    return markdown(("copies", *heads), [*rows, ("its share of Gymnasium's own rate", *shares)])


def compiled(function: Any, *arguments: Any) -> list[float]:
    """Seconds to trace and compile a jitted function, and MiB of its arguments, results and scratch space."""
    begin = time.process_time()
    stats = function.lower(*arguments).compile().memory_analysis()
    seconds = time.process_time() - begin
    total = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return [round(seconds, 1), round(total / 2**20, 1)]


def compile_worlds() -> None:
    """Programs of training beside the environments' own."""
    import brax.envs
    import gymnax

    env, params = gymnax.make("Pendulum-v1")
    pole = brax.envs.get_environment("inverted_pendulum", backend="spring")

    def own_gymnax(key: jax.Array) -> Any:
        def body(state: Any, step: jax.Array) -> tuple[Any, Any]:
            return (after := env.step_env(key, state, jnp.zeros(1), params))[1], after[2]

        return jax.lax.scan(body, env.reset_env(key, params)[1], jnp.arange(50))

    def own_brax(key: jax.Array) -> Any:
        def body(state: Any, step: jax.Array) -> tuple[Any, Any]:
            after = pole.step(state, jnp.zeros(1))
            return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state), after.obs

        return jax.lax.scan(body, pole.reset(key), jnp.arange(50))

    worlds = {
        "gymnax Pendulum-v1": (asmpg.from_gymnax(env, params, 50), own_gymnax),
        "Brax inverted_pendulum (spring backend)": (asmpg.from_brax(pole, 50), own_brax),
    }
    for name, (world, own) in worlds.items():
        own_program = jax.jit(own), jax.random.PRNGKey(0)
        keep("worlds_compile", f"{name}, own", lambda: compiled(*own_program))  # noqa: B023
        for model in ("one-step", "lstm"):
            learner = asmpg.TrainConfig(world, model=model, steps=1000).learner()
            trainer = Trainer(learner, Schedule.create(1000, 500, 500, 50), [0])
            index = jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)
            program = trainer._advance, trainer.shapes, index, index
            keep("worlds_compile", f"{name}, {model}", lambda: compiled(*program))  # noqa: B023


def compile_part() -> str:
    """Markdown."""
    found = stored("worlds_compile")
    worlds = dict.fromkeys(item.rpartition(", ")[0] for item in found)
    lines = [
        (
            world,
            f"{found[f'{world}, own'][0]:.1f} s",
            *("{:.1f} s, {:.1f} MiB".format(*found[f"{world}, {model}"]) for model in ("one-step", "lstm")),
        )
        for world in worlds
    ]
    return markdown(("world", "its own rollout", "training, one-step", "training, LSTM"), lines)


# What is said of it: the task, what is seen of its components, and whether the reward is learned although it is known.
SEEN = {
    "`hiv_treatment`, one of three components": ("hiv_treatment", (0,), False),
    "`hiv_treatment`, all three": ("hiv_treatment", (0, 1, 2), False),
    "`double_pendulum`, the angles and no velocities (learned reward)": ("double_pendulum", (0, 2), True),
}
KINDS = ("one-step", "history-lstm", "lstm")


def partial() -> None:
    """Partial observation: the last scores of three kinds of model, two seeds, H = 20, 2,000 steps."""
    for said, (task, seen, learned) in SEEN.items():
        world = asmpg.observe(asmpg.make(task, 20), seen)
        chosen = {"learned_reward": True} if learned else {}

        def scores(model: str, world: Any = world, chosen: Any = chosen) -> list[float]:
            result = asmpg.train(world, model=model, steps=2000, num_seeds=2, chunk_steps=200, **chosen)
            assert result.scores is not None
            return result.scores.round(4).tolist()

        for model in KINDS:
            keep("worlds_partial", f"{said}: {model}", lambda: scores(model))  # noqa: B023


def partial_part() -> str:
    """Markdown."""
    found = stored("worlds_partial")
    lines = [
        (said, *(", ".join(f"{score:.3f}" for score in found[f"{said}: {model}"]) for model in KINDS))
        for said in SEEN
    ]
    return markdown(("observed", *KINDS), lines)


def hidden() -> None:
    """Pendulum-v1 whose angular velocity is hidden, and random at the start, without a context and with one of 3."""
    import gymnasium

    class Angle(gymnasium.ObservationWrapper):
        """Cosine and sine of the angle alone."""

        def __init__(self) -> None:
            super().__init__(gymnasium.make("Pendulum-v1"))
            self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return observation[:2]

    def returns(model: str, context: int) -> list[list[float]]:
        env = asmpg.from_gymnasium(Angle, 200)
        env.ends_early = False
        config = asmpg.TrainConfig(
            env, model=model, steps=4000, num_seeds=3, chunk_steps=400, observation_context=context
        )
        return asmpg.train(config).metrics["return"][::2].round(1).tolist()

    for context, model in HIDDEN:
        keep("worlds_hidden", f"{model}, {context}", lambda: returns(model, context))  # noqa: B023


HIDDEN = ((0, "one-step"), (0, "lstm"), (3, "one-step"), (3, "lstm"))


def hidden_part() -> str:
    """Markdown."""
    found = stored("worlds_hidden")
    lines = [
        (
            f"{model}, {f'{context} observations and actions' if context else 'none'}",
            *(", ".join(f"{value:.0f}" for value in row) for row in found[f"{model}, {context}"]),
        )
        for context, model in HIDDEN
    ]
    return markdown(("model, context", "800 (warm-up)", "1,600", "2,400", "3,200", "4,000"), lines)


def recorded() -> None:
    """Pendulum-v1 from 40 episodes of a random walk of torques alone, in windows and whole; then acted in, to see."""
    import gymnasium

    env, random = gymnasium.make("Pendulum-v1"), np.random.default_rng(0)
    log: tuple[list[Any], ...] = ([], [], [])
    for seed in range(40):
        observation, torque = env.reset(seed=seed)[0], np.zeros(1)
        episode: tuple[list[Any], ...] = ([observation], [], [])
        for _ in range(200):
            torque = np.clip(0.9 * torque + 0.9 * random.normal(size=1), -2, 2)
            observation, reward, *_ = env.step(torque.astype(np.float32))
            for part, value in zip(episode, (observation, torque, reward), strict=True):
                part.append(value)
        for part, values in zip(log, episode, strict=True):
            part.append(values)
    data = asmpg.Episodes(*log, action_bounds=(-2, 2), name="random torques")

    def returns(window: int, cloning: float, seeds: int) -> dict[str, Any]:
        result = asmpg.train(
            data=data,
            model="one-step",
            steps=6000,
            num_seeds=seeds,
            overrides={"window": window, "cloning": cloning},
        )
        found = result.evaluate(asmpg.from_gymnasium("Pendulum-v1"))
        return {
            "recorded": round(float(data.episode_returns.mean()), 1),
            "returns": np.asarray(found).round(1).tolist(),
            "estimate": round(float(result.returns.mean()), 1),
        }

    for window, cloning, seeds in RECORDED:
        keep("worlds_recorded", f"{window}, {cloning}", lambda: returns(window, cloning, seeds))  # noqa: B023


# Length of a window, weight of `cloning`, seeds.
RECORDED = ((20, 1.0, 3), (20, 0.1, 3), (200, 0.1, 1))


def recorded_part() -> str:
    """Markdown."""
    found, lines = stored("worlds_recorded"), []
    for window, cloning, _ in RECORDED:
        item = found[f"{window}, {cloning}"]
        what = "whole episodes" if window == 200 else f"windows of {window}"
        returns = ", ".join(f"{value:.0f}" for value in item["returns"])
        lines.append((what, f"{cloning:g}", returns, f"{item['estimate']:,.0f}"))
    return markdown(("imagined", "weight of `cloning`", "return", "its estimate from the episodes"), lines)


COMMANDS = {
    "rate": rate,
    "compile": compile_worlds,
    "partial": partial,
    "hidden": hidden,
    "recorded": recorded,
}
PARTS = {
    "rate": ("benchmarks/worlds.md", rate_part),
    "compile": ("benchmarks/worlds.md", compile_part),
    "partial": ("docs/worlds.md", partial_part),
    "hidden": ("benchmarks/worlds.md", hidden_part),
    "recorded": ("benchmarks/worlds.md", recorded_part),
}

if __name__ == "__main__":
    for command in sys.argv[1:]:
        COMMANDS[command]()
        page, part = PARTS[command]
        fill(page, command, part())
