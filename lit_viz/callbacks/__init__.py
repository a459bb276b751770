"""Lightning callbacks: image logging, run folder, checkpoint, progress, and probes of a network in training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_viz.callbacks.logging import ImageLogger
    from lit_viz.callbacks.probes import ClassVisualizationProbe, RobustnessProbe, SaliencyProbe
    from lit_viz.callbacks.saving import ExactCheckpoint, RunFolder

# Modules of the public callbacks; imported on first use, as in lit_viz itself.
_MODULES = {
    "ClassVisualizationProbe": "probes",
    "ExactCheckpoint": "saving",
    "ImageLogger": "logging",
    "RobustnessProbe": "probes",
    "RunFolder": "saving",
    "SaliencyProbe": "probes",
}

__all__ = [
    "ClassVisualizationProbe",
    "ExactCheckpoint",
    "ImageLogger",
    "RobustnessProbe",
    "RunFolder",
    "SaliencyProbe",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
