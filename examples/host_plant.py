"""A plant that is not written in JAX: a cart that bounces off a wall, in plain NumPy; twenty episodes are enough.

Nothing is known of it but what the episodes show: a model of its dynamics and one of its reward are learned.
"""

import numpy as np

import asmpg


class Cart(asmpg.HostEnvironment):
    """Pushed from 0, it is to stand at 0.8; the wall at 1 throws it back, with half of its speed."""

    horizon = 20
    observation_size = 2  # position and velocity
    action_size = 1
    ends_early = False
    fixed_start = True

    def reset(self, seeds):
        self.position, self.velocity = np.zeros((2, len(seeds)))
        return np.stack([self.position, self.velocity], axis=1)

    def step(self, actions):
        velocity = 0.9 * self.velocity + 0.3 * actions[:, 0]
        position = self.position + 0.2 * velocity
        bounced = position > 1.0
        self.position = np.where(bounced, 2.0 - position, position)
        self.velocity = np.where(bounced, -0.5 * velocity, velocity)
        rewards = -((self.position - 0.8) ** 2)
        observations = np.stack([self.position, self.velocity], axis=1)
        return observations, rewards, np.zeros(len(actions), bool)


def main(steps=400, num_seeds=2, model="one-step"):
    result = asmpg.train(
        asmpg.TrainConfig(
            Cart(),
            model=model,
            steps=steps,
            num_seeds=num_seeds,
            chunk_steps=100,
            overrides={"warmup_steps": 100},
        )
    )
    for steps, returns in zip(result.metrics["simulated_steps"][:, 0], result.metrics["return"], strict=True):
        print(f"after {steps:.0f} simulated steps: {np.round(returns, 2)}")
    return result


if __name__ == "__main__":
    main()
