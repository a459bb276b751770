"""Probes: callbacks that run the methods on a network in training, and log what it has learned epoch by epoch."""

from __future__ import annotations

import copy
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lit_viz.attacks import ATTACKS, Attack, BudgetAttack, without_radius
from lit_viz.attributions import Attribution
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.isolation import eager_copy, random_state_preserved
from lit_viz.classifiers.loading import PerChannel, load
from lit_viz.engine.lightning import TaskQueue, messages_ignored
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, find_class, first_line
from lit_viz.evidence.attacks.robustness import clean_accuracy, robust_accuracy
from lit_viz.figures.curves import spread
from lit_viz.figures.epochs import delete_epochs, epoch_folder, save_epochs
from lit_viz.images import Fourier, Jitter, Noise, Rotate, Scale
from lit_viz.images.priors import L2
from lit_viz.images.reading import to_uint8
from lit_viz.loggers import adapter
from lit_viz.loggers.base import CaptionedImage
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap
from lit_viz.optim import Adam
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import remembered
from lit_viz.types import Result, Task, slug
from lit_viz.utils.files import plain
from lit_viz.utils.formatting import pluralize, probability_text, remark
from lit_viz.utils.process import single_process

#: Images ``(N, C, H, W)`` in [0, 1], a list of images and files, a batch (images, labels), a dataset or a loader.
ProbeImages = Tensor | Sequence[Any] | Dataset[Any] | DataLoader[Any]
#: The network to probe: the name of an attribute, or a function of the LightningModule.
NetworkOf = str | Callable[[LightningModule], nn.Module]

_SMALL = 96  # pixels; the recipe for photographs crops and blurs smaller inputs too much
_SHOWN = 128  # pixels; smaller pictures are enlarged in the logs
_LEAST_SECONDS = 1e-3  # one update is always made
_PICTURES = 8  # adversarial examples in the logs


class Probe(Callback):
    """Run a method on the network in training every n epochs, and log the results to the loggers of the Trainer.

    Training is unchanged bit for bit: the method gets a copy of the network without its hooks, and the global random
    state and PyTorch's settings are restored. With several processes, rank 0 runs the method while the others wait. A
    failure is a warning.

    Logged are images, metrics and the duration ``probe/seconds`` (of all probes with this prefix), at the global step.

    Args:
        every_n_epochs: number of epochs between two probes.
        network: the classifier, by its name in the LightningModule (``"net"``) or a function of the LightningModule.
            Default: the LightningModule itself.
        labels, mean, std, size: see :func:`~lit_viz.classifiers.load_classifier`. ``size`` is by default that of the
            images of the first batch.
        hook: ``train_epoch_end``, or ``validation_epoch_end`` for the weights that the validation uses. A callback that
            exchanges weights for it, such as ``WeightAveraging``, must follow the probe in the list of callbacks.
        out: folder that gets a run folder per epoch, and at the end of the training ``epochs.png`` and ``epochs.gif``.
        max_seconds: time limit of a probe; images are then logged as they are.
        max_fraction: time limit of a probe relative to the duration of the epoch.
        prefix: of the logged keys.
        slots: images trained at once.
        iterations: updates per image, evaluations per map; by default those of the method.

    Raises:
        LitVizError: an argument is invalid.
    """

    name: ClassVar[str]

    def __init__(
        self,
        every_n_epochs: int = 5,
        *,
        network: NetworkOf | None = None,
        labels: Sequence[str] | str | Path | None = None,
        mean: PerChannel | None = None,
        std: PerChannel | None = None,
        size: int | Sequence[int] | None = None,
        hook: Literal["train_epoch_end", "validation_epoch_end"] = "train_epoch_end",
        out: str | Path | None = None,
        max_seconds: float | None = None,
        max_fraction: float | None = None,
        prefix: str = "probe",
        slots: int = 32,
        iterations: int | None = None,
    ) -> None:
        if every_n_epochs < 1:
            raise LitVizError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        if hook not in ("train_epoch_end", "validation_epoch_end"):
            raise LitVizError(f"hook must be train_epoch_end or validation_epoch_end, got {hook!r}")
        for name, limit in {"max_seconds": max_seconds, "max_fraction": max_fraction}.items():
            if limit is not None and not limit > 0:
                raise LitVizError(f"{name} must be positive, got {limit}")
        self.every_n_epochs, self.network, self.hook = every_n_epochs, network, hook
        self.labels, self.mean, self.std, self.size = labels, mean, std, size
        self.out = None if out is None else Path(out)
        self.max_seconds, self.max_fraction = max_seconds, max_fraction
        self.prefix, self.slots = prefix, slots
        self.run_options: dict[str, Any] = {"iterations": iterations, "slots": slots, "log_at": "last"}
        self._reset()

    def _reset(self) -> None:
        self.seconds: dict[int, float] = {}  # by epoch
        self.failures: dict[int, str] = {}
        self._limited = 0  # epochs in which the time limit stopped the probe
        self._noted = False
        self._training_started = self._epoch_started = self._started = time.perf_counter()

    # What the probes define

    @abstractmethod
    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the method."""

    @abstractmethod
    def tasks(self, classifier: Classifier) -> TaskQueue:
        """Return the tasks, equal in every epoch."""

    @abstractmethod
    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the logged images by key, without the prefix."""

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        """Return the logged metrics by key, without the prefix."""
        return {}

    # Hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the durations."""
        self._reset()
        if self.out is not None and any(probe.out == self.out for probe in _probes(trainer) if probe is not self):
            raise LitVizError(f"probes must write to different folders, got out={str(self.out)!r} twice")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete the epochs of an earlier training in ``out``."""
        if self.out is not None and trainer.is_global_zero:
            with self._failure_as_warning(trainer.current_epoch):
                delete_epochs(self.out, after=trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the size of the images from the first batch."""
        if self.size is None:
            self.size = _image_size(batch)

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

    def _run(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise LitVizError(f"the network must be complete on rank 0, got {type(trainer.strategy).__name__}")
        classifier = self._classifier(pl_module)
        module, tasks = self.method(classifier), self.tasks(classifier)
        results = self._fit(module, tasks)
        images = {key: (image, f"epoch {epoch} · {caption}") for key, (image, caption) in self.images(results).items()}
        self._log(trainer, images, self.metrics(results))
        if self.out is not None:
            self._write(epoch_folder(self.out, epoch), trainer, classifier, tasks.tasks, results)
        errors = [result.record.error for result in results if result.record.status == "failed"]
        if errors:
            raise LitVizError(f"{len(errors)} of {pluralize(len(results), 'image')}: {errors[0]}")

    def _classifier(self, pl_module: LightningModule) -> Classifier:
        network: Any = pl_module
        if self.network is None and not is_overridden("forward", pl_module):
            names = ", ".join(
                name for name, child in pl_module.named_children() if any(True for _ in child.parameters())
            )
            raise LitVizError(
                f"{type(pl_module).__name__} must define forward: give network=, the name of its classifier, "
                f"one of: {names}"
            )
        if isinstance(self.network, str):
            network = pl_module.get_submodule(self.network)
        elif self.network is not None:
            network = self.network(pl_module)
        try:
            network = eager_copy(network)
        except Exception:  # any error of its attributes; the original is used, with its state preserved
            network = getattr(network, "_orig_mod", network)
        classifier = load(network, labels=self.labels, mean=self.mean, std=self.std, size=self.size)
        if not self._noted:
            for note in classifier.notes:
                remark(note)
        self._noted = True
        return classifier

    def _fit(self, module: ImageTraining, tasks: TaskQueue) -> list[Result]:
        """Train the images on the device of the network; those that the time limit stops are results as they are."""
        device = module.classifier.device
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            max_epochs=-1,
            max_time=None
            if (limit := self._time_limit()) is None
            else timedelta(seconds=max(limit - (time.perf_counter() - self._started), _LEAST_SECONDS)),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, datamodule=tasks)
        except SystemExit as error:  # Lightning's reaction to a KeyboardInterrupt, which belongs to the outer Trainer
            interrupt = error.__context__
            if not isinstance(interrupt, KeyboardInterrupt):
                raise
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
            raise interrupt from None
        self._limited += len(module.finished) < len(tasks.tasks)
        stopped = {result.task.index for result in module.results if not result.is_finished}
        return [
            replace(result, record=result.record.amend(status="done")) if result.task.index in stopped else result
            for result in module.results
        ]

    def _time_limit(self) -> float | None:
        """Return the time limit of a probe in seconds."""
        epoch_seconds = self._started - self._epoch_started
        limits = [self.max_seconds, None if self.max_fraction is None else self.max_fraction * epoch_seconds]
        return min((limit for limit in limits if limit is not None), default=None)

    def _log(self, trainer: Trainer, images: Mapping[str, CaptionedImage], metrics: Mapping[str, float]) -> None:
        for logger in map(adapter, trainer.loggers):
            if images:
                logger.log_images({f"{self.prefix}/{key}": image for key, image in images.items()}, trainer.global_step)
            if metrics:
                logger.log_metrics({f"{self.prefix}/{key}": v for key, v in metrics.items()}, trainer.global_step)

    def _write(
        self, path: Path, trainer: Trainer, classifier: Classifier, tasks: Sequence[Task], results: Sequence[Result]
    ) -> None:
        """Write the run folder of an epoch, in place of one of an earlier training."""
        folder = RunFolder.create(path, overwrite=True)
        folder.clear()
        network = {name: getattr(classifier, name) for name in ("name", "mean", "std", "size")}
        options = {"probe": self.name, "global_step": trainer.global_step, "classifier": network}
        folder.write_queue(tasks)
        folder.write_config(yaml.safe_dump(plain(options), sort_keys=False))
        for result in results:
            folder.add_result(result)
        folder.finish()


class ClassVisualizationProbe(Probe):
    """Class images of a network in training, with the same seed in every epoch.

    Logged are the images ``probe/class/<label>`` and ``probe/probability/<label>``, the probability of the class.

    Args:
        classes: class names or indices.
        every_n_epochs: number of epochs between two probes.
        iterations: updates per image.
        seed: seed of the first image; image i uses ``seed + i``.
        recipe: other arguments of :class:`~lit_viz.methods.ClassVisualization`. Default: its default, or for inputs
            below 96 pixels that of ``configs/visualize/small.yaml``.
        options: other arguments of :class:`Probe`.

    Example:
        >>> import lit_viz as lv
        >>> probe = lv.callbacks.ClassVisualizationProbe(["cat", "dog"], labels=["cat", "dog"], mean=0.5, std=0.25)
    """

    name = "class"

    def __init__(
        self,
        classes: Sequence[str | int] | str | int,
        every_n_epochs: int = 5,
        *,
        iterations: int = 150,
        seed: int = 0,
        recipe: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(every_n_epochs, iterations=iterations, **options)
        self.classes: Sequence[str | int] = [classes] if isinstance(classes, (str, int)) else list(classes)
        self.seed, self.recipe = seed, recipe

    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the method with its recipe."""
        recipe = self.recipe
        if recipe is None:
            recipe = small_recipe() if max(classifier.size) < _SMALL else {}
        method = ClassVisualization(classifier, **recipe, **self.run_options)
        method.judges = _no_judges
        return method

    def tasks(self, classifier: Classifier) -> TaskQueue:
        """Return a task per class."""
        labels, indices = classifier.labels, [classifier.index_of(name) for name in self.classes]
        return TaskQueue(
            [Task(i, labels[n], self.seed + i, target=n, target_name=labels[n]) for i, n in enumerate(indices)]
        )

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the class images."""
        return {
            f"class/{slug(r.record.title)}": (_enlarged(r.image), _caption(r)) for r in results if r.image is not None
        }

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        """Return the probabilities of the classes."""
        probabilities = {slug(result.record.title): result.record.probability for result in results}
        return {f"probability/{name}": p for name, p in probabilities.items() if p is not None}


def small_recipe() -> dict[str, Any]:
    """Return the arguments of ``ClassVisualization`` in ``configs/visualize/small.yaml``, with a tenth of the prior.

    At its full weight, the images of a network with a normalization, or of one that is hardly trained, are gray.
    """
    return {
        "parameterization": Fourier(decay=1.0, sd=0.01),
        "step_rule": Adam(lr=0.05),
        "transforms": [Jitter(pixels=1), Rotate(degrees=10.0), Scale(low=0.9, high=1.1), Noise(sd=0.1)],
        "priors": [L2(weight=0.1)],
        "views": 4,
    }


def _no_judges(image: Tensor, target: int) -> dict[str, Any]:
    """Return no verdicts: held-out networks would take longer than the probe."""
    return {}


class ImageProbe(Probe):
    """Base class of the probes of images.

    Args:
        images: tensor ``(N, C, H, W)`` in [0, 1], list of images ``(C, H, W)`` and files, batch ``(images, labels)``,
            or dataset or loader of (image, label). The images of a dataset or loader are network inputs: ``mean`` and
            ``std`` are removed.
        limit: number of images that are taken from a dataset or loader, evenly spaced; a loader is not iterated.
        every_n_epochs, options: see :class:`Probe`.
    """

    def __init__(self, images: ProbeImages, every_n_epochs: int = 5, *, limit: int = 64, **options: Any) -> None:
        super().__init__(every_n_epochs, **options)
        self.given, self.limit = images, limit
        self._tasks: TaskQueue | None = None

    def tasks(self, classifier: Classifier) -> TaskQueue:
        """Return a task per image; the images are read once."""
        if self._tasks is None:
            images, labels = self._read(classifier)
            self._tasks = _image_tasks(classifier, images, labels)
        return self._tasks

    def _read(self, classifier: Classifier) -> tuple[Sequence[Any], Sequence[Any] | None]:
        """Return images and labels; a loader is left as it is, because its sampler and workers have a state."""
        given: Any = self.given
        if not isinstance(given, (Dataset, DataLoader)):
            return given if isinstance(given, tuple) else (given, None)
        dataset, collate = (given.dataset, given.collate_fn) if isinstance(given, DataLoader) else (given, None)
        if not isinstance(dataset, IterableDataset):
            dataset = Subset(dataset, spread(len(dataset), self.limit))  # type: ignore[arg-type]
        images, labels, *_ = next(iter(DataLoader(dataset, self.limit, collate_fn=collate)))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (classifier.mean, classifier.std))
        return images * std + mean, labels


class SaliencyProbe(ImageProbe):
    """Saliency maps of the same images in every epoch, of their labels or else of the predicted classes.

    Logged are the images ``probe/saliency/<index>``, each beside its map.

    Args:
        images, every_n_epochs: see :class:`ImageProbe`.
        method: name or instance of a method, see :class:`~lit_viz.methods.SaliencyMap`.
        options: other arguments of :class:`ImageProbe` and :class:`Probe`.

    Example:
        >>> import lit_viz as lv, torch
        >>> probe = lv.callbacks.SaliencyProbe(torch.rand(4, 3, 32, 32), method="smoothgrad", every_n_epochs=2)
    """

    name = "saliency"

    def __init__(
        self,
        images: ProbeImages,
        every_n_epochs: int = 5,
        *,
        method: str | Attribution = "gradient",
        limit: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(images, every_n_epochs, limit=limit, **options)
        self.attribution = method

    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the method."""
        return SaliencyMap(classifier, self.attribution, batch=self.slots, **self.run_options)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the images beside their maps."""
        pairs = {r.task.options["image"] if r.task.source is None else r.task.index: r for r in results}
        return {
            f"saliency/{index:04d}": (_side_by_side([result.source, result.image]), _caption(result))
            for index, result in pairs.items()
            if result.source is not None and result.image is not None
        }


class RobustnessProbe(ImageProbe):
    """Accuracy of a network in training under attack.

    Logged are ``probe/accuracy``, ``probe/robust_accuracy``, which counts 8-bit files, and the first adversarial
    examples beneath their images. Without labels, ``robust_accuracy`` is the share of unchanged predictions. Images
    that the time limit stops count as robust: the value is then an upper bound. By default all images are attacked at
    once; with fewer ``slots``, images that have not started are not counted.

    Args:
        images, every_n_epochs: see :class:`ImageProbe`.
        attack: name or instance of an attack with a radius, see :data:`~lit_viz.attacks.ATTACKS`.
        eps: radius in units of [0, 1]; by default that of the attack.
        options: other arguments of :class:`ImageProbe` and :class:`Probe`.

    Raises:
        LitVizError: the attack has no radius, or an instance is given together with ``eps``.

    Example:
        >>> import lit_viz as lv, torch
        >>> batch = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
        >>> probe = lv.callbacks.RobustnessProbe(batch, attack="pgd", eps=2 / 255, every_n_epochs=2)
    """

    name = "robustness"

    def __init__(
        self,
        images: ProbeImages,
        every_n_epochs: int = 5,
        *,
        attack: str | Attack = "pgd",
        eps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(images, every_n_epochs, **{"slots": options.get("limit", 64), **options})
        if isinstance(attack, Attack) and eps is not None:
            raise LitVizError("eps must be an argument of the attack's instance")
        kind = type(attack) if isinstance(attack, Attack) else find_class(attack, ATTACKS, "attack")
        if not issubclass(kind, BudgetAttack):
            raise LitVizError(without_radius(kind))
        radius: dict[str, Any] = {} if eps is None else {"eps": eps}
        self.attack = attack if isinstance(attack, Attack) else kind(**radius)

    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the attack."""
        return AdversarialExample(classifier, copy.copy(self.attack), **self.run_options)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the first adversarial examples beneath their images."""
        shown = [r for r in results if getattr(r.record, "success_file", False)][:_PICTURES]
        if not shown:
            return {}
        columns = [_side_by_side([result.source, result.image], axis=0) for result in shown]
        names = ", ".join(str(getattr(result.record, "predicted_name", "")) for result in shown)
        return {"adversarial": (_join(columns, axis=1), f"predicted: {names}")}

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        """Return the accuracy before and under attack."""
        outcomes = remembered({result.task.index: result for result in results}, {})
        return {"accuracy": clean_accuracy(outcomes).share, "robust_accuracy": robust_accuracy(outcomes)[-1].share}


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
        return (batch.shape[2], batch.shape[3]) if batch.ndim == 4 else None
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return next((size for size in map(_image_size, items) if size is not None), None)


def _image_tasks(classifier: Classifier, images: Sequence[Any], labels: Sequence[Any] | None) -> TaskQueue:
    tasks: list[Task] = []
    pictures: list[Tensor] = []
    for i, image in enumerate(images):
        options: dict[str, Any] = {}
        source = None
        if isinstance(image, Tensor):
            options["image"] = len(pictures)
            pictures.append(_checked(image))
        else:
            source = str(image)
        label = None if labels is None else classifier.index_of(labels[i])
        name = f"image {i}" if label is None else f"image {i} {classifier.labels[label]}"
        origin = "predicted" if label is None else "given"
        tasks.append(Task(i, name, i, source=source, label=label, label_source=origin, options=options))
    return TaskQueue(tasks, pictures)


def _checked(image: Tensor) -> Tensor:
    image = image.detach().cpu().clone()
    if image.dtype == torch.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        raise LitVizError(
            f"images must be in [0, 1], got {low:.3g} to {high:.3g}: pass tensors without normalization, and give mean "
            "and std, which are removed from the images of a loader"
        )
    return image.float().clamp_(0, 1)


def _caption(result: Result) -> str:
    probability = result.record.probability
    parts = [result.record.title, "" if probability is None else probability_text(probability)]
    return " · ".join(filter(None, parts))


def _enlarged(image: Tensor) -> NDArray[np.uint8]:
    """Return an image ``(H, W, 3)``; the pixels of a small one are repeated."""
    pixels = to_uint8(image)
    times = max(1, _SHOWN // max(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def _side_by_side(images: Sequence[Tensor | None], axis: int = 1) -> NDArray[np.uint8]:
    return _join([_enlarged(image) for image in images if image is not None], axis)


def _join(images: Sequence[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Join images of equal size with white gaps."""
    shape = list(images[0].shape)
    shape[axis] = 4
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for image in images for part in (gap, image)][1:], axis)
