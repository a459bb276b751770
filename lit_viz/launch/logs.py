"""The loggers of a run folder: during a run, and replayed from the folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pytorch_lightning.loggers import Logger

from lit_viz.callbacks.logging import FolderLogger, LoggerThread, complete_mark
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, first_line
from lit_viz.launch.options import RunOptions
from lit_viz.loggers import LOGGERS, adapter, logger_names
from lit_viz.loggers.base import ImageAdapter, LoggerSettings
from lit_viz.loggers.rows import FolderRows
from lit_viz.presentations import stored_method
from lit_viz.runs.access import run_lock
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.tar_store import open_run
from lit_viz.runs.verification import verify
from lit_viz.utils.formatting import Notify, command_line


def open_loggers(
    folder: FolderStorage, names: Sequence[str], options: RunOptions, method: type[ImageTraining], notify: Notify
) -> FolderLogger:
    """Return the callback that logs a run folder; a logger that cannot be opened is omitted.

    Args:
        folder: run folder.
        names: loggers that are given by name.
        options: settings of these loggers, and loggers of Lightning.
        method: method of the run.
        notify: receives lines about errors.
    """
    threads = []
    for name in names:
        try:
            opened = import_module(f"lit_viz.loggers.{name}").open_adapter(folder, options.logger_settings, notify)
        except Exception as error:  # logging must not stop the run
            notify(f"{LOGGERS[name].title} is off: {first_line(error)}")
            continue
        if opened is not None:
            threads.append(LoggerThread(name, opened, folder, notify))
    for logger in options.own_loggers:
        threads.append(LoggerThread(type(logger).__name__, adapter(logger, "iteration"), folder, notify))
    return FolderLogger(FolderRows(folder, method), threads)


def incomplete_loggers(folder: FolderStorage, names: Sequence[str]) -> list[str]:
    """Return the loggers that lack the end of a finished run."""
    incomplete: list[str] = []
    for name in names:
        is_started = (folder.path / name).is_dir()
        if is_started and not complete_mark(folder, name).exists():
            incomplete.append(name)
    return incomplete


def log_run(
    path: str | Path, to: str | Logger | Sequence[str | Logger], settings: LoggerSettings, notify: Notify
) -> list[str]:
    """Log a run folder to loggers, and return the location of each run.

    Args:
        path: run folder.
        to: names of loggers, ``wandb,tensorboard`` or a list, or loggers of Lightning, which receive all rows.
        settings: settings of the loggers that are given by name.
        notify: receives lines about errors.

    Raises:
        LitVizError: the folder is not a run, is in use, is not complete or was changed, there is no such logger, or a
            logger fails.
    """
    requested = RunOptions(logger=to, logging=settings)
    names = logger_names(requested.given_names)
    if not (names or requested.own_loggers):
        raise LitVizError(f"to must name a logger, got {to!r}: choose from {', '.join(LOGGERS)}")
    folder = open_run(path)
    method = stored_method(folder)
    adapters: list[ImageAdapter] = []
    for logger in requested.own_loggers:
        adapters.append(adapter(logger, "iteration"))
    with run_lock(folder.path):
        damaged = verify(folder)
        if damaged:
            remedy = f"{command_line('resume', folder.path)} draws it again"
            raise LitVizError(f"{folder.path / damaged[0]} is missing or was changed: {remedy}")
        rows = FolderRows(folder, method)
        for logs in adapters:
            _replay(rows, logs)
        log = open_loggers(folder, names, RunOptions(logger=(), logging=settings), method, notify)
        log.finish()
    places: list[str] = []
    for logs in adapters:
        places.append(logs.place)
    missing = {name: LOGGERS[name].title for name in names}
    for thread in log.threads:
        if not thread.failed:
            missing.pop(thread.name)
            places.append(thread.adapter.place)
    if missing:
        raise LitVizError(
            f"{path} was not logged to {', '.join(missing.values())}: see the lines above, and log it again"
        )
    return places


def _replay(rows: FolderRows, logs: ImageAdapter) -> None:
    """Log all rows and the results to a logger of Lightning."""
    logs.log_hyperparameters(rows.hyperparameters())
    for row in rows.all():
        row(logs)
    results = rows.results()
    logs.log_results(results)
    logs.log_summary(results)
    logs.logger.finalize("success")
