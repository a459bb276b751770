"""Options of a run in addition to its method and its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from datetime import datetime, timezone
from inspect import Signature, signature
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Concatenate, ParamSpec, TypeVar

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from lit_viz.engine.method import half_precision
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.engine.shards import Shard
from lit_viz.errors import require
from lit_viz.evidence.verifier import Check
from lit_viz.figures.scales import ScaleOf
from lit_viz.launch.specs import METHODS
from lit_viz.loggers import LOGGERS, logger_names
from lit_viz.loggers.base import LoggerSettings
from lit_viz.presentations import FigureFormat, FigureOptions, Presentation, Rows, presentation_of
from lit_viz.runs.access import check_new, check_usable, is_run
from lit_viz.runs.tar_store import Store
from lit_viz.types import slug
from lit_viz.utils.checking import check_fields, check_types
from lit_viz.utils.imports import import_by_path
from lit_viz.utils.sequences import as_list

#: Arguments of the Trainer of a run, unless others are given.
TRAINER_DEFAULTS = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "precision": None}
#: Arguments of the Trainer that a run sets itself, or that have no meaning for a run.
FIXED_TRAINER_ARGUMENTS = frozenset({
    "max_epochs", "max_steps", "min_epochs", "min_steps", "max_time", "callbacks", "logger", "plugins", "fast_dev_run",
    "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode", "default_root_dir",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "barebones",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "use_distributed_sampler",
    "reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "model_registry", "sync_batchnorm",
})  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """The arguments of :func:`lit_viz.run` other than its module and its tasks. See there for their description.

    Raises:
        LitVizError: a value is invalid, or a logger is unknown or not installed.
    """

    out: str | Path | None = None
    _: KW_ONLY
    logger: str | Logger | Sequence[str | Logger] | None = "wandb"
    logging: LoggerSettings | None = None
    trainer: pl.Trainer | Mapping[str, Any] | None = None
    captum: Check = "auto"
    faithfulness: bool = False
    localize: bool = False
    boxes: str | Path | None = None
    explain: bool = False
    figure: FigureFormat = "png"
    scale: ScaleOf = "map"
    overlays: bool = False
    rows: Rows = "first"
    resume: bool = False
    overwrite: bool = False
    checkpoint_every: int | None = None
    shard: str | None = None
    store: Store = "files"
    store_arrays: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.out != "", "out must not be empty", repr(self.out))
        every = self.checkpoint_every
        require(every is None or every >= 1, "checkpoint_every must be at least 1", every)
        if self.store != "files":
            require(self.out is not None, "store requires out", "none", hint="give the folder of the run")
        stores_tars = self.store == "tar" or not self.store_arrays
        require(stores_tars, "store_arrays requires store=tar", f"store={self.store}", hint="files hold the maps too")
        if self.shard is not None:
            require(self.out is not None, "shard requires out", "none", hint="give the folder of the whole run")
            Shard.parse(self.shard)
        assert self.logger_names is not None  # first, because it may fail

    @property
    def folder(self) -> Path | None:
        """The run folder; None for a run in memory. That of a shard is in the folder of the whole run."""
        if self.out is None or self.shard is None:
            return None if self.out is None else Path(self.out)
        return Path(self.out, Shard.parse(self.shard).folder_name)

    @property
    def continues(self) -> bool:
        """Whether a run in the folder is continued; a shard is, unless it is replaced."""
        return self.resume or (self.shard is not None and not self.overwrite)

    @property
    def changed(self) -> dict[str, Any]:
        """The options that have not their default."""
        return {part.name: value for part in fields(self) if (value := getattr(self, part.name)) != part.default}

    @property
    def figure_options(self) -> FigureOptions:
        """How the figure is drawn."""
        return FigureOptions(self.figure, self.scale, self.overlays, self.rows)

    @property
    def logger_settings(self) -> LoggerSettings:
        """Settings of the loggers that are given by name."""
        return self.logging or LoggerSettings()

    @property
    def given_names(self) -> list[str]:
        """Names of loggers as they are given, also with commas."""
        names: list[str] = []
        for logger in as_list(self.logger):
            if isinstance(logger, str):
                names += logger.split(",")
        return names

    def recorded(self) -> dict[str, Any]:
        """Return the arguments as a form records them: loggers and devices by name."""
        arguments = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "progress"}
        arguments["logger"] = ",".join(self.given_names) or "none"
        arguments["logging"] = asdict(self.logger_settings)
        arguments["trainer"] = vars(self.trainer_arguments)
        return arguments

    @property
    def logger_names(self) -> list[str]:
        """Names of the loggers that are given by name and not disabled."""
        names = logger_names(self.given_names)
        if self.logging is not None and self.logging.wandb == "disabled":
            return [name for name in names if name != "wandb"]
        return names

    @property
    def half_precision(self) -> str | None:
        """Lightning's name of the half precision; None for another precision."""
        return half_precision(self.trainer_arguments.precision)

    @property
    def own_loggers(self) -> list[Logger]:
        """Loggers of Lightning that are given as objects."""
        return [logger for logger in as_list(self.logger) if isinstance(logger, Logger)]

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
        return SimpleNamespace(**{**TRAINER_DEFAULTS, **(self.trainer or {})})


P = ParamSpec("P")
R = TypeVar("R")
_Of = Callable[[ImageTraining, TaskQueue, RunOptions], R]


def with_options(
    options: Callable[P, RunOptions],
) -> Callable[[_Of[R]], Callable[Concatenate[ImageTraining, TaskQueue, P], R]]:
    """Return a decorator: a function of a module, tasks and options has the parameters of the options in their place,
    for type checkers, editors and the help."""

    def decorate(function: _Of[R]) -> Callable[Concatenate[ImageTraining, TaskQueue, P], R]:
        own = signature(function)
        parameters = [*list(own.parameters.values())[:2], *signature(options).parameters.values()]

        def call(*args: Any, **kwargs: Any) -> R:
            check_types(call, args, kwargs)
            given = signature(call).bind(*args, **kwargs).arguments
            return function(given.pop("module"), given.pop("tasks"), options(**given))  # type: ignore[call-arg]

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(call, name, getattr(function, name))
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.__signature__ = Signature(parameters, return_annotation=own.return_annotation)  # type: ignore[attr-defined]
        return call

    return decorate


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


def _presentations() -> list[Presentation[Any]]:
    """Return the presentations of all methods."""
    paths = chain.from_iterable(spec.modules for spec in METHODS.values())
    return [presentation_of(import_by_path(path)) for path in paths]


def options_of_methods() -> frozenset[str]:
    """Return the options of figure and evidence that apply to some methods only."""
    return frozenset(chain.from_iterable(presentation.run_options for presentation in _presentations()))


def extra_files() -> tuple[str, ...]:
    """Return the patterns of the files that only runs of some methods or with some loggers contain."""
    patterns: list[str] = []
    for presentation in _presentations():
        patterns += presentation.files
    return (*dict.fromkeys(patterns), *LOGGERS)


def check_folder_is_new(options: RunOptions) -> None:
    """Check, before anything is loaded, that a run may write its folder.

    Raises:
        LitVizError: it holds a run that is neither continued nor replaced, or other files.
    """
    folder = options.folder
    if folder is None:
        return
    if not is_run(folder):
        check_usable(folder)
    elif not options.continues:
        check_new(folder, options.overwrite, extra_files())
