from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.networks import FrozenNetwork, Network
from lit_viz.networks.fast.chunking import Chunked, set_chunk_bytes
from lit_viz.networks.fast.kernels import kernels_available
from lit_viz.networks.layers import statistics_of
from lit_viz.outputs import load_network

pytestmark = pytest.mark.skipif(not kernels_available(), reason="this build of torch has no fused kernel")


class Bottleneck(nn.Module):
    """Wide inside; ``defect`` is done to what comes in first."""

    def __init__(self, defect: str = "") -> None:
        super().__init__()
        self.defect = defect
        self.expand, self.relu, self.project = nn.Conv2d(4, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.defect == "mixes rows":
            x = x - x.mean(0)
        if self.defect == "in place":
            x += 1
        return x + self.project(self.relu(self.expand(x)))


def network(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), block, nn.Conv2d(4, 4, 3), *head).eval()


def chunks(frozen: nn.Module) -> list[str]:
    return [name for name, module in frozen.named_modules() if isinstance(module, Chunked)]


def results(frozen: FrozenNetwork, x: Tensor, layers: tuple[str, ...] = ()) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    logits, read = frozen(x, layers)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum() + sum(y.square().sum() for y in read.values()), x)
    return logits.detach(), gradient, *read.values()


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("images", [1, 2, 4])
def test_chunks_do_not_change_results(batch: int, images: int) -> None:
    frozen = load_network(network(Bottleneck()), size=32).fast()
    x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    set_chunk_bytes(frozen, float("inf"))
    whole = results(frozen, x, ("1",))
    set_chunk_bytes(frozen, images * 64 * 30 * 30 * 4)
    sizes: list[int] = []
    frozen.get_submodule("_own.1.relu").register_forward_hook(lambda module, args, y: sizes.append(len(y)))
    for value, expected in zip(results(frozen, x, ("1",)), whole, strict=True):
        assert torch.equal(value, expected)
    split = [images] * (batch // images) + [batch % images] * (batch % images > 0)
    assert sizes == (split if batch >= 2 * images else [batch])


@pytest.mark.slow
def test_only_wide_layers_are_chunked() -> None:
    lite0 = timm.create_model("efficientnet_lite0", pretrained=False).eval()
    found = chunks(load_network(lite0, size=224).fast())
    assert [name.removeprefix("_own.") for name in found[:3]] == ["blocks.1.0", "blocks.1.1", "blocks.2.0"]
    resnet = torchvision.models.resnet18().eval()
    assert chunks(load_network(resnet, size=224).fast()) == []


def test_small_batches_and_other_devices_dtypes_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = load_network(network(Bottleneck()), size=32).fast()
    assert len(chunks(frozen)) == 1
    monkeypatch.setattr(torch, "split", lambda *_: pytest.fail("was split"))
    frozen(torch.rand(16, 3, 32, 32))  # 3.7 million bytes
    assert chunks(load_network(network(Bottleneck()), size=32).fast(dtype=torch.float64)) == []


def test_empty_batches_are_accepted() -> None:  # as of a process that has none of the views
    frozen = load_network(network(Bottleneck()), size=32).fast()
    assert frozen(torch.rand(0, 3, 32, 32))[0].shape == (0, 3)
    set_chunk_bytes(frozen, 0)
    assert frozen(torch.rand(0, 3, 32, 32))[0].shape == (0, 3)


@pytest.mark.parametrize("defect", ["mixes rows", "in place"])
def test_layers_with_dependent_rows_are_not_chunked(defect: str) -> None:
    defective = network(Bottleneck(defect))  # the one that mixes rows would not be loaded
    frozen = Network("spoilt", defective, labels="abc", mean=[0.0] * 3, std=[1.0] * 3, size=(32, 32)).fast()
    assert chunks(frozen) == []
    assert isinstance(frozen.get_submodule("_own.1"), Bottleneck)


def test_layers_inside_of_chunks_are_read_for_all_images_or_rejected() -> None:
    classifier = load_network(network(Bottleneck()), size=32)
    x = torch.rand(5, 3, 32, 32)
    frozen = classifier.fast()
    set_chunk_bytes(frozen, 0)
    with pytest.raises(LitVizError, match=r"keep=\['1.project'\]"):
        frozen(x, ["1.project"])
    kept = classifier.fast(keep=["1.project"])
    assert chunks(kept) == []
    assert kept(x, ["1.project"])[1]["1.project"].shape[0] == 5
    around = classifier.fast(keep=["1"])
    assert chunks(around) == ["_own.1"]
    set_chunk_bytes(around, 0)
    assert around(x, [statistics_of("1")])[1][statistics_of("1")].shape[0] == 5


def test_scaled_branches_are_scaled_in_chunks() -> None:
    frozen = load_network(network(Bottleneck()), size=32).fast(residual_gradient=0.5)
    x = torch.rand(4, 3, 32, 32)
    set_chunk_bytes(frozen, float("inf"))
    whole = results(frozen, x)
    set_chunk_bytes(frozen, 0)
    assert all(map(torch.equal, results(frozen, x), whole))
    assert not torch.equal(whole[1], results(load_network(network(Bottleneck()), size=32).fast(), x)[1])


def test_a_copy_has_layers_of_its_own() -> None:
    own = load_network(network(Bottleneck()), size=32).fast().get_submodule("_own")
    copied, x = copy.deepcopy(own), torch.rand(2, 3, 32, 32)
    before = own(x)
    own.set_submodule("1.project", nn.Identity())
    own.set_submodule("1.expand", nn.Identity())
    assert torch.equal(copied(x), before)
    assert not torch.equal(own(x), before)


def test_layers_called_twice_or_with_other_arguments_are_chunked_with_their_parent() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.more = Bottleneck(), More()

        def forward(self, x: Tensor) -> Tensor:
            return self.more(self.twice(self.twice(x)), 2.0)

    class More(Bottleneck):
        def forward(self, x: Tensor, factor: float) -> Tensor:  # type: ignore[override]
            return super().forward(x * factor)

    assert chunks(load_network(network(Both()), size=32).fast()) == ["_own.1"]
