"""Many pictures on one sheet, each with what is known of it beneath."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from lit_viz.figures.style import GREY, INK, fitted, shown, style, write
from lit_viz.figures.tiles import WIDE, grid_shape, pixels
from lit_viz.types import Picture

_MARGIN = 0.15
_GAP = 0.12
_GAP_OF_GROUPS = 0.3  # wider than the gaps inside of them
_LINE = 0.14
_SIZE = 7.5


def contact_sheet(
    images: Sequence[Picture],
    titles: Sequence[str],
    columns: int | None = None,
    width: float = 1.4,
    limit: int = 200,
    heading: str = "",
) -> Figure:
    """Draw pictures in rows.

    Args:
        images: ``(C, H, W)`` in [0, 1] or files; their shapes may differ.
        titles: what stands beneath each: the first line in ink (the class), further lines in grey (``p = 0.93``, what
            the judges say). Lines that are too long are cut.
        columns: pictures a row; nearly square, at most ten, if not given.
        width: of a picture in inches.
        limit: at most so many are drawn; how many there are is said at the foot.
        heading: what stands above all.

    Returns:
        a figure at which no pixel of a picture is lost; save it by :func:`lit_viz.figures.style.save_figure`.
    """
    drawn = [pixels(image) for image in images[:limit]]
    rows, columns = grid_shape(len(drawn), columns or min(grid_shape(len(drawn))[1], 10))
    lines = [_lines(title, width) for title in titles[: len(drawn)]]
    high = max((width * picture.shape[0] / picture.shape[1] for picture in drawn), default=width)
    step = high + 0.06 + _LINE * max((len(below) for below in lines), default=0) + _GAP
    foot = f"{len(drawn)} of {len(images)}" if len(images) > len(drawn) else ""
    head = 0.3 if heading else 0.0
    across = _GAP_OF_GROUPS if any(picture.shape[1] > WIDE * picture.shape[0] for picture in drawn) else _GAP
    wide = 2 * _MARGIN + columns * (width + across) - across
    with style():
        figure = Figure(
            figsize=(wide, 2 * _MARGIN + head + rows * step - _GAP + (0.25 if foot else 0)),
            dpi=sharp_dpi(drawn, width),
        )
        if heading:
            write(
                figure, fitted(heading, wide - 2 * _MARGIN, 10, weight="bold"), _MARGIN, _MARGIN, size=10, weight="bold"
            )
        for place, (picture, below) in enumerate(zip(drawn, lines, strict=True)):
            left = _MARGIN + place % columns * (width + across)
            top = _MARGIN + head + place // columns * step
            shown(figure, picture, left, top, width)
            for row, line in enumerate(below):
                colour, size = (GREY, _SIZE - 0.5) if row else (INK, _SIZE)
                write(figure, line, left, top + high + 0.06 + row * _LINE, color=colour, size=size)
        if foot:
            write(figure, foot, _MARGIN, _MARGIN + head + rows * step, color=GREY, size=_SIZE - 0.5)
    return figure


def sharp_dpi(pictures: Sequence[object], width: float) -> float:
    """Return the resolution at which a picture ``width`` inches wide has each pixel a whole number of times."""
    widest = max((picture.shape[1] for picture in pictures), default=224)  # type: ignore[attr-defined]
    # About 450 dots a picture look sharp in print, and on a screen of twice the density.
    times = max(1, round(450 / widest)) if len(pictures) <= 60 else 1
    return float(times * widest / width)


def _lines(title: str, width: float) -> list[str]:
    with style():
        return [fitted(line, width, _SIZE) for line in title.split("\n")]
