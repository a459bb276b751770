"""Is an adversarial example true in the file that is saved? It is decoded and the original network asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lit_viz.attacks.feasible import Norm
from lit_viz.classifiers import Classifier
from lit_viz.evidence.lattice import LEVELS, LatticeBall, image_of, levels_of
from lit_viz.evidence.repair import Goal, repair
from lit_viz.images.reading import decode, encode_jpeg, encode_png, read_png

#: Qualities of the JPEG files that a success is tried in.
JPEG_QUALITIES = (95, 75)
_WINDOW = 11  # pixels across, of SSIM's Gaussian window


@dataclass(frozen=True)
class Saved:
    """What became of an adversarial example in its file.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1] on the CPU, bit-equal to what a reader of the PNG gets.
        success: whether the image lies in the ball and the original network, on the decoded PNG, sees what was asked
            for.
        logits: ``(K,)`` of the original network on the decoded PNG.
        repaired: levels by which the rounded image was moved to win a lost success back, summed over its values; 0 if
            none was lost, or if it stays lost.
        jpeg: by quality, whether the original network sees it in a JPEG of the saved image too.
        distances: see :func:`distances`.
    """

    image: Tensor
    success: bool
    logits: Tensor
    repaired: int
    jpeg: Mapping[int, bool]
    distances: Mapping[str, float]


def save_and_verify(
    classifier: Classifier,
    images: Tensor,
    sources: Tensor,
    goals: Tensor,
    towards: Tensor,
    float_success: Tensor,
    *,
    norm: Norm | None = None,
    eps: Tensor | None = None,
) -> list[Saved]:
    """Round adversarial examples to 8 bits inside their ball, win back what that lost, and verify them as files.

    Nothing is written: the files are made and read in memory, and :attr:`Saved.image` gives the same PNG again.

    Args:
        classifier: that was attacked.
        images: outcomes of the attack ``(N, C, H, W)`` in [0, 1].
        sources: the photographs ``(N, C, H, W)`` in [0, 1].
        goals: ``(N,)`` the class to reach, or to leave.
        towards: ``(N,)`` bool, whether it is to be reached.
        float_success: ``(N,)`` bool, which succeeded before they were rounded; only these are repaired.
        norm: of the ball; None if the attack has no budget.
        eps: its radii ``(N,)`` in units of [0, 1].

    Returns:
        one a row, whatever else is in the batch.
    """
    return [
        _verified(
            Goal(classifier, int(goals[n]), bool(towards[n])),
            images[n],
            LatticeBall(sources[n], norm, None if eps is None else float(eps[n])),
            bool(float_success[n]),
        )
        for n in range(len(images))
    ]


def reread(path: str | Path, classifier: Classifier, goal: int, towards: bool) -> tuple[bool, Tensor]:
    """Read a PNG from the disk and ask the original network again.

    Args:
        path: of the file, which has the classifier's size.
        classifier: that was attacked.
        goal: the class to reach, or to leave.
        towards: whether it is to be reached.

    Returns:
        whether the network sees what was asked for, and its logits ``(K,)``.

    Raises:
        LitVizError: the file is missing or broken, or has not the classifier's channels.
    """
    wanted = Goal(classifier, goal, towards)
    logits = wanted.logits(read_png(path))
    return wanted.met(logits), logits


def distances(source: Tensor, image: Tensor) -> dict[str, float]:
    """Return how far a saved image is from its photograph, both ``(C, H, W)`` in [0, 1].

    ``l2`` and ``linf`` in units of [0, 1]; ``l0`` the part of the C * H * W values that differ; ``psnr`` in dB,
    infinite for equal images; ``ssim`` (Wang et al. 2004, doi:10.1109/TIP.2003.819861; mean over the channels and
    over the places of a Gaussian window of 11 pixels), NaN for an image smaller than the window.
    """
    change = (levels_of(image) - levels_of(source)).flatten()
    its, mine = (x.detach().cpu().float()[None] for x in (source, image))
    return {
        "l2": float(change.norm()) / LEVELS,
        "linf": float(change.abs().max()) / LEVELS,
        "l0": float((change != 0).double().mean()),
        "ssim": _ssim(mine, its),
        "psnr": float(peak_signal_noise_ratio(mine, its, data_range=1.0)),
    }


def _ssim(mine: Tensor, its: Tensor) -> float:
    if min(mine.shape[-2:]) < _WINDOW:
        return torch.nan
    # The map, because torchmetrics' own mean is also over windows that reach beyond the border.
    whole = structural_similarity_index_measure(mine, its, data_range=1.0, return_full_image=True)[1]
    margin = _WINDOW // 2
    return float(whole[..., margin:-margin, margin:-margin].mean())


def _verified(goal: Goal, image: Tensor, ball: LatticeBall, float_success: bool) -> Saved:
    levels = ball.nearest(image)
    if not ball.contains(levels):
        levels = ball.shorten(levels, goal.slope(image_of(levels)))
    saved = decode(encode_png(image_of(levels)))
    logits = goal.logits(saved)
    repaired = 0
    if float_success and ball.contains(levels) and not goal.met(logits):
        better = repair(image, levels, float(goal.margin(logits)), ball, goal)
        if better is not None:
            repaired = int((better - levels).abs().sum())
            saved = decode(encode_png(image_of(better)))
            logits = goal.logits(saved)
    return Saved(
        image=saved,
        success=goal.met(logits) and ball.contains(levels_of(saved)),
        logits=logits,
        repaired=repaired,
        jpeg={q: goal.met(goal.logits(decode(encode_jpeg(saved, q)))) for q in JPEG_QUALITIES},
        distances=distances(image_of(ball.source), saved),
    )
