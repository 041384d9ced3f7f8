"""The pages: every block of code is run or read, every command can be typed, run folders are as they are described."""

import ast
import doctest
import importlib
import json
import pathlib
import re
import shlex
import tomllib

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import asmpg
from asmpg.cli import main, parsing
from asmpg.core.types import Trajectory
from asmpg.learners import ReplayBuffer
from asmpg.models.normalisation import Normaliser
from tiers import thorough_but


ROOT = pathlib.Path(__file__).parents[1]
if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("only where the repository is", allow_module_level=True)
pytestmark = pytest.mark.usefixtures("quickly")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
RUN_FOLDERS = (ROOT / "docs" / "run-folders.md").read_text()


def blocks(page: pathlib.Path) -> list[tuple[str, str]]:
    """Language and text of every block of code."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The `asmpg` commands in a shell's text, without comments and without what `...` leaves out."""
    lines = re.findall(r"^(?:srun )?asmpg (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [line.partition(" #")[0] for line in lines if "..." not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_can_be_read(page):
    """Python compiles and names nothing of `asmpg` that is not there; commands have options that exist."""
    known = {"", "python", "sh", "bash", "text", "toml", "json", "yaml", "jsonl", "dockerfile"}
    for language, text in blocks(page):
        assert language in known
        if language == "python":
            names = [
                node.attr
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "asmpg"
            ]
            assert not [name for name in names if not hasattr(asmpg, name)]
        elif language == "toml" and "--8<--" not in text:
            tomllib.loads(text)
        elif language == "json":
            json.loads(text)
        for line in commands(text) if language in ("sh", "bash") else []:
            typed(line)
    for line in re.findall(r"`asmpg ([a-z]+ [^`]*)`", page.read_text()):
        if not re.search(r"\.\.\.|\[|\||\)", line):
            try:
                typed(line)
            except asmpg.UsageError as error:
                assert "is missing" in str(error)  # prose may leave an argument out


def typed(line: str) -> None:
    """Reads a command; a letter stands for a number."""
    words = [re.sub(r"^[A-Z]$", "10", word) for word in shlex.split(line)]
    if words == ["--version"]:
        return
    try:
        parsing.parse(words)
    except SystemExit as stop:
        assert stop.code == 0


def test_commands_are_found_and_mistakes_in_them_too():
    assert commands("asmpg train x --horizon 5  # yes\n# asmpg no\nsrun asmpg sweep y\nasmpg ...\n") == [
        "train x --horizon 5 ",
        "sweep y",
    ]
    with pytest.raises(asmpg.UsageError):
        typed("train harvest --no-such-option")


@pytest.mark.parametrize(
    "page", thorough_but(["first-run", "sweeps"], ["bring-your-own", "watching", "sweeps", "first-run"])
)
def test_examples_of_a_page_run(page, tmp_path, monkeypatch):
    """As they stand, but for the number of steps."""
    monkeypatch.chdir(tmp_path)
    for language, text in blocks(ROOT / "docs" / f"{page}.md"):
        if language == "python":
            text = text.replace("steps=4_000, num_seeds=2", "steps=550, num_seeds=2")
            exec(compile(text, page, "exec"), {"__name__": page})


@pytest.mark.thorough
def test_the_sweep_of_the_page_runs(tmp_path, monkeypatch, capfd):
    """At scale smoke, into the files that the page names; at the default scale it is what its comment says."""
    monkeypatch.chdir(tmp_path)
    suite = str(ROOT / "examples" / "sweep.toml")
    assert main(["sweep", suite, "--status", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["items"] == 2 * 2 * 2
    assert main(["sweep", suite, "--scale", "smoke", "--workers", "0", "--json"]) == 0
    content = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (content["done"], content["items"]) == (2, 2)
    page = (ROOT / "docs" / "sweeps.md").read_text()
    assert content["out"] == "sweeps/entropy-smoke" and content["out"] in page
    for path in (tmp_path / content["out"]).iterdir():
        name = path.name.replace("entropy-smoke", "NAME")
        assert f"`{name}/`" in page or f"`{name}`" in page or f"`{name}/ITEM.json`" in page, name


# Run folders


def table(title: str) -> set[str]:
    """The names in the first column of the first table below a title."""
    text = RUN_FOLDERS.partition(f"# {title}\n")[2]
    rows = re.search(r"\n\|.*?\n\n", text + "\n\n", re.DOTALL)
    assert rows is not None
    return {
        name
        for line in rows[0].splitlines()
        for name in re.findall(r"`([^`]+)`", line.split("|")[1:2][0] if "|" in line else "")
    }


def diagnosed(model: str, **fields) -> set[str]:
    """The metrics that a method's learner tells, by shapes alone."""
    learner = asmpg.TrainConfig("bioreactor", horizon=4, model=model, **fields).learner()
    env, key = learner.env, jax.random.key(0)
    shapes = ((5, env.state_size), (4, env.action_size), (4,))
    episode = Trajectory(*map(jnp.zeros, shapes))
    replay = ReplayBuffer.create(env, 2).add(episode)

    def tell():
        state = learner.init(Normaliser.unknown(env.state_size), key=key)
        state = learner.observe_warmup(state, jax.tree.map(lambda x: jnp.stack([x, x]), episode))
        return learner.diagnose(state, replay, episode, key=key)[1]

    return {*eqx.filter_eval_shape(tell)}


def test_every_metric_is_on_the_page_and_no_other():
    found = diagnosed("lstm", learned_reward=True, record_cosine=True) | diagnosed("sac") | diagnosed("odt")
    found |= diagnosed("one-step", record_cosine=True)
    loop = "".join(
        (ROOT / "src" / "asmpg" / "training" / name).read_text()
        for name in ("loop.py", "runs/records.py", "runs/session.py")
    )
    own = {
        "steps",
        "episodes",
        "return",
        "score",
        "return_spread",
        "simulated_steps",
        "evaluation_steps",
        "violation",
        "relative_violation",
        "num_null",
    }
    assert all(f'"{name}"' in loop for name in own)
    assert table("Metrics") == found | own


def test_a_run_folder_is_as_it_is_described(tmp_path):
    config = asmpg.TrainConfig(
        "bioreactor", horizon=4, model="simulator", steps=24, chunk_steps=8, out=str(tmp_path / "run"),
        overrides={"warmup_steps": 8, "policy_batch_size": 2},
    )  # fmt: skip
    result = asmpg.train(config)
    names = {path.name + "/" * path.is_dir() for path in (tmp_path / "run").iterdir()}
    assert table("Run folders and metrics") == names
    (first, *_) = (tmp_path / "run" / "timings.jsonl").read_text().splitlines()
    assert table("Timings") == json.loads(first).keys()
    assert table("Summary") == json.loads((tmp_path / "run" / "summary.json").read_text()).keys()
    assert result.metrics.keys() <= table("Metrics")


# The site


# Sizes and models with which every cell has its point still.
SMALLER = {
    "horizon=24": "horizon=6",
    'backbone="transformer"': 'backbone="rnn"',  # which is compiled soonest
    "horizon=25": "horizon=10",
    "warmup_steps=250": "warmup_steps=100",
    "steps=800": "steps=400",
}


def run_cell(source: str, names: dict) -> None:
    """Runs a cell, and shows the value of a last expression as a notebook does."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body.append(last)
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        shown = getattr(value, "_repr_html_", lambda: None)()
        assert shown or repr(value)


@pytest.mark.parametrize("path", thorough_but(NOTEBOOKS[:1], NOTEBOOKS), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    cells, names = json.loads(path.read_text())["cells"], {"__name__": path.stem}
    assert all(not cell.get("outputs") for cell in cells), "strip the outputs"
    for cell in cells:
        source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        for size, smaller in SMALLER.items():
            source = source.replace(size, smaller)
        if source:
            run_cell(source, names)
    plt.close("all")
    assert not list(tmp_path.iterdir())


def test_every_notebook_is_a_page():
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("notebook-*.md"))
    assert len(NOTEBOOKS) >= 3 and all(f"examples/{path.name}" in pages for path in NOTEBOOKS)


def test_examples_in_docstrings_run():
    source = ROOT / "src"
    names = [
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in source.rglob("*.py")
        if ">>> " in path.read_text()
    ]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.attempted for result in results) > 0
    assert all(result.failed == 0 for result in results)
