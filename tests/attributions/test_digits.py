"""Saliency of a small vision transformer that is trained on digits, each away from the centre of a larger canvas."""

from __future__ import annotations

import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.attributions.base import attribute
from lit_viz.networks import Network
from lit_viz.outputs import load_network

SIDE, DIGIT = 24, 8
CORNERS = [(r, c) for r in range(0, 17, 4) for c in range(0, 17, 4) if not (r in (8, 12) and c in (8, 12))]


def placed(digits: Tensor, seed: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return canvases ``(N, 1, 24, 24)`` and the corners of the digits; none covers the centre."""
    drawn = torch.randint(len(CORNERS), (len(digits),), generator=torch.Generator().manual_seed(seed)).tolist()
    canvases = torch.zeros(len(digits), 1, SIDE, SIDE)
    for canvas, digit, n in zip(canvases, digits, drawn, strict=True):
        row, column = CORNERS[n]
        canvas[0, row : row + DIGIT, column : column + DIGIT] = digit
    return canvases, [CORNERS[n] for n in drawn]


def trained_transformer(digits: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"img_size": SIDE, "patch_size": 4, "in_chans": 1, "embed_dim": 32, "depth": 3, "num_heads": 4}
        net = timm.models.VisionTransformer(num_classes=10, **sizes)
        optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for epoch in range(epochs):
            x = placed(digits, epoch)[0]
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net((x[rows] - 0.5) / 0.5), labels[rows]).backward()
                optimizer.step()
            schedule.step()
    return net.eval()


@pytest.fixture(scope="module")
def data() -> tuple[Network, Tensor, list[tuple[int, int]], Tensor]:
    digits, labels = load_digits(return_X_y=True)
    digits, labels = torch.tensor(digits).float().view(-1, DIGIT, DIGIT) / 16, torch.tensor(labels)
    net = trained_transformer(digits[:1500], labels[:1500], 20)
    network = load_network(net, size=SIDE, mean=0.5, std=0.5, labels=list("0123456789"))
    x, corners = placed(digits[1500:1600], 99)
    assert (network.scores(x).argmax(1) == labels[1500:1600]).float().mean() > 0.8
    return network, x, corners, labels[1500:1600]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention_rollout", "attention_gradient", "legrad", "grad_cam", "layer_cam"])
def test_the_maximum_is_on_the_digit(name: str, data: tuple[Network, Tensor, list[tuple[int, int]], Tensor]) -> None:
    """The pointing game; the centre of the canvas is on no digit, and a random pixel on one in nine."""
    network, x, corners, labels = data
    method = ATTRIBUTIONS[name]()
    method.bind(network)
    maps, _ = attribute(method, network.fast(method.layers), x, labels)
    places = maps.flatten(1).argmax(1).tolist()
    rows, columns = [place // SIDE for place in places], [place % SIDE for place in places]
    hits = [
        0 <= row - top < DIGIT and 0 <= column - left < DIGIT
        for row, column, (top, left) in zip(rows, columns, corners, strict=True)
    ]
    assert sum(hits) / len(hits) > 0.75
