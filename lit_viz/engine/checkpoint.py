"""Checkpoints: written whole or not at all, read without running code, small enough to be saved often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from lit_viz.errors import LitVizError
from lit_viz.utils.files import atomic_write

#: Changes when a checkpoint of an older version can't be continued.
CHECKPOINT_VERSION = 3


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target and renames, so that the previous checkpoint stays until the new one is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint.

        Raises:
            LitVizError: when the disk is full; the previous checkpoint is kept.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is executed, whatever ``weights_only`` says.

        Raises:
            LitVizError: when the file is missing or damaged.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for damaged files
            raise LitVizError(
                f"the checkpoint {path} can't be read ({type(error).__name__}): "
                "start the run again with --overwrite, or in another folder."
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file, if it is there."""
        Path(path).unlink(missing_ok=True)


def packed(slots: Sequence[Mapping[str, Any]], finished: Mapping[int, str]) -> dict[str, Any]:
    """Return what a checkpoint keeps of a run.

    Args:
        slots: the images half-way, as :meth:`~lit_viz.engine.slots.Slots.dump` gives them.
        finished: by task, how it ended.
    """
    return {"version": CHECKPOINT_VERSION, "slots": list(slots), "finished": dict(finished)}


def unpacked(kept: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`packed` has kept.

    Raises:
        LitVizError: it is of another version.
    """
    if kept["version"] != CHECKPOINT_VERSION:
        raise LitVizError(
            f"the checkpoint is of version {kept['version']} and this lit_viz continues version "
            f"{CHECKPOINT_VERSION}: resume it with the lit_viz that its config.yaml names."
        )
    return kept
