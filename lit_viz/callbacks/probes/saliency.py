"""Probe of saliency maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_viz.attributions import Attribution
from lit_viz.callbacks.probes.base import enlarged, result_caption
from lit_viz.callbacks.probes.images import ImageProbe, ProbeImages
from lit_viz.classifiers import Classifier
from lit_viz.engine.module import ImageTraining
from lit_viz.figures.sheet import tile
from lit_viz.loggers.base import CaptionedImage
from lit_viz.methods import SaliencyMap
from lit_viz.types import Result


class SaliencyProbe(ImageProbe):
    """Saliency maps of the same images in every epoch, of their labels or else of the predicted classes.

    Logged are the images ``probe/saliency/<index>``, each beside its map.

    Args:
        images, every_n_epochs: see :class:`ImageProbe`.
        method: name or instance of a method, see :class:`~lit_viz.methods.SaliencyMap`.
        options: other arguments of :class:`ImageProbe` and :class:`Probe`.

    Example:
        >>> import lit_viz as lv, torch
        >>> probe = lv.callbacks.SaliencyProbe(torch.rand(4, 3, 32, 32), method="smoothgrad", every_n_epochs=2)
    """

    name = "saliency"

    def __init__(
        self,
        images: ProbeImages,
        every_n_epochs: int = 5,
        *,
        method: str | Attribution = "gradient",
        limit: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(images, every_n_epochs, limit=limit, **options)
        self.attribution = method

    def method(self, classifier: Classifier) -> ImageTraining:
        """Return the method."""
        return SaliencyMap(classifier, self.attribution, batch=self.slots, **self.run_options)

    def images(self, results: Sequence[Result]) -> Mapping[str, CaptionedImage]:
        """Return the images beside their maps."""
        return {
            f"saliency/{result.task.index:04d}": (
                tile([enlarged(result.source), enlarged(result.image)], columns=2),
                result_caption(result),
            )
            for result in results
            if result.source is not None and result.image is not None
        }
