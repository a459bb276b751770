"""Universal perturbations: one small change that misleads the network on most photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.attacks import Universal, is_adversarial
from lit_viz.attacks.norms import Norm, lengths
from lit_viz.attacks.rounding import save_and_verify
from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord, Snapshot
from lit_viz.errors import ArgumentError, ChangedInput, LitVizError, require
from lit_viz.images.rendering import MAGNIFIED, difference
from lit_viz.methods.photographs import AttackTraining, check_goal, resolve
from lit_viz.networks import Network
from lit_viz.optim import Evaluation, State
from lit_viz.rng import Draws, Key
from lit_viz.runs.records import UniversalRecord
from lit_viz.types import Record, Task
from lit_viz.utils.device import to_device, to_list
from lit_viz.utils.parts import settings_of, short_name

_CHUNK = 16  # photographs that are verified at once


@dataclass(frozen=True)
class PhotographSet:
    """The M photographs of a task.

    Attributes:
        tasks: task of each photograph, with label and target.
        pixels: ``(C, H, W)`` each; uint8 if it is on the 8-bit lattice.
        logits: ``(M, K)`` of the original network.
        goal, targeted: ``(M,)`` class to reach, or to leave if not targeted.
        counted: ``(M,)`` bool; False if the network is misled without a perturbation.
        trained_on: indices of the photographs that are trained on.
        failed: photographs that can't be used, with the error.
    """

    tasks: Sequence[Task]
    pixels: Sequence[Tensor]
    logits: Tensor
    goal: Tensor
    targeted: Tensor
    counted: Tensor
    trained_on: Sequence[int]
    failed: Sequence[tuple[Task, str]]

    def images(self, indices: Sequence[int], like: Tensor) -> Tensor:
        """Return photographs ``(len(indices), C, H, W)`` in [0, 1], with device and dtype of ``like``."""
        images: list[Tensor] = []
        for index in indices:
            image = self.pixels[index]
            if image.dtype == torch.uint8:
                image = image.float() / 255
            images.append(image)
        return to_device(torch.stack(images), like.device, like.dtype)

    def batch(self, seed: int, iteration: int, views: int) -> list[int]:
        """Return the indices of the mini-batch of an iteration: consecutive parts of shuffled epochs."""
        count = len(self.trained_on)
        indices: list[int] = []
        for position in range(iteration * views, (iteration + 1) * views):
            epoch, place = divmod(position, count)
            indices.append(self.trained_on[_permutation(seed, epoch, count)[place]])
        return indices


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, count: int) -> list[int]:
    draws = Draws([Key(seed, epoch)]).uniform("universal/order", shape=(count,))
    permutation: list[int] = draws[0].argsort().tolist()
    return permutation


def _to_bytes(image: Tensor) -> Tensor:
    """Return an image as uint8 if this is lossless."""
    levels = (image * 255).round().to(torch.uint8)
    if torch.equal(levels.float() / 255, image):
        return levels
    return image


class UniversalPerturbation(AttackTraining):
    """Train a perturbation that fools the network on most photographs (Moosavi-Dezfooli et al. 2017,
    arXiv:1610.08401), by stochastic gradient ascent (Shafahi et al. 2020, arXiv:1811.11304).

    A task has one perturbation. Its option ``photographs`` lists the fields of a :class:`~lit_viz.types.Task` for each
    photograph, with the option ``held_out`` if it is not trained on. The views of an iteration are a mini-batch of
    photographs. A photograph is counted if the network classifies it correctly, and not as the target. It is fooled if
    its sum with the perturbation, clipped to [0, 1], is misclassified, or classified as the target; in the file, if the
    original network is fooled by the 8-bit image.

    Args:
        network: frozen network, a module or a name.
        attack: step rule and objective; by default :class:`~lit_viz.attacks.Universal`.
        views: photographs per iteration.
        held_out: fraction of the photographs that the perturbation is not trained on.
        options: other arguments of :class:`~lit_viz.methods.photographs.AttackTraining`.

    Raises:
        LitVizError: an argument is invalid.
    """

    presentation = "lit_viz.presentations.universal_perturbation.UniversalPerturbationPresentation"
    verifier = "lit_viz.evidence.universal_perturbation.UniversalPerturbationVerifier"
    can_shard = False
    completed = ("attack",)
    attack: Universal

    def __init__(
        self,
        network: Network | nn.Module | str,
        *,
        attack: Universal | None = None,
        views: int = Universal.views,
        held_out: float = 0.0,
        **options: Any,
    ) -> None:
        require(0 <= held_out < 1, "held_out must be at least 0 and less than 1", held_out)
        super().__init__(network, attack or Universal(), views, **options)
        self.held_out = held_out
        if not self.network.bands.are_pictures:
            raise LitVizError("a universal perturbation requires pictures in gray or RGB, got a network of other bands")
        self.network.rule.require_exclusive("a universal perturbation")
        self._photographs: dict[int, PhotographSet] = {}  # by task
        self._perturbed: dict[int, list[PerturbedImage]] = {}  # by finished slot

    def expand_tasks(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return a task per target and radius for all photographs, unless the tasks list their photographs."""
        if all(task.photographs is not None for task in tasks):
            return tasks
        self.check_photographs(tasks)
        if any(task.tiling is not None for task in tasks):
            raise ArgumentError("tile", "does not apply to universal perturbations: leave it out")
        return universal_tasks(tasks, self.held_out)

    def start(self, task: Task) -> Tensor:
        """Read the photographs and return a zero perturbation ``(C, H, W)``.

        Raises:
            LitVizError: no photograph can be trained on.
        """
        self.photographs(task)
        return torch.zeros(self.network.channels, *self.network.size)

    def photographs(self, task: Task) -> PhotographSet:
        """Return the photographs of a task. They are read, and evaluated by the original network, at the first call.

        Raises:
            LitVizError: no photograph can be trained on.
        """
        if task.index in self._photographs:
            return self._photographs[task.index]
        tasks: list[Task] = []
        pixels, logits, failed = [], [], []
        for fields in task.photographs or ():
            photograph = Task(**fields)
            try:
                image = super().start(photograph)
                photograph = self.with_dataset_label(photograph)
                row = self.network.scores(image[None])[0].cpu()
                tasks.append(check_goal(resolve(photograph, row, self.network.labels)))
            except ChangedInput:
                raise
            except LitVizError as error:
                failed.append((photograph, str(error)))
                continue
            pixels.append(_to_bytes(image))
            logits.append(row)
        goal = torch.tensor([photograph.goal for photograph in tasks], dtype=torch.long)
        targeted = torch.tensor([photograph.target is not None for photograph in tasks], dtype=torch.bool)
        all_logits = torch.stack(logits) if logits else torch.empty(0, self.network.num_classes)
        counted = ~is_adversarial(all_logits, goal, targeted)
        trained_on: list[int] = []
        for index, photograph in enumerate(tasks):
            if counted[index] and not photograph.held_out:
                trained_on.append(index)
        if not trained_on:
            reason = ""
            if failed:
                reason = f" ({failed[0][1]})"
            raise LitVizError(
                "a universal perturbation requires a readable photograph that is classified correctly, and not as the "
                f"target, got none{reason}"
            )
        photographs = PhotographSet(tasks, pixels, all_logits, goal, targeted, counted, trained_on, failed)
        self._photographs[task.index] = photographs
        return photographs

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks, which do not depend on the network."""
        return list(tasks)

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return self.attack.init(x, tasks)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Count the forwards of the photographs, unless the task is resumed."""
        for n in rows:
            if self.slots.forwards[n] == 0:
                self.slots.count_evaluations([n], forwards=len(self.photographs(self.slots.tasks[n]).tasks))

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        iteration = self.slots.iteration
        images, goal, targeted = [], [], []
        for n in rows:
            task = self.slots.tasks[n]
            photographs = self.photographs(task)
            indices = photographs.batch(task.seed, iteration[n], self.views)
            images.append(photographs.images(indices, x))
            goal.append(photographs.goal[indices])
            targeted.append(photographs.targeted[indices])
        goals, is_targeted = (to_device(torch.cat(values), x.device) for values in (goal, targeted))
        inputs = partial(add_to_views, photographs=torch.cat(images), keys=self.slots.keys(rows, self.views))
        evaluator = replace(self._evaluator, make_inputs=inputs, view_goals={"targets": goals, "targeted": is_targeted})
        evaluation = evaluator(x, self.slots, rows, gradient=gradient, network=network)
        fooled = evaluation.average_views(lambda logits: is_adversarial(logits, goals, is_targeted).to(logits.dtype))
        evaluation.metrics |= {"fooling_rate": fooled}
        return evaluation

    def final_metrics(
        self, x: Tensor, rows: Sequence[int], evaluated: Mapping[int, dict[str, float]]
    ) -> list[dict[str, float]]:
        metrics = []
        for m, n in enumerate(rows):
            photographs = self.photographs(self.slots.tasks[n])
            images = self._perturb(x[m], photographs, self.slots.state["eps"][n])
            self._perturbed[n] = images
            self.slots.count_evaluations([n], forwards=len(photographs.tasks))
            metrics.append({"fooling_rate": _fooling_rate(images, "success_float", held_out=False)})
        return metrics

    def _perturb(self, delta: Tensor, photographs: PhotographSet, eps: Tensor) -> list[PerturbedImage]:
        """Add a perturbation ``(C, H, W)`` to all photographs, round the sums to 8 bits and verify them."""
        perturbed: list[PerturbedImage] = []
        for task, error in photographs.failed:
            record = PerturbedImageRecord(**_common_fields(task), status="failed", error=error)
            perturbed.append(PerturbedImage(record, None, None))
        count = len(photographs.tasks)
        for first in range(0, count, _CHUNK):
            indices = list(range(first, min(first + _CHUNK, count)))
            sources = photographs.images(indices, delta)
            goal, targeted = photographs.goal[indices], photographs.targeted[indices]
            sums = (sources + delta).clamp(0, 1)
            fooled = is_adversarial(self._evaluator.networks["plain"](sums)[0].cpu(), goal, targeted)
            # No repair of rounding failures: it would change the perturbation of each photograph.
            no_repair, radii = torch.zeros_like(fooled), eps.expand(len(goal))
            saved = save_and_verify(
                self.network, sums, sources, goal, targeted, no_repair, norm=self.attack.norm, eps=radii
            )
            for index, file, success in zip(indices, saved, fooled.tolist(), strict=True):
                task, before = photographs.tasks[index], photographs.logits[index]
                record = PerturbedImageRecord(
                    **_common_fields(task),
                    status="done" if bool(photographs.counted[index]) else "skipped",
                    label=task.label,
                    label_source=task.label_source,
                    target=task.target,
                    target_name=task.target_name,
                    predicted_before_name=self.network.labels[int(before.argmax())],
                    correct=int(before.argmax()) == task.label if task.has_given_label else None,
                    label_name=None if task.label is None else self.network.labels[task.label],
                    probability_before=float(before.softmax(0)[task.goal]),
                    probability=float(file.logits.softmax(0)[task.goal]),
                    success_float=success,
                    **file.record_fields(self.network.labels),
                    l2=file.distances["l2"],
                    linf=file.distances["linf"],
                )
                perturbed.append(PerturbedImage(record, _to_bytes(file.image), photographs.pixels[index]))
        return sorted(perturbed, key=lambda image: image.record.index)

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        """Return the perturbations, magnified on gray, so that ``eps`` reaches black and white."""
        snapshots = []
        for m, n in enumerate(rows):
            delta = x[m].cpu().float()
            snapshots.append(
                self.snapshot(
                    n,
                    lengths(delta.double()),
                    difference(delta, torch.zeros_like(delta), self._magnification(n))[0],
                    array=delta if final else None,
                    perturbed_images=self._perturbed.get(n, ()) if final else (),
                )
            )
        return snapshots

    def _magnification(self, n: int) -> float:
        return magnification(self.attack.norm, to_list(self.slots.state["eps"])[n])

    def new_record(self, task: Task, **fields: Any) -> UniversalRecord:
        photographs = len(task.photographs or ())
        return UniversalRecord.of(task, attack=short_name(type(self.attack)), photographs=photographs, **fields)

    def record(self, n: int, snapshot: Snapshot, common: Record) -> UniversalRecord:
        images = self._perturbed.pop(n, [])
        self._photographs.pop(self.slots.tasks[n].index, None)
        counted = [image.record for image in images if image.record.status == "done"]
        held_out = sum(record.held_out for record in counted)
        held_out_rates: dict[str, float] = {}
        if held_out:
            held_out_rates["held_out_fooling_rate"] = _fooling_rate(images, "success_file", held_out=True)
            held_out_rates["held_out_fooling_rate_float"] = _fooling_rate(images, "success_float", held_out=True)
        return UniversalRecord.extend(
            common,
            metrics={**common.metrics, "fooling_rate": _fooling_rate(images, "success_file", held_out=False)},
            settings=settings_of(self.attack) | self.attack.record_fields({"eps": self.slots.state["eps"][n]}),
            magnified=self._magnification(n),
            photographs=len(images),
            trained_on=len(counted) - held_out,
            held_out=held_out,
            fooling_rate_float=_fooling_rate(images, "success_float", held_out=False),
            **held_out_rates,
        )

    def finished_metrics(self, record: Record) -> dict[str, float]:
        if not isinstance(record, UniversalRecord):
            return {}
        rates = {"fooled": record.fooling_rate, "fooled_held_out": record.held_out_fooling_rate}
        return {name: rate for name, rate in rates.items() if rate is not None}


def magnification(norm: Norm, eps: float) -> float:
    """Return the factor of the picture of a perturbation: ``eps`` reaches black and white."""
    bound = norm.value_bound(eps)
    if 0 < bound < math.inf:
        return 0.5 / bound
    return MAGNIFIED


def universal_tasks(photographs: Sequence[Task], held_out: float = 0.0) -> list[Task]:
    """Return a task per target and radius, each for all photographs, of which a fraction is held out.

    Photographs that are listed once per radius are counted once.
    """
    radii = list(dict.fromkeys(task.eps for task in photographs if task.eps is not None))
    if radii:
        photographs = [replace(task, eps=None) for task in photographs if task.eps == radii[0]]
    seed = photographs[0].seed
    targets: dict[int | None, str | None] = {}
    for task in photographs:
        rule = task.rule
        if rule not in (None, "none"):
            raise LitVizError(f"targets of a universal attack must be one class for all photographs, got {rule}")
        if task.error is None:
            targets[task.target] = task.target_name
    tasks: list[Task] = []
    for target, target_name in targets.items():
        name = "universal"
        if target is None:
            target_name = None
        else:
            name = f"universal {target_name}"
        members = [task for task in photographs if task.error is not None or task.target == target]
        rows = [member.to_dict() for member in _hold_out(members, held_out, seed)]
        for radius in radii or (None,):
            task = Task(len(tasks), name, seed + len(tasks), target, target_name, photographs=rows, eps=radius)
            tasks.append(task)
    return tasks


def _hold_out(photographs: Sequence[Task], fraction: float, seed: int) -> list[Task]:
    """Return the photographs, renumbered, with a random fraction marked as held out."""
    order = Draws([Key(seed, 0)]).uniform("held out", shape=(len(photographs),))[0].argsort().tolist()
    held_out = set(order[: round(fraction * len(photographs))])
    marked: list[Task] = []
    for index, task in enumerate(photographs):
        marked.append(replace(task, index=index, held_out=True if index in held_out else None))
    return marked


def _common_fields(task: Task) -> dict[str, Any]:
    held_out = bool(task.held_out)
    return {"index": task.index, "name": task.name, "source": task.source, "held_out": held_out}


def _fooling_rate(images: Sequence[PerturbedImage], field: str, *, held_out: bool) -> float:
    """Return the fraction of counted photographs with a true field of the record; NaN if there are none."""
    fooled: list[bool] = []
    for image in images:
        if image.record.status == "done" and image.record.held_out == held_out:
            fooled.append(getattr(image.record, field))
    if not fooled:
        return math.nan
    return sum(fooled) / len(fooled)


def add_to_views(delta: Tensor, draws: Draws, photographs: Tensor, keys: Sequence[Key]) -> Tensor:
    """Return the sums of perturbations ``(N, C, H, W)`` and photographs ``(M, C, H, W)``, one per draw.

    ``keys`` belong to the photographs. The draws may be a subset of them, or perturbations and draws a subset of the
    batch.
    """
    count = len(draws.keys)
    rows = to_device([m * len(delta) // count for m in range(count)], delta.device)  # equal views per perturbation
    positions = {key: position for position, key in enumerate(keys)}
    sums = photographs[to_device([positions[key] for key in draws.keys], delta.device)] + delta[rows]
    # The gradient of clamp at the bounds differs between versions of torch (2.13 and 2.15).
    return torch.where((sums >= 0) & (sums <= 1), sums, sums.detach().clamp(0, 1))
