"""What simulators cost: `worlds.py rate|compile|hidden|recorded`, `partial FOLDER TASK`; worlds.md has its lines."""

import pathlib
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


def cpu_rate(run: Callable[[], Any], steps: int, repeats: int = 8) -> float:
    """Steps a second of CPU time, the median of several runs after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return steps / float(np.median(times))


def rate_of(name: str, num_seeds: int) -> str:
    """Collection in as many copies, beside the simulator's own rate."""
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
    return (
        f"{name}, {num_seeds} copies: Gymnasium alone {own:,.0f}, played without a policy {still:,.0f}, "
        f"explored {found:,.0f} steps a second of CPU time; {found / own:.2f} of its own rate"
    )


def rate() -> None:
    """The rate of collection outside JAX."""
    for name in ("Pendulum-v1", "Reacher-v5"):
        for num_seeds in (1, 3, 10):
            print(rate_of(name, num_seeds), flush=True)


def compiled(function: Any, *arguments: Any) -> tuple[float, float]:
    """Seconds to trace and compile a jitted function, and MiB of its arguments, results and scratch space."""
    begin = time.process_time()
    stats = function.lower(*arguments).compile().memory_analysis()
    seconds = time.process_time() - begin
    total = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return seconds, total / 2**20


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
        "Brax inverted_pendulum (spring)": (asmpg.from_brax(pole, 50), own_brax),
    }
    for name, (world, own) in worlds.items():
        print(
            f"{name}, 50 steps: own rollout {shown(compiled(jax.jit(own), jax.random.PRNGKey(0)))}",
            flush=True,
        )
        for model in ("one-step", "lstm"):
            learner = asmpg.TrainConfig(world, model=model, steps=1000).learner()
            trainer = Trainer(learner, Schedule.create(1000, 500, 500, 50), [0])
            index = jax.ShapeDtypeStruct((), jnp.asarray(0).dtype)
            spent = compiled(trainer._advance, trainer.shapes, index, index)
            print(f"  training, {model}: {shown(spent)}", flush=True)


def shown(spent: tuple[float, float]) -> str:
    """Seconds and MiB."""
    return f"{spent[0]:.1f} s of CPU time to compile, {spent[1]:.2f} MiB"


# What is seen of a task, and of how many components in all.
SEEN = {"hiv_treatment": ((0,), 3), "double_pendulum": ((0, 2), 4)}


def partial(folder: str, task: str, reward: str = "known", horizon: str = "20", steps: str = "2000") -> None:
    """Partial observation: scores of three kinds of model, and with everything seen; taken up where it stopped.

    The reward is "known" where it depends on what is seen alone, or always "learned".
    """
    seen, size = SEEN[task]
    env = asmpg.make(task, int(horizon))
    for components in (seen, tuple(range(size))):
        world = asmpg.observe(env, components)
        for model in ("one-step", "history-lstm", "lstm"):
            out = pathlib.Path(folder) / f"{world.name}-{model}-{reward}-{horizon}-{steps}"
            chosen = {"learned_reward": True} if reward == "learned" else {}
            options = {"steps": int(steps), "num_seeds": 2, "chunk_steps": int(steps) // 10, **chosen}
            print(
                f"{world.name} {model}: {told(asmpg.train(world, model=model, out=out, **options))}",
                flush=True,
            )


def hidden(steps: str = "4000") -> None:
    """Pendulum-v1 whose angular velocity is hidden, and random at the start, without a context and with one of 3."""
    import gymnasium

    class Angle(gymnasium.ObservationWrapper):
        """Cosine and sine of the angle alone."""

        def __init__(self) -> None:
            super().__init__(gymnasium.make("Pendulum-v1"))
            self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return observation[:2]

    for context in (0, 3):
        for model in ("one-step", "lstm"):
            env = asmpg.from_gymnasium(Angle, 200)
            env.ends_early = False
            config = asmpg.TrainConfig(
                env, model=model, steps=int(steps), num_seeds=3, chunk_steps=400, observation_context=context
            )
            returns = asmpg.train(config).metrics["return"]
            shown = [", ".join(f"{value:.0f}" for value in row) for row in returns[::2]]
            print(f"context {context}, {model}: {'; '.join(shown)}", flush=True)


def recorded(steps: str = "6000") -> None:
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
    print(f"recorded: {data.episode_returns.mean():.0f}")
    for window, cloning, seeds in ((20, 1.0, 3), (20, 0.1, 3), (200, 0.1, 1)):
        result = asmpg.train(
            data=data,
            model="one-step",
            steps=int(steps),
            num_seeds=seeds,
            overrides={"window": window, "cloning": cloning},
        )
        returns = ", ".join(f"{value:.0f}" for value in result.evaluate(asmpg.from_gymnasium("Pendulum-v1")))
        print(
            f"windows of {window}, cloning {cloning}: {returns}; estimated {result.returns.mean():.0f}",
            flush=True,
        )


def told(result: asmpg.Result) -> str:
    """Scores at the end and of the best records, and the last losses on the policy's own episodes, one a seed."""
    metrics, scores = result.metrics, result.scores
    assert scores is not None
    numbers = {
        "scores": scores,
        "best records": metrics["score"].max(axis=0),
        "model loss": metrics["model_loss_on_policy"][-1],
        "reward loss": metrics["reward_loss_on_policy"][-1],
    }
    return "; ".join(
        f"{name} {', '.join(f'{value:.3g}' for value in values)}" for name, values in numbers.items()
    )


if __name__ == "__main__":
    commands = {
        "rate": rate,
        "compile": compile_worlds,
        "partial": partial,
        "hidden": hidden,
        "recorded": recorded,
    }
    commands[sys.argv[1]](*sys.argv[2:])
