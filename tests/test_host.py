"""Worlds outside JAX: what a simulator may do wrong, and that it trains, resumes and counts as a task in JAX does."""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asmpg
from asmpg.core.types import Trajectory
from asmpg.gradients.policies import TanhGaussianPolicy
from asmpg.learners.base import Explorer
from asmpg.learners.replay import ReplayBuffer
from asmpg.learners.window_value import Bootstrapped, window_of
from asmpg.models.normalisation import Normaliser, RewardScale, spread
from asmpg.models.reward import LearnedReward, Network
from asmpg.tasks.environment import AbstractActor
from asmpg.tasks.host import episode_seed, evaluation_seeds, play, Watched
from asmpg.tasks.spec import Sizes
from asmpg.training.methods import find_method
from asmpg.training.numpy_actors import numpy_act
from asmpg.training.runs.acting import evaluate
from asmpg.training.runs.best import Best
from asmpg.training.runs.lifecycle import start
from tiers import thorough_but
from toys import bits
from wanderer import Wanderer


pytestmark = pytest.mark.usefixtures("quickly")
SMALL = {"warmup_steps": 12, "model_batch_size": 4, "policy_batch_size": 2}


class Walk(asmpg.HostEnvironment):
    """A random walk in NumPy that ends where it leaves [-1, 1]; it counts its own steps."""

    horizon, observation_size, action_size = 6, 1, 1
    num_evaluations = 3

    def __init__(self):
        self.num_steps = 0

    def reset(self, seeds):
        self.random = [np.random.default_rng(seed) for seed in seeds]
        self.at = np.array([[random.uniform(-0.5, 0.5)] for random in self.random])
        self.over = np.zeros(len(seeds), bool)
        return self.at.copy()

    def step(self, actions):
        self.num_steps += int((~self.over).sum())
        noise = np.array([[0.1 * random.normal()] for random in self.random])
        self.at = self.at + 0.3 * actions + noise
        self.over = self.over | (np.abs(self.at[:, 0]) > 1)
        return self.at.copy(), -(self.at[:, 0] ** 2), self.over


def config(env, **options) -> asmpg.TrainConfig:
    return asmpg.TrainConfig(
        env, **{"model": "one-step", "steps": 30, "chunk_steps": 6, "overrides": SMALL, **options}
    )


# Playing


def push(states, step):
    return np.full((len(states), 1), 0.9)


def test_an_early_end_is_padded_and_its_steps_are_not_counted():
    env = Walk()
    episodes, lengths = play(Watched(env), range(8), push)
    states, rewards = np.asarray(episodes.states), np.asarray(episodes.rewards)
    assert lengths.min() < env.horizon
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(
            states[i, :, 1], np.arange(7) < (length if np.abs(states[i, -1, 0]) > 1 else 7)
        )
        assert (states[i, length:, 0] == states[i, length, 0]).all()
        assert (rewards[i, length:] == 0).all() and (rewards[i, :length] < 0).all()
        assert (np.asarray(episodes.actions)[i, length:] == 0).all()
    assert env.num_steps == lengths.sum()


def test_a_copy_alone_is_the_copy_among_others():
    among, _ = play(Watched(Walk()), [3, 4, 5], push)
    alone, _ = play(Watched(Walk()), [4], push)
    np.testing.assert_array_equal(among.states[1], alone.states[0])
    np.testing.assert_array_equal(among.rewards[1], alone.rewards[0])


def test_episodes_have_seeds_of_their_own():
    seeds = {episode_seed(seed, index) for seed in range(20) for index in range(50)}
    assert len(seeds) == 1000 and not seeds & set(evaluation_seeds(Walk()))


class Broken(Walk):
    """Goes wrong at step 3 in one way."""

    time_limit = 0.3

    def __init__(self, how, at=3):
        super().__init__()
        self.how, self.at_step = how, at

    def reset(self, seeds):
        self.now = 0
        return super().reset(seeds)

    def step(self, actions):
        observations, rewards, over = super().step(0 * actions)
        over[:], self.now = False, self.now + 1
        if self.now <= self.at_step:
            return observations, rewards, over
        if self.how == "raise":
            raise ValueError("no connection\nto the plant")
        if self.how == "hang":
            time.sleep(2)
        if self.how == "nan":
            observations[1] = np.nan
        if self.how == "reward":
            rewards[1] = np.inf
        if self.how == "shape":
            observations = observations[:, 0]
        if self.how == "pair":
            return observations, rewards
        if self.how == "words":
            rewards = ["much"] * len(rewards)
        return observations, rewards, over if self.how != "ends" else rewards


@pytest.mark.parametrize(
    ("how", "said"),
    {
        "raise": "raised ValueError: no connection",
        "hang": "no answer within 0.3 s",
        "nan": "observations must be finite, got [nan]",
        "reward": "rewards must be finite, got [inf]",
        "shape": "observations must have shape (2, 1), got (2,)",
        "pair": "must return observations, rewards, terminated",
        "words": "rewards must be numbers",
        "ends": "terminated must be truth values",
    }.items(),
)
def test_what_a_simulator_does_wrong_is_said_in_one_line(how, said):
    with pytest.raises(asmpg.UsageError) as caught:
        play(Watched(Broken(how)), [7, 8], push)
    message = str(caught.value)
    assert "\n" not in message and said in message
    assert "step of broken, at step 3" in message and ("seed 8" in message or "seed 7" in message)


def test_a_long_episode_of_quick_calls_is_no_hanging():
    """The time limit is of one call."""

    class Slow(Walk):
        time_limit = 0.2

        def step(self, actions):
            time.sleep(0.08)
            return super().step(0 * actions)

    episodes, _ = play(Watched(Slow()), [1], push)
    assert np.isfinite(episodes.states).all()


def test_an_error_of_the_policy_is_its_own():
    def fail(states, step):
        raise ZeroDivisionError("in the policy")

    with pytest.raises(ZeroDivisionError, match="in the policy"):
        play(Watched(Walk()), [1], fail)


def test_a_policy_acts_in_the_precision_of_its_caller():
    seen = []

    def act(states, step):
        seen.append(jnp.result_type(float))
        return push(states, step)

    simulator = Watched(Walk())
    for enabled in (False, True, False):
        with jax.enable_x64(enabled):
            play(simulator, [1], act)
    assert [seen[0], seen[6], seen[-1]] == [jnp.float32, jnp.float64, jnp.float32]


def test_an_end_that_was_not_declared_is_an_error():
    env = Walk()
    env.ends_early = False
    with pytest.raises(asmpg.UsageError, match="ends_early is False"):
        play(Watched(env), range(8), push)


def test_a_plant_that_fails_late_loses_nothing_before_it(tmp_path):
    """Its last checkpoint is loaded, and once it is mended the run goes on."""

    class Late(Walk):
        def step(self, actions):
            if self.faults and self.num_steps > 100:
                raise RuntimeError("out of fuel")
            return super().step(actions)

    env = Late()
    env.faults = ["no fuel"]  # in what it holds, which is no parameter of it
    given = config(env, model=Wanderer, steps=60, out=str(tmp_path / "run")).checked()
    with pytest.raises(asmpg.UsageError, match="out of fuel"):
        start(given, lambda progress: None)
    kept = asmpg.load(tmp_path / "run", task=env, model=Wanderer)
    assert 0 < kept.steps < 60 and not kept.finished
    env.faults.clear()
    assert asmpg.resume(tmp_path / "run", task=env, model=Wanderer).finished


def actors_of(kind, observe_time, normaliser):
    """Two untrained actors along a leading axis."""

    def make(key):
        sizes, (policy_key, explorer_key) = Sizes("walk", 6, 2, 3), jax.random.split(key)
        policy = TanhGaussianPolicy(
            sizes, key=policy_key, normaliser=normaliser, observe_time=observe_time, width=8
        )
        policy = eqx.tree_at(lambda p: p.layers[-1].weight, policy, replace_fn=lambda weight: 30 * weight)
        settings = find_method("one-step").presets["default"](6)
        return policy if kind == "policy" else Explorer.create(policy, sizes, settings, key=explorer_key)

    return eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize("kind", ["policy", "explorer"])
@pytest.mark.parametrize("observe_time", [True, False])
@pytest.mark.parametrize(
    "normaliser",
    [Normaliser.unknown(2), Normaliser(*map(jnp.array, ([2e4, -1.0], [3.0, 1e-3], [1.0, 1.0])))],
    ids=["unknown", "known"],
)
def test_policies_in_numpy_do_what_they_do_in_jax(kind, observe_time, normaliser):
    actors = actors_of(kind, observe_time, normaliser)
    act = numpy_act(actors, 3)
    states = np.asarray(normaliser.mean) + np.random.default_rng(0).normal(size=(6, 2)) * [3.0, 1e-3]
    states = states.astype(np.float32)

    @eqx.filter_vmap(in_axes=(eqx.if_array(0), 0))
    def compiled(actor, states):
        return jax.vmap(lambda state: actor.act(None, state, 4))(states)

    wanted = compiled(actors, states.reshape(2, 3, 2)).reshape(6, 3)
    found = np.clip(act(states, 4), -1, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert np.ptp(found, axis=0).min() > 1e-3 or normaliser.scale[0] == np.inf


def test_a_policy_of_the_users_own_acts_in_compiled_calls():
    class Own(AbstractActor):
        arrays: jax.Array

        def begin(self):
            return None

        def act(self, carry, state, step):
            return jnp.tanh(self.arrays)

        def observe(self, carry, state, step, action, reward):
            return carry

    assert numpy_act(Own(jnp.zeros(2)), 3) is None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("number", [1, 2])
def test_policies_in_numpy_are_as_precise_as_they_are(number):
    env = asmpg.make("harvest", 10)
    keys = jax.random.split(jax.random.key(0), number)
    policies = eqx.filter_vmap(lambda key: asmpg.TanhGaussianPolicy(env, key=key))(keys)
    states = np.linspace(0.3, 0.9, number)[:, None]
    expected = eqx.filter_vmap(lambda policy, state: policy.mode(state, 3))(policies, jnp.asarray(states))
    np.testing.assert_allclose(numpy_act(policies, 1)(states, 3), expected, rtol=1e-12, atol=1e-15)


# Training


@pytest.mark.parametrize("rows", thorough_but([4], [64, 4]))
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, rows):
    """Seeds of their own pace, whose episodes are all kept, or the last four only."""
    options = {"num_seeds": 3, "steps": 60, "overrides": {**SMALL, "replay_capacity": 6 * rows}}
    straight = start(
        config(Walk(), out=str(tmp_path / "straight"), **options).checked(), lambda progress: None
    )
    assert len(set(straight.replay.count.tolist())) > 1 and straight.replay.count.min() > 4
    records = iter(range(20))
    half = config(Walk(), out=str(tmp_path / "half"), **options).checked()
    stopped = start(half, lambda progress: None, lambda: next(records) > 1)
    assert 0 < stopped.steps < straight.steps
    asmpg.resume(tmp_path / "half", task=Walk())
    folders = [straight.path, tmp_path / "half"]
    lines = [(folder / "metrics.jsonl").read_bytes() for folder in folders]
    assert lines[0] == lines[1]
    runs = [asmpg.load(folder, task=Walk()) for folder in folders]
    parts = [(run.policy, run.model, run.replay, run.best_policy) for run in runs]
    assert bits(parts[0]) == bits(parts[1])


@pytest.fixture(scope="module")
def both(quickly, tmp_path_factory):
    """A run of two seeds that was never stopped, and how many steps its world had taken when it ended."""
    env, out = Walk(), tmp_path_factory.mktemp("both") / "run"
    return asmpg.train(config(env, steps=60, num_seeds=2, out=str(out))), env.num_steps


def test_a_seed_alone_is_the_seed_among_others_and_every_step_is_counted(both):
    run, num_steps = both
    counted = run.metrics["simulated_steps"][-1].sum() + run.metrics["evaluation_steps"][-1].sum()
    assert num_steps == counted
    made = run.metrics["simulated_steps"]
    assert (run.metrics["steps"] <= made).all() and (made < run.metrics["steps"] + Walk.horizon).all()
    alone = asmpg.train(config(Walk(), steps=60, seed=1))
    for name in ("return", "return_spread", "model_loss", "simulated_steps"):
        np.testing.assert_allclose(
            alone.metrics[name][:, 0], run.metrics[name][:, 1], rtol=1e-3, err_msg=name
        )
    np.testing.assert_allclose(run.evaluate(), run.returns, rtol=1e-5)


def test_the_best_record_is_kept_beside_the_last(both):
    result = both[0]
    best = result.metrics["return"].max(axis=0)
    assert (best > result.returns).any()
    np.testing.assert_array_equal(result.best_returns, best)
    np.testing.assert_allclose(evaluate(result.best_policy, Walk()), best, rtol=1e-4)
    loaded = asmpg.load(result.path, task=Walk())
    np.testing.assert_array_equal(loaded.best_returns, best)
    assert bits(loaded.best_policy) == bits(result.best_policy)


def test_a_return_that_is_no_number_is_never_the_best():
    best = Best()
    for returns in ([np.nan, 1.0], [-3.0, np.nan], [-4.0, 0.5], [np.nan, 2.0]):
        best.add(np.array(returns), jnp.array(returns))
    np.testing.assert_array_equal(best.returns, [-3.0, 2.0])
    np.testing.assert_array_equal(best.policy(jnp.zeros(2)), [-3.0, 2.0])


@pytest.mark.thorough
@pytest.mark.parametrize("model", ["lstm", "sac"])
def test_other_methods_train_there_too(model):
    result = asmpg.train(
        config(Walk(), model=model, overrides=SMALL if model == "lstm" else {"warmup_steps": 12})
    )
    assert np.isfinite(result.returns).all() and result.scores is None


@pytest.mark.thorough
def test_windows_of_long_episodes_train():
    result = asmpg.train(config(Walk(), overrides={**SMALL, "window": 3}))
    assert np.isfinite(result.returns).all()
    assert result.metrics["num_nonfinite"][-1] == 0
    assert not result.policy.observe_time


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "simulator"}, "model: simulator needs a task written in JAX"),
        ({"record_cosine": True}, "record_cosine: needs the derivatives"),
        ({"optimum": True}, "optimum: needs an optimum"),
        ({"stop_score": 0.9}, "stop_score"),
    ],
)
def test_what_needs_a_task_in_jax_is_refused(options, named):
    with pytest.raises(asmpg.UsageError) as caught:
        config(Walk(), **options).checked()
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_world_declares_its_sizes():
    class Nothing(Walk):
        observation_size = 0

    with pytest.raises(asmpg.UsageError, match="observation_size of nothing: must be an integer >= 1, got 0"):
        config(Nothing()).checked()

    class Named(Walk):
        state_size = 1

    assert Named().observation_size == 1 and Named().state_size == 2


def test_windows_are_for_long_episodes_from_random_states():
    class Long(Walk):
        horizon = 200

    settings = find_method("one-step").presets["default"](200)
    fixed = Long()
    fixed.fixed_start = True
    assert window_of(Long(), settings) == 20
    assert window_of(fixed, settings) is None and window_of(Walk(), settings) is None
    assert window_of(asmpg.make("harvest", 200), settings) is None
    assert window_of(fixed, dataclasses.replace(settings, window=30)) == 30


def test_a_task_with_random_starts_has_windows_where_its_reward_is_learned_and_needs_no_time():
    class Anywhere(asmpg.AbstractEnvironment):
        horizon: int = 60
        name: str = "anywhere"
        state_size: int = 1
        action_size: int = 1

        def initial_state(self, *, key=None):
            return jax.random.normal(jax.random.key(0) if key is None else key, (1,))

        def transition(self, state, action, step):
            return state + action

        def reward(self, state, action, step):
            return -jnp.abs(state[0])

    class PaysAtTheEnd(Anywhere):
        def terminal_reward(self, state):
            return state[0]

    class Fixed(Anywhere):
        def initial_state(self, *, key=None):
            return jnp.zeros(1)

    settings = find_method("one-step").presets["default"](60)
    assert window_of(Anywhere(), settings, True) == 20
    assert window_of(Anywhere(), settings) is None and window_of(Anywhere(horizon=50), settings, True) is None
    assert window_of(PaysAtTheEnd(), settings, True) is None and window_of(Fixed(), settings, True) is None


def test_windows_need_a_learned_reward():
    with pytest.raises(asmpg.UsageError, match="window"):
        asmpg.TrainConfig("harvest", 20, model="one-step", overrides={"window": 5}).learner()


# What windows are


def numbered(num_episodes=3, horizon=8, lengths=(8, 2, 5)) -> ReplayBuffer:
    """Episodes in which every number says where it stands: episode, step."""
    states = np.zeros((4, horizon + 1, 2))
    states[:, :, 0] = 100 * np.arange(4)[:, None] + np.arange(horizon + 1)
    states[:3, :, 1] = np.arange(horizon + 1) < np.array([9 if n == 8 else n for n in lengths])[:, None]
    rewards = states[:, :-1, 0]
    return ReplayBuffer(Trajectory(*map(jnp.asarray, (states, rewards[..., None], rewards))), jnp.asarray(3))


def test_windows_are_stretches_that_begin_before_an_end():
    drawn = numbered().windows(400, 3, key=jax.random.key(0), ends_early=True)
    first = np.asarray(drawn.states[:, 0, 0])
    np.testing.assert_array_equal(drawn.states[:, :, 0], first[:, None] + np.arange(4))
    np.testing.assert_array_equal(drawn.rewards, first[:, None] + np.arange(3))
    wanted = [*range(6), 100, 101, *range(200, 205)]
    places, counts = np.unique(first, return_counts=True)
    np.testing.assert_array_equal(places, wanted)
    assert counts.max() < 3 * counts.min()
    assert (np.asarray(drawn.states[:, 0, 1]) == 1).all()


@pytest.mark.parametrize("predicted", [-3.0, 0.4, 7.0])
def test_no_more_is_paid_than_for_an_episode_that_goes_on(predicted):
    """A model may predict any `alive`, also one that would make the reward seven times as large."""
    learned = LearnedReward(Walk(), key=jax.random.key(0))
    paid = learned.while_alive(jnp.array([0.3, predicted]), jnp.float32(2.0))
    np.testing.assert_allclose(paid, 2 * min(max(predicted, 0.0), 1.0))


def test_windows_have_values_of_their_own_in_the_preset_default():
    class Long(Walk):
        horizon = 600

    def settings(world, **options):
        return asmpg.TrainConfig(world, steps=1200, **{"model": "lstm", **options}).settings()

    own = settings(Long())
    assert (own.policy_learning_rate, own.warmup_steps) == (1e-3, 1000)
    whole = settings(Long(), overrides={"window": 600})
    assert whole == asmpg.Settings.default(600).replace(window=600), "whole episodes have the usual ones"
    given = settings(Long(), overrides={"policy_learning_rate": 0.1})
    assert (given.policy_learning_rate, given.warmup_steps) == (0.1, 1000)
    assert settings(Long(), preset="paper").warmup_steps == asmpg.Settings.paper(600).warmup_steps


def test_imagination_may_begin_at_any_state_before_an_end():
    drawn = np.asarray(numbered().observations(600, key=jax.random.key(1), ends_early=True))[:, 0]
    np.testing.assert_array_equal(np.unique(drawn), [*range(8), 100, 101, *range(200, 205)])


def reward_of(sizes: Sizes) -> LearnedReward:
    unit = Normaliser(jnp.zeros(2), jnp.ones(2), jnp.ones(2))
    scale = RewardScale(*map(jnp.asarray, (0.3, 2.0, 0.0, 1.0)))
    return LearnedReward(sizes, key=jax.random.key(0), normaliser=unit, scale=scale, observe_time=False)


def test_the_value_stands_for_all_that_follows():
    """Targets of a window are its discounted rewards and the value of its end; of an end, nothing follows."""
    reward = reward_of(Sizes("walk", 4, 2, 1, ends_early=True))
    value = Bootstrapped(reward, Network(2, key=jax.random.key(1)), 0.9, 4)
    states, actions = jax.random.normal(jax.random.key(2), (5, 2)), jnp.ones((4, 1))
    states = states.at[:, 1].set(1.0)
    rewards = jax.vmap(reward.reward)(states[:-1], actions, jnp.arange(4))
    follows = value.terminal_reward(states[-1]) / 0.9**4
    totals = [sum(0.9**k * rewards[t + k] for k in range(4 - t)) + 0.9 ** (4 - t) * follows for t in range(4)]
    targets = value.targets(states, actions)[1]
    np.testing.assert_allclose(targets * value.unit + 0.3 / 0.1, totals, rtol=1e-5)
    over = states.at[:, 1].set(0.0)
    assert value.terminal_reward(over[-1]) == 0 and reward.reward(over[0], actions[0], 1) == 0


def test_a_reward_without_time_is_the_same_at_every_step():
    reward = reward_of(Sizes("walk", 4, 2, 1))
    state, action = jnp.ones(2), jnp.ones(1)
    assert len({float(reward.reward(state, action, step)) for step in range(4)}) == 1
    assert reward.terminal_reward(state) == 0


# Units


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_statistics_are_in_the_units_of_what_they_are_of(unit):
    states = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    one, other = (
        Normaliser.from_states(jnp.asarray(states)),
        Normaliser.from_states(jnp.asarray(unit * states)),
    )
    for name in ("mean", "scale", "difference_scale"):
        np.testing.assert_allclose(getattr(other, name), unit * getattr(one, name), rtol=1e-4)
    rewards = jnp.asarray(states[:, :, 0])
    scales = RewardScale.from_rewards(rewards), RewardScale.from_rewards(unit * rewards)
    np.testing.assert_allclose(
        jax.tree.leaves(scales[1]), unit * np.array(jax.tree.leaves(scales[0])), rtol=1e-4
    )


@pytest.mark.parametrize("constant", [0.0, 1e-6, 3.0, -1e6])
def test_what_never_moves_is_harmless(constant):
    normaliser = Normaliser.from_states(jnp.full((4, 6, 1), constant))
    assert (normaliser.scale > 0).all() and (normaliser.difference_scale > 0).all()
    np.testing.assert_allclose(normaliser.normalise(jnp.array([constant])), 0.0, atol=1e-2)
    assert spread(jnp.full(5, constant)) > 0


def test_the_end_has_a_scale_before_it_is_seen():
    states = jnp.ones((4, 6, 2)).at[:, :, 0].set(jnp.arange(6.0))
    normaliser = Normaliser.from_states(states, ends_early=True)
    assert normaliser.mean[1] == 0 and normaliser.scale[1] == 1 and normaliser.difference_scale[1] >= 0.1
