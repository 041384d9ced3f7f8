"""Frozen statistics: what they are, that they invert, that no gradient reaches them."""

import jax
import jax.numpy as jnp
import numpy as np

from asmpg.models.normalisation import FLOOR, Normaliser
from asmpg.tasks.environment import rollout
from toys import bits, Drift


def random_states(scale: float = 1.0) -> jax.Array:
    states = np.random.default_rng(0).normal(size=(5, 8, 3)).cumsum(axis=1) * [
        scale,
        3.0 * scale,
        0.1 * scale,
    ]
    return jnp.asarray(states + np.array([10.0, -5.0, 0.0]), float)


def test_statistics_are_those_of_the_states(x64):
    states = random_states()
    normaliser = Normaliser.from_states(states)
    flat = np.asarray(states).reshape(-1, 3)
    np.testing.assert_allclose(normaliser.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(normaliser.scale, flat.std(axis=0), rtol=1e-12)
    differences = np.diff(np.asarray(states), axis=1).reshape(-1, 3)
    np.testing.assert_allclose(
        normaliser.difference_scale, np.sqrt((differences**2).mean(axis=0)), rtol=1e-12
    )
    normalised = np.asarray(normaliser.normalise(states)).reshape(-1, 3)
    np.testing.assert_allclose(normalised.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(normalised.std(axis=0), 1.0, rtol=1e-12)


def test_both_pairs_invert_each_other(x64):
    states = random_states()
    normaliser = Normaliser.from_states(states)
    np.testing.assert_allclose(normaliser.denormalise(normaliser.normalise(states)), states, rtol=1e-12)
    differences = normaliser.scale_difference(normaliser.unscale_difference(states))
    np.testing.assert_allclose(differences, states, rtol=1e-12)


def test_constant_components_keep_the_floor():
    """A component that never moves is normalised to 0 and back, and its typical difference is not 0 either."""
    states = random_states().at[..., 1].set(7.0)
    normaliser = Normaliser.from_states(states)
    assert 0 < normaliser.scale[1] <= 10 * FLOOR and normaliser.difference_scale[1] > 0
    np.testing.assert_allclose(normaliser.normalise(states)[..., 1], 0.0, atol=1e-3)
    for field in (normaliser.normalise(states), normaliser.unscale_difference(jnp.diff(states, axis=1))):
        assert np.isfinite(field).all()


def test_random_episodes_are_the_same_every_time():
    env = Drift()
    first, second = Normaliser.from_random_episodes(env), Normaliser.from_random_episodes(env)
    assert bits(first) == bits(second)
    # Their statistics are close to those of other random episodes.
    actions = jax.random.uniform(jax.random.key(1), (64, env.horizon, env.action_size), minval=-1.0)
    states = jax.jit(jax.vmap(lambda a: rollout(env, a).states))(actions)
    again = Normaliser.from_states(states)
    np.testing.assert_allclose(again.scale, first.scale, rtol=0.2)
    np.testing.assert_allclose(again.mean, first.mean, atol=0.3 * np.asarray(first.scale).max())


def test_no_gradient_reaches_the_statistics():
    states = random_states()

    def use(normaliser):
        x = normaliser.normalise(states) + normaliser.scale_difference(states)
        return jnp.sum(normaliser.denormalise(x) ** 2 + normaliser.unscale_difference(states))

    normaliser = Normaliser.from_states(states)
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(jax.grad(use)(normaliser)))
    assert (jax.grad(lambda s: jnp.sum(normaliser.normalise(s)))(states[0, 0]) != 0.0).all()
