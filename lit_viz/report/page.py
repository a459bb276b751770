"""A run as one page that needs nothing else: pictures over their iterations, curves, records and evidence."""

from __future__ import annotations

import hashlib
import shlex
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lit_viz.images.listing import has_array_images
from lit_viz.report.evidence import evidence_section
from lit_viz.report.files import can_hold, data_uri, printed_width
from lit_viz.report.markup import Markup, element
from lit_viz.report.tasks import cards, facts, rest
from lit_viz.runs.reader import RECORDED
from lit_viz.runs.writer import RunFolder
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import pluralize, status_summary

Records = Sequence[Mapping[str, Any]]

#: What the page is called in its run folder.
REPORT = "report.html"
#: Tasks that are shown with their iterations.
CARDS = 24
#: Bytes of pictures in a page, before they are written as text, a third more: all, and those of the run's figures.
ROOM, FIGURES_ROOM = 16_000_000, 6_000_000
_TITLES = {"visualize": "Class images", "saliency": "Saliency maps", "attack": "Adversarial examples"}
_EVIDENCE = ("evidence.png", "localization.png", "explained.png")


def write_report(folder: RunFolder, table: Callable[[Records], Sequence[Mapping[str, str]]]) -> Path:
    """Write :data:`REPORT` into a run folder, whole or not at all; return its path.

    The page asks for nothing outside itself: pictures are data URIs of the files' own bytes, and a content security
    policy forbids the rest. It stays below 25 MB: :data:`CARDS` tasks are shown with up to twelve iterations each, as
    many as there is room for, others in a table; what is left out is said where it is.

    Args:
        folder: of a run that has ended.
        table: gives the row of each record that is printed at the end of a run.

    Raises:
        LitVizError: the disk is full.
    """
    config = folder.config
    recorded = config.get(RECORDED) or {}
    records = folder.records()
    rows = table(records)
    room = _Room(FIGURES_ROOM)
    asked = [_figure(folder.path / name, room) for name in _EVIDENCE]
    drawn = [_figure(path, room) for path in sorted(folder.path.glob("figure.*"))]
    body = element(
        "body",
        _header(folder, recorded, records),
        element(
            "main",
            evidence_section(folder.evidence(), records, *asked),
            cards(folder, records[:CARDS], rows[:CARDS], ROOM - FIGURES_ROOM + room.left),
            rest(folder, records[CARDS:], rows[CARDS:]),
            element("section", element("h2", "Figure"), *drawn, id="figure"),
            _repeat(folder, config, recorded),
        ),
        element("script", Markup(_packaged("report.js"))),
    )
    title = f"{_TITLES.get(recorded.get('method', ''), 'Run')}: {folder.path.resolve().name}"
    path = folder.path / REPORT
    write_text(path, f"<!doctype html>\n{element('html', _head(title), body, lang='en')}\n")
    return path


class _Room:
    """What is left of a number of bytes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, path: Path) -> bool:
        """Take the size of a file, if there is room for it."""
        size = path.stat().st_size
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


def _head(title: str) -> Markup:
    style, script = _packaged("report.css"), _packaged("report.js")
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )


@cache
def _packaged(name: str) -> str:
    return resources.files("lit_viz.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a content security policy knows a script or style by."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _header(folder: RunFolder, recorded: Mapping[str, Any], records: Records) -> Markup:
    method = str(recorded.get("method"))
    places = ["evidence", "images", *(["more"] if len(records) > CARDS else []), "figure", "repeat"]
    links = [element("a", place, href=f"#{place}") for place in places]
    return element(
        "header",
        element("p", f"lit-viz {method}", class_="method"),
        element("h1", "Layer images" if any(r.get("layer") for r in records) else _TITLES.get(method, method)),
        element("p", f"{folder.path} · {pluralize(len(records), 'image')}: {status_summary(records)}"),
        element("nav", *links),
    )


def _figure(path: Path, room: _Room) -> Markup | None:
    """Return a figure of the run; where it is not held in the page, where it lies."""
    if not path.is_file():
        return None
    if not can_hold(path) or not room.take(path):
        return element("p", f"{path.name} lies beside this page.", class_="note")
    width = printed_width(path)
    sized = {} if width is None else {"width": str(width)}
    picture = element("img", src=data_uri(path), alt=f"{path.name} of the run", **sized)
    return element("figure", picture, element("figcaption", path.name), class_="drawn")


def _repeat(folder: RunFolder, config: Mapping[str, Any], recorded: Mapping[str, Any]) -> Markup:
    """Return how to repeat the run, and with what it was made."""
    held = shlex.quote(str(folder.path / "config.yaml"))
    command = f"lit-viz {recorded.get('method')} --config {held} --out again"
    notes = ["From the folder in which it was begun; config.yaml holds every option."]
    if has_array_images(config):
        notes.append("Its photographs were handed over from Python, and must be again.")
    network = config.get("classifier") or {}
    with_ = {"classifier": network.get("name"), "weights": network.get("weights"), "seed": config.get("seed")}
    return element(
        "section",
        element("h2", "Repeat it"),
        element("pre", element("code", command)),
        element("p", " ".join(notes), class_="note"),
        facts({**with_, **recorded}),
        id="repeat",
    )
