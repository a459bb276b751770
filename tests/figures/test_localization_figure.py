import numpy as np
import pytest
from matplotlib.colors import to_hex

from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.localization.objects import SEEDS
from lit_viz.utils.limits import MOST_ROWS
from tests.support.figures import localization, localized, without_a_box

BLUE, ORANGE, GREEN = COLORS[:3]


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_row_of_photograph_map_seeds_mask_and_boxes(figures):
    found = localized()
    figure = localization([found])
    photograph, values, seeds, mask, boxes = figure.axes
    original = pixels(found.photograph.pixels)
    assert np.array_equal(shown(photograph), original)
    assert np.array_equal(shown(boxes), original)
    assert np.array_equal(shown(values), pixels(heat(found.values, clip_limits([found.values])[0])))
    colors = [to_hex(shown(seeds)[place] / 255) for place in ((2, 3), (0, 0))]
    assert colors == [ORANGE.lower(), BLUE.lower()]
    assert np.array_equal(shown(mask)[found.segment.mask], original[found.segment.mask])
    outside = ~found.segment.mask & (found.segment.seeds == 0)
    assert np.array_equal(shown(mask)[outside], shown(seeds)[outside])  # both are gray there, and darker
    assert (shown(mask)[outside].max(1) == shown(mask)[outside].min(1)).all()
    assert (shown(mask)[outside].mean(1) <= original[outside].mean(1) / 2).all()
    assert {"photograph", "map", "seeds", "mask", "box", "class 0", "IoU 0.50"} <= set(figures.texts(figure))


def outer_edge(rectangle):
    """Return the area of a box with its line, in pixels of the image."""
    (scale, *_), *_ = rectangle.axes.transData.get_matrix()
    half = rectangle.get_linewidth() / 2 * rectangle.get_figure().dpi / 72 / scale
    return rectangle.get_bbox().padded(half).extents


def test_many_localized_maps_are_arranged_in_two_columns(figures):
    figure = localization([localized(seed) for seed in range(7)])
    places = [figure.axes[5 * n].get_position() for n in range(7)]
    assert len({round(place.x0, 6) for place in places[:4]}) == 1
    assert len({round(place.x0, 6) for place in places[4:]}) == 1
    assert places[4].x0 > figure.axes[4].get_position().x1
    assert places[4].y1 == pytest.approx(places[0].y1)
    assert figures.texts(figure).count("photograph") == 2


def test_boxes_enclose_their_pixels():
    *others, boxes = localization([localized()]).axes
    assert not any(axes.patches for axes in others)
    found, true = boxes.patches
    assert outer_edge(found) == pytest.approx([2.5, 1.5, 8.5, 4.5])  # pixel 3 is drawn from 2.5 on
    assert outer_edge(true) == pytest.approx([2.5, 1.5, 14.5, 4.5])
    assert to_hex(found.get_edgecolor()) == ORANGE.lower()
    assert to_hex(true.get_edgecolor()) == GREEN.lower()
    assert true.get_linestyle() == "--"
    assert found.get_linestyle() == "-"


def test_failure_reason_replaces_the_box(figures):
    both = localization([localized(), without_a_box()])
    lefts = [axes.get_position().x0 for axes in both.axes]
    assert len(both.axes) == 5 + 3
    assert lefts[7] == pytest.approx(lefts[4])
    assert not both.axes[7].patches
    assert "the map is constant" in figures.texts(both)


def test_caption_describes_seeds_boxes_and_count(figures):
    written = " ".join(figures.texts(localization([localized()])))
    assert f"{100 * SEEDS.foreground:g} % quantile" in written
    assert f"{100 * SEEDS.background:g} % quantile" in written
    assert "dashed in green" in written
    assert "dashed" not in " ".join(figures.texts(localization([without_a_box()])))
    many = localization([localized()] * (MOST_ROWS + 3))
    assert len(many.axes) == 5 * MOST_ROWS
    assert f"{MOST_ROWS} of {MOST_ROWS + 3} maps." in " ".join(figures.texts(many))
    assert localization([]) is None


def test_each_pixel_of_a_localized_map_is_a_block(tmp_path, figures):
    figure = localization([localized(), without_a_box(), localized(1)])
    unannotated = [axes for axes in figure.axes if not axes.patches]
    figures.assert_pixels_are_blocks(figure, unannotated, tmp_path / "localization.png")
