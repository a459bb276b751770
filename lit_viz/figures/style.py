"""The look that all figures share: one sans-serif family, thin grey axes, no boxes."""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from lit_viz.errors import LitVizError
from lit_viz.utils.files import atomic_write

INK = "#1a1a1a"
GREY = "#6b6b6b"
RULE = "#c9c9c9"
_FRAME = 0.5  # points that the frame of a white picture is wide
_WHITE = 250  # from this level on a colour is taken for the page's
# Okabe and Ito: told apart also by the colour-blind, black left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

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
    "svg.fonttype": "path",  # who looks at it may not have the font
}


#: Fonts with the signs of Chinese, Japanese and Korean, by how common they are; what the shared one lacks is written in
#: the first of these that is installed.
_EAST_ASIAN = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans",
    "Hiragino Sans GB",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
)


@contextmanager
def style() -> Iterator[None]:
    """Draw in the shared look; the user's own matplotlib settings are as before afterwards.

    A sign that no font here has is an empty box, which tells as much as a warning would.
    """
    with mpl.rc_context(), _without_remarks_on_fonts():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        installed = {font.name for font in fontManager.ttflist}  # matplotlib would complain of others
        mpl.rcParams["font.family"] = ["sans-serif", *(name for name in _EAST_ASIAN if name in installed)]
        yield


@contextmanager
def _without_remarks_on_fonts() -> Iterator[None]:
    """Leave out what matplotlib says of a sign that no font has, and of a font that is never bold."""
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
            yield
    finally:
        logger.setLevel(before)


def shown(figure: Figure, picture: NDArray[np.uint8], left: float, top: float, width: float) -> None:
    """Put a picture on a figure at a place in inches from the left and the top; its shape is kept.

    Not interpolated: a pixel of the network is a pixel of the figure, also in PDF and SVG. Unframed, but where it would
    be a hole in the page: a thin line is around one whose border is white.
    """
    height = width * picture.shape[0] / picture.shape[1]
    axes = axes_at(figure, left, top, width, height)
    axes.imshow(picture, interpolation="none", aspect="auto")
    axes.set_axis_off()
    if _ends_in_white(picture):
        beside = (_FRAME / 72 + 1 / figure.dpi) / 2  # the line, drawn at whole dots, covers no pixel
        wide, high = figure.get_size_inches()
        corner = ((left - beside) / wide, 1 - (top + height + beside) / high)
        size = ((width + 2 * beside) / wide, (height + 2 * beside) / high)
        line = Rectangle(corner, *size, fill=False, edgecolor=RULE, linewidth=_FRAME, transform=figure.transFigure)
        figure.add_artist(line)


def _ends_in_white(picture: NDArray[np.uint8]) -> bool:
    """Return whether more than half of a picture's outermost pixels are white, or nearly."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    return bool((border.min(-1) >= _WHITE).mean() > 0.5)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return new axes at a place in inches, measured from the left and the *top* of the figure."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def write(figure: Figure, text: str, left: float, top: float, **how: Any) -> None:
    """Write text whose upper left corner lies at a place in inches from the left and the top."""
    wide, high = figure.get_size_inches()
    figure.text(left / wide, 1 - top / high, text, **{"ha": "left", "va": "top", **how})


def inches(text: str, size: float, **font: Any) -> float:
    """Return how wide a line of text is."""
    properties = FontProperties(size=size, **font)
    return float(text_to_path.get_text_width_height_descent(text, properties, ismath=False)[0]) / 72 if text else 0.0


def fitted(text: str, width: float, size: float, lines: int = 1, **font: Any) -> str:
    """Return ``text`` broken at words into at most so many lines of a width, and cut with an ellipsis if that won't do.

    Args:
        text: what is written.
        width: inches that a line may take.
        size: of the font in points.
        lines: how many at most.
        **font: other properties of the font, such as ``weight``.
    """

    def fits(line: str) -> bool:
        return inches(line, size, **font) <= width

    written: list[str] = []
    rest = text
    while rest and len(written) < lines:
        line = _longest(rest, fits, whole_words=len(written) < lines - 1)
        written.append(line)
        rest = rest[len(line.removesuffix("…")) :].lstrip() if not line.endswith("…") else ""
    return "\n".join(written)


def _longest(text: str, fits: Callable[[str], bool], whole_words: bool) -> str:
    if fits(text):
        return text
    words = text.split(" ")
    count = bisect_left(range(1, len(words)), True, key=lambda n: not fits(" ".join(words[:n]))) if whole_words else 0
    if count:
        return " ".join(words[:count])
    cut = bisect_left(range(1, len(text)), True, key=lambda n: not fits(text[:n].rstrip() + "…"))
    return text[:cut].rstrip() + "…"


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
    with style(), atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi or figure.dpi, facecolor="white")
    return path


def shown_in_notebooks(figure: Figure) -> Figure:
    """Return the figure with a PNG representation, since notebooks display only figures that pyplot keeps."""
    figure._repr_png_ = partial(notebook_png, figure)  # type: ignore[attr-defined]
    return figure


def notebook_png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Return a figure as a PNG, and the width in which a notebook shows it, in its pixels of 1/96 inch."""
    written = BytesIO()
    with style():
        figure.savefig(written, format="png", dpi=figure.dpi, facecolor="white")
    return written.getvalue(), {"width": round(96 * float(figure.get_figwidth()))}


def probability_text(probability: float) -> str:
    """Return ``p = 0.93``, or ``no p`` for what is no number.

    ``p < 0.01`` for what would read as nothing, ``p > 0.99`` for what would as certain, as 1 does, to which float32
    rounds.
    """
    if math.isnan(probability):
        return "no p"
    if 0 <= probability < 0.005:
        return "p < 0.01"
    return "p > 0.99" if probability >= 0.995 else f"p = {probability:.2f}"
