"""A backbone of your own: leaky averages of what came in, each with a memory of its own length.

The same from the command line: `asmpg train harvest --horizon 25 --model examples/custom_backbone.py:LeakyAverages`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import asmpg
from asmpg.models.backbones import scan_step


class LeakyAverages(asmpg.AbstractBackbone):
    """`h' = keep h + (1 - keep) W x`, output `tanh(V h + U x)`: causal, since every output reads h and x only."""

    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    keep: jax.Array
    write: eqx.nn.Linear
    read: eqx.nn.Linear

    @classmethod
    def create(cls, input_size, horizon, *, dropout=0.0, key):
        write_key, read_key = jax.random.split(key)
        memories = jnp.geomspace(1.0, horizon, 64)
        write = eqx.nn.Linear(input_size, 64, key=write_key)
        read = eqx.nn.Linear(64 + input_size, 64, key=read_key)
        return cls(input_size, 64, jnp.exp(-1.0 / memories), write, read)

    def init(self):
        return jnp.zeros(64)

    def step(self, carry, x):
        carry = self.keep * carry + (1.0 - self.keep) * self.write(x)
        return carry, jnp.tanh(self.read(jnp.concatenate([carry, x])))

    def predict(self, xs, *, key=None):
        return scan_step(self, xs)  # any faster way to the same numbers may stand here


def main(steps: int = 3000, num_seeds: int = 2):
    # A file and a name, as on the command line: every seed then draws parameters of its own.
    config = asmpg.TrainConfig(
        "harvest", horizon=25, model=f"{__file__}:LeakyAverages", steps=steps, num_seeds=num_seeds
    )
    result = asmpg.train(config, progress=True)
    print("scores", result.scores)
    return result


if __name__ == "__main__":
    main()
