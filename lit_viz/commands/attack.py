"""``lit-viz attack``: how little must change for the network to be wrong?"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure
from pytorch_lightning.cli import LightningArgumentParser

from lit_viz.attacks import ATTACKS, BudgetAttack, Universal, name_of
from lit_viz.attributions import SmoothGrad, attribute, title_of
from lit_viz.classifiers import Classifier
from lit_viz.commands.base import Inquiry, by_class, class_path, median_of, shown_number
from lit_viz.commands.photographs import PhotographCommand, add_photograph_arguments
from lit_viz.commands.universal import figure_of_universal, universal_row, universal_tasks, verify_universal
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.run_folder import RunFolder
from lit_viz.engine.tasks import Task
from lit_viz.errors import LitVizError
from lit_viz.evidence import comparison, transfer
from lit_viz.evidence.files import reread
from lit_viz.evidence.intervals import wilson
from lit_viz.evidence.spread import restarts_of
from lit_viz.evidence.survivors import survivors
from lit_viz.evidence.trust import Trust, fooling, free_signals, harder_tries
from lit_viz.figures.attack import AttackPanel, Trace, attack_figure, robustness_figure
from lit_viz.figures.saliency import SaliencyPanel, saliency_figure
from lit_viz.figures.style import probability_text, save_figure
from lit_viz.methods import AdversarialExample, UniversalPerturbation
from lit_viz.outcomes import Outcome


class Attack(PhotographCommand):
    """Adversarial examples of photographs, verified in the files that are saved."""

    name: ClassVar[str] = "attack"
    module: ClassVar[type[ImageTraining]] = AdversarialExample
    default_config: ClassVar[str] = "normalized_ascent"
    example: ClassVar[str] = "lit-viz attack packaged:chelsea --target stingray"
    demo: ClassVar[tuple[str, ...]] = ("packaged:chelsea", "packaged:coffee", "packaged:rocket", "--target", "stingray")
    target: ClassVar[Literal["label", "none"]] = "none"
    curve_at: ClassVar[str] = "every:1"
    afterwards: ClassVar[str] = "open figure.png and evolution.gif, or follow the run in W&B"

    def add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add photographs, targets and labels, several radii, and the maps beside."""
        add_photograph_arguments(parser)
        add = parser.add_argument
        add("--radii", type=list[float], default=[], help="several eps (--eps 1/255,2/255,4/255): a robustness curve")
        add("--held_out", type=float, default=0.0, help="part of the photographs that a universal attack isn't shown")
        add("--explain", action="store_true", help="draws the saliency of original and outcome side by side")

    def option(self, name: str, value: str) -> tuple[str, str]:
        """Turn ``--attack pgd``, ``--eps 4/255``, ``--norm linf`` into the attack's own options."""
        if name == "--attack":
            return "--model.attack", class_path(value, ATTACKS, "attack")
        if name == "--eps" and "," in value:
            return "--radii", json.dumps([float(_as_decimal(radius)) for radius in value.split(",")])
        if name in ("--eps", "--norm"):
            name = f"--attack.{name[2:]}"
        if name.startswith("--attack."):
            return f"--model.{name[2:]}", _as_decimal(value)
        return name, value

    def check(self, config: Namespace) -> None:
        """Refuse a run without photographs, or with a budget of nothing."""
        super().check(config)
        if dict(config.model.attack.get("init_args") or {}).get("eps") == 0 or 0 in config.radii:
            raise LitVizError("--eps 0 lets nothing change: give a radius such as 4/255.")
        if config.held_out and not _is_universal(config):
            raise LitVizError("--held-out is for photographs that are attacked together: take --attack universal.")
        if not 0 <= config.held_out < 1:
            raise LitVizError(f"--held-out {config.held_out} is no part: give a number from 0 to below 1 such as 0.25.")

    def tasks(
        self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier
    ) -> tuple[list[Task], list[str]]:
        """Return one task a photograph and target, and where there are several radii, of each."""
        if config.radii and not isinstance(parts["attack"], BudgetAttack):
            raise LitVizError(f"{name_of(parts['attack'])} has no radius to vary: give one --eps, or another --attack.")
        if isinstance(parts["attack"], Universal):
            photographs, notes = self.queue(config, classifier)
            return universal_tasks(photographs, config), notes
        return self.queue(config, classifier, [{"eps": radius} for radius in config.radii] or [{}])

    def build(self, config: Namespace, parts: Mapping[str, Any], classifier: Classifier) -> ImageTraining:
        """Return the module; a universal attack has one of its own, which looks at several photographs an iteration."""
        if not isinstance(parts["attack"], Universal):
            return super().build(config, parts, classifier)
        if parts["transforms"]:
            raise LitVizError("a universal perturbation knows no transforms: leave out --model.transforms.")
        views = parts["views"] if parts["views"] > 1 else Universal.views
        parts = {"attack": parts["attack"], "views": views}
        return self.made(UniversalPerturbation, config, parts, classifier)

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return original, fooled image and their difference, in a row an image, over the traces; for several radii the
        robustness curve."""
        if _is_universal(config):
            return figure_of_universal(outcomes)
        if config.radii:
            name = next((o.record["attack"] for o in outcomes if "attack" in o.record), "attack")
            norm = "L2" if dict(config.model.attack.get("init_args") or {}).get("norm") == "l2" else "L∞"
            members = [left.member for left in survivors(outcomes)]
            curves = {f"after {m}": _robustness(outcomes, members[: i + 1]) for i, m in enumerate(members)}
            points = {
                of: [(eps, share, *interval) for eps, share, interval in curve]
                for of, curve in (curves or {name: _robustness(outcomes)}).items()
            }
            return robustness_figure(points, norm, _resisting(outcomes))
        panels = [panel for panel in map(_panel, outcomes) if panel is not None]
        return attack_figure(panels, left=survivors(outcomes))

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, how: Inquiry
    ) -> bool:
        """Read the files again and ask the original network what it sees in them."""
        if folder is None:
            return True
        if isinstance(module, UniversalPerturbation):
            return verify_universal(outcomes, module.classifier, folder, how)
        claimed = [o for o in outcomes if o.record["status"] == "done" and o.record["file"]]
        wrong = [o for o in claimed if _reread(o, folder.path, module.classifier) != o.record["success_file"]]
        folder.amend({o.record["index"]: {"success_file": False} for o in wrong})
        for outcome in wrong:
            outcome.amend({"success_file": False})
        fooled = sum(bool(o.record.get("success_file")) for o in claimed)
        asked = sum(o.record["status"] == "done" for o in outcomes)
        folder.merge_evidence({"files": {"read": len(claimed), "fooled": fooled, "wrong": [o.name for o in wrong]}})
        how.say(f"evidence: {fooled} of {asked} files fool the original network, read back from the disk")
        left = survivors(outcomes)
        if left:
            folder.merge_evidence({"survivors": [asdict(one) for one in left]})
            how.say(f"evidence: {'; '.join(one.sentence for one in left)}")
        if len({o.record.get("eps") for o in claimed}) > 1:
            for eps, share, (low, high) in _robustness(outcomes):
                how.say(f"eps {eps * 255:g}/255: {_resisting(outcomes)} {share:.0%} (95 %: {low:.0%} to {high:.0%})")
        if how.ends_run and how.config.explain:
            save_figure(_explained(outcomes, module.classifier), folder.path / "explained.png")
        assert isinstance(module, AdversarialExample)
        self._trust(module, outcomes, folder, how)
        if not how.ends_run:
            _transfer(outcomes, module.classifier, folder, how)
        if how.peers:
            _peers(module, outcomes, folder, how)
        return not wrong

    def _trust(self, module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, how: Inquiry) -> None:
        free = free_signals(outcomes, restarts_of(module.attack, module.iterations), module.iterations)
        found = [free, *([self._harder(module, outcomes)] if how.trust else [])]
        trust = Trust(tuple(r for t in found for r in t.reasons), tuple(w for t in found for w in t.tried))
        folder.merge_evidence({"trust": {"reasons": trust.reasons, "tried": trust.tried}})
        how.say(f"evidence: {trust.sentence}")

    @staticmethod
    def _harder(module: AdversarialExample, outcomes: Sequence[Outcome]) -> Trust:
        attack = module.attack
        if not isinstance(attack, BudgetAttack):
            raise LitVizError(f"{name_of(attack)} has no budget to try harder attacks in: leave out --trust.")
        network = module.classifier.fast()
        return harder_tries(outcomes, lambda x: network(x)[0].to(x.device), attack.norm, attack.eps)

    def summary(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return by class how many files fool the network, and how far they are from their photographs."""

        def further(done: Sequence[Mapping[str, Any]]) -> dict[str, str]:
            fooled = [record for record in done if record.get("success_file")]
            linf = median_of([{"linf": 255 * record["linf"]} for record in fooled], "linf", "{:.0f}/255")
            return {"fooled in the file": str(len(fooled)), "median L2": median_of(fooled, "l2"), "median Linf": linf}

        return by_class(results, further)

    def table(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Return what became of each image, and of an ensemble by whom."""
        if any(record.get("attack") == "universal" for record in results):
            return [universal_row(record) for record in results]
        ensemble = any("by" in record for record in results)
        return [{**_row(record), **({"by": record.get("by") or "-"} if ensemble else {})} for record in results]


def _transfer(outcomes: Sequence[Outcome], classifier: Classifier, folder: RunFolder, how: Inquiry) -> None:
    """Ask held-out networks what they see in the files."""
    found = transfer.transfers(outcomes, classifier)
    folder.merge_evidence({"transfer": transfer.as_record(found)})
    how.say(f"evidence: {transfer.summary(found)}")
    if found:
        how.say(transfer.table(found))


def _peers(module: AdversarialExample, outcomes: Sequence[Outcome], folder: RunFolder, how: Inquiry) -> None:
    """Ask other implementations of the attack what it was asked."""
    if module.transforms.transforms:
        how.say("peers: they know no views of an image, which this attack looked at")
        return
    found = comparison.compare(outcomes, module.classifier, module.attack, module.iterations, how.say)
    folder.merge_evidence({"peers": [one.as_record() for one in found]})
    if found:
        how.say(comparison.table(found))


def _is_universal(config: Namespace) -> bool:
    return str(config.model.attack.class_path).endswith(".Universal")


def _robustness(
    outcomes: Sequence[Outcome], members: Sequence[str] | None = None
) -> list[tuple[float, float, tuple[float, float]]]:
    """Return by radius which share of the images was not fooled in the file, with its Wilson interval of 95 %; of an
    ensemble by these members, or by all."""
    by_radius: dict[float, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        record = outcome.record
        if record["status"] != "failed":  # what was misclassified from the start doesn't resist
            fooled = record["success_file"] and (members is None or record["by"] in members)
            by_radius[record["eps"]].append(record["status"] == "done" and not fooled)
    return [
        (eps, sum(resist) / len(resist), wilson(sum(resist), len(resist))) for eps, resist in sorted(by_radius.items())
    ]


def _resisting(outcomes: Sequence[Outcome]) -> str:
    """Return what the share is called: without true labels accuracy is not claimed."""
    predicted = any(o.record["label_source"] in (None, "predicted") for o in outcomes)
    return "not fooled" if predicted else "robust accuracy"


def _explained(outcomes: Sequence[Outcome], classifier: Classifier) -> Figure:
    """Return the maps of what the network sees, in each original and in each outcome."""
    panels = []
    for outcome in outcomes:
        source, image, record = outcome.source(), outcome.image(), outcome.record
        if source is None or image is None or record.get("predicted") is None:
            continue
        seen = [record["predicted_before"], record["predicted"]]
        maps, _ = attribute(SmoothGrad(), classifier.fast(), torch.stack([source, image]), seen)
        for name, picture, of, map_ in zip(("original", "attacked"), (source, image), seen, maps, strict=True):
            label = f"{name}, seen as {classifier.labels[of]}"
            panels.append(SaliencyPanel(record["name"], picture, {title_of("smoothgrad"): map_}, label))
    return saliency_figure(panels, scale="map", columns=4)


def class_path_of(attack: str | Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return an attack, given by its name or as ``{name: arguments}``, as the parser knows it.

    Raises:
        LitVizError: an unknown attack; the known ones are listed.
    """
    if isinstance(attack, str):
        return {"class_path": class_path(attack, ATTACKS, "attack")}
    (name, arguments), *more = attack.items()
    if more:
        raise LitVizError(f"a run has one attack, not {len(attack)}: run the others by themselves.")
    return {"class_path": class_path(name, ATTACKS, "attack"), "init_args": dict(arguments)}


def _as_decimal(value: str) -> str:
    """Return ``4/255`` as a decimal number; anything else as it is."""
    try:
        return str(float(Fraction(value))) if "/" in value else value
    except (ValueError, ZeroDivisionError):
        return value


def _reread(outcome: Outcome, folder: Path, classifier: Classifier) -> bool:
    record = outcome.record
    goal = record["label"] if record["target"] is None else record["target"]
    success, _ = reread(folder / record["file"], classifier, goal, record["target"] is not None)
    return success


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    fooled = {True: "fooled", False: "not fooled", None: "-"}
    return {
        "photograph": record["name"],
        "target": record["target_name"] or "any other",
        "status": record["status"],
        "in the file": fooled[record.get("success_file")],
        "seen as": shown_number(record, "predicted_name", "{}"),
        "before": shown_number(record, "probability_before"),
        "after": shown_number(record, "probability"),
        "iterations": str(record["iterations"]),
        "L2": shown_number(record, "l2"),
        "Linf": "-" if record.get("linf") is None else f"{record['linf'] * 255:.0f}/255",
    }


def _panel(outcome: Outcome) -> AttackPanel | None:
    record = outcome.record
    source, image = outcome.pictures()
    if image is None or source is None:  # it failed before it had one
        return None
    keys = {"in the file": "success_file", "after JPEG 95": "success_jpeg95", "after JPEG 75": "success_jpeg75"}
    return AttackPanel(
        name=record["name"],
        original=source,
        fooled=image,
        before=_seen(record, "predicted_before_name", "probability_before"),
        after=_seen(record, "predicted_name", "probability"),
        verdicts={said: record.get(key) for said, key in keys.items()},
        notes=[f"{record['iterations']} iterations", *([f"by {record['by']}"] if record.get("by") else [])],
        trace=_trace(outcome),
    )


def _seen(record: Mapping[str, Any], name: str, probability: str) -> str:
    """Return the class that is seen, and how sure the network is of the class that is asked for."""
    if record.get(name) is None:
        return ""
    goal = record["target_name"] or "its label"
    sure = "" if record.get(probability) is None else f"\n{goal}: {probability_text(record[probability])}"
    return f"{record[name]}{sure}"


def _trace(outcome: Outcome) -> Trace:
    return Trace(
        probability=outcome.curve("probability"),
        margin=outcome.curve("margin"),
        l2=outcome.curve("l2"),
        linf=outcome.curve("linf"),
        flip=next(iter(fooling(outcome)), None),
        goal=str(outcome.record["target_name"] or "its label"),
    )
