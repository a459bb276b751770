"""Localization of objects by saliency maps: map -> seeds -> mask -> box, compared with reference boxes.

The most and the least salient pixels are seeds for the colors of object and background, and a graph cut (Boykov & Jolly
2001) segments the object (Simonyan et al. 2014, arXiv:1312.6034, section 3.2).
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.images.filters import gaussian_blur
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import Box, Photograph, encode_png, to_uint8
from lit_viz.localization.reference_boxes import ReferenceBoxes, iou
from lit_viz.runs.evidence import LocalizationEvidence, LocalizedObject
from lit_viz.runs.memory import Storage
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome
from lit_viz.utils.files import write_bytes
from lit_viz.utils.imports import required
from lit_viz.utils.limits import MOST_ROWS

#: IoU from which a box is correct (Pascal VOC, ImageNet).
CORRECT_IOU = 0.5


@dataclass(frozen=True)
class Seeds:
    """Thresholds of the seeds: quantiles of the map above and below which pixels are seeds.

    ``smoothing`` is the sigma of a Gaussian blur of the map, relative to the shorter side. It removes the noise of
    single pixels, for which the paper averages the maps of ten crops.
    """

    foreground: float = 0.95
    background: float = 0.30
    smoothing: float = 1 / 200

    def of(self, values: Tensor) -> NDArray[np.int8]:
        """Return the seeds of a map ``(H, W)``: 1 foreground, -1 background, 0 neither."""
        if bad := int((~values.isfinite()).sum()):
            raise LitVizError(f"no box: {bad} of {values.numel()} pixels of the map are not finite")
        if values.max() == values.min():
            raise LitVizError("no box: the map is constant")
        sigma = torch.tensor([self.smoothing * min(values.shape)], dtype=torch.float64)
        smooth = gaussian_blur(values[None, None].double().cpu(), sigma)[0, 0].numpy()
        low, high = np.quantile(smooth, [self.background, self.foreground])
        seeds = np.zeros(smooth.shape, np.int8)
        seeds[smooth <= low] = -1
        if high > low:
            seeds[smooth >= high] = 1
        else:  # both quantiles of a map that is mostly zero are zero: all positive pixels are foreground
            seeds[smooth > low] = 1
        return seeds


SEEDS = Seeds()


@dataclass(frozen=True)
class Segment:
    """A segmented object: seeds ``(H, W)`` as by :meth:`Seeds.of`, mask ``(H, W)``, and its box in the image."""

    seeds: NDArray[np.int8]
    mask: NDArray[np.bool_]
    box: Box


def import_opencv() -> ModuleType:
    """Return OpenCV, an optional requirement."""
    with required("opencv-python-headless 4.8 to 5.0", "a box of a map", extra="localization"):
        return importlib.import_module("cv2")


def segment(photograph: Tensor, values: Tensor, seeds: Seeds = SEEDS) -> Segment:
    """Return the largest connected part of the graph cut's foreground.

    Foreground seeds are fixed. Background seeds only provide colors, since the map is also low inside objects. The
    result is deterministic.
    """
    cv2 = import_opencv()
    marked = seeds.of(values)
    try:
        foreground = _graph_cut(to_uint8(photograph), marked, cv2).astype(np.uint8)
        _, parts, statistics, _ = cv2.connectedComponentsWithStats(foreground)  # includes diagonal neighbors
    except cv2.error as error:
        raise LitVizError(f"no box: OpenCV failed on the photograph ({' '.join(str(error).split())})") from error
    mask = np.asarray(parts == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA])))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Segment(marked, mask, box)


def _graph_cut(pixels: NDArray[np.uint8], seeds: NDArray[np.int8], cv2: ModuleType) -> NDArray[np.bool_]:
    labels = np.where(seeds > 0, np.uint8(cv2.GC_FGD), np.uint8(cv2.GC_PR_BGD))
    cv2.setRNGSeed(0)  # of the k-means initialization
    seeded = seeds != 0
    # Fit the color models, mixtures of five Gaussians, to the seeds only: an image of one row and no iteration. Fitted
    # to the whole image, they would count all other pixels as background.
    empty = np.zeros((1, 65))
    _, background, foreground = cv2.grabCut(
        pixels[seeded][None], labels[seeded][None], None, empty, empty.copy(), 0, cv2.GC_INIT_WITH_MASK
    )
    labels, _, _ = cv2.grabCut(pixels, labels, None, background, foreground, 1, cv2.GC_EVAL_FREEZE_MODEL)
    return np.isin(labels, [cv2.GC_FGD, cv2.GC_PR_FGD])


def localize(photograph: Photograph, values: Tensor) -> Segment:
    """Segment the object that a map ``(H, W)`` indicates (:func:`segment`), without the padding of ``fit="pad"``.

    Raises:
        LitVizError: the photograph is outside the map, by an edited size or box.
    """
    height, width = photograph.original_size
    x0, y0, x1, y1 = map(int, _clip(photograph.from_original([0, 0, width, height]).round(), values.shape))
    if x0 >= x1 or y0 >= y1:
        raise LitVizError(f"the photograph of {height} x {width} pixels is outside its map: start another run")
    inner = segment(photograph.pixels[:, y0:y1, x0:x1], values[y0:y1, x0:x1])
    padding = (y0, len(values) - y1), (x0, len(values[0]) - x1)
    box = (inner.box[0] + x0, inner.box[1] + y0, inner.box[2] + x0, inner.box[3] + y0)
    return Segment(np.pad(inner.seeds, padding), np.pad(inner.mask, padding), box)


def box_in_original(photograph: Photograph, box: Box) -> Box:
    """Return a box of the image in pixels of the original, clipped to it."""
    return _clip(photograph.to_original(box), photograph.original_size)


def mask_in_original(photograph: Photograph, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask ``(H, W)`` of the image at the size of the original, by nearest pixels; False where cropped."""
    height, width = photograph.original_size
    centers = torch.arange(max(height, width), dtype=torch.float64) + 0.5
    columns, rows = photograph.from_original(torch.stack([centers, centers], 1)).floor().long().unbind(1)
    framed = np.pad(mask, 1)  # pixels outside of the image map to the frame
    y = rows[:height].clamp(-1, mask.shape[0]).add(1).numpy()
    x = columns[:width].clamp(-1, mask.shape[1]).add(1).numpy()
    resized: NDArray[np.bool_] = framed[np.ix_(y, x)]
    return resized


def box_in_image(photograph: Photograph, box: Box) -> Box:
    """Return a box of the original in pixels of the image, clipped to it; it may be empty."""
    height, width = photograph.pixels.shape[-2:]
    return _clip(photograph.from_original(box), (height, width))


def _clip(box: Tensor, size: Sequence[int]) -> Box:
    height, width = size
    x0, y0, x1, y1 = box.clamp(min=0).minimum(box.new_tensor([width, height, width, height])).tolist()
    return x0, y0, x1, y1


@dataclass(frozen=True)
class LocalizedMap:
    """A map ``(H, W)`` of a photograph, the object that it indicates, and its evidence in pixels of the original."""

    photograph: Photograph
    values: Tensor
    segment: Segment | None
    evidence: LocalizedObject


@dataclass
class Localization:
    """Localization by the maps of a run: the objects, and the first maps for the figure."""

    maps: list[LocalizedObject] = field(default_factory=list)
    panels: list[tuple[Outcome, LocalizedMap]] = field(default_factory=list)

    def corloc(self) -> dict[str, dict[str, Any]]:
        """Return by method the share of maps with a correct box (CorLoc), among those with a reference box.

        ``whole_photograph`` is the CorLoc of a box around the whole input of the network, as a baseline.
        """
        by_method: dict[str, list[LocalizedObject]] = defaultdict(list)
        for entry in self.maps:
            if entry.iou is not None:
                by_method[entry.method].append(entry)
        results = {}
        for method, entries in by_method.items():
            correct = sum(_is_correct(entry.iou) for entry in entries)
            whole = sum(_is_correct(entry.iou_whole) for entry in entries)
            count = len(entries)
            results[method] = {"corloc": correct / count, "whole_photograph": whole / count, "maps": count}
        return results

    def evidence(self) -> LocalizationEvidence:
        """Return the part ``localization`` of ``evidence.json``."""
        return LocalizationEvidence(
            seeds=asdict(SEEDS),
            right_from_iou=CORRECT_IOU,
            opencv=import_opencv().__version__,
            corloc=self.corloc(),
            maps=self.maps,
        )


def localize_run(
    outcomes: Sequence[Outcome[SaliencyRecord]],
    reducers: Mapping[str, str],
    truth: Mapping[str, ReferenceBoxes],
    storage: Storage | None = None,
) -> Localization:
    """Localize the object of each map of a run and add box and IoU to the records.

    Args:
        outcomes: of the run; outcomes without a map are skipped.
        reducers: channel reducer by method.
        truth: reference boxes by ``source`` (:func:`~lit_viz.localization.reference_boxes.match_boxes`).
        storage: results of the run, for the records, and in a run folder for masks; None writes nothing.
    """
    import_opencv()  # first, because it may be missing
    result = Localization()
    folder = None if storage is None else storage.path
    amended = []
    for outcome in outcomes:
        record, pixels, attribution = outcome.record, outcome.photograph(), outcome.array()
        if pixels is None or attribution is None:
            continue
        values = reduce_channels(attribution, reducers[record.method])[0]
        values = values.masked_fill(mask_of(record.no_data, (values.shape[0], values.shape[1])), float(values.min()))
        localized = _localize_map(record, pixels, values, truth.get(str(record.source)), folder)
        outcome.amend(box=localized.evidence.box, iou=localized.evidence.iou)
        amended.append(outcome.record)
        result.maps.append(localized.evidence)
        if len(result.panels) < MOST_ROWS:
            result.panels.append((outcome, localized))
    if storage is not None:
        storage.amend(amended)
    return result


def _localize_map(
    record: SaliencyRecord,
    pixels: Tensor,
    values: Tensor,
    reference: ReferenceBoxes | None,
    folder: Path | None,
) -> LocalizedMap:
    """Localize the object of a map, compare it with the reference boxes, and write its mask."""
    photograph, segment, errors = photograph_of(record, pixels), None, []
    boxes: Sequence[Box] = ()
    if reference is not None and reference.size in (None, photograph.original_size):
        boxes = reference.boxes
    elif reference is not None:
        expected, actual = _size_text(reference.size or (0, 0)), _size_text(photograph.original_size)
        errors.append(f"reference boxes in {reference.path} ignored: annotated at {expected} pixels, got {actual}")
    try:
        segment = localize(photograph, values)
    except LitVizError as error:
        errors.append(str(error))
    mask = box = None
    if segment is not None:
        box = box_in_original(photograph, segment.box)
    if folder is not None and segment is not None:
        mask = f"masks/{record.key}.png"
        original = torch.from_numpy(mask_in_original(photograph, segment.mask))
        write_bytes(folder / mask, encode_png(original[None].float()))
    whole = box_in_original(photograph, (0, 0, pixels.shape[-1], pixels.shape[-2]))
    evidence = LocalizedObject.of(
        record,
        box=_round(box),
        box_in_image=_round(segment.box) if segment is not None else None,
        mask=mask,
        true_boxes=[_round(true_box) for true_box in boxes],
        iou=_best_iou(box, boxes),
        iou_whole=_best_iou(whole, boxes),
        error="; ".join(errors) or None,
    )
    return LocalizedMap(photograph, values, segment, evidence)


def _best_iou(box: Box | None, references: Sequence[Box]) -> float | None:
    """Return the IoU with the best reference box; None without one, 0 without a box."""
    if not references:
        return None
    if box is None:
        return 0.0
    return max(iou(box, reference) for reference in references)


def _is_correct(value: float | None) -> bool:
    return value is not None and value >= CORRECT_IOU


def _size_text(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width} x {height}"


def photograph_of(record: SaliencyRecord, pixels: Tensor) -> Photograph:
    """Return the photograph of a record; an image passed as an array is its own original."""
    height, width = pixels.shape[-2:]
    original_height, original_width = record.original_size or (height, width)
    x0, y0, x1, y1 = record.original_box or (0, 0, width, height)
    return Photograph(pixels, str(record.source), (original_height, original_width), (x0, y0, x1, y1))


@overload
def _round(box: None) -> None: ...
@overload
def _round(box: Box) -> list[float]: ...
def _round(box: Box | None) -> list[float] | None:
    if box is None:
        return None
    return [round(value, 2) for value in box]
