"""Items trained as one program: every one of them ends as it would alone, whoever leaves, lags or fails."""

import concurrent.futures
import dataclasses
import functools
import time
import warnings

import jax
import numpy as np
import pytest

import asmpg
import sweeping
import wanderer
from asmpg import TrainConfig
from asmpg.sweeps import look, open_store, sweep, timing, together, work
from asmpg.sweeps.engines import InProcess, Local
from asmpg.sweeps.together import kin, numbers_of
from asmpg.training.loop import Schedule, Trainer
from asmpg.training.methods import MAY_DIFFER
from asmpg.training.runs import group as groups
from asmpg.training.runs import RunWarning
from asmpg.training.runs.group import DisbandedError, Group
from probes import RewardIsState
from sweeping import load, NUM_ITEMS, trainings, write_suite


NUM_SEEDS = 2
SCHEDULE = Schedule(num_episodes=9, warmup_episodes=3, chunk_episodes=3)
SMALL = {"model_batch_size": 2, "policy_batch_size": 2, "warmup_steps": 12}


def make_config(model: str, **overrides) -> TrainConfig:
    sizes = {"sac": {"batch_size": 4}, "odt": {"batch_size": 2, "context": 2, "return_target": 1.0}}
    overrides = {**sizes.get(model, SMALL), **overrides}
    return TrainConfig(RewardIsState(horizon=4), model=model, steps=36, overrides=overrides)


def train(trainer: Trainer) -> dict[str, np.ndarray]:
    """The last metrics of a whole run."""
    state = trainer.init()
    for chunk in SCHEDULE.chunks(SCHEDULE.warmup_episodes):
        state, metrics = trainer.advance(state, *chunk)
    return {name: np.asarray(value) for name, value in metrics.items()}


# The program


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        (
            "one-step",
            {"entropy": [0.5, 0.001], "model_learning_rate": [1e-2, 1e-3], "gradient_clip": [0.01, 1.0]},
        ),
        (
            "sac",
            {
                "critic_learning_rate": [1e-2, 1e-3],
                "temperature": [0.5, 0.01],
                "discount": [0.9, 1.0],
                "tune_temperature": False,
            },
        ),
    ],
)
def test_seeds_that_differ_in_numbers_are_as_they_are_alone(model, numbers, quickly):
    fixed = {name: value for name, value in numbers.items() if name not in MAY_DIFFER}
    numbers = {name: values for name, values in numbers.items() if name in MAY_DIFFER}
    config = make_config(model, **fixed, **{name: values[1] for name, values in numbers.items()})
    alone = train(Trainer(config.learner(), SCHEDULE, range(NUM_SEEDS)))
    learner = make_config(model, **fixed).learner()
    settings = [
        dataclasses.replace(learner.settings, **{name: values[i] for name, values in numbers.items()})
        for i in range(2)
    ]
    both = train(Trainer(learner, SCHEDULE, range(NUM_SEEDS), settings))
    first, second = np.split(both["return"], 2)
    assert not np.allclose(first, second, rtol=1e-3)
    for name, values in alone.items():
        second = np.split(both[name], 2)[1]
        np.testing.assert_allclose(second, values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", ["lstm", "sac", "odt"])
def test_every_number_that_may_differ_can_be_one_that_only_the_program_knows(model):
    learner = make_config(model).learner()
    own = {name: getattr(learner.settings, name) for name in MAY_DIFFER if hasattr(learner.settings, name)}
    assert {"policy_learning_rate", "gradient_clip"} < own.keys()
    doubled = dataclasses.replace(learner.settings, **{name: 2 * value for name, value in own.items()})
    trainer = Trainer(learner, SCHEDULE, [0], [learner.settings, doubled])
    state, _ = jax.eval_shape(
        functools.partial(trainer.advance, first_episode=3, num_episodes=3), trainer.shapes
    )
    assert jax.tree.structure(state) == jax.tree.structure(trainer.shapes)
    assert {
        name for method in asmpg.MODELS.values() for name in MAY_DIFFER if name in fields(method)
    } == MAY_DIFFER


def fields(method) -> set[str]:
    return {field.name for field in dataclasses.fields(method.settings)}


def test_items_are_kin_if_only_such_numbers_differ():
    base = make_config("one-step")
    rate, size, paper = (
        dataclasses.replace(base, overrides={**SMALL, "entropy": 0.3}),
        dataclasses.replace(base, overrides={**SMALL, "model_batch_size": 3}),
        dataclasses.replace(base, preset="paper"),
    )
    longer, other = dataclasses.replace(base, steps=40), dataclasses.replace(base, model="rnn")
    names = [kin(config) for config in (base, rate, size, paper, longer, other)]
    assert names[0] == names[1]
    assert len(set(names)) == 5
    assert numbers_of([base, rate]) == {"entropy": [base.settings().entropy, 0.3]}
    assert numbers_of([base, base]) == {}


def test_a_run_that_imagines_in_another_way_does_not_join():
    config = dataclasses.replace(make_config("lstm"), imagine="sequential")
    group = Group({"entropy": [0.1, 0.2]})
    assert group.trainer(config.learner(), SCHEDULE, [0]) is group.trainer(config.learner(), SCHEDULE, [0])
    other = dataclasses.replace(config, imagine="parallel").learner()
    with pytest.raises(DisbandedError, match="one imagines parallel, the others sequential"):
        group.trainer(other, SCHEDULE, [0])


# The sweep


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep of items done one by one: its suite's file, and the records by item."""
    with wanderer.instead_of_every_method():
        folder = tmp_path_factory.mktemp("whole")
        file = write_suite(folder)
        sweeping.sweep(file, folder / "out", together=1)
        yield file, records(file, folder / "out")


def records(file, out) -> dict[str, dict[str, np.ndarray]]:
    finished = look(load(file), open_store(str(out))).finished
    return {item: result.history.metrics() for item, result in finished.items()}


def check_same(found, wanted) -> None:
    assert found.keys() == wanted.keys() and len(found) == NUM_ITEMS
    for item, metrics in wanted.items():
        assert found[item].keys() == metrics.keys()
        for name, values in metrics.items():
            np.testing.assert_allclose(found[item][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture
def answers(monkeypatch):
    """Whom every chunk was computed for, and where it began."""
    seen, answer = [], Group._compute

    def watched(self, members, chunk):
        seen.append((members, chunk[0]))
        answer(self, members, chunk)

    monkeypatch.setattr(Group, "_compute", watched)
    return seen


def test_a_sweep_of_kin_is_one_program_and_ends_the_same(whole, tmp_path, answers):
    file = write_suite(tmp_path)
    begin = time.monotonic()
    state = sweeping.sweep(file, tmp_path / "out", together=NUM_ITEMS)
    spent = time.monotonic() - begin
    # A user's task is another one in every folder, and so are the items' names.
    check_same(dict(zip(whole[1], records(file, tmp_path / "out").values(), strict=True)), whole[1])
    assert {members for members, _ in answers} == {(0, 1, 2)}
    assert not list((tmp_path / "out" / "work").iterdir())
    seconds = [result.timing["seconds"] for result in state.finished.values()]
    assert min(seconds) > 0 and sum(seconds) <= spent


def test_those_ahead_wait_for_those_behind(whole, tmp_path, answers):
    file, out = write_suite(tmp_path), tmp_path / "out"
    stops = iter(range(10**6))
    sweeping.sweep(file, out, InProcess(lambda: next(stops) >= 5), together=1, stop=lambda: next(stops) > 5)
    assert not answers and len(list((out / "work").iterdir())) == 1
    sweeping.sweep(file, out, together=NUM_ITEMS)
    check_same(dict(zip(whole[1], records(file, out).values(), strict=True)), whole[1])
    groups = [members for members, _ in answers]
    assert groups[0] == (1, 2) and groups[-1] == (0, 1, 2)
    assert groups == sorted(groups, key=len)


def test_who_is_busy_elsewhere_is_not_waited_for(whole, tmp_path, answers):
    file, out = write_suite(tmp_path), tmp_path / "out"
    store, items = open_store(str(out)), load(file).items
    jobs = tuple(together.Job(item.id, item.config, store.url, "any", True) for item in items)
    with store.claim(items[1].id):
        outcomes = together.do_together(together.JobGroup(jobs), lambda: False)
    assert [outcome.kind for outcome in outcomes] == ["done", "busy", "done"]
    assert {members for members, _ in answers} == {(0, 2)}
    sweeping.sweep(file, out, mix_versions=True)
    check_same(dict(zip(whole[1], records(file, out).values(), strict=True)), whole[1])


def test_a_group_that_cannot_go_on_is_done_one_by_one(whole, tmp_path, monkeypatch):
    file, out, answer, places = write_suite(tmp_path), tmp_path / "out", Group._compute, []

    def too_much(self, members, chunk):
        places.append(chunk)
        if len(places) > 5:
            raise MemoryError("out of memory")
        answer(self, members, chunk)

    monkeypatch.setattr(Group, "_compute", too_much)
    with pytest.warns(RunWarning, match="3 items .* are done one by one: MemoryError: out of memory"):
        state = sweeping.sweep(file, out, together=NUM_ITEMS)
    check_same(dict(zip(whole[1], records(file, out).values(), strict=True)), whole[1])
    assert len(places) == 6 and not state.failed


def test_one_that_fails_leaves_the_others_alone(whole, tmp_path, monkeypatch):
    file, out, start = write_suite(tmp_path), tmp_path / "out", work.start

    def fails_once(config, report, *rest):
        if config.overrides["entropy"] == 0.01:
            raise RuntimeError("out of order")
        return start(config, report, *rest)

    monkeypatch.setattr(work, "start", fails_once)
    state = sweeping.sweep(file, out, together=NUM_ITEMS)
    assert len(state.finished) == NUM_ITEMS - 1 and len(state.failed) == 1
    monkeypatch.setattr(work, "start", start)
    sweeping.sweep(file, out, retry_failed=True)
    check_same(dict(zip(whole[1], records(file, out).values(), strict=True)), whole[1])


def test_a_group_that_is_stopped_stops_as_one_and_goes_on(whole, tmp_path, answers):
    file, out = write_suite(tmp_path), tmp_path / "out"
    stop = lambda: len(answers) > 4  # noqa: E731
    state = sweeping.sweep(file, out, InProcess(stop), together=NUM_ITEMS, stop=stop)
    assert not state.finished and not state.failed
    assert {members for members, _ in answers} == {(0, 1, 2)}
    assert len(answers) <= 6
    done = len(answers)
    sweeping.sweep(file, out, together=NUM_ITEMS)
    check_same(dict(zip(whole[1], records(file, out).values(), strict=True)), whole[1])
    assert {members for members, _ in answers[done:]} == {(0, 1, 2)}


def test_a_trial_is_made_in_the_company_that_the_item_would_have(tmp_path, answers):
    file, store = write_suite(tmp_path), open_store(str(tmp_path / "out"))
    state = look(load(file), store)
    assert not sweep.calibrate(state, InProcess(), NUM_ITEMS)
    assert {members for members, _ in answers} == {(0, 1, 2)}
    assert state.seconds_left(1) is not None
    assert not (tmp_path / "out").exists()


def test_who_leaves_puts_nobody_else_into_another_precision(tmp_path, monkeypatch):
    """Double precision is a setting of each member's thread, and the others wait when this one fails."""
    file = write_suite(tmp_path, 'precision = "float64"\n' + sweeping.SUITE)
    sweeping.sweep(file, tmp_path / "alone", together=1)
    start = work.start

    def fails_late(config, report, *rest):
        def told(progress):
            report(progress)
            if config.overrides["entropy"] == 0.01 and progress.steps > 80:
                time.sleep(1.0)
                raise RuntimeError("out of order")

        return start(config, told, *rest)

    monkeypatch.setattr(work, "start", fails_late)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)  # nothing begins again
        state = sweeping.sweep(file, tmp_path / "out", together=NUM_ITEMS)
    assert len(state.finished) == NUM_ITEMS - 1
    alone, found = records(file, tmp_path / "alone"), records(file, tmp_path / "out")
    for item, metrics in found.items():
        np.testing.assert_allclose(metrics["push"], alone[item]["push"], rtol=1e-12)


def test_a_group_that_is_interrupted_does_not_train_to_its_end(tmp_path, monkeypatch, answers):
    file = write_suite(tmp_path, sweeping.SUITE.replace("steps = 160", "steps = 1000000"))

    def wait(futures, timeout):
        if len(answers) > 4:
            raise KeyboardInterrupt
        return concurrent.futures.wait(futures, 0.01)

    monkeypatch.setattr(groups, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(file, tmp_path / "out", together=NUM_ITEMS)
    assert len(answers) < 100


def test_one_that_ends_its_process_takes_no_other_with_it(whole, tmp_path):
    """In a pool: first as a group, then each apart."""
    file = write_suite(tmp_path, sweeping.SUITE.replace("task.py:Probe", "task.py:trap"))
    state = sweeping.sweep(file, tmp_path / "out", Local(1), together=NUM_ITEMS)
    assert len(state.finished) == NUM_ITEMS - 1
    assert [error.partition(":")[0] for error in state.failed.values()] == ["RuntimeError"]
    found = list(records(file, tmp_path / "out").values())
    for metrics, wanted in zip(
        found, [one for i, one in enumerate(whole[1].values()) if i != 1], strict=True
    ):
        np.testing.assert_allclose(metrics["push"], wanted["push"], rtol=1e-5)


@pytest.mark.parametrize("how", ["fails", "disbands"])
def test_a_trial_whose_group_ends_early_ends_too(tmp_path, monkeypatch, how):
    file, real = write_suite(tmp_path, sweeping.SUITE.replace("steps = 160", "steps = 1000000")), timing.start

    def start(config, report, stop, make_trainer):
        if config.overrides["entropy"] == 0.1:
            raise RuntimeError("out of order")
        return real(config, report, stop, make_trainer)

    def too_much(self, members, chunk):
        raise MemoryError("out of memory")

    if how == "fails":
        monkeypatch.setattr(timing, "start", start)
    else:
        monkeypatch.setattr(Group, "_compute", too_much)
    state = look(load(file), open_store(str(tmp_path / "out")))
    failed = sweep.calibrate(state, InProcess(), NUM_ITEMS)
    if how == "fails":
        assert list(failed.values()) == ["RuntimeError: out of order"]
    else:
        assert not failed and state.seconds_left(1) is not None


def test_no_worker_idles_for_the_sake_of_a_group(tmp_path, monkeypatch):
    """Four items among three workers: two at once at first, not four."""
    file = write_suite(tmp_path, sweeping.SUITE.replace("0.001]", "0.001, 0.002]"))
    given = []

    class Three(InProcess.__mro__[1]):
        def __init__(self):
            self.room = 3

        def num_free(self):
            return self.room

        def submit(self, job):
            self.room -= 1
            given.append(len(job.jobs) if isinstance(job, together.JobGroup) else 1)

        def poll(self, seconds):
            raise KeyboardInterrupt

        def ask_to_stop(self): ...

        def num_workers(self):
            return 3

        def together(self):
            return 9

        def __exit__(self, *_): ...

    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(file, tmp_path / "out", Three())
    assert given == [2, 1, 1]
    assert not trainings(file)
