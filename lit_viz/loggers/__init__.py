"""Adapters to the loggers of Lightning, one file each. No logger is imported here."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from lit_viz.loggers.base import ImageAdapter

#: How a run is logged to W&B.
WandbMode = Literal["auto", "online", "offline", "disabled"]
#: Id of the W&B run of a run folder, and the mark of a W&B run that has all rows.
ID_FILE, COMPLETE = "wandb/run_id.txt", "wandb/complete"

#: Module and class of the adapter by class of the logger.
_ADAPTERS = {
    "WandbLogger": ("wandb", "WandbAdapter"),
    "TensorBoardLogger": ("tensorboard", "TensorBoardAdapter"),
    "MLFlowLogger": ("mlflow", "MLflowAdapter"),
    "CSVLogger": ("csv", "CSVAdapter"),
}


def adapter(logger: Any, axis: str | None = None) -> ImageAdapter:
    """Return the adapter of a logger of Lightning, which logs metrics and images.

    An unknown logger receives the metrics only.

    Args:
        logger: one of ``trainer.loggers``.
        axis: name of the axis of the steps, such as ``iteration``. Default: the global step of the Trainer.
    """
    for kind in type(logger).__mro__:
        if kind.__name__ in _ADAPTERS and "lightning" in kind.__module__:
            module, name = _ADAPTERS[kind.__name__]
            known: ImageAdapter = getattr(import_module(f"{__name__}.{module}"), name)(logger, axis)
            return known
    return ImageAdapter(logger, axis)
