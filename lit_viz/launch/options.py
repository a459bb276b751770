"""Options of a run beside its method and its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from lit_viz.engine.method import half_precision
from lit_viz.errors import LitVizError, require
from lit_viz.loggers import logger_names
from lit_viz.loggers.base import LoggerSettings
from lit_viz.presentations import EvidenceOptions, FigureOptions
from lit_viz.types import slug

#: Arguments of the Trainer of a run, unless others are given.
TRAINER_DEFAULTS = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "precision": None}


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        out: run folder; None for a run in memory.
        logger: names of loggers, and loggers of Lightning, of a run folder.
        logger_settings: settings of the loggers that are given by name.
        trainer: arguments of the Trainer, or a Trainer.
        evidence: evidence that is computed at the end.
        figure: the figure.
        resume: whether an existing run in ``out`` is continued.
        overwrite: whether an existing run in ``out`` is replaced.
        checkpoint_every: steps between checkpoints; None for about 30 seconds.
        moves_network: whether the network, which was loaded for this run, is moved to the device of the Trainer.

    Raises:
        LitVizError: a value is invalid, or a logger is unknown or not installed.
    """

    out: Path | None = None
    logger: Sequence[str | Logger] = ("wandb",)
    logger_settings: LoggerSettings = field(default_factory=LoggerSettings)
    trainer: pl.Trainer | Mapping[str, Any] = field(default_factory=dict)
    evidence: EvidenceOptions = field(default_factory=EvidenceOptions)
    figure: FigureOptions = field(default_factory=FigureOptions)
    resume: bool = False
    overwrite: bool = False
    checkpoint_every: int | None = None
    moves_network: bool = False

    def __post_init__(self) -> None:
        every = self.checkpoint_every
        require(every is None or every >= 1, "checkpoint_every must be at least 1", every)
        if not isinstance(self.trainer, (pl.Trainer, Mapping)):
            raise LitVizError(f"trainer must be a Trainer or a mapping of its arguments, got {self.trainer!r}")

    @property
    def logger_names(self) -> list[str]:
        """Names of the loggers that are given by name and not disabled."""
        names = logger_names([logger for logger in self.logger if isinstance(logger, str)])
        if self.logger_settings.wandb == "disabled":
            return [name for name in names if name != "wandb"]
        return names

    @property
    def half_precision(self) -> str | None:
        """Lightning's name of the half precision; None for another precision."""
        return half_precision(self.trainer_arguments.precision)

    @property
    def own_loggers(self) -> list[Logger]:
        """Loggers of Lightning that are given as objects."""
        return [logger for logger in self.logger if isinstance(logger, Logger)]

    @property
    def trainer_arguments(self) -> SimpleNamespace:
        """Arguments of the Trainer that decide on devices and precision."""
        if isinstance(self.trainer, pl.Trainer):
            trainer = self.trainer
            accelerator = type(trainer.accelerator).__name__.removesuffix("Accelerator").lower()
            values = {
                "accelerator": accelerator,
                "devices": trainer.num_devices,
                "num_nodes": trainer.num_nodes,
                "precision": trainer.precision,
            }
            return SimpleNamespace(**values)
        return SimpleNamespace(**{**TRAINER_DEFAULTS, **self.trainer})


def loggers_of(given: str | Logger | Sequence[str | Logger] | None) -> list[str | Logger]:
    """Return loggers that are given by names with commas, objects, or a list of both; none for None."""
    if given is None:
        return []
    items = given if isinstance(given, (list, tuple)) else [given]
    found: list[str | Logger] = []
    for item in items:
        if isinstance(item, Logger):
            found.append(item)
        elif isinstance(item, str):
            found += item.split(",")
        else:
            raise LitVizError(f"logger must be a name or a logger of Lightning, got {item!r}")
    return found


def default_folder(method: str, first: object) -> Path:
    """Return a new path ``runs/<method>/<UTC time>_<first target>``."""
    name = f"{utc_now()}_{slug(str(first))}"
    path = Path("runs") / method / name
    number = 2
    while path.exists():  # of a run that started in the same second
        path = path.with_name(f"{name}_{number}")
        number += 1
    return path


def utc_now() -> str:
    """Return the UTC time as used in folder names, ``20260102-030405``."""
    return datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
