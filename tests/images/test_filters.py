from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_viz.images import filters
from lit_viz.images.filters import gaussian_blur

SIGMAS = [0.0, 0.1, 0.5, 1.6, 4.0]


@pytest.mark.parametrize("shape", [(5, 3, 20, 31), (5, 1, 17, 18), (5, 2, 3, 4), (5, 1, 1, 1), (5, 3, 1, 9)])
@pytest.mark.parametrize("truncate", [3.0, 4.0])
@pytest.mark.parametrize("function", ["_by_shifts", "_by_convolution"])
def test_agrees_with_scipy(monkeypatch: pytest.MonkeyPatch, function: str, truncate: float, shape) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    monkeypatch.setattr(filters, "_by_shifts", getattr(filters, function))
    images = torch.rand(shape, dtype=torch.float64)
    blurred = gaussian_blur(images, torch.tensor(SIGMAS), truncate)
    for image, found, sigma in zip(images, blurred, torch.tensor(SIGMAS).tolist(), strict=True):
        expected = ndimage.gaussian_filter(image.numpy(), (0, sigma, sigma), truncate=truncate)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_rows_are_independent() -> None:
    images = torch.zeros(3, 1, 9, 9)
    images[1] = torch.nan
    blurred = gaussian_blur(images, torch.tensor([2.0, 1.0, 2.0]))
    assert torch.equal(blurred[[0, 2]], torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize("shape", [(3, 2, 6, 7), (3, 1, 2, 3)])
def test_gradient_agrees_with_finite_differences(shape) -> None:
    images = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gaussian_blur(x, torch.tensor([0.0, 0.7, 1.6])), images)


def test_the_input_is_not_changed() -> None:
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    gaussian_blur(images, torch.tensor([1.0, 0.0]))
    assert torch.equal(images, before)
    assert gaussian_blur(images, torch.zeros(2)).data_ptr() != images.data_ptr()


def test_channels_last_images_are_convolved() -> None:
    """Gradients of networks are channels-last, and the convolution groups the planes without a copy."""
    images, sigma = torch.rand(2, 3, 9, 8), torch.tensor([1.0, 2.0])
    kernels = [filters._half_kernel(float(value), 4.0) for value in sigma]
    radius = max(map(len, kernels)) - 1
    rows = images.contiguous(memory_format=torch.channels_last)
    blurred = filters._by_convolution(filters._reflect(rows, radius), kernels)[..., radius:-radius, radius:-radius]
    torch.testing.assert_close(blurred, gaussian_blur(images, sigma))
