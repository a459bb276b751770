"""Attacks on the text detector of PP-OCR, whose weights are read from the files of a package."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import lit_viz as lv
from lit_viz.outputs import Output

WORDS = ("street", "coffee", "window", "garden", "planet", "silver", "winter", "market", "bridge", "orange")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def detector() -> Path:
    pytest.importorskip("onnx2torch")
    try:
        listed = files("rapidocr-onnxruntime") or ()
    except PackageNotFoundError:
        pytest.skip("rapidocr-onnxruntime is not installed")
    return next(Path(str(file.locate())) for file in listed if file.name == "ch_PP-OCRv4_det_infer.onnx")


class Word(Output):
    """Log-odds of text in a box."""

    decision = "number"
    unit = "log-odds of text"

    def __init__(self, box: tuple[int, int, int, int]) -> None:
        self.box = box

    def inside(self, returned: Tensor) -> Tensor:
        x0, y0, x1, y1 = self.box
        return torch.logit(returned[:, 0, y0:y1, x0:x1], eps=1e-6).flatten(1)

    def scores(self, returned: Any, images: int) -> Tensor:
        return 0.25 * torch.logsumexp(4 * self.inside(returned), 1, keepdim=True)

    def final(self, returned: Any, images: int) -> Tensor:
        return self.inside(returned).amax(1, keepdim=True)


def rendered(word: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return a picture of a word, and its box."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 40)
    picture = Image.new("RGB", (320, 128), (235, 232, 225))
    draw = ImageDraw.Draw(picture)
    draw.text((60, 36), word, fill=(30, 30, 40), font=font)
    x0, y0, x1, y1 = map(int, draw.textbbox((60, 36), word, font=font))
    return picture, (x0, y0, x1, y1)


def load(detector: Path, box: tuple[int, int, int, int]) -> Any:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return lv.load_network(str(detector), output=Word(box), size=(128, 320), mean=mean, std=std)


def test_words_vanish_from_the_file(detector: Path, tmp_path: Path) -> None:
    """No pixel above 0.3 in the word's box, for 9 of 10 words."""
    removed = 0
    for word in WORDS:
        picture, box = rendered(word)
        net = load(detector, box)
        goal = f"below:{math.log(0.3 / 0.7)}"
        run = lv.attack(
            net, picture, goal=goal, attack="pgd", eps="8/255", iterations=60, logger=None, out=tmp_path / word
        )
        file = next((tmp_path / word / "images").glob("0000*[!l].png"))
        x0, y0, x1, y1 = box
        again = torch.from_numpy(np.array(Image.open(file))).movedim(2, 0)[None] / 255
        with torch.no_grad():
            seen = net.original(net.normalize(again))[:, 0, y0:y1, x0:x1].max()
        removed += bool(seen < 0.3) and run.records[0]["success_file"] is True
        assert run.records[0]["score_before"] > 5
    assert removed >= 9


def test_its_gradients_equal_float64_autograd(detector: Path) -> None:
    picture, box = rendered("window")
    net = load(detector, box)
    exact = net.fast(dtype=torch.float64)
    assert not exact.is_original
    x = (torch.from_numpy(np.asarray(picture).copy()).movedim(2, 0)[None] / 255).double()
    leaf, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    (own,) = torch.autograd.grad(exact(leaf)[0].sum(), leaf)
    network = lv.load_network(
        str(detector), output=Word(box), size=(128, 320), mean=net.mean, std=net.std
    ).original.double()
    scores = Word(box).scores(network(net.normalize(plain)), 1)
    (expected,) = torch.autograd.grad(scores.sum(), plain)
    assert (own - expected).abs().max() <= 1e-8 * expected.abs().max()
