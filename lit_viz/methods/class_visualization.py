"""What does a class look like to the network? An image is trained until the frozen network sees the class in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.engine.evaluation import Evaluator
from lit_viz.engine.module import ImageTraining, Look
from lit_viz.engine.tasks import Task
from lit_viz.errors import LitVizError
from lit_viz.evidence.verdicts import top, verdict
from lit_viz.images.parameterizations import Canvas, Parameterization, encoding_error
from lit_viz.images.priors import Prior, Projection
from lit_viz.images.transforms import Compose, Transform
from lit_viz.objectives import Logit, Objective
from lit_viz.optim import Evaluation, StepRule
from lit_viz.randomness import Draws, Key

#: Asks other networks about a finished picture and a class: name -> verdict.
Judges = Callable[[Tensor, int], Mapping[str, Any]]


class ClassVisualization(ImageTraining):
    """Trains images to be seen as their target classes (Simonyan et al. 2014, arXiv:1312.6034, section 2).

    Image k of a task is scored by the mean objective over ``views`` randomly transformed views, less the priors:
    ``score(x) = mean_v objective(net(transform_v(decode(x)))) - sum_p prior_p(decode(x))``.

    Args:
        classifier: the frozen network.
        parameterization: what is trained instead of the pixels.
        step_rule: how it moves along the gradient of the score.
        transforms: robustness transforms, applied in order to every view with draws of its own.
        objective: what is maximized.
        priors: penalties on the image as the classifier sees it.
        projections: what is done to the image after an update (clamp, periodic blur).
        views: views an image and iteration; each costs one evaluation.
        size: height and width of the picture; one number for a square; the classifier's unless given.
        oversample: the image is trained on a canvas so many times larger than the picture, so that crops see more
            detail than the picture can show.
        shown: central part of the canvas's sides that the picture shows, brought to its size. Views reach the
            border less often than the centre, so a border that is not shown leaves a picture without a weak rim.
        init: a photograph ``(C, H, W)`` of the canvas's size to start from; noise unless given.
        judges: asked about every finished picture.
        iterations, slots, log_at, curve_at: see :class:`~lit_viz.engine.module.ImageTraining`.

    Raises:
        LitVizError: for values that make no run, in one sentence.
    """

    def __init__(
        self,
        classifier: Classifier,
        parameterization: Parameterization,
        step_rule: StepRule,
        transforms: Sequence[Transform] = (),
        objective: Objective = Logit(),  # noqa: B008 - it has no state
        priors: Sequence[Prior] = (),
        projections: Sequence[Projection] = (),
        views: int = 1,
        size: int | tuple[int, int] | None = None,
        oversample: float = 1.0,
        shown: float = 1.0,
        *,
        init: Tensor | None = None,
        judges: Judges | None = None,
        iterations: int = 200,
        slots: int = 8,
        log_at: str = "every:10",
        curve_at: str = "every:10",
    ) -> None:
        super().__init__(
            classifier, step_rule, iterations=iterations, slots=slots, log_at=log_at, curve_at=curve_at, views=views
        )
        for projection in projections:
            projection.check(parameterization)
        self.parameterization = parameterization
        self.transforms = Compose(list(transforms))
        self.objective = objective
        objective.bind(classifier)
        self.priors = tuple(priors)
        self.projections = tuple(projections)
        if not 0.1 <= shown <= 1:
            raise LitVizError(f"shown {shown} is no part of the canvas: give a number from 0.1 to 1, such as 0.75.")
        self.picture, self.canvas = canvases(classifier, size, oversample)
        self.shown = shown
        self.init = init
        if init is not None:
            largest, mean = encoding_error(parameterization, init[None], self.canvas)
            self.notes.append(f"the photograph is kept to within {largest:.2f}/255 (mean {mean:.3f}/255)")
        self.judges = judges

    def prepare(self, device: torch.device) -> None:
        """Make the fast copy of the network; a wrong layer name is found here."""
        if self.processes.shares_views and self.objective.couples:
            raise LitVizError(
                "the objective compares the views of an image with each other, so that they can't be shared among "
                "devices: give --devices_mode images."
            )
        self._evaluator = Evaluator(
            processes=self.processes,
            networks={"plain": self.classifier.fast(self.objective.layers, device, self.number)},
            decode=lambda x: self.parameterization.decode(x, self.canvas),
            look=lambda images, draws: self.transforms(images, draws, self.classifier.size),
            objective=self.objective,
            normalize=self.classifier.normalize,
            priors=self.priors,
            views=self.views,
        )

    def start(self, task: Task) -> Tensor:
        """Return the parameter of the photograph, or of the task's own noise."""
        if self.init is not None:
            return self.parameterization.encode(self.init[None].to(self.device, self.number), self.canvas)[0]
        return self.parameterization.start(Draws([Key(task.seed, 0)], self.device), self.canvas)[0]

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate the views of these slots' images."""
        return self._evaluator(x, self.slots, rows, gradient=gradient, network=network)

    def project(self, x: Tensor) -> Tensor:
        """Apply the projections; the iteration counts the updates made, this one included."""
        made = self.slots.state["iteration"] + 1
        for projection in self.projections:
            x = projection(x, made, self.parameterization, self.canvas)
        return x

    @torch.no_grad()
    def look(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the picture in 8 bits, as the file holds it, and ask the network about just that, without transforms."""
        canvas = self.parameterization.decode(x, self.canvas).clamp(0, 1)
        pictures = resized(_centre(canvas, self.shown), self.picture)
        pictures = pictures.mul(255).round_().div_(255)
        logits, _ = self._evaluator.networks["plain"](as_input(pictures, self.classifier.size))
        self.slots.pay(rows, forwards=1)
        looks = []
        for n, picture, values in zip(rows, pictures.cpu(), logits.float().cpu(), strict=True):
            said = verdict(values, self.slots.tasks[n].target or 0)
            top5 = tuple((self.classifier.labels[i], p) for i, p in top(values))
            looks.append(Look(picture, said, top5))
        return looks

    def record(self, n: int, look: Look) -> dict[str, Any]:
        """Return the top five classes and the judges' verdicts."""
        judges = {} if self.judges is None else dict(self.judges(look.image, self.slots.tasks[n].target or 0))
        return {"top5": look.ranking, "judges": judges}


def canvases(
    classifier: Classifier, size: int | tuple[int, int] | None, oversample: float
) -> tuple[tuple[int, int], Canvas]:
    """Return the picture's size (H, W) and the canvas that is trained.

    Raises:
        LitVizError: for a size or a factor that leaves no image.
    """
    height, width = classifier.size if size is None else (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise LitVizError(f"a picture of {height} x {width} pixels is empty: give a size such as 224.")
    if not 0.5 <= oversample <= 8:
        raise LitVizError(f"oversample {oversample} is out of range: give a factor from 0.5 to 8, such as 1.5.")
    tall, wide = round(height * oversample), round(width * oversample)
    return (height, width), Canvas(classifier.channels, tall, wide, classifier.mean, classifier.std)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the images at the size, antialiased; as they are where it is theirs."""
    if tuple(images.shape[-2:]) == size:
        return images
    shape = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return shape.clamp(0, 1)


def _centre(images: Tensor, part: float) -> Tensor:
    """Return the central part of the images' sides."""
    height, width = images.shape[-2:]
    down, across = round(height * part), round(width * part)
    top_, left = (height - down) // 2, (width - across) // 2
    return images[..., top_ : top_ + down, left : left + across]


def as_input(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures as a photograph is read: short side resized, centre cropped to the classifier's size (H, W)."""
    height, width = pictures.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    fitted = resized(pictures, (max(size[0], round(height * scale)), max(size[1], round(width * scale))))
    top_, left = (fitted.shape[-2] - size[0]) // 2, (fitted.shape[-1] - size[1]) // 2
    return fitted[..., top_ : top_ + size[0], left : left + size[1]]
