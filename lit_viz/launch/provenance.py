"""Records of ``config.yaml`` of a run in addition to its form: versions, and the identity of the network."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

import torch

from lit_viz._version import __version__
from lit_viz.engine.module import ImageTraining
from lit_viz.methods.photographs import AttackTraining
from lit_viz.networks import Network
from lit_viz.presentations import recorded_method
from lit_viz.utils.files import FORMAT

#: Packages whose versions are recorded.
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "captum", "timm", "wandb", "numpy")


def device_name(device: torch.device) -> str:
    """Return the name of a device on which a run starts: of a GPU, or ``cpu`` and its instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return str(device)


def provenance(method: type[ImageTraining], network: Network) -> dict[str, Any]:
    """Return format, method, versions, and the identity of the network."""
    recorded: dict[str, Any] = {"format": FORMAT, **recorded_method(method), "lit_viz": __version__}
    recorded["python"] = sys.version.split()[0]
    for package in _PACKAGES:
        recorded[package] = metadata.version(package)
    recorded |= network.identity()
    caption = scores_caption(method, network)
    if caption:
        recorded["scores"] = caption
    return recorded


def scores_caption(method: type[ImageTraining], network: Network) -> str:
    """Return what captions of a method state of the scores of a network; empty for the logits of exclusive classes."""
    output, rule = network.output, network.rule
    captions = [output.caption(rule)]
    if issubclass(method, AttackTraining):
        captions.append(output.caption_of_attacks(rule))
    return " ".join(filter(None, captions))
