"""Runs: what a folder holds, and that stopping, damage and kills change nothing about what comes out."""

import dataclasses
import errno
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import threading
import time
import warnings
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import asmpg
from asmpg import TrainConfig, UsageError
from asmpg.core import files
from asmpg.core.files import from_lines, seal, to_line, unseal
from asmpg.training.runs import checkpoint, lifecycle, plots, RunWarning, scores, session, StorageError
from asmpg.training.runs.folder import RunFolder
from asmpg.training.runs.journal import Journal
from asmpg.training.runs.records import History
from asmpg.training.stored_config import from_json, to_json
from probes import RewardIsState
from toys import bits
from wanderer import Wanderer


# Two episodes a record, a warm-up of four, an end in the middle of a chunk.
TASK = RewardIsState(horizon=8)
CONFIG = TrainConfig(
    TASK,
    model=Wanderer,
    steps=200,
    num_seeds=2,
    chunk_steps=16,
    overrides={"warmup_steps": 32, "model_batch_size": 4, "policy_batch_size": 4},
)
NUM_RECORDS = 1 + 11  # one after the warm-up, one a chunk


pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    return asmpg.train(dataclasses.replace(CONFIG, out=str(tmp_path_factory.mktemp("runs") / "whole")))


@pytest.fixture
def copy(whole, tmp_path):
    """The same in a folder that a test may spoil."""
    return pathlib.Path(shutil.copytree(whole.path, tmp_path / "copy"))


def stop_after(num_records: int):
    """A function that asks a run to stop once it has made so many records."""
    calls = iter(range(10**6))
    return lambda: next(calls) + 1 >= num_records


def train_until(config: TrainConfig, num_records: int) -> asmpg.Result:
    result = lifecycle.start(config.checked(), lambda progress: None, stop_after(num_records))
    assert not result.finished
    return result


def resume(path, **options) -> asmpg.Result:
    return asmpg.resume(path, **({"task": TASK, "model": Wanderer} | options))


def load(path, model: Any = Wanderer) -> asmpg.Result:
    return asmpg.load(path, task=TASK, model=model)


def checkpoints(path) -> list[pathlib.Path]:
    return sorted((pathlib.Path(path) / "checkpoint").glob("[0-9]*"))


def assert_same_files(one, other):
    """Metrics and both checkpoints are equal byte for byte: networks, optimisers, buffer, keys and records."""
    one, other = pathlib.Path(one), pathlib.Path(other)
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    pairs = list(zip(checkpoints(one), checkpoints(other), strict=True))
    assert [a.name for a, _ in pairs] == [b.name for _, b in pairs]
    for a, b in pairs:
        assert (a / checkpoint.ARRAYS).read_bytes() == (b / checkpoint.ARRAYS).read_bytes()
        saved, expected = checkpoint.read(a), checkpoint.read(b)
        assert saved.records == expected.records
        assert saved.episodes.first == expected.episodes.first
        rows = [{name: x.tobytes() for name, x in each.episodes.arrays.items()} for each in (saved, expected)]
        assert rows[0] == rows[1]


# What a run gives and what it leaves


def test_a_folder_holds_everything(whole):
    assert {path.name for path in whole.path.iterdir()} >= {
        *("config.json", "metrics.jsonl", "timings.jsonl", "summary.json", "checkpoint", "learning_curve.png")
    }
    assert (whole.path / "learning_curve.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert json.loads((whole.path / "summary.json").read_text()) == whole.summary()
    config = json.loads((whole.path / "config.json").read_text())
    assert config["config"] == to_json(whole.config)
    assert {"asmpg", "jax", "python", "device"} <= config["versions"].keys()
    records = from_lines((whole.path / "metrics.jsonl").read_bytes())
    timings = from_lines((whole.path / "timings.jsonl").read_bytes())
    assert [record["steps"] for record in records] == [32, *range(48, 200, 16), 200]
    assert [timing["steps"] for timing in timings] == [record["steps"] for record in records]
    assert all(timing["peak_memory_bytes"] > 10**7 for timing in timings)
    assert not [name for name in records[0] if "second" in name or "time" in name]
    assert [path.name for path in checkpoints(whole.path)] == ["000000192", "000000200"]


def test_the_records_are_known_from_the_metrics_to_the_bit(whole):
    """Also where a number is not finite."""
    assert History.of(whole.metrics).lines == (whole.path / "metrics.jsonl").read_bytes()
    history = History()
    for steps in (0, 8):
        history.add(
            steps, steps // 4, {"return": np.array([1 / 3, np.nan]), "loss": np.array([-np.inf, 1e-300])}
        )
    assert b"null" in history.lines and History.of(history.metrics()).lines == history.lines


def test_a_result_is_that_of_the_last_record(whole):
    assert whole.finished
    assert whole.steps == 200
    assert whole.scores is None
    assert {array.shape for array in whole.metrics.values()} == {(NUM_RECORDS, 2)}
    assert (whole.returns == whole.metrics["return"][-1]).all()
    np.testing.assert_allclose(whole.evaluate(), whole.returns, rtol=1e-6)


def test_networks_have_a_leading_seed_axis_and_are_resumed_bit_for_bit(tmp_path):
    """A real method with all that it can learn: stopped after its first updates, resumed and read back."""
    config = dataclasses.replace(CONFIG, model="one-step", steps=96, learned_reward=True)
    expected = asmpg.train(config)
    for network in (expected.policy, expected.model):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(network) if eqx.is_array(leaf)} == {2}
    actions = eqx.filter_vmap(lambda policy: policy.mode(expected.env.initial_state(), 0))(expected.policy)
    assert actions.shape == (2, 1)
    assert actions[0] != actions[1]
    assert (expected.metrics["gradient_norm"][-1] > 0).all()
    train_until(dataclasses.replace(config, out=str(tmp_path / "run")), 2)
    for result in (resume(tmp_path / "run", model=None), load(tmp_path / "run", model=None)):
        assert bits((result.policy, result.model)) == bits((expected.policy, expected.model))
        assert all((result.metrics[name] == expected.metrics[name]).all() for name in expected.metrics)


def test_a_folder_is_read_back(whole):
    run = load(whole.path)
    assert bits(run.policy) == bits(whole.policy)
    assert run.metrics.keys() == whole.metrics.keys()
    assert all((run.metrics[name] == whole.metrics[name]).all() for name in run.metrics)
    assert run.config == dataclasses.replace(whole.config, out=str(whole.path))
    assert (run.steps, run.seconds, run.finished) == (whole.steps, whole.seconds, True)
    assert run.env.horizon == 8


def test_nothing_is_written_without_out_and_a_configuration_can_be_run_again(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = json.loads((whole.path / "config.json").read_text())["config"]
    reports = []
    result = asmpg.train(from_json(content | {"out": None}, TASK, Wanderer), progress=reports.append)
    assert not list(tmp_path.iterdir())
    assert result.path is None
    assert bits(result.policy) == bits(whole.policy)
    assert all((result.metrics[name] == whole.metrics[name]).all() for name in whole.metrics)
    stages = [report.stage for report in reports]
    assert stages == ["starting", *["training"] * NUM_RECORDS, "done"]
    assert [report.steps for report in reports[1:-1]] == whole.metrics["steps"][:, 0].tolist()
    assert {report.total_steps for report in reports[1:]} == {200}


def test_a_finished_run_is_not_run_again(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")}
    result = asmpg.train(whole.config)
    assert bits(result.policy) == bits(whole.policy)
    assert resume(whole.path).summary() == whole.summary()
    after = {path: path.stat().st_mtime_ns for path in whole.path.rglob("*")}
    assert {path.name for path in after if after[path] != before[path]} <= {".lock"}


@pytest.mark.parametrize(
    "change",
    [{"steps": 208}, {"seed": 1}, {"num_seeds": 3}, {"overrides": {"warmup_steps": 40}}, {"preset": "paper"}],
)
def test_a_run_of_another_configuration_is_left_alone(whole, change):
    before = {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"^out: .* another configuration"):
        asmpg.train(dataclasses.replace(whole.config, **change))
    assert {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["file", "folder", "below a file"])
def test_an_out_that_is_no_run_is_left_alone(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("mine")
    out = {
        "file": tmp_path / "notes.txt",
        "folder": tmp_path,
        "below a file": tmp_path / "notes.txt" / "run",
    }[kind]
    with pytest.raises(UsageError, match=r"^out: "):
        asmpg.train(dataclasses.replace(CONFIG, out=str(out)))
    assert [path.name for path in tmp_path.rglob("*")] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_only_one_process_may_write(copy):
    with RunFolder(copy).writing(), pytest.raises(UsageError, match="another process"):
        resume(copy)
    assert resume(copy).finished


def test_a_curve_needs_matplotlib_and_a_run_does_not(copy, monkeypatch):
    (copy / "learning_curve.png").unlink()
    (copy / "summary.json").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(RunWarning, match="needs matplotlib"):
        resume(copy)
    assert (copy / "summary.json").exists()
    assert not (copy / "learning_curve.png").exists()


def test_numbers_that_are_not_finite_stay_valid_json():
    history = History()
    history.add(8, 1, {"return": np.array([1.5, np.nan]), "loss": np.array([np.inf, -np.inf])})
    assert json.loads(history.lines, parse_constant=pytest.fail)["return"] == [1.5, None]
    assert history.records[0]["num_null"] == [1, 2]
    again = History(history.lines).metrics()
    assert np.isnan(again["loss"]).all()
    assert again["return"][0, 0] == 1.5


def test_a_score_must_hold_for_every_seed_three_records_in_a_row():
    history, held = History(), []
    for pair in ([0.9, 0.9], [0.9, 0.8], [0.9, 0.9], [0.9, 0.9], [1.0, 0.9]):
        history.add(8, 1, {"return": np.zeros(2), "score": np.array(pair)})
        held.append(history.held(0.9))
    assert held == [False, False, False, False, True]
    assert not history.held(None)


DERIVED = ("summary.json", "learning_curve.png")


def finished_files(path) -> list[str]:
    """The files that say that a run is finished."""
    found = [name for name in DERIVED if (path / name).exists()]
    return [n for n in found if n.endswith("png") or json.loads((path / n).read_text())["finished"]]


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("how", ["missing", "truncated", "flipped", "of another run", "a link"])
def test_what_is_made_from_the_checkpoint_is_repaired(whole, copy, tmp_path, name, how):
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if how == "truncated":
        (copy / name).write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        half = len(content) // 2
        (copy / name).write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    elif how == "of another run":
        picture = plots.learning_curve("another", whole.metrics, {}, plots.mark("another", whole.metrics, {}))
        (copy / name).write_bytes(picture if name.endswith("png") else content.replace(b"200", b"100"))
    elif how == "a link":
        (tmp_path / "elsewhere").write_bytes(b"mine")
        (copy / name).symlink_to(tmp_path / "elsewhere")
    assert resume(copy).finished
    assert not (copy / name).is_symlink()
    if name.endswith("png"):
        assert (copy / name).read_bytes() == content
    else:
        assert json.loads((copy / name).read_text()) == resume(copy).summary()
    if how == "a link":
        assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_while_an_extended_run_trains_no_file_says_that_it_is_finished(tmp_path):
    """Killed before its end, or between its last checkpoint and its summary: nothing old stays, nothing is lost."""
    path = tmp_path / "run"
    asmpg.train(dataclasses.replace(CONFIG, steps=96, out=str(path)))
    assert finished_files(path) == [*DERIVED]
    seen = list[list[str]]()

    def watch(progress):
        if progress.stage == "training":
            seen.append(finished_files(path))
        if progress.stage == "training" and progress.steps == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(path, steps=200, progress=watch)
    assert seen and not any(seen)
    result = resume(path)
    assert json.loads((path / "summary.json").read_text()) == result.summary()
    assert finished_files(path) == [*DERIVED]


@pytest.mark.parametrize("how", ["renamed", "removed", "exchanged"])
def test_a_folder_that_goes_away_is_said(tmp_path, how):
    path = tmp_path / "run"

    def watch(progress):
        if progress.steps == 96 and path.exists():
            shutil.rmtree(path) if how == "removed" else path.rename(tmp_path / "moved")
            if how == "exchanged":
                path.mkdir()

    with pytest.raises(StorageError, match="was renamed, removed or exchanged") as error:
        asmpg.train(dataclasses.replace(CONFIG, out=str(path)), progress=watch)
    assert "\n" not in str(error.value)
    assert not path.exists() or not list(path.iterdir())
    if how != "removed":
        assert load(tmp_path / "moved").steps == 96


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "timings.jsonl", "summary.json"])
@pytest.mark.parametrize("how", ["pipe", "endless", "folder"])
@pytest.mark.filterwarnings("ignore::asmpg.training.runs.RunWarning")
def test_what_is_no_plain_file_is_not_read(copy, name, how):
    (copy / name).unlink()
    if how == "pipe":
        os.mkfifo(copy / name)
    elif how == "endless":
        (copy / name).symlink_to("/dev/zero")
    else:
        (copy / name).mkdir()
    assert load(copy).steps == 200
    if how == "folder":  # which a file cannot take the place of
        with pytest.raises(StorageError, match=f"cannot write {name} .* at step 200 is whole"):
            resume(copy)
        return
    assert resume(copy).steps == 200
    assert (copy / name).is_file()


LINES = ['{"steps": null}', '{"steps": "x"}', '{"steps": 16, "seconds": NaN}', "[]", "{", "\udcff"]


@pytest.mark.parametrize("line", LINES)
def test_timings_are_not_trusted(copy, line):
    times = (copy / "timings.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "timings.jsonl").write_bytes(
        b"".join([*times[:3], line.encode(errors="surrogateescape") + b"\n", *times[3:]])
    )
    assert resume(copy).steps == 200
    assert (copy / "timings.jsonl").read_bytes() == b"".join(times)


def test_a_run_stops_early_at_a_score(tmp_path):
    """Of a task of the user's own, solved because that was asked for."""
    config = dataclasses.replace(CONFIG, stop_score=-10.0, optimum=True, out=str(tmp_path / "run"))
    result = asmpg.train(config)
    assert result.finished
    assert len(result.metrics["steps"]) == 3
    assert result.reference is not None
    assert result.reference.optimal_return == pytest.approx(TASK.best_return)
    assert result.scores is not None
    np.testing.assert_allclose(result.scores, asmpg.score(TASK, result.returns))
    assert resume(tmp_path / "run").summary() == result.summary()


def test_training_does_not_wait_for_the_optimum(monkeypatch):
    """The first updates run while the task is being solved; the records before and after them get their scores."""
    trained, launch = threading.Event(), session.Session._launch

    def watched(self, first, number):
        launched = launch(self, first, number)
        if number > 0:
            trained.set()
        return launched

    def patient(env):
        assert trained.wait(60)
        return real_optimal(env)

    real_optimal = scores.optimal
    monkeypatch.setattr(session.Session, "_launch", watched)
    monkeypatch.setattr(scores, "optimal", patient)
    result = asmpg.train(dataclasses.replace(CONFIG, optimum=True, steps=96))
    assert np.isfinite(result.metrics["score"]).all()
    expected = asmpg.score(TASK, result.metrics["return"])
    np.testing.assert_allclose(result.metrics["score"], expected)


# Stopped and resumed, extended


def test_resumed_is_never_stopped(whole, tmp_path):
    """Stopped after the warm-up and in the middle: files and networks are equal bit for bit."""
    config = dataclasses.replace(CONFIG, out=str(tmp_path / "run"))
    stopped = train_until(config, 1)
    assert stopped.steps == 32
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is False
    assert (
        lifecycle.take_up(
            tmp_path / "run", lambda _: None, task=TASK, model=Wanderer, stop=stop_after(5)
        ).steps
        == 96
    )
    result = resume(tmp_path / "run")
    assert result.finished
    assert_same_files(whole.path, tmp_path / "run")
    assert bits(result.policy) == bits(whole.policy)
    timings = from_lines((tmp_path / "run" / "timings.jsonl").read_bytes())
    assert [timing["steps"] for timing in timings] == whole.metrics["steps"][:, 0].tolist()
    seconds = [timing["seconds"] for timing in timings]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("steps", [120, 24], ids=["ends inside a chunk", "shorter than the warm-up"])
@pytest.mark.filterwarnings("ignore:.*begins again:asmpg.training.runs.RunWarning")
def test_extended_is_meant_to_be_that_long_all_along(whole, tmp_path, steps):
    short = asmpg.train(dataclasses.replace(CONFIG, steps=steps, out=str(tmp_path / "run")))
    assert short.finished
    assert short.steps == steps
    result = resume(tmp_path / "run", steps=200)
    assert result.steps == 200
    assert_same_files(whole.path, tmp_path / "run")
    assert load(tmp_path / "run").config.steps == 200


def test_a_run_cannot_be_shortened(copy):
    with pytest.raises(UsageError, match=r"^steps: .* 200 already"):
        resume(copy, steps=100)
    with pytest.raises(UsageError, match=r"^steps: "):
        resume(copy, steps=-5)
    assert resume(copy).summary()["steps"] == 200


def test_the_task_of_a_run_is_never_run_by_itself(tmp_path):
    """A task from a file has to be given again, unchanged; loading touches neither the file nor what it defines."""
    witness, file = tmp_path / "witness", tmp_path / "own.py"
    file.write_text(
        f"import pathlib\npathlib.Path({str(witness)!r}).touch()\nfrom probes import RewardIsState as Own\n"
    )
    config = dataclasses.replace(CONFIG, task=f"{file}:Own", horizon=8, steps=40, out=str(tmp_path / "run"))
    train_until(config, 1)
    witness.unlink()
    with pytest.raises(UsageError, match=r"own.py:Own.*give it again"):
        asmpg.load(tmp_path / "run")
    with pytest.raises(UsageError, match="give it again"):
        asmpg.resume(tmp_path / "run")
    assert not witness.exists()
    assert str(tmp_path) not in (tmp_path / "run" / "config.json").read_text().replace(
        str(tmp_path / "run"), ""
    )
    assert asmpg.load(tmp_path / "run", task=f"{file}:Own", model=Wanderer).steps == 32
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(UsageError, match="has changed"):
        asmpg.resume(tmp_path / "run", task=f"{file}:Own")


def test_the_model_of_a_run_is_never_run_by_itself(tmp_path):
    """As for a task: given again, unchanged; loading touches neither the file nor what it defines."""
    witness, file = tmp_path / "witness", tmp_path / "own.py"
    file.write_text(
        f"import pathlib\npathlib.Path({str(witness)!r}).touch()\nfrom wanderer import Wanderer as Own\n"
    )
    config = dataclasses.replace(CONFIG, model=f"{file}:Own", out=str(tmp_path / "run"))
    train_until(config, 1)
    witness.unlink()
    for read in (asmpg.load, asmpg.resume):
        with pytest.raises(UsageError, match=r"own.py:Own.*give it again"):
            read(tmp_path / "run", task=TASK)
    assert not witness.exists()
    run = asmpg.load(tmp_path / "run", task=TASK, model=f"{file}:Own")
    assert run.summary()["model"] == "own.py:Own"
    done = asmpg.resume(tmp_path / "run", task=TASK, model=f"{file}:Own")
    assert done.finished and done.steps > run.steps


# Damage


def spoil(path: pathlib.Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "edited":
        path.write_bytes(content.replace(b"8", b"9"))
    elif how == "foreign":
        sealed = unseal(content)
        path.write_bytes(seal(sealed | {"format": 99}))
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("arrays.safetensors", "truncated"),
        ("arrays.safetensors", "edited"),
        ("arrays.safetensors", "missing"),
        ("meta.json", "truncated"),
        ("meta.json", "edited"),
        ("meta.json", "missing"),
        ("meta.json", "foreign"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(copy, file, how):
    spoil(checkpoints(copy)[-1] / file, how)
    with pytest.warns(RunWarning, match=r"checkpoint 000000200 .*; falling back to the one at step 192"):
        assert load(copy).steps == 192


def reseal(path: pathlib.Path, change) -> None:
    """Changes what a file says, with a checksum that fits."""
    content = unseal(path.read_bytes())
    change(content)
    path.write_bytes(seal(content))


@pytest.mark.parametrize(
    "name", ["sha256", "config", "steps", "episodes", "warmup_episodes", "seconds", "reference"]
)
@pytest.mark.parametrize("how", ["missing", "of another type"])
def test_a_sealed_checkpoint_that_is_not_of_a_run_is_fallen_back_from(copy, name, how):
    def change(content):
        content[name] = ["many"]
        if how == "missing":
            del content[name]

    reseal(checkpoints(copy)[-1] / "meta.json", change)
    with pytest.warns(RunWarning, match=r"checkpoint 000000200 .*; falling back to the one at step 192"):
        assert load(copy).steps == 192


def test_an_older_checkpoint_that_is_damaged_is_not_needed(copy):
    spoil(checkpoints(copy)[0] / "meta.json", "edited")
    with pytest.warns(
        RunWarning, match=r"checkpoint 000000192 .*; it is not needed, the newest is the one at step 200"
    ):
        assert load(copy).steps == 200


BAD_RECORDS = {
    "no return": lambda record: record.pop("return"),
    "ragged": lambda record: record["return"].append(0.0),
    "words": lambda record: record.update({"return": ["high", "low"]}),
    "no lists": lambda record: record.update({"return": 1.0}),
    "before the beginning": lambda record: record.update(steps=-8),
}


@pytest.mark.parametrize("how", BAD_RECORDS)
def test_sealed_records_that_are_none_are_fallen_back_from(copy, how):
    newest = checkpoints(copy)[-1]
    saved = checkpoint.read(newest)
    records = from_lines(saved.records)
    BAD_RECORDS[how](records[3])
    data = b"".join(map(to_line, records))
    begun = Journal(first=saved.episodes.first)
    new = begun.extend(copy / "checkpoint", saved.meta["steps"], data, saved.episodes)
    reseal(newest / "meta.json", lambda content: content.update(journal=dataclasses.asdict(new)))
    with pytest.warns(RunWarning, match=r"checkpoint 000000200 .*records; falling back"):
        assert load(copy).steps == 192


def test_copies_of_checkpoints_are_left_alone(whole, copy):
    """In the run folder, under a name of one's own or a number: what is newest is what has the most steps."""
    old = checkpoints(copy)[0]
    shutil.copytree(old, old.with_name("best"))
    shutil.copytree(old, old.with_name("000000999"))
    assert not load_quietly(copy)
    assert resume(copy, steps=248).steps == 248
    assert old.with_name("best").is_dir()
    assert list(old.parent.glob("000000999*"))


def load_quietly(path) -> list[str]:
    """What a reading warns of, but for copies."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load(path).steps == 200
    return [str(one.message) for one in caught if "is a copy" not in str(one.message)]


@pytest.mark.parametrize("config", [None, [], {}, {"settings": []}])
def test_a_sealed_file_that_is_no_configuration_is_taken_from_the_checkpoint(whole, copy, config):
    reseal(copy / "config.json", lambda content: content.update(config=config))
    with pytest.warns(RunWarning, match=r"config.json holds no configuration of a run; it is taken"):
        assert load(copy).config == dataclasses.replace(whole.config, out=str(copy))
    with pytest.warns(RunWarning, match=r"config\.json"):
        resume(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "many"},
        {"task_source": {"kind": "object"}},
        {"loop": 3},
        {"model_source": []},
        {"more": 1},
        {"steps": -5},
    ],
)
def test_a_wrong_field_of_a_run_is_named_with_its_folder(copy, change):
    shutil.rmtree(copy / "checkpoint")
    reseal(copy / "config.json", lambda content: content["config"].update(change))
    with pytest.raises(UsageError, match=f"^run: {copy}: .*{next(iter(change)).partition('_')[0]}"):
        resume(copy)


def test_after_falling_back_a_run_ends_as_ever(whole, copy):
    spoil(checkpoints(copy)[-1] / "arrays.safetensors", "truncated")
    with pytest.warns(RunWarning, match="falling back"):
        result = resume(copy)
    assert result.finished
    assert_same_files(whole.path, copy)


@pytest.mark.parametrize("how", ["truncated", "edited", "missing", "foreign"])
def test_a_damaged_configuration_is_taken_from_the_checkpoint(whole, copy, how):
    spoil(copy / "config.json", how)
    with pytest.warns(RunWarning, match=r"config.json .* taken from the checkpoint at step 200"):
        assert load(copy).config == dataclasses.replace(whole.config, out=str(copy))
    with pytest.warns(RunWarning, match=r"config\.json"):
        resume(copy)
    assert load(copy).steps == 200  # and it is whole again: without a warning


@pytest.mark.parametrize("how", ["truncated", "edited", "missing"])
def test_damaged_metrics_are_restored_from_the_checkpoint(whole, copy, how):
    spoil(copy / "metrics.jsonl", how)
    with pytest.warns(RunWarning, match="metrics.jsonl was cut off or edited; the checkpoint's copy"):
        assert (load(copy).metrics["return"] == whole.metrics["return"]).all()
    with pytest.warns(RunWarning, match="metrics.jsonl was cut off or edited; it is restored"):
        resume(copy)
    assert_same_files(whole.path, copy)


def test_a_line_of_a_chunk_that_was_lost_is_no_damage(whole, copy):
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(b'{"steps": 208, "retu')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(copy)
        resume(copy)
    assert_same_files(whole.path, copy)


def test_without_a_whole_checkpoint_nothing_is_touched(copy):
    for path in checkpoints(copy):
        spoil(path / "arrays.safetensors", "truncated")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for function in (load, resume):
        with pytest.raises(UsageError, match="no whole checkpoint left"):
            function(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("finished", [True, False])
def test_records_without_a_checkpoint_are_not_begun_again(copy, whole, finished):
    """Somebody removed the checkpoints: what the run found would be lost without a word."""
    shutil.rmtree(copy / "checkpoint")
    if not finished:
        (copy / "summary.json").unlink()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for go_on in (resume, lambda out: asmpg.train(dataclasses.replace(whole.config, out=str(out)))):
        with pytest.raises(UsageError, match="records but no checkpoint to go on from; give another --out"):
            go_on(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_killed_before_its_first_checkpoint_it_begins_again(whole, copy):
    shutil.rmtree(copy / "checkpoint")
    (copy / "summary.json").unlink()
    first = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0]
    (copy / "metrics.jsonl").write_bytes(first)
    resume(copy)
    assert_same_files(whole.path, copy)


@pytest.mark.parametrize("how", ["truncated", "edited", "foreign"])
def test_a_run_with_neither_configuration_nor_checkpoint_is_refused(copy, how):
    shutil.rmtree(copy / "checkpoint")
    spoil(copy / "config.json", how)
    for function in (load, resume):
        with pytest.raises(UsageError, match=r"config\.json"):
            function(copy)


@pytest.mark.parametrize("function", [load, resume])
def test_what_is_no_run_is_refused(tmp_path, function):
    with pytest.raises(UsageError, match="not a run"):
        function(tmp_path)
    with pytest.raises(UsageError, match="not a run"):
        function(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_closed_is_said(copy, monkeypatch):
    def closed(path, *arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("iterdir", "stat"):
        monkeypatch.setattr(pathlib.Path, name, closed)
        for use in (load, resume, RunFolder.check_usable):
            with pytest.raises(UsageError, match="Permission denied"):
                use(RunFolder(copy) if use is RunFolder.check_usable else copy)


def test_a_full_disk_says_where_it_stopped_and_what_is_safe(whole, tmp_path, monkeypatch):
    path, real = tmp_path / "run", files.write_new

    def write_new(path, data):
        if b'"episodes": 14,' in data:
            path.write_bytes(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(files, "write_new", write_new)
    with pytest.raises(StorageError) as error:
        asmpg.train(dataclasses.replace(CONFIG, out=str(path)))
    assert "checkpoint at step 112" in str(error.value)
    assert "No space left" in str(error.value)
    assert "at step 96 is whole" in str(error.value)
    assert "\n" not in str(error.value)
    assert load(path).steps == 96
    monkeypatch.undo()
    resume(path)
    assert_same_files(whole.path, path)


# Kills


def train_in_another_process(path: str) -> None:
    """Begins the run or takes it up."""
    jax.config.update("jax_disable_most_optimizations", True)
    asmpg.train(dataclasses.replace(CONFIG, steps=LONG, out=path))


LONG = 960


def count_lines(path: pathlib.Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_random_moments_nothing_is_lost(tmp_path):
    """At most the chunk in flight is, and what comes out in the end is the same bit for bit."""
    path, expected = tmp_path / "killed", tmp_path / "expected"
    asmpg.train(dataclasses.replace(CONFIG, steps=LONG, out=str(expected)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["asmpg", "probes", "wanderer"])
    moments = random.Random(0)
    for kill in range(6):
        lines = count_lines(path / "metrics.jsonl")
        process = context.Process(target=train_in_another_process, args=(str(path),))
        process.start()
        if kill == 0:
            time.sleep(moments.uniform(0.0, 1.0))  # before the first checkpoint
        else:
            patience = time.monotonic() + 120
            while count_lines(path / "metrics.jsonl") < lines + moments.randint(1, 9):
                assert process.is_alive()
                assert time.monotonic() < patience
                time.sleep(0.002)
            time.sleep(moments.uniform(0.0, 0.03))
        process.kill()
        process.join()
        lines = count_lines(path / "metrics.jsonl")
        saved, problems = RunFolder(path).read_checkpoints()
        assert not problems
        assert (saved[0].meta["records"] if saved else 0) >= lines - 1
    assert not (path / "summary.json").exists()
    asmpg.train(dataclasses.replace(CONFIG, steps=LONG, out=str(path)))
    assert_same_files(expected, path)
