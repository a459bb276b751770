"""The figures of ``lit-viz attack``, from what became of the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from lit_viz.attacks.norms import L2, LINF, label_with_eps
from lit_viz.attacks.rounding.lattice import is_singleton
from lit_viz.attributions import SmoothGrad, attribute, title_of
from lit_viz.classifiers import Classifier
from lit_viz.evidence.attacks.diagnostics import successes
from lit_viz.evidence.attacks.robustness import accuracy_label, ensemble_breakdown, photograph_of, robust_accuracy
from lit_viz.figures.attack import AttackPanel, attack_figure
from lit_viz.figures.robustness import robustness_figure
from lit_viz.figures.saliency import SaliencyPanel, saliency_figure
from lit_viz.figures.traces import Trace
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import has_several_radii, pluralize, probability_text


def figure_of_attack(outcomes: Sequence[Outcome]) -> Figure:
    """Return original, fooled image and their difference, in a row an image, over the traces."""
    panels = [panel for panel in map(_panel, outcomes) if panel is not None]
    return attack_figure(panels, members=ensemble_breakdown(outcomes))


def figure_of_radii(outcomes: Sequence[Outcome], norm: str) -> Figure:
    """Return the share that resists by radius; of an ensemble a curve after each of its members.

    Args:
        outcomes: of several radii.
        norm: that they limit: ``L2`` or ``L∞``.
    """
    name = next((o.record["attack"] for o in outcomes if "attack" in o.record), "attack")
    members = [left.member for left in ensemble_breakdown(outcomes)]
    curves = {f"after {m}": robust_accuracy(outcomes, members[: i + 1]) for i, m in enumerate(members)}
    points = {
        of: [(eps, share, *interval) for eps, share, interval in curve]
        for of, curve in (curves or {name: robust_accuracy(outcomes)}).items()
    }
    asked = [outcome.record for outcome in outcomes if outcome.record["status"] != "failed"]
    goals: dict[tuple[Hashable, float], set[int | None]] = defaultdict(set)  # a photograph may have been given twice
    for record in asked:
        goals[photograph_of(record), record["eps"]].add(record["target"])
    count, targets = len({whose for whose, _ in goals}), max(map(len, goals.values()), default=1)
    each = f", which resist if they do each of {targets} targets" if targets > 1 else ""
    alone = "; no other 8-bit file lies nearer than 1/255" if any(is_singleton(eps) for _, eps in goals) else ""
    caption = f"{pluralize(count, 'photograph')} at each radius{each}; band: 95 % (Wilson){alone}"
    return robustness_figure(points, norm, accuracy_label(outcomes), caption)


def figure_of_explanations(outcomes: Sequence[Outcome], classifier: Classifier) -> Figure:
    """Return the maps of what the network sees, in each original and in each outcome."""
    panels = []
    several = has_several_radii(outcome.record for outcome in outcomes)
    for outcome in outcomes:
        source, image, record = outcome.source(), outcome.image(), outcome.record
        if source is None or image is None or record.get("predicted") is None:
            continue
        named = label_with_eps(record["name"], record) if several else record["name"]
        seen = [record["predicted_before"], record["predicted"]]
        noise = [record["seed"]] * 2  # the same for both: what differs is the image's
        maps, _ = attribute(SmoothGrad(), classifier.fast(), torch.stack([source, image]), seen, seeds=noise)
        for name, picture, of, map_ in zip(("original", "attacked"), (source, image), seen, maps, strict=True):
            label = f"{name}, seen as {classifier.labels[of]}"
            panels.append(SaliencyPanel(named, picture, {title_of("smoothgrad"): map_}, label))
    return saliency_figure(panels, scale="map", columns=4 if len(panels) <= 8 else 8)


def _panel(outcome: Outcome) -> AttackPanel | None:
    record = outcome.record
    source, image = outcome.pictures()
    if image is None or source is None:  # it failed before it had one
        return None
    skipped = record["status"] == "skipped"
    keys = {"in the file": "success_file"}
    if record.get("success_file"):  # of another file its JPEGs tell nothing
        keys |= {"after JPEG 95": "success_jpeg95", "after JPEG 75": "success_jpeg75"}
    by = [f"by {record['by']}"] if record.get("by") else []
    return AttackPanel(
        name=record["name"],
        original=source,
        fooled=image,
        before=seen_as(record, "predicted_before_name", "probability_before"),
        after=seen_as(record, "predicted_name", "probability"),
        verdicts={said: None if skipped else record.get(key) for said, key in keys.items()},
        notes=[_skipped(record)] if skipped else [pluralize(record["iterations"], "iteration"), *by],
        trace=None if skipped else _trace(outcome),
    )


def seen_as(record: Mapping[str, Any], name: str, probability: str) -> str:
    """Return the class that is seen, and how sure the network is of the class that is asked for."""
    if record.get(name) is None:
        return ""
    goal = goal_of(record)
    sure = "" if record.get(probability) is None else f"\n{goal}: {probability_text(record[probability])}"
    return f"{record[name]}{sure}"


def goal_of(record: Mapping[str, Any]) -> str:
    """Return the class that is to be reached, or left."""
    return str(record["target_name"] or record.get("label_name") or "its label")


def _skipped(record: Mapping[str, Any]) -> str:
    return f"skipped: {'as asked for' if record['target_name'] else 'wrong'} from the start"


def _trace(outcome: Outcome) -> Trace:
    return Trace(
        probability=outcome.curve("probability"),
        margin=outcome.curve("margin"),
        l2=outcome.curve(L2.name),
        linf=outcome.curve(LINF.name),
        flip=next(iter(successes(outcome)), None),
        goal=goal_of(outcome.record),
    )
