"""Networks that raise on single images: these fail, and the others have the results of a run without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.errors import LitVizError, NetworkError
from lit_viz.networks import Network
from lit_viz.optim import Evaluation
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import NAMES, smooth_network

pytestmark = pytest.mark.filterwarnings("ignore:.* failed of .* images")
BRIGHT = 0.8  # mean of the images on which the network raises


class Raising(nn.Module):
    """A network that raises on batches with a bright image."""

    def __init__(self) -> None:
        super().__init__()
        self.network = smooth_network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        pixels = x * 0.25 + 0.5
        if bool((pixels.flatten(1).mean(1) > BRIGHT).any()):
            raise ValueError("too bright")
        return logits


def network() -> Network:
    return load_network(Raising(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)


def photographs(bright: Sequence[int], count: int = 5) -> Tensor:
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    for index in bright:
        images[index] = 230 / 255
    return images


def attacked(images: Tensor, **options: Any) -> Any:
    return lv.attack(network(), images, attack="pgd", eps=0.1, iterations=3, **options)


def mapped(images: Tensor, **options: Any) -> Any:
    return lv.saliency(network(), images, method=["gradient", "smoothgrad"], iterations=4, captum="none", **options)


def mapped_of_targets(images: Tensor, **options: Any) -> Any:
    """Photographs with a target are evaluated by the step rule only, the others also before it."""
    return lv.saliency(network(), images, target=1, method="gradient", captum="none", **options)


@pytest.mark.parametrize("run", [attacked, mapped, mapped_of_targets])
@pytest.mark.parametrize("slots", [slow(1), 2, slow(8)])
def test_only_the_image_fails(run: Callable[..., Any], slots: int) -> None:
    images = photographs([1, 2])
    results = run(images, slots=slots).records
    dark = images.clone()
    dark[1:3] = 0.25
    others = run(dark, slots=slots).records
    for result, other in zip(results, others, strict=True):
        if result["name"] in (results[1]["name"], results[2]["name"]):
            assert result["status"] == "failed"
            assert "raised ValueError" in result["error"]
            assert result["error"].endswith("too bright")
        else:
            assert result["status"] == "done"
            for name in ("forwards", "backwards", "iterations"):
                assert result[name] == other[name]
            assert result["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_only_the_class_image_fails(smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network raises on the images of class 0 from iteration 3."""
    score = lv.ClassVisualization.score

    def raising(self: lv.ClassVisualization, x: Tensor, rows: Sequence[int], **options: Any) -> Evaluation:
        for n in rows:
            if self.slots.tasks[n].target == 0 and self.slots.iteration[n] >= 3:
                raise NetworkError("an apple")
        return score(self, x, rows, **options)

    undisturbed = lv.visualize(smooth, [1, 0, 2], iterations=6, slots=2)
    monkeypatch.setattr(lv.ClassVisualization, "score", raising)
    run = lv.visualize(smooth, [1, 0, 2], iterations=6, slots=2)
    assert [result["status"] for result in run.records] == ["done", "failed", "done"]
    assert (run.records[1]["error"], run.records[1]["iterations"]) == ("an apple", 3)
    for index in (0, 2):
        assert run.records[index]["backwards"] == undisturbed.records[index]["backwards"]
        torch.testing.assert_close(run.images[index], undisturbed.images[index], rtol=0, atol=2 / 255)


@pytest.mark.parametrize("slots", [1, 8])
def test_a_network_that_raises_on_every_image_ends_the_run(slots: int) -> None:
    with pytest.raises(LitVizError, match=r"raised ValueError at .* too bright"):
        attacked(photographs(range(5)), slots=slots)


def test_a_resumed_run_goes_on_after_the_image(tmp_path: Path) -> None:
    images, out = photographs([2]), tmp_path / "run"
    first = attacked(images, slots=1, out=out, logger="none")
    assert first.records[2]["status"] == "failed"
    again = attacked(images, slots=1, out=out, logger="none", resume=True)
    assert [result["status"] for result in again.records] == [result["status"] for result in first.records]


def test_out_of_memory_is_not_an_error_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Raising, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    net = network()
    monkeypatch.setattr(Raising, "forward", exhausted)
    with pytest.raises(LitVizError, match="out of GPU memory"):
        lv.saliency(net, photographs([]), target=1, method="gradient", captum="none")
