"""The reported error of sampled maps of a trained network holds within a factor of 1.5."""

from __future__ import annotations

import math

import pytest
from torch import Tensor

from lit_viz import load_network
from lit_viz.attributions import ATTRIBUTIONS, Sampling
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from scripts.calibrate_saliency_error import compare, resample, within
from tests.support.runs import SHARED

DAISY = SHARED / "data" / "images" / "n11939491_daisy.JPEG"
PHOTOGRAPHS = ["packaged:chelsea", "packaged:coffee", *([str(DAISY)] if DAISY.exists() else [])]
COUNTS = [2, 4, 8, 16, 32, 64, 128, 256]


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("efficientnet_lite0")


def photograph(path: str, network: Network) -> tuple[Tensor, int]:
    x = read_photograph(path, network.size).pixels.float()[None]
    return x, int(network.scores(x).argmax(1))


@pytest.mark.slow
@pytest.mark.parametrize("path", PHOTOGRAPHS)
@pytest.mark.parametrize("name", ["smoothgrad", "smoothgrad_squared", "vargrad", "gradient_shap"])
def test_the_error_of_gradients_holds(name: str, path: str, network: Network) -> None:
    method = ATTRIBUTIONS[name]()
    assert isinstance(method, Sampling)
    x, target = photograph(path, network)
    pairs = compare(method, network.fast(), x, target, COUNTS, 256)
    assert all(within(pairs[count]) in (1, pytest.approx(math.nan, nan_ok=True)) for count in COUNTS), pairs
    assert within(pairs[128]) == within(pairs[256]) == 1  # resolved


@pytest.mark.slow
def test_the_error_of_rise_holds(network: Network) -> None:
    pairs = []
    for path in PHOTOGRAPHS:
        x, target = photograph(path, network)
        of_photograph = resample(network.fast(), x, target, [*COUNTS, 512, 1000], 1280)
        pairs += [pair for of_count in of_photograph.values() for pair in of_count]
    assert within(pairs) > 0.9
    assert sum(math.isfinite(reported) for reported, _ in pairs) > 100  # resolved
