"""Which of two untrained models carries a gradient from the last state back to the first action?

An action-sequence model is a function of the actions alone, so that the gradient of its last state is that of its
backbone; the one-step model is unrolled.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import asmpg


def reach(env, make_model, num_models: int):
    """The mean size of the gradient of the last state for every action [horizon], over models with random weights."""
    start = env.initial_state()
    actions = jnp.zeros((env.horizon, env.action_size))

    def size(key):
        model = make_model(key=key)
        grads = jax.grad(lambda actions: model.predict(start, actions)[-1].sum())(actions)
        return jnp.linalg.norm(grads, axis=-1)

    keys = jax.random.split(jax.random.key(0), num_models)
    return eqx.filter_jit(eqx.filter_vmap(size))(keys).mean(axis=0)


def main(horizon: int = 100, num_models: int = 8):
    env = asmpg.make("credit_assignment", horizon=horizon)
    makers = {
        "rnn": lambda *, key: asmpg.ActionSequenceModel(env, backbone="rnn", key=key),
        "lstm": lambda *, key: asmpg.ActionSequenceModel(env, backbone="lstm", key=key),
        "transformer": lambda *, key: asmpg.ActionSequenceModel(env, backbone="transformer", key=key),
        "one-step": lambda *, key: asmpg.OneStepModel(env, key=key),
    }
    ratios = {}
    for name, make_model in makers.items():
        sizes = reach(env, make_model, num_models)
        ratios[name] = float(sizes[0] / sizes[-1])
        print(f"{name:12} first action {sizes[0]:.2e}, last action {sizes[-1]:.2e}, ratio {ratios[name]:.2e}")
    return ratios


if __name__ == "__main__":
    main()
