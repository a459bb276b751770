"""Candidates of detectors, before suppression: of torchvision's families, of transformers, and of dense heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lit_viz.errors import LitVizError, first_line

#: What a network returns, and height and width of its inputs -> boxes (x0, y0, x1, y1) ``(N, M, 4)`` in pixels of the
#: input, and log-odds of the classes ``(N, M, K)``.
BoxReader = Callable[[Any, tuple[int, int]], tuple[Tensor, Tensor]]


@dataclass
class Candidates:
    """Candidates of one image, before suppression.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of the input, ``(M, 4)``, or ``(M, K, 4)`` where each class has its own.
        log_odds: of the classes, ``(M, K)``.
        detections: final detections of a network that suppresses candidates itself: ``boxes`` ``(D, 4)``, ``labels``
            and ``scores`` ``(D,)``; None of others.
    """

    boxes: Tensor
    log_odds: Tensor
    detections: Any = None


def candidates_by(reader: BoxReader, returned: Any, size: tuple[int, int], images: int) -> list[Candidates]:
    """Return the candidates of N images by a function of what the network returned.

    Raises:
        LitVizError: it fails, or returns something else than boxes ``(N, M, 4)`` and log-odds ``(N, M, K)``.
    """
    name = getattr(reader, "__name__", type(reader).__name__)
    try:
        boxes, log_odds = reader(returned, size)
        shapes = tuple(boxes.shape), tuple(log_odds.shape)
    except Exception as error:  # any error of the user's function
        reason = f"{type(error).__name__}: {first_line(error)}"
        kind = type(returned).__name__
        raise LitVizError(f"read {name} fails on what the network returned, a {kind} ({reason})") from error
    count = shapes[0][1] if len(shapes[0]) == 3 else 0
    is_valid = shapes[0] == (images, count, 4) and len(shapes[1]) == 3 and shapes[1][:2] == (images, count)
    if not is_valid or not log_odds.is_floating_point():
        raise LitVizError(
            f"read {name} must return boxes (N, M, 4) and floating-point log-odds (N, M, K), got shapes {shapes[0]} "
            f"and {shapes[1]} of {log_odds.dtype} for N = {images}"
        )
    return [Candidates(*parts) for parts in zip(boxes, log_odds, strict=True)]


def query_reader(labels: int) -> BoxReader:
    """Return the reader of the detectors of transformers that return ``logits`` and ``pred_boxes`` of queries.

    The boxes are (center x, center y, width, height), relative to the input. With K labels there are K + 1 logits with
    a softmax, of which the last is "no object" (DETR, YOLOS), or K with a sigmoid each (Conditional and Deformable
    DETR, RT-DETR, RF-DETR, D-FINE).
    """

    def read_queries(returned: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        logits = returned.logits
        if logits.shape[-1] == labels + 1:
            log_odds = log_odds_of_softmax(logits)[..., :-1]
        elif logits.shape[-1] == labels:
            log_odds = logits
        else:
            raise LitVizError(f"the configuration has {labels} labels, and a box {logits.shape[-1]} logits")
        height, width = size
        scale = returned.pred_boxes.new_tensor([width, height, width, height])
        return corners_of(returned.pred_boxes * scale), log_odds

    return read_queries


def read_dense_head(returned: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return boxes and log-odds of a head ``(N, 4 + K, M)``: (center x, center y, width, height) in pixels, and K
    probabilities, as exported YOLO networks return them."""
    head = dense_head_in(returned)
    if head is None:
        raise LitVizError("a dense head must be a tensor (N, 4 + K, M)")
    rows = head.transpose(1, 2)
    return corners_of(rows[..., :4]), log_odds_of_probabilities(rows[..., 4:])


def dense_head_in(returned: Any) -> Tensor | None:
    """Return the head ``(N, 4 + K, M)`` in what a network returned, the tensor or the first of several, or None."""
    head = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
    if isinstance(head, Tensor) and head.ndim == 3 and 4 < head.shape[1] <= head.shape[2] and head.is_floating_point():
        return head
    return None


def corners_of(boxes: Tensor) -> Tensor:
    """Return boxes (x0, y0, x1, y1) of boxes (center x, center y, width, height), ``(..., 4)``."""
    centers, sides = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centers - sides / 2, centers + sides / 2], -1)


def is_of_torchvision(network: Any) -> bool:
    """Return whether a network is a Faster R-CNN, RetinaNet, SSD or FCOS of torchvision."""
    has_head = hasattr(network, "roi_heads") or (hasattr(network, "head") and hasattr(network, "anchor_generator"))
    return hasattr(network, "transform") and has_head


def torchvision_candidates(network: Any, x: Tensor) -> list[Candidates]:
    """Return the candidates and final detections of a detector of torchvision for normalized images."""
    if hasattr(network, "roi_heads"):
        return _read_roi_heads(network, x)
    return _read_head(network, x)


def _read_roi_heads(network: Any, x: Tensor) -> list[Candidates]:
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
    parts = zip(boxes.split(counts), read["logits"].split(counts), read["sizes"], detections, strict=True)
    for own_boxes, logits, size, detected in parts:
        candidates.append(Candidates(_in_input(own_boxes, size, x), log_odds_of_softmax(logits), detected))
    return candidates


def _read_head(network: Any, x: Tensor) -> list[Candidates]:
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
            log_odds = log_odds_of_softmax(logits) if has_background else logits
        candidates.append(Candidates(_in_input(boxes, size, x), log_odds, detections[n]))
    return candidates


def _detect(network: Any, x: Tensor, handles: Sequence[Any]) -> Any:
    """Return the final detections, and remove the hooks."""
    try:
        return network(list(x))
    finally:
        for handle in handles:
            handle.remove()


def _in_input(boxes: Tensor, size: tuple[int, int], x: Tensor) -> Tensor:
    """Return boxes in pixels of the input, cropped to it as detections are, of boxes in the resized image."""
    height, width = size
    limits = torch.tensor([width, height] * 2).to(boxes)
    scale = torch.tensor([x.shape[-1] / width, x.shape[-2] / height]).to(boxes)
    return boxes.clamp(min=torch.zeros_like(limits), max=limits) * scale.repeat(2)


def log_odds_of_softmax(logits: Tensor) -> Tensor:
    """Return ``log p - log(1 - p)`` of the softmax probabilities p: a logit less the log-sum-exp of the others.

    The others of the largest logit are summed without it, since ``1 - p`` is rounded where p is near 1.
    """
    largest = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, largest, -torch.inf).logsumexp(-1, keepdim=True)
    log_p = logits.log_softmax(-1)
    is_largest = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, largest, True)
    below = log_p.masked_fill(is_largest, -1.0)  # at most a half, so that 1 - p is exact
    return torch.where(is_largest, logits - others, below - torch.log1p(-below.exp()))


def log_odds_of_probabilities(p: Tensor) -> Tensor:
    """Return ``log p - log(1 - p)``; finite, also where p is rounded to 0 or 1."""
    limits = torch.finfo(p.dtype)
    return p.clamp(min=limits.tiny).log() - torch.log1p(-p.clamp(max=1 - limits.eps))


def _log_odds_of_centerness(logits: Tensor, centerness: Tensor) -> Tensor:
    """Return the log-odds of the scores of FCOS, the geometric mean of probability and centerness."""
    log_p = (functional.logsigmoid(logits) + functional.logsigmoid(centerness)) / 2
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))
