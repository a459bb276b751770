"""Maps of methods of gradients with the rule libra: definitions, Captum, the command line, and planted evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import lit_viz as lv
from lit_viz.attributions import (
    ATTRIBUTIONS,
    GradCAM,
    GradientShap,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    LibraGradient,
    SmoothGrad,
)
from lit_viz.attributions.base import Attribution, attribute
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.evidence import ORIGINAL
from lit_viz.zoo import PHOTOGRAPHS
from tests.support.networks import Attending
from tests.support.verdicts import captum, verdicts

TARGETS = [3, 0]


def transformer() -> Network:
    return load_network(Attending(), labels=list("abcde"), mean=0.5, std=0.25, size=(16, 24))


def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def our(method: Attribution, network: Network, evaluations: int = 8) -> Tensor:
    method.bind(network)
    (name,) = method.networks
    copy = network.fast(method.layers, dtype=torch.float64, backprop=name)
    networks = {str(name): copy}
    return attribute(method, networks, images(), TARGETS, evaluations=evaluations)[0]


def gradient_at(network: Network, x: Tensor, layer: str | None = None) -> tuple[Tensor, Tensor]:
    """Return gradient and value of the input or of a layer, by the rule."""
    x = x.clone().requires_grad_()
    layers = [] if layer is None else [layer]
    logits, activations = network.fast(layers, dtype=torch.float64, backprop="libra")(x, layers)
    read = x if layer is None else activations[layer]
    score = logits.gather(1, torch.tensor(TARGETS)[:, None]).sum()
    return torch.autograd.grad(score, read)[0], read.detach()


def test_maps_are_made_of_gradients_of_the_rule() -> None:
    network = transformer()
    gradient, x = gradient_at(network, images())
    assert torch.equal(our(LibraGradient(), network), gradient)
    assert torch.equal(our(InputXGradient(backprop="libra"), network), x * gradient)
    map_ = our(IntegratedGradients(backprop="libra"), network, 1)
    assert torch.allclose(map_, x * gradient_at(network, x / 2)[0], rtol=1e-10)
    gradient, tokens = gradient_at(network, images(), "blocks.0")
    patches = (gradient * tokens).sum(2)[:, -24:].view(2, 1, 4, 6)
    expected = F.interpolate(patches, (16, 24), mode="bilinear", align_corners=False)
    map_ = our(HiResCAM("blocks.0", relu=False, backprop="libra"), network)
    assert torch.allclose(map_, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "method", [SmoothGrad, GradientShap, GradCAM, ATTRIBUTIONS["expected_gradients"], ATTRIBUTIONS["vargrad"]]
)
def test_other_methods_take_the_rule(method: Any) -> None:
    network = transformer()
    rule, plain = our(method(backprop="libra"), network), our(method(), network)
    assert (rule - plain).abs().max() > 0.05 * plain.abs().max()


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(LitVizError, match=r"^backprop must be plain or libra, got 'guided'"):
        IntegratedGradients(backprop="guided")  # type: ignore[arg-type]


def test_guided_grad_cam_keeps_its_copies() -> None:
    assert GuidedGradCAM().networks == ("plain", "guided")


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (LibraGradient(), "Captum"),
        (InputXGradient(backprop="libra"), "Captum"),
        (IntegratedGradients(backprop="libra"), "Captum"),
        (SmoothGrad(backprop="libra"), "Captum"),
        (HiResCAM("blocks.0", backprop="libra"), ORIGINAL),
    ],
    ids=["gradient", "input", "integrated", "smoothgrad", "hires_cam"],
)
def test_a_run_compares_the_map_with_captum_of_the_same_rule(method: Attribution, reference: str) -> None:
    run = lv.saliency(transformer(), images().float()[:1], target=2, method=method, iterations=20, captum="captum")
    assert verdicts(run) == [True]
    assert captum(run).maps[0].reference == reference


def test_from_the_command_line(lit_viz: Any, tmp_path: Path) -> None:
    image = next((PHOTOGRAPHS / "planted").glob("*.png"))
    words = ["--network", "zoo/planted_vit", "--method", "input_x_gradient", "--method.backprop", "libra"]
    lit_viz("saliency", str(image), *words, "--wandb", "disabled", "--out", str(tmp_path / "run"))
    (record,) = lv.resume(tmp_path / "run").records
    assert record["method"] == "input_x_gradient"
