"""Tables of trained policies: verdicts where a claim is true, false and undecidable; selection; smoke scale; resume."""

import json
import math
import shlex

import numpy as np
import pytest

import sweeping
from asmpg import UsageError
from asmpg.cli import main
from asmpg.experiments import (
    curves,
    EXPERIMENTS,
    learned_reward,
    myriad,
    odt,
    pendulum_training,
    reproduce,
    results,
    StoppedError,
    Sweeping,
    trained_runs,
    training,
)
from asmpg.experiments.protocol import protocol
from asmpg.experiments.results import read_table, read_tables
from asmpg.experiments.table import Table
from asmpg.statistics import difference_interval, Scores
from asmpg.sweeps import work
from asmpg.tasks import make
from asmpg.tasks.environment import rollout
from training_tables import fake_tables, merge


def outcomes(experiment_, tables):
    """Every verdict of tables that were stored as Parquet columns and read back."""
    stored = {name: Table.from_columns(table.columns()) for name, table in tables.items()}
    verdicts = experiment_.judge(stored)
    assert all(verdict.numbers["reason"] for verdict in verdicts)
    json.dumps([verdict.as_json() for verdict in verdicts], allow_nan=False)
    return {verdict.id: verdict.verdict for verdict in verdicts}


def flat(score):
    return dict.fromkeys((20, 100, 500), score)


HOLDS, FALLS = flat(0.95), {20: 0.95, 100: 0.93, 500: 0.2}
MYRIAD = {
    "lstm": HOLDS,
    "transformer": HOLDS,
    "rnn": FALLS,
    "one-step": FALLS,
    "history-lstm": flat(0.6),
    "history-transformer": flat(0.6),
    "sac": flat(0.45),
}
CLAIMS = (
    *("hold.lstm", "hold.transformer", "fall.rnn", "fall.one_step", "one_step_below_lstm"),
    *("history.lstm", "history.transformer", "efficient.lstm", "efficient.transformer"),
    *("efficient.lstm_one_step", "efficient.transformer_one_step", "efficient.one_step"),
)
RISE = {"one-step": 1.0, "sac": 0.05}


def myriad_outcomes(changes, **options):
    tables = fake_tables(MYRIAD | changes, rise=RISE, **options)
    found = outcomes(myriad.EXPERIMENT, tables)
    assert [*found] == [f"myriad.{claim}" for claim in CLAIMS]
    return {id.removeprefix("myriad."): verdict for id, verdict in found.items()}


def test_the_claims_about_myriad_can_hold():
    assert myriad_outcomes({}) == dict.fromkeys(CLAIMS, "holds")


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"lstm": FALLS | {20: 1.0}}, "hold.lstm"),
        ({"transformer": flat(0.3)}, "hold.transformer"),  # it holds what is not worth holding
        ({"rnn": HOLDS}, "fall.rnn"),
        ({"one-step": HOLDS}, "fall.one_step"),
        ({"history-lstm": HOLDS}, "history.lstm"),
        ({"history-transformer": flat(0.99)}, "history.transformer"),
        ({"lstm": flat(0.1)}, "efficient.lstm"),
        ({"sac": flat(0.95)}, "efficient.transformer"),
        ({"sac": flat(-0.9)}, "efficient.one_step"),
    ],
)
def test_every_claim_about_myriad_can_fail(changes, claim):
    found = myriad_outcomes(changes)
    assert found[claim] == "does not hold"
    part = claim.partition(".")[2]
    alone = {other for other in found if part not in other and "efficient" not in other}
    assert all(found[other] == "holds" for other in alone)


def test_seeds_that_scatter_decide_nothing():
    """With intervals as wide as the differences no claim is decided, but for those about a fall by far more."""
    near = dict.fromkeys(MYRIAD, flat(0.55))
    found = myriad_outcomes(near, noise=0.5)
    assert {*found.values()} == {"undecided"}


@pytest.mark.parametrize(
    "options", [{"steps": 800}, {"seeds": 2}, {"tasks": ()}], ids=["few steps", "few seeds", "nothing"]
)
def test_too_little_decides_nothing(options):
    assert {*myriad_outcomes({}, **options).values()} == {"undecided"}


def test_what_was_not_trained_is_undecided_and_named():
    tables = fake_tables({"lstm": {20: 0.9}, "sac": {50: 0.1}})
    verdicts = {verdict.id: verdict for verdict in myriad.EXPERIMENT.judge(tables)}
    assert {verdict.verdict for verdict in verdicts.values()} == {"undecided"}
    assert "not trained at H = 100 and 500" in verdicts["myriad.hold.lstm"].numbers["reason"]
    assert "needs lstm and sac" in verdicts["myriad.efficient.lstm"].numbers["reason"]


def test_a_horizon_that_a_claim_does_not_name_decides_nothing_about_it():
    found = outcomes(myriad.EXPERIMENT, fake_tables({"lstm": {20: 0.95, 100: 0.95, 200: 0.95}}))
    assert found["myriad.hold.lstm"] == "undecided"


def test_the_papers_preset_has_verdicts_of_its_own():
    ours = fake_tables({"lstm": HOLDS})
    theirs = fake_tables({"lstm": FALLS}, entropy=0.1)
    for row in (*theirs["runs"], *theirs["items"]):
        row["preset"] = "paper"
    found = outcomes(myriad.EXPERIMENT, merge(ours, theirs))
    assert found["myriad.hold.lstm"] == "holds"
    assert found["myriad.hold.lstm.paper_preset"] == "does not hold"


def test_the_best_of_a_sweep_is_taken_and_named():
    parts = [
        fake_tables({"lstm": {20: score}}, entropy=entropy) for entropy, score in ((0.1, 0.2), (0.01, 0.9))
    ]
    # The best setting of all, but not tried everywhere: it cannot be compared.
    parts.append(fake_tables({"lstm": {20: 0.99}}, tasks=("harvest",), entropy=0.001))
    summary = myriad.EXPERIMENT.summarise(merge(*parts))
    (chosen,) = summary["selection"]
    assert chosen == {
        "preset": "default",
        "method": "lstm",
        "horizon": 20,
        "of": 3,
        "chosen": {"entropy": 0.01},
    }
    (row,) = summary["scores"]
    assert row["iqm"] == pytest.approx(0.9) and (row["tasks"], row["seeds"]) == (3, 3)
    assert row["low"] <= row["iqm"] <= row["high"]


@pytest.mark.parametrize(
    ("learned", "noise", "expected"),
    [(0.95, 0.002, "holds"), (0.99, 0.002, "holds"), (0.7, 0.002, "does not hold"), (0.9, 0.2, "undecided")],
)
def test_verdicts_on_figure_8(learned, noise, expected):
    finals = {"lstm|known": {20: 0.95}, "lstm|learned": {20: learned}}
    found = outcomes(
        learned_reward.EXPERIMENT, fake_tables(finals, ("credit_assignment",), noise=noise, seeds=10)
    )
    assert found["learned_reward.final.lstm"] == expected
    assert found.keys() == {"learned_reward.final.lstm", "learned_reward.efficiency.lstm"}


ODT = {
    "odt|expert": {20: 0.4, 50: 0.3, 100: 0.2},
    "odt|overshot": flat(-0.9) | {50: -0.9},
    "transformer": dict.fromkeys((20, 50, 100), 0.9),
    "one-step": dict.fromkeys((20, 50, 100), 0.8),
}
GOOD_ODT = dict.fromkeys((20, 50, 100), 0.95)


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, {}, ["holds"] * 5),
        ({"odt|expert": GOOD_ODT, "odt|overshot": GOOD_ODT}, {}, ["does not hold"] * 5),
        (dict.fromkeys(ODT, dict.fromkeys((20, 50, 100), 0.5)), {"noise": 1.0}, ["undecided"] * 5),
        (
            {"odt|expert": {20: 0.4}},
            {"tasks": ("harvest",)},
            ["holds", "holds", "undecided", "holds", "undecided"],
        ),
    ],
)
def test_verdicts_on_figures_11_and_12(changes, options, expected):
    found = outcomes(odt.EXPERIMENT, fake_tables(ODT | changes, **options))
    ids = ("poor", "below_one_step", "worse_with_horizon", "every_task", "overshooting")
    assert found == {f"odt.{id}": verdict for id, verdict in zip(ids, expected, strict=True)}


def test_figure_11_compares_methods_on_the_same_tasks():
    """What was trained on some tasks only has a panel of those, with all methods."""
    part = {"odt|overshot": ODT["odt|overshot"]}
    rest = {name: finals for name, finals in ODT.items() if name not in part}
    tables = merge(fake_tables(rest), fake_tables(part, ("mould_fungicide",)))
    every, mould = odt.EXPERIMENT.charts(tables)[0].panels
    assert [line.name for line in every.series] == ["odt, expert return", "transformer", "one-step"]
    assert (every.title, mould.title) == ("3 tasks", "mould_fungicide")
    assert {line.name for line in mould.series} == {line.name for line in every.series} | {odt.OVERSHOT}
    (alone,) = odt.EXPERIMENT.charts(fake_tables(ODT))[0].panels
    assert len(alone.series) == 4


def pendulum_tables(asm, horizons, noise, amplitude, untrained=0.0):
    """Models that end at one score, the simulator at 0.4, and all begin at that of the untrained policy."""
    finals = {name: dict.fromkeys(horizons, asm) for name in ("transformer", "lstm", "rnn")}
    finals["simulator"] = dict.fromkeys(horizons, 0.4)
    tables = fake_tables(finals, ("double_pendulum",), noise=noise, amplitude=amplitude)
    for row in tables["runs"]:
        if row["steps"] == 0:
            row["score"] = untrained
    return tables


PENDULUM = {"text": "pendulum_training", "published": "pendulum_training.published"}


@pytest.mark.parametrize("regime", PENDULUM)
@pytest.mark.parametrize(
    ("asm", "horizons", "noise", "untrained", "expected"),
    [
        (0.9, (5, 100), 0.002, 0.0, "holds"),
        (0.3, (5, 100), 0.002, 0.0, "does not hold"),
        # Above the simulator, but the untrained policy was better.
        (0.9, (5, 100), 0.002, 0.95, "does not hold"),
        (0.5, (5, 100), 0.5, 0.0, "undecided"),
        (0.9, (5, 20), 0.002, 0.0, "undecided"),
    ],
)
def test_verdicts_on_figure_4(regime, asm, horizons, noise, untrained, expected):
    amplitude = pendulum_training.AMPLITUDES[regime]
    tables = pendulum_tables(asm, horizons, noise, amplitude, untrained)
    found = outcomes(pendulum_training.EXPERIMENT, tables)
    assert len(found) == 6
    for name, prefix in PENDULUM.items():
        verdicts = {found[f"{prefix}.{model}"] for model in ("transformer", "lstm", "rnn")}
        assert verdicts == {expected if name == regime else "undecided"}


def test_figure_4_shows_both_regimes_the_untrained_policy_and_every_band_whole():
    tables = merge(*(pendulum_tables(0.9, (5, 100), 0.9, a) for a in pendulum_training.AMPLITUDES.values()))
    for row in tables["runs"]:
        row["best_constant_return"] = 9.0
    four, *tens = pendulum_training.EXPERIMENT.charts(tables)
    assert ["published" in panel.title for panel in four.panels] == [False, True] and len(tens) == 2
    for panel in (panel for chart in (four, *tens) for panel in chart.panels):
        lines = {line.name: line for line in panel.series}
        assert set(lines[curves.UNTRAINED].y) == {0.0} and set(lines[curves.CONSTANT].y) == {0.9}
        low, high = panel.y_limits
        assert all(
            low <= y <= high for line in panel.series for part in (line.y, line.low, line.high) for y in part
        )


def test_a_diverging_seed_flattens_nothing_and_coinciding_curves_are_apart():
    """On the axis of what is missing, where two that both look like 1 are a decade apart."""
    runs = trained_runs.read_runs(
        fake_tables({"lstm": {20: 0.999}, "rnn": {20: 0.99}, "sac": {20: -80.0}}, noise=0.0)
    )
    for panel in (curves.horizon_panel(runs, ""), curves.curve_panel(runs, "", curves.iqm_spread)):
        ends = {line.name: line.y[-1] for line in panel.series}
        assert panel.y_log and ends["rnn"] == pytest.approx(10 * ends["lstm"], rel=1e-6)
        assert ends["sac"] == 1.0 - trained_runs.FLOOR
        assert min(value for line in panel.series for value in (*line.y, *line.low)) >= curves.LEAST


def test_the_grid_has_both_regimes_in_the_tables_too():
    suite = pendulum_training.EXPERIMENT.suite("cpu")
    assert {item.choices["amplitude"] for item in suite.items} == {*pendulum_training.AMPLITUDES.values()}
    assert {item.config.num_seeds for item in suite.items} == {5}
    environments = {item.choices["amplitude"]: item.config.environment() for item in suite.items}
    assert environments[math.pi].goal != environments[180.0].goal
    assert len({item.id for item in suite.items}) == len(suite.items) == 2 * 4 * 5


def test_two_amplitudes_are_one_motion_from_scaled_actions():
    text, published = (make("double_pendulum", 6, amplitude=a) for a in pendulum_training.AMPLITUDES.values())
    actions = np.zeros((6, 1))
    actions[0] = 0.7
    expected = rollout(text, actions).states
    np.testing.assert_allclose(
        rollout(published, actions * math.pi / 180.0).states, expected, rtol=1e-5, atol=1e-6
    )
    for env in (text, published):
        assert rollout(env, env.known_actions()).rewards[-1] == pytest.approx(0.0, abs=1e-5)


def test_a_preset_can_be_asked_for():
    smaller = pendulum_training.EXPERIMENT.suite("cpu", "paper")
    assert {item.config.preset for item in smaller.items} == {"paper"}
    whole, one = (learned_reward.EXPERIMENT.suite("paper", preset) for preset in (None, "default"))
    assert {item.config.preset for item in whole.items} == {"paper", "default"}
    assert [item.id for item in one.items] == [i.id for i in whole.items if i.config.preset == "default"]


def test_one_task_on_which_it_falls_is_enough():
    """The interquartile mean over three tasks would trim it away."""
    other = fake_tables({"lstm": {100: 0.95, 500: 0.94}}, ("harvest", "mould_fungicide"))
    fallen = fake_tables({"lstm": {100: 0.95, 500: 0.6}}, ("timber_harvest",))
    verdict = myriad.EXPERIMENT.judge(merge(other, fallen))[0]
    assert (verdict.id, verdict.verdict) == ("myriad.hold.lstm", "does not hold")
    assert "on the worst task 0.600" in verdict.numbers["reason"]


def test_nothing_is_decided_about_a_model_while_items_of_it_are_left():
    finals = {name: {20: 0.9, 100: 0.9} for name in ("lstm", "transformer", "one-step")} | {
        "sac": {20: 0.2, 100: 0.2}
    }
    tables = fake_tables(finals)
    before = outcomes(myriad.EXPERIMENT, tables)
    row = {"item": "more", "task": "harvest", "horizon": 500, "model": "lstm", "preset": "default"}
    tables["items"].add(**row, state="left", num_seeds=3)
    after = outcomes(myriad.EXPERIMENT, tables)
    assert before["myriad.efficient.lstm"] == "holds" and after["myriad.efficient.lstm"] == "undecided"
    assert before["myriad.efficient.transformer"] == after["myriad.efficient.transformer"] == "holds"
    verdicts = {verdict.id: verdict for verdict in myriad.EXPERIMENT.judge(tables)}
    assert (
        verdicts["myriad.efficient.lstm"].numbers["reason"].startswith("items not finished: 1 of lstm; lstm")
    )


def test_an_item_that_failed_leaves_undecided_what_its_horizon_takes_part_in():
    finals = {"lstm": {20: 0.9}, "transformer": {20: 0.9}, "sac": {20: 0.2}}
    tables = fake_tables(finals)
    before = outcomes(myriad.EXPERIMENT, tables)
    failed = {
        "task": "mould_fungicide",
        "model": "lstm",
        "preset": "default",
        "state": "failed",
        "num_seeds": 3,
    }
    tables["items"].add(item="elsewhere", horizon=500, **failed)
    assert outcomes(myriad.EXPERIMENT, tables) == before
    tables["items"].add(item="here", horizon=20, **failed)
    verdicts = {verdict.id: verdict for verdict in myriad.EXPERIMENT.judge(tables)}
    assert before["myriad.efficient.lstm"] == "holds"
    assert verdicts["myriad.efficient.transformer"].verdict == "holds"
    assert verdicts["myriad.efficient.lstm"].verdict == "undecided"
    assert (
        verdicts["myriad.efficient.lstm"]
        .numbers["reason"]
        .startswith("items that failed: 1 of lstm at H = 20")
    )


# Runs


def test_what_is_not_finite_or_far_below_is_floored_and_counted():
    tables = fake_tables({"lstm": {20: 0.9}}, seeds=1, tasks=("harvest",))
    rows = tables["runs"].rows
    rows[-1]["score"], rows[2]["score"], rows[3]["score"] = None, -50.0, math.nan
    (run,) = trained_runs.read_runs(tables)
    assert run.value("score") == trained_runs.FLOOR and run.num_floored == 3
    assert np.isfinite(run.scores).all() and run.scores.min() == trained_runs.FLOOR


def test_the_area_is_the_mean_score_and_curves_pass_through_the_records():
    tables = fake_tables({"lstm": {20: 0.8}}, noise=0.0, rise={"lstm": 1.0})
    runs = trained_runs.read_runs(tables)
    assert runs[0].value("area") == pytest.approx(0.4)
    (line,) = curves.curve_panel(runs, "", curves.iqm_spread).series
    np.testing.assert_allclose(line.y, 1.0 - 0.8 * np.array(line.x) / 8_000, atol=1e-9)
    np.testing.assert_allclose(line.low, line.y, atol=1e-9)


def test_the_interval_of_a_difference():
    """It has the sign of the difference, mirrors when swapped, and is that of a known distribution in the limit."""
    generator = np.random.default_rng(0)
    one, other = (
        Scores(generator.normal(mean, 1.0, (400, 2)), ("a", "b"), tuple(range(400))) for mean in (0.3, 0.0)
    )

    def mean(values):
        return values.mean(axis=(-2, -1))

    there, back = difference_interval(one, other, mean), difference_interval(other, one, mean)
    np.testing.assert_allclose([there.low, there.high], [-back.high, -back.low], atol=0.01)
    width = 2 * 1.96 * math.sqrt(2 / 800)
    assert there.high - there.low == pytest.approx(width, rel=0.1)
    assert there.low < one.values.mean() - other.values.mean() < there.high
    with pytest.raises(UsageError, match="same tasks"):
        difference_interval(one, Scores(other.values, ("b", "a"), other.runs))


def test_the_continuous_optimum_is_extrapolated(monkeypatch):
    class Solved:
        def __init__(self, horizon):
            self.episode_return = 3.0 - 7.0 / horizon

    monkeypatch.setattr(training, "make", lambda task, horizon: horizon)
    monkeypatch.setattr(training, "optimal", Solved)
    assert training.continuous_optimum("harvest") == pytest.approx(3.0, abs=1e-12)
    tables = fake_tables({"lstm": {20: 1.0}}, ("harvest", "double_pendulum"), noise=0.0)
    training.add_paper_scores(tables["runs"], lambda task: None)
    scores = {row["task"]: row.get("paper_score") for row in tables["runs"] if row["steps"] == 8_000}
    assert scores["harvest"] == pytest.approx(10.0 / 3.0) and scores["double_pendulum"] is None


def test_hardware_is_that_of_the_items_not_of_this_machine():
    tables = fake_tables({"lstm": {20: 0.9}, "sac": {20: 0.9}})
    for row in tables["items"]:
        row["device"] = "cpu" if row["model"] == "lstm" else "cpu, another processor, 7 cores"
    assert protocol(tables, 1.0)["hardware"] == ["cpu", "cpu, another processor, 7 cores"]


def test_a_seed_that_ends_in_nothing_counts_as_the_floor(monkeypatch):
    monkeypatch.setattr(training, "continuous_optimum", lambda task: 10.0)
    tables = fake_tables({"lstm": {20: 1.0}}, ("harvest",), noise=0.0)
    last = next(row for row in tables["runs"] if row["steps"] == 8_000)
    last["return"] = last["score"] = None
    training.add_paper_scores(tables["runs"], lambda task: None)
    runs = trained_runs.read_runs(tables, lambda row: row["model"])
    for value in ("score", "paper_score"):
        scores = trained_runs.to_scores(runs, value)
        assert scores is not None
        assert scores.values.min() == trained_runs.FLOOR
        assert scores.values.size == len(runs)


# Whole tables


TRAINED = {
    name: next(figure for figure, one in EXPERIMENTS.items() if one is whole.EXPERIMENT)
    for name, whole in (
        ("myriad", myriad),
        ("odt", odt),
        ("learned", learned_reward),
        ("pendulum", pendulum_training),
    )
}


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Runs a command in a folder of its own, training nothing; gives the exit status, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, "start", sweeping.quick_scores)

    def run(line):
        status = main(shlex.split(line))
        return status, *capfd.readouterr()

    return run


@pytest.mark.thorough
@pytest.mark.parametrize("figure", TRAINED.values())
def test_every_table_of_trained_policies_at_its_smallest(call, tmp_path, figure):
    """All but the training itself: sweep, tables, verdicts, figures, and the same again from what is finished."""
    status, out, _ = call(f"reproduce {figure} --scale smoke --workers 0 --json --out new")
    content = json.loads(out, parse_constant=pytest.fail)
    assert status == 0 and out.count("\n") == 1
    assert content == json.loads((tmp_path / "new" / "verdicts.json").read_text())
    tables = read_tables(tmp_path / "new")
    assert tables.keys() == {"runs", "items"} and {row["state"] for row in tables["items"]} == {"done"}
    again = [verdict.as_json() for verdict in EXPERIMENTS[figure].judge(tables)]
    assert again == content["verdicts"] and again
    assert {verdict["verdict"] for verdict in again} == {"undecided"}
    assert content["protocol"]["items"]["done"] == len(tables["items"])
    assert content["command"].startswith(f"asmpg reproduce {figure} --scale smoke --out new")
    names = sorted(chart.name for chart in EXPERIMENTS[figure].charts(tables))
    assert names == sorted(path.stem for path in (tmp_path / "new").glob("*.png"))
    assert names == sorted(path.stem for path in (tmp_path / "new").glob("*.svg"))
    status, out, _ = call(f"reproduce {figure} --scale smoke --only-finished --json --out again")
    assert status == 0 and json.loads(out)["verdicts"] == content["verdicts"]


@pytest.mark.thorough
@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    "figure",
    [
        TRAINED["learned"],
        *(pytest.param(TRAINED[name], marks=pytest.mark.slow) for name in ("myriad", "odt", "pendulum")),
    ],
)
def test_every_table_really_trained_at_its_smallest(figure, tmp_path, monkeypatch):
    """The only test here that trains: every item is finished, and what it measured is finite."""
    monkeypatch.setattr(results, "encode", lambda *_: b"")
    content = reproduce(
        EXPERIMENTS[figure], figure, "smoke", tmp_path / "out", sweeping=Sweeping(str(tmp_path / "sweep"))
    )
    items = content["protocol"]["items"]
    assert items["done"] == items["total"] > 1
    runs = read_tables(tmp_path / "out")["runs"]
    assert np.isfinite(runs.values("score")).all() and np.ptp(runs.values("return")) > 0
    assert {verdict["verdict"] for verdict in content["verdicts"]} == {"undecided"}


def test_figures_of_one_table_share_its_sweep_with_asmpg_sweep(call, monkeypatch, tmp_path):
    assert call("sweep pendulum --scale smoke --workers 0")[0] == 0
    monkeypatch.setattr(work, "start", lambda *_: pytest.fail("trained again"))
    status, out, _ = call("reproduce 4 --scale smoke --workers 0 --json")
    assert status == 0 and json.loads(out)["protocol"]["items"]["done"] == 2
    status, out, _ = call("reproduce 10 --scale smoke --workers 0 --json --sweep sweeps/pendulum-smoke")
    assert status == 0 and json.loads(out)["out"] == "figures/10-smoke"


def test_a_table_that_is_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "start", sweeping.quick_scores)
    monkeypatch.chdir(tmp_path)
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(StoppedError, match="left"):
        reproduce(EXPERIMENTS["4"], "4", "smoke", "out", sweeping=Sweeping(stop=stop))
    assert not list((tmp_path / "out").iterdir())
    half = reproduce(EXPERIMENTS["4"], "4", "smoke", "half", sweeping=Sweeping(only_finished=True))
    assert half["protocol"]["items"]["left"] > 0
    whole = reproduce(EXPERIMENTS["4"], "4", "smoke", "out")
    assert whole["protocol"]["items"] == {"total": 2, "done": 2, "failed": 0, "left": 0}


def test_what_another_machine_has_finished_is_not_trained_again(tmp_path, monkeypatch, call):
    """Half of the items there and half of them here are the table of one sweep."""
    trained, asked = [], []

    def start(config, *arguments, **options):
        trained.append(config.horizon)
        return sweeping.quick_scores(config, *arguments, **options)

    def stop():
        asked.append(1)
        return len(asked) > 1

    monkeypatch.setattr(work, "start", start)
    experiment = EXPERIMENTS["4"]
    whole = reproduce(experiment, "4", "smoke", "whole", sweeping=Sweeping("there"))
    with pytest.raises(StoppedError):
        reproduce(experiment, "4", "smoke", "half", sweeping=Sweeping("half-sweep", stop=stop))
    reproduce(experiment, "4", "smoke", "half", sweeping=Sweeping("half-sweep", only_finished=True))
    half, trained[:] = len(trained) - 2, []
    status, out, _ = call(
        "reproduce 4 --scale smoke --workers 0 --sweep rest --earlier half --out both --json"
    )
    assert status == 0 and half == 1 == len(trained)
    assert json.loads(out)["protocol"]["items"] == {"total": 2, "done": 2, "failed": 0, "left": 0}
    assert json.loads(out)["verdicts"] == whole["verdicts"]
    for name in ("runs", "items"):
        tables = [read_table(tmp_path / folder / f"{name}.parquet").columns() for folder in ("both", "whole")]
        for timed in ("seconds", "device"):
            [table.pop(timed, None) for table in tables]
        assert tables[0] == tables[1], name
    # Nothing is left to train.
    trained.clear()
    assert call("reproduce 4 --scale smoke --workers 0 --sweep none --earlier both --out again")[0] == 0
    assert not trained
    for line, message in {
        "--earlier there": "earlier: there holds no results",
        "--earlier whole --scale cpu": "earlier: whole holds pendulum_training at scale smoke, not",
    }.items():
        status, _, err = call(f"reproduce 4 --scale smoke --workers 0 --out no {line}")
        assert status == 2 and message in err and err.count("\n") == 1
    monkeypatch.setattr(training, "code_version", lambda model: "another")
    status, _, err = call("reproduce 4 --scale smoke --workers 0 --sweep rest --earlier both --out no")
    assert status == 2 and "mix-versions: 2 of 2 earlier results are of another code version" in err
    assert not (tmp_path / "no" / "items.parquet").exists()


@pytest.mark.parametrize(
    ("line", "option", "allowed"),
    [
        ("reproduce 1", "FIGURE", "theory"),
        ("reproduce 7 --scale big", "--scale", "smoke"),
        ("reproduce 7 --scale smoke --workers -1", "--workers", "from 1 to"),
        ("reproduce 2 --sweep there", "--sweep", "trained policies"),
        ("reproduce theory --only-finished", "--only-finished", "trained policies"),
    ],
)
def test_mistakes_are_one_line(call, tmp_path, line, option, allowed):
    status, out, err = call(line)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"asmpg: {option}") and allowed in err
    assert not [path for path in tmp_path.iterdir() if path.name != "figures" or any(path.rglob("*.json"))]
