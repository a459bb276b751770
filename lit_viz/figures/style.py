"""The look that all figures share: one sans-serif family, thin grey axes, no boxes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_viz.errors import LitVizError
from lit_viz.files import replacing

INK = "#1a1a1a"
GREY = "#6b6b6b"
RULE = "#c9c9c9"
# Okabe and Ito: told apart also by the colour-blind, black left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 8.0,
    "text.parse_math": False,  # a dollar in a class name is a dollar
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text stays text in a paper's PDF
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the shared look; the user's own matplotlib settings are as before afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def picture_axes(axes: Axes) -> None:
    """Leave of the axes the picture alone."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def save_figure(figure: Figure, path: str | Path, dpi: float | None = None) -> Path:
    """Write a figure by the suffix of ``path`` (.png, .pdf, .svg), whole or not at all; return the path.

    Raises:
        LitVizError: the suffix is none of these, or the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise LitVizError(
            f"a figure can be written as .png, .pdf or .svg, not as {path.suffix or 'a file without suffix'}: {path}"
        )
    with style(), replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi or figure.dpi, facecolor="white")
    return path


def probability_text(probability: float) -> str:
    """Return ``p = 0.93``, or ``p < 0.01`` for what would read as nothing."""
    return "p < 0.01" if 0 <= probability < 0.005 else f"p = {probability:.2f}"
