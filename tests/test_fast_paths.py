"""Every fast path against the slow obvious one, in both precisions: values and derivatives, of a batch, compiled.

The lengths are those at which fast paths differ in kind: a single step, one with a step before it, an odd number of
whole and cut blocks, and more than are kept at once.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asmpg import ActionSequenceModel, TanhGaussianPolicy
from asmpg.gradients import imagination
from asmpg.gradients.imagination import imagine, imagine_in_two_passes
from asmpg.models.backbones import BACKBONES, scan_step
from toys import Drift, relative_error, unit_normaliser


pytestmark = pytest.mark.usefixtures("quickly")

BATCH, FEATURES = 2, 5
# Precision: relative errors of values and of derivatives.
TOLERANCES = {"float32": (1e-5, 1e-4), "float64": (1e-9, 1e-9)}


def cases(names: Sequence[str]) -> Any:
    """Every length in double precision, where the tolerance is tight, and those where rounding adds up in single too.

    What compiles longest is left to the slow tests, what takes long to the thorough ones.
    """
    return pytest.mark.parametrize(
        ("name", "length", "precision"),
        [
            pytest.param(name, length, precision, marks=tier(name, length, precision))
            for name in names
            for length in (1, 2, 37, 513)
            for precision in TOLERANCES
            if precision == "float64" or length > 2
        ],
    )


def tier(name: str, length: int, precision: str) -> list[Any]:
    if length == 513:
        long = name in ("transformer", "gated_delta")
        return [pytest.mark.slow if long and precision == "float32" else pytest.mark.thorough]
    return [pytest.mark.thorough] * (length == 37 and precision == "float32")


def in_precision(tree: Any, precision: str) -> Any:
    """The same numbers, off the symmetric points of an initialisation."""
    random = np.random.default_rng(2)

    def move(x: Any) -> Any:
        x = np.asarray(x)
        return jnp.asarray((x + 0.02 * random.normal(size=x.shape)).astype(precision))

    arrays, static = eqx.partition(tree, eqx.is_inexact_array_like)
    return eqx.combine(jax.tree.map(move, arrays), static)


def check(slow: Any, fast: Sequence[Any], network: Any, batch: Any, precision: str) -> None:
    """Compares functions of (network, example) on a batch, and their derivatives in the network."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array_like)

    @jax.jit
    def derivatives(arrays, batch):
        def total(arrays, function):
            outputs = jax.vmap(lambda example: function(eqx.combine(arrays, static), example))(batch)
            return jnp.sum(jnp.sin(outputs + jnp.arange(outputs.shape[1])[:, None])), outputs

        return [jax.grad(lambda a, f=f: total(a, f), has_aux=True)(arrays) for f in (slow, *fast)]

    (reference, expected), *others = derivatives(arrays, batch)
    assert expected.dtype == precision and np.isfinite(expected).all()
    assert np.abs(expected).max() > 0 and max(np.abs(g).max() for g in jax.tree.leaves(reference)) > 0
    value, derivative = TOLERANCES[precision]
    for ours, outputs in others:
        assert outputs.dtype == precision
        assert relative_error(outputs, expected) < value
        assert relative_error(ours, reference) < derivative


@pytest.fixture(autouse=True)
def switched(request, precision):
    """Double precision where it is asked for."""
    if precision == "float64":
        request.getfixturevalue("x64")


@cases(["rnn", "lstm", "gru", "lru", "transformer", "gated_delta"])
def test_predict_is_a_scan_of_step(name, length, precision):
    """The derivatives of the recurrences are written by hand, attention goes by blocks, the delta rule by chunks."""
    backbone = BACKBONES[name].create(FEATURES, max(length, 2), key=jax.random.key(0))
    xs = np.random.default_rng(1).normal(size=(BATCH, length, FEATURES)).astype(precision)
    check(scan_step, [lambda b, x: b.predict(x)], in_precision(backbone, precision), xs, precision)


@cases(["lstm", "transformer"])
def test_imagination_is_the_rollout_in_one_pass(name, length, precision):
    """In two passes, the first of them step by step (a transformer's with growing room)."""
    env = Drift(horizon=max(length, 2))
    model = ActionSequenceModel(env, name, key=jax.random.key(1), normaliser=unit_normaliser(env))
    policy = TanhGaussianPolicy(env, key=jax.random.key(2))
    model, policy = in_precision((model, policy), precision)
    noise = np.random.default_rng(3).normal(size=(BATCH, length, env.action_size)).astype(precision)
    start = env.initial_state().astype(precision)

    def step_by_step(p, x):
        with pytest.MonkeyPatch.context() as patch:  # room for all steps from the first one on
            patch.setattr(imagination, "MIN_BLOCK_SIZE", length)
            return imagine(p, model, start, x, loop="open").states[1:]

    check(
        step_by_step,
        [lambda p, x: imagine_in_two_passes(p, model, start, x).states[1:]],
        policy,
        noise,
        precision,
    )
