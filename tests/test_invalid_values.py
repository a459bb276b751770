"""Values that once were raw exceptions, late failures or silent nonsense: one sentence before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.cli import main
from lit_viz.errors import LitVizError
from lit_viz.images.rasters import read_image
from lit_viz.launch.status import run_states
from lit_viz.networks import Network
from lit_viz.networks.bands import Bands
from tests.support.networks import smooth_network


def network(**options: Any) -> Network:
    return lv.load_network(smooth_network(), **{"size": 16, "mean": 0.5, "std": 0.25, **options})


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16)


def saliency(given: Any = None, **options: Any) -> Any:
    options = {"method": "gradient", "target": 1, "captum": "none", **options}
    return lv.saliency(network(), images() if given is None else given, **options)


def masked() -> Any:
    values = images().numpy()
    return np.ma.masked_array(values, mask=values > 0.5)


class Varying(nn.Module):
    """A network that returns a score less from its 13th call on."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.calls = smooth_network(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        scores: Tensor = self.network(x)
        return scores if self.calls <= 12 else scores[:, 1:]


def of_varying(**options: Any) -> Any:
    net = lv.load_network(Varying().eval(), size=16, mean=0.5, std=0.25)
    return lv.saliency(net, images(), target=1, captum="none", **options)


CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: lv.visualize(network(), layer="features.0", channel=[]), "channel must have at least one channel"),
    (lambda: of_varying(method="smoothgrad", iterations=40), "must give equally many scores in every evaluation, got"),
    (lambda: of_varying(method="occlusion", window=4), "must give equally many scores in every evaluation, got"),
    (lambda: saliency(normalization=(0, 0)), "normalization must have finite means, and stds of at least"),
    (lambda: saliency(normalization=(0.5, 1e-30)), "normalization must have finite means, and stds of at least"),
    (lambda: saliency(normalization=(float("nan"), 1)), "normalization must have finite means, and stds of at least"),
    (lambda: network(std=1e-30), r"std must be at least 1e-06 for images in \[0, 1\], got 1e-30"),
    (lambda: network(std=[0.0, 1, 1]), "std must be positive, got 0, 1, 1"),
    (lambda: saliency(masked()), r"images must have no masked values, got \d+: fill them"),
    (lambda: saliency(list(masked())), r"images must have no masked values, got \d+: fill them"),
    (lambda: saliency(gamma=2), "gamma requires against, got 2"),
    (lambda: lv.visualize(network(), [1], iterations=1, gamma=2), "gamma requires against, got 2"),
    (lambda: lv.attack(network(), images(), attack="pgd", momentum=5), "momentum must be 0 to 2, got 5"),
    (lambda: saliency(method="smoothgrad", sigma=1e30), "sigma of SmoothGrad must be positive and at most 10"),
    (lambda: lv.visualize(network(), [1], decay=float("nan")), "decay of Fourier must be finite, got nan"),
    (lambda: lv.images.MACO(decay=float("inf")), "decay of MACO must be finite, got inf"),
    (lambda: lv.visualize(network(), [1], size=99_999_999), "size must be at most 16384, got 99999999 x 99999999"),
    (lambda: network(size=99_999_999), "size must be at most 16384 pixels, got 99999999"),
    (lambda: saliency(tile="abc"), "tile must be network or a side in pixels, got 'abc'"),
    (lambda: lv.visualize(network(), [1], lr=["a", "b"]), "lr must be numbers, got 'a'"),
    (lambda: lv.visualize(network(), [1], lr=-1), "lr must be positive and finite, got -1"),
    (lambda: run_states(["."], stale=-5), "stale must be a positive number of seconds, got -5"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[f"{n} {text[:30]}" for n, (_, text) in enumerate(CALLS)])
def test_an_invalid_value_is_one_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saliency(n_steps=3), "n_steps is not an argument .*: use iterations"),
        (lambda: saliency(method="smoothgrad", nt_samples=3), "nt_samples is not an argument .*: use iterations"),
        (lambda: saliency(method="smoothgrad", stdevs=0.1), "stdevs is not an argument .*: use sigma"),
        (lambda: saliency(layer="features.0"), "layer is not .* a method that reads a layer, such as grad_cam"),
        (lambda: saliency(method="Saliency"), "there is no method 'Saliency': use gradient"),
        (lambda: saliency(method="NoiseTunnel"), "there is no method 'NoiseTunnel': use smoothgrad"),
        (lambda: lv.attack(network(), images(), attack="BIM"), "'BIM': use pgd with random_start=False"),
        (lambda: lv.attack(network(), images(), attack="MIFGSM"), "'MIFGSM': use pgd .* and momentum=1"),
        (lambda: lv.attack(network(), images(), attack="CW"), "'CW': use carlini_wagner"),
        (lambda: lv.attack(network(), images(), attack="FAB"), "'FAB': use fmn"),
        (lambda: lv.attack(network(), images(), attack="AutoAttack"), "'AutoAttack': use ensemble"),
    ],
)
def test_names_of_other_tools_have_a_hint(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        call()


def test_parts_are_named_by_their_module() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'PGD': use lv\.attacks\.PGD"):
        _ = lv.PGD  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no attribute 'Foo'$"):
        _ = lv.Foo  # type: ignore[attr-defined]


def test_a_training_without_tasks_names_those_of_the_method() -> None:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=1)
    with pytest.raises(LitVizError, match=r"must be a TaskQueue, such as lit_viz.ImageTasks"):
        trainer.fit(lv.SaliencyMap(network()), images())


@pytest.mark.parametrize("command", ["saliency", "check", "microscope", "status"])
def test_a_command_without_words_prints_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command])
    assert end.value.code == 1
    assert capsys.readouterr().out.startswith(f"usage: lit-viz {command}")


def test_a_mask_without_masked_values_is_accepted() -> None:
    values = images().numpy()
    expected = saliency(values).arrays
    assert torch.equal(saliency(np.ma.masked_array(values, mask=np.zeros(values.shape, bool))).arrays, expected)


MAP = ["saliency", "zoo:fashion/bag_18", "--network", "zoo/fashion_cnn", "--logger", "none"]
IMAGE = ["visualize", "bag", "--network", "zoo/fashion_cnn", "--logger", "none"]


def test_a_damaged_tiff_file_is_one_sentence_with_a_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """tifffile logs lines of its own."""
    file = tmp_path / "damaged.tif"
    tifffile.imwrite(file, np.zeros((4, 32, 32), np.uint16), photometric="minisblack", description="x" * 500)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    level = logging.getLogger("tifffile").level
    with pytest.raises(LitVizError, match=r"damaged.tif (can't be read .*: save it again|is truncated: copy)"):
        read_image(file, (32, 32), Bands.of(4))
    assert not caplog.records
    assert logging.getLogger("tifffile").level == level


def test_a_photograph_that_cannot_be_read_has_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    with pytest.raises(LitVizError, match="is not an image that Pillow can read: save it as PNG or JPEG, or leave"):
        saliency(str(file))
