"""What a user brings, given as an object: nothing of the package is touched, and nothing needs a file."""

import dataclasses
import importlib.util
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.core.digest import digest
from asmpg.core.precision import double
from asmpg.models.backbones import scan_step
from asmpg.models.base import free_run
from asmpg.training.door import check_callbacks
from asmpg.training.methods import MODELS
from probes import RewardIsAction
from tiers import thorough_but
from wanderer import Wanderer


SMALL = {"steps": 40, "chunk_steps": 16, "overrides": {"warmup_steps": 16, "model_batch_size": 4}}


class Sum(asmpg.AbstractBackbone):
    """Adds up what it sees, times a number."""

    size: int = eqx.field(static=True)
    gain: jax.Array
    input_size = property(lambda self: self.size)
    output_size = property(lambda self: self.size)

    @classmethod
    def create(cls, input_size, horizon, *, dropout=0.0, key):
        return cls(input_size, jnp.ones(()))

    def init(self):
        return jnp.zeros(self.size)

    def step(self, carry, x):
        carry = carry + self.gain * x
        return carry, carry

    def predict(self, xs, *, key=None):
        return scan_step(self, xs)


class Drift(asmpg.AbstractDynamicsModel):
    """The next state is the state and a multiple of the action."""

    gain: jax.Array
    env: asmpg.AbstractEnvironment

    def __init__(self, env, *, key):
        self.gain, self.env = jnp.ones(()), env

    def init(self, initial_state):
        return ()

    def step(self, carry, state, action, step):
        return carry, state + self.gain * action.mean()

    def predict(self, initial_state, actions, *, key=None):
        return free_run(self, initial_state, actions)

    def loss(self, trajectory, *, key=None):
        predicted = self.predict(trajectory.states[0], trajectory.actions)
        return jnp.square(predicted - trajectory.states[1:]).mean()


class Count(asmpg.Callback):
    def __init__(self, stop_after=100):
        self.records, self.stop_after = [], stop_after

    def on_record(self, record, result):
        self.records.append(record)
        return len(self.records) >= self.stop_after


def rnn_of_two(input_size, horizon, *, dropout=0.0, key):
    return Sum(input_size, jnp.full((), 2.0))


TABLE = np.linspace(-1.0, 1.0, 9)


class Tabled(Sum):
    """Holds a NumPy array, and reads another one."""

    weights: np.ndarray = dataclasses.field(default_factory=lambda: np.linspace(0.5, 1.5, 72))

    def step(self, carry, x):
        carry = 0.5 * jnp.clip(carry, -self.weights, self.weights) + self.gain * x * self.weights
        return carry, jnp.where(self.weights > 1, carry, carry + jnp.interp(x.mean(), TABLE, TABLE**2))


@pytest.mark.thorough
def test_numpy_arrays_in_a_backbone_survive_any_order_of_precisions(quickly):
    env = asmpg.make("bioreactor", 6)
    actions = np.full((6, 1), 0.25)

    def gradient():
        model = asmpg.ActionSequenceModel(env, Tabled, key=jax.random.key(0))
        return np.asarray(asmpg.action_gradient(model, env, env.initial_state(), actions)[1])

    single = gradient()
    with double():
        exact = gradient()
    for precision in ("float64", "float32"):
        result = asmpg.train(env, model=Tabled, precision=precision, optimum=True, **SMALL)
        assert np.isfinite(result.scores).all()
        np.testing.assert_array_equal(gradient(), single)
        with double():
            np.testing.assert_array_equal(gradient(), exact)
    assert (single.dtype, exact.dtype) == (np.float32, np.float64)


OWN = {
    "backbone": Sum,
    "backbone instance": Sum(72, jnp.ones(())),
    "function of a backbone": rnn_of_two,
    "model": Drift,
    "function of a model": lambda env, *, key: Drift(env, key=key),
    "learner": Wanderer,
}


@pytest.mark.parametrize("name", thorough_but(["backbone", "model", "learner"], OWN))
def test_an_object_as_a_model(name):
    result = asmpg.train("bioreactor", horizon=8, model=OWN[name], **SMALL)
    assert result.finished and np.isfinite(result.scores).all()
    assert result.summary()["model"] == getattr(OWN[name], "__name__", "Sum")


def test_a_learner_of_ones_own_as_a_class_and_as_an_instance():
    env = asmpg.make("bioreactor", horizon=8)
    learner = Wanderer(env, asmpg.Settings.default(8).replace(warmup_steps=16))
    results = [
        asmpg.train(env, learner=one, steps=40, chunk_steps=16, overrides=overrides)
        for one, overrides in ((learner, {}), (Wanderer, {"warmup_steps": 16}))
    ]
    np.testing.assert_array_equal(*(result.metrics["push"] for result in results))
    with pytest.raises(asmpg.UsageError, match=r"^overrides: Wanderer .* settings already"):
        asmpg.train(env, learner=learner, overrides={"entropy": 1.0})
    with pytest.raises(asmpg.UsageError, match=r"^learner: Wanderer is of another task"):
        asmpg.train("harvest", horizon=8, learner=learner)
    with pytest.raises(asmpg.UsageError, match=r"^learner: .* not both"):
        asmpg.train(env, learner=learner, model="lstm")


def test_settings_are_what_they_change_in_the_preset():
    settings = asmpg.Settings.default(8).replace(warmup_steps=16, entropy=0.5)
    one = asmpg.train("bioreactor", horizon=8, model=Wanderer, settings=settings, steps=40)
    assert one.config.overrides == {"warmup_steps": 16, "entropy": 0.5}
    with pytest.raises(asmpg.UsageError, match=r"^settings: of sac must be SoftActorCriticSettings"):
        asmpg.train("bioreactor", model="sac", settings=settings)
    with pytest.raises(asmpg.UsageError, match=r"^train: there is no 'horizn'; did you mean horizon\?$"):
        asmpg.train("bioreactor", horizn=8)


def test_a_callback_sees_every_record_and_may_stop():
    watch = Count(stop_after=2)
    result = asmpg.train("bioreactor", horizon=8, model=Wanderer, callbacks=[watch], **SMALL)
    assert len(watch.records) == 2 and not result.finished
    with pytest.raises(
        asmpg.UsageError, match=r"^callbacks: must be instances of asmpg.Callback, got Count$"
    ):
        check_callbacks([watch, Count])


class Scaled(RewardIsAction):
    gain: float = 1.0


def test_a_run_of_ones_own_objects_is_not_taken_for_another(tmp_path):
    out = tmp_path / "run"
    small = SMALL | {"out": out, "model": Wanderer}
    asmpg.train(Scaled(gain=1.0), **small)
    again = asmpg.train(Scaled(gain=1.0), **small)
    assert again.steps == 40
    with pytest.raises(asmpg.UsageError, match=r"^out: .*code or a parameter of the task"):
        asmpg.train(Scaled(gain=2.0), **small)
    with pytest.raises(asmpg.UsageError, match=r"^task: .*code or a parameter has changed"):
        asmpg.load(out, task=Scaled(gain=2.0), model=Wanderer)
    with pytest.raises(asmpg.UsageError, match=r"^model: the run is of Wanderer, .*give it again"):
        asmpg.load(out, task=Scaled(gain=1.0))
    with pytest.raises(asmpg.UsageError, match=r"^model: Sum is not what the run was started with, Wanderer"):
        asmpg.resume(out, task=Scaled(gain=1.0), model=Sum)
    longer = asmpg.resume(out, task=Scaled(gain=1.0), model=Wanderer, steps=80)
    assert longer.steps == 80
    assert json.loads((out / "config.json").read_text())["config"]["model"] == "Wanderer"


class NoStep(asmpg.AbstractBackbone):
    input_size: int = 72
    output_size: int = 72

    @classmethod
    def create(cls, input_size, horizon, *, dropout=0.0, key):
        return cls()

    def init(self):
        return ()

    def predict(self, xs, *, key=None):
        return xs


class WrongShape(Drift):
    def predict(self, initial_state, actions, *, key=None):
        return initial_state


class Forgetful(Wanderer):
    def update(self, state, replay, elapsed, *, key):
        return state.push


class Broken(Wanderer):
    def diagnose(self, state, replay, trajectory, *, key):
        raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (NoStep, "NoStep lacks step"),
        (WrongShape, r"predict of WrongShape must return an array of shape \(8, 1\), got shape \(1,\)"),
        (Forgetful, "update of Forgetful gives back a state of another structure"),
        (Broken, "diagnose of Broken raised RuntimeError: out of order"),
        (3, "int is a int, not a backbone"),
        (int, "int is the class int, not a backbone"),
        (dataclasses, "dataclasses is a module, not a backbone"),
        (lambda: None, "is a function, not a backbone"),
        (lambda env, *, key: 3, "gives a int, not an asmpg.AbstractDynamicsModel"),
    ],
)
def test_what_is_wrong_with_an_object_is_said_on_one_line_and_nothing_is_written(tmp_path, model, words):
    config = asmpg.TrainConfig("bioreactor", horizon=8, out=str(tmp_path / "run"))
    object.__setattr__(config, "model", model)  # in the tests, the constructor checks types too
    with pytest.raises(asmpg.UsageError, match=f"^model: .*{words}") as error:
        asmpg.TrainConfig.checked(config)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_module_is_named_like_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = pathlib.Path("own_doors_package")
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = pathlib.Path(__file__).with_name("test_config.py").read_text()
    task = text[text.index('TASK_FILE = """') :].split('"""')[1]
    (package / "parts.py").write_text(task.replace("from __future__ import annotations", ""))
    config = asmpg.TrainConfig("own_doors_package.parts:Own", horizon=8, model="simulator").checked()
    assert config.environment().name == "own"
    with pytest.raises(asmpg.UsageError, match=r"^task: there is no module own_doors_package.nothing"):
        asmpg.TrainConfig("own_doors_package.nothing:Own").checked()


@pytest.fixture
def added(monkeypatch):
    """An installed package that adds a task and a backbone, and one whose task cannot be imported."""
    from importlib import metadata

    from asmpg.core import user_code
    from asmpg.tasks import files

    points = {
        "asmpg.tasks": {"mine": "probes:RewardIsAction", "broken": "no_such_module:Task"},
        "asmpg.backbones": {"sum": "test_doors:Sum"},
    }
    monkeypatch.setattr(
        metadata,
        "entry_points",
        lambda group: [metadata.EntryPoint(name, value, group) for name, value in points[group].items()],
    )
    user_code.installed.cache_clear()
    yield
    user_code.installed.cache_clear()
    files.load_added.cache_clear()


def test_names_of_installed_packages(added):
    config = asmpg.TrainConfig("mine", horizon=8, model="history-sum").checked()
    assert type(config.environment()).__name__ == "RewardIsAction"
    assert config.model_name == "history-sum"
    assert asmpg.make("mine", horizon=8) is config.environment() and asmpg.make("mine", 9).horizon == 9
    with pytest.raises(asmpg.UsageError, match=r"mine: .*no parameters"):
        asmpg.make("mine", 8, goal=1.0)
    with pytest.raises(asmpg.UsageError, match=r"loading no_such_module:Task raised"):
        asmpg.make("broken", 8)
    with pytest.raises(asmpg.UsageError, match=r"known are .*, mine, broken$"):
        asmpg.make("yours", 8)


def test_names_of_installed_packages_are_listed(added, capsys):
    import json

    from asmpg.cli import main

    assert main(["list", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["tasks"][-2:] == ["mine", "broken"] and content["backbones"][-1] == "sum"
    assert content["models"][-3:] == ["sum", "history-sum", "actions-sum"]
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["mine", "1", "1"] for line in lines)
    assert any(line.startswith("  broken ") and "raised" in line for line in lines)
    assert any(line.split()[:1] == ["sum"] for line in lines)
    assert main(["completion", "bash"]) == 0
    assert "history-sum" in capsys.readouterr().out


GOAL = np.ones(2)


def test_a_digest_tells_what_computes_something_else():
    def with_goal():
        return GOAL.sum()

    def scaled(gain):
        return lambda x: gain * x

    before = digest(with_goal)
    GOAL[0] = 2.0
    assert digest(with_goal) != before
    GOAL[0] = 1.0
    assert digest(with_goal) == before
    assert digest(scaled(1.0)) != digest(scaled(2.0)) and digest(scaled(1.0)) == digest(scaled(1.0))
    assert digest(Scaled()) == digest(Scaled()) != digest(Scaled(gain=2.0))
    assert digest(Sum) != digest(NoStep) and digest(Sum) == digest(Sum)
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})


def test_the_package_says_its_version_and_completes():
    from importlib import metadata

    from asmpg import learners

    assert asmpg.__version__ == metadata.version("asmpg")
    assert learners.AbstractLearner is asmpg.AbstractLearner
    assert {"AbstractLearner", "Method", "Callback", "ReplayBuffer"} <= set(dir(asmpg))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        asmpg.trian  # noqa: B018


EXTENDING = (pathlib.Path(__file__).parents[1] / "docs" / "extending.md").read_text()
EXAMPLES = [part.split("```")[0] for part in EXTENDING.split("```python\n")[1:]]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_page_run(tmp_path, example):
    assert example.count("\n") < 60
    file = tmp_path / "example.py"
    file.write_text(example)
    spec = importlib.util.spec_from_file_location("example_of_the_page", file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_method_of_ones_own_is_asked_for_again(tmp_path):
    built_in = MODELS["one-step"]
    own = asmpg.Method("mine", built_in.settings, built_in.learner, imagines=True)
    result = asmpg.train("harvest", horizon=6, model=own, out=tmp_path / "run", **SMALL)
    with pytest.raises(asmpg.UsageError, match="give it again"):
        asmpg.load(tmp_path / "run")
    np.testing.assert_array_equal(asmpg.load(tmp_path / "run", model=own).scores, result.scores)
    other = dataclasses.replace(own, learner=MODELS["simulator"].learner)
    with pytest.raises(asmpg.UsageError, match="has changed"):
        asmpg.load(tmp_path / "run", model=other)
