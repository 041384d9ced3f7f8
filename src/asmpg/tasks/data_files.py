"""Recorded episodes in files: `.npz`, `.parquet`, Minari data sets. Nothing that a file holds is ever executed."""

import io
import json
import pathlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import files
from ..core.arguments import a_path, of, takes
from ..core.extras import require
from ..core.types import Given, one_line, UsageError
from .data import Episodes


# A file that says it unpacks to more than this, and to more than so many times its own size, is no log of episodes.
_LARGE_BYTES = 2**28
_LARGEST_RATIO = 200
_REQUIRED = ("observations", "actions", "rewards")
_OPTIONAL = ("lengths", "action_low", "action_high")
# What reading a damaged archive was seen to raise.
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
_MINARI_NAME = re.compile(r"[\w./-]+-v\d+")
_FORMATS = "FILE.npz, FILE.parquet, or a Minari data set such as pendulum/random-v0"


@takes(source=a_path)
def load_episodes(
    source: Given[str | pathlib.Path],
    *,
    horizon: int | None = None,
    action_bounds: tuple[Any, Any] | None = None,
) -> Episodes:
    """Reads recorded episodes.

    A `.npz` file holds `observations` [episodes, horizon + 1, size], `actions` [episodes, horizon, size], `rewards`
    [episodes, horizon] and, where some ended early, `lengths` [episodes]. A `.parquet` file has one row a step with the
    columns `episode`, `step`, `observation`, `action`, `reward` and, where lengths differ, `terminated`; the last row
    of an episode has the last observation and no action and no reward.

    Args:
        source: the file, or the name of a Minari data set on this machine (extra `minari`).
        horizon: cuts longer episodes after so many steps; by default the longest one's length.
        action_bounds: lower and upper bounds of the actions, one number or one a component; by default those that the
            file names, else -1 and 1.

    Raises:
        UsageError: one line that names the file and what in it is missing, damaged, of wrong sizes or not finite.
    """
    path = pathlib.Path(source)
    if path.suffix == ".npz":
        arrays = _read_npz(path)
    elif path.suffix == ".parquet":
        arrays = _read_parquet(path, horizon)
    elif _MINARI_NAME.fullmatch(str(source)):
        arrays = _read_minari(str(source), horizon)
    else:
        raise UsageError(f"data: {str(source)!r} must be {_FORMATS}")
    if action_bounds is None and "action_low" in arrays and "action_high" in arrays:
        action_bounds = (arrays["action_low"], arrays["action_high"])
    given = [arrays.get(key) for key in (*_REQUIRED, "lengths")]
    episodes = Episodes(*given, action_bounds=action_bounds, name=path.name)
    return episodes if horizon is None else episodes.first_steps(horizon)


@takes(target=a_path, episodes=of(Episodes))
def save_episodes(target: Given[str | pathlib.Path], episodes: Given[Episodes]) -> None:
    """Writes recorded episodes in one of the formats that `load_episodes` reads, whole or not at all.

    Args:
        target: the file, or the name of a Minari data set to be made on this machine (extra `minari`).
        episodes: what to write.

    Raises:
        UsageError: an unknown format, or a data set that Minari cannot make, such as one that is there already.
        StorageError: the disk refused.
    """
    path = pathlib.Path(target)
    if episodes.context:
        raise UsageError(
            f"episodes: {episodes.name} has a context, which a file does not keep; save it without one"
        )
    if path.suffix == ".npz":
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **_arrays(episodes))
        files.write(path, content.getvalue())
    elif path.suffix == ".parquet":
        files.write(path, _parquet_bytes(episodes))
    elif _MINARI_NAME.fullmatch(str(target)):
        _write_minari(str(target), episodes)
    else:
        raise UsageError(f"data: {str(target)!r} must be {_FORMATS}")


def _arrays(episodes: Episodes) -> dict[str, np.ndarray]:
    return {key: getattr(episodes, key) for key in (*_REQUIRED, *_OPTIONAL)}


def _check_unpacked(path: pathlib.Path, what: str, unpacked: int) -> None:
    stored = path.stat().st_size
    if unpacked > _LARGE_BYTES and unpacked > _LARGEST_RATIO * stored:
        raise UsageError(
            f"data: {path}: {what} says it unpacks to {unpacked:,} bytes from a file of {stored:,}: refused"
        )


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [key for key in _REQUIRED if key not in members]
            if missing:
                known = ", ".join(members) or "nothing"
                raise UsageError(f"data: {path} has no key {missing[0]!r}, it has {known}")
            return {
                key: _read_member(path, archive, members[key], key)
                for key in (*_REQUIRED, *_OPTIONAL)
                if key in members
            }
    except FileNotFoundError as error:
        raise UsageError(f"data: there is no file {path}") from error
    except UsageError:
        raise
    except _DAMAGED as error:
        raise UsageError(f"data: {path} is not a whole .npz file: {one_line(error)}") from error


def _read_member(path: pathlib.Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> np.ndarray:
    """One array. Its header is read first, since reading makes room for as many numbers as the header claims."""
    _check_unpacked(path, key, info.file_size)
    try:
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
            claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.hasobject:
                raise UsageError(f"data: {path}: {key} holds Python objects, which are never loaded")
            if claimed != info.file_size - file.tell():
                held = info.file_size - file.tell()
                raise UsageError(
                    f"data: {path}: {key} claims {claimed:,} bytes of numbers and holds {held:,}"
                )
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except UsageError:
        raise
    except (*_DAMAGED, KeyError, SyntaxError) as error:
        raise UsageError(f"data: {path}: {key} cannot be read: {one_line(error)}") from error


def _parquet_bytes(episodes: Episodes) -> bytes:
    """One row a step; an episode's last row has no action and no reward."""
    arrow, parquet = _arrow()
    rows: dict[str, list[Any]] = {
        key: [] for key in ("episode", "step", "observation", "action", "reward", "terminated")
    }
    for index, length in enumerate(episodes.lengths):
        rows["episode"] += [index] * (length + 1)
        rows["step"] += range(length + 1)
        rows["observation"] += list(episodes.observations[index, : length + 1])
        rows["action"] += [*episodes.actions[index, :length], None]
        rows["reward"] += [*episodes.rewards[index, :length], None]
        rows["terminated"] += [False] * length + [bool(length < episodes.horizon)]
    bounds = {key: getattr(episodes, key).tolist() for key in ("action_low", "action_high")}
    table = arrow.table(rows).replace_schema_metadata({"asmpg": json.dumps(bounds)})
    content = io.BytesIO()
    parquet.write_table(table, content)
    return content.getvalue()


def _read_parquet(path: pathlib.Path, horizon: int | None) -> dict[str, np.ndarray]:
    arrow, parquet = _arrow()
    try:
        file = parquet.ParquetFile(path)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        _check_unpacked(path, "the table", sum(group.total_byte_size for group in groups))
        names = file.schema_arrow.names
        columns = ["episode", "step", "observation", "action", "reward"]
        missing = [name for name in columns if name not in names]
        if missing:
            raise UsageError(f"data: {path} has no column {missing[0]!r}, it has {', '.join(names)}")
        columns += ["terminated"] if "terminated" in names else []
        table = file.read(columns=columns, use_threads=False)
        bounds = _parquet_bounds(path, file.schema_arrow.metadata or {})
    except FileNotFoundError as error:
        raise UsageError(f"data: there is no file {path}") from error
    except (arrow.ArrowException, OSError) as error:
        raise UsageError(f"data: {path} is not a whole .parquet file: {one_line(error)}") from error
    return _pad(path.name, _from_table(path, table), horizon) | bounds


def _parquet_bounds(path: pathlib.Path, metadata: Mapping[bytes, bytes]) -> dict[str, np.ndarray]:
    try:
        stored = json.loads(metadata.get(b"asmpg", b"{}"))
        return {key: np.asarray(stored[key], float) for key in ("action_low", "action_high") if key in stored}
    except (ValueError, TypeError) as error:
        raise UsageError(f"data: {path}: its metadata cannot be read: {one_line(error)}") from error


def _from_table(path: pathlib.Path, table: Any) -> list["_Recorded"]:
    """The rows, episode by episode."""
    rows = table.sort_by([("episode", "ascending"), ("step", "ascending")]).to_pydict()
    numbers = {key: np.asarray(rows[key]) for key in ("episode", "step")}
    for key, values in numbers.items():
        if values.dtype.kind not in "iu" or not len(values):
            raise UsageError(f"data: {path}: {key} must be whole numbers, one a row")
    first = np.flatnonzero(np.diff(numbers["episode"], prepend=numbers["episode"][0] - 1))
    return [
        _one_of_table(path, {key: values[a:b] for key, values in rows.items()})
        for a, b in zip(first, [*first[1:], len(numbers["episode"])], strict=True)
    ]


def _one_of_table(path: pathlib.Path, rows: dict[str, list[Any]]) -> "_Recorded":
    where = f"data: {path}: episode {rows['episode'][0]}"
    if rows["step"] != list(range(len(rows["step"]))):
        raise UsageError(f"{where}: step must count 0, 1, 2, ... without a gap")
    for key in ("action", "reward"):
        if rows[key][-1] is not None or None in rows[key][:-1]:
            raise UsageError(f"{where}: {key} must be there in every row but the last")
    ended = bool(rows["terminated"][-1]) if "terminated" in rows else None
    return _Recorded(where, rows["observation"], rows["action"][:-1], rows["reward"][:-1], ended)


class _Recorded:
    """One episode of any length, and whether it ended by itself; None where that was not recorded."""

    def __init__(
        self, where: str, observations: object, actions: object, rewards: object, ended: bool | None
    ):
        def array(key: str, value: object, ndim: int) -> np.ndarray:
            try:
                found = np.asarray(value)
            except ValueError as error:
                raise UsageError(f"{where}: {key} is ragged") from error
            if found.ndim != ndim or found.dtype.kind not in "biuf":
                raise UsageError(f"{where}: {key} is ragged or holds something else than numbers")
            return found

        self.where, self.ended = where, ended
        self.observations = array("observation", observations, 2)
        self.actions = array("action", actions, 2)
        self.rewards = array("reward", rewards, 1)

    def __len__(self) -> int:
        return len(self.rewards)


def _pad(name: str, recorded: Sequence[_Recorded], horizon: int | None) -> dict[str, np.ndarray]:
    """One array a kind. Only an episode that ended by itself can be padded: how a cut one went on is unknown."""
    longest = max(len(episode) for episode in recorded) if horizon is None else horizon
    for episode in recorded:
        if len(episode) < longest and not episode.ended:
            shortest = min(len(other) for other in recorded if not other.ended)
            raise UsageError(
                f"{episode.where} stops after {len(episode)} of {longest} steps without having ended (terminated); "
                f"horizon={shortest} cuts all of them"
            )
    sizes = {(episode.observations.shape[1], episode.actions.shape[1]) for episode in recorded}
    if len(sizes) > 1:
        raise UsageError(
            f"data: {name}: observation and action are ragged, their sizes are {', '.join(map(str, sorted(sizes)))}"
        )

    def stacked(key: str, length: int) -> np.ndarray:
        arrays = [getattr(episode, key)[:length] for episode in recorded]
        return np.stack([np.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in arrays])

    return {
        "observations": stacked("observations", longest + 1),
        "actions": stacked("actions", longest),
        "rewards": stacked("rewards", longest),
        "lengths": np.array([min(len(episode), longest) for episode in recorded]),
    }


def _read_minari(name: str, horizon: int | None) -> dict[str, np.ndarray]:
    minari, spaces = _minari()
    try:
        found = minari.load_dataset(name)
    except Exception as error:  # whatever its storage raises, the message names the data set
        raise UsageError(f"data: no Minari data set {name} can be read here: {one_line(error)}") from error
    if not isinstance(found.action_space, spaces.Box):
        raise UsageError(f"data: {name}: actions must be of a Box space, they are of {found.action_space}")

    def flat(space: Any, values: Any, length: int) -> np.ndarray:
        """One vector a step, from arrays or from dicts and tuples of arrays."""
        if isinstance(space, spaces.Dict):
            return np.concatenate([flat(space[key], values[key], length) for key in space], axis=1)
        if isinstance(space, spaces.Tuple):
            return np.concatenate([flat(s, v, length) for s, v in zip(space, values, strict=True)], axis=1)
        return np.asarray(values).reshape(length, -1)

    recorded = []
    for index, episode in enumerate(found.iterate_episodes()):
        length = len(episode.rewards)
        observations = flat(found.observation_space, episode.observations, length + 1)
        actions = flat(found.action_space, episode.actions, length)
        ended = bool(np.asarray(episode.terminations)[-1])
        recorded.append(
            _Recorded(f"data: {name}: episode {index}", observations, actions, episode.rewards, ended)
        )
    if not recorded:
        raise UsageError(f"data: {name} has no episode")
    low, high = (np.ravel(bound).astype(float) for bound in (found.action_space.low, found.action_space.high))
    bounds = {"action_low": low, "action_high": high} if np.isfinite([low, high]).all() else {}
    return _pad(name, recorded, horizon) | bounds


def _write_minari(name: str, episodes: Episodes) -> None:
    minari, spaces = _minari()
    buffers = []
    for index, length in enumerate(episodes.lengths):
        ended = np.zeros(length, bool)
        ended[-1] = length < episodes.horizon
        cut = np.zeros(length, bool)
        cut[-1] = not ended[-1]
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=index,
                observations=episodes.observations[index, : length + 1],
                actions=episodes.actions[index, :length],
                rewards=list(episodes.rewards[index, :length]),
                terminations=list(ended),
                truncations=list(cut),
            )
        )
    observation, action = episodes.observations, episodes.actions
    try:
        with warnings.catch_warnings():  # authors and links are for those who publish a data set
            warnings.simplefilter("ignore", UserWarning)
            minari.create_dataset_from_buffers(
                name,
                buffers,
                observation_space=spaces.Box(-np.inf, np.inf, observation.shape[2:], observation.dtype),
                action_space=spaces.Box(episodes.action_low, episodes.action_high, dtype=action.dtype.type),
            )
    except Exception as error:
        raise UsageError(f"data: Minari cannot make {name}: {one_line(error)}") from error


def _arrow() -> tuple[Any, Any]:
    return tuple(require(module, "experiments", "data") for module in ("pyarrow", "pyarrow.parquet"))


def _minari() -> tuple[Any, Any]:
    return tuple(require(module, "minari", "data") for module in ("minari", "gymnasium.spaces"))
