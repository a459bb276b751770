"""Verification of adversarial examples as files: rounding to 8 bits, repair, and evaluation of the decoded image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks.norms import Norm, lengths
from lit_viz.attacks.rounding.lattice import LEVELS, LatticeBall, decoded_png, image_of, levels_of
from lit_viz.attacks.rounding.repair import RoundingFailure, Verifier, repair
from lit_viz.classifiers import Classifier
from lit_viz.images.reading import decode, encode_jpeg
from lit_viz.images.rendering import psnr, ssim

#: JPEG qualities in which a success is tested.
JPEG_QUALITIES = (95, 75)


@dataclass(frozen=True)
class Saved:
    """An adversarial example as its file holds it.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1] on the CPU, bit-equal to the decoded PNG.
        success: whether the image is in the ball and the original network's prediction of the PNG meets the goal.
        logits: ``(K,)`` of the original network for the PNG.
        repaired: sum of the level changes that restored a success; 0 without repair.
        jpeg: by quality, whether the prediction of a JPEG of the image meets the goal.
        distances: see :func:`distances`.
    """

    image: Tensor
    success: bool
    logits: Tensor
    repaired: int
    jpeg: Mapping[int, bool]
    distances: Mapping[str, float]

    def record_fields(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the prediction of the file and its success as record fields."""
        predicted = int(self.logits.argmax())
        return {
            "predicted": predicted,
            "predicted_name": labels[predicted],
            "success_file": self.success,
            "success_jpeg95": self.success and self.jpeg[95],
            "success_jpeg75": self.success and self.jpeg[75],
        }


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
    """Round adversarial examples to 8 bits inside their balls, repair rounding failures, and verify the files.

    Files are encoded and decoded in memory.

    Args:
        classifier: the attacked classifier.
        images: results of the attack ``(N, C, H, W)`` in [0, 1].
        sources: photographs ``(N, C, H, W)`` in [0, 1].
        goals: ``(N,)`` class to reach, or to leave.
        targeted: ``(N,)`` bool, whether it is the class to reach.
        float_success: ``(N,)`` bool, success before rounding; only these images are repaired.
        norm: norm of the balls; None for an attack without budget.
        eps: radii ``(N,)`` in units of [0, 1].

    Returns:
        one a row, independent of the rest of the batch.
    """
    verifier = Verifier(classifier, goals, targeted)
    images = images.detach().cpu().float()
    radii = [None] * len(images) if eps is None else eps.tolist()
    balls = [LatticeBall(source, norm, radius) for source, radius in zip(sources, radii, strict=True)]
    levels = _round(images, balls, verifier)
    files = torch.stack([decoded_png(rounded) for rounded in levels])
    logits = verifier.logits(files)
    inside = torch.tensor([ball.contains(rounded) for ball, rounded in zip(balls, levels, strict=True)])
    rows = (float_success.cpu() & inside & ~verifier.success(logits)).nonzero()[:, 0].tolist()
    margins, tolerances = verifier.margin(logits).tolist(), verifier.tolerance(logits).tolist()
    failures = [RoundingFailure(images[n], levels[n], margins[n], tolerances[n], balls[n]) for n in rows]
    repaired = [0] * len(images)
    for n, result in zip(rows, repair(failures, verifier[rows]), strict=True):
        if result is not None:
            repaired[n] = int((result.levels - levels[n]).abs().sum())
            files[n], logits[n] = result.image, result.logits
    success = verifier.success(logits) & inside
    jpeg: dict[int, list[bool]] = {}
    for quality in JPEG_QUALITIES:
        compressed = torch.stack([decode(encode_jpeg(image, quality)) for image in files])
        jpeg[quality] = verifier.success(verifier.logits(compressed)).tolist()
    return [
        Saved(
            image=files[n],
            success=bool(success[n]),
            logits=logits[n],
            repaired=repaired[n],
            jpeg={quality: met[n] for quality, met in jpeg.items()},
            distances=distances(image_of(balls[n].source), files[n]),
        )
        for n in range(len(images))
    ]


def distances(source: Tensor, image: Tensor) -> dict[str, float]:
    """Return the distances of a saved image to its photograph, both ``(C, H, W)`` in [0, 1].

    The lengths in all norms in units of [0, 1]; ``l0``, the fraction of the C * H * W values that differ; ``psnr`` in
    dB, infinite for equal images; ``ssim`` (Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13; mean over the
    channels and the positions of an 11-pixel Gaussian window), NaN for an image smaller than the window.
    """
    reference, levels = levels_of(source), levels_of(image)
    change = levels - reference
    return {
        **{name: length / LEVELS for name, length in lengths(change).items()},
        "l0": float((change != 0).double().mean()),
        "ssim": ssim(levels.float() / LEVELS, reference.float() / LEVELS),
        "psnr": psnr(levels.double() / LEVELS, reference.double() / LEVELS),
    }


def _round(images: Tensor, balls: Sequence[LatticeBall], verifier: Verifier) -> list[Tensor]:
    """Return the nearest levels inside the balls."""
    levels = [ball.nearest(image) for ball, image in zip(balls, images, strict=True)]
    outside = [n for n, ball in enumerate(balls) if not ball.contains(levels[n])]
    if outside:
        gradients = verifier[outside].margin_gradient(torch.stack([image_of(levels[n]) for n in outside]))
        for n, gradient in zip(outside, gradients, strict=True):
            levels[n] = balls[n].shorten(levels[n], gradient)
    return levels
