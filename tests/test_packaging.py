"""What is released: one version, files that agree with each other, workflows that call what is there."""

import importlib.util
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
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


LIBRARIES = [
    "brax.envs",
    "diffrax",
    "flax.struct",
    "fsspec",
    "gymnasium",
    "gymnax",
    "jinja2",
    "matplotlib.pyplot",
]
LIBRARIES += ["minari", "mujoco.mjx", "optuna", "pyarrow", "selenium.webdriver", "tensorboardX", "wandb"]


def test_what_is_installed_can_be_imported():
    """Tests are left out where a library is missing; one that is there and lacks one of its own is our mistake."""
    found = [name for name in LIBRARIES if importlib.util.find_spec(name.partition(".")[0])]
    lines = ["import warnings", "warnings.simplefilter('ignore')", *(f"import {name}" for name in found)]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)


def test_the_citation_is_of_this_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["title"].startswith(PROJECT["name"])
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    assert not {"repository-code", "url"} & citation.keys(), "the address is where a release is built"


def test_a_source_release_has_all_that_a_wheel_is_built_from(tmp_path, monkeypatch):
    """The hook runs once more in the unpacked archive, which has nothing but what `include` names."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in content["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        for path in ROOT.glob(pattern.removeprefix("/")):
            if path.is_file():
                (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / path.relative_to(ROOT))
    interface = types.SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    unpacked = types.SimpleNamespace(**runpy.run_path(str(tmp_path / ".ci" / "metadata.py")))
    hook, metadata = unpacked.get_metadata_hook()(), {}
    hook.root = str(tmp_path)
    hook.update(metadata)
    assert metadata["readme"]["text"].startswith("# asmpg") and PROJECT["dynamic"] == ["readme", "urls"]


@pytest.fixture(scope="module")
def release():
    return types.SimpleNamespace(**runpy.run_path(str(ROOT / ".ci" / "metadata.py")))


@pytest.mark.parametrize(
    "origin", ["git@host.org:o/asmpg.git", "https://host.org/o/asmpg.git", "ssh://git@host.org/o/asmpg"]
)
def test_a_release_names_the_repository_it_is_built_from(release, tmp_path, monkeypatch, origin):
    for name in ("REPOSITORY_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    assert release.repository(tmp_path) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert release.repository(tmp_path) is None
    subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", origin], check=True)
    assert release.repository(tmp_path) == "https://host.org/o/asmpg"
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "p/asmpg")
    assert release.repository(tmp_path) == "https://github.com/p/asmpg"
    monkeypatch.setenv("REPOSITORY_URL", "https://own.org/asmpg/")
    assert release.repository(tmp_path) == "https://own.org/asmpg"


def test_a_package_index_gets_urls_and_a_readme_with_absolute_links_to_files_that_exist(release):
    assert {"readme", "urls"} == set(PROJECT["dynamic"])
    address = "https://host.org/o/asmpg"
    urls = release.urls(address)
    assert urls.keys() == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", release.absolute(text, address))
    assert len(links) == len(re.findall(r"\]\(([^)\s]+)\)", text)) > 20
    assert all("://" in link for link in links)
    named = [link for link in [*links, *urls.values()] if link.startswith(f"{address}/")]
    files = [
        re.sub(f"^{address}/(blob|raw)/main/", "", link) for link in named if not link.endswith("/issues")
    ]
    assert files and all((ROOT / file).is_file() for file in files)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9_000


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
