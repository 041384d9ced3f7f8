"""Train on a plant written in JAX, export the policy, and run it in the same plant of Gymnasium."""

import pathlib
import tempfile

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import asmpg


class Pendulum(asmpg.AbstractEnvironment):
    """Gymnasium's Pendulum-v1: the observation is (cos, sin, velocity), the action a torque of up to 2."""

    horizon: int = 200
    name: str = "pendulum"
    state_size: int = 3
    action_size: int = 1
    action_low = property(lambda self: np.array([-2.0]))  # of an exported policy's actions
    action_high = property(lambda self: np.array([2.0]))

    def initial_state(self, *, key=None):
        low, high = jnp.array([-jnp.pi, -1.0]), jnp.array([jnp.pi, 1.0])
        key = jax.random.key(0) if key is None else key
        angle, velocity = jax.random.uniform(key, (2,), minval=low, maxval=high)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity])

    def transition(self, state, action, step):
        angle = jnp.arctan2(state[1], state[0])
        velocity = jnp.clip(state[2] + 0.05 * (15 * state[1] + 6 * action[0]), -8, 8)
        angle = angle + 0.05 * velocity
        return jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity])

    def reward(self, state, action, step):
        angle = jnp.arctan2(state[1], state[0])
        return -(angle**2 + 0.1 * state[2] ** 2 + 0.001 * (2 * action[0]) ** 2)


def main(steps=10_000, num_episodes=10):
    result = asmpg.train(asmpg.TrainConfig(task=Pendulum(), model="one-step", steps=steps), progress=True)
    with tempfile.TemporaryDirectory() as folder:
        policy = asmpg.load_policy(result.export(pathlib.Path(folder) / "policy.npz"))
    env, returns = gymnasium.make("Pendulum-v1"), []
    for seed in range(num_episodes):
        observation, _ = env.reset(seed=seed)
        policy.reset()
        total, ended, cut = 0.0, False, False
        while not (ended or cut):
            observation, reward, ended, cut, _ = env.step(policy.predict(observation))
            total += float(reward)
        returns.append(total)
    print(f"in JAX {result.returns.mean():.0f}, in Gymnasium {np.mean(returns):.0f}")
    return result, returns


if __name__ == "__main__":
    main()
