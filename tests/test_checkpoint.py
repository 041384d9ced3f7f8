"""Checkpoints: what was written is read back, damage is noticed, and no moment of a crash loses the last whole one."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asmpg.core import files
from asmpg.core.files import DamagedError, seal, unseal
from asmpg.training.runs import checkpoint, journal
from asmpg.training.runs.checkpoint import Checkpoints
from asmpg.training.runs.journal import Episodes
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


ROOM = 3
HEADER = 250  # about what safetensors writes before the arrays of a piece


def records(step: int) -> bytes:
    return b"".join(b'{"steps": %d}\n' % number for number in range(1, step + 1))


def episodes(first: int, step: int) -> Episodes:
    """Two seeds, two arrays; episode i is made of its index."""
    index = np.arange(first, step)
    return Episodes(
        first, {"x": np.tile(index[None, :, None], (2, 1, 3)), "y": np.stack([index + 0.5, -index])}
    )


def write(checkpoints: Checkpoints, step: int):
    first = max(checkpoints.wants(ROOM), step - ROOM)
    arrays = checkpoint.flatten(tree(step))
    checkpoints.write(step, arrays, {"more": step}, records(step), episodes(first, step))


def assert_is(saved, step: int):
    """What was written at a step, and the episodes that were still there then."""
    shapes = jax.eval_shape(lambda: tree(0))
    assert saved.meta["steps"] == saved.meta["more"] == step
    assert bits(checkpoint.unflatten(shapes, saved.arrays)) == bits(tree(step))
    assert saved.records == records(step)
    assert saved.episodes.first <= max(0, step - ROOM)
    wanted = episodes(saved.episodes.first, step)
    assert {*saved.episodes.arrays} == {"x", "y"}
    assert all((saved.episodes.arrays[name] == wanted.arrays[name]).all() for name in wanted.arrays)


def folders(path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 30):
        write(checkpoints, step)
        whole, problems = checkpoint.read_all(tmp_path)
        assert not problems
        assert [saved.meta["steps"] for saved in whole] == [step, step - 1][: len(whole)]
        for saved in whole:
            assert_is(saved, saved.meta["steps"])
    assert bits(checkpoint.unflatten(jax.eval_shape(lambda: tree(0)), whole[0].arrays)) != bits(tree(8))
    assert folders(tmp_path) == ["000000028", "000000029"]
    pieces = [entry for entry in tmp_path.iterdir() if entry.is_file()]
    assert {entry.name.split(".")[0] for entry in pieces} == {"piece"}
    assert len(pieces) < 10  # the two checkpoints' own, whatever was written before


def test_a_checkpoint_writes_what_is_new(tmp_path, monkeypatch):
    """Bytes for records and episodes grow with what there is, not with its square."""
    written, real = 0, files.write

    def counted(path, data):
        nonlocal written
        written += len(data) - HEADER
        real(path, data)

    monkeypatch.setattr(files, "write", counted)
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 201):
        first = checkpoints.wants(10**6)
        checkpoints.write(step, {}, {}, records(step), episodes(first, step))
        assert len([*tmp_path.glob("piece.*")]) <= 2 * journal.MOST_PIECES
    once = len(records(200)) + sum(array.nbytes for array in episodes(0, 200).arrays.values())
    assert written <= 4 * once  # both have all of it, and begin again after so many pieces


def test_two_checkpoints_share_no_byte(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 6):
        write(checkpoints, step)
    used = [{*saved.journal.names} for saved in checkpoint.read_all(tmp_path)[0]]
    assert all(used) and not used[0] & used[1]


@pytest.mark.parametrize("back", [0, 1])
def test_going_on_from_either_checkpoint_removes_what_came_after(tmp_path, back):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 6):
        write(checkpoints, step)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take_up(checkpoint.read_all(tmp_path)[0][back:])
    assert folders(tmp_path)[-1] == f"{5 - back:09d}"
    assert not checkpoint.read_all(tmp_path)[1]  # what is left is whole
    for step in range(6 - back, 12):
        write(checkpoints, step)
        for saved in checkpoint.read_all(tmp_path)[0]:
            assert_is(saved, saved.meta["steps"])
    assert folders(tmp_path) == ["000000010", "000000011"]


def test_names_are_numbers(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (999_999_998, 999_999_999, 1_000_000_000, 1_000_000_001):
        checkpoints.write(step, {}, {}, b"", Episodes(0, {}))
    steps = [saved.meta["steps"] for saved in checkpoint.read_all(tmp_path)[0]]
    assert steps == [1_000_000_001, 1_000_000_000]


def test_what_is_not_ours_is_left_alone(tmp_path):
    """Copies under other names, under other numbers and with names exchanged; folders of a file system's own."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        write(checkpoints, step)
    for name in ("best", "@eaDir", "000000009"):
        shutil.copytree(tmp_path / "000000001", tmp_path / name)
    (tmp_path / ".000000084.tmp").write_text("mine")
    for step in (3, 4, 5):
        write(checkpoints, step)
        whole, problems = checkpoint.read_all(tmp_path)
        assert [saved.meta["steps"] for saved in whole] == [step, step - 1]
        assert problems == {"000000009": "is a copy: its content is that of step 1"}
    assert {"best", "@eaDir", "000000009"} <= {*folders(tmp_path)}
    os.replace(tmp_path / "000000004", tmp_path / "000000006")
    write(checkpoints, 6)
    assert [saved.meta["steps"] for saved in checkpoint.read_all(tmp_path)[0]] == [6, 5]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take_up(checkpoint.read_all(tmp_path)[0])
    write(checkpoints, 9)
    assert [saved.meta["steps"] for saved in checkpoint.read_all(tmp_path)[0]] == [9, 6]
    copies = sorted(path.name.split(".")[0] for path in tmp_path.glob("*.aside"))
    assert copies == ["000000006", "000000009"]


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


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A folder to which four checkpoints were written."""
    folder = tmp_path_factory.mktemp("four")
    checkpoints = Checkpoints(folder)
    for step in range(1, 5):
        write(checkpoints, step)
    return folder


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_changed_or_missing_byte_costs_one_checkpoint_at_most(tmp_path_factory, four, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(four, folder)
    grown = [folder / name for name in checkpoint.read(folder / "000000004").journal.names]
    own = [folder / "000000004" / name for name in (checkpoint.ARRAYS, checkpoint.META)]
    path = data.draw(st.sampled_from([*own, *grown]))
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
        assert [saved.meta["steps"] for saved in whole] == [3]
        assert [*problems] == ["000000004"]
        assert_is(whole[0], 3)


def reseal(folder, change) -> None:
    """Changes what a checkpoint says of itself, with a checksum that fits."""
    content = unseal((folder / checkpoint.META).read_bytes())
    change(content)
    (folder / checkpoint.META).write_bytes(seal(content))


def bfloat(folder) -> bytes:
    """An array of a type that NumPy does not have."""
    header = b'{"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    (folder / checkpoint.ARRAYS).write_bytes(data)
    return data


CRAFTED = {
    "format": lambda meta: meta.update(format=1),
    "checksum of its arrays": lambda meta: meta.pop("sha256"),
    "is a copy": lambda meta: meta.update(steps=7),
    "does not say": lambda meta: meta.update(journal=[]),
    "what it has": lambda meta: meta["journal"]["pieces"].append(["../../secret", ""]),
    "of its records": lambda meta: meta["journal"]["pieces"].append(["piece.000000001.abcdefab"]),
    "records and episodes": lambda meta: meta["journal"].update(first=None),
    "cut off": lambda meta: meta["journal"]["pieces"][0].__setitem__(1, "0"),
    "cannot be read": lambda meta: meta["journal"]["pieces"].append(["piece.000000009.abcdefab", "0"]),
    "that it says": lambda meta: meta["journal"].update(end=10**12),
    "episodes that it": lambda meta: meta["journal"].update(size=-1),
}


@pytest.mark.parametrize("words", CRAFTED)
def test_crafted_content_is_refused_in_half_a_sentence(tmp_path, words):
    write(Checkpoints(tmp_path), 1)
    reseal(tmp_path / "000000001", CRAFTED[words])
    with pytest.raises(DamagedError, match=words):
        checkpoint.read(tmp_path / "000000001")


def test_a_type_that_numpy_lacks_is_refused(tmp_path):
    write(Checkpoints(tmp_path), 1)
    data = bfloat(tmp_path / "000000001")
    reseal(tmp_path / "000000001", lambda meta: meta.update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(DamagedError, match="no readable arrays"):
        checkpoint.read(tmp_path / "000000001")


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


CALLS = {
    "os": ("open", "replace", "fsync"),
    "pathlib.Path": ("open", "mkdir", "unlink"),
    "shutil": ("rmtree",),
}


class Faults:
    """Counts every call that changes the disk; from one on, each of them, or only this one, fails in some way."""

    def __init__(self, monkeypatch, fail):
        self.calls, self.first, self.only = 0, None, False
        for place, names in CALLS.items():
            owner = {"os": os, "pathlib.Path": pathlib.Path, "shutil": shutil}[place]
            for name in names:
                monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), fail))

    def _counted(self, function, fail):
        def call(*args, **kwargs):
            self.calls += 1
            after = self.first is not None and self.calls > self.first
            if after and not (self.only and self.calls > self.first + 1):
                fail(*args)
            return function(*args, **kwargs)

        return call


def cut(*args):
    raise PowerCut


def tear(*args):
    """What was written last arrives in half: a file that was to be confirmed is cut, or has noise behind it."""
    if args and isinstance(args[0], int):
        size = os.fstat(args[0]).st_size
        if size > 1:
            os.truncate(f"/proc/self/fd/{args[0]}", size - 1)
    raise PowerCut


def refuse(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("fail", "only"), [(cut, False), (tear, False), (refuse, True), (refuse, False)])
def test_whatever_call_is_the_last_or_is_refused_no_checkpoint_is_lost(tmp_path, monkeypatch, fail, only):
    """Every call that changes the disk is in turn the last one, or refused once, or refused for ever from there."""
    if fail is tear and not pathlib.Path("/proc/self/fd").exists():
        pytest.skip("cuts files through /proc")
    faults = Faults(monkeypatch, fail)

    def begin(folder):
        checkpoints = Checkpoints(folder)
        for step in range(1, 8):  # a ring that was filled twice, so that files are exchanged too
            write(checkpoints, step)
        return checkpoints

    checkpoints = begin(tmp_path / "complete")
    faults.calls = 0
    write(checkpoints, 8)
    total = faults.calls
    assert total >= 10
    for last in range(total):
        checkpoints = begin(tmp_path / str(last))
        faults.calls, faults.first, faults.only = 0, last, only
        with contextlib.suppress(PowerCut, OSError, files.StorageError):
            write(checkpoints, 8)
        faults.first = None
        whole, problems = checkpoint.read_all(tmp_path / str(last))
        assert not problems
        assert [saved.meta["steps"] for saved in whole][:2] in ([7, 6], [8, 7])
        for saved in whole[:2]:
            assert_is(saved, saved.meta["steps"])
        # The next process goes on as if nothing had been.
        checkpoints = Checkpoints(tmp_path / str(last))
        checkpoints.take_up(whole)
        write(checkpoints, 9)
        assert_is(checkpoint.read_all(tmp_path / str(last))[0][0], 9)
        assert not [path for path in (tmp_path / str(last)).iterdir() if path.name.startswith(".")]
