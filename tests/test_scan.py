"""Scans that keep the carries between chunks only: the numbers of the plain one, for less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg.core.loops import default_chunk, scan, SHORT
from asmpg.core.types import UsageError


def body(carry, x):
    angle, speed = carry
    speed = speed - 0.1 * jnp.sin(angle) + x
    angle = angle + 0.1 * speed
    return (angle, speed), {"height": jnp.cos(angle), "both": jnp.stack([angle, speed])}


def total(start, xs, chunk, run=scan):
    """A number that depends on every output and on the last carry."""
    keywords = {} if run is jax.lax.scan else {"chunk": chunk}
    (angle, _), outputs = run(body, start, xs, **keywords)
    weights = jnp.arange(1.0, 1.0 + xs.shape[0])
    return angle + (weights * outputs["height"]).sum() + (outputs["both"] ** 2).sum()


@pytest.mark.parametrize("length", [1, 2, 37, 513])
@pytest.mark.parametrize("chunk", [None, 1, 4, 37, 1000])
def test_equal_to_the_plain_scan(x64, length, chunk):
    """Values, outputs and derivatives, whether the chunks come out even or not."""
    start = (jnp.asarray(0.3), jnp.asarray(-0.2))
    xs = 0.1 * jax.random.normal(jax.random.key(0), (length,))
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda s, x, run=run: total(s, x, chunk, run), (0, 1)))(start, xs)
        for run in (scan, jax.lax.scan)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), ours, theirs)
    batch = jax.vmap(lambda x: scan(body, start, x, chunk=chunk)[1]["height"])(jnp.stack([xs, -xs]))
    np.testing.assert_allclose(batch[1], scan(body, start, -xs)[1]["height"], rtol=1e-12)


def test_memory_of_a_derivative_grows_like_the_root_of_the_length():
    """A wide carry over a long sequence: keeping everything takes many times what the chunks take."""
    width = 200

    def scratch(length, chunk):
        def loss(start):
            return scan(lambda c, x: (jnp.tanh(c + x), None), start, jnp.zeros(length), chunk=chunk)[0].sum()

        compiled = jax.jit(jax.grad(loss)).lower(jnp.zeros(width)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole, chunked, longer = scratch(4096, 4096), scratch(4096, None), scratch(4 * 4096, None)
    assert whole > 4096 * width * 4, "the plain derivative keeps every carry"
    assert chunked < whole / 10
    assert longer < 3 * chunked, "four times the length, about twice the memory"


def test_the_default_keeps_all_of_a_short_sequence():
    assert default_chunk(SHORT) == SHORT and default_chunk(1) == 1
    assert default_chunk(4096) == 64


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(UsageError, match="chunk: must have at least one step, got 0"):
        scan(body, (jnp.zeros(()), jnp.zeros(())), jnp.zeros(4), chunk=0)
