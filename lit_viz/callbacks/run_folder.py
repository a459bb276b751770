"""Callback that writes the run folder of a plain Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz._version import __version__
from lit_viz.callbacks.saving import RunWriter
from lit_viz.engine.module import ImageTraining, check_run_state
from lit_viz.engine.slots import ITERATION
from lit_viz.presentations import method_name, presentation_of
from lit_viz.report.page import REPORT, write_report
from lit_viz.runs import folder as runs
from lit_viz.utils.files import plain


def create_run(path: str | Path, module: ImageTraining, overwrite: bool = False, **options: Any) -> runs.RunFolder:
    """Create a run folder with the queue of a method, its classifier and these options.

    Raises:
        LitVizError: the folder is not empty, or the disk is full.
    """
    folder = runs.RunFolder.create(path, overwrite)
    folder.clear()
    folder.write_queue(module.tasks)
    classifier = {name: getattr(module.classifier, name) for name in ("name", "mean", "std", "size")}
    config = yaml.safe_dump(plain({"classifier": classifier, **options}), sort_keys=False)
    folder.write_config(config, {"module": method_name(type(module)), "lit_viz": __version__})
    return folder


class RunFolder(Callback):
    """Write a run folder: the logged images, metrics, final images, records, and at the end ``report.html``.

    Add it before checkpointing callbacks. With ``ckpt_path=``, the folder continues from the checkpoint.
    :func:`lit_viz.log` accepts the folder; ``lit-viz check`` and ``resume`` require a run of the command line.

    Args:
        path: a missing or empty folder; with ``ckpt_path=``, that of the run.
        overwrite: whether an existing run is replaced.

    Raises:
        LitVizError: the folder is not empty, or the disk is full.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.overwrite = overwrite
        self._writer: RunWriter | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Open the folder, and delete what is later than the checkpoint."""
        if trainer.is_global_zero and trainer.training:
            folder, state = runs.RunFolder.open(self.path), check_run_state(checkpoint["lit_viz"])
            folder.trim(state["finished"], {slot["task"]: int(slot["state"][ITERATION]) for slot in state["slots"]})
            folder.checksums = dict(checkpoint["checksums"])
            (self.path / REPORT).unlink(missing_ok=True)
            self._writer = RunWriter(folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the folder, with the queue."""
        if not trainer.is_global_zero or self._writer is not None:
            return
        assert isinstance(pl_module, ImageTraining)
        self._writer = RunWriter(create_run(self.path, pl_module, self.overwrite))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Queue the snapshots and results of this step."""
        if self._writer is not None:
            self._writer.on_train_batch_end(trainer, pl_module, *args)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write everything before a checkpoint."""
        if self._writer is not None:
            self._writer.on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.on_exception(trainer, pl_module, exception)
            self._writer = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the folder, and write the report of a complete run."""
        if self._writer is not None:
            self._writer.on_train_end(trainer, pl_module)
            assert isinstance(pl_module, ImageTraining)
            if len(pl_module.finished) == len(pl_module.tasks):
                write_report(self._writer.folder, presentation_of(type(pl_module)))
            self._writer = None
