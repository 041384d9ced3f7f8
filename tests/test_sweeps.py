"""Sweeps: what an item is, and that every item is done once and to the bit, whatever happens meanwhile."""

import dataclasses
import json
import multiprocessing
import pathlib
import pickle
import random
import re
import shutil
import time
import warnings

import pytest

import asmpg
import sweeping
from asmpg import TrainConfig, UsageError
from asmpg.core.files import seal, unseal
from asmpg.experiments import SUITES
from asmpg.sweeps import code, Grid, load_suite, look, make_suite, open_store, sweep, tidy, work
from asmpg.sweeps.engines import InProcess, Local, make_engine
from asmpg.sweeps.suite import identify
from asmpg.sweeps.timing import makespan, Speeds
from asmpg.training.runs import checkpoint, RunWarning, StorageError
from asmpg.training.stored_config import to_json
from probes import RewardIsState
from sweeping import load, NUM_ITEMS, NUM_SEEDS, STEPS, table, trainings, wait_for, write_suite
from wanderer import Wanderer


pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that was never stopped; its suite's file and its results."""
    folder = tmp_path_factory.mktemp("whole")
    file = write_suite(folder)
    state = sweeping.sweep(file, folder / "out")
    assert len(state.finished) == len(trainings(file)) == NUM_ITEMS
    return file, folder / "out"


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory):
    """Another, of items that were not really trained."""
    folder = tmp_path_factory.mktemp("unspoilt")
    with pytest.MonkeyPatch.context() as patch, sweeping.pretending(patch):
        sweeping.sweep(write_suite(folder), folder / "out")
    return folder


@pytest.fixture
def pretended(unspoilt, tmp_path, monkeypatch):
    """The same in a folder that a test may spoil; no more items are trained."""
    shutil.copytree(unspoilt, tmp_path, dirs_exist_ok=True)
    with sweeping.pretending(monkeypatch):
        yield tmp_path / "suite.toml", tmp_path / "out"


def results(out) -> list[pathlib.Path]:
    return sorted((pathlib.Path(out) / "results").iterdir())


def stop_after(number: int):
    calls = iter(range(10**9))
    return lambda: next(calls) >= number


# What a suite is


def test_an_item_is_named_by_everything_that_its_numbers_depend_on(tmp_path):
    base = TrainConfig("bioreactor", horizon=8, model="one-step", steps=80)
    changes = [
        *(
            {"task": "harvest"},
            {"horizon": 10},
            {"model": "lstm"},
            {"steps": 88},
            {"seed": 1},
            {"num_seeds": 2},
        ),
        *({"preset": "paper"}, {"loop": "closed"}, {"overrides": {"entropy": 0.5}}, {"chunk_steps": 8}),
    ]
    names = {identify(base), *(identify(dataclasses.replace(base, **change)) for change in changes)}
    assert len(names) == 1 + len(changes)
    same = {"entropy": base.settings().entropy}
    assert identify(dataclasses.replace(base, overrides=same, out="elsewhere")) == identify(base)
    file = write_suite(tmp_path)
    before = [item.id for item in load(file).items]
    task = file.with_name("task.py")
    task.write_text(task.read_text() + "# changed\n")
    assert not {*before} & {item.id for item in load(file).items}


def test_an_item_can_be_sent_to_another_process():
    """Whatever was resolved of its configuration here is found again there."""
    (item,) = make_suite("one", "cpu", [Grid(["harvest"], [8], ["lstm"], {"steps": 80})]).items
    assert item.config.resolve() is not None
    sent = pickle.loads(pickle.dumps(item))
    assert sent == item
    assert identify(sent.config) == item.id


def test_a_suite_is_every_combination_once(tmp_path):
    suite = load(write_suite(tmp_path))
    chosen = [(item.config.horizon, item.config.overrides["entropy"]) for item in suite.items]
    assert chosen == [(4, 0.1), (4, 0.01), (4, 0.001)]
    assert all(item.config.num_seeds == NUM_SEEDS and item.config.out is None for item in suite.items)
    grid = Grid(["harvest"], [8], ["lstm"], {"steps": 80, "loop": ["open", "closed"]})
    assert len(make_suite("twice", "cpu", [grid, grid]).items) == 2


def test_scales_and_grids_of_a_file_replace_what_is_outside_of_them(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'tasks = ["harvest"]\nhorizons = [8]\nmodels = ["lstm"]\nsteps = 80\n[settings]\nentropy = 0.5\n'
        "[paper]\nsteps = 160\n"
        '[[grid]]\nmodels = ["rnn"]\nsettings = {warmup_steps = 16}\n[[grid]]\nhorizons = [10]\n'
    )
    one, other = load_suite(str(file), "paper", {}).items
    assert (one.config.model, one.config.horizon, one.config.steps) == ("rnn", 8, 160)
    assert one.config.overrides == {"entropy": 0.5, "warmup_steps": 16}
    assert (other.config.model, other.config.horizon, other.config.overrides) == (
        "lstm",
        10,
        {"entropy": 0.5},
    )
    assert load_suite(str(file), "cpu", {}).items[0].config.steps == 80


def test_a_python_file_says_the_same_as_a_toml_file(tmp_path):
    toml = write_suite(tmp_path)
    python = tmp_path / "suite.py"
    (tmp_path / "neighbour_of_a_suite.py").write_text("import tomllib\nread = tomllib.loads\n")
    python.write_text(
        "import pathlib, neighbour_of_a_suite\n"
        f"def suite(scale):\n    return neighbour_of_a_suite.read(pathlib.Path({str(toml)!r}).read_text())\n"
    )
    assert [item.id for item in load(python).items] == [item.id for item in load(toml).items]


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("name =", "title =", "'title' is not one of"),
        ('"tiny"', '"../tiny"', "name: must be up to 100 letters"),
        ("task.py:Probe", "chess", "'chess' is not one of"),
        ("task.py:Probe", "task.py:Nothing", "has no 'Nothing'"),
        ("[4]", "4", "horizons: must be a list of integers"),
        ("[4]", '["4"]', "horizons: must be a list of integers"),
        ("task.py:learner", "gpt", "'gpt' is not one of"),
        ("task.py:learner", "task.py:nobody", "has no 'nobody'"),
        ("steps = 160", "steps = 3", "steps: must be at least one episode"),
        ("entropy", "entropie", "entropie: "),
        ("0.01", "-1", "entropy: must be a number >= 0, got -1"),
        ("seeds = 2", "seeds = [", "is not TOML"),
        ("seeds = 2", "seeds = 0", "num_seeds: must be an integer from 1 to "),
        ("[settings]", "[[grid]]\n[settings]", None),
        ("[settings]", "[paper]", None),
        ("[settings]", "[cpu]\nentropie = 1\n[settings]", "'entropie'"),
    ],
)
def test_mistakes_in_a_suite_are_one_line(tmp_path, was, now, message):
    file = write_suite(tmp_path, sweeping.SUITE.replace(was, now, 1))
    if message is None:
        assert load(file).items
        return
    with pytest.raises(UsageError) as error:
        load(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_suite_may_be_an_object_of_a_file_or_a_package(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from asmpg.sweeps import Grid, make_suite\n"
        "grid = Grid(['harvest'], [8], ['lstm'], {'steps': 80})\n"
        "def grids(scale):\n    return [grid, Grid(['harvest'], [10], ['rnn'], {'steps': 160})]\n"
        "whole = make_suite('whole', 'cpu', [grid])\n"
        "table = {'tasks': ['harvest'], 'horizons': [8], 'models': ['lstm'], 'steps': 80}\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in (f"{tmp_path}/mine.py", "mine"):
        suites = {
            name: load_suite(f"{place}:{name}", "cpu", {}) for name in ("grid", "grids", "whole", "table")
        }
        assert {name: suite.name for name, suite in suites.items()} == {name: name for name in suites}
        items = {suite.items[0].id for suite in suites.values()}
        assert len(items) == 1
        assert len(suites["grids"].items) == 2
        for name, words in (("number", "must be a Suite"), ("nothing", "nothing")):
            with pytest.raises(UsageError, match=f"^SUITE: .*{words}") as error:
                load_suite(f"{place}:{name}", "cpu", {})
            assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"there is no module no\.such\.package"):
        load_suite("no.such.package:suite", "cpu", {})


@pytest.mark.parametrize("content", ["a = " + "[" * 2000 + "]" * 2000, "= 3", "\udcff"])
def test_a_file_that_is_no_toml_is_one_line(tmp_path, content):
    (tmp_path / "mine.toml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match="is not TOML") as error:
        load_suite(str(tmp_path / "mine.toml"), "cpu", {})
    assert "\n" not in str(error.value)


def test_a_toml_file_may_begin_with_a_mark(tmp_path):
    file = write_suite(tmp_path)
    before = [item.id for item in load(file).items]
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [item.id for item in load(file).items] == before


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("name", SUITES)
def test_the_built_in_suites_can_be_run_or_name_what_is_missing(name, scale):
    # One task and horizon of each grid will do: solving for the stability of all of them takes its time.
    grids = [dataclasses.replace(g, tasks=g.tasks[:1], horizons=g.horizons[:1]) for g in SUITES[name](scale)]
    models = {model for grid in grids for model in grid.models}
    options = {option for grid in grids for option in grid.options} - {"seeds"}
    if not (models <= asmpg.MODELS.keys() and options <= TrainConfig.__dataclass_fields__.keys()):
        with pytest.raises(UsageError, match="is not one of"):
            load_suite(name, scale, SUITES)
        return
    items = make_suite(name, scale, grids).items
    assert {item.config.model for item in items} == models
    if scale == "paper":
        steps = 100_000 if name == "pendulum" else 200_000
        assert {(item.config.num_seeds, item.config.steps) for item in items} == {(10, steps)}
        presets = {(item.config.model, item.config.preset) for item in items}
        # What makes the one-step model fall is asked of our preset alone, one setting after the other.
        alone = {"one_step": ("default",), "paper_preset": ("paper",)}
        wanted = alone.get(name, ("paper", "default"))
        assert presets == {(model, preset) for model in models for preset in wanted}
        swept = {item.config.settings().entropy for item in items if item.config.model == "lstm"}
        assert not swept or name in alone or swept >= {0.1, 0.01, 0.001}


# Doing it


def test_a_result_has_the_records_of_its_run_though_their_file_cannot_be_read(
    unspoilt, tmp_path, monkeypatch
):
    monkeypatch.setattr(work.RunFolder, "read", lambda self, name: b"")
    with sweeping.pretending(monkeypatch):
        state = sweeping.sweep(write_suite(tmp_path), tmp_path / "out")
    assert len(state.finished) == NUM_ITEMS
    assert [result.history.lines for result in state.finished.values()] == [
        result.history.lines
        for result in look(load(unspoilt / "suite.toml"), open_store(str(unspoilt / "out"))).finished.values()
    ]


def test_the_table_has_a_row_for_every_record_of_every_seed(whole):
    file, out = whole
    columns = tidy.read_table(open_store(str(out)), "tiny-cpu")
    assert columns is not None
    state = look(load(file), open_store(str(out)))
    records = [len(result.history.records) for result in state.finished.values()]
    assert len(columns["item"]) == NUM_SEEDS * sum(records)
    assert [*columns][:5] == ["item", "task", "horizon", "model", "preset"]
    assert {*columns["entropy"]} == {0.1, 0.01, 0.001}  # as chosen, though one is measured too
    assert columns["measured_entropy"] == [-push for push in columns["push"]]
    assert {*columns["seed"]} == {0, 1}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    last = [row for row in rows if row["steps"] == STEPS]
    assert len(last) == NUM_ITEMS * NUM_SEEDS
    assert max(columns["steps"]) == STEPS
    config = load(file).items[0].config
    alone = asmpg.train(config)
    assert [row["return"] for row in last if row["item"] == identify(config)] == alone.returns.tolist()


def test_a_table_survives_the_way_to_the_disk_and_back(tmp_path):
    columns = {
        "item": ["a", "b", None],
        "steps": [1, 2, None],
        "x": [0.1, None, 1e-300],
        "flag": [True, False, None],
    }
    store = open_store(str(tmp_path))
    assert tidy.write_table(store, "t", columns) == "t.parquet"
    assert tidy.read_table(store, "t") == columns


def test_what_is_finished_is_never_computed_again(pretended):
    file, out = pretended
    before, number = table(out), len(trainings(file))
    times = [path.stat().st_mtime_ns for path in results(out)]
    sweeping.sweep(file, out)
    assert len(trainings(file)) == number
    assert [path.stat().st_mtime_ns for path in results(out)] == times
    assert table(out) == before


def test_a_suite_that_grows_keeps_what_it_has(pretended):
    file, out = pretended
    number = len(trainings(file))
    bigger = file.with_name("bigger.toml")
    bigger.write_text(sweeping.SUITE.replace("[4]", "[4, 5]"))
    state = sweeping.sweep(bigger, out)
    assert len(state.finished) == 2 * NUM_ITEMS
    assert len(trainings(file)) == number + NUM_ITEMS
    assert not state.strange


def test_stopped_and_taken_up_it_ends_as_ever(whole, tmp_path):
    file, expected = whole
    out = tmp_path / "out"
    state = sweeping.sweep(file, out, stop=stop_after(30))
    assert len(state.finished) < NUM_ITEMS
    while len(state.finished) < NUM_ITEMS:
        state = sweeping.sweep(file, out, stop=stop_after(15))
    assert table(out) == table(expected)
    assert not list((out / "work").iterdir())
    assert not list((out / "progress").iterdir())


def test_a_stopped_item_goes_on_from_its_checkpoint(whole, tmp_path, monkeypatch):
    file, _ = whole
    out = tmp_path / "out"
    sweeping.sweep(file, out, stop=stop_after(8))
    (begun,) = (out / "work").iterdir()
    lines = (begun / "metrics.jsonl").read_bytes()
    assert lines.count(b"\n") >= 3
    first = load(file).items[0].id
    assert begun.name == first
    said = list[asmpg.training.runs.Progress]()
    real = work.start
    monkeypatch.setattr(work, "start", lambda config, report, *rest: real(config, said.append, *rest))
    sweeping.sweep(file, out, stop=stop_after(6))
    assert (
        min(progress.steps for progress in said if progress.stage == "training")
        > json.loads(lines.splitlines()[-1])["steps"]
    )


def test_a_failure_is_recorded_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "start", sweeping.pretend)
    file = write_suite(
        tmp_path, sweeping.SUITE.replace('"task.py:Probe"', '"task.py:faulty", "task.py:Probe"')
    )
    out = tmp_path / "out"
    state = sweeping.sweep(file, out)
    assert (len(state.finished), len(state.failed), state.left()) == (NUM_ITEMS, NUM_ITEMS, [])
    assert {*state.failed.values()} == {"RuntimeError: out of order"}
    kept = json.loads(next((out / "failures").iterdir()).read_text())
    assert "Traceback" in kept["traceback"]
    number = len(trainings(file))
    assert len(sweeping.sweep(file, out).failed) == NUM_ITEMS
    assert len(trainings(file)) == number  # not tried again unasked
    (tmp_path / "cure").touch()
    state = sweeping.sweep(file, out, retry_failed=True)
    assert (len(state.finished), len(state.failed)) == (2 * NUM_ITEMS, 0)
    assert not list((out / "failures").iterdir())


def faulty_suite(folder) -> pathlib.Path:
    return write_suite(folder, sweeping.SUITE.replace('"task.py:Probe"', '"task.py:faulty"'))


def test_a_failure_on_an_object_store_is_one_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "start", sweeping.pretend)
    file, url = faulty_suite(tmp_path), f"memory://{tmp_path.name}/failing"
    for _ in range(2):
        state = sweeping.sweep(file, url)
        assert (len(state.failed), state.running, state.left()) == (NUM_ITEMS, {}, [])
        assert len(trainings(file)) == NUM_ITEMS  # not tried again unasked


def test_what_another_process_has_failed_at_is_not_tried_again(pretended):
    """It may have failed after this process made up its list."""
    file, out = pretended
    results(out)[0].unlink()
    number, suite, store = len(trainings(file)), load(file), open_store(str(out))
    item = next(item for item in suite.items if not (out / "results" / f"{item.id}.json").exists())
    job = work.Job(item.id, item.config, store.url, "any", mix_versions=True)
    work.record_failure(store, item.id, RuntimeError("out of order"))
    outcome = work.do(job)
    assert (outcome.kind, outcome.message) == ("failed", "RuntimeError: out of order")
    assert len(trainings(file)) == number
    (out / "failures" / f"{item.id}.json").write_text("[]")  # of somebody else
    assert work.do(job).message == "of unknown reason"


LACKING = {
    "no code": lambda content: content.pop("code"),
    "no settings": lambda content: content["config"].pop("settings"),
    "no speed": lambda content: content["timing"].update(steps_per_second=None),
    "no reference": lambda content: content.update(reference=[1]),
    "no records": lambda content: content.update(records=7),
    "torn records": lambda content: content.update(records=content["records"][:-9]),
    "other seeds": lambda content: content["config"].update(num_seeds=7),
}


SPOILT = {
    "half": lambda content, other: content[: len(content) // 2],
    "empty": lambda content, other: b"",
    "edited": lambda content, other: content.replace(b'"seed": 0', b'"seed": 7'),
    "foreign": lambda content, other: seal({**unseal(content), "format": 99}),
    "renamed": lambda content, other: other,
}


def spoil(how: str, content: bytes, other: bytes) -> bytes:
    """What a result may become; another's content is at hand."""
    if how in SPOILT:
        return SPOILT[how](content, other)
    lacking = unseal(content)
    LACKING[how](lacking)
    return seal(lacking)


WAYS = [*SPOILT, *LACKING]


@pytest.mark.parametrize(
    "ways", [WAYS[i : i + NUM_ITEMS] for i in range(0, len(WAYS), NUM_ITEMS)], ids=", ".join
)
def test_a_result_that_is_no_good_is_set_aside_and_computed_again(pretended, ways):
    """Every item's in another way."""
    file, out = pretended
    before, number = table(out), len(trainings(file))
    paths = results(out)
    contents = [path.read_bytes() for path in paths]
    spoilt = {
        path: spoil(how, content, contents[place - 1])
        for place, (path, content, how) in enumerate(zip(paths, contents, ways, strict=True))
    }
    for path, content in spoilt.items():
        assert path.read_bytes() != content
        path.write_bytes(content)
    state = look(load(file), open_store(str(out)))
    assert {*state.damaged} == {path.stem for path in spoilt}
    assert [path.read_bytes() for path in paths] == [*spoilt.values()]  # looking changes nothing
    with pytest.warns(RunWarning) as warned:
        sweeping.sweep(file, out)
    said = [str(warning.message) for warning in warned]
    for path, content in spoilt.items():
        assert any(re.search(f"{path.name} .*aside/{path.name}.1.*again", line) for line in said)
        assert (out / "aside" / f"{path.name}.1").read_bytes() == content
    assert len(trainings(file)) == number + len(spoilt)
    assert table(out) == before


def test_what_is_no_result_at_all_is_said_and_left_alone(pretended):
    file, out = pretended
    (out / "results" / "notes.txt").write_text("mine")
    with pytest.warns(RunWarning, match="notes.txt is no result"):
        sweeping.sweep(file, out)
    assert (out / "results" / "notes.txt").read_text() == "mine"
    (out / "results" / "notes.txt").rename(out / "notes.txt")
    (out / "results" / "folder.json").mkdir()
    with pytest.warns(RunWarning, match="folder.json is no result"):
        sweeping.sweep(file, out)


def test_results_of_other_code_are_not_mixed_unasked(pretended, monkeypatch):
    file, out = pretended
    results(out)[0].unlink()
    for module in ("state", "sweep", "work"):
        monkeypatch.setattr(f"asmpg.sweeps.{module}.code_version", lambda model="": "9.9+other")
    with pytest.raises(UsageError, match="mix_versions: 2 of 2 results are of another code version"):
        sweeping.sweep(file, out)
    assert len(results(out)) == NUM_ITEMS - 1
    state = sweeping.sweep(file, out, mix_versions=True)
    assert len(state.finished) == NUM_ITEMS
    columns = tidy.read_table(open_store(str(out)), "tiny-cpu")
    assert columns is not None
    by_code = {
        code: {i for i, c in zip(columns["item"], columns["code"], strict=True) if c == code}
        for code in {*columns["code"]}
    }
    assert sorted(map(len, by_code.values())) == [1, 2]
    assert len(by_code["9.9+other"]) == 1


def test_what_other_code_has_begun_begins_again(whole, tmp_path, monkeypatch):
    file, expected = whole
    out = tmp_path / "out"
    with monkeypatch.context() as other:
        for module in (sweep, work):
            other.setattr(module, "code_version", lambda model="": "9.9+other")
        sweeping.sweep(file, out, stop=stop_after(8))
    assert list((out / "work").iterdir())
    with pytest.warns(RunWarning, match="begun by another code version"):
        sweeping.sweep(file, out)
    assert table(out) == table(expected)


def test_a_result_names_all_code_that_had_a_part_in_it(whole, tmp_path, monkeypatch):
    file = whole[0]
    out = tmp_path / "out"
    with monkeypatch.context() as other:
        for module in (sweep, work):
            other.setattr(module, "code_version", lambda model="": "9.9+other")
        sweeping.sweep(file, out, stop=stop_after(8))
    (begun,) = (path.name for path in (out / "work").iterdir())
    for _ in range(2):  # begun by the other, gone on with by this one in two goes
        state = sweeping.sweep(file, out, mix_versions=True, stop=stop_after(8))
    state = sweeping.sweep(file, out, mix_versions=True)
    both = f"9.9+other, {work.code_version('one-step')}"
    assert state.finished[begun].code == both and both in state.other_codes()
    assert len(state.finished) == NUM_ITEMS


def test_a_begun_run_that_is_damaged_begins_again(whole, tmp_path):
    file, expected = whole
    out = tmp_path / "out"
    sweeping.sweep(file, out, stop=stop_after(8))
    for arrays in (out / "work").rglob("arrays.safetensors"):
        arrays.write_bytes(b"")
    with pytest.warns(RunWarning, match="begins again"):
        sweeping.sweep(file, out)
    assert table(out) == table(expected)


def test_an_object_store_holds_the_same_and_is_taken_up_from(whole, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    file, expected = whole
    url = "memory://bucket/sweep"
    state = sweeping.sweep(file, url, stop=stop_after(30))
    begun = fsspec.filesystem("memory").find("/bucket/sweep/work")
    items = {pathlib.PurePosixPath(name).parts[4].removesuffix(".zip") for name in begun}
    assert len(items) == 1 and len(begun) > 1
    assert 0 < len(state.finished) < NUM_ITEMS
    sweeping.sweep(file, url)
    store, local = open_store(url), open_store(str(expected))
    assert tidy.read_table(store, "tiny-cpu") == tidy.read_table(local, "tiny-cpu")
    assert not fsspec.filesystem("memory").find("/bucket/sweep/work")
    number = len(trainings(file))
    sweeping.sweep(file, url)
    assert len(trainings(file)) == number


def test_an_object_store_is_given_what_is_new(tmp_path, monkeypatch):
    """Every piece crosses the line once, however many records there are; what is out of date is not kept."""
    pytest.importorskip("fsspec")
    store = open_store(f"memory://{tmp_path.name}/store")
    given, write = list[str](), store.write
    monkeypatch.setattr(store, "write", lambda name, data: given.append(name) or write(name, data))
    config = TrainConfig(RewardIsState(horizon=4), model=Wanderer, steps=200, chunk_steps=8)
    config = dataclasses.replace(config, overrides={"warmup_steps": 12})
    with store.working("item") as path:
        config = dataclasses.replace(config, out=str(path)).checked()
        work.start(config, lambda progress: progress.stage == "training" and store.keep("item", path))
        pieces = [file.name for file in checkpoint.newest_files(path / "checkpoint")[1]]
        local = sorted(file.name for file in (path / "checkpoint").glob("piece.*"))
    crossed = [name for name in given if "/piece." in name]
    assert len(pieces) > 5 and len(crossed) == len({*crossed}) >= 2 * len(pieces) - 1
    assert store.names("work/item") == local
    with store.working("item") as again:
        assert asmpg.load(again, task=RewardIsState(horizon=4), model=Wanderer).steps == 200
        store.forget("item", again)
    assert not store.names("work") and not store.names("work/item")


def test_a_run_is_taken_up_from_an_object_store_without_a_word(whole, tmp_path):
    pytest.importorskip("fsspec")
    file, url = whole[0], f"memory://{tmp_path.name}/sweep"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        sweeping.sweep(file, url, stop=stop_after(30))
        sweeping.sweep(file, url)


def test_an_object_store_refuses_in_one_line(tmp_path, monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    store = open_store(f"memory://{tmp_path.name}/store")
    store.write("results/a.json", b"1")

    def refuse(*args, **options):
        raise RuntimeError("403:\n forbidden")  # of a library that nobody here knows

    for name in ("cat_file", "pipe_file", "rm_file", "ls"):
        monkeypatch.setattr(type(memory), name, refuse)
    calls = {
        "read": lambda: store.read("results/a.json"),
        "write": lambda: store.write("results/a.json", b"2"),
        "remove": lambda: store.remove("results/a.json"),
        "list": lambda: store.names("results"),
    }
    for verb, call in calls.items():
        with pytest.raises(StorageError, match=rf"cannot {verb} memory://.*: 403: forbidden$"):
            call()


def test_folders_behind_a_url_are_made(tmp_path):
    """Some kinds of URL have folders, which must be there before a file is."""
    pytest.importorskip("fsspec")
    store = open_store(f"dir://sub/deep::file://{tmp_path}")
    store.write("results/a.json", b"1")
    assert (
        (tmp_path / "sub" / "deep" / "results" / "a.json").read_bytes()
        == store.read("results/a.json")
        == b"1"
    )
    assert open_store(f"local://{tmp_path}").url == str(tmp_path)


# Processes


@pytest.fixture(scope="module")
def context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asmpg", "probes", "wanderer", "sweeping", "asmpg.sweeps.sweep"])
    return context


def test_two_processes_on_one_folder_do_every_item_once(whole, tmp_path, context):
    expected = whole[1]
    file, out = write_suite(tmp_path), tmp_path / "out"
    arguments = (str(file), str(out), 0, context.Barrier(2))
    processes = [context.Process(target=sweeping.in_another_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    done = trainings(file)
    assert len(done) == NUM_ITEMS
    assert len({line.split()[0] for line in done}) == 2  # both took part
    assert table(out) == table(expected)
    assert not (out / "aside").exists()


def kill_at_random(file, out, context, num_kills: int, workers: int) -> None:
    """Starts the sweep as often, and kills it each time soon after it has begun to do something."""
    moments = random.Random(num_kills)

    def written() -> int:
        try:
            return sum(path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl"))
        except FileNotFoundError:  # a run that is finished is removed
            return -1

    for _ in range(num_kills):
        before = written()
        process = context.Process(target=sweeping.in_another_process, args=(str(file), str(out), workers))
        process.start()
        wait_for(lambda before=before, process=process: written() != before or not process.is_alive())
        time.sleep(moments.uniform(0.0, 0.15))
        process.kill()
        process.join()


def test_killed_a_few_times_the_table_is_the_same_bit_for_bit(whole, tmp_path, context):
    file, expected = whole
    out = tmp_path / "out"
    kill_at_random(file, out, context, 3, workers=0)
    sweeping.sweep(file, out)
    assert table(out) == table(expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twenty_times_the_table_is_the_same_bit_for_bit(tmp_path, context):
    """With two workers, which end with the process that started them and is killed."""
    file = write_suite(tmp_path, sweeping.SUITE.replace("steps = 160", "steps = 1600"))
    out, expected = tmp_path / "out", tmp_path / "expected"
    kill_at_random(file, out, context, 20, workers=2)
    assert look(load(file), open_store(str(out))).left()  # the last kill still hit something
    sweeping.sweep(file, out)
    sweeping.sweep(file, expected)
    assert table(out) == table(expected)


@pytest.mark.thorough
def test_a_pool_gives_the_same_and_outlives_its_processes(tmp_path, whole):
    """One kind of item ends every process that tries it; that is recorded, and the others are done."""
    file = write_suite(
        tmp_path,
        sweeping.SUITE.replace('"task.py:Probe"', '"task.py:deadly", "task.py:Probe"').replace(
            "[0.1, 0.01, 0.001]", "[0.1]"
        ),
    )
    out = tmp_path / "out"
    state = sweeping.sweep(file, out, Local(2))
    assert len(state.finished) == 1
    assert {*state.failed.values()} == {"RuntimeError: its process ended with status 3, 3 times"}
    columns, expected = (tidy.read_table(open_store(str(o)), "tiny-cpu") for o in (out, whole[1]))
    assert columns is not None
    assert expected is not None
    assert columns["return"] == expected["return"][: len(columns["return"])]


# Code


def test_comments_and_docstrings_are_no_code():
    source = 'def f(x):\n    """Doubles."""\n    # twice\n    return 2 * x\n\n\nLIMIT = 3\n"""Of all."""\n'
    same = "def f( x ):\n    return (2*x)  # of course\nLIMIT = 3\n"
    assert code.bare(source) == code.bare(same)
    assert code.bare(source) != code.bare(source.replace("2 * x", "3 * x"))
    assert code.bare('class A:\n    """Nothing."""\n') == code.bare("class A:\n    pass\n")


def test_only_a_models_own_backbone_counts(monkeypatch, tmp_path):
    """Another one, changed or new, leaves the version of all others as it was."""
    package = tmp_path / "asmpg"
    shutil.copytree(code._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "_PACKAGE", package)
    monkeypatch.setattr(code, "_BACKBONES", package / "models" / "backbones")

    def versions() -> dict[str, str]:
        code.code_version.cache_clear()
        return {
            name: code.code_version(name) for name in ("lstm", "history-lstm", "gru", "transformer", "sac")
        }

    def changed() -> set[str]:
        now = versions()
        return {name for name in now if now[name] != before[name]}

    before = versions()
    file = package / "models" / "backbones" / "recurrent.py"
    source = file.read_text()
    file.write_text(source.replace('"""', '"""Of old. ', 1))
    assert not changed()
    file.write_text(source + "\nNEW = 1\n")
    assert changed() == {"lstm", "history-lstm", "gru"}  # which is made of it
    file.write_text(source)
    (package / "models" / "backbones" / "mamba.py").write_text("NEW = 1\n")
    assert not changed()
    loop = package / "training" / "loop.py"
    loop.write_text(loop.read_text() + "\nNEW = 1\n")
    assert changed() == {*before}
    code.code_version.cache_clear()


# Time


def test_items_take_as_long_as_those_of_their_kind():
    speeds, steps = Speeds(), 1000
    config = TrainConfig("bioreactor", horizon=20, model="one-step", steps=steps, num_seeds=3)
    assert speeds.seconds(config) is None
    for speed, starting in ((100.0, 1.0), (300.0, 3.0)):
        speeds.add(to_json(config), {"steps_per_second": speed, "starting_seconds": starting})
    per_step = (1 / 100 + 1 / 300) / 2
    assert speeds.seconds(config) == pytest.approx(2.0 + steps * per_step)
    assert speeds.seconds(config, steps=500) == pytest.approx(2.0 + 500 * per_step)
    assert speeds.seconds(dataclasses.replace(config, task="harvest")) is not None
    assert speeds.seconds(dataclasses.replace(config, horizon=10)) is None
    assert speeds.seconds(dataclasses.replace(config, model="lstm")) is None
    assert speeds.seconds(dataclasses.replace(config, overrides={"entropy": 0.3})) is not None
    assert speeds.seconds(dataclasses.replace(config, overrides={"model_batch_size": 3})) is None


def test_one_item_of_every_unknown_kind_is_tried():
    grid = Grid(
        ["harvest", "bioreactor"], [8, 20, 50], ["lstm", "one-step"], {"steps": 80}, {"entropy": [0.1, 0.2]}
    )
    suite = make_suite("x", "cpu", [grid])
    chosen = [(item.config.model, item.config.horizon) for item in Speeds().lacking(suite.items)]
    assert sorted(chosen) == [(model, horizon) for model in ("lstm", "one-step") for horizon in (8, 20, 50)]


def test_the_last_of_several_workers_decides():
    assert makespan([], 2) == 0.0
    assert makespan([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert makespan([1.0, 1.0, 3.0], 2) == 4.0


def test_trials_write_nothing_and_predict(whole, tmp_path):
    file, _ = whole
    store = open_store(str(tmp_path / "out"))
    state = look(load(file), store)
    assert state.seconds_left(1) is None
    assert not sweep.calibrate(state, InProcess())
    seconds = state.seconds_left(1)
    assert seconds is not None
    assert 0.0 < seconds < 300.0
    assert state.seconds_left(2) < seconds
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slurm", {}, "engine: 'slurm' is not one of local, ray"),
        ("local", {"workers": -1}, "workers"),
        ("local", {"address": "auto"}, "address"),
        ("local", {"gpus_per_job": 1.0}, "gpus_per_job"),
        ("ray", {"workers": 2}, "workers"),
    ],
)
def test_engines_refuse_what_they_cannot_do(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_engine(name, **options)


# A cluster


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_loses_a_node_ends_like_one_machine(tmp_path, monkeypatch):
    """Two nodes of which one is killed while it works; every item is finished and equal to the pool's."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from asmpg.sweeps.engines import Ray

    monkeypatch.setenv("RAY_worker_niceness", "0")
    content = sweeping.SUITE.replace("steps = 160", "steps = 1600")
    file = write_suite(tmp_path, content)
    pool, out = tmp_path / "pool", tmp_path / "ray"
    sweeping.sweep(file, pool, Local(2))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    killed = list[str]()

    def watch(seen):
        begun = {path.name for path in (out / "work").glob("*") if (path / "checkpoint").exists()}
        if not killed and len(begun) == 2:
            killed.extend(begun)
            cluster.remove_node(lost, allow_graceful=False)

    try:
        state = sweeping.sweep(file, out, Ray(cluster.address), watch=watch)
    finally:
        cluster.shutdown()
    assert len(killed) == 2
    assert (len(state.finished), state.failed) == (NUM_ITEMS, {})
    assert table(out) == table(pool)
