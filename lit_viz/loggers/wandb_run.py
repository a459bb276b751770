"""Opening a Weights & Biases run: never a question, never a long wait, never an error."""

from __future__ import annotations

import base64
import os
import secrets
import shlex
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal

import wandb
from wandb.sdk.lib.wbauth import authenticate_session
from wandb.sdk.mailbox import HandleAbandonedError
from wandb.sdk.wandb_run import Run

from lit_viz.errors import first_line
from lit_viz.loggers import WandbMode
from lit_viz.runs.writer import RunFolder
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Say, say

# Together at most 15 s are spent on a server that doesn't answer.
_PROBE_SECONDS = 5.0
_INIT_SECONDS = 8.0
# What is not uploaded by then stays on the disk for `wandb sync`.
_FINISH_SECONDS = 60.0
# As often what is logged is written to the disk, which a kill then leaves; W&B's own fifteen are a checkpoint's half.
_FLUSH_SECONDS = 0.5
#: As often what is logged online is sent; W&B's own fifteen would be lost at a kill.
SEND_SECONDS = 3.0


def open_wandb(
    folder: RunFolder,
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    mode: WandbMode = "auto",
    say: Say = say,
) -> Run | None:
    """Open the W&B run of a run folder, on rank 0, without ever asking a question or stopping the run.

    Its files lie in ``<folder>/wandb``, with the run's id in ``run_id.txt``: opening the same folder again continues
    the same W&B run. Offline, each resume adds a segment of that run; ``wandb sync <folder>/wandb/offline-run-*``
    uploads them in order as one run. Rows between the last checkpoint and an interruption are computed and logged
    again, with the same iteration, so W&B may show such a point twice where the run folder has it once; of what is
    killed it may lack the last half second, online the last three.

    Args:
        folder: the run folder.
        project: as of ``wandb.init``; that of ``WANDB_PROJECT`` unless given, else ``lit_viz``.
        name, config: as of ``wandb.init``.
        mode: ``"auto"`` follows ``WANDB_MODE``, and is else online where an API key is configured and the server
            answers; ``"online"`` ignores ``WANDB_MODE``. Both fall back to offline, after at most 15 seconds, and say
            so in one line.
        say: is given the one line, if there is something to say.

    Returns:
        the run, or None where W&B is disabled or can't even write offline.
    """
    mode = _wanted(mode)
    if mode == "disabled":
        return None
    try:
        with silent():
            project = project or os.environ.get("WANDB_PROJECT") or "lit_viz"
            arguments = {"project": project, "name": name, "config": dict(config or {})}
            return _init(folder, mode, {**arguments, "id": _run_id(folder)}, say)
    except Exception as error:  # whatever W&B raises, the run goes on without it
        say(f"W&B is off: {_why(error)}")
        return None


#: What W&B raises once its service has ended, the process that writes and sends: SLURM signals that one, too.
LOST = (ConnectionError, HandleAbandonedError)


def forget_service() -> None:
    """Let W&B start another service; else it can open no run, and complains at the end of the process."""
    with suppress(*LOST, SystemExit):  # W&B exits with the status of its service
        wandb.teardown()


@contextmanager
def silent() -> Iterator[None]:
    """Let W&B say nothing of this run; what it says of the user's own is theirs."""
    settings = wandb.setup().settings
    before, settings.silent = settings.silent, True
    wandb.termsetup(settings, None)
    try:
        yield
    finally:
        settings.silent = before
        wandb.termsetup(settings, None)


def _why(error: Exception) -> str:
    """Return in a line what is wrong; of settings which one."""
    told = error.errors()[0] if hasattr(error, "errors") else None  # pydantic's, one dictionary a setting
    if not isinstance(told, Mapping):
        return first_line(error)
    setting = "_".join(map(str, told.get("loc", ())))
    return f"WANDB_{setting.upper()}: {told.get('msg')}" if setting else str(told.get("msg"))


def _wanted(mode: WandbMode) -> WandbMode:
    from_environment = os.environ.get("WANDB_MODE", "").lower()
    if mode != "auto":
        return mode
    known: dict[str, WandbMode] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
    return known.get(from_environment, "online")


def _run_id(folder: RunFolder) -> str:
    path = folder.path / "wandb" / "run_id.txt"
    run_id = (path.read_text().strip() if path.exists() else "") or secrets.token_hex(4)
    write_text(path, run_id + "\n")
    return run_id


def _init(folder: RunFolder, mode: WandbMode, arguments: dict[str, Any], say: Say) -> Run:
    later = sync_line(folder, "offline-run-*")
    if mode == "online":
        why = _why_offline()
        if why is None:
            try:
                return _start(folder, "online", arguments)
            except Exception as error:  # the server is overloaded, the project forbidden, the version too old ...
                why = first_line(error)
                # W&B keeps the id of the failed run in use as long as the process lives.
                later = sync_line(folder, "offline-run-*", arguments["id"])
                arguments = arguments | {"id": secrets.token_hex(4)}
        say(f"W&B is offline ({why}); later: {later}")
    return _start(folder, "offline", arguments)


def sync_line(folder: RunFolder, files: str, run_id: str | None = None) -> str:
    """Return ``wandb sync 'my run/wandb'/offline-run-*``, as it can be pasted into a shell.

    Args:
        folder: the run folder.
        files: pattern of what is uploaded.
        run_id: of the W&B run that becomes of it; that of the files unless given.
    """
    named = f"--id {run_id} " if run_id else ""
    return f"wandb sync {named}{shlex.quote(str(folder.path / 'wandb'))}/{files}"


def _start(folder: RunFolder, mode: Literal["online", "offline"], arguments: dict[str, Any]) -> Run:
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=_INIT_SECONDS,
        login_timeout=_INIT_SECONDS,
        finish_timeout=_FINISH_SECONDS,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=_FLUSH_SECONDS,
        x_file_stream_transmit_interval=SEND_SECONDS,
    )
    with _without_telemetry() if mode == "offline" else nullcontext():
        # A run of its own: one that the user's script has open is neither used nor closed.
        run = wandb.init(
            dir=str(folder.path), mode=mode, resume="allow", reinit="create_new", settings=settings, **arguments
        )
    run.define_metric("iteration")
    run.define_metric("*", step_metric="iteration")
    return run


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep an offline run offline: W&B sends usage counts even then, and waits ten seconds for a server that is away.

    Read from the environment when the run opens, and only there; afterwards the environment is as before.
    """
    name = "WANDB_ERROR_REPORTING"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _why_offline() -> str | None:
    """Return why W&B can't be online, or None where nothing speaks against it."""
    settings = wandb.setup().settings
    try:
        credentials = authenticate_session(host=settings.base_url, source="lit_viz", prompt=False, update_session=False)
    except Exception as error:  # a malformed key
        return first_line(error)
    if credentials is None:
        return "no API key: wandb login"
    answers: list[str | None] = []
    # In a thread, because the look-up of a name has no timeout.
    probe = threading.Thread(target=lambda: answers.append(_what_is_wrong(settings, credentials)), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS)
    return answers[0] if answers else f"{settings.base_url} doesn't answer"


def _what_is_wrong(settings: wandb.Settings, credentials: Any) -> str | None:
    """Ask the server who we are.

    Before ``wandb.init``, which keeps a run that it failed to open, and with a server that never answers delays the end
    of the process. Only what is certainly wrong is said; the rest is left to W&B.
    """
    url = settings.base_url.rstrip("/")
    request = urllib.request.Request(f"{url}/graphql", b'{"query": "query { viewer { id } }"}', _headers(credentials))
    proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    handlers = [urllib.request.ProxyHandler({k: v for k, v in proxies.items() if v})] if any(proxies.values()) else []
    try:
        urllib.request.build_opener(*handlers).open(request, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return f"{url} refuses the API key: wandb login --relogin"
        return f"{url} answers with error {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        # A certificate that Python doesn't know W&B may know.
        return None if "certificate" in str(error).lower() else f"{url} doesn't answer"
    return None


def _headers(credentials: Any) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": f"wandb/{wandb.__version__}"}
    if key := getattr(credentials, "api_key", None):
        headers["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    return headers
