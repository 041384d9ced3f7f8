"""Our soft actor-critic beside Stable-Baselines3's on Gymnasium's Pendulum-v1, at the same settings.

Needs an environment of its own, since PyTorch and Stable-Baselines3 are no dependencies of the project:

    python -m venv reference-env
    reference-env/bin/pip install '.[plot]' gymnasium stable-baselines3 torch
    python benchmarks/sac_reference.py --interpreter reference-env/bin/python

Both start with the same number of uniformly random episodes, make one update of every kind per environment step, and
are scored by the mean return of ten episodes of the deterministic policy from the same ten starts. Theirs updates after
every step, ours after every episode, 200 updates at once, as our loop does. Pendulum's episodes are cut off by a time
limit, so that values are bootstrapped beyond their last step, and time is not observed. Ours sees states normalised by
the random episodes. Writes `benchmarks/results/sac_reference.json` and `.png`.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pages import fill, markdown, replace


RESULTS = pathlib.Path(__file__).parent / "results" / "sac_reference"
SOURCES = pathlib.Path(__file__).resolve().parent.parent / "src"
TASK, HORIZON, TORQUE = "Pendulum-v1", 200, 2.0
RANDOM_EPISODES, EVALUATION_EPISODES = 5, 10
SHARED = {"learning_rate": 1e-3, "batch_size": 256, "discount": 0.99, "target_rate": 0.005}


def mean_return(act: Callable[[np.ndarray], np.ndarray]) -> float:
    """Of a deterministic policy, actions within [-1, 1]."""
    import gymnasium

    env, total = gymnasium.make(TASK), 0.0
    for seed in range(EVALUATION_EPISODES):
        state, _ = env.reset(seed=10_000 + seed)
        for _ in range(HORIZON):
            state, reward, *_ = env.step(TORQUE * act(state))
            total += float(reward)
    return total / EVALUATION_EPISODES


def play(env: Any, act: Callable[[np.ndarray], np.ndarray], seed: int | None) -> tuple[np.ndarray, ...]:
    """States, actions and rewards of one whole episode."""
    state, _ = env.reset(seed=seed)
    states, actions, rewards = [state], [], []
    for step in range(HORIZON):
        actions.append(act(state))
        state, reward, terminated, truncated, _ = env.step(TORQUE * actions[-1])
        assert not terminated and truncated == (step == HORIZON - 1), "a time limit and no end"
        states.append(state)
        rewards.append(reward)
    return tuple(np.asarray(x, np.float32) for x in (states, actions, rewards))


def make_learner() -> Any:
    """Ours, for a task of these sizes whose transitions come from elsewhere."""
    import dataclasses

    import jax.numpy as jnp

    from asmpg.learners.sac import SoftActorCritic, SoftActorCriticSettings
    from asmpg.tasks.environment import AbstractEnvironment

    class Shell(AbstractEnvironment):
        """Sizes only."""

        horizon: int = HORIZON
        name: str = TASK
        state_size: int = 3
        action_size: int = 1

        def initial_state(self, *, key: Any = None) -> Any:
            return jnp.zeros(3)

        def transition(self, state: Any, action: Any, step: Any) -> Any:
            return state

        def reward(self, state: Any, action: Any, step: Any) -> Any:
            return jnp.zeros(())

    settings = dataclasses.replace(
        SoftActorCriticSettings.default(HORIZON),
        critic_learning_rate=SHARED["learning_rate"],
        policy_learning_rate=SHARED["learning_rate"],
        temperature_learning_rate=SHARED["learning_rate"],
        batch_size=SHARED["batch_size"],
        discount=SHARED["discount"],
        target_rate=SHARED["target_rate"],
        critic_update_every=1,
        policy_update_every=1,
        temperature=1.0,
        target_entropy=-1.0,
        normalise_return=False,
        gradient_clip=1e9,
        learning_rate_decay=0,
    )
    return SoftActorCritic(Shell(), settings, ends=False)


def run_ours(steps: int, seed: int) -> list[float]:
    """The mean returns after the random episodes and after every 1000 steps from then on."""
    import equinox as eqx
    import gymnasium
    import jax
    import jax.numpy as jnp

    from asmpg.core.loops import loop
    from asmpg.core.types import Trajectory
    from asmpg.learners.replay import ReplayBuffer
    from asmpg.models.normalisation import Normaliser

    learner, env = make_learner(), gymnasium.make(TASK)
    replay = ReplayBuffer.create(learner.env, steps // HORIZON)
    random = np.random.default_rng(seed)
    episodes = [
        play(env, lambda _: random.uniform(-1, 1, 1), seed if index == 0 else None)
        for index in range(RANDOM_EPISODES)
    ]
    add = eqx.filter_jit(lambda replay, episode: replay.add(episode))
    for episode in episodes:
        replay = add(replay, Trajectory(*map(jnp.asarray, episode)))
    state = eqx.filter_jit(learner.init)(Normaliser.unknown(3), key=jax.random.key(seed))
    state = learner.observe_warmup(state, Trajectory(*(jnp.stack(x) for x in zip(*episodes, strict=True))))

    @eqx.filter_jit
    def update(state: Any, replay: ReplayBuffer, key: Any) -> Any:
        def body(step: Any, state: Any) -> Any:
            return learner.update(state, replay, step + 1, key=jax.random.fold_in(key, step))

        return loop(0, HORIZON, body, state)

    # Time is not observed: every step is step 0.
    sample = eqx.filter_jit(lambda policy, state, noise: policy.act(None, state, 0, noise))
    mode = eqx.filter_jit(lambda policy, state: policy.act(None, state, 0))
    returns = [mean_return(lambda s: np.asarray(mode(state.policy, s)))]
    for episode in range(RANDOM_EPISODES, steps // HORIZON):

        def act(observed: np.ndarray, policy: Any = state.policy) -> np.ndarray:
            return np.asarray(sample(policy, observed, random.standard_normal(1).astype(np.float32)))

        replay = add(replay, Trajectory(*map(jnp.asarray, play(env, act, None))))
        state = update(state, replay, jax.random.fold_in(jax.random.key(seed), episode))
        if (episode + 1) * HORIZON % 1000 == 0:
            policy = state.policy
            returns.append(mean_return(lambda s, policy=policy: np.asarray(mode(policy, s))))
    return returns


def run_theirs(steps: int, seed: int) -> list[float]:
    """The same of Stable-Baselines3."""
    import torch  # pyright: ignore[reportMissingImports]
    from stable_baselines3 import SAC  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    model = SAC(
        "MlpPolicy",
        TASK,
        learning_rate=SHARED["learning_rate"],
        batch_size=SHARED["batch_size"],
        gamma=SHARED["discount"],
        tau=SHARED["target_rate"],
        learning_starts=RANDOM_EPISODES * HORIZON,
        policy_kwargs={"net_arch": {"pi": [64, 64], "qf": [256, 256]}},
        seed=seed,
        device="cpu",
    )

    def act(state: np.ndarray) -> np.ndarray:
        return model.predict(state, deterministic=True)[0] / TORQUE

    returns = []
    for done in range(1000, steps + 1, 1000):
        model.learn(1000, reset_num_timesteps=done == 1000)
        returns.append(mean_return(act))
    return returns


def draw(content: dict[str, Any]) -> None:
    """Both curves, every seed a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 3.6), layout="constrained")
    labels = {"ours": ("asmpg", "#1f6fb4"), "theirs": ("Stable-Baselines3", "#d1662b")}
    for name, (label, colour) in labels.items():
        for index, returns in enumerate(content[name]):
            steps = 1000 * np.arange(1, len(returns) + 1)
            panel.plot(steps, returns, color=colour, linewidth=1.4, label=label if index == 0 else None)
    panel.set_xlabel("environment steps")
    panel.set_ylabel("mean return of ten episodes")
    panel.set_title(f"Soft actor-critic on {TASK}, {len(content['ours'])} seed(s) each", fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.savefig(RESULTS.with_suffix(".png"), dpi=140)
    plt.close(figure)


def part() -> str:
    """Markdown: returns of both, one number a seed."""
    content = json.loads(RESULTS.with_suffix(".json").read_text())
    marks = (1, 2, 3, 4, 6, 10)
    lines = [
        (said, *(", ".join(f"{row[mark - 1]:,.0f}" for row in content[name]) for mark in marks))
        for said, name in (("asmpg", "ours"), ("Stable-Baselines3", "theirs"))
    ]
    return markdown(("steps", *(f"{mark},000" for mark in marks)), lines)


def main() -> None:
    """Runs both and writes the results beside their place, then renames them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--interpreter", help="of the environment to run in; by default this one")
    arguments = parser.parse_args()
    if arguments.interpreter:
        # This checkout's package, whatever is installed there.
        path = os.pathsep.join([str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])
        line = [
            arguments.interpreter,
            __file__,
            "--steps",
            str(arguments.steps),
            "--seeds",
            str(arguments.seeds),
        ]
        sys.exit(subprocess.run(line, env=os.environ | {"PYTHONPATH": path}, check=False).returncode)
    packages = ("jax", "stable-baselines3", "torch", "gymnasium")
    content: dict[str, Any] = {
        "task": TASK,
        "steps": arguments.steps,
        "settings": SHARED,
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    for name, run in (("ours", run_ours), ("theirs", run_theirs)):
        start = time.perf_counter()
        content[name] = []
        for seed in range(arguments.seeds):
            content[name].append([round(value, 2) for value in run(arguments.steps, seed)])
            print(name, seed, content[name][-1], flush=True)
        content[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
    replace(RESULTS.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    fill("docs/methods.md", "sac-reference", part())
    draw(content)


if __name__ == "__main__":
    main()
