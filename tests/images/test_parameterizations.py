from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lit_viz.errors import LitVizError
from lit_viz.images import Canvas, Fourier, Pixels, encoding_error
from lit_viz.rng import Draws, Key

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(3, 8, 8), (3, 7, 9), (3, 8, 5), (3, 5, 8), (1, 6, 7), (3, 1, 1), (1, 2, 3)]
ALL = [Pixels(), Pixels("normalized"), Fourier(), Fourier(decay=0.5, decorrelate=False), Fourier(chroma=0.4)]


def _canvas(channels: int, height: int, width: int) -> Canvas:
    return Canvas(channels, height, width, MEAN[:channels], STD[:channels])


def _draws(count: int) -> Draws:
    return Draws([Key(seed, 0) for seed in range(count)])


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("parameterization", ALL, ids=repr)
def test_start_decodes_to_images_of_the_canvas(parameterization, shape) -> None:
    canvas = _canvas(*shape)
    x = parameterization.start(_draws(2), canvas)
    images = parameterization.decode(x, canvas)
    assert images.shape == (2, *shape)
    assert images.dtype == torch.float32
    assert torch.equal(parameterization.start(Draws([Key(1, 0)]), canvas)[0], x[1])
    if parameterization != Pixels("normalized"):
        assert images.min() >= 0
        assert images.max() <= 1


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("parameterization", ALL, ids=repr)
def test_gradient_agrees_with_finite_differences(parameterization, shape) -> None:
    canvas = _canvas(*shape)
    x = parameterization.start(_draws(2), canvas).double()
    x = (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: parameterization.decode(x, canvas), x)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("parameterization", ALL, ids=repr)
def test_decoding_inverts_encoding(parameterization, shape) -> None:
    canvas = _canvas(*shape)
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).mul(253).add(1).round().div(255)
    worst, mean = encoding_error(parameterization, images.double(), canvas)
    assert worst < 1e-9
    assert mean <= worst
    assert encoding_error(parameterization, images, canvas)[0] < 1e-3


def test_fourier_gives_every_8_bit_value_back_after_rounding() -> None:
    canvas = _canvas(3, 16, 16)
    levels = torch.arange(256).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    fourier = Fourier()
    decoded = fourier.decode(fourier.encode(levels / 255, canvas), canvas)
    assert torch.equal(decoded.mul(255).round().long(), levels)
    assert encoding_error(fourier, levels / 255, canvas)[0] == pytest.approx(0.25, abs=1e-3)


def test_pixels_in_unit_space_encode_exactly() -> None:
    images = torch.rand(2, 3, 5, 4)
    canvas = _canvas(3, 5, 4)
    x = Pixels().encode(images, canvas)
    assert torch.equal(Pixels().decode(x, canvas), images)
    assert x.data_ptr() != images.data_ptr()


def test_normalized_pixels_equal_the_input_of_the_network() -> None:
    canvas = _canvas(3, 4, 5)
    images = torch.rand(2, 3, 4, 5)
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    expected = (images.double().numpy() - mean) / std
    np.testing.assert_allclose(Pixels("normalized").encode(images, canvas).numpy(), expected, atol=1e-6)


def test_normalized_start_is_standard_normal() -> None:
    x = Pixels("normalized").start(_draws(8), _canvas(3, 64, 64))
    assert abs(float(x.mean())) < 5 / math.sqrt(x.numel())
    assert abs(float(x.std()) - 1) < 5 / math.sqrt(2 * x.numel())


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 1.3])
def test_fourier_agrees_with_a_direct_sum_of_waves(height: int, width: int, decay: float) -> None:
    canvas = _canvas(3, height, width)
    x = Fourier(sd=1.0).start(_draws(1), canvas).double()
    half = x[0, ..., 0].numpy() + 1j * x[0, ..., 1].numpy()
    down, across = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    scale = np.maximum(np.hypot(down[:, None], across), 1 / max(height, width)) ** -decay
    rows, columns = np.arange(height), np.arange(width)
    planes = np.zeros((3, height, width))
    for i, fy in enumerate(down):
        for j, fx in enumerate(across):
            # The waves of the inner columns stand for their mirror images too.
            times = 1 if j == 0 or 2 * j == width else 2
            wave = np.exp(2j * np.pi * (fy * rows[:, None] + fx * columns))
            planes += times * (half[:, i, j, None, None] * scale[i, j] * wave).real
    planes /= 4 * math.sqrt(height * width)
    colour = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    planes = np.einsum("dc,chw->dhw", colour / np.linalg.norm(colour, axis=0).max(), planes)
    decoded = Fourier(decay=decay).decode(x, canvas)[0].numpy()
    np.testing.assert_allclose(decoded, 1 / (1 + np.exp(-planes)), atol=1e-12)


def test_chroma_scales_the_color_directions_only() -> None:
    canvas, x = _canvas(3, 6, 6), torch.randn(2, 3, 6, 4, 2, dtype=torch.float64)
    calmer = x * torch.tensor([1.0, 0.4, 0.4], dtype=torch.float64).view(3, 1, 1, 1)
    torch.testing.assert_close(Fourier(chroma=0.4).decode(x, canvas), Fourier().decode(calmer, canvas))


def test_one_channel_has_no_colour() -> None:
    canvas, x = _canvas(1, 6, 6), torch.randn(2, 1, 6, 4, 2)
    assert torch.equal(Fourier().decode(x, canvas), Fourier(decorrelate=False).decode(x, canvas))


def test_rows_are_independent() -> None:
    canvas, x = _canvas(3, 9, 8), torch.randn(4, 3, 9, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(Fourier().decode(x[2:3], canvas)[0], Fourier().decode(x, canvas)[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Pixels("rgb"), "unit or normalized"),
        (lambda: Pixels(sd=-1.0), "sd of Pixels"),
        (lambda: Fourier(sd=-1.0), "sd of Fourier"),
        (lambda: Fourier(clip=0.5), "clip of Fourier"),
    ],
)
def test_invalid_arguments_are_rejected(build, sentence: str) -> None:
    with pytest.raises(LitVizError, match=sentence):
        build()
