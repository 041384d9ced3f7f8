"""Recorded episodes before one's own: in the replay and the statistics first, and asked for again at a resume."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import asmpg
from asmpg.cli import main
from asmpg.models.normalisation import Normaliser
from asmpg.tasks.environment import random_episodes
from asmpg.training.runs import lifecycle
from test_host import Walk
from test_simulator import Drifting
from tiers import thorough_but
from toys import bits
from wanderer import Wanderer


pytestmark = pytest.mark.usefixtures("quickly")
ENV = asmpg.make("harvest", horizon=8)
OVERRIDES = {"warmup_steps": 16, "model_batch_size": 4, "policy_batch_size": 4}


def recorded(env=ENV, num_episodes=5, **options):
    """Episodes of a task, or zeros of a world's sizes."""
    if isinstance(env, asmpg.AbstractEnvironment):
        episodes = random_episodes(env, num_episodes, key=jax.random.key(1))
        return asmpg.Episodes(episodes.states, episodes.actions, episodes.rewards, name="log", **options)
    random, shape = np.random.default_rng(0), (num_episodes, env.horizon)
    observations = random.normal(3, 1, (num_episodes, env.horizon + 1, env.observation_size))
    actions = random.uniform(-1, 1, (*shape, env.action_size))
    return asmpg.Episodes(observations, actions, random.normal(size=shape), name="log", **options)


WORLDS = {"jax": ENV, "simulator": Drifting(), "host": Walk()}


def config_of(env, **fields):
    fields = {"model": "one-step", "steps": 5 * env.horizon, "num_seeds": 2, **fields}
    return asmpg.TrainConfig(env, data=recorded(env), chunk_steps=env.horizon, overrides=OVERRIDES, **fields)


@pytest.fixture(scope="module", params=thorough_but(["jax"], WORLDS))
def run(request, tmp_path_factory):
    config = config_of(WORLDS[request.param], out=str(tmp_path_factory.mktemp(request.param) / "run"))
    return asmpg.train(config)


def test_they_come_first_in_the_replay_and_in_the_statistics(run):
    data = run.config.data
    seen = data.trajectories(with_alive=bool(getattr(run.env, "ends_early", False)))
    for seed in run.seeds:
        replay = run.seed(seed).replay
        own = int(replay.count) - len(data)
        if getattr(run.env, "ends_early", False):  # short episodes are followed by others
            lived = np.asarray(replay.episodes.states[len(data) : int(replay.count), :-1, -1] > 0).sum()
            row = run.seeds.index(seed)
            assert lived == run.metrics["simulated_steps"][-1, row] >= run.steps and own >= 5
        else:
            assert own == run.steps // run.env.horizon
        assert bits(jax.tree.map(lambda x: x[: len(data)], replay.episodes)) == bits(seen)
    # Those of the warm-up are behind them in the statistics of a task in JAX, which are taken once.
    if isinstance(run.env, asmpg.AbstractEnvironment):
        warmup = OVERRIDES["warmup_steps"] // run.env.horizon
        states = run.best.replay.episodes.states[: len(data) + warmup]
        np.testing.assert_allclose(
            run.best.model.normaliser.mean, Normaliser.from_states(states).mean, rtol=1e-5
        )


def test_own_episodes_are_counted_without_them(run):
    assert run.metrics["episodes"][-1, 0] == 5 and run.summary()["recorded_episodes"] == 5


def test_a_stopped_run_goes_on_bit_for_bit_with_the_same_episodes_and_no_others(run, tmp_path):
    config, calls = dataclasses.replace(run.config, out=str(tmp_path / "run")), iter(range(9))
    lifecycle.start(config.checked(), lambda progress: None, lambda: next(calls) >= 1)
    task = None if run.env.identity() is not None else run.env
    with pytest.raises(asmpg.UsageError, match=r"^data: the run began with the recorded episodes log"):
        asmpg.resume(config.out, task=task)
    other = recorded(run.env, 4)
    with pytest.raises(asmpg.UsageError, match="data: log has other episodes than the run was started with"):
        asmpg.resume(config.out, task=task, data=other)
    again = asmpg.resume(config.out, task=task, data=recorded(run.env))
    for name in ("policy", "model", "replay"):
        assert bits(getattr(again, name)) == bits(getattr(run, name)), name
    assert {name: x.tobytes() for name, x in again.metrics.items()} == {
        name: x.tobytes() for name, x in run.metrics.items()
    }
    assert bits(asmpg.load(config.out, task=task).policy) == bits(run.policy)  # needs no episodes


def test_none_must_be_given_to_a_run_that_had_none(tmp_path):
    path = tmp_path / "run"
    asmpg.train(dataclasses.replace(config_of(ENV), data=None, model=Wanderer, steps=24, out=str(path)))
    with pytest.raises(asmpg.UsageError, match="data: the run began without recorded episodes"):
        asmpg.resume(path, data=recorded(), model=Wanderer)


@pytest.mark.thorough
@pytest.mark.parametrize("model", ["sac", "odt"])
def test_other_methods_learn_from_them_too(model):
    overrides = {"warmup_steps": 16, "batch_size": 4}
    run = asmpg.train(dataclasses.replace(config_of(ENV), model=model, num_seeds=1, overrides=overrides))
    assert int(run.best.replay.count) == 10


def test_the_command_takes_a_file(tmp_path, capsys):
    log, out = tmp_path / "log.npz", str(tmp_path / "run")
    asmpg.save_episodes(log, recorded())
    typed = ["train", "harvest", "--horizon", "8", "--data", str(log), "--model", "one-step", "--steps", "24"]
    settings = ["--warmup-steps", "16", "--model-batch-size", "4", "--policy-batch-size", "4"]
    assert main([*typed, *settings, "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "log.npz"
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert stored["data"]["digest"] == recorded().recording.digest
    assert main(["train", "--resume", out, "--steps", "32"]) == 2
    assert "--data: the run began with" in capsys.readouterr().err


def test_a_digest_tells_episodes_apart_and_not_how_they_were_stored():
    data = recorded()
    digest, arrays = data.recording.digest, (data.observations, data.actions, data.rewards)
    assert digest == asmpg.Episodes(*(x.astype(float) for x in arrays)).recording.digest
    others = [data.take([0, 1]), data.take([1, 0, 2, 3, 4]), recorded(action_bounds=(-2, 2))]
    assert len({digest, *(other.recording.digest for other in others)}) == 4


@pytest.mark.parametrize(
    "said, env, data",
    [
        ("has 8 steps an episode, harvest has 6", asmpg.make("harvest", 6), recorded()),
        (r"load_episodes\(FILE, horizon=6\) cuts them", asmpg.make("harvest", 6), recorded()),
        ("has 1 components of an observation, invasive_plant has 5", asmpg.make("invasive_plant", 8), None),
        (
            "episodes that end before the horizon, those of harvest never do",
            ENV,
            {"lengths": [3, 8, 8, 8, 8]},
        ),
    ],
)
def test_what_does_not_fit_the_task_is_refused_in_one_line(tmp_path, said, env, data):
    if isinstance(data, dict):
        full = recorded()
        data = asmpg.Episodes(full.observations, full.actions, full.rewards, **data)
    with pytest.raises(asmpg.UsageError, match=said):
        asmpg.train(env, data=data or recorded(), model="one-step", out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_replay_without_room_for_them_is_refused():
    with pytest.raises(asmpg.UsageError, match="replay_capacity: must be more than the 40 recorded steps"):
        asmpg.train(ENV, data=recorded(), model="one-step", overrides={"replay_capacity": 40})


def test_actions_must_be_in_the_range_that_the_world_names():
    class Valve(Walk):
        action_low, action_high = np.array([0.0]), np.array([5.0])

    with pytest.raises(asmpg.UsageError, match=r"action_low \[-1\], valve \[0\]; load_episodes"):
        config_of(Valve()).checked()
    fitting = asmpg.Episodes(*_arrays(recorded(Valve())), action_bounds=(0, 5))
    dataclasses.replace(config_of(Valve()), data=fitting).checked()


def _arrays(data):
    return data.observations, 2.5 * (data.actions + 1), data.rewards


@pytest.mark.thorough
def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    shorter = {
        "steps=2_000": "steps=60",
        "steps=4_000": "steps=40",
        '"warmup_steps": 200': '"warmup_steps": 40',
    }
    for long, short in shorter.items():
        assert long in code
        code = code.replace(long, short)
    code = code.replace('out="runs/tank"', 'overrides={"warmup_steps": 20}, out="runs/tank"')
    exec(compile(code, "data.md", "exec"), {})
    assert "The objective is optimistic by" in capsys.readouterr().out
