"""The checkpoint of a run folder."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.module import CHECKPOINT_VERSION
from lit_viz.runs.folder import FolderStorage

#: File of the last checkpoint, relative to the run folder.
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")


def new_trainer_state() -> dict[str, Any]:
    """Return the part of a checkpoint that Lightning requires; saved runs of earlier versions lack it."""
    version = metadata.version("pytorch-lightning")
    return {"state_dict": {}, "optimizer_states": [], "lr_schedulers": [], "pytorch-lightning_version": version}


def write_checkpoint(folder: FolderStorage) -> None:
    """Write the checkpoint of a complete run: finished tasks and checksums, with the state of a new Trainer."""
    checkpoint = new_trainer_state()
    checkpoint["lit_viz"] = {
        "version": CHECKPOINT_VERSION,
        "slots": [],
        "finished": {record.index: record.status for record in folder.records()},
    }
    checkpoint["checksums"] = folder.checksums
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder.path / LAST_CHECKPOINT)
