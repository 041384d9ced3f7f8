"""Every operation on the disk is refused in turn: one line, nothing half written, and the run goes on bit for bit."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import shutil

import pytest

import asmpg
import sweeping
from asmpg.core.files import from_lines, unseal
from asmpg.training.runs import StorageError
from probes import RewardIsState
from test_runs import assert_same_files, checkpoints
from tiers import thorough_but
from wanderer import Wanderer


TASK = RewardIsState(horizon=8)
CONFIG = asmpg.TrainConfig(
    TASK,
    model=Wanderer,
    steps=48,
    chunk_steps=16,
    overrides={"warmup_steps": 16, "model_batch_size": 4, "policy_batch_size": 4},
)
OPERATIONS = {os: ("open", "replace", "fsync", "mkdir", "unlink", "truncate", "rmdir"), io: ("open",)}

pytestmark = pytest.mark.usefixtures("quickly")


class Disk:
    """Counts the operations within a folder, and refuses one of them, or it and all later ones."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.calls, self.refused, self.for_ever = str(folder), 0, None, False
        for owner, names in OPERATIONS.items():
            for name in names:
                monkeypatch.setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, function):
        def call(*args, **options):
            # Files that are open already are known by their numbers alone.
            inside = isinstance(args[0], int) or str(os.fspath(args[0])).startswith(self.folder)
            if inside:
                self.calls += 1
                if self.refused is not None and (
                    self.calls == self.refused or (self.for_ever and self.calls > self.refused)
                ):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **options)

        return call

    @contextlib.contextmanager
    def refusing(self, number, for_ever=False):
        self.calls, self.refused, self.for_ever = 0, number, for_ever
        yield
        self.refused = None


def assert_nothing_half_written(folder):
    """Whatever has a name of ours is whole."""
    if not folder.exists():
        return
    for name in ("config.json", "summary.json"):
        if (folder / name).exists():
            content = json.loads((folder / name).read_bytes())
            assert unseal((folder / name).read_bytes()) if name == "config.json" else content
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        data = metrics.read_bytes()
        assert len(from_lines(data)) == data.count(b"\n")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return asmpg.train(dataclasses.replace(CONFIG, out=tmp_path_factory.mktemp("whole") / "run"))


def one_line(begin):
    """What a refusal says, if anything was refused that matters."""
    try:
        begin()
    except (StorageError, asmpg.UsageError) as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def go_on(folder):
    """As the message says: by resuming, or from the beginning where there is nothing to resume."""
    if not (folder / "config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        return asmpg.train(dataclasses.replace(CONFIG, out=folder))
    return asmpg.resume(folder, task=TASK, model=Wanderer)


def assert_same(one, other):
    """Equal bit for bit, but for a checkpoint that is older than the two that are kept and could not be removed."""
    for left in checkpoints(other)[:-2]:
        shutil.rmtree(left)
    assert_same_files(one, other)


def numbers(total, quick):
    """All operations, or some that are spread evenly."""
    return range(1, total + 1) if not quick else sorted({1 + i * total // quick for i in range(quick)})


EVERY = [pytest.param(for_ever, 0, marks=pytest.mark.slow) for for_ever in (False, True)]


@pytest.mark.filterwarnings("ignore::asmpg.training.runs.RunWarning")
@pytest.mark.parametrize(("for_ever", "quick"), [*thorough_but([(True, 2)], [(False, 4), (True, 2)]), *EVERY])
def test_a_run_survives_the_refusal_of_any_operation(for_ever, quick, whole, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path)
    with disk.refusing(None):
        asmpg.train(dataclasses.replace(CONFIG, out=tmp_path / "counted"))
    said = set()
    for number in numbers(disk.calls, quick):
        folder = tmp_path / str(number)
        config = dataclasses.replace(CONFIG, out=folder)
        with disk.refusing(number, for_ever):
            said.add(one_line(lambda config=config: asmpg.train(config))[:20])
        assert_nothing_half_written(folder)
        assert go_on(folder).finished
        assert_same(whole.path, folder)
    assert any(said)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::asmpg.training.runs.RunWarning")
@pytest.mark.parametrize("quick", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_resume_survives_it_too(quick, whole, tmp_path, monkeypatch):
    longer = asmpg.train(dataclasses.replace(CONFIG, steps=80, out=tmp_path / "longer"))
    disk = Disk(monkeypatch, tmp_path)

    def resume(folder):
        return asmpg.resume(folder, steps=80, task=TASK, model=Wanderer)

    with disk.refusing(None):
        resume(pathlib.Path(shutil.copytree(whole.path, tmp_path / "counted")))
    for number in numbers(disk.calls, quick):
        folder = pathlib.Path(shutil.copytree(whole.path, tmp_path / str(number)))
        with disk.refusing(number, for_ever=True):
            one_line(lambda folder=folder: resume(folder))
        assert_nothing_half_written(folder)
        asmpg.load(folder, task=TASK, model=Wanderer)
        assert resume(folder).finished
        assert_same(longer.path, folder)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::asmpg.training.runs.RunWarning")
@pytest.mark.parametrize(("for_ever", "quick"), [(False, 5), (True, 2), *EVERY])
def test_a_sweep_survives_it_too(for_ever, quick, tmp_path, monkeypatch):
    with sweeping.pretending(monkeypatch):
        whole = tmp_path / "whole"
        file = sweeping.write_suite(tmp_path)
        sweeping.sweep(file, whole)
        disk = Disk(monkeypatch, tmp_path)
        sweeping.loaded.cache_clear()
        with disk.refusing(None):
            sweeping.sweep(file, tmp_path / "counted")
        said = set()
        for number in numbers(disk.calls, quick):
            out = tmp_path / f"out{number}"
            sweeping.loaded.cache_clear()  # reading the suite may be refused too
            with disk.refusing(number, for_ever):
                said.add(one_line(lambda out=out: sweeping.sweep(file, out))[:20])
            state = sweeping.sweep(file, out, retry_failed=True)
            assert len(state.finished) == sweeping.NUM_ITEMS
            assert sweeping.table(out) == sweeping.table(whole)
        assert any(said)
