"""Weights & Biases: images and metrics as rows, and tables, figures, summary and artifact of a run folder.

Runs are opened without prompts, in bounded time, with an offline fallback.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from pytorch_lightning.loggers import WandbLogger

from lit_viz.errors import first_line
from lit_viz.figures.layout import pixels
from lit_viz.loggers.base import (
    CaptionedImage,
    ImageAdapter,
    LoggerSettings,
    RunResults,
    WandbMode,
    stored_run_id,
)
from lit_viz.loggers.rows import task_curves
from lit_viz.presentations import EvidenceItem
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.task_files import top5_of
from lit_viz.types import Record
from lit_viz.utils.files import delete_entry, write_text
from lit_viz.utils.formatting import Notify, command_line
from lit_viz.utils.imports import required

with required("wandb 0.31"):
    import wandb
    from wandb.errors import AuthenticationError

T = TypeVar("T")

#: File of the id of the W&B run, relative to the run folder.
ID_FILE = "wandb/run_id.txt"

# Time limits of an opening. The server has 10 s. An offline run needs no server: on a busy machine, the imports of W&B
# and the start of its service take long.
_LOGIN_SECONDS = 4.0
_INIT_SECONDS = 6.0
_OFFLINE_SECONDS = 60.0
_RELEASE_SECONDS = 2.0
_OFFLINE_END_SECONDS = 15.0  # of the end of a run that sends nothing
# Intervals at which rows are written to the disk and sent; with W&B's default of 15 s a kill would lose too many.
_FLUSH_SECONDS = 0.5
_SEND_SECONDS = 3.0

_MODES: dict[str, WandbMode] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
# More images in a table make the page unusable in the browser; the artifact has all of them.
_MAX_IMAGES = 256


class WandbAdapter(ImageAdapter):
    """Adapter to ``WandbLogger``.

    Rows of another axis than the global step have its name as a key, which is the step metric of the other keys.
    """

    def __init__(self, logger: Any, axis: str | None = None) -> None:
        super().__init__(logger, axis)
        self._defined: set[str] = set()

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        row: dict[str, Any] = dict(metrics)
        for key, (image, caption) in images.items():
            row[key] = wandb.Image(image, caption=caption)
        self._log(row, step)

    def log_evidence(self, items: Sequence[EvidenceItem], step: int) -> None:
        """Log the table ``evidence/verdicts``, and ``evidence/<name>`` of each item with a table."""
        if items:
            self._log(_evidence_tables(items), step)

    def _log(self, row: Mapping[str, Any], step: int) -> None:
        if self.axis is None:
            self.logger.log_metrics(row, step)
            return
        run = self.logger.experiment
        for key in row.keys() - self._defined:
            run.define_metric(key, step_metric=self.axis)
        self._defined |= row.keys()
        run.log({self.axis: step, **row})


class _WandbRunAdapter(WandbAdapter):
    """Adapter to the W&B run of a run folder; a call of ``run.log`` is a row."""

    def __init__(self, run: wandb.Run) -> None:
        super().__init__(WandbLogger(experiment=run, project=run.project), "iteration")
        self._run = run
        if run.offline:
            self.end_seconds = _OFFLINE_END_SECONDS
            self._place = f"wandb leet {Path(run.dir).parent}"
        else:
            self._place = str(run.url)
            self.rows_logged = run.starting_step

    def log_results(self, results: RunResults) -> None:
        """Log the tables of records, of logged images and of the evidence, figures and animation as one row."""
        row: dict[str, Any] = {"results": _record_table(results.folder), "iterations": _iteration_table(results.folder)}
        for figure in results.figures():
            row[figure.stem] = wandb.Image(str(figure))
        animation = results.folder.path / "evolution.gif"
        if animation.exists():
            row["evolution"] = wandb.Video(str(animation), format="gif")
        row.update(_evidence_tables(results.evidence))
        self._log(row, results.iteration)

    def log_summary(self, results: RunResults) -> None:
        """Log the summary, and the files of the run as an artifact."""
        self._run.summary.update(dict(results.summary))
        artifact = wandb.Artifact(f"results-{self._run.id}", type="results")
        for file, place in results.files():
            # Immutable files are uploaded from the run folder instead of being copied to a cache first.
            artifact.add_file(str(file), name=Path(place, file.name).as_posix(), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def close(self, success: bool) -> None:
        """Finish the W&B run, as failed if it will be resumed."""
        exit_code = 0 if success else 1
        self._run.finish(exit_code=exit_code)

    def abandon(self) -> None:
        """Release the service of W&B, which may have ended or not respond."""
        release_service()

    def calls(self) -> AbstractContextManager[None]:
        return silent()

    @property
    def place(self) -> str:
        return self._place


def _record_table(folder: FolderStorage) -> wandb.Table:
    """Return a table with a row per record and a column per key of any record."""
    records = folder.records()
    columns: dict[str, None] = {}  # in their order
    for record in records:
        columns.update(dict.fromkeys(record.flat()))
    for path in ("file", "array"):
        columns.pop(path, None)
    table = wandb.Table(columns=["image", *columns], allow_mixed_types=True)
    for place, record in enumerate(records):
        image = None
        if place < _MAX_IMAGES:
            image = _image_of(record, folder)
        values = record.flat()
        table.add_data(image, *[_cell(values.get(column)) for column in columns])
    return table


def _image_of(record: Record, folder: FolderStorage) -> wandb.Image | None:
    file = folder.path / (record.picture or "")
    if not file.is_file():
        return None
    return wandb.Image(str(file), caption=record.name)


def _cell(value: Any) -> Any:
    """Return a value of a record as a table accepts it."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return value


def _iteration_table(folder: FolderStorage) -> wandb.Table:
    """Return a table with a row per logged image, which W&B groups by task and iteration."""
    table = wandb.Table(columns=["task", "iteration", "image", "probability", "prediction"], allow_mixed_types=True)
    curves = task_curves(folder.metrics(), "probability")
    remaining = _MAX_IMAGES
    for task in folder.queue():
        probabilities = dict(curves.get(task.key, ()))
        frames = folder.frames(task.key).get("image", ())[:remaining]
        remaining -= len(frames)
        for iteration, file in frames:
            top5 = top5_of(file)
            prediction = top5[0][0] if top5 else None
            table.add_data(task.name, iteration, wandb.Image(pixels(file)), probabilities.get(iteration), prediction)
    return table


def _evidence_tables(items: Sequence[EvidenceItem]) -> dict[str, wandb.Table]:
    """Return a table of the items with their verdicts, and the table of each item that has one, by key."""
    tables: dict[str, wandb.Table] = {}
    if not items:
        return tables
    verdicts = wandb.Table(columns=["evidence", "verdict", "text", "notes"])
    for item in items:
        verdicts.add_data(item.name, item.verdict, item.text, "\n".join(item.notes))
        if item.rows:
            table = wandb.Table(columns=[*item.columns])
            for row in item.rows:
                table.add_data(*[row.get(column) for column in item.columns])
            tables[f"evidence/{item.name}"] = table
    tables["evidence/verdicts"] = verdicts
    return tables


# -- opening of a run


def open_adapter(folder: FolderStorage, settings: LoggerSettings, notify: Notify) -> ImageAdapter | None:
    """Open the W&B run of a run folder, or continue it if the folder already has one.

    The run is separate from a run that the user has open. Its files are in ``<folder>/wandb``, its id is in
    ``wandb/run_id.txt``. Tags, group and job type default to ``WANDB_TAGS``, ``WANDB_RUN_GROUP`` and
    ``WANDB_JOB_TYPE``. Earlier offline files are deleted, because an offline run has all rows.

    Args:
        folder: run folder.
        settings: settings of the run. The mode ``"auto"`` follows ``WANDB_MODE`` and is otherwise online; ``"online"``
            ignores ``WANDB_MODE``. Both fall back to offline if there is no API key, in which case no server is
            called, if no server accepts it within 10 s, or if the user has an open run that is offline.
        notify: receives one line if the mode falls back.

    Returns:
        Its adapter, or None if W&B is disabled or cannot write offline files.
    """
    mode = settings.wandb
    if mode == "auto":
        mode = _MODES.get(os.environ.get("WANDB_MODE", "").lower(), "online")
    if mode == "disabled":
        return None
    try:
        with _without_telemetry(), silent():
            arguments = _arguments(folder, settings)
            run = None
            if mode == "online":
                run = _online_run(folder, arguments, notify)
            if run is None:
                run = _within(_OFFLINE_SECONDS, partial(_init, folder, "offline", arguments))
            return _WandbRunAdapter(run)
    except Exception as error:  # logging must not stop the run
        release_service()
        notify(f"W&B is off: {' '.join(str(error).split())[:200]}")
        return None


def _online_run(folder: FolderStorage, arguments: dict[str, Any], notify: Notify) -> wandb.Run | None:
    """Return the run at a server; None if none accepts it, after a line with the reason."""
    problem = _login_problem()
    if problem is None:
        try:
            return _within(_INIT_SECONDS, partial(_init, folder, "online", arguments))
        except Exception as error:  # server overloaded, no access to the project, version too old, ...
            release_service()
            problem = first_line(error)
            arguments["id"] = _new_id()  # wandb blocks the id of a failed run in this process
    notify(f"W&B is offline ({problem}); later: {command_line('log', folder.path, to='wandb')}")
    return None


def _arguments(folder: FolderStorage, settings: LoggerSettings) -> dict[str, Any]:
    """Return the arguments of ``wandb.init``; write the id of the run and delete earlier offline files."""
    id_file = folder.path / ID_FILE
    run_id = stored_run_id(id_file) or _new_id()
    write_text(id_file, run_id + "\n")
    for part in (folder.path / "wandb").glob("offline-run-*"):
        delete_entry(part)
    return {
        "project": settings.project or os.environ.get("WANDB_PROJECT") or "lit_viz",
        "name": folder.path.resolve().name,
        "id": run_id,
        "tags": list(settings.tags) or None,
        "group": settings.group,
        "job_type": settings.job_type,
    }


def _new_id() -> str:
    return secrets.token_hex(4)


def _login_problem() -> str | None:
    """Log in to the server without a prompt; return why that is not possible, or None.

    ``wandb.init`` must not be called if the server does not respond: it keeps the run that it failed to open and delays
    the exit of the process.
    """
    if wandb.run is not None:  # wandb.login does nothing
        if wandb.run.offline or wandb.run.disabled:
            return "the open W&B run is offline"
        return None
    url = wandb.setup().settings.base_url
    try:
        with _changed_settings(mode="online"):  # with WANDB_MODE=offline, wandb.login does nothing
            is_logged_in = _within(_LOGIN_SECONDS, partial(wandb.login, prompt=False))
    except AuthenticationError as error:  # the answer may be an HTML page
        reason = first_line(error).partition("<")[0].rstrip(": ")
        return f"{reason}: wandb login --relogin"
    except TimeoutError:
        return f"{url} does not respond"
    except Exception as error:
        return first_line(error)
    return None if is_logged_in else "no API key: wandb login"


def release_service() -> None:
    """Let Python exit without its service process of W&B, unless a run of the user needs the service.

    An exit hook of W&B waits for the process: endlessly if it does not respond, and with an error if it was killed.
    ``wandb.teardown`` removes the hook first. Then it waits itself, in a daemon thread.
    """
    if wandb.run is None:
        with suppress(Exception, SystemExit):
            _within(_RELEASE_SECONDS, wandb.teardown)


def _within(seconds: float, function: Callable[[], T]) -> T:
    """Return the result of a function that is called in another thread.

    Raises:
        TimeoutError: it takes longer.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except (Exception, SystemExit) as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()  # an executor would wait for it at the exit of Python
    if not wait([future], seconds).done:
        raise TimeoutError(f"no response within {max(1, round(seconds))} s")
    return future.result()


def silent() -> AbstractContextManager[None]:
    """Suppress W&B's console output inside the block; the user's own setting is restored."""
    return _changed_settings(silent=True)


@contextmanager
def _changed_settings(**changes: Any) -> Iterator[None]:
    """Change settings of W&B inside the block."""
    settings = wandb.setup().settings
    before = {name: getattr(settings, name) for name in changes}
    settings.update_from_dict(changes)
    wandb.termsetup(settings, None)
    try:
        yield
    finally:
        settings.update_from_dict(before)
        wandb.termsetup(settings, None)


def _init(folder: FolderStorage, mode: Literal["online", "offline"], arguments: dict[str, Any]) -> wandb.Run:
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=_INIT_SECONDS,
        login_timeout=_INIT_SECONDS,
        finish_timeout=ImageAdapter.end_seconds,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=_FLUSH_SECONDS,
        x_file_stream_transmit_interval=_SEND_SECONDS,
    )
    run = wandb.init(
        dir=str(folder.path), mode=mode, resume="allow", reinit="create_new", settings=settings, **arguments
    )
    for handler in logging.getLogger("wandb").handlers:
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # a traceback per line on a full disk
    run.define_metric("iteration")
    run.define_metric("*", step_metric="iteration")
    return run


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Stop wandb from sending usage data. A server that does not respond would delay the opening of an offline run by
    10 s, and the exit of Python by more than a minute."""
    before = os.environ.get("WANDB_ERROR_REPORTING")
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    try:
        yield
    finally:
        del os.environ["WANDB_ERROR_REPORTING"]
        if before is not None:
            os.environ["WANDB_ERROR_REPORTING"] = before
