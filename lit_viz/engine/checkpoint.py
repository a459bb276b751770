"""Checkpoints: written atomically, read without executing code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from lit_viz.errors import LitVizError
from lit_viz.utils.files import atomic_write

#: Incremented when older checkpoints can no longer be resumed.
CHECKPOINT_VERSION = 3


class AtomicCheckpointIO(CheckpointIO):
    """Write a checkpoint next to its path and rename it, so that the previous one is valid until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint.

        Raises:
            LitVizError: the disk is full; the previous checkpoint is kept.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, always with ``weights_only``.

        Raises:
            LitVizError: the file is missing or damaged.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # several types, depending on the damage
            raise LitVizError(
                f"the checkpoint {path} can't be read ({type(error).__name__}): "
                "start the run again with --overwrite, or in another folder."
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file, if it exists."""
        Path(path).unlink(missing_ok=True)


def pack_run_state(slots: Sequence[Mapping[str, Any]], finished: Mapping[int, str]) -> dict[str, Any]:
    """Return the checkpoint entry of a run.

    Args:
        slots: unfinished images, as returned by :meth:`~lit_viz.engine.slots.Slots.dump`.
        finished: status of each finished task, by index.
    """
    return {"version": CHECKPOINT_VERSION, "slots": list(slots), "finished": dict(finished)}


def check_run_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the entry written by :func:`pack_run_state`.

    Raises:
        LitVizError: the entry has another version.
    """
    if state["version"] != CHECKPOINT_VERSION:
        raise LitVizError(
            f"the checkpoint must have version {CHECKPOINT_VERSION}, got {state['version']}: "
            "resume it with the lit_viz release recorded in its config.yaml."
        )
    return state
