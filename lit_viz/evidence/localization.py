"""Could a saliency map serve for localization? Boxes and masks of a run's maps, held against true boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.engine.run_folder import RunFolder
from lit_viz.engine.tasks import key_of
from lit_viz.errors import LitVizError
from lit_viz.evidence.boxes import TrueBoxes, iou
from lit_viz.evidence.graph_cut import SEEDS, Seeds, Segment, opencv, segment
from lit_viz.figures.heat import reduce_channels
from lit_viz.figures.localization import LIMIT, LocalizationPanel, localization_figure
from lit_viz.figures.style import save_figure
from lit_viz.files import write_bytes
from lit_viz.images.fitting import Box
from lit_viz.images.listing import PACKAGED_PREFIX
from lit_viz.images.reading import Photograph, encode_png
from lit_viz.outcomes import Outcome

#: A box is right from this IoU on (the criterion of Pascal VOC, and of ImageNet's localization).
RIGHT = 0.5


# -- one photograph


def localize(photograph: Photograph, values: Tensor, seeds: Seeds = SEEDS) -> Segment:
    """Return the object that a map points at; what is no part of the original (``fit="pad"``) takes no part in it.

    Args:
        photograph: as the network saw it.
        values: the map ``(H, W)``; what is higher speaks for the object.
        seeds: where the map is sure.

    Raises:
        LitVizError: see :func:`~lit_viz.evidence.graph_cut.segment`.
    """
    height, width = photograph.original_size
    inner = _within(photograph.from_original([0, 0, width, height]).round(), values.shape)
    left, top, right, bottom = map(int, inner)
    found = segment(photograph.pixels[:, top:bottom, left:right], values[top:bottom, left:right], seeds)
    border = (top, len(values) - bottom), (left, len(values[0]) - right)
    x, y, x_end, y_end = found.box
    box = (x + left, y + top, x_end + left, y_end + top)
    return Segment(np.pad(found.seeds, border), np.pad(found.mask, border), box)


def box_of_original(photograph: Photograph, box: Box) -> Box:
    """Return a box of the image as a box of the original, cut at its edges."""
    return _within(photograph.to_original(box), photograph.original_size)


def _within(ends: Tensor, size: Sequence[int]) -> Box:
    """Return the part of a box that lies in a picture of (height, width)."""
    height, width = size
    left, top, right, bottom = ends.clamp(min=0).minimum(ends.new_tensor([width, height, width, height])).tolist()
    return left, top, right, bottom


def mask_of_original(photograph: Photograph, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask ``(H, W)`` of the image in the size of the original; each of its pixels asks the nearest one.

    What the image doesn't span, because it was cut off, is no part of the mask.
    """
    height, width = photograph.original_size
    centres = torch.arange(max(height, width), dtype=torch.float64) + 0.5
    columns, rows = photograph.from_original(torch.stack([centres, centres], 1)).floor().long().unbind(1)
    framed = np.pad(mask, 1)  # whatever lies outside finds the frame
    down, across = (
        places[:side].clamp(-1, end).add(1).numpy()
        for places, side, end in zip((rows, columns), (height, width), mask.shape, strict=True)
    )
    of_original: NDArray[np.bool_] = framed[np.ix_(down, across)]
    return of_original


# -- a run


@dataclass(frozen=True)
class Finding:
    """What came of one map.

    Attributes:
        photograph: as the network saw it.
        values: the map ``(H, W)``.
        segment: the object, or None where ``error`` says why there is none.
        error: what is wrong with the map or its true boxes, or None.
        truth: the true boxes, in pixels of the original; empty where none are known.
    """

    photograph: Photograph
    values: Tensor
    segment: Segment | None
    error: str | None
    truth: tuple[Box, ...]

    @property
    def box(self) -> Box | None:
        """In pixels of the original."""
        return None if self.segment is None else box_of_original(self.photograph, self.segment.box)

    @property
    def iou(self) -> float | None:
        """With the true box that is nearest; None where none is known, 0 where none was found."""
        return self._nearest(self.box)

    @property
    def whole(self) -> float | None:
        """The IoU of all that the network saw of the photograph: what a box is worth that knows nothing."""
        height, width = self.photograph.pixels.shape[-2:]
        return self._nearest(box_of_original(self.photograph, (0, 0, width, height)))

    def _nearest(self, box: Box | None) -> float | None:
        if not self.truth:
            return None
        return 0.0 if box is None else max(iou(box, true) for true in self.truth)


@dataclass
class Localization:
    """The boxes of a run.

    Attributes:
        seeds: how they were found.
        maps: what ``evidence.json`` says of each map.
        panels: of the first ones, for the figure.
    """

    seeds: Seeds
    maps: list[dict[str, Any]] = field(default_factory=list)
    panels: list[LocalizationPanel] = field(default_factory=list)

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
        return f"evidence: {', '.join(parts + errors[:1])}"


def localize_run(
    outcomes: Sequence[Outcome],
    reducers: Mapping[str, str],
    truth: Mapping[str, TrueBoxes],
    folder: RunFolder | None = None,
    seeds: Seeds = SEEDS,
) -> Localization:
    """Find the object of each map of a run, and put box and IoU into the records.

    Args:
        outcomes: of the run; what has no map is passed over.
        reducers: how channels are reduced, by method.
        truth: true boxes by the stem of the photograph's file (see :func:`~lit_viz.evidence.boxes.read_boxes`).
        folder: where masks, records, the part ``localization`` of ``evidence.json`` and ``localization.png`` are
            written; None writes nothing.
        seeds: where maps are sure.

    Raises:
        LitVizError: OpenCV is missing, or the disk is full.
    """
    version = opencv().__version__
    run = Localization(seeds)
    for outcome in outcomes:
        photograph, attribution = outcome.source(), outcome.array()
        if photograph is None or attribution is None:
            continue
        how = reducers[outcome.record["method"]]
        finding = _find(outcome.record, photograph, reduce_channels(attribution, how)[0], truth, seeds)
        outcome.amend({"box": _rounded(finding.box), "iou": finding.iou})
        mask = None if folder is None or finding.segment is None else _write_mask(folder, outcome, finding)
        run.maps.append(_entry(outcome.record, finding, mask))
        if len(run.panels) < LIMIT:
            run.panels.append(_panel(outcome, finding))
    if folder is not None:
        folder.amend({entry["index"]: {"box": entry["box"], "iou": entry["iou"]} for entry in run.maps})
        settings = {**asdict(seeds), "right_from_iou": RIGHT, "opencv": version}
        folder.merge_evidence({"localization": {**settings, "corloc": run.corloc(), "maps": run.maps}})
        if run.panels:
            figure = localization_figure(run.panels, seeds.foreground, seeds.background, len(run.maps))
            save_figure(figure, folder.path / "localization.png")
    return run


def _find(
    record: Mapping[str, Any], pixels: Tensor, values: Tensor, truth: Mapping[str, TrueBoxes], seeds: Seeds
) -> Finding:
    photograph = photograph_of(record, pixels)
    known, found, errors = truth.get(stem_of(record)), None, []
    if known is not None and known.size not in (None, photograph.original_size):
        errors.append(_other_size(known, photograph))
        known = None
    try:
        found = localize(photograph, values, seeds)
    except LitVizError as error:
        errors.append(str(error))
    return Finding(photograph, values, found, "; ".join(errors) or None, known.boxes if known else ())


def photograph_of(record: Mapping[str, Any], pixels: Tensor) -> Photograph:
    """Return the photograph of a record as it was read; an image that was handed over is its own original."""
    height, width = pixels.shape[-2:]
    size, span = record.get("original_size", (height, width)), record.get("original_box", (0, 0, width, height))
    return Photograph(pixels, str(record["source"]), tuple(size), tuple(span))


def stem_of(record: Mapping[str, Any]) -> str:
    """Return the name by which the true boxes of a record's photograph are known."""
    return Path(str(record["source"] or "").removeprefix(PACKAGED_PREFIX)).stem


def _other_size(known: TrueBoxes, photograph: Photograph) -> str:
    theirs, ours = (f"{size[1]} x {size[0]}" for size in (known.size or (0, 0), photograph.original_size))
    return f"the true boxes in {known.path} are of a picture of {theirs} pixels, and this one has {ours}: left out"


def _write_mask(folder: RunFolder, outcome: Outcome, finding: Finding) -> str:
    assert finding.segment is not None
    relative = f"masks/{key_of(outcome.record['index'], outcome.record['name'])}.png"
    mask = mask_of_original(finding.photograph, finding.segment.mask)
    write_bytes(folder.path / relative, encode_png(torch.from_numpy(mask)[None].float()))
    return relative


def _entry(record: Mapping[str, Any], finding: Finding, mask: str | None) -> dict[str, Any]:
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


def _panel(outcome: Outcome, finding: Finding) -> LocalizationPanel:
    found = finding.segment
    return LocalizationPanel(
        name=outcome.name,
        subtitle=title_of(outcome.record["method"]),
        photograph=finding.photograph.pixels,
        values=finding.values,
        seeds=None if found is None else found.seeds,
        mask=None if found is None else found.mask,
        box=None if found is None else found.box,
        truth=[tuple(finding.photograph.from_original(box).tolist()) for box in finding.truth],
        notes=[*([] if finding.iou is None else [f"IoU {finding.iou:.2f}"]), finding.error or ""],
    )


def _rounded(box: Box | None) -> list[float] | None:
    return None if box is None else [round(end, 2) for end in box]


def _share(ious: Iterable[float]) -> float:
    right = [value >= RIGHT for value in ious]
    return sum(right) / len(right)
