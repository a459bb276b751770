"""Names and classes of the networks of the zoo, without torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from lit_viz.errors import LitVizError, did_you_mean

#: Names of the networks of the zoo.
NAMES = (
    "fashion_cnn",
    "fashion_robust_cnn",
    "fashion_vit",
    "fashion_vit_mean",
    "planted_cnn",
    "planted_vit",
    "planted_bands",
    "planted_pairs",
)
_CARDS = Path(__file__).parents[1] / "zoo" / "weights"


def check_zoo_name(name: str) -> None:
    """Check the name of a network of the zoo.

    Raises:
        LitVizError: there is no such network; similar names are listed.
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f": it has {', '.join(NAMES)}"
        raise LitVizError(f"the zoo has no network {name!r}{hint}")


@cache
def zoo_labels(name: str) -> tuple[str, ...]:
    """Return the classes of a network of the zoo, as its card states them."""
    card = json.loads((_CARDS / f"{name}.json").read_text(encoding="utf-8"))
    return tuple(card["labels"])
