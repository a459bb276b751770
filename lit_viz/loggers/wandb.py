"""Weights & Biases: images and metrics as rows, and tables, figures, summary and artifact of a run folder.

Runs are opened without prompts, in bounded time, with an offline fallback.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import wandb
from pytorch_lightning.loggers import WandbLogger
from wandb.sdk import wandb_setup
from wandb.sdk.lib.wbauth import authenticate_session
from wandb.sdk.mailbox import HandleAbandonedError
from wandb.sdk.wandb_run import Run

from lit_viz.errors import first_line
from lit_viz.figures.layout import pixels
from lit_viz.loggers.base import FINISH_SECONDS, CaptionedImage, ImageAdapter, LoggerSettings, RunResults, WandbMode
from lit_viz.runs.folder import RunFolder, top5_of
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify, command_line, notify

T = TypeVar("T")

#: File of the id of the W&B run, relative to the run folder.
ID_FILE = "wandb/run_id.txt"

# An opening takes at most 15 s in total. The server has 10 s, a killed service 2 s, and an offline run what remains: on
# a busy machine the start of the service takes several seconds.
_START_SECONDS = 15.0
_PROBE_SECONDS = 4.0
_INIT_SECONDS = 6.0
_STOP_SECONDS = 2.0
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
        media = {key: wandb.Image(image, caption=caption) for key, (image, caption) in images.items()}
        self._log({**metrics, **media}, step)

    def _log(self, row: Mapping[str, Any], step: int) -> None:
        if self.axis is None:
            self.logger.log_metrics(row, step)
            return
        run = self.logger.experiment
        for key in row.keys() - self._defined:
            run.define_metric(key, step_metric=self.axis)
        self._defined |= row.keys()
        run.log({self.axis: step, **row})


class _RunAdapter(WandbAdapter):
    """Adapter to the W&B run of a run folder; a call of ``run.log`` is a row."""

    def __init__(self, run: Run) -> None:
        super().__init__(WandbLogger(experiment=run, project=run.project), "iteration")
        self._run = run
        self._place = f"wandb leet {Path(run.dir).parent}" if run.settings.mode == "offline" else str(run.url)
        self.rows_logged = 0 if run.settings.mode == "offline" else run.starting_step

    def log_results(self, results: RunResults) -> None:
        """Log the tables of records and of logged images, figure, animation and evidence as one row."""
        path = results.folder.path
        row: dict[str, Any] = {"results": _record_table(results.folder), "iterations": _iteration_table(results.folder)}
        figures = [path / name for name in ("figure.png", "evidence.png")]
        row |= {figure.stem: wandb.Image(str(figure)) for figure in figures if figure.exists()}
        if (path / "evolution.gif").exists():
            row["evolution"] = wandb.Video(str(path / "evolution.gif"), format="gif")
        self._log(row, results.iteration)

    def log_summary(self, results: RunResults) -> None:
        """Log the summary, and the files of the run as an artifact."""
        self._run.summary.update(dict(results.summary))
        artifact = wandb.Artifact(f"results-{self._run.id}", type="results")
        for file, place in results.files():
            # Immutable files are uploaded from the run folder instead of being copied to a cache first.
            name = f"{place}/{file.name}" if place else file.name
            artifact.add_file(str(file), name=name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def close(self, success: bool) -> None:
        """Finish the W&B run, as failed if it will be resumed."""
        self._run.finish(exit_code=0 if success else 1)

    def abandon(self, error: BaseException | None) -> None:
        """Kill the service process of W&B if it has ended or timed out; otherwise Python waits for it at exit."""
        if error is None or isinstance(error, (ConnectionError, HandleAbandonedError)):
            stop_service()

    def calls(self) -> AbstractContextManager[None]:
        return silent()

    @property
    def place(self) -> str:
        return self._place


def open_adapter(folder: RunFolder, settings: LoggerSettings, notify: Notify) -> ImageAdapter | None:
    """Return the adapter of a run folder; None if W&B is disabled or cannot write offline files."""
    run = open_run(folder, settings, notify)
    return None if run is None else _RunAdapter(run)


def _record_table(folder: RunFolder) -> wandb.Table:
    records = folder.records()
    rows = [record.to_dict() for record in records]
    columns = [
        column for column in dict.fromkeys(key for row in rows for key in row) if column not in ("file", "array")
    ]
    table = wandb.Table(columns=["image", *columns], allow_mixed_types=True)
    for place, (record, row) in enumerate(zip(records, rows, strict=True)):
        file = folder.path / (record.file or "")
        show = place < _MAX_IMAGES and file.is_file()
        image = wandb.Image(str(file), caption=record.name) if show else None
        values = [row.get(column) for column in columns]
        table.add_data(
            image, *(json.dumps(v, ensure_ascii=False) if isinstance(v, (dict, list)) else v for v in values)
        )
    return table


def _iteration_table(folder: RunFolder) -> wandb.Table:
    """Return a table with a row per logged image, which W&B groups by task and iteration."""
    table = wandb.Table(columns=["task", "iteration", "image", "probability", "prediction"], allow_mixed_types=True)
    frames = [(task, k, file) for task in folder.queue() for k, file in folder.frames(task.key)][:_MAX_IMAGES]
    probabilities = {key: dict(curve) for key, curve in folder.curves("probability").items()}
    for task, k, file in frames:
        top5 = top5_of(file)
        prediction = top5[0][0] if top5 else None
        table.add_data(task.name, k, wandb.Image(pixels(file)), probabilities.get(task.key, {}).get(k), prediction)
    return table


# -- opening of a run


def open_run(folder: RunFolder, settings: LoggerSettings, notify: Notify = notify) -> Run | None:
    """Open the W&B run of a run folder, or continue it if the folder already has one.

    The run is separate from a run that the user has open. Its files are in ``<folder>/wandb``, its id is in
    ``wandb/run_id.txt``. Tags, group and job type default to ``WANDB_TAGS``, ``WANDB_RUN_GROUP`` and
    ``WANDB_JOB_TYPE``. Earlier offline files are deleted, because an offline run has all rows.

    Args:
        folder: run folder.
        settings: settings of the run. The mode ``"auto"`` follows ``WANDB_MODE`` and is otherwise online; ``"online"``
            ignores ``WANDB_MODE``. Both fall back to offline if there is no API key or no server responds within 15 s.
        notify: receives one line if the mode falls back.

    Returns:
        The run, or None if W&B is disabled or cannot write offline files.
    """
    mode = settings.wandb
    if mode == "auto":
        mode = _MODES.get(os.environ.get("WANDB_MODE", "").lower(), "online")
    if mode == "disabled":
        return None
    end = time.monotonic() + _START_SECONDS
    try:
        with silent():
            id_file = folder.path / ID_FILE
            run_id = (id_file.read_text().strip() if id_file.exists() else "") or secrets.token_hex(4)
            write_text(id_file, run_id + "\n")
            for part in (folder.path / "wandb").glob("offline-run-*"):
                shutil.rmtree(part)
            arguments = {
                "project": settings.project or os.environ.get("WANDB_PROJECT") or "lit_viz",
                "name": folder.path.resolve().name,
                "config": folder.config,
                "id": run_id,
                "tags": list(settings.tags) or None,
                "group": settings.group,
                "job_type": settings.job_type,
            }
            problem = _offline_reason() if mode == "online" else None
            if mode == "online" and problem is None:
                try:
                    return _within(_INIT_SECONDS, partial(_init, folder, "online", arguments))
                except Exception as error:  # server overloaded, no access to the project, version too old, ...
                    if isinstance(error, TimeoutError):
                        stop_service()
                    problem = first_line(error)
                    arguments["id"] = secrets.token_hex(4)  # wandb blocks the id of a failed run in this process
            if problem is not None:
                notify(f"W&B is offline ({problem}); later: {command_line('log', folder.path)} --to wandb")
            return _within(end - time.monotonic(), partial(_init, folder, "offline", arguments))
    except Exception as error:  # logging must not stop the run
        if isinstance(error, TimeoutError):
            stop_service()
        notify(f"W&B is off: {' '.join(str(error).split())[:200]}")
        return None


def stop_service() -> None:
    """Kill W&B's service process, so that calls that wait for it end, also those at the exit of Python."""
    with suppress(Exception):
        wandb_setup.singleton()._connection._proc._process.kill()  # type: ignore[union-attr]
    with suppress(Exception, SystemExit):
        _within(_STOP_SECONDS, wandb.teardown)


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
        raise TimeoutError(f"no response within {seconds:g} s")
    return future.result()


@contextmanager
def silent() -> Iterator[None]:
    """Suppress W&B's console output inside the block; the user's own setting is restored."""
    settings = wandb.setup().settings
    before, settings.silent = settings.silent, True
    wandb.termsetup(settings, None)
    try:
        yield
    finally:
        settings.silent = before
        wandb.termsetup(settings, None)


def _init(folder: RunFolder, mode: Literal["online", "offline"], arguments: dict[str, Any]) -> Run:
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=_INIT_SECONDS,
        login_timeout=_INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=_FLUSH_SECONDS,
        x_file_stream_transmit_interval=_SEND_SECONDS,
    )
    with _without_telemetry():
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


def _offline_reason() -> str | None:
    """Return why the server cannot be used; None if nothing indicates that."""
    url = wandb.setup().settings.base_url.rstrip("/")
    try:
        credentials = authenticate_session(host=url, source="lit_viz", prompt=False, update_session=False)
    except Exception as error:  # malformed key
        return first_line(error)
    if credentials is None:
        return "no API key: wandb login"
    try:  # in a thread, because name resolution has no timeout
        return _within(_PROBE_SECONDS, partial(_probe, url, getattr(credentials, "api_key", None)))
    except Exception:  # TimeoutError, or an invalid response
        return f"{url} does not respond"


def _probe(url: str, key: str | None) -> str | None:
    """Query the server once; return why it cannot be used, or None.

    ``wandb.init`` must not be called if the server does not respond: it keeps the run that it failed to open and delays
    the exit of the process.
    """
    headers = {"Content-Type": "application/json", "User-Agent": f"wandb/{wandb.__version__}"}
    if key is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(f"{url}/graphql", b'{"query": "query { viewer { id } }"}', headers)
    try:
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return f"{url} rejects the API key: wandb login --relogin"
        return f"{url} returns error {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        # wandb may accept a certificate that Python does not know.
        return None if "certificate" in str(error).lower() else f"{url} does not respond"
    return None
