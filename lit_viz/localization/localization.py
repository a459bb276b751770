"""Could a saliency map serve for localization? Boxes and masks of a run's maps, held against true boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box
from lit_viz.images.reading import Photograph, encode_png
from lit_viz.localization.objects import LocalizedMap, localize, mask_in_original
from lit_viz.localization.reference_boxes import ReferenceBoxes
from lit_viz.localization.segmentation import SEEDS, Seeds, opencv
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.types import Record, key_of
from lit_viz.utils.files import write_bytes

#: A box is right from this IoU on (the criterion of Pascal VOC, and of ImageNet's localization).
RIGHT = 0.5
#: Findings that are kept for the figure.
KEPT_FINDINGS = 20


@dataclass
class Localization:
    """The boxes of a run.

    Attributes:
        seeds: how they were found.
        maps: what ``evidence.json`` says of each map.
        findings: the first ones with their outcomes, for the figure.
    """

    seeds: Seeds
    maps: list[dict[str, Any]] = field(default_factory=list)
    findings: list[tuple[Outcome, LocalizedMap]] = field(default_factory=list)

    def corloc(self) -> dict[str, dict[str, Any]]:
        """Return by method the share of maps with a true box whose own has an IoU of at least 0.5, and how many.

        ``whole_photograph`` is that share for a box around all that the network saw: objects fill photographs, and a
        map is only worth something for localization where it does better.
        """
        by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.maps:
            if entry["iou"] is not None:
                by_method[entry["method"]].append(entry)
        return {
            method: {
                "corloc": _share(entry["iou"] for entry in entries),
                "whole_photograph": _share(entry["iou_whole"] for entry in entries),
                "maps": len(entries),
            }
            for method, entries in by_method.items()
        }

    def sentence(self) -> str:
        """Return the outcome in one line."""
        errors = [f"{entry['name']}: {entry['error']}" for entry in self.maps if entry["error"]]
        found = sum(entry["box"] is not None for entry in self.maps)
        parts = [f"boxes of {found} of {len(self.maps)} maps"]
        parts += [
            f"{method} CorLoc {one['corloc']:.0%} of {one['maps']} (whole photographs: {one['whole_photograph']:.0%})"
            for method, one in self.corloc().items()
        ]
        more = [f"{len(errors) - 1} more such are in evidence.json"] if len(errors) > 1 else []
        return f"evidence: {', '.join(parts + errors[:1] + more)}"


def localize_run(
    outcomes: Sequence[Outcome],
    reducers: Mapping[str, str],
    truth: Mapping[str, ReferenceBoxes],
    folder: RunFolder | None = None,
    seeds: Seeds = SEEDS,
) -> Localization:
    """Find the object of each map of a run, and put box and IoU into the records.

    Args:
        outcomes: of the run; what has no map is passed over.
        reducers: how channels are reduced, by method.
        truth: true boxes by the ``source`` of the photograph (see :func:`~lit_viz.localization.reference_boxes.match`).
        folder: where masks, records, and the part ``localization`` of ``evidence.json`` are
            written; None writes nothing.
        seeds: where maps are sure.

    Raises:
        LitVizError: OpenCV is missing, or the disk is full.
    """
    version = opencv().__version__
    run = Localization(seeds)
    amended: list[Record] = []
    for outcome in outcomes:
        photograph, attribution = outcome.source(), outcome.array()
        if photograph is None or attribution is None:
            continue
        how = reducers[outcome.record["method"]]
        finding = _find(outcome.record, photograph, reduce_channels(attribution, how)[0], truth, seeds)
        outcome.amend(box=_rounded(finding.box), iou=finding.iou)
        amended.append(outcome.record)
        mask = None if folder is None or finding.segment is None else _write_mask(folder, outcome, finding)
        run.maps.append(_entry(outcome.record, finding, mask))
        if len(run.findings) < KEPT_FINDINGS:
            run.findings.append((outcome, finding))
    if folder is not None:
        folder.amend(amended)
        settings = {**asdict(seeds), "right_from_iou": RIGHT, "opencv": version}
        folder.merge_evidence({"localization": {**settings, "corloc": run.corloc(), "maps": run.maps}})
    return run


def _find(
    record: Mapping[str, Any], pixels: Tensor, values: Tensor, truth: Mapping[str, ReferenceBoxes], seeds: Seeds
) -> LocalizedMap:
    photograph = photograph_of(record, pixels)
    known, found, errors = truth.get(str(record["source"])), None, []
    if known is not None and known.size not in (None, photograph.original_size):
        errors.append(_other_size(known, photograph))
        known = None
    try:
        found = localize(photograph, values, seeds)
    except LitVizError as error:
        errors.append(str(error))
    return LocalizedMap(photograph, values, found, "; ".join(errors) or None, known.boxes if known else ())


def photograph_of(record: Mapping[str, Any], pixels: Tensor) -> Photograph:
    """Return the photograph of a record as it was read; an image that was handed over is its own original."""
    height, width = pixels.shape[-2:]
    size, span = record.get("original_size", (height, width)), record.get("original_box", (0, 0, width, height))
    return Photograph(pixels, str(record["source"]), tuple(size), tuple(span))


def _other_size(known: ReferenceBoxes, photograph: Photograph) -> str:
    theirs, ours = (f"{size[1]} x {size[0]}" for size in (known.size or (0, 0), photograph.original_size))
    return f"the true boxes in {known.path} are of a picture of {theirs} pixels, and this one has {ours}: left out"


def _write_mask(folder: RunFolder, outcome: Outcome, finding: LocalizedMap) -> str:
    assert finding.segment is not None
    relative = f"masks/{key_of(outcome.record['index'], outcome.record['name'])}.png"
    mask = mask_in_original(finding.photograph, finding.segment.mask)
    write_bytes(folder.path / relative, encode_png(torch.from_numpy(mask)[None].float()))
    return relative


def _entry(record: Mapping[str, Any], finding: LocalizedMap, mask: str | None) -> dict[str, Any]:
    """Return what ``evidence.json`` says of a map."""
    return {
        **{key: record[key] for key in ("index", "name", "method", "target_name")},
        "box": _rounded(finding.box),
        "box_in_image": _rounded(None if finding.segment is None else finding.segment.box),
        "mask": mask,
        "true_boxes": [_rounded(box) for box in finding.truth],
        "iou": finding.iou,
        "iou_whole": finding.whole,
        "error": finding.error,
    }


def _rounded(box: Box | None) -> list[float] | None:
    return None if box is None else [round(end, 2) for end in box]


def _share(ious: Iterable[float]) -> float:
    right = [value >= RIGHT for value in ious]
    return sum(right) / len(right)
