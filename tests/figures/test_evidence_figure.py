import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.evidence.saliency.cross_check import Agreement, CrossCheck
from lit_viz.figures.evidence import MOST, evidence_figure, localization_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS
from lit_viz.images.reading import Photograph
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.localization import SEEDS, Localization, LocalizedMap, Segment
from lit_viz.methods.records import SaliencyRecord
from lit_viz.runs.evidence import LocalizedObject, Similarity
from lit_viz.runs.results import memory_outcomes
from lit_viz.types import Result, Task
from tests.figures.helpers import LONG, assert_no_overlap, assert_pixels_are_blocks, images, texts

BLUE, ORANGE, GREEN = COLORS[:3]
AGREEMENT = Agreement(
    formula=2e-15,
    delivered=1e-7,
    captum_float32=1e-7,
    similarity=Similarity(difference=0.0, spearman=0.99987, ssim=1.0, top_iou=1.0),
    controls={"another class": Similarity(difference=1.0, spearman=-1e-7, ssim=math.nan, top_iou=0.0)},
)
BROKEN = replace(AGREEMENT, delivered=0.25)


def outcome(index=0, array=None, name=None):
    record = SaliencyRecord(index=index, name=name or f"class {index}", method="gradient", reducer="max_abs", top5=[])
    (made,) = memory_outcomes({index: Result(Task(index, record.name, 0), record, array=array)}, {})
    return made


def compare(*agreements, size=(8, 8), name=None, references=None):
    """Return the figure of maps whose reference differs in one channel and one pixel."""
    outcomes, checked = [], {}
    for index, agreement in enumerate(agreements):
        map_ = torch.randn(3, *size, generator=torch.Generator().manual_seed(index))
        reference = map_.double()
        reference[-1, 0, 0] += 2.0
        if references is not None:
            map_, reference = references[index]
        outcomes.append(outcome(index, map_, name))
        checked[index] = (agreement, reference)
    return evidence_figure(CrossCheck(checked, {}), outcomes)


def test_map_reference_and_difference_share_one_scale():
    map_ = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = map_.double()
    reference[-1, 0, 0] += 2.0
    figure = compare(AGREEMENT, references=[(map_, reference)])
    maps = reduce_channels(torch.stack([map_.double(), reference]))
    limit = clip_limits(maps)[0]
    difference = torch.zeros(16, 16, dtype=torch.float64)
    difference[0, 0] = 2.0
    for axes, values in zip(images(figure), [*maps, difference], strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert {"lit_viz", "Captum", "difference", "largest: 2.00", f"≥ {limit:.3g}", "0"} <= set(texts(figure))
    assert "pixels above the 99.5 % quantile are clipped" in " ".join(texts(figure))


def test_differences_that_cancel_in_the_channel_sum_are_detected():
    zero = torch.zeros(3, 4, 4)
    figure = compare(AGREEMENT, references=[(zero + torch.tensor([3.0, -3, 0]).view(3, 1, 1), zero)])
    assert "largest: 3.00" in texts(figure)


@pytest.mark.parametrize(
    ("agreement", "words"), [(AGREEMENT, {"passed": 3}), (BROKEN, {"failed": 2, "passed": 1})], ids=["passed", "failed"]
)
def test_verdicts_have_words_and_colors(agreement, words):
    figure = compare(agreement)
    colors = {"passed": COLORS[2], "failed": COLORS[1]}
    found = [(text.get_text(), text.get_color()) for text in figure.texts if text.get_text() in colors]
    assert sorted(found) == sorted((word, colors[word]) for word, count in words.items() for _ in range(count))


def test_gates_and_similarity_are_listed():
    written = texts(compare(BROKEN))
    assert {"2.00e-15 ≤ 1.00e-08", "0.250 > 1.20e-06"} <= set(written)
    assert {"Spearman", "SSIM", "0.9999", "1.0000", "-1.00e-07", "undefined"} <= set(written)
    assert written[0].startswith("0 of 1 checked maps passed.")


def test_zero_and_non_finite_maps_are_noted():
    zero, broken = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    broken[0, 0, 0] = math.nan
    written = texts(compare(AGREEMENT, AGREEMENT, references=[(zero, zero), (broken, zero)]))
    assert written.count("zero everywhere") == 3
    assert "largest: 0" in written
    assert written.count("1 non-finite pixel (black)") == 2


def test_failed_maps_take_precedence():
    figure = compare(*[AGREEMENT] * 21, BROKEN)
    assert len(images(figure)) == 3 * MOST
    assert texts(figure)[0].startswith("20 of 22 maps, failed maps first. 21 of 22 checked maps passed.")
    assert any(text.endswith("· class 21") for text in texts(figure))
    assert evidence_figure(CrossCheck({}, {0: "not checked"}), [outcome()]) is None


@pytest.mark.parametrize(("count", "columns"), [(2, 1), (3, 2), (7, 3)])
def test_many_maps_are_arranged_in_columns(count, columns):
    figure = compare(*[AGREEMENT] * count)
    first = [axes.get_position() for axes in images(figure)[::3]]
    lefts = [round(place.x0, 4) for place in first]
    assert lefts[:columns] == sorted(set(lefts))
    assert lefts == [lefts[place % columns] for place in range(count)]
    assert_no_overlap(figure)


def test_compared_maps_do_not_overlap_and_each_pixel_is_a_block(tmp_path):
    figure = compare(replace(AGREEMENT, controls={LONG: AGREEMENT.similarity}), BROKEN, size=(33, 33), name=LONG)
    assert_no_overlap(figure)
    assert_pixels_are_blocks(figure, images(figure), tmp_path / "evidence.png")


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


def test_row_of_photograph_map_seeds_mask_and_boxes():
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
    assert {"photograph", "map", "seeds", "mask", "box", "class 0", "IoU 0.50"} <= set(texts(figure))


def outer_edge(rectangle):
    """Return the area of a box with its line, in pixels of the image."""
    (scale, *_), *_ = rectangle.axes.transData.get_matrix()
    half = rectangle.get_linewidth() / 2 * rectangle.get_figure().dpi / 72 / scale
    return rectangle.get_bbox().padded(half).extents


def test_many_localized_maps_are_arranged_in_two_columns():
    figure = draw([localized(seed) for seed in range(7)])
    places = [figure.axes[5 * n].get_position() for n in range(7)]
    assert len({round(place.x0, 6) for place in places[:4]}) == 1
    assert len({round(place.x0, 6) for place in places[4:]}) == 1
    assert places[4].x0 > figure.axes[4].get_position().x1
    assert places[4].y1 == pytest.approx(places[0].y1)
    assert texts(figure).count("photograph") == 2


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


def test_failure_reason_replaces_the_box():
    both = draw([localized(), without_a_box()])
    lefts = [axes.get_position().x0 for axes in both.axes]
    assert len(both.axes) == 5 + 3
    assert lefts[7] == pytest.approx(lefts[4])
    assert not both.axes[7].patches
    assert "the map is constant" in texts(both)


def test_caption_describes_seeds_boxes_and_count():
    written = " ".join(texts(draw([localized()])))
    assert f"{100 * SEEDS.foreground:g} % quantile" in written
    assert f"{100 * SEEDS.background:g} % quantile" in written
    assert "dashed in green" in written
    assert "dashed" not in " ".join(texts(draw([without_a_box()])))
    many = draw([localized()] * (MOST + 3))
    assert len(many.axes) == 5 * MOST
    assert f"{MOST} of {MOST + 3} maps." in " ".join(texts(many))
    assert draw([]) is None


def test_localized_maps_do_not_overlap_and_each_pixel_is_a_block(tmp_path):
    error = "the map has 50176 non-finite pixels, so it has no box"
    figure = draw([localized(), without_a_box(error), localized(1)], name=LONG)
    assert_no_overlap(figure)
    unannotated = [axes for axes in figure.axes if not axes.patches]
    assert_pixels_are_blocks(figure, unannotated, tmp_path / "localization.png")
