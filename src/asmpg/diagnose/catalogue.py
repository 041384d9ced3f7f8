"""What a backbone costs and how far its gradient reaches, before any training: the numbers of `asmpg list --models`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..gradients.analysis import reach
from ..models import ActionSequenceModel, EMBEDDING_SIZE
from ..models.backbones import AbstractBackbone, BACKBONES, create_backbone, CreateBackbone
from ..models.normalisation import Normaliser
from ..tasks import make


TASK, HORIZON = "timber_harvest", 500
NUM_DRAWS = 5
# Compiling costs more than running once.
_QUICKLY: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Properties:
    """Of an untrained backbone at its standard size, for horizon 500.

    Attributes:
        num_parameters: trainable numbers, without the encoder and the decoder around it.
        state_size: numbers in the carry from one step to the next.
        reach: `|ds_H/da_0|` in units of `|ds_H/da_{H-1}|` for an action-sequence model of `timber_harvest` and uniform
            random actions; the median of five draws of parameters and actions.
    """

    num_parameters: int
    state_size: int
    reach: float


def properties(backbone: str | CreateBackbone) -> Properties:
    """Measures one backbone: a second or two, nearly all of it compilation.

    Args:
        backbone: a name of `asmpg.models.backbones.BACKBONES`, or what makes one like `AbstractBackbone.create`.
    """
    env = make(TASK, HORIZON)
    size = jnp.ones(env.state_size)
    normaliser = Normaliser(env.initial_state(), size, size)

    def measure(key: jax.Array) -> jax.Array:
        model_key, action_key = jax.random.split(key)
        model = ActionSequenceModel(env, backbone, key=model_key, normaliser=normaliser)
        actions = jax.random.uniform(action_key, (HORIZON, env.action_size), minval=-1.0)
        return reach(model, env.initial_state(), actions)

    measured = jax.jit(jax.vmap(measure), compiler_options=_QUICKLY)(
        jax.random.split(jax.random.key(0), NUM_DRAWS)
    )
    return Properties(*sizes(backbone), float(jnp.median(measured)))


def sizes(backbone: str | CreateBackbone) -> tuple[int, int]:
    """Parameters, and numbers in the carry, of a backbone at its standard size; nothing is computed."""

    def create() -> tuple[AbstractBackbone, Any]:
        made = create_backbone(backbone, EMBEDDING_SIZE, HORIZON, key=jax.random.key(0))
        return eqx.filter(made, eqx.is_inexact_array), made.init()

    parameters, carry = eqx.filter_eval_shape(create)
    return _count(parameters), _count(carry)


def _count(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def all_properties(report: Callable[[str], Any] = lambda name: None) -> dict[str, Properties]:
    """Of every built-in backbone; `report` is told the name of each before it is measured."""
    measured = {}
    for name in BACKBONES:
        report(name)
        measured[name] = properties(name)
    return measured
