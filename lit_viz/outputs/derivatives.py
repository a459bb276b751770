"""Comparison of autograd with a central difference: networks that detach boxes or queries have other gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_viz.errors import first_line
from lit_viz.networks.isolation import private_copy
from lit_viz.networks.outputs import Output
from lit_viz.networks.summaries import probe_images

#: Steps of the difference in normalized units. Of the first, rounding is below 1e-7 of a score in float64, and few
#: kinks are crossed; the second, computed where the first differs, is for networks that round to float32 at some
#: place, as OWL-ViT does its logits.
_STEPS = (1e-7, 1e-4)
#: Largest error of autograd, relative to the larger derivative, and relative to the score over the step.
_TOLERANCE, _ROUNDING = 1e-2, 1e-12


def derivatives(
    output: Output, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]
) -> tuple[float, Callable[[float], float], float]:
    """Return the derivative of a random sum of scores along a random direction: by autograd and by central differences
    in float64 at an image of noise; and the sum.

    Args:
        output: what is scored, prepared for the network.
        network: the network; a copy of it is evaluated.
        normalize: images in [0, 1] -> inputs of the network.
        size: height and width of the input.

    Returns:
        The derivative by autograd; a function that returns the difference of a step; the sum.

    Raises:
        Exception: the network can't be copied, computed in float64 or differentiated.
    """
    exact = private_copy(network).double()
    image = normalize(probe_images(output.bands.channels, size)[:1]).double()
    draws = torch.Generator().manual_seed(0)
    direction = torch.randint(2, image.shape, generator=draws).to(image) * 2 - 1
    with torch.enable_grad():
        leaf, scores = output.with_graph(exact, image)
        weights = torch.randn(scores.shape, generator=draws).to(scores)
        total = (weights * scores).sum()
        (gradient,) = torch.autograd.grad(total, leaf)

    def difference(step: float) -> float:
        ahead = (weights * output.without_graph(exact, image + step * direction)).sum()
        behind = (weights * output.without_graph(exact, image - step * direction)).sum()
        return float(ahead - behind) / (2 * step)

    return float((gradient * direction).sum()), difference, float(total.detach())


def autograd_note(
    output: Output, network: nn.Module, normalize: Callable[[Tensor], Tensor], size: tuple[int, int]
) -> str | None:
    """Return a note if autograd is not the derivative of the scores, or could not be compared with it; arguments as of
    :func:`derivatives`."""
    differences: list[float] = []
    try:
        by_autograd, difference, total = derivatives(output, network, normalize, size)
        for step in _STEPS:
            differences.append(difference(step))
            rounding = _ROUNDING * abs(total) / step
            limit = _TOLERANCE * max(abs(by_autograd), abs(differences[-1])) + rounding
            if abs(by_autograd - differences[-1]) <= limit:
                return None
    except Exception as error:  # of the network's code, of any kind
        reason = f"{type(error).__name__}: {first_line(error)}"
        return f"whether gradients are the derivative of the scores could not be verified ({reason})"
    return (
        f"gradients are not the derivative of the scores of {type(network).__name__}, which detaches boxes or queries: "
        f"{by_autograd:.4g} along a direction of a probe image, by differences {differences[0]:.4g}"
    )
