"""MACO: phases alone move, and the magnitude stays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images import MACO, Canvas, Noise, RandomCrop, encoding_error
from lit_viz.images.reading import encode_png, read_photograph
from lit_viz.methods import ClassVisualization
from lit_viz.methods.recipes import PictureOptions
from lit_viz.networks import Network
from lit_viz.optim import NAdam
from lit_viz.rng import Draws, Key
from tests.support.runs import Train, tasks_for

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(3, 8, 8), (3, 7, 9), (3, 8, 5), (3, 5, 8), (1, 6, 7), (3, 1, 4), (1, 2, 1)]
COLOUR = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOUR = COLOUR / np.linalg.norm(COLOUR, axis=0).max()


def _canvas(channels: int, height: int, width: int) -> Canvas:
    return Canvas(channels, height, width, MEAN[:channels], STD[:channels])


def _start(maco: MACO, canvas: Canvas, count: int = 2) -> Tensor:
    return maco.start(Draws([Key(seed, 0) for seed in range(count)]), canvas).double()


def _planes(images: Tensor, chroma: float = 1.0) -> np.ndarray:
    """Return the values before the sigmoid and the colours, ``(N, C, H, W)``."""
    pixels = images.double().numpy()
    logits = np.log(pixels) - np.log1p(-pixels)
    if logits.shape[1] == 1:
        return logits
    return np.einsum("dc,nchw->ndhw", np.linalg.inv(COLOUR * [1, chroma, chroma]), logits)


def _power_law(canvas: Canvas, decay: float) -> np.ndarray:
    """Return ``1 / f ** decay`` over the whole spectrum, mean zero, of planes with standard deviation 1."""
    _, height, width = canvas.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    with np.errstate(divide="ignore"):
        magnitude = np.where(frequency > 0, frequency ** -float(decay), 0.0)
    return magnitude / np.sqrt((magnitude**2).sum()) * height * width


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("maco", [MACO(), MACO(decay=1.3, contrast=1.7, chroma=0.5)], ids=repr)
def test_any_phases_have_the_given_magnitude(maco: MACO, shape: tuple[int, int, int]) -> None:
    canvas = _canvas(*shape)
    x = _start(maco, canvas) + 3 * torch.randn(2, 1, 1, 1, dtype=torch.float64)
    found = np.abs(np.fft.fft2(_planes(maco.decode(x, canvas), maco.chroma)))
    expected = np.broadcast_to(maco.contrast * _power_law(canvas, maco.decay), found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 6)])
def test_agrees_with_a_direct_sum_of_waves(shape: tuple[int, int, int]) -> None:
    """Each wave of the inner columns represents two."""
    maco, canvas = MACO(), _canvas(*shape)
    x = _start(maco, canvas, 1)
    _, height, width = shape
    planes, law = _planes(maco.decode(x, canvas))[0], _power_law(canvas, 1.0)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    for i in range(height):
        for j in range(1, (width + 1) // 2):
            wave = np.exp(-2j * np.pi * (i * rows / height + j * columns / width))
            found = (planes * wave).sum((1, 2))
            np.testing.assert_allclose(found, law[i, j] * np.exp(1j * x[0, :, i, j].numpy()), atol=1e-9)


@pytest.mark.parametrize("shape", SIZES)
def test_gradient_agrees_with_finite_differences(shape: tuple[int, int, int]) -> None:
    maco, canvas = MACO(contrast=1.5), _canvas(*shape)
    assert torch.autograd.gradcheck(lambda x: maco.decode(x, canvas), _start(maco, canvas).requires_grad_())


@pytest.mark.parametrize("shape", SIZES)
def test_encoding_preserves_representable_images_only(shape: tuple[int, int, int]) -> None:
    maco, canvas = MACO(contrast=0.7), _canvas(*shape)
    images = maco.decode(_start(maco, canvas), canvas)
    if min(shape[1:]) > 4:  # real waves of negative sign, which are few, come back positive
        assert encoding_error(maco, maco.decode(maco.encode(images, canvas), canvas), canvas)[0] < 1e-9
        photograph = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
        assert encoding_error(maco, photograph, canvas)[1] > 1


def _folder(path: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    files = []
    for number, size in enumerate(sizes):
        file = path / f"{number}.png"
        image = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5, generator=generator), size, mode="bicubic")
        file.write_bytes(encode_png(image[0].clamp(0.1, 0.7)))
        files.append(file)
    return files


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 10), (1, 9, 6)])
def test_the_magnitude_is_the_mean_of_a_folders(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    files = _folder(tmp_path, [(20, 30), (9, 9), (40, 12)])
    canvas = _canvas(*shape)
    photographs = torch.stack([read_photograph(file, shape[1:], shape[0]).pixels for file in files])
    planes = np.fft.fft2(_planes(photographs))
    maco = MACO(str(tmp_path), contrast=0.8)
    found = np.fft.fft2(_planes(maco.decode(_start(maco, canvas), canvas)))
    expected = 0.8 * np.abs(planes).mean(0)
    expected[:, 0, 0] = np.abs(planes[:, :, 0, 0].real.mean(0))  # which contrast leaves alone
    np.testing.assert_allclose(np.abs(found), np.broadcast_to(expected, found.shape), atol=1e-5)
    np.testing.assert_allclose(found[0, :, 0, 0].real, planes[:, :, 0, 0].real.mean(0), atol=1e-5)


def test_chroma_calms_the_colours_of_photographs_too(tmp_path: Path) -> None:
    _folder(tmp_path, [(20, 30), (9, 9)])
    canvas = _canvas(3, 8, 8)

    def colourful(chroma: float) -> float:
        maco = MACO(str(tmp_path), chroma=chroma)
        image = maco.decode(_start(maco, canvas), canvas)[0]
        return float((image - image.mean(0)).abs().mean())

    assert colourful(0.1) < 0.3 * colourful(1.0)


def test_a_missing_or_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="there is no photograph or folder"):
        MACO(str(tmp_path / "nowhere"))
    with pytest.raises(LitVizError, match="there is no picture in the folder"):
        MACO(str(tmp_path))
    for name in ("contrast", "chroma"):
        with pytest.raises(LitVizError, match=f"{name} of MACO must be positive"):
            MACO(**{name: 0.0})


@pytest.mark.parametrize("size", [(16, 16), (21, 34)])
def test_training_keeps_the_magnitude_and_finds_the_class(smooth: Network, train: Train, size: tuple[int, int]) -> None:
    maco = MACO(contrast=1.5)
    transforms = [RandomCrop(0.9, 1.0, shrink=0.8), Noise(0.01)]
    module = ClassVisualization(
        smooth,
        parameterization=maco,
        step_rule=NAdam(0.3),
        transforms=transforms,
        views=3,
        picture=PictureOptions(size),
        iterations=20,
        slots=2,
        log_at="last",
    )
    shown: list[Tensor] = []
    module.project = lambda x: shown.append(module.parameterization.decode(x, module.canvas)) or x
    memory = train(module, tasks_for(smooth, [1, 3]), precision="64-true")
    for seen in memory.snapshots.values():
        assert seen[-1].metrics["objective"] > seen[0].metrics["objective"] + 0.03
    assert not torch.equal(shown[0], shown[-1])
    for images in (shown[0], shown[-1]):
        found = np.abs(np.fft.fft2(_planes(images)))
        expected = 1.5 * _power_law(module.canvas, 1.0)
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-9)


def test_a_resumed_run_is_bit_equal(smooth: Network, train: Train, tmp_path: Path) -> None:
    from lit_viz.callbacks.saving import ExactCheckpoint

    def method() -> ClassVisualization:
        crop = [RandomCrop(0.8, 1.0, shrink=0.3)]
        return ClassVisualization(
            smooth, parameterization=MACO(), step_rule=NAdam(0.5), transforms=crop, iterations=6, slots=2
        )

    class Dies(ExactCheckpoint):
        def on_train_batch_end(self, trainer: object, *args: object) -> None:
            if trainer.global_step == 4:  # type: ignore[attr-defined]
                raise RuntimeError("killed")
            super().on_train_batch_end(trainer, *args)

    tasks, path = tasks_for(smooth, [0, 1]), tmp_path / "last.ckpt"
    undisturbed = train(method(), tasks)
    with pytest.raises(RuntimeError, match="killed"):
        train(method(), tasks, [Dies(path, every_steps=3)])
    rest = train(method(), tasks, ckpt_path=path)
    assert len(rest.results) == 2
    for index, result in rest.results.items():
        assert torch.equal(result.image, undisturbed.results[index].image)


def test_the_start_is_uniform_in_phase() -> None:
    x = MACO().start(Draws([Key(0, 0)]), _canvas(3, 64, 64))
    assert x.abs().max() <= math.pi
    assert abs(float(x.mean())) < 5 * math.pi / math.sqrt(3 * x.numel())
    assert float(x.std()) == pytest.approx(math.pi / math.sqrt(3), rel=0.05)
