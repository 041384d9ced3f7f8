"""`asmpg sweep`: what it prints, its exit statuses, and that it stops and goes on."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import types

import pytest

import sweeping
from asmpg.cli import main
from asmpg.cli import sweep as cli_sweep
from asmpg.sweeps import open_store, read_table, work
from sweeping import wait_for, write_suite


pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own with a suite in it, and leaves the environment as it was."""
    monkeypatch.chdir(tmp_path)
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    write_suite(tmp_path)
    return tmp_path


@pytest.fixture
def call(capfd):
    """Runs a command; gives the exit status, standard output and standard error."""

    def run(line: str) -> tuple[int, str, str]:
        status = main(shlex.split(line))
        return status, *capfd.readouterr()

    return run


def only_json(out: str) -> dict:
    """The object on the only line of standard output."""
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("line", "option", "allowed"),
    [
        ("sweep nothing", "SUITE", "myriad"),
        ("sweep nowhere.toml", "SUITE", "no file"),
        ("sweep suite.toml --scale huge", "--scale", "smoke"),
        ("sweep suite.toml --engine slurm", "--engine", "ray"),
        ("sweep suite.toml --workers -1", "--workers", "from 1 to"),
        ("sweep suite.toml --address auto", "--address", "--engine ray"),
        ("sweep suite.toml --out suite.toml", "--out", "folder"),
        ("sweep suite.toml --out what://ever", "--out", "what"),
        ("sweep suite.toml --status --dry-run", "--status", "only one"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(call, workplace, line, option, allowed):
    before = {path.name for path in workplace.iterdir()}
    status, out, err = call(line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"asmpg: {option}")
    assert allowed in err
    assert {path.name for path in workplace.iterdir()} - {"__pycache__"} == before


def test_a_sweep_from_nothing_to_a_table(call, workplace, monkeypatch):
    line = "sweep suite.toml --workers 0 --json"
    status, out, err = call(f"{line} --status")
    assert (status, err) == (0, "")
    content = only_json(out)
    assert (content["items"], content["done"], content["left"], content["seconds_left"]) == (3, 0, 3, None)
    assert not (workplace / "sweeps").exists()
    predicted = only_json(call(f"{line} --dry-run")[1])
    assert (predicted["left"], predicted["predicted"]) == (3, 3)
    assert predicted["seconds"] > 0
    assert not (workplace / "sweeps").exists()
    monkeypatch.setattr(work, "start", sweeping.pretend)
    status, out, err = call(line)
    assert status == 0
    content = only_json(out)
    assert (content["done"], content["left"], content["failed"]) == (3, 0, {})
    assert err.splitlines()[0].endswith("0 of 3 items are done")
    table = read_table(open_store(content["out"]), content["table"])
    assert table is not None
    assert {*table["item"]} == {path.stem for path in (workplace / content["out"] / "results").iterdir()}
    assert (workplace / content["curves"]).read_bytes().startswith(b"\x89PNG")
    shown = call("sweep suite.toml --workers 0")[1]
    rows = [line for line in shown.splitlines() if line.startswith("  task.py:Probe")]
    assert all(f"entropy={value}" in shown for value in ("0.1", "0.01", "0.001"))
    assert len(rows) == 3 and shown.count("[") == 3 and "asmpg report sweeps/tiny-cpu" in shown
    assert all(line in call("show sweeps")[1] for line in rows)
    status, out, _ = call("sweep suite.toml --status")
    assert status == 0
    assert "3 items, 3 done, 0 running, 0 failed, 0 left" in out


def test_failures_give_status_one_and_are_listed(call, workplace, monkeypatch):
    monkeypatch.setattr(work, "start", sweeping.pretend)
    text = sweeping.SUITE.replace('"task.py:Probe"', '"task.py:faulty"')
    (workplace / "suite.toml").write_text(text)
    status, out, err = call("sweep suite.toml --workers 0")
    assert status == 1
    assert out.count("RuntimeError: out of order") == err.count("failed: RuntimeError: out of order") == 3
    assert "3 failed, 0 left" in call("sweep suite.toml --status")[1]
    (workplace / "cure").touch()
    assert call("sweep suite.toml --workers 0")[0] == 1
    assert call("sweep suite.toml --workers 0 --retry-failed")[0] == 0


def test_an_interrupted_sweep_says_how_to_go_on_and_goes_on(call, workplace):
    """One signal, to a pool with an item under way: it stops after its chunk."""
    text = sweeping.SUITE.replace("steps = 160", "steps = 60000")
    (workplace / "suite.toml").write_text(text)
    command = [sys.executable, "-m", "asmpg", "sweep", "suite.toml", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out = pathlib.Path("sweeps/tiny-cpu")
    wait_for(lambda: list(out.glob("work/*/checkpoint/*")) or process.poll() is not None)
    status, shown, _ = call("sweep suite.toml --status")
    assert status == 0
    assert "1 running" in shown
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "3 left" in printed
    assert said.splitlines()[-1].endswith(
        "stopped with 3 items left; go on with: asmpg sweep suite.toml --workers 1"
    )
    assert "Traceback" not in said
    (work,) = (out / "work").iterdir()
    steps = len((work / "metrics.jsonl").read_bytes().splitlines())
    assert "0 running" in call("sweep suite.toml --status")[1]
    assert f"stopped  {work.name}: " in call("show sweeps")[1]
    assert steps >= 1


@pytest.mark.parametrize(
    ("line", "keeps_off"),
    [
        ("sweep nothing", True),
        ("sweep nothing --workers 3", True),
        ("sweep nothing --workers 0", False),
        ("sweep nothing --workers=0", False),
        ("reproduce 7 --scale smoke --sweep nothing.txt --workers 2", True),
        ("reproduce 7 --scale smoke --sweep nothing.txt --workers=0", False),
    ],
)
def test_who_only_hands_out_work_leaves_accelerators_alone(call, workplace, monkeypatch, line, keeps_off):
    (workplace / "nothing.txt").write_text("no folder")
    changed = {}

    def update(name, value):
        changed[name] = value

    config = types.SimpleNamespace(jax_platforms=None, update=update)
    monkeypatch.setattr(cli_sweep, "jax", types.SimpleNamespace(config=config))
    assert call(line)[0] == 2
    assert changed == ({"jax_platforms": "cpu"} if keeps_off else {})
