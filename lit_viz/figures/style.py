"""Colors, sizes, matplotlib style and file output of all figures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from lit_viz.errors import LitVizError
from lit_viz.utils.files import atomic_write

INK = "#1a1a1a"
GRAY = "#6b6b6b"
RULE = "#c9c9c9"
# Okabe and Ito's palette without black, distinguishable with color vision deficiency.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

TINY, SMALL, NORMAL, TITLE, HEADING = 6.0, 7.0, 7.5, 8.0, 10.0  # font sizes in points
CELL, SMALL_CELL = 1.4, 1.15  # widths of images in inches
HEAD = 1.3  # width of the text on the left of a row in inches
GAP = 0.1
GROUP_GAP = 0.3  # between groups of images, which have gaps inside
#: Images of a larger aspect ratio (width / height) are groups of images.
WIDE = 1.8

# The first installed font is used, the others for its missing glyphs: Chinese, Japanese and Korean ones at the end.
_FONTS = (
    "Inter",
    "Helvetica Neue",
    "Helvetica",
    "Arial",
    "Liberation Sans",
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
)
_INSTALLED = {font.name for font in fontManager.ttflist}
FAMILIES = [name for name in _FONTS if name in _INSTALLED]  # others cause warnings
_STYLE: dict[Any, Any] = {
    "font.family": FAMILIES,
    "font.size": 8.0,
    "text.parse_math": False,  # class names may contain a dollar sign
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": GRAY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text in a PDF remains text
    "svg.fonttype": "path",  # independent of the fonts of the reader
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the style of all figures to matplotlib within the block; a missing glyph is drawn as a box, silently."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically in the format of the suffix (.png, .pdf, .svg) and return the path.

    Raises:
        LitVizError: unsupported suffix, or full disk.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise LitVizError(f"figure file must end in .png, .pdf or .svg, got {path}")
    with style(), atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=figure.dpi, facecolor="white")
    return path


def with_notebook_png(figure: Figure) -> Figure:
    """Add a PNG representation to a figure and return it; notebooks display only figures managed by pyplot."""
    figure._repr_png_ = partial(notebook_png, figure)  # type: ignore[attr-defined]
    return figure


def notebook_png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Encode a figure as PNG, with its display width in CSS pixels (1/96 inch)."""
    buffer = BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor="white")
    return buffer.getvalue(), {"width": round(96 * float(figure.get_figwidth()))}
