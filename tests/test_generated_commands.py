"""Whatever is typed: an exit status, on a mistake one line that says what is allowed, and never a traceback."""

import contextlib
import io
import pathlib

import pytest
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st

from asmpg.cli import commands, laboratory, leaving, main, sweep
from asmpg.cli.declare import options_of
from asmpg.cli.options import COMMANDS
from asmpg.core.types import UsageError


# Where a command that finds nothing wrong begins to work: no farther.
WORK = {
    commands: (
        "start",
        "take_up",
        "forecast",
        "optimal",
        "random_return",
        "best_constant_return",
        "validate",
    ),
    laboratory: ("diagnose", "reproduce", "redraw", "build_report"),
    leaving: ("fit",),
    sweep: ("run_sweep", "make_engine"),
}
# Numbers of every kind, words of every kind, files of every kind.
WEIRD = (
    *("0", "-1", "1", "2", "20", "3.5", "1e3", "1e400", "nan", "inf", "-inf", "0x10", "1_000", "1" * 40),
    *("", " ", "-", "--", "---x", "x" * 3000, "\x00", "\n", "ü", "\udcff", "None", "true", "a=b", "[1]"),
    *("harvest", "timber", "lstm", "lst", "auto", "paper", "cpu", "all", "20,50", "20,,", "7", "theory"),
    *(".", "..", "/", "/dev/null", "/etc/passwd", "~", "~nobody-of-that-name", "missing.py:Name", "own.py:"),
    *(
        "own.py:Fails",
        "own.py:Number",
        "own.py",
        "own.toml",
        "os:getcwd",
        "no.such.module:name",
        "gymnasium:",
    ),
    *("gymnasium:Nothing-v0", "file.npz", "s3://", "memory://x", "nosuch://x"),
)
OWN = """
Number = 7

def Fails():
    raise GeneratorExit("no")
"""


@st.composite
def typed(draw):
    """A command with a few options and values, most of them wrong somewhere."""
    name = draw(st.sampled_from([*COMMANDS, "tain", ""]))
    words = [name]
    command = COMMANDS.get(name)
    options = options_of(command) if command else []
    weird = st.sampled_from(WEIRD)
    for option in draw(st.lists(st.sampled_from(options), max_size=4)) if options else []:
        if not option.flag.startswith("--"):
            words.append(draw(weird))
        elif option.is_switch:
            words.append(option.flag)
        else:
            value = draw(weird)
            words += draw(st.sampled_from([[option.flag, value], [f"{option.flag}={value}"], [option.flag]]))
    return words + draw(
        st.lists(st.sampled_from(["--x", "harvest", "--horizon", "--help-all", "x"]), max_size=1)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of its own, with a user's files that are wrong in their own ways."""
    place = tmp_path_factory.mktemp("typed")
    (place / "own.py").write_text(OWN)
    (place / "own.toml").write_text("tasks = 3\n[")
    (place / "file.npz").write_bytes(b"no zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for module, names in WORK.items():
            for name in names:
                patch.setattr(module, name, reached)
        for module in (commands, laboratory, leaving, sweep):
            for name in ("keep_compiled", "use_cores", "share_compiled", "stay_on_cpu"):
                patch.setattr(module, name, lambda *args: None, raising=False)
        yield place


def reached(*arguments, **options):
    raise UsageError("reached")


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(words=typed())
def test_whatever_is_typed_there_is_no_traceback(words, folder):
    if words[:1] == ["list"] and "--models" in words:
        return
    out, err = io.StringIO(), io.StringIO()
    before = sorted(pathlib.Path(folder).rglob("*"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code in (0, 1, 2), words
    assert "Traceback" not in err.getvalue(), words
    if code == 2:
        assert err.getvalue().startswith("asmpg: "), words
        assert err.getvalue().count("\n") == 1, (words, err.getvalue())
        assert out.getvalue() == "", words
        assert sorted(pathlib.Path(folder).rglob("*")) == before, words
