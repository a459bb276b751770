from __future__ import annotations

import json
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lit_viz.errors import LitVizError
from lit_viz.figures.localization import localization_figure
from lit_viz.images.reading import Photograph, read_photograph
from lit_viz.localization.objects import Seeds, box_in_original, localize, localize_run, mask_in_original, segment
from lit_viz.localization.reference_boxes import ReferenceBoxes, iou
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs.evidence import SaliencyEvidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome
from tests.support.segments import write_records

ROOT = Path(__file__).parents[2]

RED, BLUE = (0.85, 0.2, 0.15), (0.1, 0.3, 0.6)
BARE = Seeds(smoothing=0)


def distance(size, x, y):
    """Return the distance of each pixel's center from a position."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return np.hypot(columns - x, rows - y)


def discs(size, *places, noise=0.04):
    """Return a noisy image ``(3, H, W)`` with red discs (x, y, radius) on blue."""
    picture = np.broadcast_to(np.array(BLUE)[:, None, None], (3, *size)).copy()
    for x, y, radius in places:
        picture[:, distance(size, x, y) < radius] = np.array(RED)[:, None]
    picture += np.random.default_rng(0).normal(0, noise, picture.shape)
    return torch.from_numpy(picture.clip(0, 1)).float()


def peak(size, x, y, width):
    """Return a map with a maximum at a position, without the shape of the object."""
    return torch.from_numpy(np.exp(-((distance(size, x, y) / width) ** 2)))


def around(x, y, radius):
    return x - radius, y - radius, x + radius, y + radius


def photograph(size=(40, 40), original=(40, 40), span=(0, 0, 40, 40)):
    return Photograph(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)), "x.png", original, span)


# -- the object


@pytest.mark.parametrize("place", [(40, 40, 20), (25, 60, 15), (64, 30, 28)])
def test_the_disc_at_the_peak_is_segmented(place):
    x, y, radius = place
    found = segment(discs((96, 112), place), peak((96, 112), x + 3, y - 2, radius))
    assert iou(found.box, around(*place)) > 0.9
    disc = distance((96, 112), x, y) < radius
    assert (found.mask & disc).sum() / (found.mask | disc).sum() > 0.95


def test_gray_photographs_have_one_channel():
    grey = discs((64, 64), (30, 30, 14), noise=0.02)[:1]
    assert iou(segment(grey, peak((64, 64), 30, 30, 10)).box, around(30, 30, 14)) > 0.9


def test_the_box_encloses_the_mask():
    found = segment(discs((64, 80), (40, 30, 12)), peak((64, 80), 40, 30, 9))
    rows, columns = np.nonzero(found.mask)
    assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_seeds_are_above_and_below_the_quantiles():
    values = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    seeds = BARE.of(values)
    ranks = values.flatten().argsort().argsort().view(40, 50).numpy()
    assert np.array_equal(seeds == -1, ranks < 600)
    assert np.array_equal(seeds == 1, ranks >= 1900)


def test_the_nonzero_pixels_of_a_sparse_map_are_seeds():
    values = torch.zeros(20, 20)
    values[3:5, 7:9] = 1.0
    assert np.array_equal(np.argwhere(BARE.of(values) == 1), [[3, 7], [3, 8], [4, 7], [4, 8]])
    assert (BARE.of(values) == -1).sum() == 396


def test_smoothing_removes_single_pixels():
    values = peak((100, 100), 50, 50, 20)
    values[5, 5] = 1.0
    assert BARE.of(values)[5, 5] == 1
    assert Seeds(smoothing=0.05).of(values)[5, 5] < 1


def test_the_object_extends_beyond_its_seeds():
    # The disc covers a quarter of the image and the seeds 5 %: from the whole image, the color model of the background
    # would contain more red than that of the foreground.
    size = (80, 80)
    found = segment(discs(size, (40, 40, 24)), peak(size, 40, 40, 4), Seeds(background=0.1))
    assert iou(found.box, around(40, 40, 24)) > 0.9


def test_low_values_inside_the_object_are_foreground():
    size = (80, 80)
    ring = torch.from_numpy(np.exp(-(((distance(size, 40, 40) - 16) / 3) ** 2)))
    ring[36:44, 36:44] = 0
    found = segment(discs(size, (40, 40, 22)), ring)
    assert (found.seeds[38:42, 38:42] == -1).all()
    assert found.mask[30:50, 30:50].all()


def test_foreground_seeds_are_fixed():
    size = (80, 80)
    values = peak(size, 40, 40, 10)
    picture = discs(size, (40, 40, 20))
    picture[:, 39:41, 39:41] = torch.tensor(BLUE)[:, None, None]
    found = segment(picture, values)
    assert (found.seeds[39:41, 39:41] == 1).all()
    assert found.mask[39:41, 39:41].all()


def test_the_larger_of_two_objects_is_selected():
    size = (80, 120)
    both = torch.maximum(peak(size, 30, 40, 8), peak(size, 90, 40, 8))
    found = segment(discs(size, (30, 40, 14), (90, 40, 20)), both)
    assert (found.seeds[36:44, 26:34] == 1).all()
    assert iou(found.box, around(90, 40, 20)) > 0.9


def test_the_result_is_deterministic():
    generator = torch.Generator().manual_seed(1)  # an image whose k-means clusters depend on the seed
    picture, values = (
        torch.nn.functional.interpolate(torch.rand(1, *size, generator=generator), size=(48, 48), mode="bilinear")[0]
        for size in ((3, 8, 8), (1, 6, 6))
    )
    masks = []
    for seed in range(4):
        cv2.setRNGSeed(seed)
        masks.append(segment(picture, values[0]).mask)
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(16, 16), "the map is constant"),
        (torch.full((16, 16), 0.1), "the map is constant"),
        (torch.ones(1, 1), "the map is constant"),
        (torch.zeros(16, 16).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(torch.nan)), "1 of 256 pixels"),
        (torch.full((16, 16), torch.inf), "256 of 256 pixels"),
        (torch.ones(16, 16).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(0.0)), "OpenCV failed"),
    ],
)
def test_unusable_maps_have_no_box(values, message):
    with pytest.raises(LitVizError, match=message) as error:
        segment(torch.rand(3, *values.shape), values, BARE)
    assert "\n" not in str(error.value)


def test_one_pixel_is_sufficient():
    values = torch.zeros(32, 32)
    values[9, 20] = 1
    found = segment(discs((32, 32)), values, BARE)
    assert found.mask[9, 20]
    assert found.mask.sum() < 32 * 32


def test_without_opencv_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(LitVizError, match=r"pip install 'lit-viz\[localization\]'"):
        segment(discs((16, 16)), peak((16, 16), 4, 4, 3))


# -- coordinates of the original

#: An original of 120 x 80 pixels in an image of 40 x 40: size of a pixel, and position of the first one.
WAYS = {
    "crop": (Fraction(2), Fraction(2), Fraction(20), Fraction(0)),
    "squash": (Fraction(3), Fraction(2), Fraction(0), Fraction(0)),
    "pad": (Fraction(3), Fraction(80, 27), Fraction(0), -6 * Fraction(80, 27)),  # 27 rows between 6 and 7 gray ones
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "disc.png"
    picture = discs((80, 120), (66, 34, 22)).mul(255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(path)
    return path


@pytest.mark.parametrize("fit", WAYS)
def test_boxes_and_masks_in_the_original(fit, file):
    step_x, step_y, left, top = WAYS[fit]
    read = read_photograph(file, (40, 40), fit=fit)
    ends = [left + 8 * step_x, top + 10 * step_y, left + 25 * step_x, top + 30 * step_y]
    assert box_in_original(read, (8, 10, 25, 30)) == pytest.approx([float(end) for end in ends])
    mask = np.random.default_rng(0).random((40, 40)) < 0.5
    found = mask_in_original(read, mask)
    assert found.shape == (80, 120)
    for row, column in product(range(80), range(120)):
        r, c = (row + Fraction(1, 2) - top) // step_y, (column + Fraction(1, 2) - left) // step_x
        assert found[row, column] == (0 <= r < 40 and 0 <= c < 40 and mask[int(r), int(c)])


def test_boxes_are_clipped_to_the_original(file):
    assert box_in_original(read_photograph(file, (40, 40), fit="pad"), (0, 0, 40, 40)) == (0, 0, 120, 80)
    assert box_in_original(read_photograph(file, (40, 40)), (0, 0, 40, 40)) == (20, 0, 100, 80)


@pytest.mark.parametrize("fit", WAYS)
def test_the_object_is_localized_in_the_original(fit, file):
    step_x, step_y, left, top = map(float, WAYS[fit])
    read = read_photograph(file, (40, 40), fit=fit)
    found = localize(read, peak((40, 40), (66 - left) / step_x, (34 - top) / step_y, 4))
    assert iou(box_in_original(read, found.box), around(66, 34, 22)) > 0.85
    disc, mask = distance((80, 120), 66, 34) < 22, mask_in_original(read, found.mask)
    assert (mask & disc).sum() / (mask | disc).sum() > 0.85


def test_padding_is_excluded(file):
    read = read_photograph(file, (40, 40), fit="pad")
    values = peak((40, 40), 22, 17, 4)
    values[:6], values[33:] = 9.0, -9.0
    found, bare = localize(read, values), localize(read, peak((40, 40), 22, 17, 4))
    assert not found.seeds[:6].any()
    assert not found.seeds[33:].any()
    assert np.array_equal(found.mask, bare.mask)
    assert found.box == bare.box


# -- a run


class Kept(Outcome):
    """An outcome in memory."""

    def __init__(self, index, source, values, picture, **more):
        common = {"index": index, "name": f"n{index}", "method": "gradient", "target_name": "disc", "source": source}
        record = SaliencyRecord.from_dict({**common, "reducer": "max_abs", "top5": [], **more})
        super().__init__(record)
        self._values, self._picture = values, picture

    def array(self):
        return self._values

    def source(self):
        return self._picture

    def image(self):
        return None

    def frames(self):
        return []

    def logged(self, metric):
        return []


def outcomes():
    size, place = (64, 64), (30, 34, 14)
    good = peak(size, 30, 34, 8)[None].repeat(3, 1, 1).float()
    picture = discs(size, place)
    span = {"original_size": [128, 256], "original_box": [64.0, 0.0, 192.0, 128.0]}
    return [
        Kept(0, "folder/a.jpg", good, picture, **span),
        Kept(1, "packaged:b", good * torch.nan, picture),
        Kept(2, "c.d.png", -good, picture),  # evidence against the class
        Kept(3, None, good, picture),
        Kept(4, "failed.png", None, None),
    ]


def test_a_run_is_compared_with_reference_boxes(tmp_path):
    folder = FolderStorage.create(tmp_path)
    folder.write_config("")
    of_run = outcomes()
    write_records(folder, [one.record.to_dict() for one in of_run])
    twice = tuple(2 * end + shift for end, shift in zip(around(30, 34, 14), (64, 0, 64, 0), strict=True))
    truth = {
        "folder/a.jpg": ReferenceBoxes(((0, 0, 20, 20), twice), (128, 256), Path("a.xml")),
        "packaged:b": ReferenceBoxes((around(30, 34, 14),), None, Path("b.xml")),
        "c.d.png": ReferenceBoxes(((0, 0, 20, 20),), (64, 65), Path("c.d.xml")),
    }
    run = localize_run(of_run, {"gradient": "max_abs"}, truth, folder)
    a, b, c, d = folder.records()[:4]
    assert a.iou > 0.9
    assert iou(tuple(a.box), twice) == pytest.approx(a.iou, abs=1e-6)
    assert (b.box, b.iou) == (None, 0.0)
    assert c.iou is None
    assert c.box == d.box == run.maps[3].box_in_image
    assert folder.records()[4].box is None
    assert [one.record.box for one in of_run] == [record.box for record in folder.records()]
    folder.merge_evidence(SaliencyEvidence(localization=run.evidence()))
    held = folder.evidence(SaliencyEvidence).localization
    whole = 28 * 28 / 64**2
    assert held.corloc == {"gradient": {"corloc": 0.5, "whole_photograph": 0.0, "maps": 2}}
    assert [entry.iou_whole for entry in held.maps] == [pytest.approx(whole), pytest.approx(whole), None, None]
    assert (held.seeds["foreground"], held.seeds["background"], held.opencv) == (0.95, 0.3, cv2.__version__)
    assert "c.d.xml ignored: annotated at 65 x 64 pixels, got 64 x 64" in held.maps[2].error
    (item,) = SaliencyMapPresentation().part_items(SaliencyEvidence(localization=run.evidence()))
    assert item.text == (
        "Boxes of 3 of 4 maps. CorLoc, IoU with a reference box ≥ 0.5: gradient 50% of 2 (whole photographs: 0%)."
    )
    assert item.notes[0].startswith("n1: no box: 4096 of 4096")
    assert item.notes[1:] == ["1 more in evidence.json"]
    masks = {entry.index: entry.mask for entry in held.maps}
    assert masks == {0: "masks/0000_n0.png", 1: None, 2: "masks/0002_n2.png", 3: "masks/0003_n3.png"}
    mask = np.asarray(Image.open(tmp_path / masks[0]))
    assert mask.shape == (128, 256)
    assert set(np.unique(mask)) == {0, 255}
    disc = distance((128, 256), 124, 68) < 28
    assert ((mask > 0) & disc).sum() / ((mask > 0) | disc).sum() > 0.9
    assert localization_figure(run) is not None


def test_an_iou_of_half_is_correct():
    size = (64, 64)
    one = Kept(0, "a.png", peak(size, 30, 34, 8)[None].float(), discs(size, (30, 34, 14)))
    (found,) = localize_run([one], {"gradient": "sum"}, {}).maps
    x0, y0, x1, y1 = found.box
    exactly = ReferenceBoxes(((x0, y0, x1 + (x1 - x0), y1),), None, Path("a.xml"))
    beyond = ReferenceBoxes(((x0, y0, x1 + (x1 - x0) + 0.1, y1),), None, Path("a.xml"))
    assert [
        localize_run([one], {"gradient": "sum"}, {"a.png": truth}).corloc()["gradient"]["corloc"]
        for truth in (exactly, beyond)
    ] == [1.0, 0.0]


# -- the command

VOC = (
    "<annotation><size><width>40</width><height>30</height></size><object><bndbox><xmin>6</xmin><ymin>1</ymin>"
    "<xmax>35</xmax><ymax>30</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "one.xml").write_text(VOC)
    return tmp_path


def test_the_command_compares_boxes_with_reference_boxes(
    photographs, capsys, lit_viz: Any, records: Any, small_options: Any
):
    words = [str(photographs / "one.png"), str(photographs / "two.png"), *small_options, "--captum", "none", "--boxes"]
    run = photographs / "run"
    lit_viz("saliency", *words, str(photographs), "--out", str(run))
    one, two = records(run)
    left, top, right, bottom = one["box"]
    assert 5 <= left < right <= 35  # the crop spans 30 of 40 columns
    assert 0 <= top < bottom <= 30
    assert one["iou"] == pytest.approx((right - left) * (bottom - top) / 900, abs=1e-3)
    assert two.get("iou") is None
    assert "whole photographs: 100%" in " ".join(capsys.readouterr().err.split())
    assert np.asarray(Image.open(run / "masks" / "0001_two.png")).shape == (30, 40)
    before = (run / "localization.png").read_bytes()
    lit_viz(
        "saliency", *words, str(photographs), "--out", str(run), "--overwrite"
    )  # the folder contains files of the run only
    assert (run / "localization.png").read_bytes() == before


def test_unmatched_reference_boxes_and_other_sizes_are_reported(photographs, capsys, lit_viz: Any, small_options: Any):
    (photographs / "two.xml").write_text(VOC.replace("40", "41"))
    (photographs / "one.xml").write_text(VOC.replace("30</h", "31</h"))
    (photographs / "three.xml").write_text(VOC)
    words = [str(photographs / "one.png"), str(photographs / "two.png"), *small_options, "--captum", "none", "--boxes"]
    lit_viz("saliency", *words, str(photographs), "--out", str(photographs / "run"))
    message = " ".join(capsys.readouterr().err.split())
    assert "reference boxes: 1 of 3 entries match no photograph of this run, such as three.xml" in message
    assert "ignored: annotated at 40 x 31 pixels, got 40 x 30 1 more in evidence.json" in message


def test_localize_needs_no_reference_boxes(photographs, lit_viz: Any, records: Any, small_options: Any):
    run = photographs / "run"
    lit_viz(
        "saliency", "--localize", str(photographs / "one.png"), *small_options, "--captum", "none", "--out", str(run)
    )
    assert records(run)[0].get("iou") is None
    assert len(records(run)[0]["box"]) == 4
    assert json.loads((run / "evidence.json").read_text())["localization"]["corloc"] == {}


def test_missing_requirements_are_reported_before_the_run(
    photographs, capsys, monkeypatch, lit_viz: Any, sentence: Any, small_options: Any
):
    words = ["saliency", str(photographs / "one.png"), *small_options, "--out", str(photographs / "run")]
    lit_viz(*words, "--boxes", str(photographs / "nowhere"), expect=1)
    assert "boxes must be an existing COCO file" in sentence(capsys)
    monkeypatch.setitem(sys.modules, "cv2", None)
    lit_viz(*words, "--localize", expect=1)
    assert "lit-viz[localization]" in sentence(capsys)
    assert not (photographs / "run").exists()
