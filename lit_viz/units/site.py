"""The pages of a microscope: static files that open without a server and request nothing from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from lit_viz.units.comparison import LayerDifference
from lit_viz.units.pages import UnitPage
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import pluralize
from lit_viz.utils.pages import page_environment

_PAIRS = "pairs"  # folder of the pages of two networks


def write_site(
    folder: Path, network: str, subtitle: str, pages: Sequence[UnitPage], *, compared: str = "", other: str = ""
) -> Path:
    """Write index, data and pages of all units, and return the index.

    The index lists the units from a script file: a page that is opened from the disk can't fetch data.

    Args:
        folder: of the site.
        network: its name.
        subtitle: below the heading.
        pages: of the units.
        compared: folder of ``compare.html``, relative to this one; empty without a comparison.
        other: name of the other network of the comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("microscope.css", "cards.js", "index.js", "unit.js"):
        write_text(folder / name, _resource(name))
    rows = []
    layers: dict[str, None] = {}  # in order of appearance
    flagged = 0
    for page in pages:
        rows.append(_index_row(page))
        layers[page.layer] = None
        flagged += bool(page.remark)
    write_text(folder / "data.js", _script("UNITS", rows))
    index = folder / "index.html"
    shared = {"title": f"Microscope of {network}", "compared": compared, "other": other}
    write_text(index, _render("index.html", subtitle=subtitle, layers=list(layers), flagged=flagged, **shared))
    (folder / "units").mkdir(exist_ok=True)
    for place, page in enumerate(pages):
        neighbors = _neighbors(pages, place)
        write_text(folder / "units" / page.page, _render("unit.html", unit=page, **neighbors, **shared))
    return index


def write_comparison(
    folder: Path,
    networks: tuple[str, str],
    other_folder: str,
    pages: Sequence[UnitPage],
    other_pages: Sequence[UnitPage],
    differences: Mapping[str, LayerDifference],
) -> Path:
    """Write the ranking of the units that differ between two networks, and a page of each in both.

    Args:
        folder: site of the first network.
        networks: names of both.
        other_folder: site of the second network, relative to that of the first.
        pages, other_pages: of the units.
        differences: of the units by layer.
    """
    title = f"{networks[0]} compared with {networks[1]}"
    others = {(page.layer, page.unit): page for page in other_pages}
    common = [page for page in pages if (page.layer, page.unit) in others]
    rows = []
    (folder / _PAIRS).mkdir(exist_ok=True)
    for place, page in enumerate(common):
        other = others[page.layer, page.unit]
        difference = differences[page.layer]
        figures = {
            "photographs": _rounded(difference.photographs[page.unit]),
            "activations": _rounded(difference.activations[page.unit]),
        }
        thumbnails = [page.thumbnail, f"{other_folder}/{other.thumbnail}"]
        rows.append([page.layer, page.unit, f"{_PAIRS}/{page.page}", *thumbnails, *figures.values()])
        sides = [(networks[0], page, ".."), (networks[1], other, f"../{other_folder}")]
        text = _render("pair.html", title=title, unit=page, sides=sides, **figures, **_neighbors(common, place))
        write_text(folder / _PAIRS / page.page, text)
    write_text(folder / "compare.js", _resource("compare.js"))
    write_text(folder / "compare_data.js", _script("PAIRS", rows))
    path = folder / "compare.html"
    write_text(path, _render("compare.html", title=title, networks=networks, count=pluralize(len(rows), "unit")))
    return path


def _index_row(page: UnitPage) -> list[Any]:
    """Return layer, unit, page, thumbnail, the names of the classes, which the search reads, and the remark."""
    names = [name for name, _ in page.raised]
    return [page.layer, page.unit, f"units/{page.page}", page.thumbnail, names, page.remark]


def _neighbors(pages: Sequence[UnitPage], place: int) -> dict[str, str]:
    """Return the files of the units before and after one, or an empty name."""
    before = after = ""
    if place > 0:
        before = pages[place - 1].page
    if place + 1 < len(pages):
        after = pages[place + 1].page
    return {"before": before, "after": after}


def _rounded(value: float) -> float | None:
    """Return a figure with three digits; None for NaN, which JSON lacks."""
    return None if math.isnan(value) else round(float(value), 3)


def _script(name: str, rows: list[Any]) -> str:
    """Return a script that defines a constant; a page that is opened from the disk can't fetch JSON."""
    return f"const {name} = {json.dumps(rows, separators=(',', ':'))};\n"


def _resource(name: str) -> str:
    return resources.files("lit_viz.units").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    return page_environment("lit_viz.units")
