"""Localization of objects by the saliency maps of a run, compared with reference boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.images.fitting import Box
from lit_viz.images.reading import Photograph, encode_png
from lit_viz.localization.reference_boxes import ReferenceBoxes, iou
from lit_viz.localization.segmentation import (
    SEEDS,
    Seeds,
    Segment,
    box_in_original,
    import_opencv,
    localize,
    mask_in_original,
)
from lit_viz.methods.records import SaliencyRecord
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.utils.files import write_bytes

#: IoU from which a box is correct (Pascal VOC, ImageNet).
CORRECT_IOU = 0.5
#: Number of maps kept for the figure.
MAX_PANELS = 20


@dataclass(frozen=True)
class LocalizedMap:
    """Localization by one map.

    Attributes:
        photograph: as the network sees it.
        values: map ``(H, W)``.
        segment: the object; None if there is none.
        error: problem of the map or its reference boxes, if any.
        reference: reference boxes in pixels of the original; may be empty.
    """

    photograph: Photograph
    values: Tensor
    segment: Segment | None
    error: str | None
    reference: tuple[Box, ...]

    @property
    def box(self) -> Box | None:
        """Box of the object in pixels of the original."""
        return None if self.segment is None else box_in_original(self.photograph, self.segment.box)

    @property
    def iou(self) -> float | None:
        """IoU with the best reference box; None without one, 0 without an object."""
        return self._best_iou(self.box)

    @property
    def baseline_iou(self) -> float | None:
        """IoU of the part of the photograph that the network sees."""
        height, width = self.photograph.pixels.shape[-2:]
        return self._best_iou(box_in_original(self.photograph, (0, 0, width, height)))

    def _best_iou(self, box: Box | None) -> float | None:
        if not self.reference:
            return None
        return 0.0 if box is None else max(iou(box, reference) for reference in self.reference)


@dataclass
class Localization:
    """Localization by the maps of a run.

    Attributes:
        seeds: thresholds of the seeds.
        maps: entries of ``evidence.json``.
        panels: the first maps with their outcomes, for the figure.
    """

    seeds: Seeds
    maps: list[dict[str, Any]] = field(default_factory=list)
    panels: list[tuple[Outcome, LocalizedMap]] = field(default_factory=list)

    def corloc(self) -> dict[str, dict[str, Any]]:
        """Return by method the share of maps with a correct box (CorLoc), among those with a reference box.

        ``whole_photograph`` is the CorLoc of a box around all that the network sees, as a baseline.
        """
        by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in self.maps:
            if entry["iou"] is not None:
                by_method[entry["method"]].append(entry)
        return {
            method: {
                "corloc": sum(entry["iou"] >= CORRECT_IOU for entry in entries) / len(entries),
                "whole_photograph": sum(entry["iou_whole"] >= CORRECT_IOU for entry in entries) / len(entries),
                "maps": len(entries),
            }
            for method, entries in by_method.items()
        }

    def sentence(self) -> str:
        """Return the result in one line."""
        errors = [f"{entry['name']}: {entry['error']}" for entry in self.maps if entry["error"]]
        boxes = sum(entry["box"] is not None for entry in self.maps)
        parts = [f"boxes of {boxes} of {len(self.maps)} maps"]
        parts += [
            f"{method} CorLoc {r['corloc']:.0%} of {r['maps']} (whole photographs: {r['whole_photograph']:.0%})"
            for method, r in self.corloc().items()
        ]
        more = [f"{len(errors) - 1} more in evidence.json"] if len(errors) > 1 else []
        return f"evidence: {', '.join(parts + errors[:1] + more)}"


def localize_run(
    outcomes: Sequence[Outcome],
    reducers: Mapping[str, str],
    truth: Mapping[str, ReferenceBoxes],
    folder: RunFolder | None = None,
    seeds: Seeds = SEEDS,
) -> Localization:
    """Localize the object of each map of a run and add box and IoU to the records.

    Args:
        outcomes: of the run; those without a map are skipped.
        reducers: channel reducer by method.
        truth: reference boxes by ``source`` (see :func:`~lit_viz.localization.reference_boxes.match_boxes`).
        folder: run folder for masks, records and the part ``localization`` of ``evidence.json``; None writes nothing.
        seeds: thresholds of the seeds.

    Raises:
        LitVizError: OpenCV is not installed, or the disk is full.
    """
    version = import_opencv().__version__
    result = Localization(seeds)
    amended = []
    for outcome in outcomes:
        record, pixels, attribution = outcome.record, outcome.source(), outcome.array()
        if pixels is None or attribution is None or not isinstance(record, SaliencyRecord):
            continue
        values = reduce_channels(attribution, reducers[record.method])[0]
        found = _localize(record, pixels, values, truth.get(str(record.source)), seeds)
        outcome.amend(box=_round(found.box), iou=found.iou)
        amended.append(outcome.record)
        mask = None
        if folder is not None and found.segment is not None:
            mask = f"masks/{record.key}.png"
            pixels = torch.from_numpy(mask_in_original(found.photograph, found.segment.mask))
            write_bytes(folder.path / mask, encode_png(pixels[None].float()))
        result.maps.append(_entry(record, found, mask))
        if len(result.panels) < MAX_PANELS:
            result.panels.append((outcome, found))
    if folder is not None:
        folder.amend(amended)
        settings = {**asdict(seeds), "right_from_iou": CORRECT_IOU, "opencv": version}
        folder.merge_evidence({"localization": {**settings, "corloc": result.corloc(), "maps": result.maps}})
    return result


def _localize(
    record: SaliencyRecord, pixels: Tensor, values: Tensor, reference: ReferenceBoxes | None, seeds: Seeds
) -> LocalizedMap:
    photograph, found, errors = photograph_of(record, pixels), None, []
    if reference is not None and reference.size not in (None, photograph.original_size):
        expected, actual = (f"{s[1]} x {s[0]}" for s in (reference.size or (0, 0), photograph.original_size))
        errors.append(f"reference boxes in {reference.path} ignored: annotated at {expected} pixels, got {actual}")
        reference = None
    try:
        found = localize(photograph, values, seeds)
    except LitVizError as error:
        errors.append(str(error))
    boxes = () if reference is None else reference.boxes
    return LocalizedMap(photograph, values, found, "; ".join(errors) or None, boxes)


def photograph_of(record: SaliencyRecord, pixels: Tensor) -> Photograph:
    """Return the photograph of a record; an image passed as an array is its own original."""
    height, width = pixels.shape[-2:]
    original_height, original_width = record.original_size or (height, width)
    left, top, right, bottom = record.original_box or (0, 0, width, height)
    return Photograph(pixels, str(record.source), (original_height, original_width), (left, top, right, bottom))


def _entry(record: SaliencyRecord, found: LocalizedMap, mask: str | None) -> dict[str, Any]:
    return {
        "index": record.index,
        "name": record.name,
        "method": record.method,
        "target_name": record.target_name,
        "box": _round(found.box),
        "box_in_image": _round(None if found.segment is None else found.segment.box),
        "mask": mask,
        "true_boxes": [_round(box) for box in found.reference],
        "iou": found.iou,
        "iou_whole": found.baseline_iou,
        "error": found.error,
    }


def _round(box: Box | None) -> list[float] | None:
    return None if box is None else [round(end, 2) for end in box]
