"""Recorded episodes: what may be one, and that a file that is none is refused in one line that names file and key."""

import io
import zipfile

import jax
import numpy as np
import pytest

import asmpg
from asmpg.core.files import StorageError
from asmpg.tasks.environment import random_episodes


def arrays(num_episodes=3, horizon=5, observation=2, action=1, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(num_episodes, horizon + 1, observation)),
        "actions": rng.uniform(-1, 1, (num_episodes, horizon, action)),
        "rewards": rng.normal(size=(num_episodes, horizon)),
    }


def equal(one, other):
    keys = ("observations", "actions", "rewards", "lengths", "action_low", "action_high")
    return all(np.array_equal(getattr(one, key), getattr(other, key)) for key in keys)


def refusal(path, **options):
    with pytest.raises(asmpg.UsageError) as caught:
        asmpg.load_episodes(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def write_npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
    return path


def test_an_early_end_is_padded_whatever_stood_there():
    given = arrays()
    for key in ("observations", "actions", "rewards"):
        given[key][1, 3 + (key == "observations") :] = np.nan
    data = asmpg.Episodes(**given, lengths=[5, 3, 5])
    assert (data.observations[1, 3:] == given["observations"][1, 3]).all()
    assert (data.rewards[1, 3:] == 0).all()
    assert (data.actions[1, 3:] == 0).all()
    assert data.alive.tolist() == [[True] * 6, [True] * 3 + [False] * 3, [True] * 6]
    trajectories = data.trajectories()
    assert trajectories.states.shape == (3, 6, 3)
    np.testing.assert_array_equal(trajectories.states[..., -1], data.alive)
    np.testing.assert_allclose(trajectories.episode_return, data.episode_returns, rtol=1e-5, atol=1e-6)


def test_without_an_early_end_networks_see_what_was_recorded():
    env = asmpg.make("harvest", horizon=4)
    recorded = random_episodes(env, 3, key=jax.random.key(0))
    data = asmpg.Episodes(recorded.states, recorded.actions, recorded.rewards)
    for mine, theirs in zip(jax.tree.leaves(data.trajectories()), jax.tree.leaves(recorded), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    known = data.recording
    assert (known.state_size, known.action_size, known.horizon) == (env.state_size, env.action_size, 4)


def test_actions_are_mapped_from_their_own_range():
    given = arrays()
    low, high = np.array([2.0]), np.array([10.0])
    inner = (given["actions"] + 1) / 2 * (high - low) + low
    data = asmpg.Episodes(given["observations"], inner, given["rewards"], action_bounds=(2, 10))
    np.testing.assert_allclose(data.normalised_actions(), given["actions"], atol=1e-12)
    with pytest.raises(
        asmpg.UsageError, match=r"actions must be from -1 to 1, component 0 goes from .* action_bounds"
    ):
        asmpg.Episodes(given["observations"], inner, given["rewards"])


def test_they_are_immutable_and_no_view_of_what_was_given():
    given = arrays()
    data = asmpg.Episodes(**given)
    before = data.rewards.copy()
    given["rewards"][:] = 7
    np.testing.assert_array_equal(data.rewards, before)
    with pytest.raises(ValueError, match="read-only"):
        data.rewards[0] = 1
    with pytest.raises(AttributeError):
        data.rewards = before  # type: ignore[misc]


def test_a_split_is_a_partition_and_depends_on_the_seed_alone():
    data = asmpg.Episodes(**arrays(num_episodes=10))
    fitted, held_out = data.split(3, seed=1)
    assert (len(fitted), len(held_out)) == (7, 3)
    rows = {tuple(row) for part in (fitted, held_out) for row in part.rewards}
    assert rows == {tuple(row) for row in data.rewards}
    assert equal(held_out, data.split(3, seed=1)[1])
    assert not equal(held_out, data.split(3, seed=2)[1])


def test_cutting_keeps_what_ended_before():
    data = asmpg.Episodes(**arrays(), lengths=[5, 2, 4])
    cut = data.first_steps(3)
    assert cut.lengths.tolist() == [3, 2, 3]
    np.testing.assert_array_equal(cut.observations, data.observations[:, :4])
    with pytest.raises(asmpg.UsageError, match="horizon"):
        data.first_steps(6)


WRONG = {
    "observations must begin with": {"observations": np.zeros((3, 5, 2))},
    "actions must begin with": {"actions": np.zeros((2, 5, 1))},
    "rewards must have 2 axes": {"rewards": np.zeros(5)},
    "observations must hold numbers": {"observations": np.full((3, 6, 2), "a")},
    "actions is empty": {"actions": np.zeros((3, 5, 0))},
    "observations is ragged": {"observations": [[[1.0], [2.0, 3.0]]]},
    "rewards must be finite": {"rewards": np.full((3, 5), np.nan)},
    "observations must be finite in single precision, got 1e\\+300": {
        "observations": np.full((3, 6, 2), 1e300)
    },
    "lengths must be 3 integers": {"lengths": [5.0, 5.0, 5.0]},
    "lengths must be from 1 to 5": {"lengths": [5, 6, 5]},
    "action_bounds must be finite": {"action_bounds": (1, 1)},
    "action_bounds must be \\(low": {"action_bounds": (0, [1, 2, 3])},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_set_of_episodes_is_refused(message):
    with pytest.raises(asmpg.UsageError, match=f"^data: log: {message}") as caught:
        asmpg.Episodes(**(arrays() | WRONG[message]), name="log")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_file_gives_back_what_was_saved(tmp_path, suffix):
    given = arrays(action=2)
    given["actions"] = given["actions"] * [1, 3] + [0, 5]
    data = asmpg.Episodes(**given, lengths=[5, 2, 5], action_bounds=([-1, 2], [1, 8]))
    path = tmp_path / f"log.{suffix}"
    asmpg.save_episodes(path, data)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    read = asmpg.load_episodes(path)
    assert equal(read, data)
    assert read.name == path.name
    assert equal(asmpg.load_episodes(str(path), horizon=3), data.first_steps(3))


def test_a_minari_data_set_gives_back_what_was_saved(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = asmpg.Episodes(**arrays(), lengths=[5, 2, 5], action_bounds=(-2, 2))
    asmpg.save_episodes("plant/log-v0", data)
    read = asmpg.load_episodes("plant/log-v0")
    np.testing.assert_allclose(read.observations, data.observations, rtol=1e-6)
    np.testing.assert_allclose(read.rewards, data.rewards, rtol=1e-6)
    assert read.lengths.tolist() == [5, 2, 5]
    assert (read.action_low, read.action_high) == (-2, 2)
    with pytest.raises(asmpg.UsageError, match="no Minari data set plant/other-v0"):
        asmpg.load_episodes("plant/other-v0")
    with pytest.raises(asmpg.UsageError, match="Minari cannot make"):
        asmpg.save_episodes("plant/log-v0", data)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    for suffix in ("npz", "parquet"):
        path = tmp_path / f"log.{suffix}"
        asmpg.save_episodes(path, asmpg.Episodes(**arrays()))
        whole = path.read_bytes()
        for share in (0.0, 0.1, 0.5, 0.9, 0.999):
            path.write_bytes(whole[: int(share * len(whole))])
            assert f"not a whole .{suffix} file" in refusal(path)


def test_a_changed_byte_is_found(tmp_path):
    path = tmp_path / "log.npz"
    asmpg.save_episodes(path, asmpg.Episodes(**arrays()))
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("rewards.npy")
    middle = info.header_offset + 60 + info.compress_size // 2
    whole[middle] ^= 0xFF
    path.write_bytes(whole)
    assert "rewards" in refusal(path)


def test_pickled_objects_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    members = {key: npy(value) for key, value in arrays().items()}
    members["rewards"] = npy(np.array([Bomb()], dtype=object))
    path = write_npz(tmp_path / "log.npz", members)
    assert "rewards holds Python objects, which are never loaded" in refusal(path)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path):
    members = {key: npy(value) for key, value in arrays().items()}
    bomb = write_npz(
        tmp_path / "bomb.npz", members | {"observations": npy(np.zeros((4, 5, 2))) + bytes(2**28)}
    )
    assert "observations says it unpacks to" in refusal(bomb)
    header = npy(np.zeros(1))[:-8].replace(b"(1,), ", b"(9999999999,), ")
    lying = write_npz(tmp_path / "lying.npz", members | {"rewards": header})
    assert "rewards" in refusal(lying)


def test_what_is_missing_is_named(tmp_path):
    members = {key: npy(value) for key, value in arrays().items()}
    del members["actions"]
    path = write_npz(tmp_path / "log.npz", members)
    assert "has no key 'actions', it has observations, rewards" in refusal(path)
    assert "there is no file" in refusal(tmp_path / "none.npz")
    assert "must be FILE.npz, FILE.parquet, or a Minari data set" in refusal(tmp_path / "log.csv")
    with pytest.raises(StorageError, match="cannot write"):
        asmpg.save_episodes(tmp_path / "no" / "folder.npz", asmpg.Episodes(**arrays()))


def table(path, **changes):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {
        "episode": [0, 0, 0, 0, 7, 7, 7],
        "step": [0, 1, 2, 3, 0, 1, 2],
        "observation": [[float(i)] for i in range(7)],
        "action": [[0.1], [0.2], [0.3], None, [0.4], [0.5], None],
        "reward": [1.0, 2.0, 3.0, None, 4.0, 5.0, None],
        "terminated": [False, False, False, False, False, False, True],
    } | changes
    parquet.write_table(pyarrow.table({key: value for key, value in rows.items() if value is not None}), path)
    return path


def test_rows_in_any_order_make_episodes(tmp_path):
    data = asmpg.load_episodes(table(tmp_path / "log.parquet"))
    assert data.lengths.tolist() == [3, 2]
    assert data.rewards.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert data.observations[1, :, 0].tolist() == [4, 5, 6, 6]


def test_a_table_that_does_not_hold_episodes_is_refused(tmp_path):
    path = tmp_path / "log.parquet"
    assert "has no column 'reward'" in refusal(table(path, reward=None))
    without_end = table(path, terminated=None)
    assert "stops after 2 of 3 steps without having ended (terminated); horizon=2 cuts" in refusal(
        without_end
    )
    assert len(asmpg.load_episodes(without_end, horizon=2)) == 2
    assert "episode 7: step must count" in refusal(table(path, step=[0, 1, 2, 3, 0, 2, 3]))
    assert "episode 0: reward must be there" in refusal(
        table(path, reward=[1.0, None, 3.0, None, 4.0, 5.0, None])
    )
    ragged = [[1.0], [1.0], [1.0, 2.0], [1.0], [1.0], [1.0], [1.0]]
    assert "episode 0: observation is ragged" in refusal(table(path, observation=ragged))
    other_size = [[1.0]] * 4 + [[1.0, 2.0]] * 3
    assert "observation and action are ragged" in refusal(table(path, observation=other_size))
    words = ["a", "b", "c", None, "d", "e", None]
    assert "action is ragged or holds something else" in refusal(table(path, action=words))
