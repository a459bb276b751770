"""Callback that reports to the terminal: notes before the run, and its progress."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from lit_viz.engine.module import ImageTraining, RunProgress
from lit_viz.utils.formatting import Notify, ignore, is_notebook, notify, pluralize, remark

_MIN_IMAGES_FOR_RATE = 32  # below it, images per second are not shown
_REFRESH_SECONDS = 0.1
_LINE_SECONDS = 10.0  # between lines in a log file, and before the progress of a script is shown


class Progress(Callback):
    """Print the notes of network, method and tasks, then show finished images, iteration, mean probability or
    objective, speed and remaining time on stderr.

    A notebook shows a line that is updated. If stderr is neither a terminal nor a notebook, one line is printed at the
    start, every 10 seconds, and at the end.

    Args:
        notify: receives the notes; :func:`~lit_viz.utils.formatting.ignore` shows nothing. None, of scripts, logs the
            notes of the network, and shows progress from the tenth second on.
        console: output, by default stderr.
    """

    def __init__(self, notify: Notify | None = notify, console: Console | None = None) -> None:
        self.notify = notify
        self.quiet = notify is ignore
        self.console = console or Console(stderr=True, emoji=False)
        self._bar: Bar | None = None
        self._display: Any = None  # of IPython
        self._bar_task = TaskID(0)
        self._started = self._refreshed = 0.0
        self._start: RunProgress

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the notes, and start the bar or print a line."""
        module = cast(ImageTraining, pl_module)
        module.network.log_notes(self.notify or remark)
        if self.notify is not None:
            queue = getattr(trainer, "datamodule", None)
            for note in (*module.notes, *getattr(queue, "notes", ())):
                self.notify(str(note))
        self.quiet = self.quiet or not trainer.is_global_zero
        if self.quiet:
            return
        progress = self._start = module.progress()
        self._started = self._refreshed = time.monotonic()
        if self.notify is None:  # the progress of a script is shown if the run is long
            return
        if is_notebook():
            from IPython.display import display

            self._display = display({"text/plain": ""}, raw=True, display_id=True)
            self._refresh(progress)
            return
        if not self.console.is_terminal:
            updates = pluralize(progress.updates_total, "update")
            limit = ", more if an image starts again" if module.restarts else " at most"
            self._print(f"{pluralize(progress.total, 'image')}, {updates}{limit}")
            return
        self._start_bar()
        self._refresh(progress)

    def _start_bar(self) -> None:
        columns = (TextColumn("{task.fields[images]}"), BarColumn(24), TextColumn("{task.fields[state]}"))
        self._bar = Bar(*columns, console=self.console, auto_refresh=False, transient=True)
        self._bar_task = self._bar.add_task("", total=None, images="", state="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh the bar, at most ten times per second; without one, print a line every 10 seconds."""
        if self.quiet:
            return
        is_updated = self._bar is not None or self._display is not None
        due = _REFRESH_SECONDS if is_updated else _LINE_SECONDS
        if time.monotonic() - self._refreshed >= due:
            if self.console.is_terminal and not is_updated:
                self._start_bar()
            self._refresh(cast(ImageTraining, pl_module).progress())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary."""
        self._end(pl_module, "done")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the terminal and print the summary."""
        self._end(pl_module, "done, then stopped")

    def _refresh(self, progress: RunProgress) -> None:
        self._refreshed = time.monotonic()
        images = f"{progress.ended}/{progress.total} images"
        if self._display is not None:
            self._display.update({"text/plain": f"{images} · {self._state(progress)}"}, raw=True)
            return
        if self._bar is None:
            self._print(f"{images} · {self._state(progress)}")
            return
        self._bar.update(
            self._bar_task,
            completed=progress.updates_done,
            total=max(progress.updates_total, 1),
            images=images,
            state=self._state(progress),
        )
        self._bar.refresh()

    def _state(self, progress: RunProgress) -> str:
        parts = [f"iteration {progress.iteration}"]
        if progress.probability is not None:
            parts.append(f"p = {progress.probability:.2f}")
        elif progress.objective is not None:
            parts.append(f"objective {progress.objective:.3g}")
        seconds = max(time.monotonic() - self._started, 1e-9)
        # Progress before a resume does not count for the speed.
        finished = progress.ended - self._start.ended
        if rate := self._updates_per_second(progress):
            parts.append(f"{rate:.3g} it/s")
            if progress.total >= _MIN_IMAGES_FOR_RATE and finished:
                parts.append(f"{finished / seconds:.3g} images/s")
        done = progress.updates_done - self._start.updates_done  # includes skipped updates of images that end early
        if done > 0:
            remaining = max(progress.updates_total - progress.updates_done, 0) * seconds / done
            parts.append(f"{timedelta(seconds=round(remaining))} left")
        return " · ".join([*parts, *_unsuccessful(progress)])

    def _updates_per_second(self, progress: RunProgress) -> float:
        updates = max(progress.updates_made - self._start.updates_made, 0)  # fewer after a restart
        return updates / max(time.monotonic() - self._started, 1e-9)

    def _end(self, module: LightningModule, outcome: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._display is not None:
            self._refresh(cast(ImageTraining, module).progress())
            self._display = None
        is_long = self.notify is not None or time.monotonic() - self._started >= _LINE_SECONDS
        if self.quiet or not self._started or not is_long:
            return
        progress = cast(ImageTraining, module).progress()
        finished = progress.ended - progress.failed - progress.skipped
        others = ", ".join(_unsuccessful(progress))
        if others:
            others = f" ({others})"
        seconds = time.monotonic() - self._started
        duration = f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
        images = f"{finished} of {pluralize(progress.total, 'image')}"
        self._print(f"{images} {outcome}{others}: {duration}, {self._updates_per_second(progress):.3g} it/s")
        self._started = 0.0

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _unsuccessful(progress: RunProgress) -> list[str]:
    counts = {"failed": progress.failed, "skipped": progress.skipped}
    return [f"{count} {status}" for status, count in counts.items() if count]
