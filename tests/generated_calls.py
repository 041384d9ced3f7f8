"""One wrong argument in a call of each public function: a UsageError of one line. Run by `test_generated_calls.py`.

A program of its own, since under pytest every annotated function of the package checks its arguments' types itself.
"""

import sys
import tempfile
import traceback
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import asmpg


KEY = jax.random.key(0)
ENV = asmpg.make("harvest", 5)
OTHER = asmpg.make("hiv_treatment", 7)
MODEL, POLICY = asmpg.OneStepModel(ENV, key=KEY), asmpg.TanhGaussianPolicy(ENV, key=KEY)
ACTIONS, START = np.zeros((5, 1)), np.array([0.4])
DATA = asmpg.Episodes(np.random.default_rng(0).random((4, 6, 2)), np.zeros((4, 5, 1)), np.zeros((4, 5)))
SCORES = asmpg.Scores(np.random.default_rng(0).random((3, 2)), ("a", "b"), (0, 1, 2))
FOLDER = tempfile.mkdtemp()
STATISTICS = "bootstrap_interval difference_interval improvement_interval interquartile_mean probability_of_improvement"

CALLS = {
    "make": (asmpg.make, ["harvest", 5]),
    "score": (asmpg.score, [ENV, 0.5]),
    "observe": (asmpg.observe, [OTHER, [0, 1]]),
    "Episodes": (asmpg.Episodes, [np.zeros((2, 6, 2)), np.zeros((2, 5, 1)), np.zeros((2, 5)), [5, 4]]),
    "Episodes bounds": (
        lambda b, n: asmpg.Episodes(
            np.zeros((2, 6, 2)), np.zeros((2, 5, 1)), np.zeros((2, 5)), action_bounds=b, name=n
        ),
        [(-1.0, 1.0), "name"],
    ),
    "save_episodes": (asmpg.save_episodes, [f"{FOLDER}/x.npz", DATA]),
    "load_episodes": (
        lambda s, h, b: asmpg.load_episodes(s, horizon=h, action_bounds=b),
        [f"{FOLDER}/y.npz", 4, (-1, 1)],
    ),
    "load": (asmpg.load, [f"{FOLDER}/run"]),
    "resume": (asmpg.resume, [f"{FOLDER}/run"]),
    "load_policy": (asmpg.load_policy, [f"{FOLDER}/policy.npz"]),
    "fit": (lambda d, m, n, s, h: asmpg.fit(d, m, n, seed=s, held_out=h), [DATA, "one-step", 1, 0, 1]),
    "ActionSequenceModel": (
        lambda e, b, k, d, o, u: asmpg.ActionSequenceModel(
            e, b, key=k, dropout=d, difference_loss=o, decoder_output=u
        ),
        [ENV, "rnn", KEY, 0.0, 1.0, "gated"],
    ),
    "HistoryModel": (lambda e, b, k: asmpg.HistoryModel(e, b, key=k), [ENV, "rnn", KEY]),
    "OneStepModel": (
        lambda e, k, u, d: asmpg.OneStepModel(e, key=k, difference_unit=u, state_gradient_decay=d),
        [ENV, KEY, "state", 0.9],
    ),
    "Simulator": (asmpg.Simulator, [ENV]),
    "TanhGaussianPolicy": (
        lambda e, k, w, n: asmpg.TanhGaussianPolicy(e, key=k, width=w, num_layers=n),
        [ENV, KEY, 4, 1],
    ),
    "ActionSequence": (lambda e, k: asmpg.ActionSequence(e, key=k), [ENV, KEY]),
    "LearnedReward": (lambda e, k: asmpg.LearnedReward(e, key=k), [ENV, KEY]),
    "Settings": (
        lambda a, b, c: asmpg.Settings(entropy=a, model_batch_size=b, exploration=c),
        [0.1, 4, "white"],
    ),
    "Settings.default": (asmpg.Settings.default, [50]),
    "Settings.replace": (lambda a: asmpg.Settings().replace(entropy=a), [0.1]),
    "TrainConfig": (
        lambda *a: asmpg.TrainConfig(
            **dict(
                zip(
                    (
                        "task",
                        "horizon",
                        "model",
                        "steps",
                        "seed",
                        "num_seeds",
                        "preset",
                        "out",
                        "loop",
                        "chunk_steps",
                        "stop_score",
                        "scan_chunk",
                        "precision",
                        "optimizer",
                        "overrides",
                        "record_cosine",
                        "data",
                    ),
                    a,
                    strict=True,
                )
            )
        ).checked(),
        ["harvest", 5, "rnn", 5, 0, 1, "default", None, "open", 5, 0.5, 5, "auto", None, {}, True, None],
    ),
    "train": (
        lambda t, s, own, c: asmpg.train(t, settings=s, learner=own, callbacks=c, steps=0),
        ["harvest", None, None, ()],
    ),
    "from_ode": (
        lambda *a: asmpg.from_ode(
            a[0],
            a[1],
            **dict(
                zip(
                    (
                        "initial_state",
                        "duration",
                        "horizon",
                        "control_bounds",
                        "state_bounds",
                        "terminal_cost",
                        "terminal_constraint",
                        "path_constraint",
                        "penalty",
                        "method",
                        "substeps",
                        "name",
                    ),
                    a[2:],
                    strict=True,
                )
            ),
        ),
        [
            lambda s, u, t: -s,
            lambda s, u, t: u[0] ** 2,
            [1.0],
            1.0,
            5,
            [(-1.0, 1.0)],
            None,
            None,
            None,
            None,
            10.0,
            "rk4",
            2,
            "o",
        ],
    ),
    "gradient_norm_profile": (
        lambda p, k, n: asmpg.gradient_norm_profile(p, key=k, num_samples=n),
        [[(ENV, MODEL)], KEY, 2],
    ),
    "growth_fit": (asmpg.growth_fit, [[5, 10, 20], [1.0, 2.0, 4.0]]),
    "reach": (asmpg.reach, [MODEL, START, ACTIONS]),
    "action_jacobian": (
        lambda m, s, a, c: asmpg.action_jacobian(m, s, a, chunk_size=c),
        [MODEL, START, ACTIONS, 2],
    ),
    "locate_nonfinite": (asmpg.locate_nonfinite, [MODEL, ENV, START, ACTIONS]),
    "theorem1_bound": (asmpg.theorem1_bound, [POLICY, MODEL, ENV, START]),
    "cosine_similarity": (asmpg.cosine_similarity, [jnp.ones(3), jnp.ones(3)]),
    "estimator_error": (asmpg.estimator_error, [jnp.ones((4, 3)), jnp.ones(3)]),
    "return_landscape": (
        lambda f, c, d, o: asmpg.return_landscape(f, c, d, o),
        [lambda x: x.sum(), jnp.ones(3), [jnp.ones(3)], jnp.ones(2)],
    ),
    "area_under_curve": (asmpg.area_under_curve, [[0, 1, 2], np.ones((3, 1))]),
    "steps_to_score": (asmpg.steps_to_score, [[0, 1, 2], np.ones((3, 1)), 0.5]),
    "Scores": (asmpg.Scores, [np.ones((2, 1)), ("a",), (0, 1)]),
    "performance_profile": (asmpg.performance_profile, [SCORES, np.linspace(0, 1, 3)]),
    **{
        name: (getattr(asmpg, name), [SCORES] * (2 if "imp" in name or "dif" in name else 1))
        for name in STATISTICS.split()
    },
    "bootstrap": (
        lambda s, c, n, k: asmpg.bootstrap_interval(s, confidence=c, num_resamples=n, key=k),
        [SCORES, 0.9, 10, KEY],
    ),
    "from_gymnasium": (lambda e, h, n: asmpg.from_gymnasium(e, h, num_evaluations=n), ["Pendulum-v1", 5, 1]),
    "from_brax": (asmpg.from_brax, [None]),
    "from_gymnax": (asmpg.from_gymnax, [None]),
    "from_mjx": (asmpg.from_mjx, [None]),
    "CSVLog": (asmpg.CSVLog, [f"{FOLDER}/log.csv"]),
}

NUMBERS = st.sampled_from([0, -1, 3, np.int64(3), 2.5, np.nan, -np.inf, 10**30, 1 + 2j, True])
THINGS = st.one_of(
    NUMBERS,
    st.sampled_from(
        ["", "harvest", "lstm", "x", b"x", object(), {}, {"a": 1}, [], [[1.0], [2.0, 3.0]], int, print]
    ),
    st.sampled_from([lambda: 0, lambda *a, **k: None, lambda s, u, t: np.zeros(3), lambda *a: "x"]),
    st.lists(NUMBERS, max_size=4),
    st.tuples(st.integers(0, 6), st.integers(0, 3)).map(np.ones),
    st.sampled_from(
        [np.full((5, 1), np.nan), np.full((5, 1), 1j), np.array(["a"]), np.array([None]), np.zeros((2, 3, 4))]
    ),
    st.sampled_from([ENV, OTHER, MODEL, POLICY, DATA, SCORES, KEY, asmpg.Simulator(OTHER)]),
)


def check(name: str, examples: int) -> list[str]:
    """What other errors a function raised than it should."""
    function, arguments = CALLS[name]
    found: dict[str, str] = {}

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(data=st.data())
    def call(data):
        which = data.draw(st.integers(0, len(arguments) - 1))
        thing = data.draw(THINGS)
        changed = [thing if i == which else argument for i, argument in enumerate(arguments)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(*changed)
        except (asmpg.UsageError, OSError) as error:
            said = str(error)
            if "\n" in said:
                found.setdefault(f"{which} lines", f"{name}, argument {which}, {thing!r:.60}: {said!r:.200}")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            line = f"{name}, argument {which}, {thing!r:.60}: {type(error).__name__}: {error!s:.120} ({where.name})"
            found.setdefault(f"{which} {type(error).__name__}", line.replace("\n", " "))

    call()
    return list(found.values())


if __name__ == "__main__":
    problems = [line for name in sys.argv[2:] or CALLS for line in check(name, int(sys.argv[1]))]
    sys.stdout.write("\n".join(problems))
    sys.exit(bool(problems))
