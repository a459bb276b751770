"""Presentations of outcomes, one method per file: tables, captions, figures and texts of the evidence."""

from lit_viz.presentations.base import (
    FigureFormat,
    FigureOptions,
    Presentation,
    Rows,
    presentation_of,
    recorded_method,
    stored_method,
)
from lit_viz.presentations.items import EvidenceItem
from lit_viz.presentations.tables import TableRow, format_value, median_of

__all__ = [
    "EvidenceItem",
    "FigureFormat",
    "FigureOptions",
    "Presentation",
    "Rows",
    "TableRow",
    "format_value",
    "median_of",
    "presentation_of",
    "recorded_method",
    "stored_method",
]
