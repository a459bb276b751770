"""Adapters to the loggers of Lightning."""

from __future__ import annotations

from typing import Literal

#: How a run is logged to W&B. Defined here so that parsing an option does not import wandb.
WandbMode = Literal["auto", "online", "offline", "disabled"]
