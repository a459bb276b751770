"""Expected gradients: GradientSHAP with photographs as baselines."""

from __future__ import annotations

from lit_viz.attributions.base import GradientRule
from lit_viz.attributions.baselines import BaselineLike
from lit_viz.attributions.gradient_shap import GradientShap
from lit_viz.images.reading import PACKAGED_PREFIX
from lit_viz.utils.files import PACKAGED

_DEFAULT = tuple(map(f"{PACKAGED_PREFIX}{{}}".format, PACKAGED))


class ExpectedGradients(GradientShap):
    """Mean of ``(x - b) * gradient at b + a (x - b)`` over random positions a and photographs b.

    Erion et al. 2021, arXiv:1906.10670, equation 3. Each sample draws one photograph. The explained photograph is no
    baseline of its own map: baselines with the same pixels are omitted. The map sums to the score less the mean score
    of the baselines, in expectation.

    Args:
        baseline: files, folders or ``zoo:NAME`` of photographs, best a hundred or more of the training data; or a
            tensor ``(B, C, H, W)`` in [0, 1]. They are fitted to the network's input as photographs are, and rounded to
            8 bits. Each takes C x H x W bytes of memory. Default: the photographs of scikit-image.
        sigma: standard deviation of noise that is added to the image, for images in [0, 1].
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`).
    """

    def __init__(self, baseline: BaselineLike = _DEFAULT, sigma: float = 0.0, backprop: GradientRule = "plain") -> None:
        super().__init__(baseline, sigma, backprop)
