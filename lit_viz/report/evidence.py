"""The evidence of a run in words and tables: its parts, and the judges' predictions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lit_viz.attacks.norms import NORMS
from lit_viz.figures.scales import number
from lit_viz.methods.records import ClassImageRecord, label_with_lr
from lit_viz.presentations import Row, format_value
from lit_viz.runs import evidence as run_evidence
from lit_viz.types import Record
from lit_viz.utils.formatting import pluralize

_MAX_NAMES = 10
_VERDICTS = {True: "passed", False: "failed", None: "no verdict"}


@dataclass(frozen=True)
class EvidenceItem:
    """One result in the evidence section."""

    text: str
    passed: bool | None = None  # None for a measurement without a verdict
    rows: Sequence[Row] = ()  # of a table, by column
    notes: Sequence[str] = ()  # below the table

    @property
    def verdict(self) -> str:
        """Verdict in words."""
        return _VERDICTS[self.passed]

    @property
    def columns(self) -> list[str]:
        """Columns of the table in order of appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row))


def evidence_items(evidence: run_evidence.Evidence, records: Sequence[Record] = ()) -> list[EvidenceItem]:
    """Return the items of the evidence and of the predictions in the records; unknown parts are only named."""
    items = [item(part) for name, item in _PARTS.items() if (part := getattr(evidence, name)) is not None]
    items += [EvidenceItem(f"Part {name} of evidence.json.") for name in evidence.extra]
    held_out = held_out_item(records)
    return items if held_out is None else [*items, held_out]


def held_out_item(records: Sequence[Record]) -> EvidenceItem | None:
    """Return the predictions of held-out networks for class images; None if no image was judged."""
    judged = [record for record in records if isinstance(record, ClassImageRecord) and record.judges]
    if not judged:
        return None
    rows = [
        {
            "class": label_with_lr(f"{record.index} {record.target_name}", record),
            "this network": _prediction({"probability": record.probability, "rank": record.rank}),
            **{name: _prediction(verdict) for name, verdict in record.judges.items()},
        }
        for record in judged
    ]
    names = dict.fromkeys(name for record in judged for name in record.judges)
    first = {name: sum(record.judges.get(name, {}).get("rank") == 1 for record in judged) for name in names}
    counts = ", ".join(f"{name} predicts the class for {count} of {len(judged)}" for name, count in first.items())
    return EvidenceItem(f"Held-out networks: {counts}.", rows=rows)


def _prediction(verdict: Mapping[str, Any]) -> str:
    probability = verdict["probability"]
    return "-" if probability is None else f"{probability:.2f} (rank {verdict['rank']})"


def _files(part: run_evidence.FileEvidence) -> EvidenceItem:
    read, mismatches = part.read, part.wrong
    if not read and not mismatches:
        return EvidenceItem("No file was verified.")
    adversarial = "" if part.fooled is None else f"; {part.fooled} of them adversarial"
    more = f" and {len(mismatches) - _MAX_NAMES} more" if len(mismatches) > _MAX_NAMES else ""
    outcome = f"Mismatches: {', '.join(mismatches[:_MAX_NAMES])}{more}." if mismatches else "All match their records."
    text = f"{pluralize(read, 'file')} re-read and classified by the original network{adversarial}. {outcome}"
    return EvidenceItem(text, not mismatches)


def _images(part: run_evidence.ImageEvidence) -> EvidenceItem:
    text = f"{part.same} of {part.read} files, re-read, are classified by the original network as recorded."
    return EvidenceItem(text, part.same == part.read) if part.read else EvidenceItem("No image was verified.")


def _diagnostics(part: run_evidence.DiagnosisEvidence) -> EvidenceItem:
    if not part.tried:
        return EvidenceItem("No attack was diagnosed.")
    reasons = f"The robustness is not reliable: {'; '.join(part.reasons)}." if part.reasons else ""
    verdict = reasons or "No sign of a failure of the attack itself."
    return EvidenceItem(f"{verdict} Checks: {', '.join(part.tried)}.", not reasons)


def _ensemble(part: Sequence[run_evidence.EnsembleMember]) -> EvidenceItem:
    return EvidenceItem(f"Attacks of the ensemble in order: {'; '.join(member.sentence for member in part)}.")


def _transfer(part: run_evidence.TransferEvidence) -> EvidenceItem:
    rows = [
        {
            "network": name,
            "correct on the photograph": str(counts.right),
            "fooled by the file": str(counts.fooled),
            "fooled by the mirrored perturbation": str(counts.mirrored),
            "excluded (misclassified before)": str(counts.wrong),
        }
        for name, counts in part.judges.items()
    ]
    if rows:
        return EvidenceItem("Transfer of the adversarial files to held-out networks.", rows=rows)
    text = "Transfer was not measured: no held-out network with these classes is installed, or no file is adversarial."
    return EvidenceItem(text)


def _universal(part: Mapping[str, Sequence[str]]) -> EvidenceItem:
    rows = [{"perturbation": name, "photographs": "; ".join(rates) or "none evaluated"} for name, rates in part.items()]
    return EvidenceItem("Fooling rates of the universal perturbations.", rows=rows)


def _robustness(part: run_evidence.RobustnessEvidence) -> EvidenceItem:
    rows = [
        {
            "eps": point.eps,
            part.what: f"{point.robust} of {point.photographs}",
            "95 % (Wilson)": f"{point.low:.0%} to {point.high:.0%}",
        }
        for point in part.points
    ]
    return EvidenceItem(f"Robustness by radius, {NORMS[part.norm]} norm.", rows=rows)


def _captum(part: run_evidence.CaptumEvidence) -> EvidenceItem:
    reasons = Counter(entry.unchecked for entry in part.unchecked)
    unchecked = "".join(f" {count}: {reason}." for reason, count in reasons.items())
    unchecked += "".join(f" Damaged: {entry.damaged}." for entry in part.damaged or ())
    if not part.maps:
        return EvidenceItem(f"No map was compared with Captum.{unchecked}")
    passed = sum(entry.passed for entry in part.maps)
    text = f"{passed} of {len(part.maps)} compared maps agree with Captum {part.version}.{unchecked}"
    return EvidenceItem(text, part.passed, [_gates(entry) for entry in part.maps])


def _gates(entry: run_evidence.MapAgreement) -> Row:
    """Return both gates of a map, and its similarity beside that of the most similar control."""
    controls = [_float(control.spearman) for control in entry.controls.values()]
    return {
        "map": _map_name(entry),
        "method": entry.method,
        "verdict": _VERDICTS[entry.passed],
        "formula in float64: difference": number(_float(entry.formula.difference)),
        "delivered map: difference": number(_float(entry.delivered.difference)),
        "allowed": number(_float(entry.delivered.allowed)),
        "Spearman": f"{_float(entry.similarity.spearman):.4f}",
        "most similar control": f"{max(controls, default=math.nan):.4f}",
    }


def _map_name(entry: run_evidence.MapEvidence) -> str:
    return f"{entry.name}, {entry.target_name or '-'}"


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _saliency_metrics(part: run_evidence.MetricsEvidence) -> EvidenceItem:
    rows = [
        {
            "map": _map_name(entry),
            "method": entry.method,
            **_areas("deletion ↓", entry.deletion),
            **_areas("insertion ↑", entry.insertion),
            "sensitivity ↓": format_value(entry.max_sensitivity),
        }
        for entry in part.maps
    ]
    text = (
        "Saliency metrics: mean probability of the class while pixels are replaced in order of saliency, for each map "
        "and its controls, and maximum sensitivity."
    )
    return EvidenceItem(text, rows=rows, notes=[remark for entry in part.maps for remark in entry.remarks])


def _areas(metric: str, curves: Mapping[str, Any]) -> Row:
    areas = {name: format_value(area) for name, area in curves.items() if name != "curve"}
    return {f"{metric} {'' if name == 'area' else name}".strip(): area for name, area in areas.items()}


def _localization(part: run_evidence.LocalizationEvidence) -> EvidenceItem:
    maps, threshold = part.maps, part.right_from_iou
    overlaps = [entry.iou for entry in maps if entry.iou is not None]
    text = f"Boxes from {sum(entry.box is not None for entry in maps)} of {len(maps)} maps."
    if overlaps:
        correct = sum(overlap >= threshold for overlap in overlaps)
        share = f"{correct} of {len(overlaps)} (median {median(overlaps):.2f})"
        text += f" IoU with a reference box ≥ {threshold:g} for {share}."
    return EvidenceItem(text)


#: In the order of the page.
_PARTS: Mapping[str, Callable[[Any], EvidenceItem]] = {
    "files": _files,
    "pictures": _images,
    "trust": _diagnostics,
    "survivors": _ensemble,
    "robustness": _robustness,
    "universal": _universal,
    "transfer": _transfer,
    "captum": _captum,
    "faithfulness": _saliency_metrics,
    "localization": _localization,
}
