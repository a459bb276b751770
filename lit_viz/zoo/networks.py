"""Architectures of the zoo: convolutional networks and vision transformers for gray images of 28 x 28 pixels, and a
convolutional network for 13 bands of 32 x 32 pixels."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Side of the gray images in pixels.
SIDE = 28
#: Number of the bands of an image, and their side in pixels.
BANDS, BAND_SIDE = 13, 32


def fashion_cnn(classes: int = 10) -> nn.Sequential:
    """Build two strided convolutions and two linear layers, 348,000 parameters without normalization layers.

    The architecture is the small network of Wong and Kolter 2018 (arXiv:1711.00851) and of later studies of robustness,
    with doubled widths.
    """
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 32, 4, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 64, 4, stride=2, padding=1),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(64 * (SIDE // 4) ** 2, 100),
        relu3=nn.ReLU(),
        head=nn.Linear(100, classes),
    )
    return nn.Sequential(layers)


def planted_cnn(classes: int = 8) -> nn.Sequential:
    """Build three convolutions and a maximum over positions, 24,000 parameters.

    A position of the last layer reads 11 x 11 pixels, enough for a glyph. The maximum makes all places equal and leaves
    out positions that see only a part of the glyph; a mean, which adds them up, depends on the surroundings (leak of
    0.16 after the same training).
    """
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 16, 5, padding=2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(32, 64, 3, padding=1),
        relu3=nn.ReLU(),
        pool=nn.MaxPool2d(SIDE // 2),
        flatten=nn.Flatten(),
        head=nn.Linear(64, classes),
    )
    return nn.Sequential(layers)


def planted_pairs_cnn(classes: int = 3) -> nn.Sequential:
    """Build :func:`planted_cnn` with a hidden layer of 32 units: relations of two glyphs are no sum of their parts."""
    layers = OrderedDict(planted_cnn(32).named_children())
    layers["hidden"] = layers.pop("head")
    layers["relu4"] = nn.ReLU()
    layers["head"] = nn.Linear(32, classes)
    return nn.Sequential(layers)


def planted_bands_cnn(classes: int = 8, bands: int = BANDS) -> nn.Sequential:
    """Build three convolutions with filters shared over bands and a maximum over positions and bands.

    The filters have a depth of one band, so that their number does not depend on that of the bands. A position of the
    last layer reads 13 x 13 pixels of a band.
    """
    layers = OrderedDict(
        depth=nn.Unflatten(1, (1, bands)),
        conv1=nn.Conv3d(1, 12, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2)),
        relu1=nn.ReLU(),
        conv2=nn.Conv3d(12, 24, (1, 3, 3), padding=(0, 1, 1)),
        relu2=nn.ReLU(),
        conv3=nn.Conv3d(24, 40, (1, 3, 3), padding=(0, 1, 1)),
        relu3=nn.ReLU(),
        pool=nn.MaxPool3d((bands, BAND_SIDE // 2, BAND_SIDE // 2)),
        flatten=nn.Flatten(),
        head=nn.Linear(40, classes),
    )
    return nn.Sequential(layers)


class VisionTransformer(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with the layers and parameter names of timm.

    Args:
        classes: number of logits.
        width: of the tokens.
        depth: number of blocks.
        heads: of the attention.
        hidden: width of the perceptrons.
        patch: step between the patches in pixels.
        field: side of a patch, by default the step; larger patches overlap.
        class_token: whether the head reads a class token; otherwise it reads the mean of the patches.
    """

    def __init__(
        self,
        classes: int = 10,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 128,
        patch: int = 4,
        field: int | None = None,
        class_token: bool = True,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(width, patch, field or patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        tokens = (SIDE // patch) ** 2 + int(class_token)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*[TransformerBlock(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, classes)`` of normalized images ``(N, 1, 28, 28)``."""
        tokens: Tensor = self.patch_embed(x)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        pooled = tokens.mean(1) if self.cls_token is None else tokens[:, 0]
        logits: Tensor = self.head(pooled)
        return logits


class PatchEmbedding(nn.Module):
    """Linear map of each patch to a token.

    Args:
        width: of the tokens.
        patch: step between the patches in pixels.
        field: side of a patch in pixels, the step plus an even number.
    """

    def __init__(self, width: int, patch: int, field: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, field, stride=patch, padding=(field - patch) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens ``(N, T, width)`` of images in reading order."""
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class TransformerBlock(nn.Module):
    """Self-attention and a perceptron, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens ``(N, T, width)`` of the next block."""
        tokens = tokens + self.attn(self.norm1(tokens))
        added: Tensor = self.mlp(self.norm2(tokens))
        return tokens + added


class Attention(nn.Module):
    """Self-attention of several heads between all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mixed tokens ``(N, T, width)``."""
        count, length, width = tokens.shape
        parts = self.qkv(tokens).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, width))
        return projected


class Perceptron(nn.Module):
    """Two linear layers with GELU between them, for each token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens ``(N, T, width)``."""
        hidden = self.act(self.fc1(tokens))
        projected: Tensor = self.fc2(hidden)
        return projected
