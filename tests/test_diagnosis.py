"""`asmpg diagnose`: the numbers of models whose gradients are known, the words about them, and the command line."""

import json
import math
import pathlib
import shlex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.cli import main
from asmpg.core.types import UsageError
from asmpg.diagnose import subjects
from asmpg.diagnose.advice import advice
from asmpg.diagnose.diagnosis import diagnose, Subject
from asmpg.diagnose.figure import rate_text
from asmpg.diagnose.finding import finding
from asmpg.gradients.policies import TanhGaussianPolicy
from asmpg.models import Simulator
from asmpg.training.loop import Schedule
from asmpg.training.trainer import Trainer
from test_analysis import Brittle, make_actions, Memory
from toys import unit_normaliser


pytestmark = pytest.mark.usefixtures("quickly")

KEYS = {"task", "model", "horizons", "gradient_norm", "growth", "reach", "cosine", "finding", "out"}
BACKBONE = str(pathlib.Path(__file__).parents[1] / "examples" / "custom_backbone.py") + ":LeakyAverages"
SMALL = "--chunk-steps 60 --warmup-steps 60 --model-batch-size 4 --policy-batch-size 4 --steps 120"

OWN = """
import asmpg, jax.numpy as jnp

def model(env, *, key):
    return asmpg.OneStepModel(env, key=key, first_step_flag=True)

def three(env, *, key):
    return 3

def other_horizon(env, *, key):
    return asmpg.OneStepModel(asmpg.make("harvest", env.horizon + 1), key=key)

class Own(asmpg.AbstractEnvironment):
    horizon: int = 6
    name: str = "own"
    state_size: int = 1
    action_size: int = 1

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, state, action, step):
        return 0.9 * state + action

    def reward(self, state, action, step):
        return -jnp.sum(state**2)

fixed = Own()

import functools
from asmpg.models.backbones import GRU
from asmpg.training.methods import MODELS, own_method

method = own_method(functools.partial(asmpg.OneStepModel, first_step_flag=True), "flagged")
learner = MODELS["sac"]
"""


def simulated(env, seed=0):
    """The truth as its own model."""
    policy = TanhGaussianPolicy(env, key=jax.random.key(seed), normaliser=unit_normaliser(env))
    actions = jnp.stack([make_actions(env, i) for i in range(3)])
    return Subject(env, Simulator(env), policy, env.initial_state(), actions)


def test_a_memory_that_fades_is_described_as_such(tmp_path):
    """`|ds_H/da_0| = eta^(H-1)`, and so is its reach."""
    eta, horizons = 0.7, [4, 12]
    content = diagnose(lambda horizon: simulated(Memory(horizon, eta)), horizons, "simulator", tmp_path)
    expected = [eta**3, eta**11]
    for statistic in ("mean", "median", "quantile_0.1"):
        np.testing.assert_allclose(content["gradient_norm"][statistic], expected, rtol=1e-5)
    for name in ("reach", "true_reach"):
        np.testing.assert_allclose(content[name], expected, rtol=1e-5)
    np.testing.assert_allclose(content["cosine"], [1.0, 1.0], rtol=1e-5)
    assert content["growth"]["law"] == "exponential" and content["reach_before"] is None
    np.testing.assert_allclose(content["growth"]["eta"], eta, rtol=1e-5)
    assert "carries 0.02 of the gradient from step 12 to step 0" in content["finding"]
    assert "eta = 0.7 a step" in content["finding"] and "cosine to the truth is 1.00" in content["finding"]
    assert json.loads((tmp_path / "diagnose.json").read_text()) == content
    assert (tmp_path / "diagnose.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "diagnose.svg").read_text()


def test_a_gradient_that_is_not_finite_is_located_not_hidden(tmp_path):
    env = Brittle("backward transition")
    content = diagnose(lambda horizon: simulated(env), [6], "simulator", tmp_path)
    assert content["num_nonfinite"] == 3 and content["gradient_norm"]["mean"] == [None]
    assert content["growth"]["law"] is None and "not finite" in content["growth"]["reason"]
    words = content["finding"]
    assert words.startswith("Not finite: 1 of 1 policy gradients through the model at H = 6; ")
    assert (
        "3 of 3 |ds_H/da_0| through the model at H = 6" in words and "(the derivative of transition" in words
    )
    assert "its gradients at H = 6 are not finite, so how far they reach cannot be told" in words
    assert "no effect" not in words and "no direction to compare: its own is not finite" in words


def test_models_of_another_task_are_refused(tmp_path):
    right, wrong = Memory(5), Memory(6)
    subject = simulated(right)
    mixed = Subject(right, Simulator(wrong), subject.policy, subject.start, subject.actions)
    with pytest.raises(UsageError, match="is of horizon 6"):
        diagnose(lambda horizon: mixed, [5], "simulator", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def content_with(**changes):
    growth = {"law": "exponential", "eta": 0.97, "p": -3.0}
    content = {
        "task": "harvest",
        "model": "lstm",
        "trained": False,
        "truth_known": True,
        "horizons": [20, 500],
        "reach": [0.5, 3e-7],
        "reach_before": None,
        "true_reach": [0.9, 0.8],
        "growth": growth,
        "true_growth": growth | {"law": "constant"},
        "cosine": [0.9, 0.41],
        "policy_gradient_norm": [1.0, 1.0],
        "true_policy_gradient_norm": [1.0, 1.0],
        "num_nonfinite": 0,
        "nonfinite_parts": [],
        "nonfinite": None,
    }
    return finding(content | changes)


def test_findings_in_words():
    words = content_with()
    assert "it carries 3e-07 of the gradient from step 500 to step 0, where the truth carries 0.8" in words
    assert (
        "the growth is exponential, eta = 0.97 a step; in truth the gradient neither grows nor fades" in words
    )
    assert "cosine to the truth is 0.41 at H = 500" in words and "untrained" in words
    assert "(before training 1e-09)" in content_with(trained=True, reach_before=[1.0, 1e-9])
    assert "last action has no effect" in content_with(reach=[None, None])
    zero = content_with(cosine=[None, None], true_policy_gradient_norm=[0.0, 0.0])
    assert "no direction to compare: the true one is zero" in zero
    assert "direction" not in content_with(cosine=[None, None])  # cut episodes have no policy gradient
    none = {"law": None, "reason": "norms underflow to zero, first at horizon 300"}
    assert "no growth law can be fitted (norms underflow to zero" in content_with(growth=none)
    for law, part in {"power": "degree -3", "undecided": "no law fits clearly better"}.items():
        assert part in content_with(growth={"law": law, "eta": 0.97, "p": -3.0})


@pytest.mark.parametrize("what", ["|ds_H/da_0|", "|ds_H/da_(H-1)|"])
def test_what_is_not_finite_is_named_before_and_in_place_of_conclusions(what):
    part = {"what": f"{what} through the model", "horizon": 500, "count": 2, "of": 16}
    words = content_with(reach=[0.5, None], nonfinite_parts=[part], nonfinite="the derivative of reward")
    assert words.startswith(
        f"Not finite: 2 of 16 {what} through the model at H = 500 (the derivative of reward)"
    )
    assert "no effect" not in words and "cannot be told" in words
    part["what"] = f"{what} through the truth"
    words = content_with(true_reach=[0.5, None], nonfinite_parts=[part])
    assert "it carries 3e-07" in words and "the true gradients are not finite" in words


def advised(norms=(1.0, 1.0), reach=0.8, growth=None, **changes):
    content = {
        "model": "lstm",
        "trained": False,
        "truth_known": True,
        "horizons": [20, 101],
        "cosine": [0.9, 0.9],
        "true_gradient_norm": {"mean": list(norms)},
        "true_growth": growth or {"law": "constant"},
        "true_reach": [0.9, reach],
        "nonfinite_parts": [],
    }
    return advice(content | changes)


def test_advice_follows_the_numbers_on_both_sides_of_every_rule():
    smooth, chaos, early = "--model one-step: the motion is smooth", "as in chaos", "one early action decides"
    assert smooth in advised((1.0, 9.9)) and chaos in advised((1.0, 10.1))
    for factor, words in ((0.99e4, smooth), (1.01e4, chaos)):
        assert words in advised(growth={"law": "exponential", "eta": factor**0.01})
    assert smooth in advised(growth={"law": "undecided", "eta": 2.0})
    # Long steps at a short horizon damp more: no chaos, if the derivative dies within an episode.
    assert smooth in advised((1.0, 80.0), growth={"law": "exponential", "eta": 0.8})
    assert early in advised(reach=None) and smooth in advised((0.0, 0.0), reach=None)
    assert chaos in advised((1.0, 20.0), reach=None)  # the first of two that hold
    for cosine, words in ((0.49, "points elsewhere (cosine 0.49): train on more"), (0.51, smooth)):
        assert words in advised(trained=True, cosine=[None, cosine])
    assert smooth in advised(cosine=[0.9, 0.1]) and smooth in advised(trained=True, cosine=[None, None])
    assert "or take --model one-step" in advised(trained=True, cosine=[None, 0.1])
    assert "with other seeds" in advised(trained=True, cosine=[None, 0.1], model="one-step")
    assert advised(model="one-step").endswith("--model one-step is the one to begin with.")
    assert advised((9.0, 99.0), truth_known=False).startswith("Without the task's derivatives")
    part = {"what": "|ds_H/da_0| through the truth", "horizon": 101, "count": 1, "of": 3}
    assert "mend the task" in advised(nonfinite_parts=[part])
    assert smooth in advised(nonfinite_parts=[part | {"what": "|ds_H/da_0| through the model"}])
    assert smooth in advised(nonfinite_parts=[part | {"horizon": 20}])


def test_growth_factors_are_told_from_one():
    texts = {0.97: "0.97", 1.00512: "1.0051", 0.99999: "0.99999", 1.0: "1", 2.349: "2.35", 0.0131: "0.0131"}
    assert {eta: rate_text(eta) for eta in texts} == texts


def test_horizons_are_different_integers():
    assert subjects.parse_horizons("500, 20,100") == [20, 100, 500]
    for wrong in ("20,20", "20,x", "1", "", "20,,30", "2.5"):
        with pytest.raises(UsageError, match=r"^horizons: must be"):
            subjects.parse_horizons(wrong)


# The command line


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Runs a command in an empty folder; gives the exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)

    def run(line):
        status = main(shlex.split(line))
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of a one-step model, two seeds."""
    out = tmp_path_factory.mktemp("diagnosis") / "run"
    line = f"train bioreactor --horizon 6 --model one-step --seeds 2 --seed 3 {SMALL} --out {out}"
    assert main(shlex.split(line)) == 0
    return out


def test_diagnose_a_task_and_a_model_of_ones_own(call, tmp_path):
    status, out, _ = call("diagnose own.py:Own --model own.py:model --horizons 6 --json")
    assert status == 0 and out.count("\n") == 1
    content = json.loads(out, parse_constant=pytest.fail)
    assert content.keys() >= KEYS
    assert (content["task"], content["model"], content["horizons"]) == ("own", "own.py:model", [6])
    assert content["true_reach"] == pytest.approx([0.9**5], rel=1e-4)
    folder = tmp_path / "figures" / "diagnose-own-own.py_model"
    assert {path.name for path in folder.iterdir()} == {f"diagnose.{kind}" for kind in ("json", "png", "svg")}


@pytest.mark.thorough
def test_diagnose_takes_every_kind_of_model_that_train_takes(call, monkeypatch, tmp_path):
    """By file or by module, the same model: a function, a `Method`; and of a module a backbone's class."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_module_of_models.py").write_text(OWN)
    line = "diagnose bioreactor --horizons 4 --json --model"
    found = {
        name: json.loads(call(f"{line} {name}")[1])
        for name in (
            "own.py:model",
            "own.py:method",
            "own_module_of_models:method",
            "own_module_of_models:GRU",
        )
    }
    first, *others, backbone = found.values()
    assert all(one["gradient_norm"] == first["gradient_norm"] for one in others)
    assert [one["model"] for one in found.values()] == [*found]
    assert backbone["gradient_norm"] == json.loads(call(f"{line} gru")[1])["gradient_norm"]
    assert (
        call(f"{line} own.py:learner")[2]
        == "asmpg: --model: own.py:learner has no dynamics model to diagnose\n"
    )
    assert call(f"train bioreactor --horizon 6 --model own.py:method {SMALL} --out flagged")[0] == 0
    assert call("evaluate flagged --model own.py:method --json")[0] == 0


def test_diagnose_a_run(call, run, tmp_path):
    """A seed of it, before and after training, in a table with one line a horizon."""
    status, out, _ = call(f"diagnose bioreactor --run {run} --seed 4 --horizons 3,6 --out here")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["H", "3", "6"]
    content = json.loads((tmp_path / "here" / "diagnose.json").read_text())
    assert content["trained"] and content["model"] == "one-step" and content["horizons"] == [3, 6]
    assert content["cosine"][0] is None and abs(content["cosine"][1]) <= 1
    assert content["reach"] != content["reach_before"] and content["finding"] in out
    assert out.splitlines()[-1] == content["advice"]


@pytest.mark.thorough
def test_diagnose_a_backbone_of_ones_own(call, tmp_path):
    """Fresh, inside either kind of model, and trained; of a run it has to be given again, as for `evaluate`."""
    for family in ("", "history-"):
        status, out, _ = call(f"diagnose bioreactor --model {family}{BACKBONE} --horizons 6 --json")
        content = json.loads(out)
        assert (
            status == 0
            and content["model"] == f"{family}custom_backbone.py:LeakyAverages"
            and content["reach"][0] > 0
        )
    assert call(f"train bioreactor --horizon 6 --model {BACKBONE} {SMALL} --out averages")[0] == 0
    status, out, err = call(f"diagnose bioreactor --run averages --model {BACKBONE} --horizons 6 --json")
    assert status == 0, err
    content = json.loads(out)
    assert content["trained"] and content["model"] == "custom_backbone.py:LeakyAverages"
    status, out, err = call("diagnose bioreactor --run averages")
    assert (status, out) == (2, "") and "give it again" in err


def test_the_model_before_training_is_the_one_the_run_began_with(run):
    result = asmpg.load(run)
    given = subjects.trained_subjects(run, "bioreactor", None, None, 4)
    config = result.config
    assert config.learner().settings.warmup_steps == 60 and given.horizons == [2, 3, 6]
    trainer = Trainer(config.learner(), Schedule.create(120, 60, 60, 6), [4])
    expected = jax.tree.map(lambda x: x[0], trainer.init().learner.model)
    before = given.subjects(6).before
    jax.tree.map(np.testing.assert_array_equal, eqx.filter(before.layers, eqx.is_array), expected.layers)
    np.testing.assert_allclose(before.normaliser.mean, expected.normaliser.mean, rtol=1e-5)
    assert not math.isclose(
        float(before.layers[0].weight.sum()), float(given.subjects(6).model.layers[0].weight.sum())
    )


@pytest.mark.parametrize(
    ("line", "option", "allowed"),
    [
        ("chess", "TASK", "timber_harvest"),
        ("harvest --model gpt", "--model", "transformer"),
        ("harvest --horizons 20,20", "--horizons", "different"),
        ("harvest --horizons twenty", "--horizons", "separated by commas"),
        ("harvest --seed -1", "--seed", "from 0"),
        ("harvest --run nowhere", "--run", "not a run folder"),
        ("own.py:fixed --horizons 9", "--horizon", "6"),
        ("own.py:Own --model own.py:three --horizons 6", "--model", "AbstractDynamicsModel"),
        ("own.py:Own --model own.py:nothing --horizons 6", "--model", "three"),
        ("harvest --run RUN", "--run", "of the task bioreactor"),
        ("bioreactor --run RUN --model lstm", "--run", "of the model one-step"),
        ("bioreactor --run RUN --horizons 3,7", "--horizons", "horizon 6"),
        ("bioreactor --run RUN --seed 9", "--seed", "3 to 4"),
        ("bioreactor --run EMPTY", "--run", "no checkpoint yet"),
        ("bioreactor --run RUN --optimizer own.py:three", "--optimizer", "built-in"),
        ("bioreactor --optimizer own.py:three", "--optimizer", "only for --run"),
        ("bioreactor --data own.npz", "--data", "only for --run"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(call, run, tmp_path, line, option, allowed):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_bytes((run / "config.json").read_bytes())
    line = line.replace("RUN", str(run)).replace("EMPTY", str(empty))
    status, out, err = call(f"diagnose {line}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"asmpg: {option}") and allowed in err
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"own.py", "empty"}


def test_a_run_with_an_optimiser_of_ones_own(call, tmp_path):
    (tmp_path / "steps.py").write_text("import optax\nslow = optax.sgd(1e-3)\n")
    line = f"bioreactor --horizon 6 --model one-step {SMALL} --optimizer steps.py:slow --out run"
    assert call(f"train {line}")[0] == 0
    status, _, err = call("diagnose --run run --horizons 6")
    assert status == 2 and err.startswith("asmpg: --optimizer: the run has steps.py:slow")
    assert call("diagnose --run run --horizons 6 --optimizer steps.py:slow")[0] == 0


def test_without_a_truth_none_is_told():
    words = content_with(truth_known=False, true_reach=[None, None], cosine=[None, None])
    assert "truth" not in words and "no derivatives to compare its direction with" in words
