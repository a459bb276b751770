from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from lit_viz.figures.evidence import MOST, LocalizationPanel, localization_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS
from lit_viz.images.rendering import clip_limits, heat
from tests.figures.helpers import LONG, assert_no_overlap, assert_pixels_are_blocks, texts

ORANGE, BLUE, GREEN = COLORS[1], COLORS[0], COLORS[2]


def panel(seed=0, size=(12, 16), **more):
    generator = torch.Generator().manual_seed(seed)
    seeds, mask = np.zeros(size, np.int8), np.zeros(size, bool)
    seeds[2, 3], seeds[0, 0], mask[2:5, 3:9] = 1, -1, True
    known = {"subtitle": "gradient", "notes": ["IoU 0.50"], "truth": [(3.0, 2.0, 15.0, 5.0)], **more}
    return LocalizationPanel(
        f"class {seed}",
        torch.rand(3, *size, generator=generator),
        torch.randn(size, generator=generator).abs(),
        seeds,
        mask,
        (3, 2, 9, 5),
        **known,
    )


def without_a_box(**more):
    return replace(panel(), seeds=None, mask=None, box=None, truth=(), notes=["the map is constant"], **more)


def draw(panels, **more):
    return localization_figure(panels, 0.95, 0.3, **more)


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_row_of_photograph_map_seeds_mask_and_boxes():
    of = panel()
    figure = draw([of])
    photograph, values, seeds, mask, boxes = figure.axes
    original = pixels(of.photograph)
    assert np.array_equal(shown(photograph), original)
    assert np.array_equal(shown(boxes), original)
    assert np.array_equal(shown(values), pixels(heat(of.values, clip_limits([of.values], 0.995)[0])))
    colors = [to_hex(shown(seeds)[place] / 255) for place in ((2, 3), (0, 0))]
    assert colors == [ORANGE.lower(), BLUE.lower()]
    assert np.array_equal(shown(mask)[of.mask], original[of.mask])
    outside = ~of.mask & (of.seeds == 0)
    assert np.array_equal(shown(mask)[outside], shown(seeds)[outside])  # both are grey there, and darker
    assert (shown(mask)[outside].max(1) == shown(mask)[outside].min(1)).all()
    assert (shown(mask)[outside].mean(1) <= original[outside].mean(1) / 2).all()
    assert {"photograph", "map", "seeds", "mask", "box", "class 0", "gradient", "IoU 0.50"} <= set(texts(figure))


def outer_edge(rectangle):
    """Return what a box's line encloses, itself included, in pixels of the picture."""
    (scale, *_), *_ = rectangle.axes.transData.get_matrix()
    half = rectangle.get_linewidth() / 2 * rectangle.get_figure().dpi / 72 / scale
    return rectangle.get_bbox().padded(half).extents


def test_many_maps_are_arranged_in_two_columns():
    figure = draw([panel(seed) for seed in range(7)])
    places = [figure.axes[5 * n].get_position() for n in range(7)]
    assert len({round(place.x0, 6) for place in places[:4]}) == 1
    assert len({round(place.x0, 6) for place in places[4:]}) == 1
    assert places[4].x0 > figure.axes[4].get_position().x1
    assert places[4].y1 == pytest.approx(places[0].y1)
    assert texts(figure).count("photograph") == 2


def test_boxes_enclose_their_pixels():
    *others, boxes = draw([panel()]).axes
    assert not any(axes.patches for axes in others)
    found, true = boxes.patches
    assert outer_edge(found) == pytest.approx([2.5, 1.5, 8.5, 4.5])  # pixel 3 is drawn from 2.5 on
    assert outer_edge(true) == pytest.approx([2.5, 1.5, 14.5, 4.5])
    assert to_hex(found.get_edgecolor()) == ORANGE.lower()
    assert to_hex(true.get_edgecolor()) == GREEN.lower()
    assert true.get_linestyle() == "--"
    assert found.get_linestyle() == "-"


def test_failure_reason_replaces_the_box():
    both = draw([panel(), without_a_box()])
    lefts = [axes.get_position().x0 for axes in both.axes]
    assert len(both.axes) == 5 + 3
    assert lefts[7] == pytest.approx(lefts[4])
    assert not both.axes[7].patches
    assert "the map is constant" in texts(both)


def test_caption_describes_seeds_boxes_and_count():
    said = " ".join(texts(draw([panel()])))
    assert "95 % quantile" in said
    assert "30 % quantile" in said
    assert "dashed in green" in said
    assert "dashed" not in " ".join(texts(draw([without_a_box()])))
    many = draw([panel()] * (MOST + 3), total=99)
    assert len(many.axes) == 5 * MOST
    assert f"{MOST} of 99 maps." in " ".join(texts(many))


def test_no_overlap_and_each_pixel_is_a_block(tmp_path):
    notes = ["the map has 50176 non-finite pixels, so it has no box"]
    panels = [replace(panel(), name=LONG, subtitle=LONG), replace(without_a_box(), name=LONG, notes=notes), panel(1)]
    figure = draw(panels)
    assert_no_overlap(figure)
    unannotated = [axes for axes in figure.axes if not axes.patches]
    assert_pixels_are_blocks(figure, unannotated, tmp_path / "localization.png")
