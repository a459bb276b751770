"""What does a class, or a channel of a layer, look like to the network? An image is trained until the frozen network
sees it there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks import Attack
from lit_viz.attributions import Attribution
from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.classifiers.fast import check_residual_gradient
from lit_viz.classifiers.prediction import group_summary, prediction_summary, top5
from lit_viz.engine.evaluation import Evaluator
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Look
from lit_viz.errors import LitVizError, check_shape
from lit_viz.images.canvas import Octaves, center_crop, join_group, make_canvas, resize, split_group
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.parameterizations import Parameterization, encoding_error
from lit_viz.images.priors import Prior, Projection
from lit_viz.images.transforms import Compose, Transform
from lit_viz.methods.records import ClassImageRecord, LayerImageRecord, VisualizationRecord
from lit_viz.objectives import Logit, Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim import Evaluation, StepRule
from lit_viz.rng import Draws, Key
from lit_viz.types import Record, Task
from lit_viz.utils.device import to_device

#: Asks other networks about a finished picture and a class: name -> prediction summary.
Judges = Callable[[Tensor, int], Mapping[str, Any]]


#: Of 255: farther than this from a photograph on the mean an image doesn't start from it.
_LOST = 8


class ClassVisualization(ImageTraining):
    """Trains images to be seen as their target classes (Simonyan et al. 2014, arXiv:1312.6034, section 2), or to raise
    what a layer gives (Olah, Mordvintsev and Schubert 2017, "Feature Visualization").

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
        group: images that a task owns. They are trained together, and pictured beside one another; an objective may
            tell them apart (:class:`~lit_viz.objectives.Diversity`).
        size: height and width of the picture; one number for a square; the classifier's unless given.
        oversample: the image is trained on a canvas so many times larger than the picture, so that crops see more
            detail than the picture can show.
        shown: central part of the canvas's sides that the picture shows, brought to its size. Views reach the
            border less often than the centre, so a border that is not shown leaves a picture without a weak rim.
        native: the network is shown views of the picture's size instead of its own input's: a convolutional one takes
            any.
        residual_gradient: of the gradient that comes back through the network's residual branches so much is kept.
            Less than 1 makes pictures in which more networks see the class (Wu et al. 2020, "Skip Connections Matter",
            arXiv:2002.05990); the score stays what it is.
        octaves: the network sees a canvas that grows; the whole of it throughout unless given.
        init: a photograph ``(C, H, W)`` of the canvas's size to start from; noise unless given.
        judges: asked about every finished picture.
        iterations, slots, log_at, curve_at: see :class:`~lit_viz.engine.method.Method`.

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
        group: int = 1,
        native: bool = False,
        residual_gradient: float = 1.0,
        octaves: Octaves | None = None,
        *,
        init: Tensor | None = None,
        judges: Judges | None = None,
        iterations: int = 200,
        slots: int = 8,
        log_at: str = "every:10",
        curve_at: str = "every:10",
    ) -> None:
        if isinstance(step_rule, (Attack, Attribution)):
            command = "attack" if isinstance(step_rule, Attack) else "saliency"
            raise LitVizError(
                f"{type(step_rule).__name__} is made for photographs: a class image is trained by a rule "
                f"of lit_viz.optim, such as Adam; this one is for lit-viz {command}."
            )
        if group < 1:
            raise LitVizError(f"--model.group {group} makes no run: give a whole number from 1 up.")
        inputs = views * group
        super().__init__(
            classifier, step_rule, iterations=iterations, slots=slots, log_at=log_at, curve_at=curve_at, views=inputs
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
        self.picture, self.canvas = make_canvas(classifier, size, oversample)
        self.shown = shown
        self.group, self.native, self.octaves = group, native, octaves
        self.residual_gradient = check_residual_gradient(residual_gradient)
        self.init = init
        if init is not None:
            largest, mean = encoding_error(parameterization, init[None], self.canvas)
            near = f"training starts from the photograph to within {largest:.2f}/255 (mean {mean:.3f}/255)"
            lost = (
                f"the photograph is lost: {type(parameterization).__name__} keeps {parameterization.preserves}, and "
                f"starts {mean:.0f}/255 from it on the mean; Fourier and Pixels keep it"
            )
            self.notes.append(lost if mean > _LOST else near)
        self.judges = judges
        if native or objective.layers:
            self._try()

    def prepare(self, device: torch.device) -> None:
        """Make the fast copy of the network; a wrong layer name is found here."""
        if self.ranks.shares_views and (self.group > 1 or self.objective.couples):
            raise LitVizError(
                "the objective, or a group, compares the views of a task with each other, so that they can't be shared "
                "among devices: give --devices_mode images."
            )
        self._evaluator = Evaluator(
            ranks=self.ranks,
            networks={"plain": self.frozen(self.objective.layers, device, residual_gradient=self.residual_gradient)},
            decode=self._decode,
            look=self._views,
            objective=self.objective,
            normalize=self.classifier.normalize,
            priors=self.priors,
            views=self.views,
            group=self.group,
        )

    def step_seconds(self, tasks: Sequence[Task]) -> float:
        """Return the time of an evaluation of the slots, measured on the processor; of octaves their mean, by area."""
        of_first = super().step_seconds(tasks)
        octaves = range(1 if self.octaves is None else self.octaves.count)
        areas = [math.prod(self._seen_size(octave)) for octave in octaves]
        return of_first * sum(areas) / len(areas) / areas[0]

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Refuse to train on from a photograph that is gone."""
        gone = next((task.source for task in tasks if task.source is not None), None)
        if self.init is None and gone is not None:
            if gone.startswith(ARRAY_PREFIX):
                raise LitVizError(
                    "the run was begun from a picture that was handed over in Python: hand it over again as init, to "
                    "lv.visualize with resume=True."
                )
            raise LitVizError(f"{gone}, from which the run was begun, can't be read any more: put it back to go on.")

    def can_batch(self, task: Task, beside: Task, iteration: int) -> bool:
        """Return whether the two see their canvas in the same octaves: a batch has one size."""
        together = all(k == iteration for k in self.slots.iteration) and self.last(task) == self.last(beside)
        return self.octaves is None or together

    def start(self, task: Task) -> Tensor:
        """Return the parameter of the photograph, or of the task's own noise; of a group ``(G, ...)``."""
        if self.init is not None:
            photograph = self.init[None].to(self.device, self.number)
            many = self.parameterization.encode(photograph, self.canvas).repeat_interleave(self.group, 0)
        else:
            draws = Draws([Key(task.seed, 0, member) for member in range(self.group)], self.device)
            many = self.parameterization.start(draws, self.canvas)
        return many if self.group > 1 else many[0]

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate the views of these slots' images."""
        return self._evaluator(x, self.slots, rows, gradient=gradient, network=network)

    def project(self, x: Tensor) -> Tensor:
        """Apply the projections; the iteration counts the updates made, this one included."""
        made = (self.slots.state["iteration"] + 1).repeat_interleave(self.group)
        images = self._ungrouped(x)
        for projection in self.projections:
            images = projection(images, made, self.parameterization, self.canvas)
        return images.view_as(x)

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the picture in 8 bits, as the file holds it, and ask the network about just that, without transforms.

        Of a group the mean logits are read. Where no class is asked for, ``objective_file`` is what the picture scores.
        """
        pictures = resize(center_crop(self._decode(x).clamp(0, 1), self.shown), self.picture)
        pictures = pictures.mul(255).round_().div_(255)
        goals = self.slots.goals(rows, x.device)
        network = self.classifier.original_network() if final and self.in_half else self._evaluator.networks["plain"]
        logits, scores = self._score_pictures(network, pictures, goals)
        self.slots.count_evaluations(rows, forwards=self.group)
        looks = []
        groups = pictures.cpu().view(len(rows), self.group, *pictures.shape[1:])
        for n, many, values, score in zip(rows, groups, logits, scores, strict=True):
            target = self.slots.tasks[n].target
            said = {"objective_file": float(score)} if target is None else prediction_summary(values, target)
            looks.append(Look(join_group(many), said, top5(values, self.classifier.labels)))
        return looks

    def record(self, n: int, look: Look, common: Record) -> VisualizationRecord:
        """Return the record with the top five classes, and the verdicts of the judges or the layer and channel."""
        task = self.slots.tasks[n]
        varying: dict[str, Any] = {key: task.options[key] for key in ("lr", "axis") if key in task.options}
        if task.target is not None:
            judges = self.judged(look.image, task.target, self.judges)
            return ClassImageRecord.extend(common, top5=look.ranking, judges=judges, **varying)
        layer, channel = task.options.get("layer"), task.options.get("channel")
        return LayerImageRecord.extend(common, top5=look.ranking, layer=layer, channel=channel, **varying)

    def judged(self, picture: Tensor, target: int, judges: Judges | None) -> dict[str, Any]:
        """Return what judges say of a picture ``(C, H, W)``: of a group the mean probability, and the worst rank."""
        said = [] if judges is None else [judges(one, target) for one in split_group(picture, self.group)]
        return {name: group_summary([one[name] for one in said]) for name in (said[0] if said else ())}

    def seen_again(self, picture: Tensor, task: Task) -> tuple[Tensor, float]:
        """Return what the original network says of a picture ``(C, H, W)`` that :meth:`snapshots` has shown.

        Returns:
            its logits ``(K,)``, the mean over a group, and what the objective is.
        """
        goals = {
            "targets": torch.tensor([-1 if task.target is None else task.target]),
            "channels": torch.tensor([task.options.get("channel", -1)]),
        }
        with torch.no_grad():
            logits, scores = self._score_pictures(
                self.classifier.original_network(), split_group(picture, self.group), goals
            )
        return logits[0], float(scores[0])

    def _score_pictures(
        self, network: FrozenNetwork, pictures: Tensor, goals: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean logits ``(N, K)`` and the mean objective ``(N,)`` of N groups of pictures, on the CPU."""
        inputs = pictures if self.native else resize(pictures, self.classifier.size)
        logits, activations = network(inputs, layers=self.objective.layers)
        each = {name: row.repeat_interleave(self.group) for name, row in goals.items()}
        each["members"] = to_device(list(range(self.group)) * (len(pictures) // self.group), pictures.device)
        scores = evaluate_objective(self.objective, Outputs(logits, activations=activations, inputs=self.group, **each))
        means = [rows.view(-1, self.group, *rows.shape[1:]).mean(1).float().cpu() for rows in (logits, scores)]
        return means[0], means[1]

    def _ungrouped(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1) if self.group > 1 else x

    def _decode(self, x: Tensor) -> Tensor:
        """Return the images ``(N * group, C, H, W)``."""
        rows = self._ungrouped(x)
        images = self.parameterization.decode(rows, self.canvas)
        check_shape(
            self.parameterization, images, (len(rows), *self.canvas.shape), meaning="an image of each parameter"
        )
        return images

    def _views(self, images: Tensor, draws: Draws) -> Tensor:
        """Return what the network is shown; all images are in the same octave (see :meth:`can_batch`)."""
        octave = 0 if self.octaves is None else self.octaves.at(draws.keys[0].iteration, draws.last_iterations[0])
        if self.octaves is not None:
            images = self.octaves(images, octave)
        return self.transforms(images, draws, self._seen_size(octave))

    def _seen_size(self, octave: int) -> tuple[int, int]:
        if not self.native:
            return self.classifier.size
        return self.picture if self.octaves is None else self.octaves.size(self.picture, octave)

    def _try(self) -> None:
        """Refuse at once what would fail in the first evaluation: views that the network doesn't take, a place beyond
        the layer's map."""
        height, width = self._seen_size(0)
        net = self.classifier
        blank = torch.full((self.group, net.channels, height, width), 0.5)
        nothing = torch.zeros(self.group, dtype=torch.long)
        with torch.no_grad():
            try:
                logits, activations = net.original_network()(blank, self.objective.layers)
            except (RuntimeError, AssertionError, ValueError) as error:  # networks of one size say so in many ways
                raise LitVizError(
                    f"{net.name} takes no images of {height} x {width} pixels: give --model.native false, "
                    f"so that it is shown {net.size[0]} x {net.size[1]}."
                ) from error
            members = torch.arange(self.group)
            outputs = Outputs(logits, nothing, activations, channels=nothing, members=members, inputs=self.group)
            evaluate_objective(self.objective, outputs)
