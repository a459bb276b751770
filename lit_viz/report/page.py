"""The report of a run: one HTML page without external resources."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lit_viz.errors import printable
from lit_viz.figures.style import notebook_png
from lit_viz.images.listing import arguments_of, has_array_images
from lit_viz.presentations import Presentation, TableRow
from lit_viz.report.groups import Group, build_groups, group_tasks
from lit_viz.report.images import data_uri, image_uri, is_embeddable, printed_width
from lit_viz.report.index import build_index, filters_of
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import RECORDED, REPORT
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import command_line, pluralize, status_summary
from lit_viz.utils.pages import page_environment
from lit_viz.utils.parts import has_instances
from lit_viz.utils.sequences import as_list

#: Number of tasks with a card.
MAX_CARDS = 24
#: Budgets of the embedded images in bytes: total, and share of the run's figures.
TOTAL_BYTES, FIGURE_BYTES = 9_000_000, 4_000_000
MAX_OPEN_GROUPS = 8  # groups whose curves are shown at once
MAX_CONFUSION_ROWS = 12
MAX_ROWS = 5000  # of the table of tasks without a card
MAX_EVIDENCE_ROWS = 100
MAX_RUN_ROWS = 20  # of the table in a notebook
_EVIDENCE_FIGURES = ("evidence.png", "comparison.png", "localization.png", "explained.png")


def write_report(
    folder: FolderStorage, presentation: Presentation, evidence: Evidence, outcomes: Sequence[Outcome] | None = None
) -> Path:
    """Write :data:`REPORT` into the folder of a finished run atomically and return its path.

    Images are data URIs, and the content security policy forbids any other resource. The page stays below 10 MB: some
    :data:`MAX_CARDS` tasks, by photograph, have a card with up to twelve iterations, the others a row of a table, and
    an index shows and filters all. Omitted content is stated where it is omitted.

    Args:
        folder: run folder.
        presentation: of the method.
        evidence: of the run.
        outcomes: of the tasks that the report is about. Default: all.
    """
    outcomes = folder.outcomes() if outcomes is None else outcomes
    config, records = folder.config, records_of(outcomes)
    rows = presentation.rows(records, evidence)
    places, others = _with_cards(records, presentation)
    more: list[TaskRow] = []
    for place in others[:MAX_ROWS]:
        facets = presentation.facets(records[place], evidence)
        more.append(TaskRow(records[place], facets, rows[place]))
    index = build_index(outcomes, presentation, evidence)
    evidence_files = [folder.path / name for name in _EVIDENCE_FIGURES]
    evidence_figures, budget = _figures(evidence_files, FIGURE_BYTES)
    figures, budget = _figures(sorted(folder.path.glob("figure.*")), budget)
    budget += TOTAL_BYTES - FIGURE_BYTES
    for thumbnail in index:
        budget -= len(thumbnail.image)
    groups = build_groups(outcomes, rows, places, presentation, evidence, budget)
    style, script = _resource("report.css"), _resource("report.js")
    page = (
        _environment()
        .get_template("page.html")
        .render(
            policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
            style=Markup(style),
            script=Markup(script),
            title=presentation.heading(records),
            name=folder.path.resolve().name,
            summary=_summary(folder, records),
            evidence=presentation.evidence_items(evidence, records),
            max_evidence_rows=MAX_EVIDENCE_ROWS,
            evidence_figures=evidence_figures,
            index=index,
            filters=filters_of(index),
            max_confusion_rows=MAX_CONFUSION_ROWS,
            confusion=presentation.confusion(records),
            task_count=len(records),
            groups=groups,
            note=presentation.note,
            has_curves=_have_curves(groups),
            more=more,
            more_count=len(others),
            max_rows=MAX_ROWS,
            max_open_groups=MAX_OPEN_GROUPS,
            figures=figures,
            more_figures=sorted(path.name for path in folder.path.glob("figure_*")),
            settings=_settings(config),
            has_array_images=has_array_images(config),
            **_provenance(folder.path, config, presentation),
        )
    )
    path = folder.path / REPORT
    write_text(path, page)
    return path


def _summary(folder: FolderStorage, records: Sequence[Record]) -> str:
    """Return the number of images by status: ``3 images``, or ``100 of 5000 images`` of a part of a run."""
    part, count = folder.part, len(records)
    total = len(folder.records()) if part is None else part.total
    images = pluralize(count, "image") if count == total else f"{count} of {pluralize(total, 'image')}"
    return f"{folder.path} · {images}: {status_summary(record.status for record in records)}"


def _settings(config: Mapping[str, Any]) -> str:
    """Return the network, the parts of the method with their arguments, the iterations and the seed of a run."""
    module = arguments_of(config, "module")
    texts = [str((config.get("network") or {}).get("name") or "")]
    for value in module.values():
        for part in as_list(value):
            if isinstance(part, Mapping) and "class_path" in part:
                texts.append(_part_text(part))
    tasks = arguments_of(config, "tasks")
    values = dict(tasks.get("vary") or {})
    values |= {"iterations": module.get("iterations"), "seed": tasks.get("seed")}
    for name, value in values.items():
        if value is not None:
            texts.append(f"{name} {record_text(value)}")
    return " · ".join(filter(None, texts))


def _part_text(part: Mapping[str, Any]) -> str:
    """Return a part of a method with its arguments that are numbers or texts: ``SmoothGrad (sigma 0.15)``."""
    arguments = part.get("init_args") or {}
    shown = [
        f"{name} {record_text(value)}" for name, value in arguments.items() if isinstance(value, (str, int, float))
    ]
    name = str(part["class_path"]).rpartition(".")[2]
    return f"{name} ({', '.join(shown)})" if shown else name


def _have_curves(groups: Sequence[Group]) -> bool:
    for group in groups:
        if any(card.curves for card in group.cards):
            return True
    return False


def _provenance(path: Path, config: Mapping[str, Any], presentation: Presentation) -> dict[str, Any]:
    """Return method, versions, and the command that repeats the run; there is none if its form lacks an object."""
    recorded, network = config.get(RECORDED) or {}, config.get("network") or {}
    command = str(recorded.get("module"))
    is_complete = all(config.get(section) for section in ("network", "module", "tasks", "run"))
    repeat = ""
    if presentation.command and is_complete and not has_instances(config):
        command = presentation.command
        repeat = command_line(command, config=path / "config.yaml", out="again")
    remark = recorded.get("scores") or ""
    seed = arguments_of(config, "tasks").get("seed")
    versions = {"network": network.get("name"), "weights": network.get("weights"), "seed": seed}
    return {
        "command": command,
        "repeat": repeat,
        "versions": versions | recorded,
        "remark": remark,
    }


def run_html(
    outcomes: Sequence[Outcome], figure: Figure, presentation: Presentation, evidence: Evidence, remark: str = ""
) -> str:
    """Return figure, table, a remark and verdicts of a run as an HTML fragment, which a notebook displays."""
    records = records_of(outcomes)
    png, size = notebook_png(figure)
    return (
        _environment()
        .get_template("run.html")
        .render(
            title=presentation.heading(records),
            summary=status_summary(record.status for record in records),
            figure=data_uri(png, width=2 * size["width"]),
            width=size["width"],
            rows=presentation.rows(records, evidence),
            remark=remark,
            max_run_rows=MAX_RUN_ROWS,
            evidence=presentation.evidence_items(evidence, records),
        )
    )


@dataclass(frozen=True)
class FigureImage:
    """A figure of the run.

    Attributes:
        name: name of the file.
        image: data URI in twice the printed resolution; empty if it does not fit.
        width: printed width in CSS pixels; None without a fixed width.
    """

    name: str
    image: str
    width: int | None


def _figures(paths: Sequence[Path], budget: int) -> tuple[list[FigureImage], int]:
    """Return the existing figures, and the remaining budget in bytes."""
    figures = []
    for path in paths:
        if not path.is_file():
            continue
        width = printed_width(path)
        image = ""
        if is_embeddable(path):
            image = image_uri(path, width and 2 * width)
        if len(image) > budget:
            image = ""
        budget -= len(image)
        figures.append(FigureImage(path.name, image, width))
    return figures, budget


@dataclass(frozen=True)
class TaskRow:
    """A task without a card."""

    record: Record
    facets: Mapping[str, str]
    cells: TableRow


def _with_cards(records: Sequence[Record], presentation: Presentation) -> tuple[list[list[int]], list[int]]:
    """Return the places of the tasks with cards, by photograph, errors of the network first, and of the others."""
    groups: list[list[int]] = []
    others: list[int] = []
    count = 0
    for group in sorted(group_tasks(records), key=lambda group: not presentation.comes_first(records[group[0]])):
        count += len(group)
        if not groups or count <= MAX_CARDS:
            groups.append(group)
        else:
            others += group
    return groups, sorted(others)


def record_text(value: Any) -> str:
    """Return a value of a record as text: floats with four digits, nested values in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {record_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, (list, tuple)) for item in value):
            return "; ".join(" ".join(map(record_text, item)) for item in value)
        return ", ".join(map(record_text, value))
    return str(value)


@cache
def _environment() -> jinja2.Environment:
    environment = page_environment(
        "lit_viz.report",
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # markup is of another type
    )
    environment.filters["record_text"] = record_text
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(text: str) -> Markup:
    """Return a text that browsers may break after underscores."""
    return escape(printable(text)).replace("_", Markup("_<wbr>"))


def _resource(name: str) -> str:
    return resources.files("lit_viz.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression of an inline script or style in a content security policy."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
