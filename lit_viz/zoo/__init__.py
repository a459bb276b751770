"""Small trained networks with measured properties, and images for them: plain, robust, transformers, planted evidence.

``scripts/zoo.py`` trains them. The weights are float16; each file has a card.
"""

from lit_viz.zoo.cards import (
    FASHION_LABELS,
    NAMES,
    WEIGHTS,
    NetworkCard,
    build,
    labels_of,
    read_card,
    shape_of,
    weights_file,
)
from lit_viz.zoo.networks import BANDS, SIDE
from lit_viz.zoo.photographs import PHOTOGRAPHS, class_of_photograph, photograph_file, photograph_names
from lit_viz.zoo.planted import PLANTED_LABELS, PlantedImages, leak, planted_bands, planted_images

__all__ = [
    "BANDS",
    "FASHION_LABELS",
    "NAMES",
    "PHOTOGRAPHS",
    "PLANTED_LABELS",
    "SIDE",
    "WEIGHTS",
    "NetworkCard",
    "PlantedImages",
    "build",
    "class_of_photograph",
    "labels_of",
    "leak",
    "photograph_file",
    "photograph_names",
    "planted_bands",
    "planted_images",
    "read_card",
    "shape_of",
    "weights_file",
]
