"""The report of a run: one HTML page without external resources."""

from __future__ import annotations

import hashlib
import shlex
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from lit_viz.classifiers.outputs import MULTI_LABEL_CAPTION
from lit_viz.errors import printable
from lit_viz.figures.style import notebook_png
from lit_viz.images.listing import has_array_images
from lit_viz.methods.records import SaliencyRecord
from lit_viz.presentations import Presentation
from lit_viz.report.cards import build_cards, data_uri, image_uri, is_embeddable, printed_width
from lit_viz.report.evidence import EvidenceItem, evidence_items
from lit_viz.runs import RECORDED
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import pluralize, status_summary

Rows = Sequence[Mapping[str, str]]

#: File name of the report in its run folder.
REPORT = "report.html"
#: Number of tasks with a card.
MAX_CARDS = 24
#: Budgets of the embedded images in bytes: total, and share of the run's figures.
TOTAL_BYTES, FIGURE_BYTES = 9_000_000, 4_000_000
MAX_THUMBNAILS, MAX_ROWS = 200, 5000  # of the table of tasks without a card
MAX_EVIDENCE_ROWS = 100
MAX_RUN_ROWS = 20  # of the table in a notebook
_THUMBNAIL = 96  # pixels
_EVIDENCE_FIGURES = ("evidence.png", "localization.png", "explained.png")


def write_report(folder: RunFolder, presentation: Presentation) -> Path:
    """Write :data:`REPORT` into the folder of a finished run atomically and return its path.

    Images are data URIs, and the content security policy forbids any other resource. The page stays below 10 MB: the
    first :data:`MAX_CARDS` tasks have a card with up to twelve iterations, the others a row of a table. Omitted content
    is stated where it is omitted.
    """
    config, records = folder.config, folder.records()
    recorded = config.get(RECORDED) or {}
    command, network = str(recorded.get("method") or recorded.get("module")), config.get("classifier") or {}
    rows = presentation.table(records)
    evidence_files = [folder.path / name for name in _EVIDENCE_FIGURES]
    evidence_figures, budget = _figures(evidence_files, FIGURE_BYTES)
    figures, budget = _figures(sorted(folder.path.glob("figure.*")), budget)
    style, script = _resource("report.css"), _resource("report.js")
    page = (
        _environment()
        .get_template("page.html")
        .render(
            policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
            style=Markup(style),
            script=Markup(script),
            command=command,
            title=presentation.heading(records),
            name=folder.path.resolve().name,
            summary=f"{folder.path} · {pluralize(len(records), 'image')}: {status_summary(records)}",
            remark=MULTI_LABEL_CAPTION if recorded.get("multi_label") else "",
            evidence=evidence_items(folder.evidence(), records),
            max_evidence_rows=MAX_EVIDENCE_ROWS,
            evidence_figures=evidence_figures,
            cards=build_cards(
                folder, records[:MAX_CARDS], rows[:MAX_CARDS], presentation, TOTAL_BYTES - FIGURE_BYTES + budget
            ),
            more=_table(folder, records[MAX_CARDS:], rows[MAX_CARDS:]),
            more_count=len(records) - MAX_CARDS,
            max_thumbnails=MAX_THUMBNAILS,
            max_rows=MAX_ROWS,
            figures=figures,
            repeat=f"lit-viz {command} --config {shlex.quote(str(folder.path / 'config.yaml'))} --out again"
            if "method" in recorded  # otherwise of a plain Trainer
            else "",
            has_array_images=has_array_images(config),
            versions={
                "classifier": network.get("name"),
                "weights": network.get("weights"),
                "seed": config.get("seed"),
                **recorded,
            },
        )
    )
    path = folder.path / REPORT
    write_text(path, page)
    return path


def run_html(
    outcomes: Sequence[Outcome], figure: Figure, presentation: Presentation, evidence: Evidence | None, remark: str = ""
) -> str:
    """Return figure, table, a remark and verdicts of a run as an HTML fragment, which a notebook displays.

    Without evidence, the verdicts are those in the records of saliency maps.
    """
    records = [outcome.record for outcome in outcomes]
    png, size = notebook_png(figure)
    if evidence is None:
        verdicts = [(record.captum or {}).get("passed") for record in records_of(outcomes, SaliencyRecord)]
        checked = [bool(passed) for passed in verdicts if passed is not None]
        text = f"{sum(checked)} of {len(checked)} compared maps agree with Captum."
        items = [EvidenceItem(text, all(checked)) if checked else EvidenceItem("No map was compared with Captum.")]
    else:
        items = evidence_items(evidence, records)
    return (
        _environment()
        .get_template("run.html")
        .render(
            title=presentation.heading(records),
            summary=status_summary(records),
            figure=data_uri(png, width=2 * size["width"]),
            width=size["width"],
            rows=presentation.table(records),
            remark=remark,
            max_run_rows=MAX_RUN_ROWS,
            evidence=items,
        )
    )


def _figures(paths: Sequence[Path], budget: int) -> tuple[list[tuple[str, str, int | None]], int]:
    """Return name, data URI in twice the printed resolution (empty above the budget) and width in CSS pixels of the
    existing figures, and the remaining budget in bytes."""
    figures = []
    for path in filter(Path.is_file, paths):
        width = printed_width(path)
        image = image_uri(path, width and 2 * width) if is_embeddable(path) else ""
        image = image if len(image) <= budget else ""
        budget -= len(image)
        figures.append((path.name, image, width))
    return figures, budget


def _table(folder: RunFolder, records: Sequence[Record], rows: Rows) -> list[dict[str, Any]]:
    """Return the rows of the tasks without a card."""
    files = [folder.path / (record.file or "") for record in records[:MAX_THUMBNAILS]]
    images = chain((image_uri(file, _THUMBNAIL) if is_embeddable(file) else "" for file in files), repeat(""))
    return [
        {"index": record.index, "name": record.name, "image": image, "cells": row}
        for record, row, image in zip(records[:MAX_ROWS], rows, images, strict=False)
    ]


def format_value(value: Any) -> str:
    """Return a value of a record as text: floats with four digits, nested values in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_value(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, (list, tuple)) for item in value):
            return "; ".join(" ".join(map(format_value, item)) for item in value)
        return ", ".join(map(format_value, value))
    return str(value)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lit_viz.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # markup is of another type
    )
    environment.filters["format_value"] = format_value
    return environment


def _resource(name: str) -> str:
    return resources.files("lit_viz.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression of an inline script or style in a content security policy."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
