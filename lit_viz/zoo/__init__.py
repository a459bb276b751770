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
from lit_viz.zoo.planted import (
    PAIR_LABELS,
    PAIR_TRUTH,
    PLANTED_LABELS,
    PlantedImages,
    PlantedPairs,
    leak,
    planted_bands,
    planted_images,
    planted_pairs,
)

__all__ = [
    "BANDS",
    "FASHION_LABELS",
    "NAMES",
    "PAIR_LABELS",
    "PAIR_TRUTH",
    "PHOTOGRAPHS",
    "PLANTED_LABELS",
    "SIDE",
    "WEIGHTS",
    "NetworkCard",
    "PlantedImages",
    "PlantedPairs",
    "build",
    "class_of_photograph",
    "labels_of",
    "leak",
    "photograph_file",
    "photograph_names",
    "planted_bands",
    "planted_images",
    "planted_pairs",
    "read_card",
    "shape_of",
    "weights_file",
]
