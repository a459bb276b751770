"""Network and commands of the campaign."""

from __future__ import annotations

import torch
from torch import nn

PHOTOGRAPHS = [
    "packaged:chelsea",
    "packaged:coffee",
    "packaged:rocket",
    "packaged:astronaut",
    "packaged:motorcycle_left",
]
#: In place of the path of an image of several tiles.
LARGE = "large"
ATTACK = ["attack", *PHOTOGRAPHS, "--target", "3", "--iterations", "40"]
SALIENCY = ["saliency", *PHOTOGRAPHS, "--iterations", "48", "--captum", "none"]
TILES = [LARGE, "--tile", "network"]
CASES = {
    "adam": ["visualize", "0", "1", "2", "3", "4", "--iterations", "20", "--log-at", "every:10"],
    "normalized_ascent": [*ATTACK, "--attack", "normalized_ascent"],
    "apgd": [*ATTACK, "--attack", "apgd", "--eps", "1/255"],
    "ddn": [*ATTACK, "--attack", "ddn"],
    "square": [*ATTACK, "--attack", "square", "--eps", "2/255"],
    "smoothgrad": [*SALIENCY, "--method", "smoothgrad"],
    "rise": [*SALIENCY, "--method", "rise"],
    "extremal_perturbation": [*SALIENCY, "--method", "extremal_perturbation"],
    "tar": [*SALIENCY, "--method", "smoothgrad", "--store", "tar"],
    "tar_of_attacks": [*ATTACK, "--attack", "ddn", "--store", "tar"],
    "merged": [*ATTACK, "--attack", "apgd", "--eps", "1/255"],
    "merged_tars": [*SALIENCY, "--method", "smoothgrad", "--store", "tar"],
    "tiles": ["saliency", *TILES, "--method", "smoothgrad", "--iterations", "24", "--captum", "none"],
    "tiles_of_attacks": ["attack", *TILES, "--target", "3", "--iterations", "20", "--attack", "pgd", "--eps", "8/255"],
}
NETWORK_OPTIONS = [
    "--network.weights", "none", "--network.size", "32", "--network.mean", "[0.5,0.5,0.5]",
    "--network.std", "[0.25,0.25,0.25]",
]  # fmt: skip
COMMON = [
    "--network", "scripts.soaks.material:network", *NETWORK_OPTIONS, "--checkpoint-every", "5",
    "--trainer.accelerator", "cpu",
]  # fmt: skip
OFFLINE = ["--wandb", "disabled"]


class Raising(nn.Sequential):
    """A network that raises on white images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x.amin((1, 2, 3)) > 1.9).any()):  # normalized by mean 0.5 and standard deviation 0.25
            raise ValueError("a white image")
        logits: torch.Tensor = super().forward(x)
        return logits


def raising_network() -> nn.Module:
    """Return the small network, which raises on white images."""
    return Raising(*network()).eval()


def other_network() -> nn.Module:
    """Return a network of the same layers with other weights."""
    return network(seed=1)


def network(seed: int = 0) -> nn.Sequential:
    """Return a small network with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(12, 5)
        head.weight.data.mul_(8)
        layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.Softplus(), nn.Conv2d(8, 12, 3, 2, 1), nn.Tanh())
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
