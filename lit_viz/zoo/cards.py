"""Networks of the zoo by name, and their cards: what they are, how they were trained and how accurate they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from torch import nn

from lit_viz.errors import LitVizError
from lit_viz.utils.zoo_names import check_zoo_name
from lit_viz.zoo.networks import (
    BAND_SIDE,
    BANDS,
    SIDE,
    VisionTransformer,
    fashion_cnn,
    planted_bands_cnn,
    planted_cnn,
    planted_pairs_cnn,
)
from lit_viz.zoo.planted import PAIR_LABELS, PLANTED_LABELS

#: Classes of Fashion-MNIST.
FASHION_LABELS = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

#: Folder of the weights and cards.
WEIGHTS = Path(__file__).parent / "weights"

_BUILDERS: Mapping[str, Callable[[int], nn.Module]] = {
    "fashion_cnn": fashion_cnn,
    "fashion_robust_cnn": fashion_cnn,
    "fashion_vit": VisionTransformer,
    "fashion_vit_mean": partial(VisionTransformer, class_token=False),
    "planted_cnn": planted_cnn,
    "planted_vit": partial(VisionTransformer, field=10),
    "planted_bands": planted_bands_cnn,
    "planted_pairs": planted_pairs_cnn,
}
#: Names of the networks.
NAMES = tuple(_BUILDERS)


@dataclass(frozen=True)
class NetworkCard:
    """Description of a network, stored as JSON with its weights.

    Attributes:
        name: of the network.
        architecture: in a few words.
        parameters: number of parameters.
        labels: names of the classes, in the order of the logits.
        mean, std: of the normalization, for images in [0, 1], equal in all channels.
        data, licence: training data; licences of weights and data.
        seed, epochs, command: of the training.
        accuracy: on the test images by kind, such as ``clean``, measured with the weights as stored.
        leak: of a network for planted evidence of one glyph, see :func:`~lit_viz.zoo.leak`; otherwise None.
        sha256: of the file of the weights.
    """

    name: str
    architecture: str
    parameters: int
    labels: tuple[str, ...]
    mean: float
    std: float
    data: str
    licence: str
    seed: int
    epochs: int
    command: str
    sha256: str
    accuracy: Mapping[str, float] = field(default_factory=dict)
    leak: float | None = None

    def to_json(self) -> str:
        """Return the text of the card's file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_card(name: str, folder: Path = WEIGHTS) -> NetworkCard:
    """Read the card of a network.

    Raises:
        LitVizError: the zoo has no such network, or its files are missing.
    """
    fields = json.loads(_file(name, folder, "json").read_text(encoding="utf-8"))
    fields["labels"] = tuple(fields["labels"])
    return NetworkCard(**fields)


def weights_file(name: str, folder: Path = WEIGHTS) -> Path:
    """Return the float16 .safetensors file of a network; errors as in :func:`read_card`."""
    return _file(name, folder, "safetensors")


def labels_of(name: str) -> tuple[str, ...]:
    """Return the classes of a network, in the order of its logits."""
    if name == "planted_pairs":
        return PAIR_LABELS
    if name.startswith("planted"):
        return PLANTED_LABELS
    return FASHION_LABELS


def shape_of(name: str) -> tuple[int, int, int]:
    """Return the channels, the height and the width of the images of a network."""
    if name == "planted_bands":
        return (BANDS, BAND_SIDE, BAND_SIDE)
    return (1, SIDE, SIDE)


def build(name: str, classes: int | None = None) -> nn.Module:
    """Build a network with random weights, in training mode.

    Args:
        name: one of :data:`NAMES`.
        classes: number of logits; by default that of the network's own classes.
    """
    check_zoo_name(name, NAMES)
    return _BUILDERS[name](len(labels_of(name)) if classes is None else classes)


def _file(name: str, folder: Path, suffix: str) -> Path:
    check_zoo_name(name, NAMES)
    file = folder / f"{name}.{suffix}"
    if not file.is_file():
        raise LitVizError(f"{file} of the zoo is missing: scripts/zoo.py trains {name}")
    return file
