"""A thread that calls a logger, so that a run never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue

from lit_viz.errors import first_line
from lit_viz.loggers import LOGGERS
from lit_viz.loggers.base import ImageAdapter
from lit_viz.runs.folder import RunFolder
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify, command_line

_MAX_CALLS = 64  # that wait for the logger
_CALL_SECONDS = 10.0  # after which a call of a run that continues is given up
_EXIT_SECONDS = 8.0  # the same for a run that is stopped
#: After which the calls at the end of a run are given up; W&B and MLflow upload files.
FINISH_SECONDS = 60.0

#: Logs a row of a run by an adapter.
LogRow = Callable[[ImageAdapter], None]


class LoggerThread:
    """A thread that calls the logger of a run folder, in order.

    The first error of the logger, or a call that does not return in time, is reported in one line; after it, nothing is
    logged and the run continues.

    Args:
        name: name of the logger.
        adapter: its adapter.
        folder: run folder.
        notify: receives the line about an error.
    """

    def __init__(self, name: str, adapter: ImageAdapter, folder: RunFolder, notify: Notify) -> None:
        self.name, self.adapter = name, adapter
        self.failed = False
        self._folder, self._notify = folder, notify
        self._logged = adapter.rows_logged
        self._calls: Queue[Callable[[], object] | None] = Queue(_MAX_CALLS)
        self._limit = _CALL_SECONDS
        self._returned = time.monotonic()
        complete_mark(folder, name).unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._call_all, name=f"lit_viz-{name}", daemon=True)
        self._thread.start()
        self.submit(adapter.open)

    def log_rows(self, rows: Sequence[LogRow]) -> None:
        """Log the rows of the run that the logger lacks; ``rows`` begin with those of earlier calls."""
        new = rows[self._logged :]
        self._logged = max(self._logged, len(rows))

        def log() -> None:
            for row in new:
                row(self.adapter)
                self._returned = time.monotonic()

        if new:
            self.submit(log)

    def submit(self, call: Callable[[], object]) -> None:
        """Call a function after the previous ones."""
        if not self._calls.unfinished_tasks:
            self._returned = time.monotonic()
        while not self.failed and self._thread.is_alive():
            with suppress(Full):
                self._calls.put(call, timeout=0.1)
                return
            self._give_up_if_late()

    def close(self, success: bool, seconds: float | None = None) -> None:
        """Wait for all calls and finish the run of the logger, unless it is closed or has failed; without ``success``
        the run can be continued, and no call may take longer than ``seconds``, by default 8."""
        if self.failed or not self._thread.is_alive():
            return
        if not success:
            self._limit = min(self._limit, _EXIT_SECONDS) if seconds is None else seconds
        self._give_up_if_late()
        self.submit(lambda: self.adapter.close(success))
        self.submit(lambda: self._calls.put_nowait(None))
        if success:
            self._limit += FINISH_SECONDS
        while self._thread.is_alive() and not self.failed:
            self._thread.join(0.1)
            self._give_up_if_late()
        if success and not self.failed:
            write_text(complete_mark(self._folder, self.name), "")

    def _call_all(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                with self.adapter.calls():
                    call()
            except (Exception, SystemExit) as error:  # logging must not stop the run
                self._fail(f"failed ({first_line(error)})")
                self.adapter.abandon(error)
                return
            self._returned = time.monotonic()
            self._calls.task_done()

    def _give_up_if_late(self) -> None:
        """Stop the logger if a call has not returned for the time limit."""
        if self._calls.unfinished_tasks and time.monotonic() - self._returned > self._limit:
            self._fail("timed out")
            self.adapter.abandon(None)

    def _fail(self, event: str) -> None:
        if not self.failed:
            self.failed = True
            later = f"{command_line('log', self._folder.path)} --to {self.name}"
            self._notify(f"{LOGGERS[self.name]} {event}, nothing more is logged; later: {later}")


def complete_mark(folder: RunFolder, name: str) -> Path:
    """Return the file that marks a run as logged completely."""
    return folder.path / name / "complete"
