import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.engine.snapshots import Result
from lit_viz.figures.agreement import agreement_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.runs.evidence import CAPTUM, CaptumEvidence, Gate, MapAgreement, Similarity
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.records import SaliencyRecord
from lit_viz.types import Task
from lit_viz.utils.limits import MOST_ROWS

AGREEMENT = MapAgreement(
    index=0,
    name="",
    method="gradient",
    target_name=None,
    passed=True,
    reference=CAPTUM,
    formula=Gate(difference=2e-15, allowed=1e-8, passed=True),
    delivered=Gate(difference=1e-7, allowed=1.2e-6, captum_float32=1e-7, passed=True),
    similarity=Similarity(difference=0.0, spearman=0.99987, ssim=1.0, top_iou=1.0),
    controls={"another class": Similarity(difference=1.0, spearman=-1e-7, ssim=math.nan, top_iou=0.0)},
)
BROKEN = replace(AGREEMENT, passed=False, delivered=replace(AGREEMENT.delivered, difference=0.25, passed=False))


def outcome(index=0, array=None, name=None):
    record = SaliencyRecord(index=index, name=name or f"class {index}", method="gradient", reducer="max_abs", top5=[])
    (made,) = MemoryStorage([Result(Task(index, record.name, 0), record, array=array)]).outcomes()
    return made


def evidence_of(maps):
    return CaptumEvidence(version="1", passed=None, maps=maps, unchecked=[])


def compare(*agreements, size=(8, 8), name=None, references=None):
    """Return the figure of maps whose reference differs in one channel and one pixel."""
    outcomes, maps, kept = [], [], {}
    for index, agreement in enumerate(agreements):
        map_ = torch.randn(3, *size, generator=torch.Generator().manual_seed(index))
        reference = map_.double()
        reference[-1, 0, 0] += 2.0
        if references is not None:
            map_, reference = references[index]
        outcomes.append(outcome(index, map_, name))
        maps.append(agreement.amend(index=index))
        kept[index] = reference
    return agreement_figure(evidence_of(maps), kept, outcomes)


def test_map_reference_and_difference_share_one_scale(figures):
    map_ = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = map_.double()
    reference[-1, 0, 0] += 2.0
    figure = compare(AGREEMENT, references=[(map_, reference)])
    maps = reduce_channels(torch.stack([map_.double(), reference]))
    limit = clip_limits(maps)[0]
    difference = torch.zeros(16, 16, dtype=torch.float64)
    difference[0, 0] = 2.0
    for axes, values in zip(figures.images(figure), [*maps, difference], strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert {"lit_viz", "Captum", "difference", "largest: 2.00", f"≥ {limit:.3g}", "0"} <= set(figures.texts(figure))
    assert "pixels above the 99.5 % quantile are clipped" in " ".join(figures.texts(figure))


def test_differences_that_cancel_in_the_channel_sum_are_detected(figures):
    zero = torch.zeros(3, 4, 4)
    figure = compare(AGREEMENT, references=[(zero + torch.tensor([3.0, -3, 0]).view(3, 1, 1), zero)])
    assert "largest: 3.00" in figures.texts(figure)


@pytest.mark.parametrize(
    ("agreement", "words"), [(AGREEMENT, {"passed": 3}), (BROKEN, {"failed": 2, "passed": 1})], ids=["passed", "failed"]
)
def test_verdicts_have_words_and_colors(agreement, words, figures):
    figure = compare(agreement)
    colors = {"passed": COLORS[2], "failed": COLORS[1]}
    found = [(text.get_text(), text.get_color()) for text in figure.texts if text.get_text() in colors]
    assert sorted(found) == sorted((word, colors[word]) for word, count in words.items() for _ in range(count))


def test_gates_and_similarity_are_listed(figures):
    written = figures.texts(compare(BROKEN))
    assert {"2.00e-15 ≤ 1.00e-08", "0.250 > 1.20e-06"} <= set(written)
    assert {"Spearman", "SSIM", "0.9999", "1.0000", "-1.00e-07", "undefined"} <= set(written)
    assert written[0].startswith("0 of 1 checked maps passed.")


def test_zero_and_non_finite_maps_are_noted(figures):
    zero, broken = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    broken[0, 0, 0] = math.nan
    written = figures.texts(compare(AGREEMENT, AGREEMENT, references=[(zero, zero), (broken, zero)]))
    assert written.count("zero everywhere") == 3
    assert "largest: 0" in written
    assert written.count("1 non-finite pixel (black)") == 2


def test_failed_maps_take_precedence(figures):
    figure = compare(*[AGREEMENT] * 21, BROKEN)
    assert len(figures.images(figure)) == 3 * MOST_ROWS
    assert figures.texts(figure)[0].startswith("12 of 22 maps, failed maps first. 21 of 22 checked maps passed.")
    assert any(text.endswith("· class 21") for text in figures.texts(figure))
    assert agreement_figure(evidence_of([]), {}, [outcome()]) is None


@pytest.mark.parametrize(("count", "columns"), [(2, 1), (3, 2), (7, 3)])
def test_many_maps_are_arranged_in_columns(count, columns, figures):
    figure = compare(*[AGREEMENT] * count)
    first = [axes.get_position() for axes in figures.images(figure)[::3]]
    lefts = [round(place.x0, 4) for place in first]
    assert lefts[:columns] == sorted(set(lefts))
    assert lefts == [lefts[place % columns] for place in range(count)]
    figures.assert_no_overlap(figure)


def test_compared_maps_do_not_overlap_and_each_pixel_is_a_block(tmp_path, figures):
    figure = compare(
        replace(AGREEMENT, controls={figures.LONG: AGREEMENT.similarity}), BROKEN, size=(33, 33), name=figures.LONG
    )
    figures.assert_no_overlap(figure)
    figures.assert_pixels_are_blocks(figure, figures.images(figure), tmp_path / "agreement.png")
