"""Networks that read text from frames, and pictures that they read."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import lit_viz as lv

#: Shades of a blank and of the letters ``abc``.
SHADES = (1.0, 0.0, 0.35, 0.7)
ALPHABET = "abc"
HEIGHT, WIDTH, FRAME = 8, 40, 8


class ShadeReader(nn.Module):
    """Read the shade of each frame of 8 columns: logits ``(N, 5, 4)`` of a blank and the letters ``abc``."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d((HEIGHT, FRAME))
        self.shades = nn.Parameter(torch.tensor(SHADES))

    def forward(self, x: Tensor) -> Tensor:
        shades = self.mean(x.mean(1, keepdim=True))[:, 0, 0]
        return -60 * (shades[:, :, None] - self.shades) ** 2


def shade_reader() -> nn.Module:
    return ShadeReader().eval()


def picture(text: str) -> Tensor:
    """Return an image ``(1, 3, 8, 40)`` of a text of at most five letters, with spaces for blanks, on the 8-bit
    lattice."""
    frames = [SHADES[1 + ALPHABET.index(letter)] if letter != " " else 1.0 for letter in text.ljust(WIDTH // FRAME)]
    columns = torch.tensor(frames).repeat_interleave(FRAME)
    return (columns.expand(1, 3, HEIGHT, WIDTH) * 255).round() / 255


def letter_columns(net: lv.Network, drawn: Image.Image, word: str) -> list[Tensor]:
    """Return the sums over rows ``(W,)`` of the gradient map of each letter, of a picture that is read as the word."""
    run = lv.saliency(net, drawn, vary={"target": list(net.labels)}, method="gradient", captum="none")
    for record in run.records:
        assert (record.text, record.text_agrees) == (word, True)
    return [torch.as_tensor(saliency).sum(0) for saliency in run.maps]


def attacked_file(net: lv.Network, drawn: Image.Image, word: str, target: str, out: Path) -> Path:
    """Return the saved file of a picture that is read as the word, and after an attack at 16/255 as the target."""
    run = lv.attack(net, drawn, target=target, attack="pgd", eps="16/255", iterations=60, out=out, logger=None)
    (record,) = run.records
    assert (record.text_before, record.text, record.text_agrees, record.success_file) == (word, target, True, True)
    assert lv.check(out, net)
    return out / str(record.file)
