"""Baselines that are images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.attributions.deep_lift import DeepLift
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.networks import Network
from lit_viz.utils.parts import plain_arguments
from tests.support.attributions import photographs


@pytest.mark.parametrize("kind", [IntegratedGradients, DeepLift])
@pytest.mark.parametrize("given", [lambda image: image, lambda image: image[None], lambda image: image.numpy()])
def test_a_baseline_image_is_the_start_of_the_path(kind: Any, given: Any, smooth: Network) -> None:
    x = photographs(16, 16).float()
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(8))
    maps = lv.saliency(smooth, x, method=kind(baseline=given(image)), target=1, iterations=50, captum="none").arrays
    with torch.no_grad():
        expected = smooth(x)[:, 1] - smooth(image[None])[:, 1]
    torch.testing.assert_close(maps.sum((1, 2, 3)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (
            torch.rand(2, 3, 64, 64),
            r"a baseline image must be \(C, H, W\) or \(1, C, H, W\), got shape \(2, 3, 64, 64\)",
        ),
        (torch.rand(3, 64, 64) + 1, r"a baseline image must be in \[0, 1\], got 1 to 2"),
        (torch.full((3, 4, 4), torch.nan), r"a baseline image must be in \[0, 1\], got nan to nan"),
        (None, "baseline must be black or mean or blurred or random or a number or .* or a list, got None"),
        (True, "baseline must be black or mean or blurred or random or a number or .* or a list, got True"),
        ("blured", "got 'blured'; did you mean 'blurred'"),
    ],
)
def test_an_invalid_baseline_is_one_sentence(baseline: Any, words: str) -> None:
    with pytest.raises(lv.LitVizError, match=words) as raised:
        IntegratedGradients(baseline=baseline)
    assert len(str(raised.value)) < 150


def test_a_baseline_image_of_another_size_is_one_sentence(smooth: Network) -> None:
    with pytest.raises(lv.LitVizError, match=r"must have the shape \(3, 16, 16\) of the input, got \(3, 8, 8\)"):
        lv.saliency(smooth, torch.rand(1, 3, 16, 16), method="integrated_gradients", baseline=torch.rand(3, 8, 8))


def test_a_baseline_image_is_recorded_by_value() -> None:
    image = torch.rand(1, 4, 4)
    plain = plain_arguments(IntegratedGradients(baseline=image))
    again = IntegratedGradients(**plain["init_args"])
    assert torch.equal(again.baseline(torch.zeros(2, 1, 4, 4), [0, 0]), image.expand(2, 1, 4, 4))
