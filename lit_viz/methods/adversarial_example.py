"""How little must change for the network to be wrong? A photograph is trained to be seen as another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks import Attack, BudgetAttack, name_of
from lit_viz.attacks.norms import NORMS
from lit_viz.attacks.rounding.verification import Saved, save_and_verify
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.prediction import top5
from lit_viz.engine.snapshots import Look
from lit_viz.errors import LitVizError
from lit_viz.images.difference import MAGNIFIED, difference
from lit_viz.images.transforms import Compose, Transform
from lit_viz.methods.attack_training import AttackTraining
from lit_viz.methods.photographs import LOGITS
from lit_viz.methods.records import AdversarialRecord
from lit_viz.methods.targets import with_goal
from lit_viz.objectives import Margin, Outputs
from lit_viz.optim import Evaluation
from lit_viz.rng import Draws
from lit_viz.types import Record, Task
from lit_viz.utils.device import to_list


class AdversarialExample(AttackTraining):
    """Trains photographs to be misclassified (Szegedy et al. 2014, arXiv:1312.6199; Goodfellow et al. 2015,
    arXiv:1412.6572).

    Image 0 of a task is the photograph. An image is done at its first success, unless the attack looks for the smallest
    perturbation; it counts as a success only if the original network is fooled by the image as its 8-bit file holds it.

    Args:
        classifier: the frozen network.
        attack: how images move.
        transforms: applied to every view with draws of its own: an image that holds under them is fooling in
            expectation (Athalye et al. 2018, arXiv:1707.07397). Where there is one that doesn't decide
            (:class:`~lit_viz.images.DiverseInput`), success is looked for on the image itself, by a forward more.
        views: views an image and iteration, one unless given; each costs one evaluation.
        limits: the other arguments of :class:`~lit_viz.methods.attack_training.AttackTraining`.

    Raises:
        LitVizError: for values that make no run, in one sentence.
    """

    def __init__(
        self,
        classifier: Classifier,
        attack: Attack,
        transforms: Sequence[Transform] = (),
        views: int | None = None,
        **limits: Any,
    ) -> None:
        attack.bind(classifier)
        super().__init__(classifier, attack, 1 if views is None else views, **limits)
        self.notes += attack.notes
        self.transforms = Compose(list(transforms))
        self._saved: dict[int, tuple[Saved, bool]] = {}  # by slot, of the images that have just ended

    def shown(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the transformed views of images."""
        return self.transforms(x, draws, self.classifier.size)

    def resolved(self, task: Task, logits: Tensor | None) -> Task:
        """Return the task with label and target; one that is asked to show what it shows, by the label given, fails."""
        task = with_goal(super().resolved(task, logits))
        if task.target is not None and task.target == task.label and task.label_source != "predicted":
            raise LitVizError(f"{task.name} shows {task.target_name} by its label: give another --target.")
        return task

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        """Evaluate images; what is logged of them comes from the same forward."""
        evaluation = self._evaluator(x, self.slots, rows, gradient=gradient, network=network)
        steered = not all(transform.affects_success for transform in self.transforms.transforms)
        if steered:
            with torch.no_grad():
                evaluation.logits = self._evaluator.networks[network](x)[0]
            self.slots.count_evaluations(rows, forwards=1)
        if steered or not self.transforms.transforms:
            self.remember(x, rows, evaluation)
        asked = self.slots.goals(rows, x.device)
        evaluation.metrics |= {
            "probability": torch.softmax(evaluation.logits, 1).gather(1, asked["targets"][:, None])[:, 0],
            "margin": Margin()(Outputs(evaluation.logits, asked["targets"], targeted=asked["targeted"])),
        }
        if self.transforms.transforms and not steered:
            self._see_photographs(x, rows, evaluation, network)
        return evaluation

    def _see_photographs(self, x: Tensor, rows: Sequence[int], evaluation: Evaluation, network: str) -> None:
        """Let the photographs themselves decide whether there is anything to attack, not their views."""
        iteration = self.slots.iteration
        mine = [m for m, n in enumerate(rows) if iteration[n] == 0 and torch.equal(x[m], self.slots.x[n])]
        unasked = [m for m in mine if self.said(rows[m]) is None]
        if unasked:
            with torch.no_grad():
                logits = self._evaluator.networks[network](x[unasked])[0]
            self.slots.count_evaluations([rows[m] for m in unasked], forwards=1)
            for m, row in zip(unasked, logits, strict=True):
                self.keep(rows[m], row)
        if mine:
            known = self.slots.state[LOGITS][[rows[m] for m in mine]].to(evaluation.logits)
            evaluation.logits = evaluation.logits.index_put((torch.tensor(mine, device=known.device),), known)

    def final_metrics(self, x: Tensor, rows: Sequence[int]) -> list[dict[str, float]]:
        """Write the outcomes in 8 bits, in memory, and ask the original network about what a reader of the file gets.

        Images that ended by their number of iterations were not evaluated since their last update: they are now.
        """
        terms: list[dict[str, float]] = [{} for _ in rows]
        done = to_list(self.optimizer.done)
        unseen = [m for m, n in enumerate(rows) if not done[n]]
        if unseen:
            mine = [rows[m] for m in unseen]
            evaluation = self.score(x[unseen], mine, gradient=False)
            self._keep(mine, self.attack.track_best(x[unseen], self._state(mine), evaluation))
            for place, m in enumerate(unseen):
                terms[m] = evaluation.metrics_by_row()[place]
        state = self._state(rows)
        outcomes = self.attack.result(x, state)
        budget = self.attack if isinstance(self.attack, BudgetAttack) else None
        saved = save_and_verify(
            self.classifier,
            outcomes,
            state["source"],
            state["goal"],
            state["targeted"],
            state["fooled"],
            norm=None if budget is None else budget.norm,
            eps=state["eps"] if budget is not None else None,
        )
        fooled = state["fooled"].tolist()
        self._saved = {n: (one, success) for n, one, success in zip(rows, saved, fooled, strict=True)}
        return terms

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Look]:
        """Show the images with their difference to the photographs, magnified; at the end as their files hold them,
        while their traces end with x_k before it was rounded."""
        looks = []
        sources, iteration = self.slots.state["source"], self.slots.iteration
        norms = _norms([x[m] - sources[n] for m, n in enumerate(rows)])
        for m, (n, lengths) in enumerate(zip(rows, norms, strict=True)):
            saved = self._saved[n][0] if final and n in self._saved else None
            kept = final or self.log_at.due(iteration[n], self.last(self.slots.tasks[n]))
            if not kept:  # the numbers alone are wanted: a picture would have to come from the GPU
                looks.append(Look(x[m], lengths))
                continue
            source = sources[n].cpu()
            image = x[m].cpu() if saved is None else saved.image
            looks.append(
                Look(
                    image.float(),
                    lengths if saved is None else self._verdict(n, saved),
                    traced=None if saved is None else lengths,
                    top5=() if saved is None else top5(saved.logits, self.classifier.labels),
                    source=source.float(),
                    extra_images={"difference": difference(image, source, MAGNIFIED)[0]},
                )
            )
        return looks

    def record(self, n: int, look: Look, common: Record) -> AdversarialRecord:
        """Return the record with the predictions of the photograph and of the file."""
        label = self.slots.tasks[n].label
        known = {} if label is None else {"label_name": self.classifier.labels[label]}
        record = AdversarialRecord.extend(
            common,
            attack=name_of(self.attack),
            settings=self.attack.record_fields(self._state([n])),
            **known,
            **self._before(n),
            **self.place(n),
        )
        if n not in self._saved:
            return record
        saved, success_float = self._saved.pop(n)
        predicted = int(saved.logits.argmax())
        predicted_name = self.classifier.labels[predicted]
        record = record.amend(
            success_float=success_float,
            success_file=saved.success,
            success_jpeg95=saved.success and saved.jpeg[95],
            success_jpeg75=saved.success and saved.jpeg[75],
            repaired=saved.repaired,
            l0=saved.distances["l0"],
            ssim=saved.distances["ssim"],
            psnr=saved.distances["psnr"],
            predicted=predicted,
            predicted_name=predicted_name,
            top5=look.ranking,
        )
        return _skipped(record) if self.slots.iteration[n] == 0 and success_float else record

    def _state(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return self.slots.state_of(rows)

    def _keep(self, rows: Sequence[int], state: Mapping[str, Tensor]) -> None:
        for key, value in state.items():
            self.slots.put(key, rows, value)

    def _before(self, n: int) -> dict[str, Any]:
        """Return what the network said of the photograph."""
        logits, task = self.said(n), self.slots.tasks[n]
        if logits is None:
            return {}
        goal = task.goal
        before = int(logits.argmax())
        return {
            "predicted_before": before,
            "predicted_before_name": self.classifier.labels[before],
            "probability_before": float(logits.softmax(0)[goal]),
        }

    def _verdict(self, n: int, saved: Saved) -> dict[str, float]:
        """Return what the original network says of the file: probability of the class asked for, and the margin."""
        state = self._state([n])
        goal = int(state["goal"])
        outputs = Outputs(saved.logits[None], state["goal"].cpu(), targeted=state["targeted"].cpu())
        return {
            **{name: saved.distances[name] for name in NORMS},
            "probability": float(saved.logits.softmax(0)[goal]),
            "margin": float(Margin()(outputs)),
        }


def _skipped(record: AdversarialRecord) -> AdversarialRecord:
    """Return the record of a photograph that is misclassified, or classified as the target, before the attack."""
    advice = "" if record.target is None else ": give another --target"
    return record.amend(
        status="skipped",
        error=f"{record.name} is seen as {record.predicted_name} before anything is changed, so there is nothing to "
        f"attack{advice}.",
        success_float=False,
        success_file=False,
        success_jpeg95=False,
        success_jpeg75=False,
    )


def _norms(changes: Sequence[Tensor]) -> list[dict[str, float]]:
    doubles = [change[None].double() for change in changes]
    lengths = torch.stack([torch.cat([norm.length(change) for norm in NORMS.values()]) for change in doubles])
    return [dict(zip(NORMS, row, strict=True)) for row in lengths.tolist()]
