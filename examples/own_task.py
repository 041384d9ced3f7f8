"""A task of your own: a cart to be brought to rest. Its optimum, and a policy trained through an LSTM model of it.

The same from the command line: `asmpg train examples/own_task.py:Cart --model lstm --steps 3000 --optimum`.
"""

import jax.numpy as jnp

import asmpg


class Cart(asmpg.AbstractEnvironment):
    """Position and velocity, pushed with a force of at most 1 and paid for being at rest at the origin."""

    horizon: int = 30
    name: str = "cart"
    state_size: int = 2
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.array([1.0, 0.0])

    def transition(self, state, action, step):
        position, velocity = state
        return jnp.stack([position + 0.2 * velocity, velocity + 0.2 * action[0]])

    def reward(self, state, action, step):
        return -(state[0] ** 2 + 0.1 * action[0] ** 2) / self.horizon

    def terminal_reward(self, state):
        return -jnp.sum(state**2)


def main(steps: int = 3000, num_seeds: int = 2):
    cart = Cart()
    solution = asmpg.optimal(cart)
    print(
        f"optimum {solution.episode_return:.4f}, random {asmpg.random_return(cart):.4f}; {solution.message}"
    )
    config = asmpg.TrainConfig(cart, model="lstm", steps=steps, num_seeds=num_seeds, optimum=True)
    result = asmpg.train(config, progress=True)
    print("scores", result.scores)
    return result


if __name__ == "__main__":
    main()
