"""The package as an editor sees it: code of the README and of the examples has no errors, and names complete."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import asmpg
from asmpg.core.names import ModelName, TaskName
from asmpg.learners.settings import Preset
from asmpg.training.choice import AUTO
from asmpg.training.door import Fields


ROOT = Path(__file__).parents[1]
# What pyright must know without being told: checked against the types it infers.
REVEALED = """
import numpy as np
import asmpg

result = asmpg.train("harvest", horizon=10, model="lstm", steps=100, preset="default")
reveal_type(result)
reveal_type(result.best.episode_return)
reveal_type(result.predict(np.zeros(1)))
asmpg.train("harvest", preset="defautl")
asmpg.train("harvest", horizon="10")
asmpg.train("harvest", step=100)
asmpg.random_return(asmpg.make("harvest"), num_episodes="many")
"""


def blocks(document: Path) -> str:
    """All Python of a page, as one program."""
    return "\n".join(re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL))


def pyright(folder: Path) -> list[dict[str, typing.Any]]:
    config = {"pythonVersion": "3.11", "typeCheckingMode": "standard", "extraPaths": [str(ROOT / "src")]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder)]
    command += ["--pythonpath", sys.executable]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(ran.stdout)["generalDiagnostics"]


def test_code_as_a_user_writes_it_has_no_errors_and_mistakes_have(tmp_path):
    (tmp_path / "readme.py").write_text(blocks(ROOT / "README.md"))
    (tmp_path / "revealed.py").write_text(REVEALED)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    found = pyright(tmp_path)
    errors = {name: [] for name in ("error", "information")}
    for one in found:
        errors.setdefault(one["severity"], []).append(
            (Path(one["file"]).name, one["range"]["start"]["line"], one)
        )
    wrong = [(name, line) for name, line, _ in errors["error"]]
    assert [line for name, line in wrong if name == "revealed.py"] == [8, 9, 10, 11], errors["error"]
    assert [place for place in wrong if place[0] != "revealed.py"] == [], errors["error"]
    shown = [one["message"] for name, _, one in errors["information"] if name == "revealed.py"]
    for message, kind in zip(shown, ("Result[Any, Any]", '"float"', "ndarray"), strict=True):
        assert kind in message


def test_names_as_types_are_those_of_the_tables():
    assert set(typing.get_args(TaskName)) == set(asmpg.TASKS)
    assert set(typing.get_args(ModelName)) == {*asmpg.MODELS, AUTO}
    assert set(typing.get_args(Preset)) == set(asmpg.MODELS["lstm"].presets)


def test_keywords_of_train_are_the_fields_of_a_configuration():
    fields = {field.name for field in dataclasses.fields(asmpg.TrainConfig)}
    assert set(Fields.__annotations__) == fields - {"task", "data"}


def test_no_signature_says_anything_goes_beside_a_type():
    """`int | Any` is Any to an editor; what a function checks itself is `Given[int]`."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"\| Any\b|\bAny \|", path.read_text()), path
