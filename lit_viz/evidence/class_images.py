"""How natural class images are: compared with photographs of their class, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.evidence.naturalness import channel_means, naturalness, network_layers
from lit_viz.images.canvas import resize
from lit_viz.images.reading import read_photograph
from lit_viz.methods.tasks import listed_tasks
from lit_viz.runs.evidence import ImageNaturalness, LayerNaturalness, NaturalnessEvidence
from lit_viz.types import Record

_BATCH = 16
_LEAST = 3  # photographs of the class
_MOST = 32  # photographs of a class that are compared
_RANDOM = 64  # photographs of any class


def class_image_naturalness(
    classifier: Classifier, photographs: Sequence[str | Path], images: Sequence[tuple[Record, Tensor]]
) -> NaturalnessEvidence:
    """Return how natural the way of class images through a network is (:mod:`~lit_viz.evidence.naturalness`).

    The class of a photograph is the name of its folder, or else the network's prediction.

    Args:
        classifier: the network.
        photographs: files and folders.
        images: records with a target, and their images ``(C, H, W)`` in [0, 1].

    Raises:
        LitVizError: no photograph can be read.
    """
    files, classes = photographs_by_class(classifier, photographs)
    layers = network_layers(classifier)
    strangers = _evenly(list(range(len(files))), _RANDOM)
    natural = {record.target: _of_class(classes, record.target) for record, _ in images}
    needed = sorted({*strangers, *(place for places in natural.values() for place in places)})
    means = channel_means(classifier, layers, _read(classifier, [files[place] for place in needed]))
    rows = {place: row for row, place in enumerate(needed)}
    found = []
    for record, image in images:
        own = [rows[place] for place in natural[record.target]]
        others = [rows[place] for place in strangers if classes[place] != record.target]
        figures = _figures(classifier, layers, image, means, own, others)
        found.append(ImageNaturalness.of(record, photographs=len(own), layers=figures))
    return NaturalnessEvidence(photographs=len(files), images=found)


def photographs_by_class(classifier: Classifier, photographs: Sequence[str | Path]) -> tuple[list[str], list[int]]:
    """Return the photographs that can be read, and the class of each: that of its folder, or the predicted one."""
    given = [str(path) for path in photographs]
    try:
        tasks = listed_tasks(classifier, given, labels="folders").tasks
    except LitVizError:  # no folder is a class
        tasks = listed_tasks(classifier, given).tasks
    files: list[str] = []
    classes: list[int] = []
    for task in tasks:
        if task.source is None:
            continue
        try:
            pixels = _read(classifier, [task.source])
        except LitVizError:
            continue
        label = task.label
        if label is None:
            label = int(classifier.logits(pixels)[0].argmax())
        files.append(task.source)
        classes.append(label)
    if not files:
        raise LitVizError(f"photographs: none of {len(tasks)} can be read")
    return files, classes


def _of_class(classes: Sequence[int], target: int | None) -> list[int]:
    """Return places of photographs of a class, evenly spaced through the list."""
    return _evenly([place for place, label in enumerate(classes) if label == target], _MOST)


def _evenly(places: Sequence[int], most: int) -> list[int]:
    """Return at most so many places, evenly spaced."""
    if len(places) <= most:
        return list(places)
    chosen = torch.linspace(0, len(places) - 1, most).round().long().tolist()
    return [places[index] for index in chosen]


def _read(classifier: Classifier, files: Sequence[str]) -> Tensor:
    """Return photographs ``(N, C, H, W)``, fitted as the network was published."""
    fit: Any = classifier.resizing or "crop"
    return torch.stack([read_photograph(file, classifier.size, classifier.channels, fit).pixels for file in files])


def _figures(
    classifier: Classifier,
    layers: Sequence[str],
    image: Tensor,
    means: Mapping[str, Tensor],
    own: Sequence[int],
    others: Sequence[int],
) -> list[LayerNaturalness]:
    """Return the figure of each layer; empty with too few photographs."""
    if len(own) < _LEAST or len(others) < _LEAST:
        return []
    synthetic = {}
    for layer, row in channel_means(classifier, layers, resize(image[None], classifier.size)).items():
        synthetic[layer] = row[0]
    natural = {layer: rows[list(own)] for layer, rows in means.items()}
    random = {layer: rows[list(others)] for layer, rows in means.items()}
    figures = []
    for figure in naturalness(synthetic, natural, random):
        entry = LayerNaturalness(
            layer=figure.layer, value=figure.value, low=figure.low, high=figure.high, is_decidable=figure.is_decidable
        )
        figures.append(entry)
    return figures
