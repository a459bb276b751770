"""Bands of a network: their number, names, ranges and display."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks.bands import Bands
from tests.support.bands import band_network


class _Recording(nn.Module):
    """Scores that are the means of two bands, and the last input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.input = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.input = x.detach().clone()
        return x.mean((2, 3))[:, :2] * self.weight


@pytest.mark.parametrize("value_range", [(0, 10_000), (-5_000.0, 20_000), [(0, 8_000), (-1, 9_000), (0, 10_000)]])
def test_the_network_receives_standardized_values_of_the_file_whatever_the_range(value_range: Any) -> None:
    network = _Recording().eval()
    mean, std = [1000.0, 2000.0, 3000.0], [500.0, 600.0, 700.0]
    net = lv.load_network(network, channels=3, size=8, mean=mean, std=std, value_range=value_range)
    values = 8000 * torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = torch.tensor(net.bands.ranges, dtype=torch.float64).view(3, 2, 1, 1).unbind(1)
    net(((values - low) / (high - low)).float())
    expected = (values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(network.input.double(), expected, atol=1e-5)


def test_two_ranges_give_equal_scores_of_a_file(tmp_path: Any) -> None:
    import numpy as np

    file = tmp_path / "a.npy"
    np.save(file, np.random.default_rng(0).integers(0, 4000, (13, 16, 16)).astype(np.uint16))
    logits = []
    for value_range in [(0, 10_000), (0, 4096)]:
        net = lv.load_network(band_network(), size=16, mean=1000.0, std=500.0, value_range=value_range)
        logits.append(lv.saliency(net, str(file), target=1, captum="none").records[0].metrics["logit"])
    assert logits[0] == pytest.approx(logits[1], rel=1e-4)


def test_without_mean_and_std_the_network_receives_the_values_of_the_file() -> None:
    network = _Recording().eval()
    net = lv.load_network(network, channels=2, size=8, value_range=(0, 255))
    net(torch.full((1, 2, 8, 8), 0.5))
    assert torch.allclose(network.input, torch.full((1, 2, 8, 8), 127.5))


def test_mean_in_the_unit_of_files_requires_a_range() -> None:
    with pytest.raises(LitVizError, match=r"mean must be at most 1, for images in \[0, 1\], got 127.5"):
        lv.load_network(band_network(), size=16, mean=127.5)


def test_the_arguments_load_the_same_network() -> None:
    names = [f"B{i:02}" for i in range(13)]
    given: dict[str, Any] = {"bands": names, "display": ["B04", "B03", "B02"], "mean": 1000.0, "std": 300.0}
    given["value_range"] = [(0.0, 1000.0 * (i + 1)) for i in range(13)]
    module = band_network()
    net = lv.load_network(module, size=16, **given)
    arguments = {name: value for name, value in net.arguments.items() if name not in ("name", "weights")}
    again = lv.load_network(module, **arguments)
    assert again.bands == net.bands
    assert again.mean == pytest.approx(net.mean)
    assert arguments["mean"] == [1000.0] * 13
    assert arguments["display"] == ["B04", "B03", "B02"]


@pytest.mark.parametrize(("channels", "drawn"), [(1, (0,)), (2, (0,)), (3, (0, 1, 2)), (13, (0, 1, 2))])
def test_default_display(channels: int, drawn: tuple[int, ...]) -> None:
    bands = Bands.of(channels)
    assert bands.display == drawn
    assert bool(bands.notes) == (channels not in (1, 3))
    assert bands.draw(torch.zeros(2, channels, 4, 4)).shape[1] == len(drawn)


def test_a_note_names_the_drawn_bands() -> None:
    assert Bands.of(4, ["blue", "green", "red", "nir"]).notes == [
        "figures draw blue, green, red of 4 bands: give display=[...] for others"
    ]
    assert not Bands.of(4, display=[3]).notes
    assert Bands.of(4, display="3,2,1").display == (3, 2, 1)
    assert Bands.of(4, ["a", "b", "c", "d"], display="d,b,a").display == (3, 1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be between 1 and 512, got 0"),
        ({"channels": 513}, "channels must be between 1 and 512, got 513"),
        ({"channels": 12}, r"raised RuntimeError on images of shape \(2, 12, 16, 16\)"),
        ({"bands": ["a", "b"]}, r"bands must be one name per channel \(13\), got 2"),
        ({"bands": ["a"] * 13}, "bands must have different names"),
        ({"display": [0, 1]}, "display must be one or three bands, got 2"),
        ({"display": [13]}, "there is no band 13 among the 13 bands"),
        ({"value_range": (1, 0)}, r"value_range must ascend, got \(1, 0\)"),
        ({"value_range": [(0, 1)] * 12}, r"value_range must be \(low, high\), or one pair per channel \(13\), got 12"),
        ({"mean": [0.5] * 12}, r"mean must have one value per channel \(13\), got 12"),
    ],
)
def test_invalid_bands_are_one_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LitVizError, match=message):
        lv.load_network(band_network(), size=16, **options)


def test_channels_of_a_network_without_convolutions() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(7 * 8 * 8, 3)).eval()
    assert lv.load_network(flat, size=8).channels == 7
