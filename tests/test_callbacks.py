"""Callbacks: what they are told, that they may stop a run, and what those of the package write."""

import csv
import struct
import sys
import types

import equinox as eqx
import jax
import numpy as np
import pytest

import asmpg
from asmpg.training.runs.acting import evaluate


class Remember(asmpg.Callback):
    """Keeps everything it is told, and stops at a number of steps."""

    def __init__(self, stop_at=None):
        self.records, self.results, self.ends, self.stop_at = [], [], 0, stop_at

    def on_record(self, record, result):
        self.records.append(record)
        self.results.append(result)
        return record["steps"][0] == self.stop_at

    def on_end(self, result):
        self.ends += 1


def config(**changes):
    options = dict(task="harvest", horizon=4, model="one-step", steps=28, num_seeds=2, seed=3, chunk_steps=8)  # noqa: C408
    return asmpg.TrainConfig(**(options | changes), overrides={"warmup_steps": 8})


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with every callback there is."""
    folder = tmp_path_factory.mktemp("watched")
    remember = Remember()
    bees = asmpg.WeightsAndBiases("tests", mode="offline", dir=str(folder), settings={"console": "off"})
    callbacks = [remember, asmpg.CSVLog(folder / "log.csv"), asmpg.TensorBoard(folder / "board"), bees]
    result = asmpg.train(config(), callbacks=callbacks)
    return types.SimpleNamespace(folder=folder, remember=remember, result=result)


def test_every_record_is_told_once(watched):
    records, metrics = watched.remember.records, watched.result.metrics
    assert watched.remember.ends == 1
    assert len(records) == len(metrics["steps"]) > 2
    for name, values in metrics.items():
        np.testing.assert_array_equal(np.stack([record[name] for record in records]), values)


def test_the_policy_that_is_told_is_that_of_the_record_and_stays(watched):
    for record, result in zip(watched.remember.records, watched.remember.results, strict=True):
        np.testing.assert_allclose(evaluate(result.policy, result.env), record["return"], rtol=1e-5)
    first, *_, last = (jax.tree.leaves(eqx.filter(r.policy, eqx.is_array)) for r in watched.remember.results)
    assert not all(np.array_equal(a, b) for a, b in zip(first, last, strict=True))


def test_being_watched_changes_nothing(watched):
    alone = asmpg.train(config())
    for name, values in alone.metrics.items():
        np.testing.assert_array_equal(values, watched.result.metrics[name])


def test_a_csv_file_has_a_row_a_record_and_seed(watched):
    rows = list(csv.DictReader((watched.folder / "log.csv").read_text().splitlines()))
    metrics = watched.result.metrics
    assert [int(row["seed"]) for row in rows] == [3, 4] * len(metrics["steps"])
    for name, values in metrics.items():
        found = np.array([float(row[name]) for row in rows]).reshape(values.shape)
        np.testing.assert_array_equal(found, values)


def events(file):
    """What an event file holds: the tag, step and value of every scalar."""
    from tensorboardX.proto import event_pb2

    data, place = file.read_bytes(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        yield from ((value.tag, event.step, value.simple_value) for value in event.summary.value)


def test_tensorboard_finds_a_run_a_seed(watched):
    for index, seed in enumerate((3, 4)):
        (file,) = (watched.folder / "board" / f"seed{seed}").iterdir()
        found = [(step, value) for tag, step, value in events(file) if tag == "return"]
        metrics = watched.result.metrics
        assert [step for step, _ in found] == metrics["steps"][:, index].tolist()
        np.testing.assert_allclose([value for _, value in found], metrics["return"][:, index], rtol=1e-6)


def blocks(file):
    """The records of a log in the format of LevelDB: blocks of 32 KiB, records cut where one ends."""
    data, place, whole = file.read_bytes(), 7, b""
    while place < len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_weights_and_biases_gets_every_record_offline(watched):
    from wandb.proto import wandb_internal_pb2

    (file,) = watched.folder.glob("wandb/offline-run-*/run-*.wandb")
    history, described = [], {}
    for data in blocks(file):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("history"):
            history.append(
                {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            )
        for item in record.run.config.update:
            described[item.key] = item.value_json
    assert described["task"] == '"harvest"'
    metrics = watched.result.metrics
    assert [int(row["_step"]) for row in history] == metrics["steps"][:, 0].tolist()
    np.testing.assert_allclose(
        [float(row["return"]) for row in history], metrics["return"].mean(axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(
        [float(row["return/seed4"]) for row in history], metrics["return"][:, 1], rtol=1e-6
    )


def test_a_callback_stops_a_run_that_can_be_taken_up_again(tmp_path, watched):
    out = str(tmp_path / "run")
    stopped = asmpg.train(config(out=out), callbacks=[Remember(stop_at=16)])
    assert stopped.steps == 16
    assert not stopped.finished
    remember = Remember()
    whole = asmpg.resume(out, callbacks=[remember, asmpg.CSVLog(tmp_path / "log.csv")])
    assert whole.finished
    assert [record["steps"][0] for record in remember.records] == [24, 28]
    for name, values in whole.metrics.items():
        np.testing.assert_array_equal(values, watched.result.metrics[name])
    assert (tmp_path / "log.csv").read_bytes() == (watched.folder / "log.csv").read_bytes()


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [("TensorBoard", "tensorboardX", "tensorboard"), ("WeightsAndBiases", "wandb", "wandb")],
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, kind, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        asmpg.UsageError, match=rf"{kind}: needs {library}, which pip install 'asmpg\[{extra}\]'"
    ):
        getattr(asmpg, kind)("somewhere")
