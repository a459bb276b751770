"""Channels that no photograph activates: against plain networks with known silent channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_viz.outputs import load_network
from lit_viz.units.silence import Silence

SIDE = 12


def network() -> nn.Sequential:
    """Return a network whose channel 3 of the first layer is zero for gray images, and active for colored ones."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 5, 3, padding=1)
    with torch.no_grad():
        first.weight[3] = 0.0
        first.weight[3, :2, 1, 1] = torch.tensor([4.0, -4.0])  # red without green
        first.bias[3] = 0.0
        first.bias[:3] += 0.3
    layers = [first, nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3)).eval()


def gray(count: int) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE).expand(-1, 3, -1, -1).contiguous()


def test_silent_channels_are_held_at_their_value() -> None:
    module = network()
    silence = Silence(load_network(module, size=SIDE, mean=0.0, std=1.0), ["2"])
    for _ in range(3):
        photographs = gray(16)
        read = silence.activations(photographs, ["2"])["2"]
        with torch.no_grad():
            assert torch.allclose(read, module[:3](photographs), atol=1e-5)
    images = torch.rand(20, 3, SIDE, SIDE)
    with torch.no_grad():
        hidden = module[:2](images)
        plain = module[2](hidden)
        hidden[:, 3] = 0
        expected = module[2](hidden)
    assert (plain - expected).abs().max() > 0.05
    assert torch.allclose(silence.held(images, "2"), expected, atol=1e-5)


def test_the_layer_itself_is_not_held() -> None:
    silence = Silence(load_network(network(), size=SIDE, mean=0.0, std=1.0), ["1"])
    silence.activations(gray(4), ["1"])
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.allclose(silence.held(images, "1"), network()[:2](images), atol=1e-5)


class Shared(nn.Module):
    """Two layers that share a rectifier, and differ in width."""

    def __init__(self) -> None:
        super().__init__()
        plain = network()
        self.first, self.second, self.relu = plain[0], plain[2], nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.second(self.relu(self.first(x))))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


@pytest.mark.parametrize("is_colored", [False, True])
def test_calls_of_a_shared_rectifier_are_kept_apart(is_colored: bool) -> None:
    module = Shared().eval()
    silence = Silence(load_network(module, size=SIDE, mean=0.0, std=1.0), ["second"])
    photographs = torch.rand(16, 3, SIDE, SIDE) if is_colored else gray(16)
    silence.activations(photographs, ["second"])
    images = torch.rand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        hidden = module.first(images).relu()
        if not is_colored:
            hidden[:, 3] = 0
        expected = module.second(hidden)
    assert torch.allclose(silence.held(images, "second"), expected, atol=1e-5)
