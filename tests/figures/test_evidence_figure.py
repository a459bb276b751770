import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.figures.evidence import EvidenceRow, Gate, evidence_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS, save_figure
from lit_viz.images.heatmap import clip_limits, heat

FORMULA = Gate("formula in float64", 2e-15, 1e-8, passed=True)
BROKEN = Gate("delivered map", 0.25, 1e-6, passed=False)
NUMBERS = {"this map": {"Spearman": 0.99987, "SSIM": 1.0}, "another class": {"Spearman": -1e-7, "SSIM": math.nan}}


def row(seed=0, gates=(FORMULA,), size=(8, 8), channels=3):
    ours = torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed))
    captum = ours.double()
    captum[-1, 0, 0] += 2.0  # in one channel and one pixel only
    return EvidenceRow(f"class {seed}", "gradient", ours.numpy(), captum, gates, NUMBERS)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def pictures(figure):
    return [axes for axes in figure.axes if not axes.axison]


def test_ours_captums_and_their_difference_share_one_scale():
    of = row()
    figure = evidence_figure([of], quantile=0.9)
    attributions = torch.stack([torch.from_numpy(of.attribution).double(), of.reference])
    maps = reduce_channels(attributions)
    limit = clip_limits(maps, 0.9)[0]
    difference = torch.zeros(8, 8, dtype=torch.float64)
    difference[0, 0] = 2.0
    for axes, values in zip(pictures(figure), [*maps, difference], strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert {"lit_viz", "Captum", "difference", "largest: 2.00", f"≥ {limit:.3g}", "0"} <= set(texts(figure))
    assert "pixels above the 90 % quantile are clipped" in " ".join(texts(figure))


def test_errors_that_cancel_in_the_sum_of_channels_are_seen():
    ours = torch.zeros(3, 4, 4)
    figure = evidence_figure([EvidenceRow("a", "gradient", ours + torch.tensor([3.0, -3, 0]).view(3, 1, 1), ours)])
    assert "largest: 3.00" in texts(figure)


@pytest.mark.parametrize(
    ("gates", "word", "colour"), [([FORMULA], "passed", COLORS[2]), ([BROKEN], "failed", COLORS[1])]
)
def test_the_verdict_is_told_by_word_and_colour(gates, word, colour):
    figure = evidence_figure([row(gates=gates)])
    assert [text.get_color() for text in figure.texts if text.get_text() == word] == [colour, colour]


def test_one_gate_that_failed_fails_the_map():
    figure = evidence_figure([row(gates=[FORMULA, BROKEN])])
    assert texts(figure).count("failed") == 2
    assert texts(figure).count("passed") == 1
    assert {"2.00e-15 ≤ 1.00e-08", "0.250 > 1.00e-06"} <= set(texts(figure))
    assert texts(figure)[0].startswith("0 of 1 checked maps passed.")


def test_numbers_stand_beneath_with_those_of_the_controls():
    assert {"Spearman", "SSIM", "0.9999", "1.0000", "-1.00e-07", "undefined"} <= set(texts(evidence_figure([row()])))


def test_a_method_that_captum_lacks_is_shown_and_not_called_passed():
    figure = evidence_figure([EvidenceRow("a", "extremal perturbation", torch.ones(1, 8, 8), None)])
    assert len(pictures(figure)) == 1
    assert {"not checked", "Captum does not have this method"} <= set(texts(figure))
    assert texts(figure)[0].startswith("No map was checked.")


def test_maps_that_are_zero_or_not_finite_are_said():
    zero, broken = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    broken[0, 0, 0] = math.nan
    written = texts(
        evidence_figure([EvidenceRow("a", "gradient", zero, zero), EvidenceRow("b", "gradient", broken, zero)])
    )
    assert written.count("zero everywhere") == 3
    assert "largest: 0" in written
    assert written.count("1 non-finite pixel (black)") == 2


def test_what_failed_is_not_cut():
    figure = evidence_figure([row(seed, [FORMULA]) for seed in range(25)] + [row(99, [BROKEN])])
    assert len(pictures(figure)) == 3 * 20
    assert texts(figure)[0].startswith("20 of 26 maps, failed maps first. 25 of 26 checked maps passed.")
    assert "gradient · class 99" in texts(figure)
    assert "gradient · class 0" in texts(evidence_figure([row(1), row(0)]))


@pytest.mark.parametrize(("count", "columns"), [(2, 1), (3, 2), (6, 2), (7, 3)])
def test_many_maps_stand_beside_one_another_in_lines(count, columns):
    figure = evidence_figure([row(seed) for seed in range(count)])
    first = [axes.get_position() for axes in pictures(figure)[::3]]
    lefts = [round(place.x0, 4) for place in first]
    assert lefts[:columns] == sorted(set(lefts))
    assert lefts == [lefts[place % columns] for place in range(count)]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [part.get_window_extent(renderer) for part in (*figure.axes, *figure.texts)]
    pairs = [(a, b) for n, a in enumerate(boxes) for b in boxes[n + 1 :]]
    assert not any(a.padded(-1).overlaps(b.padded(-1)) for a, b in pairs)


def test_nothing_collides_and_each_pixel_is_a_block(tmp_path):
    long = "American Staffordshire terrier, American pit bull terrier"
    figure = evidence_figure([replace(row(size=(33, 33)), name=long), row(1, [FORMULA, replace(BROKEN, name=long)])])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [part.get_window_extent(renderer) for part in (*figure.axes, *figure.texts)]
    pairs = [(a, b) for n, a in enumerate(boxes) for b in boxes[n + 1 :]]
    assert not any(a.padded(-1).overlaps(b.padded(-1)) for a, b in pairs)
    wide, high = figure.get_size_inches() * figure.dpi
    assert all(min(box.x0, box.y0, wide - box.x1, high - box.y1) >= 0 for box in boxes)
    file = np.asarray(Image.open(save_figure(figure, tmp_path / "evidence.png")).convert("RGB"))
    shown = pictures(figure)[1]
    box, picture = shown.get_window_extent(renderer), np.asarray(shown.images[0].get_array())
    times = round(box.width) // 33
    top, left = round(file.shape[0] - box.y1), round(box.x0)
    assert np.array_equal(
        file[top : top + 33 * times, left : left + 33 * times], picture.repeat(times, 0).repeat(times, 1)
    )
