"""Adapters to the loggers of Lightning, one file each. No logger is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.loggers.base import ImageAdapter
from lit_viz.utils.imports import required
from lit_viz.utils.sequences import split_commas


@dataclass(frozen=True)
class Registration:
    """A logger of run folders.

    Attributes:
        title: its name in messages.
        logger: name of the class of Lightning.
        adapter: name of the class of its adapter.
        versions: tested versions of its package, if that is an extra.
    """

    title: str
    logger: str
    adapter: str
    versions: str = ""


#: Loggers by name. The name is that of the module with the adapter, of the package that it requires, and of the folder
#: in the run folder that holds all of its files.
LOGGERS = {
    "wandb": Registration("W&B", "WandbLogger", "WandbAdapter"),
    "tensorboard": Registration("TensorBoard", "TensorBoardLogger", "TensorBoardAdapter", "tensorboard 2.15 to 2.21"),
    "mlflow": Registration("MLflow", "MLFlowLogger", "MLflowAdapter", "mlflow 2.8 to 3.18"),
    "csv": Registration("CSV", "CSVLogger", "CSVAdapter"),
}


def adapter(logger: Any, axis: str | None = None) -> ImageAdapter:
    """Return the adapter of a logger of Lightning, which logs metrics and images.

    Loggers without an adapter receive the metrics only.

    Args:
        logger: one of ``trainer.loggers``.
        axis: name of the axis of the steps, such as ``iteration``. Default: the global step of the Trainer.
    """
    for kind in type(logger).__mro__:
        if "lightning" not in kind.__module__:
            continue
        for name, registration in LOGGERS.items():
            if registration.logger == kind.__name__:
                adapter_class = getattr(import_module(f"{__name__}.{name}"), registration.adapter)
                registered: ImageAdapter = adapter_class(logger, axis)
                return registered
    return ImageAdapter(logger, axis)


def logger_names(names: str | Sequence[str]) -> list[str]:
    """Return the names in ``wandb,tensorboard`` or in a list; none for ``none``.

    Raises:
        LitVizError: there is no such logger, or its package is not installed.
    """
    chosen: list[str] = []
    for word in split_commas(names):
        name = word.strip().lower()
        if name in ("", "none", *chosen):
            continue
        if name not in LOGGERS:
            hint = did_you_mean(name, LOGGERS) or f": choose from {', '.join(LOGGERS)}, none"
            raise LitVizError(f"there is no logger {name!r}{hint}")
        versions = LOGGERS[name].versions
        with required(versions, f"the logger {name}", extra=name):
            if versions and find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}")
        chosen.append(name)
    return chosen
