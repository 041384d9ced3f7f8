"""Configurations: what is not allowed is named, and what was written is read back."""

import dataclasses
import json
import pathlib
import typing

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from msgspec import Meta

from asmpg import (
    DecisionTransformerSettings,
    make,
    SoftActorCriticSettings,
    TASKS,
    train,
    TrainConfig,
    UsageError,
)
from asmpg.core.checks import allowed, check, field_types, meaning, parse
from asmpg.gradients.policies import ActionSequence, TanhGaussianPolicy
from asmpg.learners.model_based import ModelBasedLearner
from asmpg.learners.settings import number_names, Preset, Settings
from asmpg.models import ActionSequenceModel, HistoryModel
from asmpg.models.backbones import BACKBONES
from asmpg.models.files import load_definition, split_family
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.files import load_task, sha256
from asmpg.training.methods import MODELS
from asmpg.training.stored_config import from_json, to_json
from probes import RewardIsAction, RewardIsState


CONFIG = TrainConfig("bioreactor", horizon=10, model="lstm", steps=100)

TASK_FILE = """
from __future__ import annotations
import asmpg, jax.numpy as jnp

class Own(asmpg.AbstractEnvironment):
    horizon: int = 12
    name: str = "own"
    state_size: int = 1
    action_size: int = 1
    def initial_state(self, *, key=None): return jnp.zeros(1)
    def transition(self, state, action, step): return state + action
    def reward(self, state, action, step): return -state[0] ** 2

class Broken(Own):
    def reward(self, state, action, step): return state

instance = Own(horizon=7)
def of_horizon(horizon): return Own(horizon=horizon)
def of_steps(num_steps): return Own(horizon=num_steps)
def of_nothing(): return Own(horizon=9)
def failing(): raise RuntimeError("out of order")
def leaving(): raise SystemExit(7)
def closing(): raise GeneratorExit("closed")
number = 3
"""


MODEL_FILE = """
from asmpg import AbstractBackbone
from asmpg.models.backbones import RNN, Transformer, scan_step
import equinox as eqx, jax.numpy as jnp

class Sum(AbstractBackbone):
    size: int
    input_size = property(lambda self: self.size)
    output_size = property(lambda self: self.size)
    @classmethod
    def create(cls, input_size, horizon, *, dropout=0.0, key): return cls(input_size)
    def init(self): return jnp.zeros(self.size)
    def step(self, carry, x): return carry + x, carry + x
    def predict(self, xs, *, key=None): return scan_step(self, xs)

class NoPredict(Sum):
    def predict(self, xs, *, key=None): raise RuntimeError("out of order")
class WrongShape(Sum):
    def predict(self, xs, *, key=None): return xs[0]
class WrongCarry(Sum):
    def step(self, carry, x): return (carry,), x
class WrongInput(Sum):
    input_size = 3

def rotary(input_size, horizon, *, dropout, key):
    return Transformer.create(input_size, horizon, dropout=dropout, positions="rotary", key=key)
def nothing(input_size, horizon, *, dropout, key): return None
def leaving(input_size, horizon, *, dropout, key): raise SystemExit(7)
number = 3
"""


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "own_model.py"
    path.write_text(MODEL_FILE)
    return str(path)


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "own_task.py"
    path.write_text(TASK_FILE)
    return str(path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "chess"}, "task"),
        ({"horizon": 1}, "horizon"),
        ({"model": "gpt"}, "model"),
        ({"preset": "fast"}, "preset"),
        ({"steps": 9}, "steps"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"chunk_steps": 0}, "chunk_steps"),
        ({"stop_score": float("nan")}, "stop_score"),
        ({"steps": 10**30}, "steps"),
        ({"num_seeds": 10**9}, "num_seeds"),
        ({"horizon": 10**30}, "horizon"),
        ({"chunk_steps": 10**12}, "chunk_steps"),
        ({"overrides": {"model_update_every": 10**12}}, "model_update_every"),
        ({"overrides": {"model_batch_size": 10**9}}, "model_batch_size"),
        ({"overrides": {"speed": 3}}, "speed"),
        ({"overrides": {"entropy": -0.1}}, "entropy"),
        ({"overrides": {"dropout": 1.0}}, "dropout"),
        ({"overrides": {"predicted_state_share": 1.5}}, "predicted_state_share"),
        ({"overrides": {"model_batch_size": 0}}, "model_batch_size"),
        ({"overrides": {"model_batch_size": 1.5}}, "model_batch_size"),
        ({"overrides": {"exploration": "brown"}}, "exploration"),
        ({"task": RewardIsAction(), "stop_score": 0.9}, "stop_score"),
        ({"overrides": {"num_critics": 2}}, "num_critics"),
        ({"model": "sac", "overrides": {"dropout": 0.1}}, "dropout"),
        ({"model": "sac", "overrides": {"discount": 1.01}}, "discount"),
        ({"model": "sac", "overrides": {"target_entropy": float("inf")}}, "target_entropy"),
        ({"model": "sac", "stop_score": None, "overrides": {"temperature": 0.0}}, "temperature"),
        ({"model": "odt", "overrides": {"return_target": "best"}}, "return_target"),
        ({"model": "odt", "overrides": {"return_target": float("nan")}}, "return_target"),
        ({"model": "odt", "overrides": {"return_target": True}}, "return_target"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_on_one_line(change, field):
    with pytest.raises(UsageError) as error:
        dataclasses.replace(CONFIG, **change).checked()
    message = str(error.value)
    assert message.startswith(f"{field}:")
    assert "\n" not in message
    value = change.get(field, change.get("overrides", {}).get(field, "one-line"))
    assert str(value) in message or value == "one-line" or field == "seed" or field == "stop_score"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("task", 3, "environment"),
        ("task", RewardIsState, r"RewardIsState is a class, give an instance"),
        ("model", 3, "int is a int, not a backbone, .* or a name"),
        ("model", ["rnn"], "list is a list, not a backbone, .* or a name"),
        ("preset", ["paper"], "name, got"),
        ("out", 5, "folder"),
        ("out", "", "folder"),
        ("overrides", [], "dict"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_on_one_line(field, value, words):
    config = dataclasses.replace(CONFIG)
    object.__setattr__(config, field, value)  # in the tests, the constructor checks types too
    for use in (train, TrainConfig.checked):
        with pytest.raises(UsageError, match=f"^{field}: .*{words}") as error:
            use(config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["task", "model", "preset"])
def test_the_message_lists_what_is_allowed(field):
    allowed = {"task": TASKS, "model": MODELS, "preset": typing.get_args(Preset)}[field]
    with pytest.raises(UsageError) as error:
        dataclasses.replace(CONFIG, **{field: "nonsense"}).checked()
    assert all(name in str(error.value) for name in allowed)


def test_what_is_allowed_passes_unchanged():
    checked = CONFIG.checked()
    assert checked == dataclasses.replace(CONFIG, precision="float32"), (
        "all but what depends on how JAX is set"
    )
    assert checked.checked() == checked
    for name in MODELS:
        dataclasses.replace(CONFIG, model=name).checked()


def test_a_target_for_a_task_of_ones_own_is_a_number_or_needs_its_optimum():
    config = TrainConfig(RewardIsAction(), horizon=8, model="odt")
    with pytest.raises(UsageError, match=r"^return_target: .* number, unless optimum"):
        config.checked()
    dataclasses.replace(config, optimum=True).checked()
    settings = dataclasses.replace(config, overrides={"return_target": -2.5}).checked().settings()
    assert not settings.needs_optimum


def test_an_environment_brings_its_own_horizon():
    assert TrainConfig(RewardIsState(horizon=9), horizon=50).checked().horizon == 9


SETTINGS = [
    pytest.param(method.settings, name, id=f"{model}-{name}")
    for model, method in MODELS.items()
    if model in ("transformer", "sac", "odt")
    for name in field_types(method.settings)
]


@pytest.mark.parametrize(("kind", "name"), SETTINGS)
def test_every_setting_has_a_range_and_a_meaning(kind, name):
    """What the presets say is allowed, as a value and as text; anything absurd is refused by its name."""
    for preset in typing.get_args(Preset):
        value = getattr(kind.preset(preset, 50), name)
        assert kind.checked(name, value) == value and type(kind.checked(name, value)) is type(value)
        assert parse(name, json.dumps(value).strip('"'), field_types(kind)[name]) == value
    for absurd in (float("nan"), float("inf"), 10**31, 1e300, "nonsense", None, [], {}, object()):
        with pytest.raises(UsageError, match=f"^{name}: must be .*, got ") as error:
            kind.checked(name, absurd)
        assert "\n" not in str(error.value)
    assert meaning(field_types(kind)[name])


def test_a_setting_of_the_same_name_is_of_the_same_type():
    """It is one option of the command line."""
    kinds = {}
    for method in MODELS.values():
        for field in dataclasses.fields(method.settings):
            kind = typing.get_type_hints(method.settings)[field.name]
            assert kinds.setdefault(field.name, kind) == kind


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (typing.Annotated[int, Meta(ge=1, le=5)], 6, "an integer from 1 to 5, got 6"),
        (typing.Annotated[float, Meta(gt=0, lt=1)], 1.0, "a number > 0 and < 1, got 1.0"),
        (typing.Literal["a", "b"] | float, "c", "a, b or a number, got 'c'"),
        (bool, 1, "true or false, got 1"),
        (str | None, 3, "a text, got 3"),
    ],
)
def test_what_a_type_allows_is_said_in_words(kind, value, words):
    with pytest.raises(UsageError, match=f"^x: must be {words}$"):
        check("x", value, kind)
    assert words.startswith(allowed(kind))


@pytest.mark.parametrize("text", ["١٢", "1_0", " 12", "0x1", "1,000", "", "--", "nan", "1e999"])
def test_a_number_is_typed_in_plain_digits(text):
    with pytest.raises(UsageError, match=r"^x: must be an integer"):
        parse("x", text, int)


def test_a_number_of_numpy_is_a_number():
    config = dataclasses.replace(CONFIG, overrides={"entropy": np.float64(0.5), "dropout": 0})
    object.__setattr__(config, "horizon", np.int64(8))  # in the tests, the constructor checks types too
    object.__setattr__(config, "steps", np.int32(100))
    checked = config.checked()
    assert (checked.horizon, checked.steps, checked.overrides) == (8, 100, {"entropy": 0.5, "dropout": 0.0})
    assert {type(value) for value in checked.overrides.values()} == {float} and type(checked.steps) is int
    json.dumps(to_json(checked))


def test_settings_are_replaced_by_name():
    settings = Settings.default(50).replace(entropy=1)
    assert dataclasses.asdict(settings) == dataclasses.asdict(Settings.default(50)) | {"entropy": 1.0}
    for changes, words in (({"entropi": 1}, "did you mean entropy"), ({"dropout": 1}, "^dropout: must be")):
        with pytest.raises(UsageError, match=words):
            settings.replace(**changes)


@pytest.mark.parametrize("kind", [Settings, SoftActorCriticSettings, DecisionTransformerSettings])
def test_settings_are_a_tree_of_the_numbers_that_shape_nothing(kind):
    settings = kind.default(9)
    leaves = jax.tree_util.tree_leaves_with_path(settings)
    assert tuple(path[0].name for path, _ in leaves) == number_names(kind)
    doubled = jax.tree.map(lambda x: 2 * x, settings)
    for field in dataclasses.fields(kind):
        factor = 2 if field.name in number_names(kind) else 1
        assert factor == 2 or getattr(doubled, field.name) == getattr(settings, field.name)
        assert factor == 1 or getattr(doubled, field.name) == 2 * getattr(settings, field.name)


configurations = st.builds(
    TrainConfig,
    task=st.sampled_from([*TASKS]),
    horizon=st.integers(20, 60),
    model=st.sampled_from([*MODELS]),
    steps=st.integers(60, 10**6),
    seed=st.integers(0, 1000),
    num_seeds=st.integers(1, 20),
    preset=st.sampled_from(typing.get_args(Preset)),
    out=st.none() | st.text(min_size=1),
    loop=st.sampled_from(["open", "closed"]),
    record_cosine=st.booleans(),
    learned_reward=st.booleans(),
    observation_context=st.integers(0, 2),
    chunk_steps=st.integers(1, 1000),
    stop_score=st.none() | st.floats(-1, 1),
    overrides=st.fixed_dictionaries(
        {}, optional={"exploration_amplitude": st.floats(0, 1), "warmup_steps": st.integers(1, 9)}
    ),
)


@pytest.mark.filterwarnings("ignore::asmpg.tasks.DiscretisationWarning")
@settings(max_examples=40, deadline=None)
@given(configurations)
def test_json_round_trip(config):
    try:
        config = config.checked()
    except UsageError:
        reject()
    text = json.dumps(to_json(config), allow_nan=False)
    again = from_json(json.loads(text))
    assert again.checked() == config
    assert again.settings() == config.settings()


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([field.name for field in dataclasses.fields(TrainConfig)]), ANYTHING)
def test_what_is_accepted_can_be_stored_and_read_back(name, value):
    config = dataclasses.replace(CONFIG)
    object.__setattr__(config, name, value)  # in the tests, the constructor checks types too
    try:
        checked = config.checked()
    except UsageError as error:
        assert "\n" not in str(error)
        return
    again = from_json(json.loads(json.dumps(to_json(checked), allow_nan=False)))
    assert again.checked() == checked


def test_changed_constants_of_a_built_in_task_are_kept():
    env = make("timber_harvest", horizon=10, r=0.1)
    again = from_json(json.loads(json.dumps(to_json(TrainConfig(env).checked()))))
    assert again.environment() is env
    assert again.environment() is not make("timber_harvest", horizon=10)


def test_the_settings_of_a_run_outlive_a_change_of_the_preset(monkeypatch):
    content = to_json(CONFIG)
    monkeypatch.setattr(Settings, "default", Settings.paper)
    assert CONFIG.settings() != Settings(**content["settings"])
    assert from_json(content).settings() == Settings(**content["settings"])


@pytest.mark.parametrize("name", [*to_json(CONFIG)])
def test_a_configuration_that_lacks_a_field_is_refused(name):
    content = to_json(CONFIG)
    del content[name]
    with pytest.raises(UsageError, match=name):
        from_json(content)


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": "10"},
        {"horizon": 10.0},
        {"horizon": True},
        {"overrides": []},
        {"loop": "half"},
        {"task": 3},
        {"unheard_of": 1},
        {"settings": {}},
        {"task_source": {"kind": "pickle"}},
        {"task_source": {"kind": "built-in", "parameters": {"gravity": 1.0}}},
        {"task_source": {"kind": "built-in", "parameters": 3}},
        {"task_source": {"kind": "object", "state_size": 1}},
        {"task": "chess"},
        {"steps": None},
    ],
)
def test_a_configuration_with_a_wrong_type_is_refused(change):
    with pytest.raises(UsageError):
        from_json(to_json(CONFIG) | change)


@pytest.mark.parametrize(
    ("name", "horizon", "expected"),
    [
        ("Own", None, 12),
        ("Own", 5, 5),
        ("instance", None, 7),
        ("instance", 7, 7),
        ("of_horizon", 6, 6),
        ("of_horizon", None, 100),
        ("of_steps", 4, 4),
        ("of_nothing", None, 9),
    ],
)
def test_a_task_from_a_file(task_file, name, horizon, expected):
    env = load_task(f"{task_file}:{name}", horizon)
    assert env.horizon == expected
    assert load_task(f"{task_file}:{name}", horizon) is env


@pytest.mark.parametrize(
    ("name", "horizon", "words"),
    [
        ("instance", 5, "horizon: .* 7, got 5"),
        ("nothing_here", None, "task: .* it has Own"),
        ("number", None, "int"),
        ("failing", None, "RuntimeError: out of order"),
        ("leaving", None, "SystemExit: 7"),
        ("closing", None, "GeneratorExit: closed"),
        ("of_nothing", 4, "horizon: .* 9, got 4"),
        ("two names", None, "FILE.py:NAME"),
    ],
)
def test_a_task_file_that_gives_no_task(task_file, name, horizon, words):
    with pytest.raises(UsageError, match=words):
        load_task(f"{task_file}:{name}", horizon)


def test_a_task_file_that_cannot_be_run(tmp_path):
    for name, text in {
        "syntax": "def",
        "error": "1 / 0",
        "empty": "",
        "leaving": "import sys; sys.exit()",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(UsageError, match=f"^task: .*{name}.py"):
            load_task(f"{tmp_path / name}.py:Own")
    with pytest.raises(UsageError, match="no file"):
        load_task(f"{tmp_path}/missing.py:Own")


def test_a_task_file_may_import_its_neighbour(tmp_path):
    (tmp_path / "neighbour_of_a_task.py").write_text(TASK_FILE)
    (tmp_path / "own.py").write_text("from neighbour_of_a_task import Own")
    assert load_task(f"{tmp_path}/own.py:Own").horizon == 12


def test_a_wrong_function_in_a_task_file_is_named(task_file):
    with pytest.raises(UsageError, match=r"^reward of own"):
        TrainConfig(f"{task_file}:Broken", horizon=12).checked()


def test_of_a_task_file_only_name_and_hash_are_kept(task_file):
    task = f"{task_file}:Own"
    content = to_json(TrainConfig(task, horizon=12).checked())
    assert content["task"] == "own_task.py:Own"
    assert content["task_source"]["sha256"] == sha256(task)
    assert "class" not in json.dumps(content)
    with pytest.raises(UsageError, match="give it again"):
        from_json(content)
    assert from_json(content, task).environment().name == "own"
    pathlib.Path(task_file).write_text(TASK_FILE + "\n")
    with pytest.raises(UsageError, match="has changed"):
        from_json(content, task)


def test_a_task_given_again_must_be_the_same():
    content = to_json(TrainConfig(RewardIsAction(horizon=8)).checked())
    assert from_json(content, RewardIsAction(horizon=8)).horizon == 8
    with pytest.raises(UsageError, match="horizon"):
        from_json(content, RewardIsAction(horizon=9))
    with pytest.raises(UsageError, match="built-in"):
        from_json(to_json(CONFIG), RewardIsAction(horizon=8))


def test_every_backbone_is_three_methods():
    """Of nothing but its line in the table: as a model of actions, of histories, and under an action sequence."""
    kinds = {"": ActionSequenceModel, "history-": HistoryModel, "actions-": ActionSequenceModel}
    others = {"actions", "one-step", "simulator", "sac", "odt"}
    assert MODELS.keys() == {f"{kind}{name}" for kind in kinds for name in BACKBONES} | others
    for name, backbone in BACKBONES.items():
        for kind, expected in kinds.items():
            learner = TrainConfig("bioreactor", horizon=8, model=f"{kind}{name}").learner()
            assert isinstance(learner, ModelBasedLearner)
            model = eqx.filter_eval_shape(
                lambda key, make=learner.make_model: make(key=key), jax.random.key(0)
            )
            assert type(model) is expected and type(model.backbone) is backbone
            assert (learner.make_policy is ActionSequence) == (kind == "actions-")


@pytest.mark.parametrize("name", ["Sum", "rotary", "RNN"])
def test_a_backbone_from_a_file(model_file, name):
    assert load_definition(f"{model_file}:{name}") is load_definition(f"{model_file}:{name}")
    config = TrainConfig("bioreactor", horizon=10, model=f"{model_file}:{name}", steps=100).checked()
    assert config.model_name == f"own_model.py:{name}"


@pytest.mark.parametrize(
    ("family", "model", "policy"),
    [("history-", HistoryModel, TanhGaussianPolicy), ("actions-", ActionSequenceModel, ActionSequence)],
)
def test_a_backbone_from_a_file_in_another_method(model_file, family, model, policy):
    """Name and hash are kept as of a file alone, and what is before the name belongs to it."""
    config = TrainConfig("bioreactor", horizon=10, model=f"{family}{model_file}:Sum", steps=100).checked()
    learner = config.learner()
    assert isinstance(learner, ModelBasedLearner)
    unknown = Normaliser.unknown(learner.env.state_size)
    state = eqx.filter_eval_shape(lambda: learner.init(unknown, key=jax.random.key(0)))
    made = state.model
    assert type(state.policy) is policy
    assert type(made) is model and type(made.backbone).__name__ == "Sum"
    assert config.model_name == f"{family}own_model.py:Sum"
    content = to_json(config)
    assert from_json(content, model=config.model).model == config.model
    with pytest.raises(UsageError, match="not what the run was started with, " + config.model_name):
        from_json(content, model=f"{model_file}:Sum")
    with pytest.raises(UsageError, match=r"^model: there is no file nowhere"):
        TrainConfig("bioreactor", model=f"{family}nowhere.py:Sum").checked()


@pytest.mark.parametrize(("own", "family"), [(True, ""), (False, "history-")])
def test_a_file_whose_name_begins_like_a_method_is_that_file(tmp_path, monkeypatch, own, family):
    monkeypatch.chdir(tmp_path)
    for name in ["net.py", "history-net.py"][: 1 + own]:
        pathlib.Path(name).write_text(MODEL_FILE)
    assert split_family("history-net.py:Sum")[0] == family
    assert (
        TrainConfig("bioreactor", horizon=10, model="history-net.py:Sum").checked().model_name
        == "history-net.py:Sum"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing_here", "it has .*Sum"),
        ("number", "own_model.py:number is a int, not a backbone"),
        ("AbstractBackbone", "AbstractBackbone lacks .*create"),
        ("nothing", "makes a NoneType"),
        ("leaving", "SystemExit: 7"),
        ("NoPredict", "RuntimeError: out of order"),
        ("WrongShape", "predict "),
        ("WrongCarry", "carry"),
        ("WrongInput", "input_size is 3"),
        ("two names", "FILE.py:NAME"),
    ],
)
def test_a_model_file_that_gives_no_backbone(model_file, name, words):
    with pytest.raises(UsageError, match=f"^model: .*{words}") as error:
        TrainConfig("bioreactor", model=f"{model_file}:{name}").checked()
    assert "\n" not in str(error.value)


def test_of_a_model_file_only_name_and_hash_are_kept(model_file):
    model = f"{model_file}:Sum"
    content = to_json(dataclasses.replace(CONFIG, model=model).checked())
    assert content["model"] == "own_model.py:Sum"
    text = json.dumps(content)
    assert "class" not in text and str(pathlib.Path(model_file).parent) not in text
    with pytest.raises(UsageError, match="give it again"):
        from_json(content)
    assert from_json(content, model=model).model == model
    for other in (f"{model_file}:RNN", "lstm"):
        with pytest.raises(UsageError, match=r"not what the run was started with, own_model.py:Sum"):
            from_json(content, model=other)
    pathlib.Path(model_file).write_text(MODEL_FILE + "\n")
    with pytest.raises(UsageError, match="has changed"):
        from_json(content, model=model)
    with pytest.raises(UsageError, match="built-in"):
        from_json(to_json(CONFIG), model=model)
    # A configuration that pretends to be of a built-in model does not get a file run.
    with pytest.raises(UsageError, match="is not one of"):
        from_json(to_json(CONFIG) | {"model": model})


def test_the_page_of_settings_is_that_of_the_code():
    from asmpg.cli.reference import settings_page

    page = pathlib.Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "python -m asmpg.cli.reference > docs/settings.md"


def test_no_field_of_a_run_is_a_setting_too():
    """On the command line both are options; one would hide the other."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    beside = {"seeds", "resume", "dry_run", "json"}
    for method in MODELS.values():
        assert not (fields | beside) & {field.name for field in dataclasses.fields(method.settings)}, (
            method.name
        )
