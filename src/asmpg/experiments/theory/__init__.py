"""The paper's theory as statements that can be run: `asmpg reproduce theory` (section 3, Appendices A and B)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import jax

from ...drawing.charts import draw_panel, Panel, Series
from ...drawing.figures import finish, panels
from ...sweeps import Scale
from ..experiment import AbstractExperiment, Report, Tables, Text
from ..table import Table
from ..verdicts import Verdict
from . import attention, bound, identities, recurrent


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement of the paper.

    Attributes:
        measure: `measure(scale)` gives the table that decides it.
        judge: what the table says.
    """

    measure: Callable[[Scale], Table]
    judge: Callable[[Table], Verdict]

    def __call__(self, scale: Scale = "smoke") -> Verdict:
        """The verdict, measured in double precision."""
        with jax.enable_x64(True):
            return self.judge(self.measure(scale))


prop1 = Statement(identities.measure_prop1, identities.judge_prop1)
remark1 = Statement(identities.measure_remark1, identities.judge_remark1)
theorem1 = Statement(bound.measure, bound.judge)
cor11 = Statement(recurrent.measure_cor11, recurrent.judge_cor11)
cor_a1 = Statement(recurrent.measure_cor_a1, recurrent.judge_cor_a1)
cor12 = Statement(attention.measure, attention.judge)
app_b = Statement(identities.measure_app_b, identities.judge_app_b)

STATEMENTS = {
    "prop1": prop1,
    "remark1": remark1,
    "theorem1": theorem1,
    "cor1.1": cor11,
    "corA.1": cor_a1,
    "cor1.2": cor12,
    "appB": app_b,
}


def measure(scale: Scale, report: Report) -> Tables:
    """One table a statement, in double precision."""
    tables = {}
    with jax.enable_x64(True):
        for done, (name, statement) in enumerate(STATEMENTS.items()):
            report(done, len(STATEMENTS), name)
            tables[name] = statement.measure(scale)
    return tables


def draw(tables: Tables, scale: Scale) -> dict[str, Any]:
    """Theorem 1's ratio by task; Corollary 1.1's eta against the bound; Corollary 1.2's norms against H."""
    figure, axes = panels(1, 3, "The theory in numbers", scale)
    left, middle, right = axes[0]
    table = tables["theorem1"]
    names = table.unique("task")
    for model in table.unique("model"):
        rows = table.select(model=model)
        places = [names.index(row["task"]) for row in rows]
        left.plot(
            places,
            rows.values("gradient_norm") / rows.values("bound"),
            "o",
            markersize=4,
            label=model,
            alpha=0.6,
        )
    left.axhline(1.0, color="black", linewidth=0.8)
    left.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    finish(left, yscale="log", ylabel="|grad J| / bound", title="Theorem 1")
    for part in ("tanh", "tanh at rest", "linear", "saturated"):
        found = recurrent.fits(tables["cor1.1"], part)
        middle.plot(
            [item["norm"] for item in found], [item["fit"].eta for item in found], "o", label=part, alpha=0.6
        )
    middle.axline((1.0, 1.0), slope=1.0, color="black", linewidth=0.8)
    finish(
        middle, xlabel="|W_x|", ylabel="fitted eta of |ds_H/da_0|", title="Corollary 1.1 (line: the bound)"
    )
    draw_panel(right, norms_by_horizon(tables["cor1.2"]))
    return {"theory": figure}


def norms_by_horizon(table: Table) -> Panel:
    """Corollary 1.2: one line a case."""
    lines = []
    for case in table.unique("case"):
        rows = table.select(case=case, seed=0)
        lines.append(Series(case, rows.values("horizon").tolist(), rows.values("gradient_norm").tolist()))
    # Room for the legend.
    limits = (min(min(line.y) for line in lines) / 3, 1e3 * max(max(line.y) for line in lines))
    labels = ("Corollary 1.2", "horizon H", "|grad J|")
    return Panel(*labels, lines, x_log=True, y_log=True, y_limits=limits)


@final
class Theory(AbstractExperiment):
    """Section 3 and its appendices."""

    name = "theory"
    title = "every statement of section 3 and its appendices, measured"
    texts: ClassVar = {
        "theory": Text(
            "The theory, checked by numbers",
            "Differentiating an unrolled model is backpropagation through a recurrent network; its gradient can "
            "grow exponentially with the horizon, that of attention only like a power of it.",
        )
    }

    def measure(self, scale: Scale, report: Report) -> Tables:
        return measure(scale, report)

    def judge(self, tables: Tables) -> Sequence[Verdict]:
        return [statement.judge(tables[name]) for name, statement in STATEMENTS.items()]

    def pictures(self, tables: Tables, scale: Scale) -> Mapping[str, Any]:
        return draw(tables, scale)


EXPERIMENT = Theory()
