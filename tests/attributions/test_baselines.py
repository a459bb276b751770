"""Baselines that are images: one, the average of several, and one that every sample draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attributions import GradientShap, InputXGradient
from lit_viz.attributions.base import Attribution, attribute
from lit_viz.attributions.baselines import BaselinePhotographs
from lit_viz.attributions.deep_lift import DeepLift
from lit_viz.attributions.integrated_gradients import IntegratedGradients
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.types import Task
from lit_viz.utils.parts import plain_arguments
from tests.support.attributions import photographs
from tests.support.verdicts import verdicts


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
        (torch.rand(64, 64), r"a baseline image must be \(C, H, W\) or \(B, C, H, W\), got shape \(64, 64\)"),
        (torch.rand(3, 64, 64) + 1, r"a baseline image must be in \[0, 1\], got 1 to 2"),
        (torch.full((3, 4, 4), torch.nan), r"a baseline image must be in \[0, 1\], got nan to nan"),
        (None, "baseline must be a number or a name or .* or a list, got None"),
        (True, "baseline must be a number or a name or .* or a list, got True"),
        ("blured", "got 'blured'; did you mean 'blurred'"),
        ("mean:nowhere", "there is no photograph or folder 'nowhere'"),
        (["black", "mean"], "there is no photograph or folder 'black'"),
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


IMAGES = (torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(9)) * 255).round() / 255


def folder_of(images: Tensor, folder: Path) -> str:
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(encode_png(image))
    return str(folder)


def our(method: Attribution, network: Network, evaluations: int = 4) -> Tensor:
    method.bind(network)
    networks = {str(name): network.fast(dtype=torch.float64, backprop=name) for name in method.networks}
    return attribute(method, networks, photographs(16, 16)[:1], [1], evaluations=evaluations)[0]


@pytest.mark.parametrize("kind", [IntegratedGradients, GradientShap])
def test_a_folder_without_images_is_one_sentence(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(lv.LitVizError, match=r"there is no picture in the folder .*, only notes\.txt"):
        kind(baseline=f"mean:{tmp_path}")


@pytest.mark.parametrize("kind", [IntegratedGradients, DeepLift, InputXGradient])
def test_several_images_mean_their_average(kind: Any, smooth: Network, tmp_path: Path) -> None:
    folder = folder_of(IMAGES, tmp_path)
    files = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    expected = our(kind(baseline=IMAGES.double().mean(0)), smooth)
    for given in (IMAGES, folder, f"mean:{folder}", files):
        torch.testing.assert_close(our(kind(baseline=given), smooth), expected, rtol=1e-5, atol=1e-7)


def test_the_average_of_a_folder_is_computed_once_per_run(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are taken to bind the method to the network and for the average, not again for each batch."""
    taken, call = list[tuple[int, ...]](), BaselinePhotographs.__call__

    def counted(pictures: BaselinePhotographs, shape: tuple[int, ...]) -> Tensor:
        taken.append(shape)
        return call(pictures, shape)

    monkeypatch.setattr(BaselinePhotographs, "__call__", counted)
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    baseline = f"mean:{folder_of(IMAGES, tmp_path)}"
    lv.saliency(smooth, images, target=1, method="input_x_gradient", baseline=baseline, captum="none", slots=2)
    assert taken == [(3, 16, 16)] * 2


def test_the_input_less_the_baseline_is_multiplied(smooth: Network) -> None:
    x = photographs(16, 16)[:1].requires_grad_()
    (gradient,) = torch.autograd.grad(smooth.fast(dtype=torch.float64)(x)[0][0, 1], x)
    expected = (x.detach() - IMAGES[0]) * gradient
    torch.testing.assert_close(our(InputXGradient(baseline=IMAGES[0]), smooth), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("given", ["mean:FOLDER", ["mean:FOLDER"], "FOLDER", "images"])
def test_gradient_shap_draws_of_several_images_and_an_average_is_one(
    given: Any, smooth: Network, tmp_path: Path
) -> None:
    folder = folder_of(IMAGES, tmp_path)
    if given == "images":
        method = GradientShap(baseline=IMAGES)
    elif isinstance(given, list):
        method = GradientShap(baseline=[f"mean:{folder}"])
    else:
        method = GradientShap(baseline=given.replace("FOLDER", folder))
    method.bind(smooth)
    x = photographs(16, 16).float()
    numbers = torch.arange(60)
    state: Any = method.init(x[:1], [Task(0, "x", 0)])
    start, _, _ = method.draw(x[:1], state, torch.zeros(60, dtype=torch.long), numbers)
    drawn = start.unique(dim=0)
    expected = IMAGES.mean(0, keepdim=True) if "mean" in str(given) else IMAGES.unique(dim=0)
    torch.testing.assert_close(drawn, expected)


def test_files_on_the_command_line(lit_viz: Any, small_options: Any, tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    folder = folder_of(IMAGES, tmp_path / "photographs")
    words = ["--method", "input_x_gradient", "--method.baseline", f"mean:{folder}", "--captum", "captum"]
    lit_viz("saliency", "packaged:chelsea", *small_options, *words, "--out", str(tmp_path / "run"))
    (record,) = lv.resume(tmp_path / "run").records
    assert len(record["baselines_sha256"]) == 64
    assert verdicts(tmp_path / "run") == [True]
