"""The pages of a microscope: static files that open without a server and request nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_viz.evidence.naturalness import Naturalness
from lit_viz.utils.files import write_text

_THUMBNAIL = 72  # pixels
_BINS = 40


@dataclass(frozen=True)
class Crop:
    """A photograph that activates a unit.

    Attributes:
        file: its part in the receptive field, relative to the site.
        name: of the photograph.
        activation: mean of the unit over positions.
    """

    file: str
    name: str
    activation: float


@dataclass(frozen=True)
class UnitPage:
    """What the page of a unit shows.

    Attributes:
        layer, unit: name of the layer and index of the channel.
        image, thumbnail: files of the synthetic image, relative to the site.
        synthetic: activation of the synthetic image.
        activations: ``(P,)`` of the photographs.
        crops: the photographs that activate it most, in descending order.
        raised, lowered: class names with the change of the logit.
        naturalness: how the synthetic image passes through the layers up to this one, compared with its photographs.
    """

    layer: str
    unit: int
    image: str
    thumbnail: str
    synthetic: float
    activations: NDArray[np.float32]
    crops: Sequence[Crop]
    raised: Sequence[tuple[str, float]]
    lowered: Sequence[tuple[str, float]]
    naturalness: Sequence[Naturalness] = ()

    @property
    def page(self) -> str:
        """File of the page in the folder ``units``."""
        return f"{self.layer}_{self.unit}.html"

    @property
    def ratio(self) -> float | None:
        """Activation of the synthetic image relative to the largest of a photograph; None unless that is positive."""
        largest = float(self.activations.max())
        return self.synthetic / largest if largest > 0 else None


def write_site(folder: Path, title: str, subtitle: str, pages: Sequence[UnitPage]) -> Path:
    """Write index, data and pages of all units, and return the index.

    The index lists the units from a script file: a page that is opened from the disk can't fetch data.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lit_viz.units"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("microscope.css", "microscope.js"):
        source = resources.files("lit_viz.units").joinpath("templates").joinpath(name)
        write_text(folder / name, source.read_text(encoding="utf-8"))
    rows = [_index_row(page) for page in pages]
    write_text(folder / "data.js", f"const UNITS = {json.dumps(rows, separators=(',', ':'))};\n")
    index = folder / "index.html"
    layers = list(dict.fromkeys(page.layer for page in pages))
    write_text(index, environment.get_template("index.html").render(title=title, subtitle=subtitle, layers=layers))
    template = environment.get_template("unit.html")
    (folder / "units").mkdir(exist_ok=True)
    for place, page in enumerate(pages):
        before = pages[place - 1].page if place else ""
        after = pages[place + 1].page if place + 1 < len(pages) else ""
        text = template.render(title=title, unit=page, before=before, after=after, histogram=_histogram(page))
        write_text(folder / "units" / page.page, text)
    return index


def _index_row(page: UnitPage) -> list[Any]:
    """Return layer, unit, page, thumbnail and the names of the classes, which the search reads."""
    names = [name for name, _ in page.raised[:5]]
    return [page.layer, page.unit, f"units/{page.page}", page.thumbnail, names]


def _histogram(page: UnitPage) -> dict[str, Any]:
    """Return bars of the activations and the position of the synthetic image, in percent of the width and height."""
    low = float(min(page.activations.min(), page.synthetic, 0.0))
    high = float(max(page.activations.max(), page.synthetic))
    extent = max(high - low, 1e-12)
    counts, _ = np.histogram(page.activations, bins=_BINS, range=(low, low + extent))
    heights = (100 * np.sqrt(counts / max(int(counts.max()), 1))).round(1).tolist()
    return {
        "bars": heights,
        "low": low,
        "high": high,
        "synthetic": round(100 * (page.synthetic - low) / extent, 1),
        "largest": round(100 * (float(page.activations.max()) - low) / extent, 1),
    }


def save_thumbnail(source: Path, target: Path) -> None:
    """Write a small copy of an image."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        small = image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        small.save(target, quality=85)
