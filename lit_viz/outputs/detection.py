"""Detection: scores of the classes of a detector in a box, before suppression, and its final detections."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError, require
from lit_viz.networks.outputs import Detected, Output
from lit_viz.networks.sources import import_object
from lit_viz.outputs.derivatives import autograd_note
from lit_viz.outputs.detectors import (
    BoxReader,
    Candidates,
    candidates_by,
    dense_head_in,
    is_of_torchvision,
    query_reader,
    read_dense_head,
    torchvision_candidates,
)
from lit_viz.outputs.region import check_inside

#: Log-odds of a class that no final detection has; the least ones of any class.
_UNDETECTED = -14.0
#: Detections of an image that are listed.
_MOST_DETECTIONS = 50
#: Overlaps that differ by less are equal: a fast copy rounds boxes differently.
_EQUAL_OVERLAP = 1e-3


class Detection(Output):
    """Log-odds of the classes of a detector's candidates, ``(N, K)``: whether a class is detected in a box.

    The score of a class is the log-sum-exp of the log-odds of all candidates that overlap the given box, before
    suppression: an upper bound of the most confident one. Success depends on the final detections alone, after
    suppression.

    Detectors of torchvision (Faster R-CNN, RetinaNet, SSD, FCOS) normalize and suppress by themselves; those of
    transformers with ``logits`` and ``pred_boxes`` (DETR, Conditional and Deformable DETR, YOLOS, RT-DETR, RF-DETR) and
    heads ``(N, 4 + K, M)`` are read too, any other by ``read``. Many detach their proposals or queries: then gradients
    pass through features only, and a note in every record states that they are not the derivative, by a central
    difference in float64.

    Args:
        box: (x0, y0, x1, y1) in pixels of the input; anywhere by default.
        iou: least overlap of a candidate with the box, in (0, 1].
        score: score from which a detection counts, in (0, 1): the decision on a class is positive above it.
        read: function, also as ``module:function``, of what the network returns and of height and width of its inputs,
            that returns boxes (x0, y0, x1, y1) ``(N, M, 4)`` in pixels of the input, and log-odds ``(N, M, K)``.
        suppression: overlap, in (0, 1], above which the less confident of two detections of a class is removed; by
            default none is, as of DETR.

    Raises:
        LitVizError: an argument is invalid, the box extends beyond the input, or the network can't be read.
    """

    decision = "independent"
    unit = "log-odds"
    backbone = "backbone"
    detects = True

    def __init__(
        self,
        box: Sequence[float] | None = None,
        *,
        iou: float = 0.5,
        score: float = 0.5,
        read: BoxReader | str | None = None,
        suppression: float | None = None,
    ) -> None:
        if box is not None:
            is_box = len(box) == 4 and box[0] < box[2] and box[1] < box[3]
            require(is_box, "box must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, in pixels of the input", repr(box))
        require(0 < iou <= 1, "iou must be above 0 and at most 1", iou)
        require(0 < score < 1, "score must be between 0 and 1", score)
        if suppression is not None:
            require(0 < suppression <= 1, "suppression must be above 0 and at most 1", suppression)
        self.box, self.iou, self.score = box, iou, score
        self.reader: BoxReader | None = import_object(read, "read") if isinstance(read, str) else read
        self.suppression = suppression
        self._labels: list[str] | None = None  # in the configuration of the network

    @property
    def names(self) -> Sequence[str] | None:
        return self._labels

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Detection:
        if self.box is not None:
            check_inside(self.box, size)
        if is_of_torchvision(network) and self.suppression is not None:
            raise LitVizError(f"suppression must be left out: {type(network).__name__} suppresses candidates by itself")
        prepared = copy.copy(self)
        labels = getattr(getattr(network, "config", None), "id2label", None)
        if labels and self.reader is None:
            prepared._labels = [labels[index] for index in sorted(labels, key=int)]
        prepared.note = autograd_note(prepared, network, normalize, size)
        return prepared

    @property
    def _threshold(self) -> float:
        return math.log(self.score) - math.log1p(-self.score)

    def call(self, network: Callable[..., Any], x: Tensor) -> Any:
        """Return the candidates of each image, and height and width of the input."""
        size = (x.shape[-2], x.shape[-1])
        if self.reader is not None:
            return candidates_by(self.reader, network(x), size, len(x)), size
        if is_of_torchvision(network):
            return torchvision_candidates(network, x), size
        returned = network(x)
        return candidates_by(self._ready_reader(network, returned), returned, size, len(x)), size

    def _ready_reader(self, network: Any, returned: Any) -> BoxReader:
        """Return the reader of what a network returned.

        Raises:
            LitVizError: there is none.
        """
        if self._labels is not None and hasattr(returned, "logits") and hasattr(returned, "pred_boxes"):
            return query_reader(len(self._labels))
        if dense_head_in(returned) is not None:
            return read_dense_head
        kind = f"a {type(returned).__name__}"
        if isinstance(returned, Tensor):
            kind = f"shape {tuple(returned.shape)}"
        elif isinstance(returned, dict):
            kind = f"a dict of {', '.join(map(str, returned))}"
        raise LitVizError(
            f"Detection can't read what {type(network).__name__} returns ({kind}): give read=, a function of it and of "
            "(height, width) that returns boxes (N, M, 4) in pixels and log-odds (N, M, K)"
        )

    def scores(self, returned: Any, images: int) -> Tensor:
        candidates, _ = returned
        rows = [self._scores_of(image) for image in candidates]
        return torch.stack(rows) - self._threshold

    def final(self, returned: Any, images: int) -> Tensor:
        """Return the log-odds of the best detection of each class in the box that is left after suppression,
        ``(N, K)``."""
        candidates, _ = returned
        rows = [self._final_of(image) for image in candidates]
        return torch.stack(rows).clamp(min=_UNDETECTED) - self._threshold

    def detections(self, returned: Any, images: int) -> list[list[Detected]]:
        """Return the final detections above the threshold anywhere in each image, the most confident ones first."""
        candidates, _ = returned
        return [self._detections_of(image) for image in candidates]

    def _detections_of(self, image: Candidates) -> list[Detected]:
        found = image.detections
        if found is not None:
            counts = found["scores"] > self.score
            boxes, classes, scores = found["boxes"][counts], found["labels"][counts], found["scores"][counts]
        else:
            detected = (image.log_odds > self._threshold) & self._is_left(image)
            rows, classes = detected.nonzero(as_tuple=True)
            boxes, scores = image.boxes[rows], image.log_odds[rows, classes].sigmoid()
        order = scores.argsort(descending=True, stable=True)[:_MOST_DETECTIONS]
        detections: list[Detected] = []
        for n in order.tolist():
            detections.append(Detected(int(classes[n]), float(scores[n]), boxes[n].tolist()))
        return detections

    def _scores_of(self, image: Candidates) -> Tensor:
        """Return the scores of the classes ``(K,)`` of one image."""
        if not len(image.log_odds):
            raise LitVizError("the detector proposes no candidate on an image: give images of its usual size")
        if self.box is None:
            return image.log_odds.logsumexp(0)
        counts = self._is_in_box(image)
        # Where no candidate overlaps enough, the nearest ones give a gradient.
        counts = torch.where(counts.any(0), counts, self._is_nearest(image))
        return image.log_odds.masked_fill(~counts, -math.inf).logsumexp(0)

    def _final_of(self, image: Candidates) -> Tensor:
        """Return the log-odds of the best final detection of each class ``(K,)`` of one image."""
        undetected = image.log_odds.new_full(image.log_odds.shape[1:], _UNDETECTED)
        detected = image.detections
        if detected is not None:
            log_odds = torch.logit(detected["scores"], eps=1e-6).to(undetected)
            counts = self._with_box(detected["boxes"]) >= self.iou
            return undetected.scatter_reduce(0, detected["labels"][counts], log_odds[counts], "amax")
        if not len(image.log_odds):
            return undetected
        counts = self._is_left(image) & self._is_in_box(image)
        return image.log_odds.masked_fill(~counts, _UNDETECTED).amax(0)

    def _is_left(self, image: Candidates) -> Tensor:
        """Return which candidates are left after suppression, ``(M, K)`` bool.

        Only those above the threshold, the detections, are suppressed: it is by detections, and no other ones count.
        """
        is_left = torch.ones_like(image.log_odds, dtype=torch.bool)
        if self.suppression is None:
            return is_left
        from torchvision.ops import batched_nms  # takes a second to import

        rows, classes = (image.log_odds > self._threshold).nonzero(as_tuple=True)
        boxes = image.boxes[rows] if image.boxes.ndim == 2 else image.boxes[rows, classes]
        left = batched_nms(boxes.double(), image.log_odds[rows, classes].double(), classes, self.suppression)
        is_left[rows, classes] = False
        is_left[rows[left], classes[left]] = True
        return is_left

    def _is_in_box(self, image: Candidates) -> Tensor:
        """Return which candidates overlap the box enough, ``(M, K)`` bool."""
        return self._by_class(self._with_box(image.boxes) >= self.iou, image)

    def _is_nearest(self, image: Candidates) -> Tensor:
        """Return which candidates are the nearest ones to the box, ``(M, K)`` bool; several if they are equally near.

        The overlap is generalized to boxes that are apart (Rezatofighi et al. 2019, arXiv:1902.09630).
        """
        overlap = self._with_box(image.boxes, "generalized_box_iou").nan_to_num(-1.0)
        return self._by_class(overlap >= overlap.amax(0) - _EQUAL_OVERLAP, image)

    def _with_box(self, boxes: Tensor, overlap: str = "box_iou") -> Tensor:
        """Return the overlap of boxes ``(..., 4)`` with the box by a function of torchvision, ``(...)``; 1 without a
        box."""
        if self.box is None:
            return boxes.new_ones(boxes.shape[:-1])
        from torchvision import ops

        box = torch.tensor([self.box]).to(boxes)
        overlaps: Tensor = getattr(ops, overlap)(boxes.detach().reshape(-1, 4), box)
        return overlaps[:, 0].view(boxes.shape[:-1])

    def _by_class(self, values: Tensor, image: Candidates) -> Tensor:
        """Return values of boxes ``(M,)`` or ``(M, K)`` as ``(M, K)``."""
        if values.ndim == 1:
            return values[:, None].expand_as(image.log_odds)
        return values
