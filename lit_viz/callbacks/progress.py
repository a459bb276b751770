"""How far a run is, on the terminal."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from lit_viz.utils.formatting import pluralize

if TYPE_CHECKING:
    from lit_viz.engine.snapshots import RunProgress

_MANY = 32  # images, from which on their speed says more than that of their updates
_EVERY = 0.1  # seconds between two refreshes: faster can't be read, and costs


class Progress(Callback):
    """Show images done, iteration, mean probability (or objective), speed and time left, on stderr.

    Where stderr is no terminal: one line at the start and one at the end, so that a log file stays readable.

    Args:
        quiet: show nothing at all.
        console: where to; stderr unless given.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._bar_task = TaskID(0)
        self._started = self._refreshed = 0.0
        self._done_before = self._made_before = self._images_before = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin: a bar on a terminal, a line elsewhere."""
        self.quiet = self.quiet or not trainer.is_global_zero
        if self.quiet:
            return
        progress = _progress(pl_module)
        # What an earlier part of a resumed run has done says nothing of the speed of this one.
        self._done_before, self._images_before = progress.updates_done, progress.ended
        self._made_before = progress.updates_made
        self._started = time.monotonic()
        if not self.console.is_terminal:
            self._print(f"{pluralize(progress.total, 'image')}, {pluralize(progress.updates_total, 'update')} at most")
            return
        columns = (TextColumn("{task.fields[images]}"), BarColumn(24), TextColumn("{task.fields[state]}"))
        self._bar = Bar(*columns, console=self.console, auto_refresh=False, transient=True)
        self._bar_task = self._bar.add_task("", total=max(progress.updates_total, 1), images="", state="")
        self._bar.start()
        self._refresh(progress)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh, at most ten times a second."""
        if self._bar is not None and time.monotonic() - self._refreshed >= _EVERY:
            self._refresh(_progress(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End with one line that sums up the run."""
        self._end(pl_module, "done")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back; the same line says how far the run came."""
        self._end(pl_module, "done, then stopped")

    def _refresh(self, progress: RunProgress) -> None:
        if self._bar is None:
            return
        self._refreshed = time.monotonic()
        self._bar.update(
            self._bar_task,
            completed=progress.updates_done,
            total=max(progress.updates_total, 1),
            images=f"{progress.ended}/{progress.total} images",
            state=self._state(progress),
        )
        self._bar.refresh()

    def _state(self, progress: RunProgress) -> str:
        parts = [f"iteration {progress.iteration}"]
        if progress.probability is not None:
            parts.append(f"p = {progress.probability:.2f}")
        elif progress.objective is not None:
            parts.append(f"objective {progress.objective:.3g}")
        if rate := self._rate(progress):
            parts += [f"{rate:.3g} it/s", *self._images_a_second(progress)]
        done = progress.updates_done - self._done_before  # an image that ends early leaves the rest of its updates
        if done > 0:
            left = max(progress.updates_total - progress.updates_done, 0) * self._seconds / done
            parts.append(f"{timedelta(seconds=round(left))} left")
        parts += _not_done(progress)
        return " · ".join(parts)

    def _images_a_second(self, progress: RunProgress) -> list[str]:
        if progress.total < _MANY or progress.ended == self._images_before:
            return []
        rate = (progress.ended - self._images_before) / self._seconds
        return [f"{rate:.3g} images/s"]

    def _rate(self, progress: RunProgress) -> float:
        """Return updates of an image a second, over all slots and since this process began."""
        return (progress.updates_made - self._made_before) / self._seconds

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    def _end(self, module: LightningModule, how: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self.quiet or not self._started:
            return
        progress = _progress(module)
        finished = progress.ended - progress.failed - progress.skipped
        others = f" ({', '.join(_not_done(progress))})" if _not_done(progress) else ""
        seconds = time.monotonic() - self._started
        took = f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
        images = f"{finished} of {pluralize(progress.total, 'image')}"
        self._print(f"{images} {how}{others}: {took}, {self._rate(progress):.3g} it/s")
        self._started = 0.0

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _not_done(progress: RunProgress) -> list[str]:
    counts = {"failed": progress.failed, "skipped": progress.skipped}
    return [f"{count} {how}" for how, count in counts.items() if count]


def _progress(module: LightningModule) -> RunProgress:
    # An attribute that Lightning's own module doesn't have: see lit_viz.engine.module.ImageTraining.
    return cast("RunProgress", cast(Any, module).progress())
