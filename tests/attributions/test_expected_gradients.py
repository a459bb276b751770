"""Expected gradients: closed form, baselines read from files, and the photograph left out of its own baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import ExpectedGradients, attribute
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.types import Task
from tests.support.attributions import Counted

SHAPE = (3, 2, 3)
GENERATOR = torch.Generator().manual_seed(8)
WEIGHT = torch.randn(18, dtype=torch.float64, generator=GENERATOR)
MATRIX = torch.randn(18, 18, dtype=torch.float64, generator=GENERATOR)
MATRIX = MATRIX + MATRIX.T
BASELINES = (torch.rand(5, *SHAPE, generator=GENERATOR) * 255).round() / 255
IMAGE = torch.rand(1, *SHAPE, dtype=torch.float64, generator=GENERATOR)

linear = Counted(lambda x: (x.flatten(1) @ WEIGHT)[:, None])
quadratic = Counted(lambda x: ((x.flatten(1) @ MATRIX) * x.flatten(1)).sum(1, keepdim=True) / 2)


def photographs(folder: Path, images: Tensor) -> str:
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(encode_png(image))
    return str(folder)


def test_one_sample_of_a_linear_network_is_exact() -> None:
    map_, _ = attribute(ExpectedGradients(BASELINES[:1]), linear, IMAGE, [0], evaluations=3)
    expected = (IMAGE - BASELINES[0]) * WEIGHT.view(SHAPE)
    torch.testing.assert_close(map_, expected, rtol=1e-6, atol=1e-7)


def test_the_mean_of_many_maps_is_the_closed_form() -> None:
    """Of x' A x / 2 and a baseline b: (x - b) A (x + b) / 2, averaged over the baselines."""
    count = 2000
    method = ExpectedGradients(BASELINES)
    method.batch = count
    map_, _ = attribute(method, quadratic, IMAGE.expand(count, *SHAPE), [0] * count, evaluations=4)
    expected = torch.zeros(18, dtype=torch.float64)
    for baseline in BASELINES.double().flatten(1):
        expected += (IMAGE.flatten() - baseline) * ((IMAGE.flatten() + baseline) @ MATRIX) / 2 / len(BASELINES)
    error = (map_.var(0) / count).sqrt()
    assert ((map_.mean(0) - expected.view(SHAPE)).abs() < 4 * error).all()


def test_every_baseline_is_drawn_and_the_photograph_itself_is_not() -> None:
    method = ExpectedGradients(BASELINES)
    x = torch.stack([BASELINES[2], BASELINES[4], 1 - BASELINES[0]])
    numbers = torch.arange(400).repeat_interleave(3)
    slots = torch.arange(3).repeat(400)
    state: Any = method.init(x, [Task(n, "x", n) for n in range(3)])
    start, _, _ = method.draw(x, state, slots, numbers)
    for slot, own in enumerate((2, 4, None)):
        drawn = [int((row == BASELINES).flatten(1).all(1).nonzero()) for row in start[slots == slot]]
        counts = torch.bincount(torch.tensor(drawn), minlength=5)
        assert own is None or counts[own] == 0
        assert (counts > 0).sum() == (5 if own is None else 4)
        assert counts[counts > 0].min() > 50  # of 80 or 100 expected


def test_a_folder_is_the_same_as_its_images(smooth: Network, tmp_path: Path) -> None:
    images = (torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    folder = photographs(tmp_path, images)
    by_file, by_tensor = (
        lv.saliency(smooth, images[:1], target=2, method=ExpectedGradients(given), iterations=6, captum="none")
        for given in (folder, images)
    )
    assert torch.equal(by_file.arrays, by_tensor.arrays)
    (record,), (other,) = by_file.records, by_tensor.records
    assert record["baselines_sha256"] == other["baselines_sha256"]
    changed = ExpectedGradients(images[:3])
    changed.bind(smooth)
    assert changed.record_fields()["baselines_sha256"] != record["baselines_sha256"]
