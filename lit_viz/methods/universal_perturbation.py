"""Universal perturbations: one change that fools the network on many photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks import Universal, is_adversarial, name_of
from lit_viz.attacks.norms import lengths
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.images.difference import MAGNIFIED, difference
from lit_viz.methods.attack_training import AttackTraining
from lit_viz.methods.perturbed_images import PhotographSet, apply_perturbation, fooling_rate, read_photographs
from lit_viz.methods.records import UniversalRecord
from lit_viz.objectives import Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim import Evaluation, State
from lit_viz.rng import Draws, Key
from lit_viz.types import PerturbedImage, Record, Snapshot, Task
from lit_viz.utils.device import to_device, to_list


class UniversalPerturbation(AttackTraining):
    """Train a perturbation that fools the network on most photographs (Moosavi-Dezfooli et al. 2017,
    arXiv:1610.08401), by stochastic gradient ascent (Shafahi et al. 2020, arXiv:1811.11304).

    A task has one perturbation. Its option ``photographs`` lists the fields of a :class:`~lit_viz.types.Task` for each
    photograph, with the option ``held_out`` if it is not trained on. The views of an iteration are a mini-batch of
    photographs. A photograph is counted if the network classifies it correctly, and not as the target. It is fooled if
    its sum with the perturbation, clipped to [0, 1], is misclassified, or classified as the target; in the file, if the
    original network is fooled by the 8-bit image.

    Args:
        classifier: frozen classifier.
        attack: step rule and objective.
        views: photographs per iteration.
        limits: other arguments of :class:`~lit_viz.methods.attack_training.AttackTraining`.

    Raises:
        LitVizError: an argument is invalid.
    """

    attack: Universal

    def __init__(self, classifier: Classifier, attack: Universal, views: int = Universal.views, **limits: Any) -> None:
        super().__init__(classifier, attack, views, **limits)
        self._photographs: dict[int, PhotographSet] = {}  # by task
        self._perturbed: dict[int, list[PerturbedImage]] = {}  # by finished slot

    def start(self, task: Task) -> Tensor:
        """Read the photographs and return a zero perturbation ``(C, H, W)``.

        Raises:
            LitVizError: no photograph can be trained on.
        """
        self.photographs(task)
        return torch.zeros(self.classifier.channels, *self.classifier.size)

    def photographs(self, task: Task) -> PhotographSet:
        """Return the photographs of a task; they are read and evaluated at the first call."""
        if task.index not in self._photographs:
            tasks = [Task(**fields) for fields in task.options["photographs"]]
            self._photographs[task.index] = read_photographs(tasks, super().start, self.classifier)
        return self._photographs[task.index]

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks, which do not depend on the network."""
        return list(tasks)

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state of the attack."""
        return self.attack.init(x, tasks)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Count the forwards of the photographs, unless the task is resumed."""
        for n in rows:
            if self.slots.forwards[n] == 0:
                self.slots.count_evaluations([n], forwards=len(self.photographs(self.slots.tasks[n]).tasks))

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate perturbations on the mini-batches of their iteration."""
        batch = self._batch(x, rows)
        objective = _PhotographObjective(self.attack.objective, batch)
        evaluator = replace(self._evaluator, make_inputs=batch.make_inputs, objective=objective)
        evaluation = evaluator(x, self.slots, rows, gradient=gradient, network=network)
        evaluation.metrics |= {"fooling_rate": evaluation.average_views(batch.fooled)}
        return evaluation

    def _batch(self, x: Tensor, rows: Sequence[int]) -> _Batch:
        iteration = self.slots.iteration
        images, goal, targeted = [], [], []
        for n in rows:
            task = self.slots.tasks[n]
            photographs = self.photographs(task)
            indices = photographs.batch(task.seed, iteration[n], self.views)
            images.append(photographs.images(indices, x))
            goal.append(photographs.goal[indices])
            targeted.append(photographs.targeted[indices])
        goals = (to_device(torch.cat(values), x.device) for values in (goal, targeted))
        return _Batch(self.slots.keys(rows, self.views), torch.cat(images), *goals)

    def final_metrics(self, x: Tensor, rows: Sequence[int]) -> list[dict[str, float]]:
        """Verify the perturbations on all photographs, before and after rounding to 8 bits."""
        for m, n in enumerate(rows):
            photographs = self.photographs(self.slots.tasks[n])
            network, eps = self._evaluator.networks["plain"], self.slots.state["eps"][n]
            self._perturbed[n] = apply_perturbation(x[m], photographs, self.classifier, network, self.attack.norm, eps)
            self.slots.count_evaluations([n], forwards=len(photographs.tasks))
        return [{"fooling_rate": fooling_rate(self._perturbed[n], "success_float", held_out=False)} for n in rows]

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
        bound = self.attack.norm.value_bound(to_list(self.slots.state["eps"])[n])
        return 0.5 / bound if 0 < bound < math.inf else MAGNIFIED

    def record(self, n: int, snapshot: Snapshot, common: Record) -> UniversalRecord:
        """Return the record with the fooling rates of training and held-out photographs."""
        images = self._perturbed.pop(n, [])
        self._photographs.pop(self.slots.tasks[n].index, None)
        counted = [image.record for image in images if image.record.status == "done"]
        held_out = sum(record.held_out for record in counted)
        held_out_rates = {
            "held_out_fooling_rate": fooling_rate(images, "success_file", held_out=True),
            "held_out_fooling_rate_float": fooling_rate(images, "success_float", held_out=True),
        }
        return UniversalRecord.extend(
            common,
            metrics={**common.metrics, "fooling_rate": fooling_rate(images, "success_file", held_out=False)},
            attack=name_of(self.attack),
            settings=self.attack.record_fields({"eps": self.slots.state["eps"][n]}),
            magnified=self._magnification(n),
            photographs=len(images),
            trained_on=len(counted) - held_out,
            held_out=held_out,
            fooling_rate_float=fooling_rate(images, "success_float", held_out=False),
            **(held_out_rates if held_out else {}),
        )


@dataclass(frozen=True)
class _Batch:
    """Mini-batches of N perturbations.

    Attributes:
        keys: key of the draws of each view.
        images: photographs ``(N * views, C, H, W)``.
        goal, targeted: ``(N * views,)``.
    """

    keys: Sequence[Key]
    images: Tensor
    goal: Tensor
    targeted: Tensor

    def make_inputs(self, delta: Tensor, draws: Draws) -> Tensor:
        """Return the sums of perturbations ``(N, C, H, W)`` and photographs, one per draw.

        The draws may be a subset of the views, or the perturbations and draws a subset of the batch.
        """
        count = len(draws.keys)
        rows = to_device([m * len(delta) // count for m in range(count)], delta.device)  # equal views per perturbation
        positions = {key: position for position, key in enumerate(self.keys)}
        shown = to_device([positions[key] for key in draws.keys], delta.device)
        sums = self.images[shown] + delta[rows]
        # The gradient of clamp at the bounds differs between versions of torch (2.13 and 2.15).
        return torch.where((sums >= 0) & (sums <= 1), sums, sums.detach().clamp(0, 1))

    def fooled(self, logits: Tensor) -> Tensor:
        """Return 1 for each view that is adversarial, else 0, ``(N * views,)``."""
        return is_adversarial(logits, self.goal, self.targeted).to(logits.dtype)


@dataclass(frozen=True)
class _PhotographObjective(Objective):
    """An objective with the goals of the photographs in a mini-batch."""

    objective: Objective
    batch: _Batch

    def __call__(self, outputs: Outputs) -> Tensor:
        outputs = replace(outputs, targets=self.batch.goal, targeted=self.batch.targeted)
        return evaluate_objective(self.objective, outputs)
