"""One perturbation for many photographs: trained on mini-batches of them until the network is wrong about most."""

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
from lit_viz.engine.snapshots import Look
from lit_viz.errors import LitVizError
from lit_viz.images.difference import MAGNIFIED, difference
from lit_viz.methods.attack_training import AttackTraining
from lit_viz.methods.perturbed_images import borne, rate
from lit_viz.methods.photograph_set import PhotographSet, read_photographs
from lit_viz.methods.records import UniversalRecord
from lit_viz.objectives import Objective, Outputs
from lit_viz.objectives.base import evaluate_objective
from lit_viz.optim import Evaluation, State
from lit_viz.rng import Draws, Key
from lit_viz.types import PerturbedImage, Record, Task
from lit_viz.utils.device import to_device, to_list


class UniversalPerturbation(AttackTraining):
    """Trains a perturbation that fools the network in most photographs that it is added to (Moosavi-Dezfooli et al.
    2017, arXiv:1610.08401; by stochastic gradient ascent, Shafahi et al. 2020, arXiv:1811.11304).

    A task owns one perturbation; its option ``photographs`` lists what it is for, each a dictionary of the fields of a
    :class:`~lit_viz.types.Task`, with an option ``held_out`` where it is not trained on. The views of an
    iteration are a mini-batch of them. A photograph counts unless the network is wrong about it (or sees the target)
    before anything is added. It is fooled if the network is wrong about its sum with the perturbation, clipped to
    [0, 1]; in the file, if the original network is about the 8 bits that are saved of it.

    Args:
        classifier: the frozen network.
        attack: how the perturbation moves.
        views: photographs an iteration; each costs one evaluation.
        limits: the other arguments of :class:`~lit_viz.methods.attack_training.AttackTraining`.

    Raises:
        LitVizError: for values that make no run, in one sentence.
    """

    attack: Universal

    def __init__(self, classifier: Classifier, attack: Universal, views: int = Universal.views, **limits: Any) -> None:
        super().__init__(classifier, attack, views, **limits)
        self._sets: dict[int, PhotographSet] = {}  # by task
        self._bearers: dict[int, list[PerturbedImage]] = {}  # by slot, of those that have just ended

    def start(self, task: Task) -> Tensor:
        """Read the photographs, and return no perturbation ``(C, H, W)``.

        Raises:
            LitVizError: there is none to train on.
        """
        self.photographs(task)
        return torch.zeros(self.classifier.channels, *self.classifier.size)

    def photographs(self, task: Task) -> PhotographSet:
        """Return what the task's perturbation is for; the original network is asked about them the first time."""
        if task.index not in self._sets:
            given = [Task(**fields) for fields in task.options["photographs"]]
            self._sets[task.index] = read_photographs(given, super().start, self.classifier)
        return self._sets[task.index]

    def resolve_tasks(self, tasks: Sequence[Task], x: Tensor) -> list[Task | LitVizError]:
        """Return the tasks: nothing of them depends on the network."""
        return list(tasks)

    def initial(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the rule's state."""
        return self.attack.init(x, tasks)

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        """Count the forwards that were paid for what the network says of the photographs, once: not after a resume."""
        for n in rows:
            if self.slots.forwards[n] == 0:
                self.slots.count_evaluations([n], forwards=len(self.photographs(self.slots.tasks[n]).tasks))

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate perturbations on the mini-batches of their iteration."""
        batch = self._batch(x, rows)
        evaluate = replace(self._evaluator, look=batch.look, objective=_Each(self.attack.objective, batch))
        evaluation = evaluate(x, self.slots, rows, gradient=gradient, network=network)
        evaluation.metrics |= {"fooling_rate": evaluation.over_views(batch.fooled)}
        return evaluation

    def _batch(self, x: Tensor, rows: Sequence[int]) -> _Batch:
        iteration = self.slots.iteration
        images, goals, targeted = [], [], []
        for n in rows:
            task = self.slots.tasks[n]
            photographs = self.photographs(task)
            places = photographs.batch(task.seed, iteration[n], self.views)
            images.append(photographs.images(places, x))
            goals.append(photographs.goal[places])
            targeted.append(photographs.targeted[places])
        asked = (to_device(torch.cat(those), x.device) for those in (goals, targeted))
        return _Batch(self.slots.keys(rows, self.views), torch.cat(images), *asked)

    def final_metrics(self, x: Tensor, rows: Sequence[int]) -> list[dict[str, float]]:
        """Add the perturbations to all photographs, write the sums in 8 bits, in memory, and ask about both."""
        for m, n in enumerate(rows):
            photographs = self.photographs(self.slots.tasks[n])
            eps = self.slots.state["eps"][n]
            network = self._evaluator.networks["plain"]
            self._bearers[n] = borne(x[m], photographs, self.classifier, network, self.attack.norm, eps)
            self.slots.count_evaluations([n], forwards=len(photographs.tasks))
        return [{"fooling_rate": rate(self._bearers[n], "success_float", held_out=False)} for n in rows]

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the perturbations, magnified on mid-grey; what is magnified to black and white has the length eps."""
        looks = []
        for m, n in enumerate(rows):
            delta = x[m].cpu().float()
            picture = difference(delta, torch.zeros_like(delta), self._times(n))[0]
            metrics = lengths(delta.double())
            perturbed_images = self._bearers.get(n, ()) if final else ()
            looks.append(Look(picture, metrics, array=delta if final else None, perturbed_images=perturbed_images))
        return looks

    def _times(self, n: int) -> float:
        bound = self.attack.norm.value_bound(to_list(self.slots.state["eps"])[n])
        return 0.5 / bound if 0 < bound < math.inf else MAGNIFIED

    def record(self, n: int, look: Look, common: Record) -> UniversalRecord:
        """Return the record with the fooling rates: of the photographs trained on, and of those held out."""
        perturbed_images = self._bearers.pop(n, [])
        self._sets.pop(self.slots.tasks[n].index, None)  # it has ended
        counted = [
            perturbed_image.record for perturbed_image in perturbed_images if perturbed_image.record.status == "done"
        ]
        held_out = sum(record.held_out for record in counted)
        held_out_rates = {
            "held_out_fooling_rate": rate(perturbed_images, "success_file", held_out=True),
            "held_out_fooling_rate_float": rate(perturbed_images, "success_float", held_out=True),
        }
        return UniversalRecord.extend(
            common,
            metrics={**common.metrics, "fooling_rate": rate(perturbed_images, "success_file", held_out=False)},
            attack=name_of(self.attack),
            settings=self.attack.record_fields({"eps": self.slots.state["eps"][n]}),
            magnified=self._times(n),
            photographs=len(perturbed_images),
            trained_on=len(counted) - held_out,
            held_out=held_out,
            fooling_rate_float=rate(perturbed_images, "success_float", held_out=False),
            **(held_out_rates if held_out else {}),
        )


@dataclass(frozen=True)
class _Batch:
    """The photographs that N perturbations are tried on in an iteration, a view each.

    Attributes:
        keys: who draws, a view each.
        images: ``(N * views, C, H, W)``.
        goal, targeted: ``(N * views,)``.
    """

    keys: Sequence[Key]
    images: Tensor
    goal: Tensor
    targeted: Tensor

    def look(self, delta: Tensor, draws: Draws) -> Tensor:
        """Return the sums of perturbations ``(N, C, H, W)`` and photographs, one a draw: of a process that evaluates a
        part of the views, or of the perturbations, these alone."""
        count = len(draws.keys)
        rows = to_device([m * len(delta) // count for m in range(count)], delta.device)  # each has as many
        places = {key: place for place, key in enumerate(self.keys)}
        shown = to_device([places[key] for key in draws.keys], delta.device)
        sums = self.images[shown] + delta[rows]
        # torch's clamp passes the slope of a value at black or white in some versions (2.13), and in others (2.15) not.
        return torch.where((sums >= 0) & (sums <= 1), sums, sums.detach().clamp(0, 1))

    def fooled(self, logits: Tensor) -> Tensor:
        """Return where the network sees what is asked for ``(N * views,)``, 0 or 1."""
        return is_adversarial(logits, self.goal, self.targeted).to(logits.dtype)


@dataclass(frozen=True)
class _Each(Objective):
    """An objective that asks of every view what is asked of its photograph."""

    objective: Objective
    batch: _Batch

    def __call__(self, outputs: Outputs) -> Tensor:
        return evaluate_objective(
            self.objective, replace(outputs, targets=self.batch.goal, targeted=self.batch.targeted)
        )
