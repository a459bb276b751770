"""Detection: scores of torchvision's detectors before suppression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_viz.errors import LitVizError, require
from lit_viz.networks.outputs import Output
from lit_viz.outputs.region import check_inside

#: Log-odds of a class that no final detection has.
_UNDETECTED = -14.0


@dataclass
class _Candidates:
    """Candidates of one image: boxes and log-odds of the classes, before suppression."""

    boxes: Tensor  # (M, 4), or (M, K, 4) where each class has its own
    log_odds: Tensor  # (M, K)


class Detection(Output):
    """Log-odds of the classes of a detector's candidates, ``(N, K)``: whether a class is detected in a box.

    The score of a class is the log-sum-exp of the log-odds of all candidates that overlap the given box, before
    suppression; success depends on the final detections. The network is a Faster R-CNN, RetinaNet, SSD or FCOS of
    torchvision, in evaluation mode, which normalizes by itself. Proposals are detached there, so that gradients pass
    through features only.

    Args:
        box: (x0, y0, x1, y1) in pixels of the input; anywhere by default.
        iou: least overlap of a candidate with the box, in (0, 1].
        score: score from which a detection counts, in (0, 1): the decision on a class is positive above it.

    Raises:
        LitVizError: an argument is invalid, the box extends beyond the input, or the network is another one.
    """

    decision = "independent"
    unit = "log-odds"
    backbone = "backbone"

    def __init__(self, box: Sequence[float] | None = None, *, iou: float = 0.5, score: float = 0.5) -> None:
        if box is not None:
            is_box = len(box) == 4 and box[0] < box[2] and box[1] < box[3]
            require(is_box, "box must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, in pixels of the input", repr(box))
        require(0 < iou <= 1, "iou must be above 0 and at most 1", iou)
        require(0 < score < 1, "score must be between 0 and 1", score)
        self.box, self.iou, self.score = box, iou, score

    def prepare(self, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Detection:
        if self.box is not None:
            check_inside(self.box, size)
        return self

    @property
    def _threshold(self) -> float:
        return math.log(self.score) - math.log1p(-self.score)

    def call(self, network: Callable[..., Any], x: Tensor) -> Any:
        """Return the candidates of each image, and the final detections."""
        read = _read_roi_heads if hasattr(network, "roi_heads") else _read_head
        if not hasattr(network, "transform") or not (hasattr(network, "roi_heads") or hasattr(network, "head")):
            raise LitVizError(
                "Detection requires a Faster R-CNN, RetinaNet, SSD or FCOS of torchvision, got "
                f"{type(network).__name__}"
            )
        return read(network, x), tuple(x.shape[-2:])

    def scores(self, returned: Any, images: int) -> Tensor:
        (candidates, _), size = returned
        rows = [self._scores_of(image, size) for image in candidates]
        return torch.stack(rows) - self._threshold

    def final(self, returned: Any, images: int) -> Tensor:
        """Return the log-odds of the best final detection of each class in the box, ``(N, K)``."""
        (candidates, detections), _ = returned
        rows = []
        for image, detected in zip(candidates, detections, strict=True):
            row = image.log_odds.new_full(image.log_odds.shape[1:], _UNDETECTED)
            counts = torch.ones_like(detected["scores"], dtype=torch.bool)
            if self.box is not None:
                box = torch.tensor([self.box]).to(detected["boxes"])
                counts = _overlaps(detected["boxes"], box)[:, 0] >= self.iou
            log_odds = torch.logit(detected["scores"][counts], eps=1e-6)
            rows.append(row.scatter_reduce(0, detected["labels"][counts], log_odds.to(row), "amax"))
        return torch.stack(rows) - self._threshold

    def _scores_of(self, image: _Candidates, size: tuple[int, int]) -> Tensor:
        """Return the scores of the classes ``(K,)`` of one image."""
        if not len(image.log_odds):
            raise LitVizError("the detector proposes no candidate on an image: give images of its usual size")
        if self.box is None:
            return image.log_odds.logsumexp(0)
        overlap = self._overlap(image)
        # Where no candidate overlaps enough, the nearest one gives a gradient.
        counts = (overlap >= self.iou) | (overlap == overlap.amax(0))
        return image.log_odds.masked_fill(~counts, -math.inf).logsumexp(0)

    def _overlap(self, image: _Candidates) -> Tensor:
        """Return the overlap of the candidates with the box, ``(M, K)``."""
        boxes = image.boxes.detach()
        box = torch.tensor([self.box]).to(boxes)
        overlap: Tensor = _overlaps(boxes.reshape(-1, 4), box)[:, 0].view(boxes.shape[:-1])
        if overlap.ndim == 1:
            overlap = overlap[:, None].expand_as(image.log_odds)
        return overlap


def _read_roi_heads(network: Any, x: Tensor) -> tuple[list[_Candidates], Any]:
    """Return candidates and final detections of a Faster R-CNN: its proposals, with a box per class."""
    read: dict[str, Any] = {}
    heads = network.roi_heads

    def read_proposals(module: Any, args: Any) -> None:
        read["proposals"], read["sizes"] = args[1], args[2]

    def read_scores(module: Any, args: Any, output: Any) -> None:
        read["logits"], read["offsets"] = output

    handles = [heads.register_forward_pre_hook(read_proposals), heads.box_predictor.register_forward_hook(read_scores)]
    detections = _detect(network, x, handles)
    counts = [len(proposals) for proposals in read["proposals"]]
    boxes = heads.box_coder.decode(read["offsets"], read["proposals"])
    candidates = []
    parts = zip(boxes.split(counts), read["logits"].split(counts), read["sizes"], strict=True)
    for own_boxes, logits, size in parts:
        candidates.append(_Candidates(_in_input(own_boxes, size, x), _log_odds_of_softmax(logits)))
    return candidates, detections


def _read_head(network: Any, x: Tensor) -> tuple[list[_Candidates], Any]:
    """Return candidates and final detections of a detector without proposals: its anchors."""
    read: dict[str, Any] = {}

    def read_head(module: Any, args: Any, output: Any) -> None:
        read["head"] = output

    def read_anchors(module: Any, args: Any, output: Any) -> None:
        read["anchors"], read["sizes"] = output, args[0].image_sizes

    handles = [
        network.head.register_forward_hook(read_head),
        network.anchor_generator.register_forward_hook(read_anchors),
    ]
    detections = _detect(network, x, handles)
    has_background = type(network).__name__ == "SSD"
    candidates = []
    for n, (anchors, size) in enumerate(zip(read["anchors"], read["sizes"], strict=True)):
        logits = read["head"]["cls_logits"][n]
        offsets = read["head"]["bbox_regression"][n]
        if "bbox_ctrness" in read["head"]:
            boxes = network.box_coder.decode(offsets, anchors)
            log_odds = _log_odds_of_centerness(logits, read["head"]["bbox_ctrness"][n])
        else:
            boxes = network.box_coder.decode_single(offsets, anchors)
            log_odds = _log_odds_of_softmax(logits) if has_background else logits
        candidates.append(_Candidates(_in_input(boxes, size, x), log_odds))
    return candidates, detections


def _detect(network: Any, x: Tensor, handles: Sequence[Any]) -> Any:
    """Return the final detections, and remove the hooks."""
    try:
        return network(list(x))
    finally:
        for handle in handles:
            handle.remove()


def _in_input(boxes: Tensor, size: tuple[int, int], x: Tensor) -> Tensor:
    """Return boxes in pixels of the input, of boxes in the detector's resized image."""
    height, width = size
    scale = torch.tensor([x.shape[-1] / width, x.shape[-2] / height]).to(boxes)
    return boxes * scale.repeat(2)


def _log_odds_of_softmax(logits: Tensor) -> Tensor:
    """Return ``log p - log(1 - p)`` of the softmax probabilities p."""
    log_p = logits.log_softmax(-1)
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))


def _log_odds_of_centerness(logits: Tensor, centerness: Tensor) -> Tensor:
    """Return the log-odds of the scores of FCOS, the geometric mean of probability and centerness."""
    log_p = (functional.logsigmoid(logits) + functional.logsigmoid(centerness)) / 2
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes ``(N, 4)`` and ``(M, 4)``, ``(N, M)``."""
    from torchvision.ops import box_iou  # takes a second to import

    overlaps: Tensor = box_iou(boxes, others)
    return overlaps
