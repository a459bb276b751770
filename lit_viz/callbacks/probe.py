"""Base class of the probes: callbacks that run a method on a network in training."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lit_viz.callbacks.saving import complete_run, create_run
from lit_viz.engine.lightning import interrupts_raised, messages_ignored
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError, did_you_mean, first_line
from lit_viz.figures.epochs import delete_epochs, epoch_folder, epoch_folders, save_epochs
from lit_viz.loggers import adapter
from lit_viz.loggers.base import CaptionedImage
from lit_viz.networks import Network
from lit_viz.networks.bands import ValueRange
from lit_viz.networks.isolation import eager_copy, random_state_preserved
from lit_viz.networks.loading import PerChannel, load
from lit_viz.outputs import as_output
from lit_viz.utils.checking import checked_types
from lit_viz.utils.formatting import pluralize, remark
from lit_viz.utils.parts import constructor_parameters
from lit_viz.utils.process import single_process

#: The network to probe: the name of an attribute, or a function of the LightningModule.
NetworkOf = str | Callable[[LightningModule], nn.Module]

ProbeT = TypeVar("ProbeT", bound="Probe")

_LEAST_SECONDS = 1e-3  # one update is always made
_SHARDED = {"DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy"}


class Probe(Callback):
    """Run a method on the network in training every n epochs, and log the results to the loggers of the Trainer.

    Training is unchanged bit for bit: the method gets a copy of the network without its hooks, and the global random
    state and PyTorch's settings are restored. With several processes, rank 0 runs the method while the others wait.
    Before the first update, the probe is tried on the network without an iteration, so that an invalid argument is an
    error at once; later a failure is a warning. The Trainer may be of ``pytorch_lightning`` or ``lightning.pytorch``.

    Logged are images, metrics and the duration ``probe/seconds`` (of all probes with this prefix), at the global step.
    Metrics are in ``trainer.callback_metrics`` of rank 0, too.

    Args:
        every_n_epochs: number of epochs between two probes.
        network: the network, by its name in the LightningModule (``"net"``) or a function of the LightningModule.
            Default: the LightningModule itself, or without a ``forward`` the only network in it.
        labels, mean, std, size, channels, bands, display, value_range, multi_label: see
            :func:`~lit_viz.load_network`. ``size`` is by default that of the images of the first batch.
        output: what is scored of a network that is no classifier; see :func:`~lit_viz.load_network`.
        hook: ``train_epoch_end``, or ``validation_epoch_end`` for the weights that the validation uses. A callback that
            exchanges weights for it, such as ``WeightAveraging``, must follow the probe in the list of callbacks.
        out: folder without epochs of another training, that gets a run folder with ``report.html`` per epoch, and at
            the end of the training ``epochs.png`` and ``epochs.gif``. A training with ``ckpt_path=`` continues it.
        max_seconds: time limit of a probe; images are then logged as they are.
        max_fraction: time limit of a probe relative to the duration of the epoch.
        prefix: of the logged keys.
        slots: images trained at once.

    Raises:
        LitVizError: an argument is invalid, also for the network when the training starts, or ``out`` contains epochs
            of another training.
    """

    name: ClassVar[str]

    def __new__(cls: type[ProbeT], *arguments: Any, **options: Any) -> ProbeT:
        """Reject unknown arguments: the constructors of subclasses pass them on."""
        parameters = constructor_parameters(cls)
        for name in options:
            if name not in parameters:
                raise LitVizError(f"{name} is not an argument of {cls.__name__}{did_you_mean(name, parameters)}")
        return super().__new__(cls)

    @checked_types
    def __init__(
        self,
        every_n_epochs: int = 5,
        *,
        network: NetworkOf | None = None,
        labels: Sequence[str] | str | Path | None = None,
        mean: PerChannel | None = None,
        std: PerChannel | None = None,
        size: int | Sequence[int] | None = None,
        channels: int | None = None,
        bands: Sequence[str] | None = None,
        display: Sequence[str | int] | str | int | None = None,
        value_range: ValueRange | None = None,
        multi_label: bool | None = None,
        output: Any = "logits",
        hook: Literal["train_epoch_end", "validation_epoch_end"] = "train_epoch_end",
        out: str | Path | None = None,
        max_seconds: float | None = None,
        max_fraction: float | None = None,
        prefix: str = "probe",
        slots: int = 32,
    ) -> None:
        if every_n_epochs < 1:
            raise LitVizError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        for name, limit in {"max_seconds": max_seconds, "max_fraction": max_fraction}.items():
            if limit is not None and not limit > 0:
                raise LitVizError(f"{name} must be positive, got {limit}")
        self.every_n_epochs, self.network, self.hook = every_n_epochs, network, hook
        self.size = size
        self.network_options: dict[str, Any] = {
            "labels": labels,
            "mean": mean,
            "std": std,
            "channels": channels,
            "bands": bands,
            "display": display,
            "value_range": value_range,
            "multi_label": multi_label,
            "output": as_output(output),
        }
        self.out = None if out is None else Path(out)
        self.max_seconds, self.max_fraction = max_seconds, max_fraction
        self.prefix, self.slots = prefix, slots
        self.run_options: dict[str, Any] = {"slots": slots, "log_at": "last"}
        self._reset()

    def _reset(self) -> None:
        self.seconds: dict[int, float] = {}  # by epoch
        self.failures: dict[int, str] = {}
        self._limited = 0  # epochs in which the time limit stopped the probe
        self._noted = self._is_checked = False
        self._training_started = self._epoch_started = self._started = time.perf_counter()

    # What the probes define

    @abstractmethod
    def method(self, network: Network) -> ImageTraining:
        """Return the method."""

    @abstractmethod
    def tasks(self, network: Network) -> TaskQueue:
        """Return the tasks, equal in every epoch."""

    @abstractmethod
    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the logged images by key, without the prefix."""

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        """Return the logged metrics by key, without the prefix."""
        return {}

    # Hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the durations, and check the folder ``out``, and the arguments if the images have a fixed size."""
        self._reset()
        if self.out is not None:
            self._check_folder(trainer, self.out)
        if self.size is not None:
            self._check(trainer, pl_module)

    def _check_folder(self, trainer: Trainer, out: Path) -> None:
        if any(probe.out == out for probe in _probes(trainer) if probe is not self):
            raise LitVizError(f"probes must write to different folders, got out={str(out)!r} twice")
        continues = trainer.ckpt_path is not None or trainer.current_epoch > 0
        if epoch_folders(out) and not continues:
            raise LitVizError(
                f"{out} already holds the epochs of a training: ckpt_path= continues it, or choose another out="
            )

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make method and tasks once, so that an invalid argument is no failure after epochs; equal on all ranks."""
        self._is_checked = True
        problem = None
        if trainer.is_global_zero:
            try:
                with _training_preserved(pl_module):
                    module, tasks = self._make(trainer, pl_module)
                    tasks.attach(module)
                    module.validate_tasks(tasks.tasks)
            except LitVizError as error:
                problem = str(error)
            except Exception as error:  # not of an argument; the training is not stopped for it
                reason = f"{type(error).__name__}: {first_line(error)}"
                rank_zero_warn(f"{type(self).__name__} failed before the training, which continues ({reason})")
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise LitVizError(f"{type(self).__name__}: {problem}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete the epochs in ``out`` that follow the checkpoint of a continued training."""
        if self.out is not None and trainer.is_global_zero:
            with self._failure_as_warning(trainer.current_epoch):
                delete_epochs(self.out, after=trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the size of the images from the first batch, and check the arguments."""
        if self.size is None:
            self.size = _image_size(batch)
        if not self._is_checked:
            self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the probe, unless it belongs to the validation."""
        if self.hook == "train_epoch_end":
            self._run_if_due(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the probe, if it belongs to the validation."""
        if self.hook == "validation_epoch_end" and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._run_if_due(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the duration of the probes, and draw the epochs in ``out``."""
        if not trainer.is_global_zero or not self.seconds:
            return
        if self.out is not None and len(self.failures) < len(self.seconds):
            with self._failure_as_warning(trainer.current_epoch):
                save_epochs(self.out)
        total, training = sum(self.seconds.values()), time.perf_counter() - self._training_started
        parts = [f"{pluralize(len(self.seconds), 'probe')}, {total:.1f} s, {total / training:.0%} of the training"]
        if self._limited:
            parts.append(f"{self._limited} stopped by the time limit")
        if self.failures:
            parts.append(f"{len(self.failures)} failed")
        rank_zero_info(f"{type(self).__name__}: {'; '.join(parts)}")

    # A probe

    def _run_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs or epoch in self.seconds:
            return
        self._started = time.perf_counter()
        if trainer.is_global_zero:
            with self._failure_as_warning(epoch), _training_preserved(pl_module):
                self._run(trainer, pl_module, epoch)
        trainer.strategy.barrier(f"lit_viz {self.name}")
        self.seconds[epoch] = time.perf_counter() - self._started
        probes = [probe for probe in _probes(trainer) if probe.prefix == self.prefix]
        are_done = all(epoch in probe.seconds or epoch % probe.every_n_epochs for probe in probes)
        if trainer.is_global_zero and are_done:
            with self._failure_as_warning(epoch):
                seconds = sum(probe.seconds.get(epoch, 0.0) for probe in probes)
                self._log(trainer, {}, {"seconds": seconds})

    @contextmanager
    def _failure_as_warning(self, epoch: int) -> Iterator[None]:
        """Report the first exception as a warning; later ones are counted."""
        try:
            yield
        except Exception as error:  # of the user's network, a logger or the disk
            if not self.failures:
                reason = f"{type(error).__name__}: {first_line(error)}"
                rank_zero_warn(f"{type(self).__name__} failed after epoch {epoch}, training continues ({reason})")
            self.failures[epoch] = str(error)

    def _make(self, trainer: Trainer, pl_module: LightningModule) -> tuple[ImageTraining, TaskQueue]:
        """Return the method for the network as it is now, and its tasks."""
        strategy = type(trainer.strategy)
        if _SHARDED & {kind.__name__ for kind in strategy.__mro__}:
            raise LitVizError(f"the network must be complete on rank 0, got {strategy.__name__}")
        network = self._network(pl_module)
        return self.method(network), self.tasks(network)

    def _run(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        module, tasks = self._make(trainer, pl_module)
        results = self._fit(module, tasks)
        images: dict[str, CaptionedImage] = {}
        for key, (image, caption) in self.images(results).items():
            images[key] = image, f"epoch {epoch} · {caption}"
        self._log(trainer, images, self.metrics(results))
        if self.out is not None:
            folder = create_run(epoch_folder(self.out, epoch), module, probe=self.name, global_step=trainer.global_step)
            for result in results:
                folder.add_result(result)
            folder.commit()
            complete_run(folder, type(module))
        errors = [result.record.error for result in results if result.record.status == "failed"]
        if errors:
            raise LitVizError(f"{len(errors)} of {pluralize(len(results), 'image')}: {errors[0]}")

    def _network(self, pl_module: LightningModule) -> Network:
        network: Any = self._module(pl_module)
        try:
            network = eager_copy(network)
        except Exception:  # any error of its attributes; the original is used, with its state preserved
            network = getattr(network, "_orig_mod", network)
        classifier = load(network, size=self.size, **self.network_options)
        if not self._noted:
            for note in classifier.notes:
                remark(note)
        self._noted = True
        return classifier

    def _module(self, pl_module: LightningModule) -> nn.Module:
        if self.network is None:
            return pl_module
        if isinstance(self.network, str):
            modules = dict(pl_module.named_modules())
            if self.network not in modules:
                hint = did_you_mean(self.network, modules) or f": it has {', '.join(dict(pl_module.named_children()))}"
                name = type(pl_module).__name__
                raise LitVizError(f"network must be a submodule of {name}, got {self.network!r}{hint}")
            module: nn.Module = modules[self.network]
            return module
        try:
            network: Any = self.network(pl_module)
        except Exception as error:  # any error of the function
            raise LitVizError(f"the function network= raised {type(error).__name__}: {first_line(error)}") from error
        if not isinstance(network, nn.Module):
            raise LitVizError(f"the function network= must return a module, got {network!r}")
        return network

    def _fit(self, module: ImageTraining, tasks: TaskQueue) -> list[Result]:
        """Train the images on the device of the network; the time limit stops them as they are."""
        device = module.network.device
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            max_epochs=-1,
            max_time=self._remaining_time(),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with interrupts_raised():
            trainer.fit(module, datamodule=tasks)
        self._limited += len(module.finished) < len(tasks.tasks)
        results: list[Result] = []
        for result in module.results:
            if not result.is_finished:
                result = replace(result, record=result.record.amend(status="done"))
            results.append(result)
        return results

    def _remaining_time(self) -> timedelta | None:
        """Return the time until the earlier of both limits; None without a limit."""
        limits: list[float] = []
        if self.max_seconds is not None:
            limits.append(self.max_seconds)
        if self.max_fraction is not None:
            limits.append(self.max_fraction * (self._started - self._epoch_started))
        if not limits:
            return None
        used = time.perf_counter() - self._started
        return timedelta(seconds=max(min(limits) - used, _LEAST_SECONDS))

    def _log(self, trainer: Trainer, images: Mapping[str, CaptionedImage], metrics: Mapping[str, float]) -> None:
        named = {f"{self.prefix}/{key}": image for key, image in images.items()}
        scalars = {f"{self.prefix}/{key}": value for key, value in metrics.items()}
        for key, value in scalars.items():  # which callbacks such as ModelCheckpoint monitor
            trainer.callback_metrics[key] = torch.tensor(float(value))
        for logger in map(adapter, trainer.loggers):
            logger.log(scalars, named, trainer.global_step)


def _probes(trainer: Trainer) -> list[Probe]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Probe)]


@contextmanager
def _training_preserved(module: nn.Module) -> Iterator[None]:
    """Enable gradients, and restore the global state of Python and torch after the body."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        random_state_preserved(module),
        single_process(),
        messages_ignored(),
    ):
        torch.use_deterministic_algorithms(False)  # some methods need operations that have no deterministic version
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warns)


def _image_size(batch: Any) -> tuple[int, int] | None:
    """Return the size of the first images ``(N, C, H, W)`` of a batch."""
    if isinstance(batch, Tensor):
        if batch.ndim != 4:
            return None
        return batch.shape[2], batch.shape[3]
    items: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, (list, tuple)):
        items = batch
    for item in items:
        size = _image_size(item)
        if size is not None:
            return size
    return None
