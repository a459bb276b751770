"""Class visualization: images that maximize a class, a layer or a channel of the network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.attacks import Attack
from lit_viz.attributions import Attribution
from lit_viz.engine.evaluator import Evaluator
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Snapshot
from lit_viz.engine.sources import init_name
from lit_viz.errors import ArgumentError, LitVizError, check_shape, first_line, require
from lit_viz.images.canvas import Octaves, center_crop, join_group, make_canvas, resize, split_group
from lit_viz.images.formats import format_of_result
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.parameterizations import Parameterization, encoding_error
from lit_viz.images.priors import Prior, Projection
from lit_viz.images.rasters import read_image
from lit_viz.images.reading import Fit
from lit_viz.images.sources import ImageLike, initial_image
from lit_viz.images.transforms import Compose, Transform
from lit_viz.methods import recipes
from lit_viz.methods.photographs import check_gamma, contrast_fields, with_gamma
from lit_viz.methods.recipes import PictureOptions
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.networks.isolation import full_float32
from lit_viz.networks.layers import layer_of
from lit_viz.networks.resizing import Resizing
from lit_viz.networks.summaries import group_summary
from lit_viz.objectives import Logit, Objective, Outputs
from lit_viz.objectives.base import copied, evaluate_objective
from lit_viz.objectives.classes import ClassScore
from lit_viz.optim import Evaluation, StepRule
from lit_viz.rng import Draws, Key
from lit_viz.runs.records import LEAST_PROBABILITY, ClassImageRecord, LayerImageRecord, VisualizationRecord
from lit_viz.types import VARYING, Record, Task
from lit_viz.utils.device import to_device

#: Prediction summaries of held-out networks for an image and a class, by name.
Judges = Callable[[Tensor, int], Mapping[str, Any]]

#: Mean encoding error, in units of 1/255, above which a parameterization does not preserve a photograph.
_MAX_ENCODING_ERROR = 8
#: Side in pixels below which an octave is omitted: too coarse for the classes of a network of larger inputs.
_MIN_INPUT = 64
#: Iterations from which an image may start again by default: with fewer, it is not expected to be finished.
_MIN_ITERATIONS = 200
#: Arguments of which the defaults are those of a recipe.
_RECIPE = ("parameterization", "step_rule", "transforms", "views", "residual_gradient", "picture")


class ClassVisualization(ImageTraining):
    """Train images to maximize their target classes (Simonyan et al. 2014, arXiv:1312.6034, section 2), or units of a
    layer (Olah, Mordvintsev and Schubert 2017, "Feature Visualization").

    The score is the mean objective over random views, less the priors:
    ``score(x) = mean_v objective(net(transform_v(decode(x)))) - sum_p prior_p(decode(x))``.

    Args:
        network: frozen network, a module or a name.
        parameterization: parameters of the image, such as pixels or Fourier coefficients. By default the Fourier
            coefficients of ``configs/visualize/tarantula.yaml``, which then also provides the other arguments that are
            not given.
        step_rule: update rule; by default Adam.
        transforms: robustness transforms, applied in order to every view with separate draws.
        objective: objective to maximize.
        priors: penalties on the normalized image.
        projections: operations on the image after an update (clamp, periodic blur).
        views: views per image and iteration.
        residual_gradient: factor in (0, 1] of the gradient through residual branches. Less than 1 improves the transfer
            to other networks (Wu et al. 2020, "Skip Connections Matter", arXiv:2002.05990).
        picture: sizes of the result, the canvas and the network input.
        iterations: updates per image.
        restarts: maximum number of times that an image starts again with other draws, where the network gives its class
            a probability below 0.5 at the end. A ``Logit`` is then the log-probability. The image with the highest
            probability is kept. Its record has the number of restarts, and counts the evaluations of all. By default
            2, or 0 with fewer than 200 iterations. This holds for the score of one class of exclusive ones, and not
            for groups, contrasted classes, an initial image, or tasks with iterations or a learning rate of their own
            (``vary``).
        init: initial image: a file, a Pillow image, an array or a tensor of any size; by default noise.
        fit: how it is fitted to the canvas: ``crop``, ``squash`` or ``pad``; by default as published with the
            network, or ``crop``.
        limits: other arguments of :class:`~lit_viz.engine.method.Method`.

    Attributes:
        judges: evaluation of finished images by held-out networks, or None.
        judge_error: first line of the last error that they raised, if any.

    Raises:
        LitVizError: an argument is invalid.
    """

    presentation = "lit_viz.presentations.class_visualization.ClassVisualizationPresentation"
    verifier = "lit_viz.evidence.class_visualization.ClassVisualizationVerifier"
    completed = ("objective",)

    def __init__(
        self,
        network: Network | nn.Module | str,
        *,
        parameterization: Parameterization | None = None,
        step_rule: StepRule | None = None,
        transforms: Sequence[Transform] | None = None,
        objective: Objective = Logit(),  # noqa: B008 - stateless
        priors: Sequence[Prior] = (),
        projections: Sequence[Projection] = (),
        views: int | None = None,
        residual_gradient: float | None = None,
        picture: PictureOptions | None = None,
        init: ImageLike | None = None,
        fit: Fit | None = None,
        iterations: int = 228,
        restarts: int | None = None,
        **limits: Any,
    ) -> None:
        if isinstance(step_rule, (Attack, Attribution)):
            method = "AdversarialExample" if isinstance(step_rule, Attack) else "SaliencyMap"
            raise ArgumentError(
                "step_rule",
                f"must be an optimizer, got {type(step_rule).__name__}: it is a part of {method}",
                value=step_rule,
            )
        given = (parameterization, step_rule, transforms, views, residual_gradient, picture)
        recipe = recipes.tarantula() if parameterization is None else recipes.plain()
        recipe |= {name: value for name, value in zip(_RECIPE, given, strict=True) if value is not None}
        parameterization, picture = recipe["parameterization"], recipe["picture"]
        self._recipe = recipe | {"transforms": list(recipe["transforms"])}
        super().__init__(
            network, recipe["step_rule"], views=recipe["views"] * picture.group, iterations=iterations, **limits
        )
        if restarts is None:
            restarts = 2 if iterations >= _MIN_ITERATIONS else 0
        require(restarts >= 0, "restarts must be at least 0", restarts)
        self.restarts = restarts
        for projection in projections:
            projection.check(parameterization)
        objective = copied(objective)
        objective.bind(self.network)
        self.parameterization, self.objective = parameterization, objective
        self.transforms = Compose(self._recipe["transforms"])
        self.priors, self.projections = tuple(priors), tuple(projections)
        self.picture, self.canvas = make_canvas(self.network, picture.size, picture.oversample)
        self.format = format_of_result(self.network.bands)
        self.shown, self.native = picture.shown, picture.native
        self.octaves, self.group = self._octaves(picture), picture.group
        self.views_grow = self._views_grow()
        self.residual_gradient = factor = recipe["residual_gradient"]
        require(0 < factor <= 1, "residual_gradient must be above 0 and at most 1", factor)
        self.judges: Judges | None = None
        self.judge_error: str | None = None
        self.init: Tensor | None = None
        self.init_name: str | None = None
        if init is not None:
            self.init = self._read_init(init, fit)
            self.notes.append(self._init_note(self.init))
        if self.native or objective.layers:
            self._check_network()

    @property
    def arguments(self) -> dict[str, Any]:
        return super().arguments | self._recipe | {"init": self.init_name}

    def _read_init(self, init: ImageLike, fit: Fit | None) -> Tensor:
        """Return the initial image ``(C, H, W)`` at the size of the canvas."""
        source, self.init_name = initial_image(init, self.network.bands)
        chosen: Fit | Resizing = fit or self.network.resizing or "crop"
        return read_image(source, (self.canvas.height, self.canvas.width), self.network.bands, chosen).pixels

    def _init_note(self, init: Tensor) -> str:
        largest, mean = encoding_error(self.parameterization, init[None], self.canvas)
        if mean <= _MAX_ENCODING_ERROR:
            return f"training starts from the photograph to within {largest:.2f}/255 (mean {mean:.3f}/255)"
        name, preserved = type(self.parameterization).__name__, self.parameterization.preserves
        return (
            f"{name} does not preserve the photograph: it keeps {preserved}, with a mean error of {mean:.0f}/255; "
            "use Fourier or Pixels"
        )

    def _octaves(self, picture: PictureOptions) -> Octaves | None:
        """Return the octaves with large enough inputs; None if only the last one has them."""
        octaves, size = picture.octaves, self.network.size
        if octaves is None or picture.native:
            return octaves
        count = sum(min(octaves.size(size, octave)) >= _MIN_INPUT for octave in range(octaves.count))
        if count > 1:
            return replace(octaves, count=count)
        return None

    def _views_grow(self) -> bool:
        """Return whether views have the sizes of the octaves, and add a note if the network does not accept them."""
        if self.octaves is None or self.native:
            return self.octaves is not None
        net = self.network
        sizes = [self.octaves.size(net.size, octave) for octave in range(self.octaves.count - 1)]
        rejected = next((size for size in sizes if not net.accepts(size)), None)
        if rejected:
            self.notes.append(
                f"{net.name} takes no images of {rejected[0]} x {rejected[1]} pixels, or changes its attributes for "
                f"them: all octaves have inputs of {net.size[0]} x {net.size[1]}"
            )
        return rejected is None

    def _check_network(self) -> None:
        """Evaluate a gray image, so that an invalid input size, layer or position raises before training.

        Raises:
            LitVizError: the network does not accept the input size, or the objective does not match the layer.
        """
        size, net = self._input_size(0), self.network
        inputs = torch.full((self.group, net.channels, *size), 0.5)
        zeros = torch.zeros(self.group, dtype=torch.long)
        with torch.no_grad():
            try:
                logits, activations = net.original_network()(inputs, self.objective.layers)
            except (RuntimeError, AssertionError, ValueError) as error:  # depends on the network
                raise LitVizError(
                    f"{net.name} takes no images of {size[0]} x {size[1]} pixels: give native False, for "
                    f"inputs of {net.size[0]} x {net.size[1]}"
                ) from error
            members = torch.arange(self.group)
            outputs = Outputs(logits, zeros, activations, channels=zeros, members=members, inputs=self.group)
            evaluate_objective(self.objective, outputs)

    # Tasks

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.start(Task(0, "", 0)).shape)

    def expand_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the tasks with the initial image and the weight of a contrasted class."""
        expanded = []
        for task in tasks:
            source = self.init_name if task.source is None else task.source
            expanded.append(with_gamma(replace(task, source=source), self.objective))
        return expanded

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Require what the objective reads, the initial photograph of a resumed run, and a learning rate where it
        varies."""
        for task in tasks:
            self._check_kind(task)
        check_gamma(tasks, self.objective)
        if any(task.lr is not None for task in tasks):
            has_rate = hasattr(self.step_rule, "lr")
            name = type(self.step_rule).__name__
            require(has_rate, "vary of lr requires a step rule with a learning rate", name)
        self._note_late_iterations(tasks)
        source = next((task.source for task in tasks if task.source is not None), None)
        if self.init is not None or source is None:
            return
        if source.startswith(ARRAY_PREFIX):
            raise LitVizError(
                "the initial image of this run is an array: resume it in Python, with the same call and resume=True"
            )
        raise LitVizError(f"the initial photograph of this run, {source}, cannot be read: restore the file")

    def _check_kind(self, task: Task) -> None:
        """Check that a task has what the objective reads."""
        name, objective = type(self).__name__, type(self.objective).__name__
        if task.label_source is not None or task.image is not None:
            hint = "init= starts from one"
            raise LitVizError(f"{name} takes tasks of classes or layers, got the photograph {task.name!r}: {hint}")
        if "target" in self.objective.task_fields and task.target is None:
            hint = "give the objective Channel(...), or ClassTasks"
            raise LitVizError(f"the objective {objective} takes tasks of classes, got {task.name!r}: {hint}")
        if "channel" in self.objective.task_fields and task.channel is None:
            hint = "give LayerTasks with channel"
            raise LitVizError(f"the objective {objective} takes tasks of channels, got {task.name!r}: {hint}")
        layers = {layer_of(layer) for layer in self.objective.layers}
        if task.layer is not None and layers and task.layer not in layers:
            got = task.layer
            raise LitVizError(f"tasks must be of the layer of the objective, {', '.join(layers)}, got {got}")

    def _note_late_iterations(self, tasks: Sequence[Task]) -> None:
        """Add a note about iterations to log that are later than the last one."""
        last = max(map(self.last_iteration, tasks))
        for name, schedule in (("log_at", self.log_at), ("curve_at", self.curve_at)):
            late = sorted(iteration for iteration in schedule.iterations if iteration > last)
            note = f"{name}={','.join(map(str, late))} is not reached: the last iteration is {last}"
            if late and note not in self.notes:
                self.notes.append(note)

    def can_batch(self, task: Task, other: Task, iteration: int) -> bool:
        if self.octaves is None:
            return True
        same_iteration = all(k == iteration for k in self.slots.iteration)
        return same_iteration and self.last_iteration(task) == self.last_iteration(other)

    def start(self, task: Task) -> Tensor:
        """Return the parameters of the photograph, or of noise, ``(...)``; of a group ``(G, ...)``.

        Raises:
            ChangedInput: the photograph is not that of an earlier task.
        """
        if self.init is not None:
            self.check_input(init_name(self.init_name), self.init, "give the same image")
            photograph = self.init[None].to(self.device, self.image_dtype)
            parameters = self.parameterization.encode(photograph, self.canvas).repeat_interleave(self.group, 0)
        else:
            draws = Draws([Key(task.seed, 0, member) for member in range(self.group)], self.device)
            parameters = self.parameterization.start(draws, self.canvas)
        return parameters if self.group > 1 else parameters[0]

    def step_seconds(self, tasks: Sequence[Task]) -> float:
        """Measure the evaluations of one step on the CPU, in seconds; the mean over octaves, by area."""
        first_octave = super().step_seconds(tasks)
        count = self.octaves.count if self.octaves else 1
        areas = [math.prod(self._input_size(octave)) for octave in range(count)]
        return first_octave * sum(areas) / len(areas) / areas[0]

    # Optimization

    def prepare(self, device: torch.device) -> None:
        """Create the fast copy of the network.

        Raises:
            LitVizError: a layer does not exist, or coupled views would be shared by several ranks.
        """
        if self.ranks.shares_views and (self.group > 1 or self.objective.couples):
            raise LitVizError(
                "devices_mode=views requires independent views, and the objective or the group couples them: give "
                "devices_mode=images"
            )
        network = self.make_network(self.objective.layers, device, residual_gradient=self.residual_gradient)
        self._evaluator = Evaluator(
            {"plain": network},
            self.objective,
            self.network.normalize,
            decode=self._decode,
            make_inputs=self._make_inputs,
            priors=self.priors,
            views=self.views,
            ranks=self.ranks,
            group=self.group,
        )

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        return self._evaluator(x, self.slots, rows, gradient=gradient, network=network)

    def project(self, x: Tensor) -> Tensor:
        """Apply the projections, with the number of updates including the current one."""
        updates = (self.slots.state["iteration"] + 1).repeat_interleave(self.group)
        images = self._ungroup(x)
        for projection in self.projections:
            images = projection(images, updates, self.parameterization, self.canvas)
        return images.view_as(x)

    def _ungroup(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1) if self.group > 1 else x

    def _decode(self, x: Tensor) -> Tensor:
        """Return the images ``(N * group, C, H, W)``."""
        rows = self._ungroup(x)
        images = self.parameterization.decode(rows, self.canvas)
        shape = (len(rows), *self.canvas.shape)
        check_shape(self.parameterization, images, shape, meaning="an image of each parameter")
        return images

    def _make_inputs(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the views; all images of a batch are in the same octave (:meth:`can_batch`)."""
        if self.octaves is None:
            return self.transforms(images, draws, self._input_size(0))
        octave = self.octaves.at(draws.keys[0].iteration, draws.last_iterations[0])
        return self.transforms(self.octaves(images, octave), draws, self._input_size(octave))

    def _input_size(self, octave: int) -> tuple[int, int]:
        size = self.picture if self.native else self.network.size
        if self.octaves is not None and self.views_grow:
            return self.octaves.size(size, octave)
        return size

    # Output

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        """Return the images as their files hold them, with the prediction for them without transforms.

        Metrics of a group are computed from its mean logits. Without a target, ``objective_file`` is the objective.
        """
        pictures = resize(center_crop(self._decode(x).clamp(0, 1), self.shown), self.picture)
        if self.format.is_float:
            pictures = self.format.to_image(self.format.to_values(pictures)).to(pictures).clamp(0, 1)
        else:
            pictures = pictures.mul(255).round_().div_(255)
        network = self._evaluator.networks["plain"]
        if final and self.is_half:
            network = self.network.original_network()
        logits, scores = self._score_pictures(network, pictures, self.slots.goals(rows, x.device))
        self.slots.count_evaluations(rows, forwards=self.group)
        groups = pictures.cpu().view(len(rows), self.group, *pictures.shape[1:])
        snapshots = []
        for n, group, values, score in zip(rows, groups, logits, scores, strict=True):
            target = self.slots.tasks[n].target
            if target is None:
                metrics = {"objective_file": float(score)}
            else:
                metrics = self.network.prediction(values, target)
            joined, bands = join_group(group), self.network.bands
            data = joined if final and not bands.are_drawn else None
            snapshots.append(self.snapshot(n, metrics, bands.draw(joined), data=data, top5=self.network.top5(values)))
        return snapshots

    def shortfall(self, snapshot: Snapshot) -> float:
        """Return what the probability of the class lacks to 0.5, for a task that may start again."""
        if not self._may_restart(snapshot.task):
            return 0.0
        return max(0.0, LEAST_PROBABILITY - snapshot.metrics["probability"])

    def _may_restart(self, task: Task) -> bool:
        is_class = task.target is not None and task.against is None and self.network.rule.is_exclusive
        is_new = self.init is None and self.group == 1 and all(getattr(task, name) is None for name in VARYING)
        return is_class and is_new and isinstance(self.objective, ClassScore)

    def new_record(self, task: Task, **fields: Any) -> VisualizationRecord:
        if task.target is not None:
            return ClassImageRecord.of(task, lr=task.lr, **fields)
        return LayerImageRecord.of(task, layer=task.layer, channel=task.channel, axis=task.axis, lr=task.lr, **fields)

    def record(self, n: int, snapshot: Snapshot, common: Record) -> Record:
        task = self.slots.tasks[n]
        record = common.amend(format=self.format.to_dict(), top5=snapshot.ranking)
        if task.target is None:
            return record
        image = snapshot.image if snapshot.data is None else snapshot.data
        assert image is not None
        judges: dict[str, Any] = {}
        try:
            judges = self.judge(image, task.target, self.judges)
        except Exception as error:  # of a held-out network; the image is done, and the evidence states the reason
            self.judge_error = first_line(error)
        restarts = self.slots.earlier[n].restarts or None
        return record.amend(judges=judges, restarts=restarts, **contrast_fields(task, self.objective))

    def judge(self, picture: Tensor, target: int, judges: Judges | None) -> dict[str, Any]:
        """Return the prediction summary of each judge for an image ``(C, H, W)`` or a group (:func:`group_summary`)."""
        if judges is None:
            return {}
        summaries: dict[str, list[Any]] = defaultdict(list)
        for image in split_group(picture, self.group):
            for name, summary in judges(image, target).items():
                summaries[name].append(summary)
        return {name: group_summary(of_images) for name, of_images in summaries.items()}

    def evaluate_original(self, picture: Tensor, task: Task) -> tuple[Tensor, float]:
        """Evaluate an image ``(C, H, W)`` of :meth:`snapshots` by the original network.

        Returns:
            logits ``(K,)``, the mean over a group, and the objective.
        """
        goals = {
            "targets": torch.tensor([-1 if task.target is None else task.target]),
            "channels": torch.tensor([-1 if task.channel is None else task.channel]),
        }
        with torch.no_grad():
            logits, scores = self._score_pictures(
                self.network.original_network(), split_group(picture, self.group), goals
            )
        return logits[0], float(scores[0])

    def _score_pictures(
        self, network: FrozenNetwork, pictures: Tensor, goals: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return mean logits ``(N, K)`` and mean objective ``(N,)`` of N groups of images, on the CPU.

        They are computed without TF32, whose rounding would exceed the tolerance of the evidence.
        """
        inputs = pictures if self.native else resize(pictures, self.network.size)
        with full_float32():
            logits, activations = network(inputs, layers=self.objective.layers)
        goals = {name: row.repeat_interleave(self.group) for name, row in goals.items()}
        members = to_device(list(range(self.group)) * (len(pictures) // self.group), pictures.device)
        outputs = Outputs(logits, activations=activations, inputs=self.group, members=members, **goals)
        scores = evaluate_objective(self.objective, outputs)
        return self._group_means(logits), self._group_means(scores)

    def _group_means(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.group, *rows.shape[1:]).mean(1).float().cpu()
