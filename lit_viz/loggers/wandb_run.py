"""Opening of Weights & Biases runs: without prompts, in bounded time, with an offline fallback."""

from __future__ import annotations

import base64
import os
import secrets
import shlex
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import wandb
from wandb.sdk.lib.wbauth import authenticate_session
from wandb.sdk.wandb_run import Run

from lit_viz.errors import first_line
from lit_viz.loggers import WandbMode
from lit_viz.runs.folder import RunFolder
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify, notify

# An unreachable server delays a run by at most 15 s: the probe and the opening.
_PROBE_SECONDS = 5.0
_INIT_SECONDS = 8.0
# Data that is not uploaded by then stays on the disk for `wandb sync`.
_FINISH_SECONDS = 60.0
# Intervals at which rows are written to the disk and sent; with W&B's default of 15 s a kill would lose too many.
_FLUSH_SECONDS = 0.5
_SEND_SECONDS = 3.0

_ID_FILE = "wandb/run_id.txt"
_MODES: dict[str, WandbMode] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}


def open_run(
    folder: RunFolder,
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    mode: WandbMode = "auto",
    notify: Notify = notify,
) -> Run | None:
    """Open the W&B run of a run folder, or continue it if the folder already has one.

    The run is separate from a run that the user has open. Its files are in ``<folder>/wandb``, its id is in
    ``wandb/run_id.txt``. Rows between the last checkpoint and an interruption are logged again after a resume, with
    the same ``iteration``.

    Args:
        folder: run folder.
        project: W&B project. Default: ``WANDB_PROJECT``, or ``lit_viz``.
        name: name of the W&B run.
        config: configuration of the W&B run.
        mode: ``"auto"`` follows ``WANDB_MODE`` and is otherwise online; ``"online"`` ignores ``WANDB_MODE``. Both fall
            back to offline if there is no API key or no server answers within 15 s.
        notify: receives one line if the mode falls back.

    Returns:
        The run, or None if W&B is disabled or cannot write offline files.
    """
    if mode == "auto":
        mode = _MODES.get(os.environ.get("WANDB_MODE", "").lower(), "online")
    if mode == "disabled":
        return None
    try:
        with silent():
            run_id = _stored_id(folder) or secrets.token_hex(4)
            write_text(folder.path / _ID_FILE, run_id + "\n")
            arguments = {
                "project": project or os.environ.get("WANDB_PROJECT") or "lit_viz",
                "name": name,
                "config": dict(config or {}),
                "id": run_id,
            }
            problem = _offline_reason() if mode == "online" else None
            if mode == "online" and problem is None:
                try:
                    return _init(folder, "online", arguments)
                except Exception as error:  # server overloaded, no access to the project, version too old, ...
                    problem = first_line(error)
                    arguments["id"] = secrets.token_hex(4)  # wandb blocks the id of a failed run in this process
            if problem is not None:
                notify(f"W&B is offline ({problem}); later: {sync_command(folder)}")
            return _init(folder, "offline", arguments)
    except Exception as error:  # logging must not stop the run
        notify(f"W&B is off: {' '.join(str(error).split())[:200]}")
        return None


def sync_command(folder: RunFolder) -> str:
    """Return the shell command that uploads the W&B files of a run folder as one W&B run."""
    return f"wandb sync --id {_stored_id(folder)} {shlex.quote(str(folder.path / 'wandb'))}/*run-*"


def _stored_id(folder: RunFolder) -> str:
    file = folder.path / _ID_FILE
    return file.read_text().strip() if file.exists() else ""


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
        finish_timeout=_FINISH_SECONDS,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=_FLUSH_SECONDS,
        x_file_stream_transmit_interval=_SEND_SECONDS,
    )
    with _without_telemetry() if mode == "offline" else nullcontext():
        run = wandb.init(
            dir=str(folder.path), mode=mode, resume="allow", reinit="create_new", settings=settings, **arguments
        )
    run.define_metric("iteration")
    run.define_metric("*", step_metric="iteration")
    return run


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Stop wandb from sending usage data, which without a network delays the opening of an offline run by 10 s."""
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
    reasons: list[str | None] = []
    # In a thread, because name resolution has no timeout.
    key = getattr(credentials, "api_key", None)
    probe = threading.Thread(target=lambda: reasons.append(_probe(url, key)), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS)
    return reasons[0] if reasons else f"{url} does not answer"


def _probe(url: str, key: str | None) -> str | None:
    """Query the server once; return why it cannot be used, or None.

    ``wandb.init`` must not meet a dead server: it keeps the run that it failed to open and delays the exit of the
    process.
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
        return f"{url} answers with error {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        # wandb may accept a certificate that Python does not know.
        return None if "certificate" in str(error).lower() else f"{url} does not answer"
    return None
