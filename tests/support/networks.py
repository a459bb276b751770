"""Small networks of the kinds that users bring."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.networks.fast.convolution import FastConvolution
from lit_viz.networks.fast.folding import FrozenBatchNorm
from lit_viz.outputs import load_network

NAMES = ["apple", "banana", "cherry", "date", "elder"]

Net = TypeVar("Net", bound=nn.Module)


def merged(frozen: nn.Module, original: nn.Module) -> tuple[int, int]:
    """Return how many batch norms and activations of a network are merged into convolutions of its fast copy."""
    kept, norms = (
        sum(isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm)) for module in network.modules())
        for network in (frozen, original)
    )
    fused = sum(isinstance(m, FastConvolution) and m.activation is not None for m in frozen.modules())
    return norms - kept, fused


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """Return a module as TorchScript, which later versions of torch warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: torch.jit.ScriptModule = torch.jit.script(module)
    return made


def conv_net(channels: int = 3, classes: int = 5) -> nn.Sequential:
    """Two convolutions with batch norm, whose statistics are not the initial ones, and both activations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, stride=2, groups=4),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        return trained(net)


def trained(net: Net) -> Net:
    """Give the batch norms the statistics and scales of trained ones, and return the network in eval mode."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.01, 2.0)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 3.0)
                nn.init.uniform_(norm.bias, -1.0, 1.0)
    return net.eval()


class Residual(nn.Module):
    """As ResNet: one ReLU called in two places, and an addition in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.fc(self.relu(out).mean((2, 3)))


class Answering(nn.Module):
    """Returns its logits in one of the ways that networks do."""

    def __init__(self, way: str, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Any:
        z = self.fc(self.conv(x).mean((2, 3)))
        ways = {
            "tensor": z,
            "tuple": (z, x),
            "list": [z],
            "object": SimpleNamespace(logits=z),
            "dict": {"loss": None, "logits": z},
            "flat": z[:, 0],
            "softmax": z.softmax(1),
            "log-softmax": z.log_softmax(1),
            "none": None,
            "integers": z.argmax(1),
            "map": z[:, :, None, None],
            "other dict": {"out": z},
            "one row": z[:1],
        }
        return ways[self.way]


class Lockable(nn.Module):
    """Can't be deep-copied, as modules that hold a lock or a stored activation."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        self.last = y * 1
        return y

    def __deepcopy__(self, memo: Any) -> Lockable:
        raise TypeError("cannot pickle '_thread.lock' object")


class Storing(nn.Module):
    """Stores its last output, so it can't be deep-copied after a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.net(x)
        return self.last


class Attending(nn.Module):
    """A vision transformer of two blocks: ``prefix`` tokens without a place, patches of 4 pixels, 5 classes.

    The head reads the first token, the mean of the patches (``pool="mean"``), or two heads read the first two tokens.
    """

    def __init__(
        self, size: tuple[int, int] = (16, 24), prefix: int = 1, pool: str = "first", fused: bool = True
    ) -> None:
        super().__init__()
        self.pool, tokens = pool, prefix + size[0] * size[1] // 16
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.embed = nn.Conv2d(3, 8, 4, 4)
            self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
            self.position = nn.Parameter(torch.randn(1, tokens, 8) / 2)
            self.blocks = nn.Sequential(AttendingBlock(fused), AttendingBlock(fused))
            self.norm, self.head, self.head_dist = nn.LayerNorm(8), nn.Linear(8, 5), nn.Linear(8, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), patches], 1) + self.position
        tokens = self.norm(self.blocks(tokens))
        if self.pool == "distilled":
            return (self.head(tokens[:, 0]) + self.head_dist(tokens[:, 1])) / 2
        return self.head(tokens[:, 0] if self.pool == "first" else tokens[:, self.prefix.shape[1] :].mean(1))


class AttendingBlock(nn.Module):
    """Pre-norm attention of two heads, fused or not, and a perceptron."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.attention, self.norm1, self.norm2 = SelfAttention(fused), nn.LayerNorm(8), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.qkv, self.out = fused, nn.Linear(8, 24), nn.Linear(8, 8)
        nn.init.normal_(self.qkv.weight, std=0.8)  # that attention is not nearly uniform

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(2, 3) / 2).softmax(dim=-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


def rectified(kind: type[nn.Module] = nn.ReLU) -> Network:
    """Return a network with in-place rectifiers and batch norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), kind(inplace=True),
            nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), kind(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        ).eval()  # fmt: skip
    return load_network(
        network, labels=["apple", "banana", "cherry", "date", "elder"], mean=[0.4] * 3, std=[0.2] * 3, size=16
    )


class Smooth(nn.Module):
    """A convolutional network without kinks, so that close inputs stay close."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Softplus(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh()
        )
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def smooth_network(channels: int = 3, classes: int = 5) -> Smooth:
    """Return the network with weights that depend on nothing else, leaving the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Smooth(channels, classes).eval()
        network.features[1].running_mean.uniform_(-0.1, 0.1)
        network.head.weight.data.mul_(8)
    return network


class Around(nn.Module):
    """A network around another one: ``forward(network, x)`` is its forward."""

    def __init__(self, network: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self._forward_around = network, forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_around(self.net, x)


def vit_network(**options: Any) -> nn.Module:
    """A ViT of 4 x 4 patches, a class token and 24 features, as timm makes it."""
    import timm

    given = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", **given)


def only_on_the_first() -> Any:
    """Return a network on rank 0; raise on the others."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        raise LitVizError("there is no network for the other processes.")
    return smooth_network()


class Viewed(nn.Module):
    """The network of PyTorch's CIFAR-10 tutorial, smaller: ``view`` fails with channels-last activations.

    With ``flattens`` it computes the same by a function that accepts every layout.
    """

    def __init__(self, flattens: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
            self.norm = nn.BatchNorm2d(8)
            self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
            self.pool1, self.pool2 = nn.MaxPool2d(2, 2), nn.MaxPool2d(2, 2)
            self.fc1, self.fc2 = nn.Linear(8 * 2 * 2, 10), nn.Linear(10, 5)
            trained(self)
        self.flattens = flattens

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.norm(self.conv2(x))))
        x = x.flatten(1) if self.flattens else x.view(-1, 8 * 2 * 2)
        y: Tensor = self.fc2(self.relu3(self.fc1(x)))
        return y
