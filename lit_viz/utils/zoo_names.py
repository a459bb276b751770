"""Names and classes of the networks of the zoo, without torch."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path

from lit_viz.errors import LitVizError, did_you_mean

_CARDS = Path(__file__).parents[1] / "zoo" / "weights"


@cache
def trained_names() -> tuple[str, ...]:
    """Return the names of the networks that have a card in the package, sorted."""
    return tuple(sorted(card.stem for card in _CARDS.glob("*.json")))


def check_zoo_name(name: str, names: Collection[str]) -> None:
    """Check the name of a network of the zoo.

    Raises:
        LitVizError: it is none of ``names``; similar ones are listed.
    """
    if name not in names:
        hint = did_you_mean(name, names) or f": it has {', '.join(sorted(names))}"
        raise LitVizError(f"the zoo has no network {name!r}{hint}")


@cache
def zoo_labels(name: str) -> tuple[str, ...]:
    """Return the classes of a network of the zoo, as its card states them."""
    card = json.loads((_CARDS / f"{name}.json").read_text(encoding="utf-8"))
    return tuple(card["labels"])
