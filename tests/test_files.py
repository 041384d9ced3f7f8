"""The one writer: whole or not at all, whatever is refused, and never through a link; locks; sealed content."""

import contextlib
import errno
import multiprocessing
import os
import pathlib

import pytest

from asmpg.core import files
from asmpg.core.files import StorageError
from asmpg.core.types import UsageError


OPERATIONS = {os: ("replace", "fsync", "open"), pathlib.Path: ("open", "unlink")}


@pytest.fixture
def refuse(monkeypatch):
    """Refuses the so-manieth of the operations that change a disk; tells how many there were."""
    calls, which, once = 0, None, True

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if which is not None and (calls == which if once else calls >= which):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*args, **kwargs)

        return call

    for owner, names in OPERATIONS.items():
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))

    def begin(number, only_once=True) -> int:
        nonlocal calls, which, once
        done, calls, which, once = calls, 0, number, only_once
        return done

    return begin


@pytest.mark.parametrize("only_once", [True, False])
def test_whatever_is_refused_a_file_is_the_old_or_the_new_one(tmp_path, refuse, only_once):
    path, total = tmp_path / "file", 0
    files.write(path, b"old")
    refuse(None)
    files.write(path, b"old")
    total = refuse(None)
    assert total >= 3
    for number in range(1, total + 1):
        refuse(number, only_once)
        with contextlib.suppress(StorageError):
            files.write(path, b"new")
        refuse(None)
        with path.open("rb") as file:
            assert file.read() in (b"old", b"new")
        if only_once:  # else what was begun could not be removed either
            assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
        files.remove_unfinished(tmp_path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
        files.write(path, b"old")


def test_a_refusal_is_one_line_that_names_the_file(tmp_path):
    with pytest.raises(StorageError) as error:
        files.write(tmp_path / "nowhere" / "file", b"")
    assert str(error.value) == f"cannot write {tmp_path / 'nowhere' / 'file'}: No such file or directory"
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*folder: "):
        files.write(tmp_path / "folder", b"")
    with pytest.raises(StorageError, match=r"cannot remove .*folder: "):
        files.remove(tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_no_link_is_followed(tmp_path):
    """Neither one that has the file's name, nor one that has a name which was used for what is not finished."""
    (tmp_path / "target").write_bytes(b"mine")
    for name in ("file", ".file.tmp", "file.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        files.append(tmp_path / "file", b"more")
    with pytest.raises(OSError):
        files.read(tmp_path / "file")
    files.write(tmp_path / "file", b"new")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert not (tmp_path / "file").is_symlink()
    assert files.read(tmp_path / "file") == b"new"


def test_what_is_appended_lies_behind_what_is_there(tmp_path):
    path = tmp_path / "file"
    files.append(path, b"one")
    files.append(path, b"two")
    assert files.read(path) == b"onetwo"
    with pytest.raises(OSError, match="larger than 5 bytes"):
        files.read(path, 5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        files.read(tmp_path / "pipe")


@pytest.mark.parametrize("folder", ["ab/" * 2000, "x" * 300, "file/below", "null\0byte"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^out: cannot make the folder") as error:
        files.make_folder("out", tmp_path / folder)
    assert "\n" not in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def hold(path: str, held, release) -> None:
    with files.locked(pathlib.Path(path)) as ours:
        assert ours
        held.set()
        release.wait(60)


def test_a_lock_ends_with_its_process(tmp_path):
    path, context = tmp_path / "lock", multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(path), held, release))
    process.start()
    assert held.wait(60)
    with files.locked(path) as ours:
        assert not ours
    process.kill()
    process.join()
    with files.locked(path) as ours:
        assert ours
        with files.locked(path) as again:
            assert not again
    with (
        pytest.raises(StorageError, match=r"^cannot lock .*nowhere/lock: No such file"),
        files.locked(tmp_path / "nowhere" / "lock"),
    ):
        pass
    assert not (tmp_path / "nowhere").exists()


def test_the_cache_folder_is_the_users_choice_or_the_systems(monkeypatch):
    monkeypatch.setenv("ASMPG_CACHE", "/somewhere")
    assert files.cache_folder() == pathlib.Path("/somewhere")
    monkeypatch.delenv("ASMPG_CACHE")
    found = files.cache_folder()
    assert found is not None and found.name == "asmpg"


def test_lines_end_at_the_first_that_is_none_or_are_skipped():
    data = b'{"a": 1}\n{"b": NaN}\n[]\n{"c": 2}\n{"d"'
    assert files.from_lines(data) == [{"a": 1}]
    assert files.from_lines(data, skip=True) == [{"a": 1}, {"c": 2}]
