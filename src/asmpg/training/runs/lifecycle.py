"""Training from a configuration, and the runs it leaves: `train`, `resume`, `load`."""

import dataclasses
import json
import pathlib
import platform
from collections.abc import Callable, Sequence
from importlib import metadata

import jax

from ...core.arguments import a_path, takes
from ...core.checks import check_integer
from ...core.files import DamagedError, from_lines
from ...core.hardware import hardware
from ...core.precision import using
from ...core.types import Given, UsageError
from ...tasks.data import Episodes
from ...tasks.recording import Recording
from ...tasks.world import World
from ..callbacks import Callback
from ..choice import AUTO, choose_model
from ..config import TrainConfig
from ..methods import ModelLike
from ..own import Optimizer
from ..stored_config import to_json
from . import folder as files
from . import plots
from .checkpoint import Checkpoint
from .folder import RunFolder
from .progress import Progress, ProgressCallback, reporting
from .results import Result
from .session import Session
from .stored import configuration, difference, read, Stored


def train(
    config: TrainConfig, progress: bool | ProgressCallback = False, *, callbacks: Sequence[Callback] = ()
) -> Result:
    """Trains a policy.

    Nothing is written unless `config.out` is given. If that folder holds a run of the same configuration, the run is
    taken up where it stopped, and if it is finished its result is returned.

    Args:
        config: the run.
        progress: True shows a bar, or lines in a pipe, on standard error; a function is told instead.
        callbacks: are told of every record, and may stop the run.

    Raises:
        UsageError: a value in the configuration is not allowed, or `out` cannot be used. Nothing was written.
        StorageError: the disk refused in the middle of the run.
    """
    with reporting(progress) as report:
        config = settle_model(config, report).checked()
        return start(config, report, callbacks=callbacks)


def settle_model(config: TrainConfig, report: ProgressCallback) -> TrainConfig:
    """The configuration with a model in place of "auto"; any other as it is.

    Raises:
        UsageError: some other value of the configuration is not allowed.
    """
    if config.model != AUTO:
        return config
    report(Progress("starting", "choosing between one-step and action-sequence model"))
    choice = choose_model(config)
    report(Progress("starting", f"{choice.model}: {choice.reason}"))
    return dataclasses.replace(config, model=choice.model)


@takes(path=a_path)
def resume(
    path: Given[str | pathlib.Path],
    *,
    steps: int | None = None,
    task: str | World | None = None,
    model: ModelLike | None = None,
    optimizer: str | Optimizer | None = None,
    data: Episodes | str | pathlib.Path | None = None,
    progress: bool | ProgressCallback = False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Takes up a run where it stopped, bit for bit as if it never had.

    Args:
        path: the run folder.
        steps: environment steps in all, to extend a run.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: the model or learner again, where it is of the user's own: `FILE.py:NAME` or an object.
        optimizer: the optimiser again, where there is one of the user's own.
        data: the recorded episodes again, where it began with some.
        progress: as for `train`.
        callbacks: as for `train`.

    Raises:
        UsageError: this is not a run, or nothing in it can be used.
        StorageError: the disk refused in the middle of the run.
    """
    with reporting(progress) as report:
        own = {"task": task, "model": model, "optimizer": optimizer, "data": data}
        return take_up(path, report, steps=steps, **own, callbacks=callbacks)


@takes(path=a_path)
def load(
    path: Given[str | pathlib.Path],
    *,
    task: str | World | None = None,
    model: ModelLike | None = None,
    optimizer: str | Optimizer | None = None,
) -> Result:
    """Reads a run folder, as of its last whole checkpoint. Executes nothing that is stored in it.

    Args:
        path: the run folder.
        task: the task again, where it is one of the user's own: `FILE.py:NAME` or an environment.
        model: the model or learner again, where it is of the user's own: `FILE.py:NAME` or an object.
        optimizer: the optimiser again, where there is one of the user's own.

    Raises:
        UsageError: this is not a run, it has no whole checkpoint, or what is the user's own is missing or another.
    """
    folder = RunFolder(path)
    stored = read(folder)
    if not stored.checkpoints:
        raise UsageError(f"run: {path} has no checkpoint yet")
    config = configuration(stored.content, folder, task, model, optimizer)
    # A run that is being written has more lines than its checkpoint.
    if not folder.read(files.METRICS).startswith(stored.checkpoints[0].records):
        folder.warn(f"{files.METRICS} was cut off or edited; the checkpoint's copy of it is taken")
    with using(config.precision):
        session = Session(config, lambda progress: None, folder)
        _restore(session, stored.checkpoints[0], to_go_on=False)
        return session.result()


def start(
    config: TrainConfig,
    report: ProgressCallback,
    stop: Callable[[], bool] = lambda: False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """`train` for a checked configuration, with a way to stop: `stop()` is asked after every record."""
    with using(config.precision):
        if config.out is not None:
            return _start_in(RunFolder(config.out), config, report, stop, callbacks)
        session = Session(config, report)
        session.drive(stop, callbacks)
        return _report_done(session.result(), session, report)


def _start_in(
    folder: RunFolder,
    config: TrainConfig,
    report: ProgressCallback,
    stop: Callable[[], bool],
    callbacks: Sequence[Callback],
) -> Result:
    """Begins a run in a folder, or goes on with the one that is there."""
    if not folder.is_run():
        folder.check_usable()
        folder.make()
    with folder.writing():
        if not folder.is_run():
            content = to_json(config)
            folder.write_config(content, versions())
            return _drive(Session(config, report, folder, content), folder, report, stop, callbacks)
        stored = read(folder)
        content = to_json(config)
        name = difference(stored.content, content)
        if name is not None:
            was, now = ({**old, **old["settings"]}.get(name) for old in (stored.content, content))
            code = name.endswith("_source")
            what = f"code or a parameter of the {name[:-7]}" if code else f"{name} is {was!r}, not {now!r}"
            what = "other recorded episodes" if name == "data" else what
            raise UsageError(
                f"out: {folder.path} is a run with another configuration ({what}); "
                "give another --out, or go on with that run by --resume"
            )
        return _continue(config, folder, stored, report, stop, callbacks)


def take_up(  # noqa: PLR0913 (a keyword each)
    path: str | pathlib.Path,
    report: ProgressCallback,
    *,
    steps: int | None = None,
    task: str | World | None = None,
    model: ModelLike | None = None,
    optimizer: str | Optimizer | None = None,
    data: Episodes | str | pathlib.Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """`resume` with a way to stop."""
    folder = RunFolder(path)
    if not folder.is_run():
        raise UsageError(f"resume: {folder.refusal()}")
    with folder.writing():
        stored = read(folder)
        config = configuration(stored.content, folder, task, model, optimizer, data)
        if isinstance(config.data, Recording):
            raise UsageError(
                f"data: the run began with the recorded episodes {config.data.name}, which are not stored in it; "
                "give them again: --data FILE, or resume(path, data=...)"
            )
        if steps is not None:
            check_integer("steps", steps, 1)
            config = dataclasses.replace(config, steps=steps).checked()
            stored = dataclasses.replace(stored, content=stored.content | {"steps": steps})
        with using(config.precision):
            return _continue(config, folder, stored, report, stop, callbacks)


def _continue(
    config: TrainConfig,
    folder: RunFolder,
    stored: Stored,
    report: ProgressCallback,
    stop: Callable[[], bool],
    callbacks: Sequence[Callback],
) -> Result:
    """Goes on with a run from the checkpoint that fits."""
    _refuse_without_checkpoint(folder, stored)
    session = Session(config, report, folder, stored.content)
    saved = _choose(session, stored.checkpoints, folder)
    if saved is not None:
        _restore(session, saved)
        report(Progress("starting", f"{folder.path} goes on from step {session.steps}"))
    try:
        current = folder.read_config()
    except DamagedError:
        current = None
    if current != stored.content:
        folder.write_config(stored.content, versions())
    if not session.finished:
        folder.remove(files.SUMMARY, files.CURVE)
    folder.go_back([one for one in stored.checkpoints if saved and one.meta["steps"] <= saved.meta["steps"]])
    return _drive(session, folder, report, stop, callbacks)


def _refuse_without_checkpoint(folder: RunFolder, stored: Stored) -> None:
    """Only a run that was killed before its first checkpoint may begin again: nothing is lost there."""
    num_records = len(from_lines(folder.read(files.METRICS)))
    finished = (folder.path / files.SUMMARY).exists()
    if not stored.checkpoints and (num_records > 1 or finished):
        raise UsageError(
            f"run: {folder.path} has {num_records} records but no checkpoint to go on from; "
            "give another --out, or remove the folder"
        )


def _choose(session: Session, checkpoints: list[Checkpoint], folder: RunFolder) -> Checkpoint | None:
    """The newest checkpoint from which the run goes on exactly like one that was meant to be this long all along.

    That is not always the newest: a shorter run ends with a shorter chunk, which a longer one would not have cut off
    there; and a run that was shorter than its warm-up has to begin again.
    """
    if not checkpoints:
        return None
    schedule, newest = session.trainer.schedule, checkpoints[0]
    if newest.meta["episodes"] > schedule.num_episodes:
        raise UsageError(
            f"steps: {folder.path} has done {newest.meta['steps']} already, got {session.config.steps}"
        )
    if newest.meta["warmup_episodes"] != schedule.warmup_episodes:
        folder.warn("it was shorter than its warm-up and begins again")
        return None

    def fits(saved: Checkpoint) -> bool:
        since_warmup = saved.meta["episodes"] - schedule.warmup_episodes
        return since_warmup % schedule.chunk_episodes == 0 or saved.meta["episodes"] == schedule.num_episodes

    return next(filter(fits, checkpoints), newest)


def _restore(session: Session, saved: Checkpoint, to_go_on: bool = True) -> None:
    try:
        session.restore(saved, to_go_on)
    except DamagedError as error:
        raise UsageError(f"run: checkpoint {saved.path} {error}") from error


def _drive(
    session: Session,
    folder: RunFolder,
    report: ProgressCallback,
    stop: Callable[[], bool],
    callbacks: Sequence[Callback],
) -> Result:
    """Trains, then has every file say what the last checkpoint says."""
    was_finished = session.finished
    session.drive(stop, callbacks)
    result = session.result()
    if result.finished:
        _write_curve(folder, result)
    summary = (json.dumps(result.summary(), indent=1, allow_nan=False) + "\n").encode()
    if folder.read(files.SUMMARY) != summary:
        folder.write(files.SUMMARY, summary)
    return _report_done(
        result, session, report, f"{folder.path} was finished already" if was_finished else ""
    )


def _report_done(result: Result, session: Session, report: ProgressCallback, message: str = "") -> Result:
    score = None if result.scores is None else float(result.scores.mean())
    total, mean = session.total_steps, float(result.returns.mean())
    report(Progress("done", message, result.steps, total, result.seconds, score=score, episode_return=mean))
    return result


def _write_curve(folder: RunFolder, result: Result) -> None:
    """The learning curve, unless it is there already; or a line that says why there is none."""
    mark = plots.mark(*result.curve())
    if plots.read_mark(folder.read(files.CURVE)) == mark:
        return
    try:
        picture = plots.learning_curve(*result.curve(), mark)
    except ImportError:
        folder.remove(files.CURVE)
        folder.warn(f"no {files.CURVE}, which needs matplotlib: pip install 'asmpg[plot]'")
        return
    folder.write(files.CURVE, picture)


def versions() -> dict[str, str]:
    """Of what a run was made with, and on what it was made."""
    try:
        own = metadata.version("asmpg")
    except metadata.PackageNotFoundError:
        own = "unknown"
    programs = {"asmpg": own, "jax": jax.__version__, "python": platform.python_version()}
    return programs | {"device": hardware()}
