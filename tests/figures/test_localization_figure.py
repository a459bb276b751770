from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from lit_viz.engine.snapshots import Result
from lit_viz.figures.layout import pixels
from lit_viz.figures.localization import localization_figure
from lit_viz.figures.style import COLORS
from lit_viz.images.reading import Photograph
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.localization.objects import SEEDS, Localization, LocalizedMap, Segment
from lit_viz.runs.evidence import LocalizedObject
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.records import SaliencyRecord
from lit_viz.types import Task
from lit_viz.utils.limits import MOST_ROWS

BLUE, ORANGE, GREEN = COLORS[:3]


def outcome(index=0, name=None):
    record = SaliencyRecord(index=index, name=name or f"class {index}", method="gradient", reducer="max_abs", top5=[])
    (made,) = MemoryStorage([Result(Task(index, record.name, 0), record)]).outcomes()
    return made


def localized(seed=0, size=(12, 16), **more):
    generator = torch.Generator().manual_seed(seed)
    seeds, mask = np.zeros(size, np.int8), np.zeros(size, bool)
    seeds[2, 3], seeds[0, 0], mask[2:5, 3:9] = 1, -1, True
    photograph = Photograph(torch.rand(3, *size, generator=generator), "cat.png", size, (0, 0, size[1], size[0]))
    values = torch.randn(size, generator=generator).abs()
    evidence = LocalizedObject(
        index=0,
        name="cat",
        method="gradient",
        target_name=None,
        box=[3, 2, 9, 5],
        box_in_image=[3, 2, 9, 5],
        mask=None,
        true_boxes=[[3.0, 2.0, 15.0, 5.0]],
        iou=0.5,
        iou_whole=None,
        error=None,
    )
    found = LocalizedMap(photograph, values, Segment(seeds, mask, (3, 2, 9, 5)), evidence)
    return replace(found, **more)


def without_a_box(error="the map is constant"):
    return localized(segment=None, evidence=replace(localized().evidence, true_boxes=[], iou=None, error=error))


def draw(found, name=None):
    panels = [(outcome(index, name=name), one) for index, one in enumerate(found)]
    return localization_figure(Localization([{}] * len(panels), panels))


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_row_of_photograph_map_seeds_mask_and_boxes(figures):
    found = localized()
    figure = draw([found])
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
    figure = draw([localized(seed) for seed in range(7)])
    places = [figure.axes[5 * n].get_position() for n in range(7)]
    assert len({round(place.x0, 6) for place in places[:4]}) == 1
    assert len({round(place.x0, 6) for place in places[4:]}) == 1
    assert places[4].x0 > figure.axes[4].get_position().x1
    assert places[4].y1 == pytest.approx(places[0].y1)
    assert figures.texts(figure).count("photograph") == 2


def test_boxes_enclose_their_pixels():
    *others, boxes = draw([localized()]).axes
    assert not any(axes.patches for axes in others)
    found, true = boxes.patches
    assert outer_edge(found) == pytest.approx([2.5, 1.5, 8.5, 4.5])  # pixel 3 is drawn from 2.5 on
    assert outer_edge(true) == pytest.approx([2.5, 1.5, 14.5, 4.5])
    assert to_hex(found.get_edgecolor()) == ORANGE.lower()
    assert to_hex(true.get_edgecolor()) == GREEN.lower()
    assert true.get_linestyle() == "--"
    assert found.get_linestyle() == "-"


def test_failure_reason_replaces_the_box(figures):
    both = draw([localized(), without_a_box()])
    lefts = [axes.get_position().x0 for axes in both.axes]
    assert len(both.axes) == 5 + 3
    assert lefts[7] == pytest.approx(lefts[4])
    assert not both.axes[7].patches
    assert "the map is constant" in figures.texts(both)


def test_caption_describes_seeds_boxes_and_count(figures):
    written = " ".join(figures.texts(draw([localized()])))
    assert f"{100 * SEEDS.foreground:g} % quantile" in written
    assert f"{100 * SEEDS.background:g} % quantile" in written
    assert "dashed in green" in written
    assert "dashed" not in " ".join(figures.texts(draw([without_a_box()])))
    many = draw([localized()] * (MOST_ROWS + 3))
    assert len(many.axes) == 5 * MOST_ROWS
    assert f"{MOST_ROWS} of {MOST_ROWS + 3} maps." in " ".join(figures.texts(many))
    assert draw([]) is None


def test_localized_maps_do_not_overlap_and_each_pixel_is_a_block(tmp_path, figures):
    error = "the map has 50176 non-finite pixels, so it has no box"
    figure = draw([localized(), without_a_box(error), localized(1)], name=figures.LONG)
    figures.assert_no_overlap(figure)
    unannotated = [axes for axes in figure.axes if not axes.patches]
    figures.assert_pixels_are_blocks(figure, unannotated, tmp_path / "localization.png")
