"""Adversarial examples: small changes of a photograph that change its predicted class."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.attacks import ATTACKS, Attack, BudgetAttack
from lit_viz.attacks.norms import NORMS
from lit_viz.attacks.rounding import Saved, Verifier, save_and_verify
from lit_viz.engine.snapshots import Snapshot
from lit_viz.errors import LitVizError, find_part
from lit_viz.images.rendering import MAGNIFIED, difference
from lit_viz.images.transforms import Compose, Transform
from lit_viz.methods.goals import check_goals, check_numbers, resolve_goal
from lit_viz.methods.photographs import LOGITS, AttackTraining, check_goal, is_targeted, said_columns
from lit_viz.networks import Network, as_network
from lit_viz.objectives import Margin, Outputs
from lit_viz.optim import Evaluation
from lit_viz.rng import Draws
from lit_viz.runs.records import AdversarialRecord, NamedBox, named_boxes
from lit_viz.types import Record, Task
from lit_viz.utils.parts import settings_of, short_name


class AdversarialExample(AttackTraining):
    """Train photographs to be misclassified (Szegedy et al. 2014, arXiv:1312.6199; Goodfellow et al. 2015,
    arXiv:1412.6572).

    Image 0 of a task is the photograph. An image is done at its first success, unless the attack minimizes the
    perturbation. It counts as a success if its file, of 8 bits or the type of the source, fools the original network.

    Args:
        network: frozen network, a module or a name.
        attack: step rule and objective, or its name in :data:`~lit_viz.attacks.ATTACKS`.
        transforms: random transforms of every view, for images that fool in expectation (Athalye et al. 2018,
            arXiv:1707.07397). If one does not affect success (:class:`~lit_viz.images.DiverseInput`), success is tested
            on the image itself, by an additional forward.
        views: views per image and iteration, 1 by default.
        options: other arguments of :class:`~lit_viz.methods.photographs.AttackTraining`.

    Raises:
        LitVizError: an argument is invalid.
    """

    presentation = "lit_viz.presentations.adversarial_example.AdversarialExamplePresentation"
    verifier = "lit_viz.evidence.adversarial_example.AdversarialExampleVerifier"
    completed = ("attack",)

    def __init__(
        self,
        network: Network | nn.Module | str,
        *,
        attack: Attack | str = "normalized_ascent",
        transforms: Sequence[Transform] = (),
        views: int | None = None,
        **options: Any,
    ) -> None:
        network = as_network(network)
        attack = find_part(attack, ATTACKS, "attack")() if isinstance(attack, str) else copy.copy(attack)
        attack.bind(network)
        super().__init__(network, attack, 1 if views is None else views, **options)
        self.notes += attack.notes
        self.transforms = Compose(list(transforms))
        self._tests_views = all(transform.affects_success for transform in self.transforms.transforms)
        self._saved: dict[int, tuple[Saved, bool]] = {}  # file and success before rounding, by finished slot
        self._texts_before: dict[int, str] = {}  # of the photographs, by finished slot
        self._boxes: dict[int, dict[str, list[NamedBox]]] = {}  # before and after, by finished slot

    def validate_tasks(self, tasks: Sequence[Task]) -> None:
        """Require enough classes for the attack, of targeted or untargeted tasks, and the images of the tasks."""
        super().validate_tasks(tasks)
        check_goals(tasks, self.network)
        check_numbers(tasks, self.network)
        for targeted in set(map(is_targeted, tasks)):
            self.attack.check_classes(self.network, targeted=targeted)

    def make_inputs(self, x: Tensor, draws: Draws) -> Tensor:
        return self.transforms(x, draws, self.network.size)

    def resolve_task(self, task: Task, logits: Tensor | None) -> Task:
        """Return the task with label and target, which must differ unless the label is predicted."""
        if self.network.rule.has_prediction:
            task = check_goal(super().resolve_task(task, logits))
        if task.aim is not None:
            task = resolve_goal(task, logits, self.network)
        if task.target is not None and task.target == task.label and task.label_source != "predicted":
            raise LitVizError(f"{task.name}: the target must differ from the label {task.target_name}")
        return task

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        with self.network.output.about(said_columns(self.slots.tasks_of(rows))):
            evaluation = self._evaluator(x, self.slots, rows, gradient=gradient, network=network)
            if not self._tests_views:
                evaluation.logits = self._decisions(self._logits(x, rows, network), rows)
        tests_random_views = self._tests_views and bool(self.transforms.transforms)
        if not tests_random_views:
            self.store_photograph_logits(x, rows, evaluation)
        goals = self.slots.goals(rows, x.device)
        outputs = Outputs(evaluation.logits, goals["targets"], targeted=goals["targeted"])
        margin = Margin()(outputs)
        rule = self.network.rule
        evaluation.metrics[rule.value] = rule.goal_values(evaluation.logits, margin, goals)
        evaluation.metrics["margin"] = margin
        if tests_random_views:
            self._replace_photograph_logits(x, rows, evaluation, network)
        return evaluation

    def _logits(self, x: Tensor, rows: Sequence[int], network: str) -> Tensor:
        """Evaluate images without transforms, and count a forward."""
        with torch.no_grad():
            logits = self._evaluator.networks[network].final_scores(x)
        self.slots.count_evaluations(rows, forwards=1)
        return logits

    def _decisions(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """Return logits ``(N, K)`` of slots, or of the decision on their goals if scores are not exclusive."""
        return self.network.rule.logits(logits, self.slots.goals(rows, logits.device))

    def _replace_photograph_logits(self, x: Tensor, rows: Sequence[int], evaluation: Evaluation, network: str) -> None:
        """Test success at iteration 0 on the photograph itself instead of its views."""
        iteration = self.slots.iteration
        photographs, missing = [], []
        for m, n in enumerate(rows):
            if iteration[n] > 0 or not torch.equal(x[m], self.slots.x[n]):
                continue
            photographs.append(m)
            if self.photograph_logits(n) is None:
                missing.append(m)
        if missing:
            slots = [rows[m] for m in missing]
            self.set_photograph_logits(slots, self._logits(x[missing], slots, network))
        if photographs:
            slots = [rows[m] for m in photographs]
            logits = self._decisions(self.slots.state[LOGITS][slots].to(evaluation.logits), slots)
            evaluation.logits = evaluation.logits.index_put((torch.tensor(photographs, device=logits.device),), logits)

    def final_metrics(
        self, x: Tensor, rows: Sequence[int], evaluated: Mapping[int, dict[str, float]]
    ) -> list[dict[str, float]]:
        """Round the outcomes to the values of files, and verify these on the original network.

        Images that were not evaluated since their last update are evaluated first.
        """
        metrics = dict(evaluated)
        unevaluated = [m for m, n in enumerate(rows) if n not in evaluated]
        if unevaluated:
            slots = [rows[m] for m in unevaluated]
            evaluation = self.score(x[unevaluated], slots, gradient=False)
            state = self.attack.track_best(x[unevaluated], self.slots.state_of(slots), evaluation)
            for key, value in state.items():
                self.slots.put(key, slots, value)
            metrics.update(zip(slots, evaluation.metrics_by_row(), strict=True))
        state = self.slots.state_of(rows)
        norm, eps = None, None
        if isinstance(self.attack, BudgetAttack):
            norm, eps = self.attack.norm, state["eps"]
        saved = save_and_verify(
            self.network,
            self.attack.result(x, state),
            state["source"],
            state["goal"],
            state["targeted"],
            state["fooled"],
            norm=norm,
            eps=eps,
            thresholds=self._thresholds(rows),
            against=self._against(rows),
            formats=[self.format_of(n) for n in rows],
        )
        self._saved = dict(zip(rows, zip(saved, state["fooled"].tolist(), strict=True), strict=True))
        if self.network.output.detects:
            self._store_boxes(rows, state["source"], [file.image for file in saved])
        if self.network.output.reads:
            self._texts_before = dict(zip(rows, self.network.read(state["source"]), strict=True))
        return [metrics[n] for n in rows]

    def _store_boxes(self, rows: Sequence[int], sources: Tensor, files: Sequence[Tensor]) -> None:
        """Store the detections of photographs and of files."""
        before, after = self.network.detections(sources), self.network.detections(torch.stack([*files]))
        labels = self.network.labels
        for m, n in enumerate(rows):
            self._boxes[n] = {"boxes_before": named_boxes(before[m], labels), "boxes": named_boxes(after[m], labels)}

    @torch.no_grad()
    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        """Return the images with their magnified change; final ones as their files hold them."""
        snapshots = []
        draw = self.network.bands.draw
        sources, iteration = self.slots.state["source"], self.slots.iteration
        norms = _norms([x[m] - sources[n] for m, n in enumerate(rows)])
        for m, (n, metrics) in enumerate(zip(rows, norms, strict=True)):
            if not final and not self.log_at.due(iteration[n], self.last_iteration(self.slots.tasks[n])):
                snapshots.append(self.snapshot(n, metrics))  # no image is transferred from the GPU
                continue
            source = sources[n].cpu()
            of_file: dict[str, Any] = {}
            if final and n in self._saved:
                saved, _ = self._saved[n]
                image = saved.image
                of_file = {"file_metrics": self._file_metrics(n, saved), "top5": self.network.top5(saved.logits)}
                if not self.network.bands.are_drawn:
                    of_file["data"] = image
            else:
                image = x[m].cpu()
            snapshots.append(
                self.snapshot(
                    n,
                    metrics,
                    draw(image.float()),
                    source=source.float(),
                    extra_images={"difference": difference(draw(image), draw(source), MAGNIFIED)[0]},
                    **of_file,
                )
            )
        return snapshots

    def new_record(self, task: Task, **fields: Any) -> AdversarialRecord:
        return AdversarialRecord.of(task, attack=short_name(type(self.attack)), **fields)

    def record(self, n: int, snapshot: Snapshot, common: Record) -> AdversarialRecord:
        record = AdversarialRecord.extend(
            common,
            settings=self._settings(n),
            **self._photograph_fields(n),
            **self.crop_fields(n),
        )
        label, against = self.slots.tasks[n].label, self.slots.tasks[n].against
        if label is not None:
            record = record.amend(label_name=self.network.labels[label])
        if isinstance(against, int):
            record = record.amend(against=against)
        if n not in self._saved:
            return record
        saved, success_float = self._saved.pop(n)
        record = record.amend(
            success_float=success_float,
            repaired=saved.repaired,
            **{name: saved.distances[name] for name in ("l0", "ssim", "psnr")},
            **saved.record_fields(self.network.labels, is_predicted=self.network.rule.has_prediction),
            top5=snapshot.ranking,
            text_before=self._texts_before.pop(n, None),
            text=saved.text,
            text_agrees=saved.text_agrees,
            **self._boxes.pop(n, {}),
        )
        if self.slots.iteration[n] == 0 and success_float:
            return _skipped(record, self.slots.tasks[n].aim)
        return record

    def _settings(self, n: int) -> dict[str, Any]:
        """Return the attack's fields of a record, with the radius in the unit of the files if they have one."""
        settings = settings_of(self.attack) | self.attack.record_fields(self.slots.state_of([n]))
        span = self.network.bands.span
        if span is not None and settings.get("eps") is not None:
            settings["eps_file"] = settings["eps"] * span
        return settings

    def finished_metrics(self, record: Record) -> dict[str, float]:
        """Return whether the file fools the original network, unless the photograph did."""
        if record.status != "done":
            return {}
        return {"fooled": float(bool(record.success_file))}

    def _photograph_fields(self, n: int) -> dict[str, Any]:
        logits, task = self.photograph_logits(n), self.slots.tasks[n]
        goal = task.goal
        if logits is None or goal is None:
            return {}
        if not self.network.rule.has_prediction:
            return {"score_before": float(logits[goal])}
        predicted = int(logits.argmax())
        fields: dict[str, Any] = {
            "predicted_before": predicted,
            "predicted_before_name": self.network.labels[predicted],
            "probability_before": self.network.prediction(logits, goal)["probability"],
        }
        if task.has_given_label and self.network.decision == "exclusive":
            fields["correct"] = predicted == task.label
        return fields

    def _file_metrics(self, n: int, saved: Saved) -> Mapping[str, float]:
        """Return the norms of the change, and probability and margin by the original network."""
        state = self.slots.state_of([n])
        verifier = Verifier(self.network, state["goal"], state["targeted"], self._thresholds([n]), self._against([n]))
        prediction = self.network.prediction(saved.logits, int(state["goal"]))
        value = self.network.rule.value
        metrics: dict[str, float] = {name: saved.distances[name] for name in NORMS}
        metrics[value] = prediction[value]
        metrics["margin"] = float(verifier.margin(saved.logits[None]))
        return metrics

    def _thresholds(self, rows: Sequence[int]) -> Tensor:
        """Return the scores that divide success from failure ``(N,)``; 0 for classes."""
        return torch.tensor([self.slots.tasks[n].threshold or 0.0 for n in rows])

    def _against(self, rows: Sequence[int]) -> Tensor:
        """Return the classes to leave beside the one to reach ``(N,)``; -1 for none."""
        return self.slots.goals(rows, torch.device("cpu"))["against"]


def _skipped(record: AdversarialRecord, aim: str | None) -> AdversarialRecord:
    """Return the record of a photograph that is misclassified, classified as the target, or meets the goal ``aim``,
    before the attack."""
    error = f"{record.target_name} before the attack: give another goal"
    if record.text is not None:
        error = f"the text is {record.text!r} before the attack: give another goal"
    elif record.predicted_name is not None and aim is not None:
        error = f"goal {aim} of {record.target_name or record.label_name} is met before the attack: give another goal"
    elif record.predicted_name is not None:
        reason = "misclassified" if record.target is None else "give another target"
        error = f"predicted as {record.predicted_name} before the attack: {reason}"
    return record.amend(
        status="skipped",
        error=error,
        success_float=None,
        success_file=None,
        success_jpeg95=None,
        success_jpeg75=None,
    )


def _norms(changes: Sequence[Tensor]) -> list[dict[str, float]]:
    """Return the norms of each change; one transfer for all."""
    norms: list[Tensor] = []
    for change in changes:
        double = change[None].double()
        norms.append(torch.cat([norm.length(double) for norm in NORMS.values()]))
    return [dict(zip(NORMS, row, strict=True)) for row in torch.stack(norms).tolist()]
