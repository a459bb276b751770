"""Items of evidence: one result with its text, verdict, table and notes, equal in the terminal, notebooks and pages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_viz.attacks.norms import NORMS
from lit_viz.attacks.rounding import is_singleton
from lit_viz.figures.scales import number
from lit_viz.presentations.tables import TableRow, format_value
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.records import LEAST_PROBABILITY, ClassImageRecord, label_with_lr
from lit_viz.types import Record, slug
from lit_viz.utils.formatting import pluralize, text_table
from lit_viz.utils.limits import MOST_NAMES, MOST_PRINTED

#: Flag of a finished class image to which the network itself gives less than 0.5 of the probability of its class.
NOT_RECOGNIZED = "not recognized"
#: Parts of the evidence whose tables are printed.
_PRINTED_TABLES = ("naturalness", "robustness", "universal", "transfer")
_VERDICTS = {True: "passed", False: "failed", None: "no verdict"}


@dataclass(frozen=True)
class EvidenceItem:
    """A result of the evidence.

    Attributes:
        text: the result in one or two sentences.
        passed: verdict; None for a measurement without one.
        rows: table below the text, by column.
        notes: sentences below the table.
        name: name of the part of the evidence, in keys of loggers.
    """

    text: str
    passed: bool | None = None
    rows: Sequence[TableRow] = ()
    notes: Sequence[str] = ()
    name: str = ""

    @property
    def verdict(self) -> str:
        """Verdict in words."""
        return _VERDICTS[self.passed]

    @property
    def columns(self) -> list[str]:
        """Columns of the table in order of appearance."""
        columns: dict[str, None] = {}
        for row in self.rows:
            columns |= dict.fromkeys(row)
        return list(columns)

    @property
    def markdown(self) -> str:
        """The item as Markdown, for loggers of texts: text and verdict, table and notes."""
        text = self.text
        if self.passed is not None:
            text += f" **{self.verdict}**"
        blocks = [text]
        if self.rows:
            columns = self.columns
            table = [_markdown_row(columns), _markdown_row(["---"] * len(columns))]
            for row in self.rows:
                table.append(_markdown_row([row.get(column, "") for column in columns]))
            blocks.append("\n".join(table))
        return "\n\n".join([*blocks, *self.notes]) + "\n"

    @property
    def lines(self) -> list[str]:
        """The item as lines for the terminal."""
        lines = [f"evidence: {self.text}"]
        if self.rows and self.name in _PRINTED_TABLES:
            lines.append(text_table(self.rows[:MOST_PRINTED], words=1))
        return [*lines, *self.notes]


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def evidence_items(evidence: run_evidence.Evidence) -> list[EvidenceItem]:
    """Return the items of the evidence."""
    items = []
    for name, make_item in _PARTS.items():
        part = getattr(evidence, name)
        if part is not None:
            items.append(replace(make_item(part), name=name))
    for name, text in evidence.failure_texts.items():
        items.append(EvidenceItem(text, name=f"{slug(name)}_failure"))
    return items


def _listed(names: Sequence[str]) -> str:
    """Return the names, of many the first ones: ``a, b and 3 more``."""
    listed = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        listed += f" and {len(names) - MOST_NAMES} more"
    return listed


# -- class images


def not_recognized_item(records: Sequence[Record]) -> EvidenceItem | None:
    """Return the class images that the network itself does not recognize; None if there are none."""
    rows = []
    names = []
    count = 0
    for record in records:
        if not isinstance(record, ClassImageRecord):
            continue
        count += record.status == "done"
        if not record.is_recognized:
            names.append(label_with_lr(record.title, record))
            row = {
                "class": label_with_lr(f"{record.index} {record.target_name}", record),
                "this network": _prediction(record.probability, record.rank),
                "restarts": str(record.restarts or 0),
            }
            rows.append(row)
    if not rows:
        return None
    text = (
        f"{len(rows)} of {pluralize(count, 'image')} {NOT_RECOGNIZED}: the network itself gives its class a "
        f"probability below {LEAST_PROBABILITY:g} ({_listed(names)})."
    )
    return EvidenceItem(text, passed=False, rows=rows, name="not_recognized")


def held_out_item(records: Sequence[Record]) -> EvidenceItem | None:
    """Return the predictions of held-out networks for class images; None if no image was judged."""
    judged = [record for record in records if isinstance(record, ClassImageRecord) and record.judges]
    if not judged:
        return None
    first_places: Counter[str] = Counter()
    rows = []
    for record in judged:
        row = {
            "class": label_with_lr(f"{record.index} {record.target_name}", record),
            "this network": _prediction(record.probability, record.rank),
        }
        for name, verdict in record.judges.items():
            row[name] = _prediction(verdict["probability"], verdict["rank"])
            first_places[name] += verdict["rank"] == 1
        rows.append(row)
    counts = [f"{name} predicts the class for {count} of {len(judged)}" for name, count in first_places.items()]
    return EvidenceItem(f"Held-out networks: {', '.join(counts)}.", rows=rows, name="held_out")


def _prediction(probability: float | None, rank: float | None) -> str:
    return "-" if probability is None else f"{probability:.2f} (rank {rank})"


def _images(part: run_evidence.ImageEvidence) -> EvidenceItem:
    if not part.read:
        return EvidenceItem("No image was verified.")
    count = f"{part.same} of {pluralize(part.tasks or part.read, 'file')}"
    text = f"{count} classified as recorded by the original network, {_files_read(part.read, part.tasks)}."
    return EvidenceItem(text, part.same == part.read)


def _files_read(read: int, tasks: int | None) -> str:
    """Return how many files of the tasks were read; runs of earlier versions do not record the number of tasks."""
    if tasks in (None, read):
        return "re-read from the disk"
    return f"{read} re-read from the disk, the others have none"


def _naturalness(part: run_evidence.NaturalnessEvidence) -> EvidenceItem:
    rows: list[TableRow] = []
    decidable = compared = flagged = 0
    for entry in part.images:
        row = {"image": f"{entry.index} {entry.target_name or entry.name}", "photographs": str(entry.photographs)}
        for figure in entry.layers:
            text = "not decidable"
            if figure.is_decidable:
                text = f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
            row[figure.layer] = text
        if not entry.layers:
            row["verdict"] = "not decidable"
        if entry.flag:
            row["flag"] = entry.flag
        decidable += any(figure.is_decidable for figure in entry.layers)
        compared += entry.deviation is not None
        flagged += bool(entry.flag)
        rows.append(row)
    text = (
        f"Similarity of class images to photographs of their class: decidable for {decidable} of {len(part.images)}, "
        f"with {pluralize(part.photographs, 'photograph')}. "
    )
    if compared:
        text += f"Flagged as unnatural: {flagged} of {compared}."
    else:
        text += "Whether one is unnatural is not decidable."
    notes = [
        "By layer, Spearman correlation of the channel means: 1 as among photographs of the class, 0 as of other "
        "photographs, with a 95 % interval. A low value is no proof of manipulation: clean networks have low ones too. "
        "Unnatural: the best figure of the second half of the layers is far below those of the other class images; not "
        "decidable with fewer than nine of them, and where the network does not recognize the class."
    ]
    return EvidenceItem(text, rows=rows, notes=notes)


# -- attacks


def _files(part: run_evidence.FileEvidence) -> EvidenceItem:
    if not part.read and not part.wrong:
        return EvidenceItem("No file was verified.")
    count = f"{pluralize(part.read, 'file')} re-read from the disk"
    if part.fooled is not None:
        count = f"{part.fooled} of {part.read} files fool the original network, re-read from the disk"
    count += _tasks_without_file(part)
    if not part.wrong:
        return EvidenceItem(f"{count}; all match their records.", True)
    return EvidenceItem(f"{count}; not as recorded: {_listed(part.wrong)}.", False)


def _tasks_without_file(part: run_evidence.FileEvidence) -> str:
    """Return how many tasks were skipped or failed; their files do not count."""
    others = (part.tasks or part.read) - part.read
    skipped = part.skipped or 0
    counts = []
    if skipped:
        counts.append(f"{skipped} skipped")
    if others > skipped:
        counts.append(f"{others - skipped} failed")
    return f" ({', '.join(counts)})" if counts else ""


def _diagnosis(part: run_evidence.DiagnosisEvidence) -> EvidenceItem:
    is_diagnosed = bool(part.tried or part.reasons)
    return EvidenceItem(part.sentence, not part.reasons if is_diagnosed else None)


def _ensemble(part: Sequence[run_evidence.EnsembleMember]) -> EvidenceItem:
    members = "; ".join(member.sentence for member in part)
    return EvidenceItem(f"Attacks of the ensemble in order, before rounding to 8 bits: {members}.")


def _robustness(part: run_evidence.RobustnessEvidence) -> EvidenceItem:
    norm = NORMS[part.norm]
    rows: list[TableRow] = []
    notes: list[str] = []
    for point in part.points:
        rows.append(
            {
                "eps": point.eps,
                part.what: f"{point.robust} of {point.photographs}",
                "95 % (Wilson)": f"{point.low:.0%} to {point.high:.0%}",
            }
        )
        if part.files is None and is_singleton(float(point.eps.partition("/")[0]) / norm.display_scale):
            notes.append(f"The ball of eps {point.eps} holds no 8-bit image but the photograph.")
    if len(rows) > 1:
        return EvidenceItem(f"Robustness by radius, {norm} norm.", rows=rows, notes=notes)
    (point,) = part.points
    share = f"{point.robust} of {point.photographs} (95 %: {point.low:.0%} to {point.high:.0%})"
    name = part.what[0].upper() + part.what[1:]
    return EvidenceItem(f"{name} at eps {point.eps}, {norm} norm: {share}.", notes=notes)


def _universal(part: Mapping[str, Sequence[str]]) -> EvidenceItem:
    rows = [{"perturbation": name, "photographs": "; ".join(rates) or "none evaluated"} for name, rates in part.items()]
    return EvidenceItem("Fooling rates of the universal perturbations.", rows=rows)


def _transfer(part: run_evidence.TransferEvidence) -> EvidenceItem:
    if not part.judges:
        reason = "no held-out network with these classes is installed, or no file is adversarial"
        return EvidenceItem(f"Transfer was not measured: {reason}.")
    rows = []
    for name, counts in part.judges.items():
        row = {
            "network": name,
            "correct on the photograph": str(counts.right),
            "fooled by the file": str(counts.fooled),
            "fooled by the mirrored perturbation": str(counts.mirrored),
            "excluded (misclassified before)": str(counts.wrong),
        }
        rows.append(row)
    return EvidenceItem("Transfer of the adversarial files to held-out networks.", rows=rows)


# -- saliency maps


def _captum(part: run_evidence.CaptumEvidence) -> EvidenceItem:
    notes: list[str] = []
    if any(entry.unchecked == run_evidence.NOT_CHECKED for entry in part.unchecked):
        notes.append("lit-viz check compares the maps that were not checked.")
    if part.precision is not None and part.passed is False:
        notes.append(f"{part.precision} is less accurate than the float32 gates: use the precision 32-true.")
    for mask in part.masks or ():
        area = math.nan if mask.area is None else mask.area
        notes.append(
            f"{_map_name(mask)}: a mask of {area:.1%} of the image, with the score {format_value(mask.score)}, of the "
            f"photograph {format_value(mask.score_of_photograph)}; it is the result of an optimization, not a verdict."
        )
    return EvidenceItem(_captum_text(part), part.passed, [_gates(entry) for entry in part.maps], notes)


def _captum_text(part: run_evidence.CaptumEvidence) -> str:
    """Return the verdicts on the maps in one sentence."""
    passed: dict[bool, list[bool]] = {False: [], True: []}  # by whether the original network is the reference
    for entry in part.maps:
        passed[entry.reference == run_evidence.ORIGINAL].append(entry.passed)
    clauses: list[str] = []
    if passed[False]:
        count = f"{sum(passed[False])} of {len(passed[False])}"
        clauses.append(f"{count} compared maps agree with Captum {part.version}".rstrip())
    if passed[True]:
        count = f"{sum(passed[True])} of {len(passed[True])}"
        clauses.append(f"{count} maps that Captum lacks agree with the original network in float64")
    if not clauses:
        clauses.append("No map was compared with Captum")
    for reason, number_of_maps in Counter(entry.unchecked for entry in part.unchecked).items():
        if reason == run_evidence.NOT_CHECKED:  # for lack of time
            clauses.append(f"{len(part.maps)} of {len(part.maps) + len(part.unchecked)} maps compared")
        else:
            clauses.append(f"{number_of_maps} {reason}")
    return f"{'; '.join(clauses)}."


def _gates(entry: run_evidence.MapAgreement) -> TableRow:
    """Return the gates of a map, its similarity, and the similarity of the closest control."""
    compared = entry.family or run_evidence.WHOLE_MAP
    if entry.terms is not None:
        compared = f"sum, and {entry.recomputed} of {entry.terms} terms"
    row = {
        "map": _map_name(entry),
        "method": entry.method,
        "compared": compared,
        "reference": entry.reference or run_evidence.CAPTUM,
        "verdict": _VERDICTS[entry.passed],
        "formula in float64: difference": "",
        "sum of the terms: difference": "",
        "delivered map: difference": number(_float(entry.delivered.difference)),
        "allowed": number(_float(entry.delivered.allowed)),
        "Spearman": "",
        "most similar control": "",
    }
    if entry.formula is not None:
        row["formula in float64: difference"] = number(_float(entry.formula.difference))
    if entry.sum is not None:
        row["sum of the terms: difference"] = number(_float(entry.sum.difference))
    if entry.similarity is not None:
        row["Spearman"] = f"{_float(entry.similarity.spearman):.4f}"
        controls = [_float(control.spearman) for control in entry.controls.values()]
        if controls:  # computed for one map of each method
            row["most similar control"] = f"{max(controls):.4f}"
    return row


def _map_name(entry: run_evidence.MapEvidence) -> str:
    return f"{entry.name}, {entry.target_name or '-'}"


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _saliency_metrics(part: run_evidence.MetricsEvidence) -> EvidenceItem:
    text = (
        "Saliency metrics: mean probability of the class while pixels are replaced in order of saliency, for each map "
        "and its controls, and maximum sensitivity."
    )
    rows: list[TableRow] = []
    notes: list[str] = []
    for entry in part.maps:
        row = {"map": _map_name(entry), "method": entry.method}
        row |= _areas("deletion ↓", entry.deletion)
        row |= _areas("insertion ↑", entry.insertion)
        row["sensitivity ↓"] = format_value(entry.max_sensitivity)
        rows.append(row)
        notes += entry.remarks
    return EvidenceItem(text, rows=rows, notes=notes)


def _areas(metric: str, curves: Mapping[str, Any]) -> TableRow:
    """Return the area of a map's curve and of its controls' curves."""
    areas = {metric: format_value(curves["area"])}
    for name, area in curves.items():
        if name not in ("area", "curve"):
            areas[f"{metric} {name}"] = format_value(area)
    return areas


def _localization(part: run_evidence.LocalizationEvidence) -> EvidenceItem:
    boxes = sum(entry.box is not None for entry in part.maps)
    text = f"Boxes of {boxes} of {len(part.maps)} maps."
    shares = []
    for method, result in part.corloc.items():
        whole = f"whole photographs: {result['whole_photograph']:.0%}"
        shares.append(f"{method} {result['corloc']:.0%} of {result['maps']} ({whole})")
    if shares:
        text += f" CorLoc, IoU with a reference box ≥ {part.right_from_iou:g}: {', '.join(shares)}."
    errors = [f"{entry.name}: {entry.error}" for entry in part.maps if entry.error]
    notes = errors[:1]
    if len(errors) > 1:
        notes.append(f"{len(errors) - 1} more in evidence.json")
    return EvidenceItem(text, notes=notes)


#: In the order of the page.
_PARTS: Mapping[str, Callable[[Any], EvidenceItem]] = {
    "files": _files,
    "pictures": _images,
    "naturalness": _naturalness,
    "trust": _diagnosis,
    "survivors": _ensemble,
    "robustness": _robustness,
    "universal": _universal,
    "transfer": _transfer,
    "captum": _captum,
    "faithfulness": _saliency_metrics,
    "localization": _localization,
}
