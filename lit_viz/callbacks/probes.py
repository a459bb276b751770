"""Probes of class images, saliency maps and the accuracy under attack."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Subset

from lit_viz.attacks import ATTACKS, Attack, BudgetAttack, without_radius
from lit_viz.attributions import ATTRIBUTIONS, Attribution
from lit_viz.callbacks.probe import Probe
from lit_viz.engine.method import check_at_least_one
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError, did_you_mean, find_part
from lit_viz.evidence.attacks.robustness import clean_accuracy, robust_share
from lit_viz.figures.sheet import tile
from lit_viz.images.priors import L2
from lit_viz.images.rendering import enlarged
from lit_viz.images.sources import DatasetImages, Images, is_dataset
from lit_viz.loggers.base import CaptionedImage
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap, recipes
from lit_viz.methods.photographs import class_tasks
from lit_viz.methods.tasks import Classes, ImageTasks, class_indices
from lit_viz.networks import Network
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.results import Outcome
from lit_viz.types import slug
from lit_viz.utils.checking import checked_types
from lit_viz.utils.formatting import probability_text
from lit_viz.utils.limits import evenly
from lit_viz.utils.parts import constructor_parameters

__all__ = ["ClassVisualizationProbe", "ImageProbe", "Probe", "RobustnessProbe", "SaliencyProbe"]

_SMALL = 96  # pixels; the recipe for photographs crops and blurs smaller inputs too much
_PICTURES = 8  # adversarial examples in the logs


class ClassVisualizationProbe(Probe):
    """Class images of a network in training, with the same seed in every epoch.

    Logged are the images ``probe/class/<label>`` and ``probe/probability/<label>``, the probability of the class.

    Args:
        target: class names or indices, an image each.
        every_n_epochs: number of epochs between two probes.
        iterations: updates per image.
        seed: seed of the first image; image i uses ``seed + i``.
        recipe: other arguments of :class:`~lit_viz.methods.ClassVisualization`. Default: its default, or for inputs
            below 96 pixels that of ``configs/visualize/small.yaml`` with a tenth of its prior.
        options: other arguments of :class:`Probe`.

    Example:
        >>> import lit_viz as lv
        >>> probe = lv.callbacks.ClassVisualizationProbe(["cat", "dog"], labels=["cat", "dog"], mean=0.5, std=0.25)
    """

    name = "class"

    @checked_types
    def __init__(
        self,
        target: Sequence[str | int] | str | int,
        every_n_epochs: int = 5,
        *,
        iterations: int = 150,
        seed: int = 0,
        recipe: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(every_n_epochs, **options)
        self.run_options["iterations"] = iterations
        self._check_recipe(recipe or {})
        self.target: Sequence[str | int] = [target] if isinstance(target, (str, int)) else list(target)
        self.seed, self.recipe = seed, recipe

    def _check_recipe(self, recipe: Mapping[str, Any]) -> None:
        parameters = constructor_parameters(ClassVisualization).keys() - {"network"}
        for name in recipe:
            if name in self.run_options:
                raise LitVizError(f"{name} is an argument of the probe: leave it out of recipe")
            if name not in parameters:
                near = did_you_mean(name, parameters)
                raise LitVizError(f"recipe must have arguments of ClassVisualization, got {name}{near}")

    def method(self, network: Network) -> ImageTraining:
        """Return the method with its recipe, without held-out networks, which would take longer than the probe."""
        recipe = dict(self.recipe or {})
        if self.recipe is None and max(network.size) < _SMALL:
            # At the prior's full weight, images of a network that is hardly trained, or normalizes, are gray.
            recipe = recipes.small() | {"priors": [L2(weight=0.1)]}
        return ClassVisualization(network, **(recipe | self.run_options))

    def tasks(self, network: Network) -> TaskQueue:
        return TaskQueue(class_tasks(network, self.target, None, self.seed), evidence=False)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        images: dict[str, CaptionedImage] = {}
        for result in results:
            if result.picture is not None:
                name = f"class/{slug(result.record.title)}"
                images[name] = enlarged(result.picture), result_caption(result)
        return images

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        probabilities = {slug(result.record.title): result.record.probability for result in results}
        return {f"probability/{name}": p for name, p in probabilities.items() if p is not None}


class ImageProbe(Probe):
    """Base class of the probes of images.

    Args:
        images, label: see :class:`~lit_viz.methods.tasks.ImageTasks`. The images of a dataset or loader are network
            inputs: ``mean`` and ``std`` are removed. They are read once; labels that are masks or boxes are ignored.
        limit: number of images that are taken from a dataset or loader, evenly spaced; a loader is not iterated.
        iterations: updates per image, or evaluations per map; by default the method's.
        every_n_epochs, options: see :class:`Probe`.
    """

    @checked_types
    def __init__(
        self,
        images: Images,
        every_n_epochs: int = 5,
        *,
        label: Classes | None = None,
        limit: int = 64,
        iterations: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(every_n_epochs, **options)
        check_at_least_one(limit=limit, iterations=1 if iterations is None else iterations)
        self.run_options["iterations"] = iterations
        self.given, self.label, self.limit = images, label, limit
        self._tasks: TaskQueue | None = None

    def tasks(self, network: Network) -> TaskQueue:
        """Return a task per image; a dataset is read once."""
        if self._tasks is None:
            images, label = self.given, self.label
            if is_dataset(images):
                images, classes = self._read(network)
                if label is None:
                    label = classes
            queue = ImageTasks(network, images, label=label)
            queue.evidence = False
            for task in queue.tasks:
                if task.error is not None:  # of one image among others, which would fail in every epoch
                    raise LitVizError(task.error)
            self._tasks = queue
        return self._tasks

    def _read(self, network: Network) -> tuple[list[Tensor], list[int] | None]:
        """Return images of a dataset, which may change them at random in every epoch, and their classes."""
        every = DatasetImages(self.given)  # type: ignore[arg-type]
        chosen = Subset(every.dataset, evenly(range(len(every)), self.limit))
        normalization = network.bands.in_files(network.mean, network.std)
        dataset = DatasetImages(chosen, normalization, network.bands)
        dataset.network_classes = class_indices(dataset, network)
        images: list[Tensor] = []
        classes: list[int] = []
        for index in range(len(dataset)):
            images.append(dataset[index])
            label = dataset.label(index)
            if label is not None:
                classes.append(label)
        return images, classes or None


class SaliencyProbe(ImageProbe):
    """Saliency maps of the same images in every epoch, of their labels or else of the predicted classes.

    Logged are the images ``probe/saliency/<index>``, each next to its map.

    Args:
        images, every_n_epochs: see :class:`ImageProbe`.
        method: name or instance of a method, see :class:`~lit_viz.methods.SaliencyMap`.
        options: other arguments of :class:`ImageProbe` and :class:`Probe`.

    Example:
        >>> import lit_viz as lv, torch
        >>> probe = lv.callbacks.SaliencyProbe(torch.rand(4, 3, 32, 32), method="smoothgrad", every_n_epochs=2)
    """

    name = "saliency"

    @checked_types
    def __init__(
        self,
        images: Images,
        every_n_epochs: int = 5,
        *,
        method: str | Attribution = "gradient",
        limit: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(images, every_n_epochs, limit=limit, **options)
        if isinstance(method, str):
            method = find_part(method, ATTRIBUTIONS, "saliency method")()
        self.attribution = method

    def method(self, network: Network) -> ImageTraining:
        return SaliencyMap(network, method=self.attribution, batch=self.slots, **self.run_options)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        images: dict[str, CaptionedImage] = {}
        for result in results:
            if result.source_picture is not None and result.picture is not None:
                pair = [enlarged(result.source_picture), enlarged(result.picture)]
                images[f"saliency/{result.task.index:04d}"] = tile(pair, columns=2), result_caption(result)
        return images


class RobustnessProbe(ImageProbe):
    """Accuracy of a network in training under attack.

    Logged are ``probe/accuracy``, ``probe/robust_share``, which counts 8-bit files, and the first adversarial
    examples beneath their images. Without labels, ``robust_share`` is the share of unchanged predictions. Images
    that the time limit stops count as robust: the value is then an upper bound. By default all images are attacked at
    once; with fewer ``slots``, images that have not started are not counted.

    Args:
        images, every_n_epochs: see :class:`ImageProbe`.
        attack: name or instance of an attack with a radius, see :data:`~lit_viz.attacks.ATTACKS`.
        eps: radius in units of [0, 1], such as ``"8/255"``; by default that of the attack.
        options: other arguments of :class:`ImageProbe` and :class:`Probe`.

    Raises:
        LitVizError: the attack has no radius, or an instance is given together with ``eps``.

    Example:
        >>> import lit_viz as lv, torch
        >>> images = torch.rand(4, 3, 32, 32)
        >>> probe = lv.callbacks.RobustnessProbe(images, label=[0, 1, 2, 3], attack="pgd", eps=2 / 255)
    """

    name = "robustness"

    @checked_types
    def __init__(
        self,
        images: Images,
        every_n_epochs: int = 5,
        *,
        attack: str | Attack = "pgd",
        eps: float | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(images, every_n_epochs, **{"slots": options.get("limit", 64), **options})
        if isinstance(attack, Attack) and eps is not None:
            raise LitVizError("eps must be an argument of the attack's instance")
        if isinstance(attack, Attack):
            kind = type(attack)
        else:
            kind = find_part(attack, ATTACKS, "attack")
        if not issubclass(kind, BudgetAttack):
            raise LitVizError(without_radius(kind))
        radius: dict[str, Any] = {}
        if eps is not None:
            radius["eps"] = eps
        self.attack = attack if isinstance(attack, Attack) else kind(**radius)

    def method(self, network: Network) -> ImageTraining:
        return AdversarialExample(network, attack=copy.copy(self.attack), **self.run_options)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        successes = [r for r in results if r.record.success_file][:_PICTURES]
        pictures = [*(result.source_picture for result in successes), *(result.picture for result in successes)]
        names = ", ".join(str(getattr(result.record, "predicted_name", "")) for result in successes)
        image = [enlarged(picture) for picture in pictures if picture is not None]
        if successes:
            return {"adversarial": (tile(image, columns=len(successes)), f"predicted: {names}")}
        return {}

    def metrics(self, results: Sequence[Result]) -> Mapping[str, float]:
        outcomes: Sequence[Outcome[Any]] = MemoryStorage(results).outcomes()
        return {"accuracy": clean_accuracy(outcomes).accuracy, "robust_share": robust_share(outcomes)[-1].accuracy}


def result_caption(result: Result) -> str:
    """Return the name of a result and the probability of its class."""
    probability = result.record.probability
    parts = [result.record.title, "" if probability is None else probability_text(probability)]
    return " · ".join(filter(None, parts))
