from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_viz.networks.fast.folding import Link, links


class Wired(nn.Module):
    """One way in which a convolution's output can reach (or miss) a batch norm."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.other = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.way == "twice":
            y = self.conv(y)
        if self.way == "changed in place":
            y += 1
        if self.way == "copied":
            y = y.clone()
        if self.way == "shape read":
            assert y.shape[1] == 3
            assert y.dim() == 4
        z: Tensor = self.norm(self.other(y))
        if self.way == "used elsewhere":
            z = z + y
        if self.way == "used before":
            z = z * torch.relu(self.conv.weight.mean() + y.mean())
        return z


def found(way: str) -> list[Link]:
    net = Wired(way).eval()
    pairs, _ = links(
        net, torch.rand(1, 3, 4, 4), lambda m: isinstance(m, nn.Conv2d), lambda m: isinstance(m, nn.BatchNorm2d)
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    return pairs


def test_links_pass_identities_and_reads_of_the_shape() -> None:
    assert found("plain") == found("shape read") == [Link("conv", "norm")]


def test_no_link_where_the_output_is_changed_or_used_elsewhere() -> None:
    for way in ("twice", "changed in place", "copied", "used elsewhere", "used before"):
        assert found(way) == [], way
