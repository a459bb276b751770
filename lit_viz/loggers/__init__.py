"""Adapters to the loggers of Lightning. W&B's options and files are defined here, so that wandb is not imported."""

from __future__ import annotations

from typing import Literal

#: How a run is logged to W&B.
WandbMode = Literal["auto", "online", "offline", "disabled"]
#: Id of the W&B run of a run folder, and the mark of a W&B run that has all rows.
ID_FILE, COMPLETE = "wandb/run_id.txt", "wandb/complete"
