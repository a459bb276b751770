from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lit_viz.networks import Network
from lit_viz.networks.fast.residual import residual_branches, scale_branches
from lit_viz.outputs import load_network
from tests.support.marks import slow
from tests.support.networks import Lockable, Residual, conv_net, merged, trained

LABELS = ["apple", "banana", "cherry", "date"]


class Sums(nn.Module):
    """Additions of every kind; only ``outer`` is a layer at the end of a branch that is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        names = ("deep", "other", "left", "right", "twice", "inner", "outer")
        self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        layers, x = self.layers, x.mean((2, 3))
        x = layers["other"](x)
        x = torch.tanh(layers["deep"](x)) * 0 + layers["deep"].weight.sum() + x  # a branch, but no layer ends it
        x = layers["left"](x) + layers["right"](x)  # neither was computed from the other
        x = layers["twice"](layers["twice"](x)) + x  # called twice
        y = layers["inner"](x)
        y += layers["outer"](y)  # in place
        return y + 1


def network_of(net: nn.Module) -> Network:
    return load_network(net, labels=LABELS, mean=[0.5] * 3, std=[0.25] * 3, size=16)


def images(size: int = 16) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def logits_and_gradient(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits, _ = network(x)
    return logits.detach(), torch.autograd.grad(logits[:, 1].sum(), x)[0]


def test_branches_are_added_to_their_own_input() -> None:
    net = Sums().eval()
    assert residual_branches(net, torch.rand(2, 4, 3, 3)) == ["layers.outer"]


@pytest.mark.parametrize(
    ("make", "count", "some"),
    [
        (lambda: torchvision.models.resnet18(weights=None), 5, "layer1.0.bn2"),
        (lambda: torchvision.models.mobilenet_v2(weights=None), 10, "features.3.conv"),
        (lambda: timm.create_model("tf_efficientnet_lite0"), 9, "blocks.1.1.drop_path"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), 24, "blocks.3.drop_path2"),
        slow(lambda: torchvision.models.vgg11(weights=None), 0, None),
        (lambda: torchvision.models.squeezenet1_1(weights=None), 0, None),
    ],
    ids=["resnet18", "mobilenet_v2", "lite0", "vit", "vgg11", "squeezenet"],
)
def test_the_branches_of_published_networks(make: Any, count: int, some: str | None) -> None:
    net = make().eval().requires_grad_(False)
    size = 224 if some and "drop_path2" in some else 64
    found = residual_branches(net, torch.rand(1, 3, size, size))
    assert len(found) == count
    assert some is None or some in found


def test_scaled_branches_equal_a_detached_reference() -> None:
    """Against the same network with the rest of the branch taken out of the graph."""
    net = trained(Residual()).double()
    x = images().double()
    scale_branches(net, residual_branches(net, x), 0.3)

    class Written(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            out = 0.3 * out + 0.7 * out.detach() + x
            return self.fc(torch.relu(out).mean((2, 3)))

    written = trained(Written()).double()
    written.load_state_dict(net.state_dict())
    scaled_results, expected = (logits_and_gradient(lambda x, net=net: (net(x), {}), x) for net in (net, written))
    assert torch.allclose(scaled_results[0], expected[0], rtol=0, atol=1e-12)
    assert torch.allclose(scaled_results[1], expected[1], rtol=0, atol=1e-12)


def test_the_fast_copy_scales_branches_and_keeps_its_logits() -> None:
    net = trained(Residual())
    network = network_of(net)
    plain, damped = network.fast(), network.fast(residual_gradient=0.3)
    assert merged(damped, net)[0] == merged(plain, net)[0] == 2
    expected = trained(Residual()).double()
    expected.load_state_dict({name: value.double() for name, value in net.state_dict().items()})
    scale_branches(expected, ["bn2"], 0.3)
    logits, gradient = logits_and_gradient(damped, images())
    assert torch.equal(logits, logits_and_gradient(plain, images())[0])
    _, exact = logits_and_gradient(lambda x: (expected((x - 0.5) / 0.25), {}), images().double())
    assert torch.allclose(gradient.double(), exact, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(gradient, logits_and_gradient(plain, images())[1], rtol=0.01)
    assert network.fast() is plain
    assert network.notes == ()


@pytest.mark.parametrize(
    ("net", "why"),
    [(conv_net(classes=4), "has no residual branches"), (Lockable(conv_net(classes=4)), "is used as it is")],
)
def test_a_note_reports_that_no_branch_is_scaled(net: nn.Module, why: str) -> None:
    network = network_of(net.eval())
    network.fast(residual_gradient=0.5)
    assert why in network.notes[-1]
    assert network.notes[-1].endswith("residual_gradient has no effect")
