"""What is released: one version, files that agree with each other, workflows that call what is there."""

import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

import asmpg


ROOT = pathlib.Path(__file__).parents[1]
if not (ROOT / ".github").exists():
    pytest.skip("only where the repository is", allow_module_level=True)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
yaml = pytest.importorskip("yaml")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_stands_in_one_place():
    assert asmpg.__version__ == metadata.version("asmpg")
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert PROJECT["version"] not in sources
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


def test_the_citation_is_of_this_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["title"].startswith(PROJECT["name"])
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    urls = {citation[key] for key in ("repository-code", "url") if key in citation}
    assert urls <= set(PROJECT.get("urls", {}).values())


def test_the_changelog_says_what_kind_of_change_each_is():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "<<<<<<<" not in text
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {"Added", "Changed", "Fixed", "Removed"}
    newest = text.split("\n## ")[1]
    assert len(re.findall(r"^### Added$", newest, re.MULTILINE)) == 1


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_something(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [entry for entry in form["body"] if entry["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_is_there(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
    assert steps
    for command in (step["run"] for step in steps if "run" in step):
        words = shlex.split(command)
        if words[0] == "make":
            assert {word for word in words[1:] if re.fullmatch("[a-z-]+", word)} <= targets
        for file in re.findall(r"(?:\.ci/[\w-]+|tests/\w+\.py)", command):
            assert (ROOT / file).exists()


def test_the_image_is_made_of_files_that_are_there():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists()
        assert name in kept
    extras = next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_extras_that_messages_name_exist():
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"asmpg\[([\w,]+)\]", sources)) | set(
        re.findall(r'require\("[\w.]+", "(\w+)"', sources)
    )
    assert named
    assert {extra for names in named for extra in names.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_every_public_name_is_in_the_reference():
    names = runpy.run_path(str(ROOT / ".ci" / "site.py"))["public_names"]()
    listed = set(re.findall(r"^::: asmpg\.[\w.]+\.(\w+)$", names, re.MULTILINE))
    assert listed == {name for name in asmpg.__all__ if not name.isupper()}


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in (tmp_path / "site").glob("*.html")}
    for page in (tmp_path / "site").glob("*.html"):
        pictures = re.findall(r'<img [^>]*src="([^":]+)"', page.read_text())
        assert all((page.parent / picture).exists() for picture in pictures)
    assert (tmp_path / "site" / "results" / "cpu").is_dir(), "the result pictures are dropped"
