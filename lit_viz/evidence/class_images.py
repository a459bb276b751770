"""How natural class images are: compared with photographs of their class, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.evidence.naturalness import (
    UNNATURAL,
    NaturalImages,
    best_late_figure,
    network_layers,
    null_deviations,
    other_images,
    read_input,
)
from lit_viz.images.canvas import resize
from lit_viz.methods.tasks import ImageTasks
from lit_viz.networks import Network
from lit_viz.runs.evidence import ImageNaturalness, LayerNaturalness, NaturalnessEvidence
from lit_viz.types import Record
from lit_viz.utils.limits import evenly

_MOST = 32  # photographs of a class that are compared
_SHOWN = 0.1  # probability of its class from which an image shows it; below, the maximization failed


def class_image_naturalness(
    network: Network, photographs: Sequence[str | Path], images: Sequence[tuple[Record, Tensor]]
) -> NaturalnessEvidence:
    """Compare class images with photographs of their classes, layer by layer (:mod:`~lit_viz.evidence.naturalness`).

    The class of a photograph is the name of its folder, or else the network's prediction. An image to which the network
    gives less than 0.1 of the probability of its class has no deviation, and does not count for the others.

    Args:
        network: the network.
        photographs: files and folders.
        images: records with a target, and their images ``(C, H, W)`` in [0, 1].

    Raises:
        LitVizError: no photograph can be read.
    """
    files, classes = photographs_by_class(network, photographs)
    layers = network_layers(network)
    sample = other_images(len(files))
    natural: dict[int | None, list[int]] = {}
    for record, _ in images:
        natural[record.target] = evenly(_places(classes, record.target), _MOST)
    natural_images = NaturalImages(network, layers, files, chain(sample, *natural.values()))
    compared: list[list[LayerNaturalness]] = []
    best: list[float | None] = []
    for record, image in images:
        others = set(sample) - set(_places(classes, record.target))
        figures = natural_images.compare(image, natural[record.target], sorted(others))
        compared.append(figures)
        best.append(best_late_figure(figures) if _shows_class(network, image, record.target) else None)
    deviations = null_deviations(best)
    entries = []
    for (record, _), figures, deviation in zip(images, compared, deviations, strict=True):
        entries.append(_image_evidence(record, len(natural[record.target]), figures, deviation))
    return NaturalnessEvidence(photographs=len(files), images=entries)


def _shows_class(network: Network, image: Tensor, target: int | None) -> bool:
    """Return whether the network recognizes the class of an image; if not, its maximization failed.

    Of an image without a class, and of scores that are numbers, there is no probability, and it is True.
    """
    if target is None:
        return True
    logits = network.scores(resize(image[None], network.size))[0]
    return network.prediction(logits, target).get("probability", 1.0) >= _SHOWN


def _image_evidence(
    record: Record, photographs: int, figures: Sequence[LayerNaturalness], deviation: float | None
) -> ImageNaturalness:
    """Return the evidence for a class image, with its flag."""
    flag = ""
    if deviation is not None and deviation < -UNNATURAL:
        flag = "unnatural"
    return ImageNaturalness(
        index=record.index,
        name=record.name,
        target_name=record.target_name,
        photographs=photographs,
        layers=figures,
        deviation=deviation,
        flag=flag,
    )


def photographs_by_class(network: Network, photographs: Sequence[str | Path]) -> tuple[list[str], list[int]]:
    """Return the photographs that can be read, and the class of each: that of its folder, or the predicted one."""
    given = [str(path) for path in photographs]
    try:
        tasks = ImageTasks(network, given, label="folders").tasks
    except LitVizError:  # no folder is a class
        tasks = ImageTasks(network, given).tasks
    files: list[str] = []
    classes: list[int] = []
    for task in tasks:
        if task.source is None:
            continue
        try:
            pixels = read_input(network, task.source)
        except LitVizError:
            continue
        label = task.label
        if label is None:
            label = int(network.scores(pixels[None])[0].argmax())
        files.append(task.source)
        classes.append(label)
    if not files:
        raise LitVizError(f"photographs: none of {len(tasks)} can be read")
    return files, classes


def _places(classes: Sequence[int], target: int | None) -> list[int]:
    """Return the places of the photographs of a class."""
    return [place for place, label in enumerate(classes) if label == target]
