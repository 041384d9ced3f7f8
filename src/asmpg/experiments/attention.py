"""Figure 9: what a transformer trained online attends to, and the Jacobian that every model has (Appendix F.1)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..core.types import UsageError
from ..drawing.figures import heat_map, panels
from ..gradients.analysis import jacobian_norms
from ..learners.settings import Preset
from ..models import AbstractDynamicsModel, ActionSequenceModel
from ..models.backbones import BACKBONES, Transformer
from ..models.backbones.attention import attention_weights
from ..sweeps import Scale
from ..training.config import TrainConfig
from ..training.runs import Progress, Result, train
from .experiment import AbstractExperiment, Report, Tables, Text
from .rules import ATTENDED, IGNORED, judged, SOLVED
from .table import Table
from .verdicts import three_way, Verdict


NUM_EPISODES = 10
COLUMNS = 5


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a scale fixes.

    Attributes:
        horizon: of the task.
        steps: environment steps by model.
        preset: of the training.
        overrides: on top of the preset.
    """

    horizon: int
    steps: Mapping[str, int]
    preset: Preset
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


SETTINGS: dict[Scale, Setting] = {
    "smoke": Setting(
        10,
        {"transformer": 120},
        "default",
        {"warmup_steps": 100, "model_batch_size": 4, "policy_batch_size": 4},
    ),
    # The claim is about the transformer; of the others it is the picture that is wanted.
    "cpu": Setting(100, dict.fromkeys(BACKBONES, 2_500) | {"transformer": 5_000}, "default"),
    "paper": Setting(100, dict.fromkeys(BACKBONES, 200_000), "paper"),
}


def attention_maps(
    model: ActionSequenceModel, initial_state: Float[Array, " state"], actions: Float[Array, "horizon action"]
) -> Float[Array, "layers heads horizon horizon"]:
    """The attention weights of a transformer model: row t predicts `s_{t+1}`, column k is action k.

    Args:
        model: with the backbone `Transformer`.
        initial_state: `s_0`.
        actions: `a_0 .. a_{H-1}`.

    Raises:
        UsageError: another backbone, which has no such weights.
    """
    backbone = model.backbone
    if not isinstance(backbone, Transformer):
        raise UsageError(f"attention_maps: needs a transformer, got a {type(backbone).__name__}")
    steps = jnp.arange(actions.shape[0])
    return attend(backbone, model.encoder(model.features(initial_state, actions, steps)))[1]


def attend(backbone: Transformer, xs: Float[Array, "length input"]) -> tuple[Array, Array]:
    """What `backbone.predict` computes, and the weights it computes it with."""
    steps = jnp.arange(xs.shape[0])
    x, maps = backbone.stream(xs, steps), []
    for block in backbone.blocks:
        queries, keys, values = backbone.heads(block, x, steps)
        maps.append(attention_weights(queries, keys))
        x = x + block.projection(jnp.einsum("hqk,khd->qhd", maps[-1], values).reshape(x.shape))
        x = x + block.feed_forward(x)
    return backbone.final_norm(x), jnp.stack(maps)


def measure(scale: Scale, report: Report) -> Tables:
    """Runs: one row a model. Weights: one a layer, head, row and column. Jacobians: one a model, row and column."""
    setting = SETTINGS[scale]
    tables = {"attention_runs": Table(), "attention": Table(), "attention_jacobians": Table()}
    for done, (name, steps) in enumerate(setting.steps.items()):
        config = TrainConfig(
            "credit_assignment",
            horizon=setting.horizon,
            model=name,
            steps=steps,
            preset=setting.preset,
            overrides=setting.overrides,
        )

        def follow(progress: Progress, name: str = name, done: int = done) -> None:
            what = progress.message or f"{progress.steps}/{progress.total_steps} steps, {progress.result()}"
            report(done, len(setting.steps), f"training {name} online: {what}")

        result = train(config, progress=follow)
        assert result.scores is not None  # the toy task's optimum is known
        tables["attention_runs"].add(
            model=name, horizon=setting.horizon, steps=result.steps, score=result.scores[0]
        )
        add_maps(tables, name, result)
    return tables


def add_maps(tables: Tables, name: str, result: Result) -> None:
    """Adds one model's maps, averaged over ten of the episodes it was trained on, drawn at random."""
    model, replay = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, (result.model, result.replay))
    episodes = replay.sample(NUM_EPISODES, key=jax.random.key(9))
    pairs = (episodes.states[:, 0], episodes.actions)

    @eqx.filter_jit
    def mean_norms(model: AbstractDynamicsModel) -> Array:
        return jax.lax.map(lambda pair: jacobian_norms(model, *pair), pairs).mean(axis=0)

    add_matrix(tables["attention_jacobians"], np.asarray(mean_norms(model)), "norm", model=name)
    if isinstance(model.backbone, Transformer):
        maps = eqx.filter_jit(
            lambda model: jax.lax.map(lambda pair: attention_maps(model, *pair), pairs).mean(axis=0)
        )
        for layer, heads in enumerate(np.asarray(maps(model))):
            for head, weights in enumerate(heads):
                add_matrix(tables["attention"], weights, "weight", model=name, layer=layer, head=head)


def add_matrix(table: Table, matrix: np.ndarray, value: str, **names: object) -> None:
    """One row an entry on and below the diagonal; what is above is not causal."""
    for row, column in zip(*np.tril_indices(len(matrix)), strict=True):
        table.add(**names, row=row, column=column, **{value: matrix[row, column]})


def to_matrix(table: Table, value: str) -> np.ndarray:
    """The matrix from the rows that `add_matrix` made of it."""
    rows, columns = (table.values(name).astype(int) for name in ("row", "column"))
    matrix = np.zeros((rows.max() + 1, columns.max() + 1))
    matrix[rows, columns] = table.values(value)
    return matrix


def _heads(weights: Table) -> list[dict[str, Any]]:
    """What every head gives to the first action."""
    return [
        {
            "layer": layer,
            "head": head,
            **first_action(to_matrix(weights.select(layer=layer, head=head), "weight")),
        }
        for layer in weights.unique("layer")
        for head in weights.select(layer=layer).unique("head")
    ]


def _if_solved(
    id: str, holds: bool | None, reason: str, score: float, heads: Sequence[Mapping[str, Any]]
) -> Verdict:
    if not score >= SOLVED:
        holds, reason = None, f"the run has not solved the task, its score is {score:.3g}; {reason}"
    return judged(id, holds, reason, {"score": score, "heads": heads})


def _attends(heads: Sequence[Mapping[str, Any]], score: float) -> Verdict:
    best = max(heads, key=lambda head: head["times_even"] if head["is_largest"] else 0.0)
    times = best["times_even"] if best["is_largest"] else 0.0
    holds = three_way(times, true_above=ATTENDED, false_below=IGNORED)
    reason = (
        f"in head {best['head'] + 1} of layer {best['layer'] + 1} the first action has {best['times_even']:.3g} "
        f"times the weight of even attention, {best['weight']:.3g} of all"
    )
    return _if_solved("attention.first_action", holds, reason, score, heads)


def _second_layer(heads: Sequence[Mapping[str, Any]], score: float) -> Verdict:
    most = [max((h["weight"] for h in heads if h["layer"] == layer), default=np.nan) for layer in (0, 1)]
    reason = (
        f"the first action's largest weight is {most[0]:.3g} in the first layer, {most[1]:.3g} in the second"
    )
    holds = None if np.isnan(most).any() else bool(most[1] > most[0])
    return _if_solved("attention.second_layer", holds, reason, score, heads)


def first_action(matrix: np.ndarray) -> dict[str, Any]:
    """The mean weight of the first action over all later rows, and whether no other action has more."""
    size = len(matrix)
    even = np.mean(1.0 / np.arange(2, size + 1))
    means = [matrix[max(column, 1) :, column].mean() for column in range(size)]
    # The last columns are means over few rows, each with its own action among the candidates: not compared with.
    others = means[1 : max(2, size // 2)]
    weight = float(means[0])
    return {"weight": weight, "times_even": float(weight / even), "is_largest": bool(weight >= max(others))}


def draw(tables: Tables, scale: Scale) -> dict[str, Any]:
    """One panel a layer and head; and one panel a model with its Jacobian norms."""
    figures = {}
    weights, runs = tables["attention"], tables["attention_runs"]
    layers, heads = weights.unique("layer"), weights.unique("head")
    horizon = runs.unique("horizon")[0]
    where = f"toy credit assignment, H = {horizon}, mean of {NUM_EPISODES} episodes"
    if layers:
        figure, axes = panels(
            len(layers), len(heads), f"Figure 9: attention weights, {where}", scale, (3.4, 3.0)
        )
        for layer in layers:
            for head in heads:
                matrix = to_matrix(weights.select(layer=layer, head=head), "weight")
                heat_map(figure, axes[layer, head], matrix, f"layer {layer + 1}, head {head + 1}", (0.0, 1.0))
        figures["figure_9"] = figure
    table = tables["attention_jacobians"]
    names = table.unique("model")
    columns = min(len(names), COLUMNS)
    figure, axes = panels(-(-len(names) // columns), columns, f"|ds_t/da_k|, {where}", scale, (3.4, 3.0))
    for unused in axes.flat[len(names) :]:
        unused.set_axis_off()
    for place, name in zip(axes.flat, names, strict=False):
        score = runs.mean("score", model=name)
        heat_map(figure, place, to_matrix(table.select(model=name), "norm"), f"{name} (score {score:.3f})")
    figures["figure_9_jacobians"] = figure
    return figures


@final
class Attention(AbstractExperiment):
    """Figure 9."""

    name = "attention"
    title = "what a transformer trained online attends to, and every model's Jacobian"
    texts: ClassVar = {
        "9": Text(
            "What a trained transformer attends to",
            "Trained online on the toy task, the transformer attends straight to the first action, the one that "
            "every later state depends on; mostly in its second layer.",
        )
    }

    def measure(self, scale: Scale, report: Report) -> Tables:
        return measure(scale, report)

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        score, heads = (
            tables["attention_runs"].mean("score", model="transformer"),
            _heads(tables["attention"]),
        )
        if not heads:
            ids = ("attention.first_action", "attention.second_layer")
            return [judged(id, None, "no transformer was trained") for id in ids]
        return [_attends(heads, score), _second_layer(heads, score)]

    def pictures(self, tables: Tables, scale: Scale) -> Mapping[str, Any]:
        return draw(tables, scale)


EXPERIMENT = Attention()
