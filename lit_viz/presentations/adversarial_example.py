"""Presentation of adversarial examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.attacks.lattice import is_singleton
from lit_viz.attacks.norms import L2, LINF, NORMS, Norm, format_distance
from lit_viz.attributions import SmoothGrad, attribute, title_of
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.attacks.diagnostics import Diagnosis, successes
from lit_viz.evidence.attacks.robustness import (
    accuracy_label,
    attack_record,
    ensemble_breakdown,
    photograph_of,
    robust_accuracy,
)
from lit_viz.figures.attack import AttackPanel, attack_figure
from lit_viz.figures.curves import RobustnessExample, Trace, robustness_figure
from lit_viz.figures.evolution import Evolution
from lit_viz.figures.saliency import SaliencyPanel, saliency_figure
from lit_viz.figures.style import save_figure
from lit_viz.methods import AdversarialExample
from lit_viz.methods.records import AdversarialRecord, AttackRecord, has_several_radii, label_with_eps
from lit_viz.presentations.attack_evidence import verify_attack
from lit_viz.presentations.base import (
    CardText,
    EvidenceSettings,
    Presentation,
    Row,
    format_value,
    median_of,
    summary_by_class,
)
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import PerturbedImageRecord, Record, Task
from lit_viz.utils.formatting import (
    label_with_target,
    pluralize,
    probability_text,
)


class AdversarialExamplePresentation(Presentation):
    """Presentation of adversarial examples: the verdict on each file, and whether failures are credible."""

    title: ClassVar[str] = "Adversarial examples"
    files: ClassVar[tuple[str, ...]] = ("explained.*",)

    def card(self, record: Record) -> CardText:
        """Return target and radius."""
        return attack_card(record, "adversarial image")

    def table(self, records: Sequence[Record]) -> list[Row]:
        """Return the prediction of each file, and with an ensemble its member."""
        rows = [_as_adversarial(record) for record in records]
        is_ensemble = any(record.tried is not None for record in rows)
        several_radii = has_several_radii(rows)
        return [
            {
                **_row(record),
                **({"eps": format_distance(record.eps, record.norm or L2.name)} if several_radii else {}),
                **({"by": record.by or "-"} if is_ensemble else {}),
            }
            for record in rows
        ]

    def summary(self, records: Sequence[Record]) -> list[Row]:
        """Return the number of fooling files per class, and their median distances."""

        def columns(done: Sequence[Record]) -> Row:
            fooled = [record for record in done if isinstance(record, AdversarialRecord) and record.success_file]
            return {
                "fooled in the file": str(len(fooled)),
                "median L2": median_of(fooled, lambda record: record.l2),
                "median Linf": median_of(
                    fooled, lambda record: None if record.linf is None else 255 * record.linf, "{:.0f}/255"
                ),
            }

        return summary_by_class(records, columns)

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return originals, adversarial images and differences over their traces; for several radii the robustness
        curve."""
        if config.radii:
            norms = [record.norm for record in records_of(outcomes, AdversarialRecord) if record.norm is not None]
            trust = RunFolder.open(config.out).evidence().get("trust") if config.out else None
            return figure_of_radii(outcomes, NORMS[(norms or [LINF.name])[0]], trust)
        return figure_of_attack(outcomes)

    def evolutions(self, outcomes: Sequence[Outcome]) -> list[Evolution]:
        """Return each photograph with its target, and its radius where there are several."""
        return attack_evolutions(outcomes)

    def task_name(self, task: Task) -> str:
        """Return photograph, target and radius."""
        return attack_task_name(super().task_name(task), task)

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        """Return the probability, and whether the network is fooled."""
        return [*super().metric_texts(metrics), *(["fooled"] if metrics.get("margin", 0.0) > 0 else [])]

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, settings: EvidenceSettings
    ) -> bool:
        """Re-read the files, evaluate the original network on them, and diagnose the failures."""
        if folder is None:
            return True
        assert isinstance(module, AdversarialExample)
        if settings.ends_run and settings.config.explain:
            save_figure(figure_of_explanations(outcomes, module.classifier), folder.path / "explained.png")
        return verify_attack(module, outcomes, folder, settings)


_FLOAT_NOTE = "Curves show the image before rounding to 8 bits; the table shows its file."


def attack_card(record: Record, caption: str) -> CardText:
    """Return target and radius of an attack, with the caption of its result."""
    if not isinstance(record, AttackRecord):
        return CardText()
    parts = [f"target {record.target_name}"] if record.target_name else []
    if record.eps is not None and record.norm is not None:
        parts.append(f"eps {format_distance(record.eps, record.norm)}")
    return CardText(", ".join(parts), caption, _FLOAT_NOTE)


def attack_evolutions(outcomes: Sequence[Outcome]) -> list[Evolution]:
    """Return the logged images of an attack by photograph, target, and where there are several, radius."""
    several_radii = has_several_radii(outcome.record for outcome in outcomes)
    found = []
    for outcome in outcomes:
        name = label_with_target(outcome.record.name, outcome.record.target_name)
        name = label_with_eps(name, outcome.record) if several_radii else name
        found.append(Evolution(name, outcome.frames(), outcome.curve("probability")))
    return found


def attack_task_name(name: str, task: Task) -> str:
    """Return a name with the radius of a task that has its own."""
    return f"{name}, eps {task.options['eps']:.3g}" if "eps" in task.options else name


def _as_adversarial(record: Record) -> AdversarialRecord:
    """Return the record; one without values if the task failed before it started."""
    return record if isinstance(record, AdversarialRecord) else AdversarialRecord.extend(record, attack="")


def _row(record: AdversarialRecord) -> Row:
    verdicts = {True: "fooled", False: "not fooled", None: "-"}
    return {
        "photograph": record.name,
        "target": record.target_name or "any other",
        "status": record.status,
        "in the file": verdicts[None if record.status == "skipped" else record.success_file],
        "seen as": format_value(record.predicted_name, "{}"),
        "before": format_value(record.probability_before),
        "after": format_value(record.probability),
        "iterations": str(record.iterations),
        "L2": format_value(record.l2),
        "Linf": format_distance(record.linf, LINF.name),
    }


def figure_of_attack(outcomes: Sequence[Outcome]) -> Figure:
    """Return original, fooled image and their difference, in a row an image, over the traces."""
    panels = [panel for panel in map(_panel, outcomes) if panel is not None]
    return attack_figure(panels, members=ensemble_breakdown(outcomes))


def figure_of_radii(outcomes: Sequence[Outcome], norm: Norm, trust: Mapping[str, Any] | None = None) -> Figure:
    """Return the share of robust photographs by radius, of an ensemble after each member, with verdict and examples.

    Args:
        outcomes: of several radii.
        norm: of the radii.
        trust: diagnosis of the attack, as in ``evidence.json``.
    """
    records = records_of(outcomes, AdversarialRecord)
    name = next((record.attack for record in records), "attack")
    members = [left.member for left in ensemble_breakdown(outcomes)]
    curves = {f"after {m}": robust_accuracy(outcomes, members[: i + 1]) for i, m in enumerate(members)}
    goals: dict[tuple[Hashable, float], set[int | None]] = defaultdict(set)  # a photograph may have been given twice
    for record in records:
        if record.status != "failed" and record.eps is not None:
            goals[photograph_of(record), record.eps].add(record.target)
    targets = max(map(len, goals.values()), default=1)
    each = " and target" if targets > 1 else ""
    singleton = any(is_singleton(eps) for _, eps in goals)
    alone = " Below 1/255, the photograph is the only 8-bit image." if singleton else ""
    caption = (
        f"Robust: no 8-bit file that the attack made, at any radius{each}, fools the network at a distance within eps. "
        f"Band: 95 % Wilson interval.{alone}"
    )
    diagnosis = None if trust is None else Diagnosis(tuple(trust["reasons"]), tuple(trust["tried"]))
    verdict = None if diagnosis is None else (not diagnosis.reasons, diagnosis.sentence)
    curves = curves or {name: robust_accuracy(outcomes)}
    return robustness_figure(curves, norm, accuracy_label(outcomes), caption, verdict, _examples(outcomes, norm))


def _examples(outcomes: Sequence[Outcome], norm: Norm) -> list[RobustnessExample]:
    """Return each photograph with its adversarial file of the smallest radius, if there is one."""
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.record.status == "done" and isinstance(outcome.record, AdversarialRecord):
            groups[photograph_of(outcome.record)].append(outcome)
    examples = []
    for group in groups.values():
        attacked = sorted((attack_record(o).eps or 0.0, i, o) for i, o in enumerate(group))
        eps, _, outcome = next((entry for entry in attacked if attack_record(entry[2]).success_file), attacked[-1])
        source, image = outcome.pictures()
        record = attack_record(outcome)
        if source is None:
            continue
        before = f"{record.name}\n{record.predicted_before_name or ''}"
        if record.success_file:
            after = f"{record.predicted_name}\nfooled at eps {norm.format(eps)}"
            examples.append(RobustnessExample(source, before, image, after))
        else:
            examples.append(RobustnessExample(source, before, after=f"not fooled up to eps {norm.format(eps)}"))
    return examples


def figure_of_explanations(outcomes: Sequence[Outcome], classifier: Classifier) -> Figure:
    """Return the maps of what the network sees, in each original and in each outcome."""
    panels = []
    several = has_several_radii(outcome.record for outcome in outcomes)
    for outcome in outcomes:
        source, image, record = outcome.source(), outcome.image(), outcome.record
        if source is None or image is None or not isinstance(record, AdversarialRecord):
            continue
        if record.predicted is None or record.predicted_before is None:
            continue
        named = label_with_eps(record.name, record) if several else record.name
        seen = [record.predicted_before, record.predicted]
        noise = [record.seed or 0] * 2  # equal noise, so that the maps differ by the images only
        maps, _ = attribute(
            SmoothGrad(), classifier.fast(), torch.stack([source, image]), seen, evaluations=32, seeds=noise
        )
        for name, picture, of, map_ in zip(("original", "attacked"), (source, image), seen, maps, strict=True):
            label = f"{name}, seen as {classifier.labels[of]}"
            panels.append(SaliencyPanel(named, picture, {title_of("smoothgrad"): map_}, label))
    return saliency_figure(panels, scale="map", columns=4 if len(panels) <= 8 else 8)


def _panel(outcome: Outcome) -> AttackPanel | None:
    record = outcome.record
    source, image = outcome.pictures()
    if image is None or source is None or not isinstance(record, AdversarialRecord):
        return None
    skipped = record.status == "skipped"
    verdicts = {"in the file": record.success_file}
    if record.success_file:
        verdicts |= {"after JPEG 95": record.success_jpeg95, "after JPEG 75": record.success_jpeg75}
    by = [f"by {record.by}"] if record.by else []
    return AttackPanel(
        name=record.name,
        original=source,
        result=image,
        before=prediction_text(record, record.predicted_before_name, record.probability_before),
        after=prediction_text(record, record.predicted_name, record.probability),
        verdicts={place: None if skipped else verdict for place, verdict in verdicts.items()},
        notes=[_skipped(record)] if skipped else [pluralize(record.iterations or 0, "iteration"), *by],
        trace=None if skipped else _trace(outcome, record),
    )


def prediction_text(
    record: AdversarialRecord | PerturbedImageRecord, prediction: str | None, probability: float | None
) -> str:
    """Return a predicted class, and on a second line the probability of the target or the label."""
    if prediction is None:
        return ""
    return prediction if probability is None else f"{prediction}\n{_goal_name(record)}: {probability_text(probability)}"


def _goal_name(record: AdversarialRecord | PerturbedImageRecord) -> str:
    return record.target_name or record.label_name or "its label"


def _skipped(record: AdversarialRecord) -> str:
    return f"skipped: {'as asked for' if record.target_name else 'wrong'} from the start"


def _trace(outcome: Outcome, record: AdversarialRecord) -> Trace:
    return Trace(
        probability=outcome.curve("probability"),
        margin=outcome.curve("margin"),
        l2=outcome.curve(L2.name),
        linf=outcome.curve(LINF.name),
        flip=next(iter(successes(outcome)), None),
        goal=_goal_name(record),
    )
