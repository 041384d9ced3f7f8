"""Checkpoints: what was written is read back, damage is noticed, and no moment of a crash loses the last whole one."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asmpg.core import files
from asmpg.core.files import DamagedError, seal, unseal
from asmpg.training.runs import checkpoint
from toys import bits


def tree(seed: int):
    """Arrays of all the types that a training state has."""
    random = np.random.default_rng(seed)
    return {
        "weights": [jnp.asarray(random.normal(size=(2, 3)), jnp.float32), jnp.asarray(random.normal(size=2))],
        "count": jnp.asarray(random.integers(9, size=2), jnp.int32),
        "flag": jnp.asarray([True, False]),
        "keys": jnp.stack([jax.random.key(seed), jax.random.key(seed + 1)]),
        "empty": jnp.zeros((2, 0)),
    }


def write(folder, step: int):
    checkpoint.write(folder, f"{step:03d}", checkpoint.flatten(tree(step)), {"steps": step})


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    write(tmp_path, 7)
    saved = checkpoint.read(tmp_path / "007")
    shapes = jax.eval_shape(lambda: tree(0))
    assert saved.meta["steps"] == 7
    assert bits(checkpoint.unflatten(shapes, saved.arrays)) == bits(tree(7))
    assert bits(checkpoint.unflatten(shapes, saved.arrays)) != bits(tree(8))


def test_the_last_two_are_kept(tmp_path):
    for step in range(1, 6):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["004", "005"]
    assert [saved.meta["steps"] for saved in checkpoint.read_all(tmp_path)[0]] == [5, 4]


def test_going_back_removes_what_came_after(tmp_path):
    write(tmp_path, 4)
    write(tmp_path, 5)
    checkpoint.remove_after(tmp_path, "004")
    assert [path.name for path in tmp_path.iterdir()] == ["004"]


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "dtype"])
def test_arrays_of_another_network_are_refused(change):
    arrays = checkpoint.flatten(tree(0))
    if change == "missing":
        del arrays["['count']"]
    elif change == "extra":
        arrays["['more']"] = np.zeros(2)
    elif change == "shape":
        arrays["['count']"] = arrays["['count']"][:1]
    else:
        arrays["['count']"] = arrays["['count']"].astype(np.int64)
    with pytest.raises(DamagedError, match="does not fit"):
        checkpoint.unflatten(jax.eval_shape(lambda: tree(0)), arrays)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_or_missing_byte_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(folder, 1)
    write(folder, 2)
    path = folder / "002" / data.draw(st.sampled_from([checkpoint.ARRAYS, checkpoint.META]))
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:position])
    else:
        changed = bytes([content[position] ^ data.draw(st.integers(1, 255))])
        path.write_bytes(content[:position] + changed + content[position + 1 :])
    whole, problems = checkpoint.read_all(folder)
    if not (
        path.name == checkpoint.META and path.read_bytes().split() == content.split()
    ):  # white space only
        assert [saved.meta["steps"] for saved in whole] == [1]
        assert len(problems) == 1


def test_another_format_is_not_read(tmp_path):
    write(tmp_path, 1)
    meta = tmp_path / "001" / checkpoint.META
    content = unseal(meta.read_bytes())
    meta.write_bytes(seal(content | {"format": checkpoint.FORMAT + 1}))
    with pytest.raises(DamagedError, match="format"):
        checkpoint.read(tmp_path / "001")


def test_a_checkpoint_without_a_checksum_of_its_arrays_is_not_read(tmp_path):
    write(tmp_path, 1)
    meta = tmp_path / "001" / checkpoint.META
    content = unseal(meta.read_bytes())
    del content["sha256"]
    meta.write_bytes(seal(content))
    with pytest.raises(DamagedError, match="checksum of its arrays"):
        checkpoint.read(tmp_path / "001")


@given(
    st.dictionaries(
        st.text(),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
    )
)
def test_sealed_content_is_read_back_and_edits_are_noticed(content):
    content.pop("checksum", None)
    sealed = seal(content)
    assert unseal(sealed) == content
    with pytest.raises(DamagedError):
        unseal(json.dumps(json.loads(sealed) | {"one more": 1}).encode())


class PowerCut(Exception):
    """The process ends here."""


@pytest.mark.parametrize("torn", [False, True], ids=["clean", "torn write"])
def test_a_crash_at_any_call_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch, torn):
    """Every call that changes the disk is in turn the last one; with a torn write only half of the data arrives."""
    real = {name: getattr(os, name) for name in ("replace", "fsync")}
    real_write, real_rmtree = files.write_new, shutil.rmtree
    calls, limit = 0, None

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if limit is not None and calls > limit:
                if torn and function is real_write:
                    args[0].write_bytes(args[1][: len(args[1]) // 2])
                raise PowerCut
            return function(*args, **kwargs)

        return call

    for name, function in real.items():
        monkeypatch.setattr(checkpoint.os, name, counted(function))
    monkeypatch.setattr(files, "write_new", counted(real_write))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", counted(real_rmtree))

    def begin(folder):
        for step in (1, 2):
            write(folder, step)

    (tmp_path / "complete").mkdir()
    begin(tmp_path / "complete")
    calls = 0
    write(tmp_path / "complete", 3)
    total = calls
    assert total >= 6
    for last in range(total):
        folder = tmp_path / str(last)
        folder.mkdir()
        begin(folder)
        calls, limit = 0, last
        with pytest.raises(PowerCut):
            write(folder, 3)
        whole, problems = checkpoint.read_all(folder)
        assert whole[0].meta["steps"] in (2, 3)
        assert not problems
        # The next process goes on as if nothing had been.
        limit = None
        write(folder, 4)
        assert checkpoint.read_all(folder)[0][0].meta["steps"] == 4
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
