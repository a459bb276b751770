"""Is an adversarial example true in the file that is saved? It is decoded and the original network asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.attacks.norms import Norm
from lit_viz.attacks.rounding.lattice import LEVELS, LatticeBall, filed, image_of, levels_of
from lit_viz.attacks.rounding.repair import Goals, RoundingFailure, repair
from lit_viz.classifiers import Classifier
from lit_viz.images.reading import decode, encode_jpeg
from lit_viz.images.similarity import ssim

#: Qualities of the JPEG files that a success is tried in.
JPEG_QUALITIES = (95, 75)


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


@torch.inference_mode(False)
def save_and_verify(
    classifier: Classifier,
    images: Tensor,
    sources: Tensor,
    goals: Tensor,
    targeted: Tensor,
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
        targeted: ``(N,)`` bool, whether it is to be reached.
        float_success: ``(N,)`` bool, which succeeded before they were rounded; only these are repaired.
        norm: of the ball; None if the attack has no budget.
        eps: its radii ``(N,)`` in units of [0, 1].

    Returns:
        one a row, whatever else is in the batch.
    """
    wanted = Goals(classifier, goals, targeted)
    images = images.detach().cpu().float()
    radii = [None] * len(images) if eps is None else eps.tolist()
    balls = [LatticeBall(source, norm, radius) for source, radius in zip(sources, radii, strict=True)]
    levels = _rounded(images, balls, wanted)
    files = torch.stack([filed(these) for these in levels])
    logits = wanted.logits(files)
    inside = torch.tensor([ball.contains(these) for ball, these in zip(balls, levels, strict=True)])
    rows = (float_success.cpu() & inside & ~wanted.met(logits)).nonzero()[:, 0].tolist()
    margins, doubts = wanted.margin(logits).tolist(), wanted.doubt(logits).tolist()
    lost = [RoundingFailure(images[n], levels[n], margins[n], doubts[n], balls[n]) for n in rows]
    repaired = [0] * len(images)
    for n, found in zip(rows, repair(lost, wanted[rows]), strict=True):
        if found is not None:
            repaired[n] = int((found.levels - levels[n]).abs().sum())
            files[n], logits[n] = found.image, found.logits
    success = wanted.met(logits) & inside
    jpeg = _in_jpeg(files, wanted)
    return [
        Saved(
            image=files[n],
            success=bool(success[n]),
            logits=logits[n],
            repaired=repaired[n],
            jpeg=dict(zip(JPEG_QUALITIES, jpeg[n], strict=True)),
            distances=distances(image_of(balls[n].source), files[n]),
        )
        for n in range(len(images))
    ]


def lengths(change: Tensor) -> dict[str, float]:
    """Return the ``l2`` and the ``linf`` of :func:`distances` of a change in levels."""
    return {"l2": float(change.norm()) / LEVELS, "linf": float(change.abs().max()) / LEVELS}


def distances(source: Tensor, image: Tensor) -> dict[str, float]:
    """Return how far a saved image is from its photograph, both ``(C, H, W)`` in [0, 1].

    ``l2`` and ``linf`` in units of [0, 1]; ``l0`` the part of the C * H * W values that differ; ``psnr`` in dB,
    infinite for equal images; ``ssim`` (Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13; mean over the
    channels and over the places of a Gaussian window of 11 pixels), NaN for an image smaller than the window.
    """
    its, mine = levels_of(source), levels_of(image)
    change = (mine - its).flatten()
    return {
        **lengths(change),
        "l0": float((change != 0).double().mean()),
        "ssim": ssim(mine.float() / LEVELS, its.float() / LEVELS),
        "psnr": -10 * float((change / LEVELS).square().mean().log10()),
    }


def _rounded(images: Tensor, balls: Sequence[LatticeBall], wanted: Goals) -> list[Tensor]:
    """Return the levels nearest to the images that lie in their balls."""
    levels = [ball.nearest(image) for ball, image in zip(balls, images, strict=True)]
    outside = [n for n, ball in enumerate(balls) if not ball.contains(levels[n])]
    if outside:
        slopes = wanted[outside].slope(torch.stack([image_of(levels[n]) for n in outside]))
        for n, slope in zip(outside, slopes, strict=True):
            levels[n] = balls[n].shorten(levels[n], slope)
    return levels


def _in_jpeg(images: Tensor, wanted: Goals) -> list[list[bool]]:
    """Return by image whether the goals are met in its JPEG of each quality."""
    files = (torch.stack([decode(encode_jpeg(image, quality)) for image in images]) for quality in JPEG_QUALITIES)
    met: list[list[bool]] = torch.stack([wanted.met(wanted.logits(many)) for many in files], 1).tolist()
    return met
