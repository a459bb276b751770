"""The pictures in a run folder show the values that evidence is about: one of another image is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import lit_viz as lv
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from tests.support.forgery import ForgedRun, rewrite
from tests.support.networks import NAMES, load_network, smooth_network

_SCALE = (33550, "d", 3, (10.0, 10.0, 0.0), True)


@pytest.fixture
def bands() -> Network:
    options = {"mean": [0.5] * 4, "std": [0.25] * 4, "labels": NAMES, "size": 16, "bands": list("abcd")}
    return load_network(smooth_network(4), **options)


def _forge(run: ForgedRun, pattern: str) -> str:
    """Replace a picture by a black one, and return what a check states."""
    assert run.check()
    (path,) = run.folder.glob(pattern)
    path.write_bytes(encode_png(torch.zeros(3, 16, 16)))
    rewrite(run.folder, lambda _: None)
    return run.stated()


@pytest.mark.parametrize("name", ["images/0000*.drawn.png", "sources/0000*.png"])
def test_a_picture_of_another_adversarial_image_is_named(
    name: str, bands: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ForgedRun(tmp_path / "run", bands, capsys)
    x = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    lv.attack(bands, x, attack="fgsm", out=run.folder, logger="none")
    assert "is not as recorded: the picture 0000_" in _forge(run, name)


def test_a_picture_of_another_class_image_is_named(
    bands: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ForgedRun(tmp_path / "run", bands, capsys)
    lv.visualize(bands, [0], iterations=2, out=run.folder, logger="none")
    assert "is not that of the file" in _forge(run, "images/*.drawn.png")


def test_a_picture_of_another_perturbation_is_named(
    smooth: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ForgedRun(tmp_path / "run", smooth, capsys)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    lv.attack(smooth, x, attack="universal", eps=0.2, norm="linf", iterations=2, logger="none", out=run.folder)
    assert "is not that of the perturbation" in _forge(run, "images/*.png")


def test_a_geotiff_of_another_map_is_named(bands: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ForgedRun(tmp_path / "run", bands, capsys)
    file = tmp_path / "scene.tif"
    values = np.random.default_rng(0).random((4, 16, 16)).astype(np.float32)
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="separate", extratags=[_SCALE], metadata=None)
    lv.saliency(bands, str(file), method="gradient", captum="none", out=run.folder, logger="none")
    assert run.check()
    path = run.folder / "arrays" / "0000_scene.tif"
    other = np.zeros_like(tifffile.imread(path))
    tifffile.imwrite(path, other, photometric="minisblack", planarconfig="separate", metadata=None)
    rewrite(run.folder, lambda _: None)
    assert "the values of 0000_scene.tif are not those of the map" in run.stated()
