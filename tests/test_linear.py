"""The affine map: equal to `@` under every transformation, with a derivative that merges batch and time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.linear import Linear, multiply


def inputs():
    x_key, w_key = jax.random.split(jax.random.key(0))
    return jax.random.normal(x_key, (5, 7, 3)), jax.random.normal(w_key, (3, 4))


def nonlinear(product):
    return lambda x, w: jnp.tanh(product(x, w)).sum()


def scanned(product):
    """A loss in which the product stands in the body of a scan, by an input and by the carry."""

    def loss(x, w):
        square = w @ w.T

        def body(carry, row):
            carry = jnp.tanh(product(carry, square) + product(row, square))
            return carry, carry

        return jnp.square(jax.lax.scan(body, jnp.zeros(x.shape[1:]), x)[1]).sum()

    return loss


TRANSFORMED = {
    "value": lambda f, x, w: f(x, w),
    "gradient": lambda f, x, w: jax.grad(f, (0, 1))(x, w),
    "gradient of a batch": lambda f, x, w: jax.grad(lambda w: jax.vmap(f, (0, None))(x, w).sum())(w),
    "gradient of a batch by its last axis": lambda f, x, w: jax.grad(
        lambda w: jax.vmap(f, (2, None))(jnp.moveaxis(x, 0, 2), w).sum()
    )(w),
    "batch of gradients": lambda f, x, w: jax.vmap(jax.grad(f, (0, 1)), (1, None))(x, w),
    "batch of weights": lambda f, x, w: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(x, jnp.stack([w, 2 * w])),
    "both batched": lambda f, x, w: jax.vmap(f, (0, 2))(x, jnp.stack([w] * 5, axis=2)),
    "forward mode": lambda f, x, w: jax.jvp(f, (x, w), (x + 1.0, w - 1.0)),
    "forward over reverse": lambda f, x, w: jax.jacfwd(jax.grad(f, 1), 1)(x, w),
    "reverse over reverse": lambda f, x, w: jax.jacrev(jax.grad(f, 1), 0)(x, w),
    "recomputed": lambda f, x, w: jax.grad(jax.checkpoint(f), (0, 1))(x, w),
}


@pytest.mark.parametrize("loss", [nonlinear, scanned])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_it_is_the_matrix_product_under_every_transformation(name, loss, x64):
    x, w = inputs()
    ours = jax.jit(lambda x, w: TRANSFORMED[name](loss(multiply), x, w))(x, w)
    plain = jax.jit(lambda x, w: TRANSFORMED[name](loss(jnp.matmul), x, w))(x, w)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_the_weights_derivative_of_a_batch_is_one_product_over_one_axis():
    """What the primitive is for: batch and time are merged before the product."""
    x, w = inputs()
    gradient = jax.make_jaxpr(jax.grad(lambda w: jax.vmap(nonlinear(multiply), (0, None))(x, w).sum()))(w)
    products = [eqn for eqn in gradient.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert [eqn.params["dimension_numbers"][0] for eqn in products] == [((1,), (0,))]
    assert products[0].invars[0].aval.shape == (3, 5 * 7)


def test_one_after_the_other_is_one_map(x64):
    keys = jax.random.split(jax.random.key(1), 4)
    first, second = Linear(3, 6, key=keys[0]), Linear(6, 4, key=keys[1])
    first, second = jax.tree.map(lambda leaf: leaf + 0.5, (first, second))
    x = jax.random.normal(keys[2], (9, 3))
    np.testing.assert_allclose(first.then(second)(x), second(first(x)), rtol=1e-12)
