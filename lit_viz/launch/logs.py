"""The loggers of a run folder: during a run, and replayed from the folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pytorch_lightning.loggers import Logger

from lit_viz.callbacks.logging import FolderLogger, LoggerThread, complete_mark
from lit_viz.errors import LitVizError, first_line
from lit_viz.launch.options import RunOptions
from lit_viz.loggers import LOGGERS, adapter, logger_names
from lit_viz.loggers.base import LoggerSettings
from lit_viz.loggers.rows import FolderRows
from lit_viz.presentations import Presentation, stored_presentation
from lit_viz.runs import run_lock
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.verification import verify
from lit_viz.utils.formatting import Notify, command_line


def open_loggers(
    folder: FolderStorage, names: Sequence[str], options: RunOptions, presentation: Presentation, notify: Notify
) -> FolderLogger:
    """Return the callback that logs a run folder; a logger that cannot be opened is left out.

    Args:
        folder: run folder.
        names: loggers that are given by name.
        options: settings of these loggers, and loggers of Lightning.
        presentation: presentation of the outcomes.
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
    return FolderLogger(FolderRows(folder, presentation), threads)


def incomplete_loggers(folder: FolderStorage, names: Sequence[str]) -> list[str]:
    """Return the loggers that lack the end of a finished run."""
    return [name for name in names if (folder.path / name).is_dir() and not complete_mark(folder, name).exists()]


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
    if not isinstance(to, (str, Logger, list, tuple)):
        raise LitVizError(f"to must be a logger, the name of one, or a list of them, got {to!r}")
    folder = FolderStorage.open(path)
    presentation = stored_presentation(folder)
    requested = [to] if isinstance(to, (str, Logger)) else to
    adapters = [adapter(logger, "iteration") for logger in requested if isinstance(logger, Logger)]
    names = logger_names([name for word in requested if isinstance(word, str) for name in word.split(",")])
    if not (names or adapters):
        raise LitVizError(f"to must name a logger, got {to!r}: choose from {', '.join(LOGGERS)}")
    with run_lock(folder.path):
        damaged = verify(folder, notify)
        if damaged:
            remedy = f"{command_line('resume', folder.path)} draws it again"
            raise LitVizError(f"{folder.path / damaged[0]} is missing or was changed: {remedy}")
        rows = FolderRows(folder, presentation)
        results = rows.results()
        for logs in adapters:
            logs.log_hyperparameters(rows.hyperparameters())
            for row in rows.all():
                row(logs)
            logs.log_results(results)
            logs.log_summary(results)
            logs.logger.finalize("success")
        log = open_loggers(folder, names, RunOptions(logger=(), logger_settings=settings), presentation, notify)
        log.finish()
    logged = {thread.name: thread.adapter.place for thread in log.threads if not thread.failed}
    missing = [LOGGERS[name].title for name in names if name not in logged]
    if missing:
        raise LitVizError(f"{path} was not logged to {', '.join(missing)}")
    return [*(logs.place for logs in adapters), *logged.values()]
