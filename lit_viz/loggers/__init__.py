"""Adapters to the loggers of Lightning, one file each. No logger is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.loggers.base import ImageAdapter

#: Loggers of a run folder by name: their names in messages. A logger has the folder of its name in the run folder.
LOGGERS = {"wandb": "W&B", "tensorboard": "TensorBoard", "mlflow": "MLflow", "csv": "CSV"}

#: Module and class of the adapter by class of the logger.
_ADAPTERS = {
    "WandbLogger": ("wandb", "WandbAdapter"),
    "TensorBoardLogger": ("tensorboard", "TensorBoardAdapter"),
    "MLFlowLogger": ("mlflow", "MLflowAdapter"),
    "CSVLogger": ("csv", "CSVAdapter"),
}


def adapter(logger: Any, axis: str | None = None) -> ImageAdapter:
    """Return the adapter of a logger of Lightning, which logs metrics and images.

    Loggers without an adapter receive the metrics only.

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


def logger_names(names: str | Sequence[str]) -> list[str]:
    """Return the names in ``wandb,tensorboard`` or in a list; none for ``none``.

    Raises:
        LitVizError: there is no such logger, or its package is not installed.
    """
    words = names.split(",") if isinstance(names, str) else names
    chosen = [name for word in words if (name := word.strip().lower()) not in ("", "none")]
    for name in chosen:
        if name not in LOGGERS:
            hint = did_you_mean(name, LOGGERS) or f": choose from {', '.join(LOGGERS)}, none"
            raise LitVizError(f"there is no logger {name!r}{hint}")
        if name != "csv" and find_spec(name) is None:
            raise LitVizError(f"the logger {name} requires the package {name}: pip install 'lit-viz[{name}]'")
    return list(dict.fromkeys(chosen))
