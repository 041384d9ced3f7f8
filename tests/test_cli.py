"""The command line: exit statuses, one JSON object and nothing else, one line for every mistake, signals and pipes."""

import contextlib
import dataclasses
import gc
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import asmpg
from asmpg import __main__
from asmpg.cli import commands, demo, guarded, machine, main, options, parsing
from asmpg.cli.declare import options_of
from asmpg.cli.output import PatientStream, table
from asmpg.experiments import EXPERIMENTS
from asmpg.training.methods import MODELS
from asmpg.training.runs.folder import RunFolder
from test_config import MODEL_FILE, TASK_FILE


# A learner of the tests' own, which has to be named again where a run is read.
MODEL = "--model wanderer:Wanderer"
SMALL = f"--horizon 8 {MODEL} --chunk-steps 16 --warmup-steps 32 --model-batch-size 4 --policy-batch-size 4"
TRAIN = f"train bioreactor {SMALL} --steps 90 --seeds 2"
KEYS = {"task", "horizon", "model", "scores", "score", "returns", "steps", "seconds", "out"}


pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, made by the command line; its folder and what it printed."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN.split(), "--out", str(out)]) == 0
    return out


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


# Mistakes


@pytest.mark.parametrize(
    ("line", "option", "allowed"),
    [
        ("train chess", "TASK", "timber_harvest"),
        ("train bioreactor --model missing.py:Own", "--model", "no file missing.py"),
        ("train bioreactor --model own.py:Own", "--model", "not a backbone"),
        ("train", "TASK", "FILE.py:NAME"),
        ("train bioreactor --horizon 1", "--horizon", "from 2 to"),
        ("train bioreactor --model gpt", "--model", "transformer"),
        ("train bioreactor --preset fast", "--preset", "paper"),
        ("train bioreactor --steps 99", "--steps", "100 steps"),
        ("train bioreactor --seeds 0", "--seeds", "from 1 to"),
        ("train bioreactor --seed -1", "--seed", "from 0 to"),
        ("train bioreactor --chunk-steps 0", "--chunk-steps", "from 1 to"),
        ("train bioreactor --stop-score nan", "--stop-score", "a number"),
        ("train bioreactor --entropy -1", "--entropy", ">= 0"),
        ("train bioreactor --horizon 1000000000000000000000000000000", "--horizon", "from 2 to"),
        ("train bioreactor --seeds 1000000000", "--seeds", "from 1 to"),
        ("train bioreactor --policy-update-every 1000000000000", "--policy-update-every", "from 1 to"),
        ("train bioreactor --horzon 5", "--horzon", "did you mean --horizon?"),
        ("trian bioreactor", "trian", "did you mean train?"),
        ("train bioreactor --horizon 1_0", "--horizon", "an integer"),
        ("train bioreactor --horizon=١٢", "--horizon", "an integer"),
        ("train bioreactor --loop clsed", "--loop", "did you mean closed?"),
        ("train bioreactor --json=yes", "--json", "takes no value"),
        ("train bioreactor harvest", "harvest", "no such argument"),
        ("train bioreactor -h8", "-h8", "no such argument"),
        ("evaluate", "RUN", "is missing"),
        ("train bioreactor --horizon ten", "--horizon", "an integer"),
        ("train bioreactor --loop half", "--loop", "open"),
        ("train bioreactor --horizon", "--horizon", "needs a value"),
        ("train bioreactor --out ~nosuchuser/x", "--out", "no such user"),
        (f"train bioreactor --out {'x' * 300}", "--out", "too long"),
        (f"train bioreactor --out {'a/' * 2000}", "--out", "too long"),
        ("train bioreactor --policy-learning-rate 0", "--policy-learning-rate", "> 0"),
        ("train bioreactor --dropout 1", "--dropout", "< 1"),
        ("train bioreactor --out notes.txt", "--out", "folder"),
        ("train bioreactor --out .", "--out", "does not exist"),
        ("train bioreactor --out ''", "--out", "must"),
        ("sweep myriad --out ''", "--out", "must"),
        ("reproduce 2 --out ''", "--out", "must"),
        ("evaluate ''", "RUN", "must"),
        ("train --resume ''", "--resume", "must"),
        ("diagnose bioreactor --out ''", "--out", "must"),
        ("train bioreactor --task own.py:Own", "TASK", "not both"),
        ("train nowhere.py:Own", "TASK", "nowhere.py"),
        ("train own.py:Nothing", "TASK", "Own"),
        ("train own.py", "TASK", "FILE.py:NAME"),
        ("train own.py:instance --horizon 5", "--horizon", "7"),
        ("train own.py:Broken", "reward of own", "shape ()"),
        ("train own.py:Own --stop-score 1", "--stop-score", "optimum"),
        ("train own.py:Own --model odt", "--return-target", "number"),
        ("train bioreactor --num-critics 2", "--num-critics", "model_batch_size"),
        ("train --resume nowhere", "--resume", "run folder"),
        ("train --resume nowhere --model lstm", "--model", "--resume"),
        ("train --resume nowhere --entropy 1", "--entropy", "--resume"),
        ("train --resume nowhere --record-cosine", "--record-cosine", "--resume"),
        ("evaluate nowhere", "RUN", "run folder"),
        ("evaluate .", "RUN", "run folder"),
        ("optimal chess", "TASK", "timber_harvest"),
        ("optimal bioreactor --horizon 1", "--horizon", "from 2 to"),
        ("optimal own.py:Broken", "reward of own", "shape ()"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(call, workplace, line, option, allowed):
    (workplace / "notes.txt").write_text("mine")
    (workplace / "own.py").write_text(TASK_FILE)
    status, out, err = call(line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"asmpg: {option}")
    assert allowed in err
    assert {path.name for path in workplace.rglob("*")} - {"__pycache__"} == {"notes.txt", "own.py"}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "frobnicate",
            "train bioreactor --frobnicate",
            "train bioreactor --horizon 2.5",
            "evaluate",
            "optimal",
        ),
        *("train bioreactor --horizon ten", "train bioreactor --loop half", "list 3"),
        "train bioreactor --normalise-return maybe",
        "train bioreactor --model odt --return-target best",
    ],
)
def test_what_cannot_be_parsed_gives_status_two(call, workplace, line):
    status, out, err = call(line)
    assert (status, out) == (2, "")
    assert "Traceback" not in err and err.count("\n") == 1
    assert line.split()[-1].lstrip("-") in err.lower() or line in ("evaluate", "optimal")
    assert not list(workplace.iterdir())


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("precision", {"float32", "float64", "bfloat16-matmul"}),
        ("loop", {"open", "closed"}),
        ("exploration", {"white", "correlated"}),
        ("tune-temperature", {"true", "false"}),
    ],
)
def test_only_what_is_allowed_is_listed(call, option, choices):
    _, _, err = call(f"train bioreactor --{option} None")
    listed = err.partition("must be ")[2].partition(", got")[0]
    assert set(re.split(", | or ", listed)) == choices


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("train bioreactor --out {}", "--out"),
        ("train --resume {}", "--resume"),
        ("evaluate {}", "RUN"),
        ("train {}.py:cart", "TASK"),
        ("optimal ~nobody-of-this-name/{}.py:cart", "TASK"),
        ("train bioreactor --model history-{}.py:Own", "--model"),
        ("sweep {}.toml", "SUITE"),
    ],
)
def test_a_name_that_is_too_long_is_one_line(call, workplace, line, option):
    status, out, err = call(line.format("x" * 300))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"asmpg: {option}: ")
    assert not list(workplace.iterdir())


def test_a_damaged_run_is_one_line(call, trained, workplace):
    copy = shutil.copytree(trained, workplace / "copy")
    for path in (copy / "checkpoint").rglob("arrays.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    for line in (f"evaluate copy {MODEL}", f"train --resume copy {MODEL}"):
        status, out, err = call(line)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "no whole checkpoint left" in err


def test_falling_back_is_said_on_one_line(call, trained, workplace):
    copy = shutil.copytree(trained, workplace / "copy")
    newest = max(path for path in (copy / "checkpoint").iterdir() if path.name.isdigit())
    (newest / "meta.json").write_text("{")
    status, out, err = call(f"evaluate copy {MODEL} --json")
    assert status == 0
    assert only_json(out)["steps"] == 80
    assert re.fullmatch(
        r"asmpg: copy: checkpoint \d+ is cut off .*; falling back to the one at step 80\n", err
    )


def test_a_full_disk_is_one_line_and_status_one(call, workplace, monkeypatch):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        status, out, err = call(f"{TRAIN} --out run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("asmpg: cannot write ")
    assert "File too large" in last
    assert "Traceback" not in err


# What commands print


def test_without_arguments_help_is_printed(call):
    for line in ("", "--help", "train --help"):
        status, out, _ = call(line)
        assert status == 0
        assert "usage: asmpg" in out
        assert "{None}" not in out
    assert call("--version")[1] == f"asmpg {asmpg.__version__}\n"


def test_help_is_short_plain_and_complete(call, monkeypatch):
    """One screen of what is often needed, with choices and defaults; the rest behind --help-all, in no escape codes."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for command in ("", *options.COMMANDS):
        status, out, err = call(f"{command} --help")
        assert (status, err) == (0, "") and "\x1b" not in out
        assert out.count("\n") <= 60 and max(map(len, out.splitlines())) <= 100
    overview, short = call("--help")[1], call("train --help")[1]
    assert asmpg.__version__ in overview and "--version" in overview
    assert all(f"  {command} " in overview for command in options.COMMANDS)
    assert "--loop open|closed" in short and "default|paper" in short and "(default: 20000)" in short
    assert "--model-batch-size" not in short and "--help-all" in short
    monkeypatch.setenv("COLUMNS", "40")
    assert max(len(line) for line in call("train --help")[1].splitlines()) <= 60


@pytest.mark.parametrize("horizon", [100, 300])
def test_all_settings_are_listed_with_both_presets_at_the_horizon(call, horizon):
    out = call(f"train --help-all --horizon {horizon}")[1]
    names = {field.name for method in MODELS.values() for field in dataclasses.fields(method.settings)}
    assert all(f"--{name.replace('_', '-')} " in out for name in names)
    assert all(f"{option.flag}" in out for option in options_of(options.Train))
    warmup = MODELS["transformer"].preset("default", horizon).warmup_steps
    assert re.search(rf"--warmup-steps +{warmup:,}, paper 1,500;", out)


def test_list(call):
    content = only_json(call("list --json")[1])
    assert content.keys() >= {"tasks", "backbones", "models", "figures"}
    assert content["tasks"] == [*asmpg.TASKS]
    assert content["backbones"] == [*asmpg.BACKBONES]
    assert content["models"] == [*MODELS]
    assert content["figures"] == [*EXPERIMENTS]
    out = call("list")[1]
    assert max(map(len, out.splitlines())) <= 80
    words = set(re.findall(r"^  ([\w.:-]+)", out, re.MULTILINE))
    assert words >= {
        *asmpg.TASKS,
        *asmpg.BACKBONES,
        "history-BACKBONE",
        "actions",
        "one-step",
        "sac",
        "theory",
    }
    assert re.search(r"^  hiv_treatment +3 +1  Healthy", out, re.MULTILINE)
    assert re.search(
        r"^  lstm +68,096  Two layers", out, re.MULTILINE
    )  # (72 + 64 + 1) 256 + (64 + 64 + 1) 256
    families = [name.removesuffix("BACKBONE") for name in words if name.endswith("BACKBONE")]
    named = {family + name for family in families for name in asmpg.BACKBONES} | words
    assert named >= MODELS.keys(), "a model is in no family that is listed"
    assert all(re.search(rf"^  ({figure}|.*, {figure})[ ,]", out, re.MULTILINE) for figure in EXPERIMENTS)


def test_tables_break_the_last_column_and_put_numbers_to_the_right():
    rows = [("a", "1,024", "word " * 20), ("longer", "7", "short")]
    head, first, *more, last = table(("NAME", "size", ""), rows, indent=2)
    assert head == "  NAME     size" and last == "  longer      7  short"
    assert (
        first.startswith("  a       1,024  word") and len(more) == 1 and more[0].startswith(" " * 17 + "word")
    )
    assert table(("",), [("x",), ("y",)]) == ["x", "y"] and table(("NAME",), []) == ["NAME"]


def test_list_models_measures_the_backbones(call, monkeypatch):
    """Parameters and carry of two layers of 64; the LSTM's gradient reaches back 500 steps, the RNN's is exactly 0."""
    monkeypatch.setattr(
        "asmpg.diagnose.catalogue.BACKBONES", {name: asmpg.BACKBONES[name] for name in ("rnn", "lstm")}
    )
    status, out, err = call("list --models --json")
    assert status == 0 and "measuring lstm" in err
    numbers = only_json(out)["properties"]
    parameters = (72 + 64 + 1) * 64 + (64 + 64 + 1) * 64
    assert [numbers[name]["num_parameters"] for name in ("rnn", "lstm")] == [parameters, 4 * parameters]
    assert [numbers[name]["state_size"] for name in ("rnn", "lstm")] == [128, 256]
    assert numbers["rnn"]["reach"] == 0.0 and 1e-4 < numbers["lstm"]["reach"] < 1e2
    head, rnn, lstm, *note = call("list --models")[1].splitlines()
    assert rnn.split()[:3] == ["rnn", f"{parameters:,}", "128"] and lstm.startswith("lstm")
    assert "reach" in head and "H = 500" in " ".join(note)


@pytest.fixture(scope="module")
def script():
    """The script that is printed for bash."""
    command = [sys.executable, "-m", "asmpg", "completion", "bash"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def complete(script: str, line: str) -> set[str]:
    """What bash offers for the last word of a line."""
    words = " ".join(shlex.quote(word) for word in line.split(" "))
    ask = f'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _asmpg; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("asmpg tr", {"train"}),
        ("asmpg --v", {"--version"}),
        ("asmpg train har", {"harvest"}),
        ("asmpg train harvest --model history-l", {"history-lstm", "history-lru"}),
        ("asmpg train --loop ", {"open", "closed"}),
        ("asmpg train --horiz", {"--horizon"}),
        ("asmpg train --model-b", {"--model-batch-size"}),
        ("asmpg train --policy-optimiser l", {"lamb"}),
        ("asmpg sweep --scale ", {"smoke", "cpu", "paper"}),
        ("asmpg sweep my", {"myriad"}),
        ("asmpg reproduce the", {"theory"}),
        ("asmpg diagnose bioreactor --model one", {"one-step"}),
        ("asmpg evaluate ", {"a-run"}),
        ("asmpg train --resume a-", {"a-run"}),
        ("asmpg completion f", {"fish"}),
    ],
)
def test_bash_completes(script, workplace, line, expected):
    (workplace / "a-run").mkdir()
    assert complete(script, line) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_scripts(call, workplace, shell):
    script = call(f"completion {shell}")[1]
    assert all(re.search(rf"\b{command}\b", script) for command in options.COMMANDS)
    if shutil.which(shell):
        (workplace / "script").write_text(script)
        done = subprocess.run([shell, "-n", "script"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_optimal(call):
    status, out, err = call("optimal bioreactor --horizon 8 --json")
    assert (status, err) == (0, "")
    content = only_json(out)
    env = asmpg.make("bioreactor", horizon=8)
    assert content["task"] == "bioreactor"
    assert content["horizon"] == 8
    assert content["episode_return"] == asmpg.optimal(env).episode_return
    assert content["random_return"] == asmpg.random_return(env)
    assert content["best_constant_return"] == asmpg.best_constant_return(env)
    assert f"{content['episode_return']:.8g}" in call("optimal bioreactor --horizon 8")[1]


def test_train_evaluate_and_resume_give_the_same_json(call, trained, workplace):
    status, out, err = call(f"{TRAIN} --out run --json")
    assert status == 0
    assert "\x1b" not in err  # no bar in a pipe
    assert "96/96 steps, score" in err
    content = only_json(out)
    assert content.keys() >= KEYS
    assert content == json.loads((workplace / "run" / "summary.json").read_text())
    assert (content["steps"], content["horizon"], len(content["scores"])) == (96, 8, 2)
    assert content["score"] == pytest.approx(np.mean(content["scores"]))
    expected = asmpg.score(asmpg.make("bioreactor", horizon=8), np.array(content["returns"]))
    np.testing.assert_allclose(content["scores"], expected)
    assert only_json(call(f"train --resume run {MODEL} --json")[1]) == content
    assert only_json(call(f"train bioreactor --resume run {MODEL} --json")[1]) == content
    status, _, err = call(f"train harvest --resume run {MODEL} --json")
    assert status == 2
    assert err.startswith("asmpg: TASK: the run is of bioreactor")
    again = only_json(call(f"evaluate run {MODEL} --json")[1])
    assert again.keys() == content.keys()
    np.testing.assert_allclose(again.pop("returns"), content.pop("returns"), rtol=1e-6)
    np.testing.assert_allclose(again.pop("scores"), content.pop("scores"), rtol=1e-5)
    assert again.pop("score") == pytest.approx(content.pop("score"), rel=1e-5)
    assert again == content
    other = json.loads((trained / "summary.json").read_text())
    assert other["returns"] == json.loads((workplace / "run" / "summary.json").read_text())["returns"]


def test_show_a_run_in_every_state(call, trained, workplace):
    """Its numbers are those of its files; what may be done next works, and depends on whether it is finished."""
    copy = shutil.copytree(trained, workplace / "copy")
    content = only_json(call("show copy --json")[1])
    records = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert content["curve"]["steps"] == [record["steps"] for record in records]
    assert content["curve"]["return"] == [record["return"] for record in records]
    mean, low, high = content["score"]
    assert mean == pytest.approx(np.mean(records[-1]["score"])) and low <= mean <= high
    assert (content["steps"], content["total_steps"], content["state"]) == (96, 96, "finished")
    assert content["overrides"]["warmup_steps"] == 32 == content["settings"]["warmup_steps"]
    status, out, err = call("show copy")
    assert (status, err) == (0, "") and max(map(len, out.splitlines())) <= 80
    assert all(
        words in out for words in ("bioreactor, H = 8, ", ", seeds 0 to 1", "warmup_steps = 32", "96 of 96")
    )
    assert out.count("#") > 0 and "--resume copy --steps 192" in out
    with RunFolder(copy).writing():
        assert only_json(call("show copy --json")[1])["state"] == "still running"
        assert "next:  asmpg show copy" in call("show copy")[1]
    (copy / "summary.json").unlink()
    assert f"next:  asmpg train {MODEL} --resume copy\n" in call("show copy")[1]
    (copy / "metrics.jsonl").write_text("")
    assert only_json(call("show copy --json")[1])["steps"] == 0 and call("show copy")[0] == 0


def test_show_a_folder_of_runs(call, trained, workplace):
    shutil.copytree(trained, workplace / "runs" / "one")
    status, out, _ = call("show runs")
    (row,) = (line for line in out.splitlines() if line.startswith("  bioreactor"))
    assert status == 0 and re.search(r"8 +-?[\d.]+ \[.*\] +2 +96  \S+$", row)
    (found,) = only_json(call("show runs --json")[1])["runs"]
    assert found["score"] in row
    (workplace / "empty").mkdir()
    assert call("show empty")[2] == "asmpg: RUN: there is no run and no sweep in empty\n"
    assert call("show nowhere")[2].startswith("asmpg: RUN: nowhere is not a run folder")


def test_every_command_says_what_may_be_done_next_but_in_json(call, trained, workplace):
    for line in (
        f"evaluate {trained} {MODEL}",
        "optimal bioreactor --horizon 8",
        "list",
        f"{TRAIN} --out run",
    ):
        out = call(line)[1]
        assert out.count("next:") == 1, line
        command = out.partition("next:")[2].splitlines()[0].split()
        assert command[0] == "asmpg" and command[1] in options.COMMANDS
        parsing.parse(command[1:])
        assert "next:" not in call(f"{line.replace('--out run', '--out again')} --json")[1]


def test_resume_extends(call, workplace):
    call(f"{TRAIN} --out run")
    before = (workplace / "run" / "metrics.jsonl").read_bytes()
    status, out, _ = call(f"train --resume run {MODEL} --steps 120 --json")
    assert status == 0
    assert only_json(out)["steps"] == 120
    assert (workplace / "run" / "metrics.jsonl").read_bytes().startswith(before)
    status, out, err = call(f"train --resume run {MODEL} --steps 100")
    assert (status, out) == (2, "")
    assert "--steps: run has done 120 already" in err


def test_the_default_folder_is_never_overwritten(call, workplace):
    assert call(TRAIN)[0] == 0
    (folder,) = (workplace / "runs").iterdir()
    assert folder.name.startswith("bioreactor-H8-wanderer_Wanderer-seeds0-1")
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, _, err = call(TRAIN)
    assert status == 0
    assert "was finished already" in err
    status, _, err = call(TRAIN.replace("--steps 90", "--steps 120"))
    assert status == 2
    assert re.match(r"asmpg: --out: runs/.* \(steps is 90, not 120\)", err)
    status, _, err = call(f"{TRAIN} --entropy 0.5 --out {folder}")
    assert status == 2
    assert re.search(r"\(entropy is [\d.]+, not 0.5\)", err)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content


def parse_train(line: str) -> options.Train:
    typed = parsing.parse(["train", *line.split()])
    assert isinstance(typed, options.Train)
    return typed


def test_default_folders_tell_runs_apart():
    lines = [
        f"bioreactor --horizon {horizon} --seed {seed} --seeds 2" for horizon in (8, 9) for seed in (0, 1)
    ]
    extra = (
        "",
        " --seeds 1",
        " --model rnn",
        " --preset paper",
        " --loop closed",
        " --learned-reward",
        " --entropy 0.5",
        " --entropy 0.25",
    )
    folders = set()
    for line in [line + more for line in lines for more in extra]:
        typed = parse_train(line)
        folders.add(commands.train_config("bioreactor", typed).out)
    assert len(folders) == len(lines) * len(extra)


def test_the_name_of_a_default_folder_is_never_too_long():
    line = "bioreactor --horizon 8 --model rnn " + " ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(MODELS["rnn"].presets["default"](8)).items()
    )
    typed = [parse_train(line), parse_train(f"{line} --entropy 0.123"), parse_train(line)]
    folders = [pathlib.Path(commands.train_config("bioreactor", one).out or "") for one in typed]
    assert max(len(folder.name) for folder in folders) < 150
    assert folders[0].name.startswith("bioreactor-H8-rnn-seed0-")
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize("model", ["lstm", "sac", "odt"])
def test_every_setting_can_be_typed(model):
    for preset in MODELS[model].presets.values():
        settings = vars(preset(8))
        line = [f"--{name.replace('_', '-')} {value}" for name, value in settings.items()]
        typed = parse_train(" ".join([f"bioreactor --horizon 8 --steps 800 --model {model}", *line]))
        assert vars(commands.train_config("bioreactor", typed).settings()) == settings


def test_a_task_from_a_file_is_given_again(call, workplace):
    (workplace / "own.py").write_text(TASK_FILE)
    small = SMALL.replace("--horizon 8", "")
    status, out, _ = call(f"train own.py:Own {small} --steps 60 --json --out run")
    assert status == 0
    content = only_json(out)
    assert (content["task"], content["horizon"], content["scores"], content["score"]) == (
        "own",
        12,
        None,
        None,
    )
    assert len(content["returns"]) == 1
    for line in (f"evaluate run {MODEL}", f"train --resume run {MODEL} --steps 72"):
        status, _, err = call(line)
        assert status == 2
        assert "own.py:Own" in err
    assert only_json(call(f"evaluate run {MODEL} --task own.py:Own --json")[1])["returns"] == pytest.approx(
        content["returns"]
    )
    assert call(f"train --resume run {MODEL} --task own.py:Own --steps 72")[0] == 0
    assert call(f"train own.py:Own {MODEL} --resume run --steps 84")[0] == 0
    (workplace / "own.py").write_text(TASK_FILE + "# changed")
    status, _, err = call(f"evaluate run {MODEL} --task own.py:Own")
    assert status == 2
    assert "changed" in err


def test_a_model_from_a_file_is_given_again(call, workplace):
    (workplace / "own.py").write_text(MODEL_FILE)
    small = SMALL.replace(MODEL, "--model own.py:Sum")
    status, out, _ = call(f"train bioreactor {small} --steps 60 --json")
    assert status == 0
    content = only_json(out)
    assert content["model"] == "own.py:Sum"
    folder = content["out"]
    assert pathlib.Path(folder).name.startswith("bioreactor-H8-own.py_Sum-seed0")
    for line in (f"evaluate {folder}", f"train --resume {folder} --steps 72"):
        status, _, err = call(line)
        assert status == 2
        assert "--model" in err and "own.py:Sum" in err
    again = only_json(call(f"evaluate {folder} --model own.py:Sum --json")[1])
    assert again["returns"] == pytest.approx(content["returns"])
    assert call(f"train --resume {folder} --model own.py:Sum --steps 72")[0] == 0
    status, _, err = call(f"train --resume {folder} --model lstm --steps 80")
    assert status == 2 and "--resume" in err
    line = commands.how_to_resume(pathlib.Path("a run"), "harvest", "own.py:Sum")
    assert line == "go on with: asmpg train --model own.py:Sum --resume 'a run'"


# The machine


@pytest.mark.parametrize(
    ("cores", "seeds", "expected"),
    [(2, 1, 1), (2, 2, 2), (2, 3, 2), (8, 10, 5), (8, 5, 5), (8, 8, 8), (1, 4, 1), (4, 6, 3)],
)
def test_devices_share_the_seeds_evenly(monkeypatch, cores, seeds, expected):
    chosen = []
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr(machine.jax.config, "update", lambda name, value: chosen.append((name, value)))
    machine.use_cores(seeds)
    assert chosen == [("jax_num_cpu_devices", expected)]
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    machine.use_cores(seeds)
    assert len(chosen) == 1


@pytest.mark.thorough
def test_the_demo_leaves_two_curves_and_earlier_runs_alone(workplace, capfd, monkeypatch):
    monkeypatch.setattr(demo, "HORIZON", 10)
    # A chunk after the warm-up, of the models that are compiled soonest.
    monkeypatch.setattr(demo, "STEPS", 510)
    monkeypatch.setattr(demo, "MODELS", ("one-step", "rnn"))
    earlier = workplace / "runs" / "demo-rnn"
    earlier.mkdir(parents=True)
    (earlier / "metrics.jsonl").write_text("of an earlier run")
    assert demo.main() == 0
    out = capfd.readouterr().out
    assert all(word in out for word in ("one-step", "rnn", "optimum", "random", "score"))
    names = sorted(path.parent.name for path in workplace.rglob("learning_curve.png"))
    assert names == ["demo-one-step", "demo-rnn-2"]
    assert [(path.name, path.read_text()) for path in earlier.iterdir()] == [
        ("metrics.jsonl", "of an earlier run")
    ]


@pytest.mark.parametrize("line", ["list --tasks", f"{TRAIN} --out run"])
def test_garbage_is_collected_again_once_a_command_is_under_way(workplace, capfd, monkeypatch, line):
    seen, shown = [], machine.Interrupts.__enter__
    monkeypatch.setattr(sys, "argv", ["asmpg", *line.split()])
    monkeypatch.setattr(
        machine.Interrupts, "__enter__", lambda self: seen.append(gc.isenabled()) or shown(self)
    )
    try:
        assert __main__.main() == 0
        assert gc.isenabled()
        assert seen == ([] if line.startswith("list") else [False])
    finally:
        gc.enable()


# Programs of their own


def start(line: str, how: tuple[str, ...] = ("-m", "asmpg"), *, ignoring: bool = False) -> subprocess.Popen:
    """`asmpg`, which finds the method of the other tests; ignoring Ctrl-C as in a script."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *how, *line.split()]
    # What is ignored here is ignored there, whatever this process was started with.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, former)


def wait_for_records(process: subprocess.Popen, path: pathlib.Path, number: int) -> None:
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.thorough
def test_a_second_start_finds_every_program_compiled(workplace, monkeypatch):
    """With another seed and number of steps too."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("ASMPG_CACHE", str(workplace / "cache"))
    line = "train bioreactor --horizon 6 --model lstm --seeds 1 --warmup-steps 12 --chunk-steps 8"

    def compiled(options: str) -> set[str]:
        process = start(f"{line} {options}")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return {path.name for path in (workplace / "cache").glob("xla-*/*-cache")}

    first = compiled("--steps 48")
    assert any(name.startswith("jit_advance_all") for name in first), first
    assert compiled("--steps 42 --seed 5") == first


def test_ctrl_c_saves_and_says_how_to_go_on(workplace):
    """And standard output holds the JSON object only; and the line that is printed works."""
    process = start(f"train bioreactor {SMALL} --steps 100000 --out run --json")
    wait_for_records(process, workplace / "run" / "metrics.jsonl", 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    content = only_json(out)
    assert content["finished"] is False
    records = (workplace / "run" / "metrics.jsonl").read_bytes().splitlines()
    assert json.loads(records[-1])["steps"] == content["steps"]
    (command,) = re.findall(r"go on with: asmpg (.*)", err)
    process = start(f"{command} --steps {content['steps'] + 32} --json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert only_json(out)["steps"] == content["steps"] + 32
    assert (workplace / "run" / "metrics.jsonl").read_bytes().splitlines()[: len(records)] == records


def test_ctrl_c_counts_though_nobody_reads_standard_error(workplace):
    process = start(f"train bioreactor {SMALL} --steps 100000 --out run")
    assert process.stderr is not None
    wait_for_records(process, workplace / "run" / "metrics.jsonl", 2)
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (1, 130)


def test_an_ignored_ctrl_c_stays_ignored(workplace):
    process = start(f"train bioreactor {SMALL} --steps 160 --out run --json", ignoring=True)
    wait_for_records(process, workplace / "run" / "metrics.jsonl", 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert only_json(out)["finished"]


def test_a_dry_run_says_how_long_and_writes_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(asmpg.training.runs.forecast, "WATCHED_SECONDS", 0.0)  # an episode
    out = tmp_path / "run"
    line = (
        "train bioreactor --horizon 6 --model rnn --steps 1200 --chunk-steps 120 --warmup-steps 120 --dry-run"
    )
    arguments = [*line.split(), "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert content["num_chunks"] == 9 and content["chunk_steps"] == 120
    assert content["seconds"] == pytest.approx(content["compile_seconds"] + 9 * content["chunk_seconds"])
    # The buffer alone holds 200 episodes of 7 states, 6 actions and 6 rewards of four bytes.
    assert 200 * 19 * 4 < content["memory_bytes"] < 50 * 2**20
    assert main(arguments) == 0
    said = capfd.readouterr().out
    assert "9 chunks of 120 steps for 1 seed" in said and "MiB" in said
    assert not out.exists()
    assert main([*arguments, "--resume", str(out)]) == 2


def test_a_second_signal_ends_at_once(workplace):
    # A task whose optimum nobody asks for: on one core, solving for it would wait for the first chunk.
    (workplace / "own.py").write_text(TASK_FILE)
    process = start(f"train own.py:of_horizon {SMALL} --steps 200000000 --chunk-steps 190000000 --out run")
    wait_for_records(process, workplace / "run" / "metrics.jsonl", 1)
    time.sleep(2)  # from its first report on, a moment after the record, it is patient with the first signal
    # On a busy machine the system may take two signals for one.
    for _ in range(20):
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            break
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "once more to stop at once" in err
    assert "asmpg train" in err and "--resume run" in err
    assert (
        asmpg.training.runs.folder.RunFolder(workplace / "run").read_checkpoints()[0][0].meta["steps"] == 32
    )


@pytest.mark.parametrize("command", ["list", "train --help"])
def test_a_closed_pipe_is_quiet(command):
    process = start(command, how=("-m", "asmpg"))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=60)


def test_a_run_goes_on_where_nothing_can_be_said(workplace):
    command = "-m asmpg train bioreactor --horizon 4 --model simulator --steps 4 --json --out run"
    shell = ["sh", "-c", f'"$0" {command} 2>&-', sys.executable]
    done = subprocess.run(shell, cwd=workplace, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] == 4
    assert (workplace / "run" / "summary.json").exists()
    full = pathlib.Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 (closing it is part of the test)
    stream = PatientStream(io.TextIOWrapper(full, write_through=True))
    assert stream.write("lost") == 4
    full.close()
    stream.flush()


def test_an_interrupt_while_it_starts_is_one_line():
    process = start("optimal harvest", how=("-X", "importtime", "-m", "asmpg"))
    assert process.stderr is not None
    # The interpreter writes a line for every import.
    for line in process.stderr:
        if "jax" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    own = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, out, own) == (130, "", ["asmpg: interrupted"])


def test_out_of_memory_is_one_line_that_says_what_needs_less(capsys):
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")):

        def fail(error=error):
            raise error

        assert guarded(fail) == 1
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert all(word in line for word in ("--seeds", "batch", "--horizon", "--scan-chunk", "--dry-run"))


@pytest.mark.parametrize("kind", [BaseException, type("Own", (BaseException,), {})])
def test_whatever_code_of_the_users_raises_is_one_line(kind, capsys):
    def fail():
        raise kind("mine\nand yours")

    assert guarded(fail) == 2
    line = capsys.readouterr().err
    assert line.startswith("asmpg: code of your own raised ")
    assert line.count("\n") == 1
    for other in (SystemExit, ValueError):
        with pytest.raises(other):
            guarded(lambda other=other: (_ for _ in ()).throw(other("not caught")))
